//! Running pods that nobody had to make: lists in pages, as the API server writes them.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::json;

use crate::world;

/// Where a pod's own texts go. None stands in any of them.
const PLACES: [&str; 6] = ["@name@", "@namespace@", "@uid@", "@image@", "@running@", "@node@"];
/// Nodes.
const NODES: usize = 5_000;
/// A sidecar is the same in many pods.
const SIDECARS: usize = 20;

/// The pods.
pub struct Pods {
    count: usize,
    /// Of each image, what pods name and what nodes report.
    images: Vec<[String; 2]>,
    /// The pieces of a pod between its own texts, and which of these follows each.
    pieces: Vec<(String, Option<usize>)>,
    listed: AtomicBool,
}

impl Pods {
    /// So many pods that run so many known images, most of them by tag, and a sidecar each.
    pub fn new(count: usize, images: usize) -> Self {
        let image = |number: usize| {
            let (tag, digest) = (world::by_tag(number), world::by_digest(number));
            [if number.is_multiple_of(4) { digest.clone() } else { tag }, digest]
        };
        Self { count, images: (0..images).map(image).collect(), pieces: pieces(), listed: AtomicBool::new(false) }
    }

    /// Whether the last page has been asked for.
    pub fn are_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }

    /// A page that begins at a pod: the list, as JSON.
    pub fn page(&self, from: usize, limit: usize) -> String {
        let end = self.count.min(from.saturating_add(limit));
        let next =
            if end < self.count { format!(r#","continue":"{end}","remainingItemCount":{}"#, self.count - end) } else { String::new() };
        let mut page = format!(r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"1"{next}}},"items":["#);
        for number in from..end {
            if number > from {
                page.push(',');
            }
            self.write(&mut page, number);
        }
        page.push_str("]}");
        if end == self.count {
            self.listed.store(true, Ordering::Relaxed);
        }
        page
    }

    fn write(&self, page: &mut String, number: usize) {
        let [image, running] = &self.images[number % self.images.len()];
        for (piece, place) in &self.pieces {
            page.push_str(piece);
            match place.map(|place| PLACES[place]) {
                None => {}
                Some("@name@") => write!(page, "application-{}-{number:05x}", number % self.images.len()).unwrap(),
                Some("@namespace@") => write!(page, "team-{}", number % world::NAMESPACES).unwrap(),
                Some("@uid@") => write!(page, "00000000-0000-4000-8000-{number:012x}").unwrap(),
                Some("@image@") => page.push_str(image),
                Some("@running@") => page.push_str(running),
                Some(_) => write!(page, "node-{}", number % NODES).unwrap(),
            }
        }
    }
}

/// A pod as a cluster has it: what people, controllers and the kubelet have written, about 6 KB.
fn pieces() -> Vec<(String, Option<usize>)> {
    let sidecar = world::by_digest(7 % SIDECARS);
    let time = "2026-11-01T08:00:00Z";
    let container = |name: &str, image: &str| {
        json!({
            "name": name, "image": image, "imagePullPolicy": "IfNotPresent",
            "args": ["--config=/etc/application/config.yaml", "--log-format=json"],
            "ports": [{ "name": "https", "containerPort": 8443, "protocol": "TCP" }],
            "env": (0..6).map(|at| json!({ "name": format!("SETTING_{at}"), "value": format!("https://service-{at}.svc.cluster.local:8443/v1") })).collect::<Vec<_>>(),
            "resources": { "limits": { "cpu": "1", "memory": "512Mi" }, "requests": { "cpu": "100m", "memory": "256Mi" } },
            "livenessProbe": { "httpGet": { "path": "/livez", "port": 8080, "scheme": "HTTP" }, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3 },
            "volumeMounts": [{ "name": "kube-api-access-x2x4z", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        })
    };
    let status = |name: &str, image: &str, running: &str| {
        json!({
            "name": name, "image": image, "imageID": running, "containerID": "containerd://4f5c6d7e8f901a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70819203",
            "ready": true, "started": true, "restartCount": 0, "lastState": {}, "state": { "running": { "startedAt": time } },
        })
    };
    let owned = |manager: &str, part: &str, name: &str| {
        let fields = json!({ ".": {}, "f:args": {}, "f:env": { ".": {}, "k:{\"name\":\"SETTING_0\"}": { ".": {}, "f:name": {}, "f:value": {} } }, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:ports": {}, "f:resources": {}, "f:terminationMessagePath": {} });
        json!({ "manager": manager, "operation": "Update", "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1",
            "fieldsV1": { part: { "f:containers": { name: fields }, "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {} } } })
    };
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let condition = |kind: &str| json!({ "type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": time });
    let conditions = conditions.map(condition);
    let pod = json!({
        "metadata": {
            "name": "@name@", "namespace": "@namespace@", "uid": "@uid@", "resourceVersion": "1", "creationTimestamp": time,
            "labels": { "app.kubernetes.io/name": "checkout", "app.kubernetes.io/part-of": "shop", "pod-template-hash": "6c8f9d7b5" },
            "annotations": { "prometheus.io/scrape": "true", "prometheus.io/port": "9090" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "checkout-6c8f9d7b5", "uid": "5ad3aa3e-3e3d-4e5e-b9ad-7a0d1c2f3b4a", "controller": true, "blockOwnerDeletion": true }],
            "managedFields": [owned("kube-controller-manager", "f:spec", "k:{\"name\":\"application\"}"), owned("kubelet", "f:status", "k:{\"type\":\"Ready\"}")],
        },
        "spec": {
            "containers": [container("application", "@image@"), container("proxy", &sidecar)],
            "volumes": [{ "name": "kube-api-access-x2x4z", "projected": { "defaultMode": 420, "sources": [{ "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } }, { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } }] } }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "serviceAccountName": "checkout", "serviceAccount": "checkout",
            "nodeName": "@node@", "securityContext": {}, "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
            "tolerations": [{ "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 }],
        },
        "status": {
            "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.1.0.1", "podIPs": [{ "ip": "10.1.0.1" }], "startTime": time, "qosClass": "Burstable",
            "conditions": conditions,
            "containerStatuses": [status("application", "@image@", "@running@"), status("proxy", &sidecar, &sidecar)],
        },
    });
    let text = pod.to_string();
    let (mut pieces, mut rest) = (Vec::new(), text.as_str());
    while let Some((at, place)) = PLACES.iter().enumerate().filter_map(|(place, name)| Some((rest.find(name)?, place))).min() {
        pieces.push((rest[..at].to_owned(), Some(place)));
        rest = &rest[at + PLACES[place].len()..];
    }
    pieces.push((rest.to_owned(), None));
    pieces
}
