//! Every image that a pod will pull, with its field path.
//!
//! The fields are those of the Pod schema that make a node pull: containers, init containers, ephemeral containers and image
//! volumes. A test against the API server's own schema fails when a release of Kubernetes adds another.

use std::{borrow::Cow, collections::HashSet};

use serde::Deserialize;

use crate::review::brief;

/// Images that one pod may name without being refused for their number alone.
pub const MOST_IMAGES: usize = 256;

/// What is judged of a pod.
#[derive(Debug, Default, Deserialize)]
pub struct Pod<'a> {
    /// Its metadata.
    #[serde(borrow, default)]
    pub metadata: Metadata<'a>,
    /// What it runs.
    #[serde(borrow, default)]
    pub spec: PodSpec<'a>,
}

/// What is judged of a pod's metadata.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata<'a> {
    /// The name; absent where the API server is to make one.
    #[serde(borrow, default)]
    pub name: Option<Cow<'a, str>>,
    /// What the API server makes a name from.
    #[serde(borrow, default)]
    pub generate_name: Option<Cow<'a, str>>,
    /// Only looked at for the mark of a mirror pod.
    #[serde(borrow, default)]
    pub annotations: Option<Mirror<'a>>,
}

/// The one annotation that is looked at, and only together with the requester's own identity.
#[derive(Debug, Default, Deserialize)]
pub struct Mirror<'a> {
    /// Set by the kubelet on the mirror of a static pod.
    #[serde(borrow, default, rename = "kubernetes.io/config.mirror")]
    pub mirror: Option<Cow<'a, str>>,
}

/// What is judged of a pod's spec.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec<'a> {
    /// The containers.
    #[serde(borrow, default)]
    pub containers: Option<Vec<Container<'a>>>,
    /// The init containers, sidecars included.
    #[serde(borrow, default)]
    pub init_containers: Option<Vec<Container<'a>>>,
    /// Containers added to a running pod.
    #[serde(borrow, default)]
    pub ephemeral_containers: Option<Vec<Container<'a>>>,
    /// The volumes, of which image volumes pull.
    #[serde(borrow, default)]
    pub volumes: Option<Vec<Volume<'a>>>,
    /// The account that it runs as.
    #[serde(borrow, default)]
    pub service_account_name: Option<Cow<'a, str>>,
    /// The node that it is bound to.
    #[serde(borrow, default)]
    pub node_name: Option<Cow<'a, str>>,
    /// Secrets with which the node pulls.
    #[serde(borrow, default)]
    pub image_pull_secrets: Option<Vec<SecretReference<'a>>>,
}

/// A container of any kind.
#[derive(Debug, Deserialize)]
pub struct Container<'a> {
    /// Unique among all the containers of a pod.
    #[serde(borrow, default)]
    pub name: Cow<'a, str>,
    /// What is pulled.
    #[serde(borrow, default)]
    pub image: Option<Cow<'a, str>>,
}

/// A volume.
#[derive(Debug, Deserialize)]
pub struct Volume<'a> {
    /// Unique among the volumes of a pod.
    #[serde(borrow, default)]
    pub name: Cow<'a, str>,
    /// What is mounted, when it is an image.
    #[serde(borrow, default)]
    pub image: Option<ImageVolume<'a>>,
}

/// An image mounted as a volume.
#[derive(Debug, Deserialize)]
pub struct ImageVolume<'a> {
    /// What is pulled.
    #[serde(borrow, default)]
    pub reference: Option<Cow<'a, str>>,
}

/// A Secret by name.
#[derive(Debug, Deserialize)]
pub struct SecretReference<'a> {
    /// Its name in the pod's namespace.
    #[serde(borrow, default)]
    pub name: Option<Cow<'a, str>>,
}

/// Where in a pod an image is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `spec.initContainers`.
    InitContainer,
    /// `spec.containers`.
    Container,
    /// `spec.ephemeralContainers`.
    EphemeralContainer,
    /// `spec.volumes`.
    Volume,
}

/// One image that the pod will pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Named<'a> {
    /// In which list.
    pub place: Place,
    /// The name of the container or volume.
    pub name: &'a str,
    /// What it says.
    pub image: &'a str,
}

impl Named<'_> {
    /// The path for people: `spec.containers[web].image`.
    #[must_use]
    pub fn path(&self) -> String {
        let name: String = self.name.chars().take(63).collect();
        let (list, image) = match self.place {
            Place::InitContainer => ("spec.initContainers[", "].image"),
            Place::Container => ("spec.containers[", "].image"),
            Place::EphemeralContainer => ("spec.ephemeralContainers[", "].image"),
            Place::Volume => ("spec.volumes[", "].image.reference"),
        };
        [list, &name, image].concat()
    }
}

/// Reads a pod.
///
/// # Errors
/// A sentence without any excerpt of the pod.
pub fn read(json: &str) -> Result<Pod<'_>, String> {
    serde_json::from_str(json).map_err(|error| brief(&error))
}

impl<'a> Pod<'a> {
    /// Every image that it names. A container without an image (a template may leave it to somebody else) pulls nothing.
    pub fn images(&'a self) -> impl Iterator<Item = Named<'a>> {
        self.spec.images()
    }

    /// The images that are new at their field path compared with `old`: an image that moves from one container to another is
    /// new where it comes to.
    #[must_use]
    pub fn new_images(&'a self, old: &'a Self) -> Vec<Named<'a>> {
        let before: HashSet<Named<'_>> = old.images().collect();
        self.images().filter(|named| !before.contains(named)).collect()
    }

    /// Whether this is the mirror of a static pod, made by the node that it names. The annotation alone is a claim that any
    /// author can write; the requester's own identity is not.
    #[must_use]
    pub fn is_mirror_by(&self, username: &str, groups: &[Cow<'_, str>]) -> bool {
        let node = self.spec.node_name.as_deref().unwrap_or_default();
        self.metadata.annotations.as_ref().is_some_and(|annotations| annotations.mirror.is_some())
            && !node.is_empty()
            && username.strip_prefix("system:node:") == Some(node)
            && groups.iter().any(|group| group == "system:nodes")
    }
}

impl<'a> PodSpec<'a> {
    /// Every image that it names.
    pub fn images(&'a self) -> impl Iterator<Item = Named<'a>> {
        let of = |place, list: &'a Option<Vec<Container<'a>>>| {
            list.iter().flatten().filter_map(move |container| {
                let image = container.image.as_deref().filter(|image| !image.is_empty())?;
                Some(Named { place, name: &container.name, image })
            })
        };
        let volumes = self.volumes.iter().flatten().filter_map(|volume| {
            let image = volume.image.as_ref()?.reference.as_deref().filter(|image| !image.is_empty())?;
            Some(Named { place: Place::Volume, name: &volume.name, image })
        });
        of(Place::InitContainer, &self.init_containers)
            .chain(of(Place::Container, &self.containers))
            .chain(of(Place::EphemeralContainer, &self.ephemeral_containers))
            .chain(volumes)
    }
}

/// The pod template inside a workload, by its kind; none for a kind that has no template.
///
/// # Errors
/// A sentence without any excerpt of the object.
pub fn template<'a>(kind: &str, json: &'a str) -> Result<Option<Pod<'a>>, String> {
    #[derive(Deserialize)]
    struct Workload<'a> {
        #[serde(borrow, default)]
        spec: Option<Holder<'a>>,
    }
    #[derive(Deserialize)]
    struct Holder<'a> {
        #[serde(borrow, default)]
        template: Option<Pod<'a>>,
    }
    #[derive(Deserialize)]
    struct CronJob<'a> {
        #[serde(borrow, default)]
        spec: Option<CronJobSpec<'a>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct CronJobSpec<'a> {
        #[serde(borrow, default)]
        job_template: Option<Workload<'a>>,
    }
    #[derive(Deserialize)]
    struct PodTemplate<'a> {
        #[serde(borrow, default)]
        template: Option<Pod<'a>>,
    }
    let read = |error: serde_json::Error| brief(&error);
    Ok(match kind {
        "Pod" => Some(serde_json::from_str(json).map_err(read)?),
        "CronJob" => {
            let job: CronJob<'a> = serde_json::from_str(json).map_err(read)?;
            job.spec.and_then(|spec| spec.job_template).and_then(|job| job.spec).and_then(|spec| spec.template)
        }
        "PodTemplate" => serde_json::from_str::<PodTemplate<'a>>(json).map_err(read)?.template,
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            serde_json::from_str::<Workload<'a>>(json).map_err(read)?.spec.and_then(|spec| spec.template)
        }
        _ => None,
    })
}

/// The kinds whose templates [`template`] reads.
pub const WORKLOAD_KINDS: [&str; 7] = ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicationController"];

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"metadata":{"name":"p"},"spec":{
        "containers":[{"name":"a","image":"x:1"},{"name":"b","image":"y:1"}],
        "initContainers":[{"name":"i","image":"z:1"}],
        "ephemeralContainers":[{"name":"e","image":"debug"}],
        "volumes":[{"name":"v","image":{"reference":"data:1","pullPolicy":"Always"}},{"name":"w","emptyDir":{}},{"name":"r","rbd":{"image":"not-a-container-image"}}]}}"#;

    #[test]
    fn every_field_that_pulls_is_named_by_its_path() {
        let pod = read(POD).unwrap();
        let paths: Vec<_> = pod.images().map(|named| format!("{}={}", named.path(), named.image)).collect();
        assert_eq!(
            paths,
            [
                "spec.initContainers[i].image=z:1",
                "spec.containers[a].image=x:1",
                "spec.containers[b].image=y:1",
                "spec.ephemeralContainers[e].image=debug",
                "spec.volumes[v].image.reference=data:1"
            ]
        );
    }

    #[test]
    fn an_update_brings_only_what_is_new_at_its_path() {
        let old = read(POD).unwrap();
        assert_eq!(read(POD).unwrap().new_images(&old), []);
        let swapped = POD.replace("x:1", "q").replace("y:1", "x:1").replace("\"q\"", "\"y:1\"");
        let pod = read(&swapped).unwrap();
        let new: Vec<_> = pod.new_images(&old).iter().map(|named| (named.name, named.image)).collect();
        assert_eq!(new, [("a", "y:1"), ("b", "x:1")], "two images that change places are both new where they come to");
    }

    #[test]
    fn a_mirror_pod_is_one_only_for_the_node_that_it_names() {
        let json = r#"{"metadata":{"annotations":{"kubernetes.io/config.mirror":"h"}},"spec":{"nodeName":"n1"}}"#;
        let pod = read(json).unwrap();
        let nodes = [Cow::Borrowed("system:nodes")];
        assert!(pod.is_mirror_by("system:node:n1", &nodes));
        assert!(!pod.is_mirror_by("system:node:n2", &nodes));
        assert!(!pod.is_mirror_by("system:node:n1", &[]));
        assert!(!pod.is_mirror_by("mallory", &nodes));
        let plain = read(r#"{"spec":{"nodeName":"n1"}}"#).unwrap();
        assert!(!plain.is_mirror_by("system:node:n1", &nodes));
        let unbound = read(r#"{"metadata":{"annotations":{"kubernetes.io/config.mirror":"h"}}}"#).unwrap();
        assert!(!unbound.is_mirror_by("system:node:", &nodes));
    }

    #[test]
    fn templates_are_found_in_every_workload() {
        for kind in WORKLOAD_KINDS {
            let template = r#"{"template":{"spec":{"containers":[{"name":"a","image":"x"}]}}}"#;
            let json = match kind {
                "CronJob" => format!(r#"{{"spec":{{"jobTemplate":{{"spec":{template}}}}}}}"#),
                _ => format!(r#"{{"spec":{template}}}"#),
            };
            let pod = super::template(kind, &json).unwrap().unwrap();
            assert_eq!(pod.images().count(), 1, "{kind}");
        }
        assert!(super::template("ConfigMap", "{}").unwrap().is_none());
    }

    #[test]
    fn null_lists_are_empty_and_rubbish_is_named_without_an_excerpt() {
        assert_eq!(read(r#"{"spec":{"containers":null,"volumes":null}}"#).unwrap().images().count(), 0);
        let error = read(r#"{"spec":{"containers":[{"image":{"secret":"s"}}]}}"#).unwrap_err();
        assert_eq!(error, "a field has another type than Kubernetes gives it (line 1, column 32)");
    }
}
