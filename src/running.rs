//! What runs in the cluster: pods, as little of each as is needed.
//!
//! 150,000 pods are planned for. Most of what they say they say alike: names of containers, images, what nodes report. Such texts are held once,
//! and what a pod names together with what its node reports is read once ([`Image`]), however many pods have it. Pods that were made alike
//! share all of that ([`Make`]).

mod wire;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use jiff::Timestamp;

pub use self::wire::{RunningPod, named_since};
use crate::image::{Digest, Reference, Subject};

/// What one container names and what its node reports to run, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What the pod's spec names.
    pub text: Box<str>,
    /// The same as it reads; none where it cannot be read.
    pub named: Option<Reference>,
    /// What runs, by the node's report. None before it has pulled.
    pub digest: Option<Digest>,
    /// The same with the name from the spec.
    pub subject: Option<Subject>,
}

/// One container of a pod that has not ended, or one of its image volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name; `volume/NAME` for a volume, which no container can be called.
    pub name: Arc<str>,
    /// What it runs.
    pub image: Arc<Image>,
}

/// Who made a pod, and would read an Event about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// `apps/v1`, say.
    pub api_version: String,
    /// `ReplicaSet`, say.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// One pod that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its uid.
    pub uid: Box<str>,
    /// When it was made, or when an image in it was last changed.
    pub since: Option<Timestamp>,
    /// The controller that made it.
    pub owner: Option<Arc<Owner>>,
    /// What it has in common with those that were made alike.
    pub make: Arc<Make>,
}

/// What pods have in common that were made from one template and run the same images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Make {
    /// The account that they run as.
    pub service_account: Arc<str>,
    /// Their containers.
    pub containers: Box<[Container]>,
    /// The images of their image volumes. Nodes do not report what they are.
    pub volumes: Box<[Arc<str>]>,
    /// Those of them that are mounted and named by digest, so that it is known all the same.
    pub mounted: Box<[Container]>,
    /// The names of their pull secrets.
    pub pull_secrets: Box<[Arc<str>]>,
}

impl Hash for Make {
    /// By the images and their number, which tells most apart that differ.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.containers.len().hash(state);
        for container in &self.containers {
            container.image.text.hash(state);
            container.image.digest.hash(state);
        }
    }
}

/// Pods by namespace and name.
#[derive(Debug, Default)]
pub struct Inventory {
    namespaces: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Held>>,
    count: usize,
    /// Of the list that is coming in, or came in last.
    generation: u32,
    texts: HashMap<Box<str>, Arc<str>>,
    /// By what the spec names and what the node reports.
    images: HashMap<(Arc<str>, Arc<str>), Arc<Image>>,
    owners: HashSet<Arc<Owner>>,
    makes: HashSet<Arc<Make>>,
}

#[derive(Debug)]
struct Held {
    generation: u32,
    pod: Arc<Pod>,
}

/// One pod with where it is.
#[derive(Clone, Debug)]
pub struct Located {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The pod.
    pub pod: Arc<Pod>,
}

impl Inventory {
    /// A list begins: what is not applied before its end is gone by then. What is there is not held twice meanwhile.
    pub fn begin(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// A list has ended.
    pub fn end(&mut self) {
        let generation = self.generation;
        for pods in self.namespaces.values_mut() {
            pods.retain(|_, held| held.generation == generation);
        }
        self.namespaces.retain(|_, pods| !pods.is_empty());
        self.count = self.namespaces.values().map(BTreeMap::len).sum();
        self.forget();
    }

    /// Takes a pod in, or out when it has ended. Says whether anything changed.
    pub fn apply(&mut self, pod: &RunningPod) -> bool {
        if pod.has_ended() {
            return self.delete(pod);
        }
        let (namespace, name) = (self.text(pod.namespace()), pod.name());
        let held = Held { generation: self.generation, pod: Arc::new(self.read(pod)) };
        let pods = self.namespaces.entry(namespace).or_default();
        if let Some(same) = pods.get_mut(name).filter(|known| known.pod == held.pod) {
            same.generation = held.generation;
            return false;
        }
        self.count += usize::from(pods.insert(name.into(), held).is_none());
        true
    }

    /// A pod is gone. Says whether it was there.
    pub fn delete(&mut self, pod: &RunningPod) -> bool {
        let Some(pods) = self.namespaces.get_mut(pod.namespace()) else { return false };
        // Another pod of that name may have been made meanwhile.
        if pods.get(pod.name()).is_none_or(|held| *held.pod.uid != *pod.uid()) {
            return false;
        }
        pods.remove(pod.name());
        if pods.is_empty() {
            self.namespaces.remove(pod.namespace());
        }
        self.count -= 1;
        if self.texts.len() + self.images.len() + self.makes.len() + self.owners.len() > 4 * self.count + 4_096 {
            self.forget();
        }
        true
    }

    /// How many pods there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The namespaces that have pods.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Arc<str>> {
        self.namespaces.keys().cloned().collect()
    }

    /// The pods of a namespace, in the order of their names.
    #[must_use]
    pub fn pods_in(&self, namespace: &str) -> Vec<(Arc<str>, Arc<Pod>)> {
        let pods = self.namespaces.get(namespace).into_iter().flatten();
        pods.map(|(name, held)| (name.clone(), held.pod.clone())).collect()
    }

    /// Every pod.
    pub fn pods(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Arc<Pod>)> {
        self.namespaces.iter().flat_map(|(namespace, pods)| pods.iter().map(move |(name, held)| (namespace, name, &held.pod)))
    }

    /// Every image that some pod has, each once, and maybe some that none has any more.
    pub fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values()
    }

    fn read(&mut self, pod: &RunningPod) -> Pod {
        let containers =
            pod.containers().map(|(name, image, image_id)| Container { name: self.text(name), image: self.image(image, image_id) });
        let containers = containers.collect();
        let mounted = pod.volumes().filter(|(_, reference)| pod.is_running() && running_digest(reference).is_some());
        let mounted = mounted
            .map(|(name, reference)| Container { name: self.text(&format!("volume/{name}")), image: self.image(reference, reference) })
            .collect();
        let owner = pod.owner().map(|owner| self.owner(owner));
        let make = Make {
            service_account: self.text(pod.service_account()),
            containers,
            volumes: pod.volumes().map(|(_, reference)| self.text(reference)).collect(),
            mounted,
            pull_secrets: pod.pull_secrets().map(|name| self.text(name)).collect(),
        };
        Pod { uid: pod.uid().into(), since: pod.since(), owner, make: self.make(make) }
    }

    /// By all that a pod says of it: anybody may write anything there, and nobody's word is to be taken for another's.
    fn owner(&mut self, owner: Owner) -> Arc<Owner> {
        if let Some(held) = self.owners.get(&owner) {
            return held.clone();
        }
        let held = Arc::new(owner);
        self.owners.insert(held.clone());
        held
    }

    fn make(&mut self, make: Make) -> Arc<Make> {
        if let Some(held) = self.makes.get(&make) {
            return held.clone();
        }
        let held = Arc::new(make);
        self.makes.insert(held.clone());
        held
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(held) = self.texts.get(text) {
            return held.clone();
        }
        let held: Arc<str> = text.into();
        self.texts.insert(text.into(), held.clone());
        held
    }

    fn image(&mut self, text: &str, image_id: &str) -> Arc<Image> {
        let key = (self.text(text), self.text(image_id));
        let read = || {
            let named = Reference::parse(text).ok();
            let digest = running_digest(image_id);
            let subject = named.as_ref().zip(digest.as_ref()).map(|(named, digest)| named.with_digest(digest.clone()));
            Arc::new(Image { text: text.into(), named, digest, subject })
        };
        self.images.entry(key).or_insert_with(read).clone()
    }

    /// Forgets what no pod says any more.
    fn forget(&mut self) {
        self.makes.retain(|make| Arc::strong_count(make) > 1);
        self.images.retain(|_, image| Arc::strong_count(image) > 1);
        self.owners.retain(|owner| Arc::strong_count(owner) > 1);
        self.texts.retain(|_, text| Arc::strong_count(text) > 1);
    }
}

/// The digest in what a node reports as the running image: of an index, of an image in it, or of its configuration.
#[must_use]
pub fn running_digest(image_id: &str) -> Option<Digest> {
    let text = image_id.rsplit_once('@').map_or(image_id, |(_, digest)| digest);
    let text = text.rsplit_once("://").map_or(text, |(_, digest)| digest);
    text.parse().ok()
}

#[cfg(test)]
mod tests;
