//! A cluster's worth of policies, registries, image statuses and reviews. The same in each run.

use std::net::SocketAddr;

use bytes::Bytes;
use jiff::Timestamp;
use lazaretto::{
    api::{ImageStatus, QuarantinePolicy, Registry, Waiver},
    image::Digest,
    proof::PublicKey,
    watch::SharedIndex,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Bytes of a pod.
const POD_BYTES: usize = 12 << 10;
/// Reviews that differ in everything that is looked up.
const REVIEWS: usize = 512;
/// Registry objects.
pub const REGISTRIES: usize = 4;
/// Policies.
pub const POLICIES: usize = 20;
/// Waivers.
pub const WAIVERS: usize = 20;
/// Namespaces.
pub const NAMESPACES: usize = 200;

/// What is known, and what is asked.
pub struct World {
    /// What the watches would have brought.
    pub index: SharedIndex,
    /// AdmissionReviews as the API server sends them.
    pub reviews: Vec<Bytes>,
}

/// An object out of its JSON.
pub fn read<T: DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("an object of its kind")
}

fn host(number: usize) -> String {
    format!("registry-{}.corp", number % REGISTRIES)
}

/// Every host.
pub fn hosts() -> Vec<String> {
    (0..REGISTRIES).map(host).collect()
}

fn repository(number: usize) -> String {
    format!("team-{}/services/application-{number}", number % NAMESPACES)
}

/// The one manifest that a repository has.
pub fn manifest_of(repository: &str) -> String {
    let config = Digest::of(repository.as_bytes());
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": 2 },
    })
    .to_string()
}

/// Its digest.
pub fn digest_of(repository: &str) -> Digest {
    Digest::of(manifest_of(repository).as_bytes())
}

/// A known image by digest. Its registry is this number's, modulo [`REGISTRIES`].
pub fn by_digest(number: usize) -> String {
    format!("{}/{}@{}", host(number), repository(number), digest_of(&repository(number)))
}

/// The same by tag.
pub fn by_tag(number: usize) -> String {
    format!("{}/{}:{}", host(number), repository(number), tag(number))
}

fn tag(number: usize) -> String {
    format!("1.{}.0", number % 100)
}

/// An image that nobody has seen, by tag, at one of the registries.
pub fn unknown(registry: usize, what: &str, number: usize) -> String {
    format!("{}/new/{what}-{number}:1", host(registry))
}

impl World {
    /// With this many ImageStatuses.
    pub fn new(statuses: usize) -> Self {
        Self::of(statuses, |_| {}, |_| {})
    }

    /// The same where every policy asks for signatures, an SBOM and a report, and every image has them.
    pub fn proven(statuses: usize) -> Self {
        Self::of(statuses, |policy| prove(policy, &["ecdsa-p256", "ed25519"]), |status| status["status"]["evidence"] = evidence())
    }

    fn of(statuses: usize, policies: impl Fn(&mut Value), images: impl Fn(&mut Value)) -> Self {
        let index = SharedIndex::default();
        name_rules_of(&index, policies);
        {
            let mut index = index.write();
            let now = Timestamp::now();
            for number in 0..statuses {
                let mut object = status(number, "Released");
                images(&mut object);
                assert!(index.apply_image(&read::<ImageStatus>(object), now));
            }
            assert_eq!(index.image_count(), statuses);
        }
        // A stride that visits all, so that neighbours in time are none in memory.
        let image = |number: usize| (number * 7_919 + 13) % statuses;
        let reviews = (0..REVIEWS).map(|number| {
            let images = [0, 1, 2].map(|nth| image(3 * number + nth));
            review(number, &[by_digest(images[0]), by_digest(images[1]), by_tag(images[2])])
        });
        Self { reviews: reviews.collect(), index }
    }

    /// Brings these Registry objects in.
    pub fn bring(&self, registries: Vec<Value>) {
        let mut index = self.index.write();
        for object in registries {
            assert!(index.apply_registry(&read::<Registry>(object)));
        }
        assert!(index.unreadable().is_empty(), "{:?}", index.unreadable());
    }

    /// Brings the Registry objects in: each is reached at the address that its number is given.
    pub fn name_registries(&self, endpoint: impl Fn(usize) -> SocketAddr) {
        name_registries(&self.index, endpoint);
    }
}

/// A key of the fixtures, in PEM.
fn key(kind: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/fixtures/proof/keys/{kind}.pub.pem", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Has a policy ask for everything that can be signed, by whoever has one of these keys.
pub fn prove(policy: &mut Value, kinds: &[&str]) {
    let authorities: Vec<Value> = kinds.iter().map(|kind| json!({ "name": kind, "publicKey": key(kind) })).collect();
    policy["spec"]["authorities"] = authorities.into();
    policy["spec"]["require"]["signatures"] = json!({});
    policy["spec"]["require"]["sbom"] = json!({});
    policy["spec"]["require"]["vulnerabilities"] = json!({ "maxSeverity": "Medium", "vexBy": [kinds[0]] });
}

/// What is signed about every image.
fn evidence() -> Value {
    let [first, second] = ["ecdsa-p256", "ed25519"].map(|kind| PublicKey::from_pem(&key(kind)).unwrap().fingerprint().clone());
    let digest = Digest::of(b"evidence").to_string();
    let item = |kind: &str| json!({ "kind": kind, "key": first.to_string(), "digest": digest });
    let (mut sbom, mut report) = (item("SBOM"), item("Vulnerabilities"));
    sbom["format"] = "CycloneDX".into();
    report["report"] = json!({
        "scanner": "pkg:github/aquasecurity/trivy", "finishedAt": "2026-11-01T08:00:00Z", "counts": { "low": { "all": 3 } },
        "named": ["CVE-2026-0001 Low", "CVE-2026-0002 Low", "CVE-2026-0003 Low"],
    });
    json!({
        "lookedAt": "2026-11-01T08:00:00Z", "lookedFor": [&first.hex()[..16], &second.hex()[..16]],
        "items": [item("Signature"), sbom, report],
    })
}

/// Brings in what people write, and the namespaces.
pub fn name_rules(index: &SharedIndex) {
    name_rules_of(index, |_| {});
}

fn name_rules_of(index: &SharedIndex, change: impl Fn(&mut Value)) {
    let mut index = index.write();
    for number in 0..NAMESPACES {
        index.apply_namespace(&format!("team-{number}"), read(labels(number)));
    }
    for number in 0..POLICIES {
        let mut policy = policy(number);
        change(&mut policy);
        assert!(index.apply_policy(&read::<QuarantinePolicy>(policy)));
    }
    for number in 0..WAIVERS {
        assert!(index.apply_waiver(&read::<Waiver>(waiver(number))));
    }
    assert!(index.unreadable().is_empty(), "{:?}", index.unreadable());
}

/// Brings in the Registry objects.
pub fn name_registries(index: &SharedIndex, endpoint: impl Fn(usize) -> SocketAddr) {
    let mut index = index.write();
    for number in 0..REGISTRIES {
        assert!(index.apply_registry(&read::<Registry>(registry(number, endpoint(number)))));
    }
    assert!(index.unreadable().is_empty(), "{:?}", index.unreadable());
}

/// The labels of a namespace.
pub fn labels(number: usize) -> Value {
    json!({ "kubernetes.io/metadata.name": format!("team-{number}"), "environment": "production", "team": format!("{number}") })
}

/// Each speaks of every pod of the reviews, and of each of its images.
pub fn policy(number: usize) -> Value {
    let other = |salt: &str| Digest::of(format!("{salt} {number}").as_bytes()).to_string();
    json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy",
        "metadata": { "name": format!("policy-{number:02}") },
        "spec": {
            "mode": "Enforce",
            "match": {
                "namespaceSelector": { "matchLabels": { "environment": "production" } },
                "images": (0..REGISTRIES).map(|registry| format!("{}/**", host(registry))).collect::<Vec<_>>(),
                "excludeImages": [format!("{}/platform/pause", host(number))],
            },
            "deny": [
                { "digest": other("denied"), "reason": "a CVE" },
                { "image": format!("{}/retired/**", host(number)), "reason": "retired" },
            ],
            "require": { "released": "Deny" },
            "whenUnknown": { "registryUnavailable": "Allow", "lastKnownGoodFor": "24h" },
        },
    })
}

/// Each waives a digest that no pod has.
pub fn waiver(number: usize) -> Value {
    json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Waiver",
        "metadata": { "name": format!("waiver-{number:02}") },
        "spec": {
            "requirements": ["Released"],
            "digests": [Digest::of(format!("waived {number}").as_bytes()).to_string()],
            "namespaces": [format!("team-{number}")],
            "reason": "an incident", "by": "admin", "expires": "2099-01-01T00:00:00Z",
        },
    })
}

/// Lazaretto keeps the flag of each, has adopted what ran before, and was there just now.
pub fn registry(number: usize, endpoint: SocketAddr) -> Value {
    json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry",
        "metadata": { "name": format!("registry-{number}") },
        "spec": {
            "hosts": [host(number)],
            "endpoint": format!("http://{endpoint}"),
            "plainHTTP": true,
            "credentials": { "secretName": "registries" },
            "quarantine": { "provider": "Managed", "processor": { "namespace": "scanner", "serviceAccount": "scanner" } },
            "limits": { "requestsPerSecond": 10_000, "concurrentRequests": 100, "timeoutSeconds": 5 },
        },
        "status": {
            "adoption": { "instant": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:01:00Z" },
            "lastCompletePass": Timestamp::now().to_string(),
        },
    })
}

/// The credentials for every registry, as people keep them.
pub fn secret() -> Value {
    let entries = (0..REGISTRIES).map(|number| (host(number), json!({ "username": "lazaretto", "password": "not a secret" })));
    let auths: serde_json::Map<String, Value> = entries.collect();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": { "name": "registries", "namespace": "lazaretto-system" },
        "data": { ".dockerconfigjson": base64(&json!({ "auths": auths }).to_string()) },
    })
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// What is written of an image, by digest and under its tag; 2 KB of it, most often.
pub fn status(number: usize, state: &str) -> Value {
    let repository = repository(number);
    let digest = digest_of(&repository);
    let child = |platform: &str| format!("{platform}={}", Digest::of(format!("{platform} {number}").as_bytes()));
    json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "ImageStatus",
        "metadata": { "name": format!("{}-{number}", &digest.hex()[..16]), "labels": { "lazaretto.dev/first-seen-in": format!("team-{}", number % NAMESPACES) } },
        "spec": { "subject": format!("{}/{repository}@{digest}", host(number)) },
        "status": {
            "state": state, "since": "2026-11-01T08:00:00Z", "by": "system:serviceaccount:scanner:scanner",
            "reason": "scan 4711 is clean", "details": "https://scanner.corp/reports/4711",
            "provider": "Managed", "observedAt": "2026-11-01T08:00:00Z",
            "children": [child("linux/amd64"), child("linux/arm64")],
            "tags": [{ "tag": tag(number), "at": "2026-11-01T08:00:00Z" }],
            "emittedThrough": 2,
            "history": [
                { "number": 1, "at": "2026-11-01T07:00:00Z", "state": "Quarantined", "by": "lazaretto", "reason": "first seen" },
                { "number": 2, "at": "2026-11-01T08:00:00Z", "state": state, "by": "scanner", "reason": "scan 4711 is clean" },
            ],
        },
    })
}

/// Reviews whose images are all one, which is put in last: to make a review takes milliseconds, and the load must not wait for that.
pub struct Template(String);

impl Template {
    const PLACE: &str = "registry-0.corp/place";

    /// The review of a pod with this number.
    pub fn new(number: usize) -> Self {
        let review = review(number, &[Self::PLACE; 3].map(str::to_owned));
        Self(String::from_utf8(review.to_vec()).expect("JSON"))
    }

    /// The same with an image.
    pub fn of(&self, image: &str) -> Bytes {
        self.0.replace(Self::PLACE, image).into()
    }
}

/// The review of a pod as a Deployment of some size makes it, with these images.
pub fn review(number: usize, images: &[String; 3]) -> Bytes {
    let namespace = format!("team-{}", number % NAMESPACES);
    let container = |name: &str, image: &str, variables: usize| {
        let environment: Vec<Value> = (0..variables)
            .map(|at| match at % 4 {
                0 => json!({ "name": format!("SETTING_{at}"), "valueFrom": { "configMapKeyRef": { "name": "settings", "key": format!("key-{at}") } } }),
                1 => json!({ "name": format!("SETTING_{at}"), "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } } }),
                _ => json!({ "name": format!("SETTING_{at}"), "value": format!("https://service-{at}.{namespace}.svc.cluster.local:8443/v1") }),
            })
            .collect();
        json!({
            "name": name, "image": image, "imagePullPolicy": "IfNotPresent",
            "command": ["/usr/local/bin/run"], "args": ["--config=/etc/application/config.yaml", "--log-format=json"],
            "ports": [{ "name": "https", "containerPort": 8443, "protocol": "TCP" }],
            "env": environment,
            "resources": { "limits": { "cpu": "1", "memory": "512Mi" }, "requests": { "cpu": "100m", "memory": "256Mi" } },
            "livenessProbe": { "httpGet": { "path": "/livez", "port": 8080, "scheme": "HTTP" }, "periodSeconds": 10, "failureThreshold": 3, "successThreshold": 1, "timeoutSeconds": 1 },
            "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true },
            "volumeMounts": [{ "name": "config", "mountPath": "/etc/application", "readOnly": true }, { "name": "kube-api-access-x2x4z", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true }],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        })
    };
    let pod = |variables: usize| {
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "generateName": format!("checkout-{number:x}-"), "namespace": namespace, "creationTimestamp": null,
                "labels": { "app.kubernetes.io/name": "checkout", "app.kubernetes.io/part-of": "shop", "pod-template-hash": format!("{number:x}"), "team": namespace },
                "annotations": { "prometheus.io/scrape": "true", "prometheus.io/port": "9090", "checksum/config": Digest::of(&number.to_le_bytes()).hex() },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("checkout-{number:x}"), "uid": "5ad3aa3e-3e3d-4e5e-b9ad-7a0d1c2f3b4a", "controller": true, "blockOwnerDeletion": true }],
                "managedFields": [{ "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": "2026-11-22T04:45:00Z", "fieldsType": "FieldsV1", "fieldsV1": { "f:metadata": { "f:annotations": {}, "f:generateName": {}, "f:labels": {}, "f:ownerReferences": {} }, "f:spec": { "f:containers": { "k:{\"name\":\"application\"}": { ".": {}, "f:env": {}, "f:image": {}, "f:name": {} } } } } }],
            },
            "spec": {
                "initContainers": [container("prepare", &images[0], 4)],
                "containers": [container("application", &images[1], variables), container("proxy", &images[2], 10)],
                "volumes": [
                    { "name": "config", "configMap": { "name": "settings", "defaultMode": 420 } },
                    { "name": "kube-api-access-x2x4z", "projected": { "defaultMode": 420, "sources": [{ "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } }, { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } }] } },
                ],
                "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
                "serviceAccountName": "checkout", "serviceAccount": "checkout", "schedulerName": "default-scheduler",
                "imagePullSecrets": [{ "name": "pull" }],
                "tolerations": [{ "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 }],
                "priority": 0, "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
            },
            "status": {},
        })
    };
    let variables = (0..POD_BYTES).find(|variables| pod(*variables).to_string().len() >= POD_BYTES).unwrap_or_default();
    let review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": format!("00000000-0000-4000-8000-{number:012x}"),
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "requestKind": { "group": "", "version": "v1", "kind": "Pod" },
            "requestResource": { "group": "", "version": "v1", "resource": "pods" },
            "namespace": namespace, "operation": "CREATE",
            "userInfo": { "username": "system:serviceaccount:kube-system:replicaset-controller", "uid": "0a1b2c3d", "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"] },
            "object": pod(variables), "oldObject": null, "dryRun": false,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    });
    review.to_string().into()
}
