//! What runs in the cluster: pods, as little of each as is needed, watched by the leader only.
//!
//! The type that is watched is our own and not k8s-openapi's Pod: 150,000 pods are planned for, and of each only names and images matter.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Resource, ResourceExt as _,
    api::ObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use parking_lot::RwLock;
use serde::Deserialize;
use tokio::sync::watch;

use super::Term;
use crate::image::{Digest, Reference, Subject};

/// A pod as the inventory reads it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RunningPod {
    /// Names and owners.
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    ephemeral_containers: Vec<Container>,
    volumes: Vec<Volume>,
    service_account_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Volume {
    image: Option<ImageVolume>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ImageVolume {
    reference: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    image: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
    ephemeral_container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    name: String,
    #[serde(rename = "imageID")]
    image_id: String,
}

impl Resource for RunningPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// One container of one pod that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Running {
    /// The container's name.
    pub container: Arc<str>,
    /// What the pod's spec names.
    pub image: Arc<str>,
    /// What the node reports; empty before it has pulled.
    pub image_id: Arc<str>,
}

/// One pod that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The account that it runs as.
    pub service_account: Arc<str>,
    /// When it was made, or when an image in it was last changed.
    pub since: Option<jiff::Timestamp>,
    /// Its containers.
    pub containers: Vec<Running>,
    /// The images of its image volumes. Nodes do not report what they are.
    pub volumes: Vec<Arc<str>>,
}

/// Pods by uid.
#[derive(Debug, Default)]
pub struct Inventory {
    pods: HashMap<String, Held>,
    /// Texts that many pods share.
    texts: HashSet<Arc<str>>,
}

impl Inventory {
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(held) = self.texts.get(text) {
            return held.clone();
        }
        let held: Arc<str> = text.into();
        self.texts.insert(held.clone());
        held
    }

    /// Takes a pod in, or out when it has ended. Says whether anything changed.
    pub fn apply(&mut self, pod: &RunningPod) -> bool {
        let uid = pod.uid().unwrap_or_default();
        if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
            return self.pods.remove(&uid).is_some();
        }
        let statuses = || {
            let status = &pod.status;
            status.init_container_statuses.iter().chain(&status.container_statuses).chain(&status.ephemeral_container_statuses)
        };
        let spec = &pod.spec;
        let containers = spec.init_containers.iter().chain(&spec.containers).chain(&spec.ephemeral_containers);
        let containers: Vec<Running> = containers
            .map(|container| Running {
                container: self.text(&container.name),
                image: self.text(&container.image),
                image_id: self.text(statuses().find(|status| status.name == container.name).map_or("", |status| &status.image_id)),
            })
            .collect();
        let images = spec.volumes.iter().filter_map(|volume| volume.image.as_ref());
        let volumes = images.map(|image| self.text(&image.reference)).collect();
        let held = Held {
            namespace: self.text(&pod.namespace().unwrap_or_default()),
            name: pod.name_any().into(),
            service_account: self.text(spec.service_account_name.as_deref().unwrap_or("default")),
            since: named_since(&pod.metadata),
            containers,
            volumes,
        };
        if self.pods.get(&uid) == Some(&held) {
            return false;
        }
        self.pods.insert(uid, held);
        true
    }

    /// A pod is gone.
    pub fn delete(&mut self, pod: &RunningPod) -> bool {
        self.pods.remove(&pod.uid().unwrap_or_default()).is_some()
    }

    /// Every pod that has not ended.
    pub fn pods(&self) -> impl Iterator<Item = &Held> {
        self.pods.values()
    }

    fn forget_texts(&mut self) {
        self.texts.retain(|text| Arc::strong_count(text) > 1);
    }
}

/// The inventory, shared by the leader's loops; `None` until the first list is in.
#[derive(Clone, Debug)]
pub struct Shared {
    held: Arc<RwLock<Inventory>>,
    changed: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { held: Arc::default(), changed: watch::channel(0).0 }
    }
}

impl Shared {
    /// Changes with each change; 0 until the first list is in.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits for the first list.
    pub async fn listed(&self) {
        // The sender lives in this very value.
        let _ = self.changed.subscribe().wait_for(|count| *count > 0).await;
    }

    /// The pods, in the order of their names.
    pub fn snapshot(&self) -> Vec<Held> {
        let mut pods: Vec<Held> = self.held.read().pods().cloned().collect();
        pods.sort_unstable_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        pods
    }
}

/// Keeps the inventory while this replica leads.
pub(super) async fn watch(term: Term) {
    let api = Api::<RunningPod>::all(term.operator.client.clone());
    let config = crate::watch::config().fields("status.phase!=Succeeded,status.phase!=Failed").page_size(500);
    let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
    let mut listing: Option<Inventory> = None;
    while let Some(event) = stream.next().await {
        let changed = match event {
            Ok(watcher::Event::Init) => {
                listing = Some(Inventory::default());
                false
            }
            Ok(watcher::Event::InitApply(pod)) => {
                if let Some(listing) = &mut listing {
                    listing.apply(&pod);
                }
                false
            }
            Ok(watcher::Event::InitDone) => {
                if let Some(listing) = listing.take() {
                    *term.inventory.held.write() = listing;
                }
                true
            }
            Ok(watcher::Event::Apply(pod)) => term.inventory.held.write().apply(&pod),
            Ok(watcher::Event::Delete(pod)) => {
                let mut held = term.inventory.held.write();
                let changed = held.delete(&pod);
                if held.texts.len() > 4 * held.pods.len() + 1_024 {
                    held.forget_texts();
                }
                changed
            }
            Err(error) => {
                tracing::warn!(error = %crate::history::clip(&error.to_string(), 300), "watching pods");
                false
            }
        };
        if changed {
            term.inventory.changed.send_modify(|count| *count += 1);
        }
    }
}

/// Since when an object names the images that it names: its creation, or the last change by somebody whose part of it holds an image.
/// The API server keeps these times, to the second, with the owners of fields. None where nobody owns an image: the record of owners was
/// thrown away, as any author may, and with it the time of the last change.
#[must_use]
pub fn named_since(metadata: &ObjectMeta) -> Option<jiff::Timestamp> {
    fn holds_image(fields: &serde_json::Value) -> bool {
        fields.as_object().is_some_and(|fields| fields.iter().any(|(key, inner)| key == "f:image" || holds_image(inner)))
    }
    let entries = metadata.managed_fields.iter().flatten();
    let changes = entries.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| holds_image(&fields.0["f:spec"])));
    let changed = changes.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max();
    metadata.creation_timestamp.as_ref().zip(changed).map(|(created, changed)| changed.max(created.0))
}

/// The digest in what a node reports as the running image: of an index, of an image in it, or of its configuration.
#[must_use]
pub fn running_digest(image_id: &str) -> Option<Digest> {
    let text = image_id.rsplit_once('@').map_or(image_id, |(_, digest)| digest);
    let text = text.rsplit_once("://").map_or(text, |(_, digest)| digest);
    text.parse().ok()
}

/// What runs, as a subject: the name from the pod's spec, the digest from the node.
#[must_use]
pub fn running_subject(running: &Running) -> Option<(Reference, Option<Subject>)> {
    let reference = Reference::parse(&running.image).ok()?;
    let subject = running_digest(&running.image_id).map(|digest| reference.with_digest(digest));
    Some((reference, subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: serde_json::Value) -> RunningPod {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_pod_is_held_until_it_ends() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let mut json = serde_json::json!({
            "metadata": {"uid": "u", "namespace": "n", "name": "p"},
            "spec": {"containers": [{"name": "c", "image": "registry.corp/app:1"}], "initContainers": [{"name": "i", "image": "x"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "imageID": format!("registry.corp/app@{digest}")}]}
        });
        let mut inventory = Inventory::default();
        assert!(inventory.apply(&pod(json.clone())));
        assert!(!inventory.apply(&pod(json.clone())), "the same again is no change");
        let held = inventory.pods().next().unwrap();
        assert_eq!(held.containers.len(), 2);
        let (_, subject) = running_subject(&held.containers[1]).unwrap();
        assert_eq!(subject.map(|subject| subject.to_string()), Some(format!("registry.corp/app@{digest}")));
        json["status"]["phase"] = "Succeeded".into();
        assert!(inventory.apply(&pod(json)));
        assert_eq!(inventory.pods().count(), 0);
    }

    #[test]
    fn an_image_is_named_since_the_last_change_of_an_image() {
        let entry = |time: &str, fields: serde_json::Value| serde_json::json!({"manager": "m", "operation": "Update", "time": time, "fieldsType": "FieldsV1", "fieldsV1": fields});
        let template = |inner: serde_json::Value| serde_json::json!({"f:spec": {"f:template": {"f:spec": inner}}});
        let image = serde_json::json!({"f:containers": {r#"k:{"name":"c"}"#: {".": {}, "f:image": {}}}});
        let since = |entries: Vec<serde_json::Value>| {
            let metadata = serde_json::json!({"creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": entries});
            named_since(&serde_json::from_value(metadata).unwrap()).map_or_else(String::new, |since| since.to_string())
        };
        assert_eq!(since(vec![]), "", "who knows when it was changed");
        let made = entry("2026-01-01T00:00:00Z", template(image.clone()));
        let scaled = entry("2026-01-03T00:00:00Z", serde_json::json!({"f:spec": {"f:replicas": {}}}));
        let reported = entry("2026-01-04T00:00:00Z", serde_json::json!({"f:status": {"f:image": {}}}));
        assert_eq!(since(vec![made.clone(), scaled.clone(), reported.clone()]), "2026-01-01T00:00:00Z");
        let changed = entry("2026-01-02T00:00:00Z", template(image.clone()));
        assert_eq!(since(vec![made, scaled, changed, reported]), "2026-01-02T00:00:00Z");
        let pod = entry("2026-01-02T00:00:00Z", serde_json::json!({"f:spec": image}));
        assert_eq!(since(vec![pod]), "2026-01-02T00:00:00Z");
    }

    #[test]
    fn what_nodes_report_is_read_in_each_form() {
        let digest = format!("sha256:{}", "b".repeat(64));
        for text in
            [digest.clone(), format!("docker.io/library/x@{digest}"), format!("docker-pullable://x@{digest}"), format!("docker://{digest}")]
        {
            assert_eq!(running_digest(&text).map(|digest| digest.to_string()), Some(digest.clone()), "{text}");
        }
        assert_eq!(running_digest(""), None);
        assert_eq!(running_digest("docker.io/library/x:1"), None);
    }
}
