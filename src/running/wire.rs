//! Pods as they are on the wire, as much of each as is read. Not k8s-openapi's Pod, which would take twenty times as long to read.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::{Resource, api::ObjectMeta};
use serde::Deserialize;

use super::Owner;

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
    image_pull_secrets: Vec<PullSecret>,
    service_account_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    image: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Volume {
    name: String,
    image: Option<ImageVolume>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ImageVolume {
    reference: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PullSecret {
    name: String,
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

impl RunningPod {
    pub(super) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    pub(super) fn service_account(&self) -> &str {
        self.spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default")
    }

    pub(super) fn since(&self) -> Option<Timestamp> {
        named_since(&self.metadata)
    }

    /// Name, image, and what the node reports; empty before it has pulled.
    pub(super) fn containers(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let Spec { containers, init_containers, ephemeral_containers, .. } = &self.spec;
        let status = &self.status;
        let reported = |name: &str| {
            let all = status.init_container_statuses.iter().chain(&status.container_statuses).chain(&status.ephemeral_container_statuses);
            all.into_iter().find(|status| status.name == name).map_or("", |status| status.image_id.as_str())
        };
        let all = init_containers.iter().chain(containers).chain(ephemeral_containers);
        all.map(move |container| (container.name.as_str(), container.image.as_str(), reported(&container.name)))
    }

    /// Its volumes are mounted, and containers have begun.
    pub(super) fn is_running(&self) -> bool {
        self.status.phase == "Running"
    }

    /// Name and reference of each image volume.
    pub(super) fn volumes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.spec.volumes.iter().filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?.reference.as_str())))
    }

    pub(super) fn pull_secrets(&self) -> impl Iterator<Item = &str> {
        self.spec.image_pull_secrets.iter().map(|secret| secret.name.as_str()).filter(|name| !name.is_empty()).take(16)
    }

    pub(super) fn owner(&self) -> Option<Owner> {
        let owner = self.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
        Some(Owner { api_version: owner.api_version.clone(), kind: owner.kind.clone(), name: owner.name.clone(), uid: owner.uid.clone() })
    }
}

/// Since when an object names the images that it names: its creation, or the last change by somebody whose part of it holds an image.
/// The API server keeps these times, to the second, with the owners of fields. None where nobody owns an image: the record of owners was
/// thrown away, as any author may, and with it the time of the last change.
#[must_use]
pub fn named_since(metadata: &ObjectMeta) -> Option<Timestamp> {
    fn holds_image(fields: &serde_json::Value) -> bool {
        fields.as_object().is_some_and(|fields| fields.iter().any(|(key, inner)| key == "f:image" || holds_image(inner)))
    }
    let entries = metadata.managed_fields.iter().flatten();
    let changes = entries.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| holds_image(&fields.0["f:spec"])));
    let changed = changes.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max();
    metadata.creation_timestamp.as_ref().zip(changed).map(|(created, changed)| changed.max(created.0))
}
