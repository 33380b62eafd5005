//! Watches that feed the index: one task a kind.
//!
//! A relist is one transaction: what comes between `Init` and `InitDone` is collected, what vanished is worked out, and the index is
//! locked once. Each watch holds a readiness condition that is met at its first complete list.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{WatchStreamExt as _, watcher},
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::{
    admin::Condition,
    api::{ImageStatus, QuarantinePolicy, Registry, Waiver},
    index::{Index, Kind},
};

/// The index, shared. Nothing awaits while it is locked.
pub type SharedIndex = Arc<RwLock<Index>>;

/// What a watch does with its objects.
pub trait Sink<K>: Send {
    /// An object is there, or is there in another form.
    fn apply(&mut self, object: K);
    /// An object is gone, by its name.
    fn delete(&mut self, name: &str);
    /// Everything that is there, at once; whatever is not among it, nor among the names of what cannot be read, is gone.
    fn reset(&mut self, objects: Vec<K>, unreadable: &[String]);
    /// An object is there in a form that cannot be read at all: its last readable form stays.
    fn unreadable(&mut self, _name: &str, _error: &str) {}
}

/// The API server ends each watch after this many seconds, and it goes on from where it was. A connection that has gone silent (the other end
/// vanished without a word) is so found out a few seconds later, and not after the five minutes that are usual.
const LONGEST_WATCH: u32 = 30;

/// How every watch is held.
#[must_use]
pub fn config() -> watcher::Config {
    watcher::Config::default().timeout(LONGEST_WATCH)
}

/// For how long a watch may fail before the replica turns unready and lists anew.
const FAILING: Duration = Duration::from_secs(20);

/// Runs a watch for ever. One that keeps failing turns the replica unready, until a new list is in.
pub async fn run<K>(client: Client, config: watcher::Config, mut sink: impl Sink<K>, ready: Condition)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    loop {
        let stream = watcher(Api::<DeserializeGuard<K>>::all(client.clone()), config.clone()).default_backoff();
        feed(stream, &mut sink, &ready).await;
        // The watch may have gone on in silence, and nothing would tell: so a new one begins, whose list does.
        ready.set(false);
    }
}

/// Feeds a sink from a stream of watch events, until the stream ends or has brought nothing but errors for 20 s.
pub async fn feed<K>(
    stream: impl Stream<Item = watcher::Result<watcher::Event<DeserializeGuard<K>>>>,
    sink: &mut impl Sink<K>,
    ready: &Condition,
) where
    K: Resource<DynamicType = ()>,
{
    let kind = K::kind(&());
    let (mut list, mut unread) = (Vec::new(), Vec::new());
    let mut failing: Option<Instant> = None;
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%kind, error = %crate::history::clip(&error.to_string(), 300), "watch");
                if failing.get_or_insert_with(Instant::now).elapsed() >= FAILING {
                    return;
                }
                continue;
            }
        };
        failing = None;
        match event {
            watcher::Event::Init => {
                list.clear();
                unread.clear();
            }
            watcher::Event::InitApply(DeserializeGuard(Ok(object))) => list.push(object),
            watcher::Event::InitDone => {
                sink.reset(std::mem::take(&mut list), &std::mem::take(&mut unread));
                ready.set(true);
            }
            watcher::Event::Apply(DeserializeGuard(Ok(object))) => sink.apply(object),
            watcher::Event::Delete(DeserializeGuard(object)) => {
                let name = object.as_ref().map_or_else(|invalid| invalid.metadata.name.clone(), |object| object.meta().name.clone());
                sink.delete(name.as_deref().unwrap_or_default());
            }
            watcher::Event::InitApply(DeserializeGuard(Err(invalid))) | watcher::Event::Apply(DeserializeGuard(Err(invalid))) => {
                // The schema of the API server lets nothing through that the types do not read, but another version's may.
                let (name, error) = (invalid.metadata.name.unwrap_or_default(), crate::history::clip(&invalid.error, 300));
                tracing::error!(%kind, name, error, "an object cannot be read; its last readable form stays");
                sink.unreadable(&name, &error);
                unread.push(name);
            }
        }
    }
}

/// Feeds one of the kinds that people write.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The index.
    pub index: SharedIndex,
    /// Told after each change, with the number of changes so far.
    pub changed: tokio::sync::watch::Sender<u64>,
}

impl Rules {
    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

macro_rules! rules_sink {
    ($type:ty, $kind:expr, $apply:ident) => {
        impl Sink<$type> for Rules {
            fn apply(&mut self, object: $type) {
                if self.index.write().$apply(&object) {
                    self.tell();
                }
            }

            fn delete(&mut self, name: &str) {
                self.index.write().delete($kind, name);
                self.tell();
            }

            fn unreadable(&mut self, name: &str, error: &str) {
                if self.index.write().hold_unreadable($kind, name, error) {
                    self.tell();
                }
            }

            fn reset(&mut self, objects: Vec<$type>, unreadable: &[String]) {
                {
                    let mut index = self.index.write();
                    for name in index.names($kind) {
                        if !unreadable.contains(&name) && !objects.iter().any(|object| object.name_any() == name) {
                            index.delete($kind, &name);
                        }
                    }
                    for object in &objects {
                        index.$apply(object);
                    }
                }
                self.tell();
            }
        }
    };
}
rules_sink!(QuarantinePolicy, Kind::Policy, apply_policy);
rules_sink!(Registry, Kind::Registry, apply_registry);
rules_sink!(Waiver, Kind::Waiver, apply_waiver);

/// Feeds image statuses, and wakes whoever waits for them.
pub struct Images<W> {
    /// The index.
    pub index: SharedIndex,
    /// Told of each image whose status changed.
    pub wake: W,
}

impl<W: Fn(&str) + Send> Sink<ImageStatus> for Images<W> {
    fn apply(&mut self, object: ImageStatus) {
        if self.index.write().apply_image(&object, Timestamp::now()) {
            (self.wake)(&object.name_any());
        }
    }

    fn delete(&mut self, name: &str) {
        self.index.write().delete_image(name);
        (self.wake)(name);
    }

    fn reset(&mut self, objects: Vec<ImageStatus>, unreadable: &[String]) {
        let now = Timestamp::now();
        let mut changed = Vec::new();
        {
            let mut index = self.index.write();
            let mut gone: std::collections::HashSet<String> = index.image_names().into_iter().collect();
            for name in unreadable {
                gone.remove(name);
            }
            for object in &objects {
                let name = object.name_any();
                gone.remove(&name);
                if index.apply_image(object, now) {
                    changed.push(name);
                }
            }
            for name in gone {
                index.delete_image(&name);
                changed.push(name);
            }
        }
        for name in changed {
            (self.wake)(&name);
        }
    }
}

/// Feeds the labels of namespaces.
#[derive(Clone, Debug)]
pub struct Namespaces(pub SharedIndex);

fn labels(object: &PartialObjectMeta<Namespace>) -> BTreeMap<String, String> {
    object.metadata.labels.clone().unwrap_or_default()
}

impl Sink<PartialObjectMeta<Namespace>> for Namespaces {
    fn apply(&mut self, object: PartialObjectMeta<Namespace>) {
        self.0.write().apply_namespace(&object.name_any(), labels(&object));
    }

    fn delete(&mut self, name: &str) {
        self.0.write().delete_namespace(name);
    }

    fn reset(&mut self, objects: Vec<PartialObjectMeta<Namespace>>, unreadable: &[String]) {
        let mut index = self.0.write();
        for name in index.namespace_names() {
            if !unreadable.contains(&name) && !objects.iter().any(|object| object.name_any() == name) {
                index.delete_namespace(&name);
            }
        }
        for object in &objects {
            index.apply_namespace(&object.name_any(), labels(object));
        }
    }
}
