//! Watches that feed the index: one task a kind.
//!
//! What vanished while nobody watched is worked out at the end of a new list. What people write is taken from such a list as a whole, under one
//! lock, so that no review sees half of it. Image statuses are many and have nothing to do with each other: each is taken in as it comes, and
//! what was read of it is let go. Each watch holds a readiness condition that is met at its first complete list.

use std::{collections::HashSet, fmt::Debug, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, Node},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    admin::Condition,
    api::{ImageStatus, QuarantinePolicy, Registry, Waiver},
    index::{Index, Kind},
    unread::{Invalid, Unread},
};

/// The index, shared. Nothing awaits while it is locked.
pub type SharedIndex = Arc<RwLock<Index>>;

/// What a watch does with its objects.
pub trait Sink<K>: Send {
    /// An object is there, or is there in another form.
    fn apply(&mut self, object: K);
    /// An object is gone, by its name.
    fn delete(&mut self, name: &str);
    /// A list begins.
    fn begin(&mut self);
    /// An object is in the list.
    fn listed(&mut self, object: K);
    /// The list has ended; whatever was not in it, nor is among the names of what cannot be read, is gone.
    fn end(&mut self, unreadable: &[String]);
    /// An object is there in a form that cannot be read at all: its last readable form stays.
    fn unreadable(&mut self, _name: &str, _error: &str) {}
    /// The watch keeps failing. Says whether the replica does without.
    fn lost(&mut self) -> bool {
        false
    }
}

/// The API server ends each watch after this many seconds, and it goes on from where it was. A connection that has gone silent (the other end
/// vanished without a word) is so found out a few seconds later, and not after the five minutes that are usual.
const LONGEST_WATCH: u32 = 30;

/// How every watch is held.
#[must_use]
pub fn config() -> watcher::Config {
    watcher::Config::default().timeout(LONGEST_WATCH)
}

/// Image statuses in one page of a list: some 2 KB each.
pub const PAGE: u32 = 500;
/// Nodes in one page, which come with all that is said of them: some 40 KB each.
pub const PAGE_OF_NODES: u32 = 50;

/// For how long a watch may fail before the replica turns unready and lists anew.
const FAILING: Duration = Duration::from_secs(20);

/// Runs a watch for ever. One that keeps failing turns the replica unready, until a new list is in, unless its sink does without.
pub async fn run<K>(client: Client, config: watcher::Config, mut sink: impl Sink<K>, ready: Condition)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    loop {
        let stream = watcher(Api::<Unread<K>>::all(client.clone()), config.clone()).default_backoff();
        feed(ahead(stream, config.page_size), &mut sink, &ready).await;
        // The watch may have gone on in silence, and nothing would tell: so a new one begins, whose list does.
        ready.set(sink.lost());
    }
}

/// Feeds a sink from a stream of watch events, until the stream ends or has brought nothing but errors for 20 s.
pub async fn feed<K>(stream: impl Stream<Item = watcher::Result<watcher::Event<Unread<K>>>>, sink: &mut impl Sink<K>, ready: &Condition)
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let kind = K::kind(&());
    let mut unread = Vec::new();
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
        // That a list begins is no sign yet that it can be had.
        if !matches!(event, watcher::Event::Init) {
            failing = None;
        }
        match event {
            watcher::Event::Init => {
                unread.clear();
                sink.begin();
            }
            watcher::Event::InitApply(object) => match object.read() {
                Ok(object) => sink.listed(object),
                Err(invalid) => {
                    tell_unreadable(sink, &invalid);
                    unread.push(invalid.name);
                }
            },
            watcher::Event::InitDone => {
                sink.end(&std::mem::take(&mut unread));
                ready.set(true);
            }
            watcher::Event::Apply(object) => match object.read() {
                Ok(object) => sink.apply(object),
                Err(invalid) => tell_unreadable(sink, &invalid),
            },
            watcher::Event::Delete(object) => sink.delete(object.name()),
        }
    }
}

/// The schema of the API server lets nothing through that the types do not read, but another version's may.
fn tell_unreadable<K: Resource<DynamicType = ()>>(sink: &mut impl Sink<K>, invalid: &Invalid) {
    let (name, error) = (&*invalid.name, crate::history::clip(&invalid.error, 300));
    tracing::error!(kind = %K::kind(&()), name, error, "an object cannot be read; its last readable form stays");
    sink.unreadable(name, &error);
}

/// The same stream, of which a page is fetched before it is taken in, so that the next is asked for meanwhile.
fn ahead<T: Send + 'static>(stream: impl Stream<Item = T> + Send + 'static, page: Option<u32>) -> impl Stream<Item = T> {
    let (sender, receiver) = mpsc::channel(usize::try_from(page.unwrap_or(PAGE)).unwrap_or(1).max(1));
    let fetch = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(item) = stream.next().await {
            if sender.send(item).await.is_err() {
                return;
            }
        }
    }));
    stream::unfold((receiver, fetch), |(mut receiver, fetch)| async {
        if let Some(item) = receiver.recv().await {
            return Some((item, (receiver, fetch)));
        }
        match fetch.await {
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ => None,
        }
    })
}

/// Feeds one of the kinds that people write.
#[derive(Debug)]
pub struct Rules<K> {
    index: SharedIndex,
    changed: tokio::sync::watch::Sender<u64>,
    list: Vec<K>,
}

impl<K> Rules<K> {
    /// Feeds the index, and tells after each change the number of changes so far.
    #[must_use]
    pub const fn new(index: SharedIndex, changed: tokio::sync::watch::Sender<u64>) -> Self {
        Self { index, changed, list: Vec::new() }
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

macro_rules! rules_sink {
    ($type:ty, $kind:expr, $apply:ident) => {
        impl Sink<$type> for Rules<$type> {
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

            fn begin(&mut self) {
                self.list.clear();
            }

            fn listed(&mut self, object: $type) {
                self.list.push(object);
            }

            fn end(&mut self, unreadable: &[String]) {
                {
                    let objects = std::mem::take(&mut self.list);
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

/// The names that have not come yet in the list that is coming in.
#[derive(Debug, Default)]
struct Missing(HashSet<String>);

impl Missing {
    fn of(names: Vec<String>) -> Self {
        Self(names.into_iter().collect())
    }

    fn came(&mut self, metadata: &ObjectMeta) {
        self.0.remove(metadata.name.as_deref().unwrap_or_default());
    }

    /// The list has ended: what did not come is gone, but for what came and cannot be read.
    fn gone(&mut self, unreadable: &[String]) -> Vec<String> {
        std::mem::take(&mut self.0).into_iter().filter(|name| !unreadable.contains(name)).collect()
    }
}

/// Feeds image statuses, and wakes whoever waits for them.
pub struct Images<W> {
    index: SharedIndex,
    wake: W,
    missing: Missing,
}

impl<W> Images<W> {
    /// Feeds the index, and tells the name of each image whose status changed.
    #[must_use]
    pub fn new(index: SharedIndex, wake: W) -> Self {
        Self { index, wake, missing: Missing::default() }
    }
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

    fn begin(&mut self) {
        self.missing = Missing::of(self.index.read().image_names());
    }

    fn listed(&mut self, object: ImageStatus) {
        self.missing.came(&object.metadata);
        self.apply(object);
    }

    fn end(&mut self, unreadable: &[String]) {
        for name in self.missing.gone(unreadable) {
            self.delete(&name);
        }
    }
}

/// Feeds the labels of namespaces.
#[derive(Debug)]
pub struct Namespaces {
    index: SharedIndex,
    missing: Missing,
}

impl Namespaces {
    /// Feeds the index.
    #[must_use]
    pub fn new(index: SharedIndex) -> Self {
        Self { index, missing: Missing::default() }
    }
}

impl Sink<PartialObjectMeta<Namespace>> for Namespaces {
    fn apply(&mut self, object: PartialObjectMeta<Namespace>) {
        let (name, labels) = (object.name_any(), object.metadata.labels.unwrap_or_default());
        self.index.write().apply_namespace(&name, labels);
    }

    fn delete(&mut self, name: &str) {
        self.index.write().delete_namespace(name);
    }

    fn begin(&mut self) {
        self.missing = Missing::of(self.index.read().namespace_names());
    }

    fn listed(&mut self, object: PartialObjectMeta<Namespace>) {
        self.missing.came(&object.metadata);
        self.apply(object);
    }

    fn end(&mut self, unreadable: &[String]) {
        for name in self.missing.gone(unreadable) {
            self.delete(&name);
        }
    }
}

/// Feeds the platforms of nodes, by their labels. Where they cannot be watched nothing is known of them, and a replica is ready without: images
/// have to be proven for every platform then.
#[derive(Debug)]
pub struct Nodes {
    index: SharedIndex,
    changed: tokio::sync::watch::Sender<u64>,
    missing: Missing,
}

impl Nodes {
    /// Feeds the index, and counts changes of the platforms among those of the rules.
    #[must_use]
    pub fn new(index: SharedIndex, changed: tokio::sync::watch::Sender<u64>) -> Self {
        Self { index, changed, missing: Missing::default() }
    }

    fn tell(&self, news: bool) {
        if news {
            self.changed.send_modify(|count| *count += 1);
        }
    }
}

impl Sink<PartialObjectMeta<Node>> for Nodes {
    fn apply(&mut self, object: PartialObjectMeta<Node>) {
        let (name, labels) = (object.name_any(), object.metadata.labels.unwrap_or_default());
        let news = self.index.write().apply_node(&name, &labels);
        self.tell(news);
    }

    fn delete(&mut self, name: &str) {
        let news = self.index.write().delete_node(name);
        self.tell(news);
    }

    fn begin(&mut self) {
        self.missing = Missing::of(self.index.read().node_names());
    }

    fn listed(&mut self, object: PartialObjectMeta<Node>) {
        self.missing.came(&object.metadata);
        self.apply(object);
    }

    fn end(&mut self, unreadable: &[String]) {
        for name in self.missing.gone(unreadable) {
            self.delete(&name);
        }
        let news = self.index.write().know_nodes(true);
        self.tell(news);
    }

    /// One whose labels cannot be read may be of any platform.
    fn unreadable(&mut self, name: &str, _error: &str) {
        let news = self.index.write().apply_node(name, &std::collections::BTreeMap::new());
        self.tell(news);
    }

    fn lost(&mut self) -> bool {
        let news = self.index.write().know_nodes(false);
        self.tell(news);
        true
    }
}

#[cfg(test)]
mod tests {
    use kube::core::PartialObjectMetaExt as _;

    use super::*;
    use crate::{admin::Readiness, proof::platforms};

    type Event = watcher::Event<Unread<PartialObjectMeta<Node>>>;

    fn node(name: &str, platform: &str) -> Unread<PartialObjectMeta<Node>> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(platforms::labels(platform)), ..ObjectMeta::default() };
        let object: PartialObjectMeta<Node> = metadata.into_response_partial();
        serde_json::from_str(&serde_json::to_string(&object).unwrap()).unwrap()
    }

    /// Whoever may not list nodes is ready all the same, and has every image of an index proven.
    #[tokio::test(start_paused = true)]
    async fn a_replica_is_ready_without_nodes_and_goes_by_their_platforms_as_long_as_it_hears_of_them() {
        let (index, (changed, told)) = (SharedIndex::default(), tokio::sync::watch::channel(0));
        let (readiness, mut sink) = (Readiness::default(), Nodes::new(index.clone(), changed));
        let ready = readiness.condition("nodes");
        let platforms = || index.read().rules().platforms.names();
        let list = |nodes: Vec<Unread<PartialObjectMeta<Node>>>| {
            let nodes = nodes.into_iter().map(Event::InitApply);
            stream::iter([Event::Init].into_iter().chain(nodes).chain([Event::InitDone]).map(Ok).collect::<Vec<_>>())
        };
        feed(list(vec![node("a", "linux/amd64"), node("b", "linux/arm64"), node("c", "linux/arm64")]), &mut sink, &ready).await;
        assert!(readiness.is_ready());
        assert_eq!((platforms(), *told.borrow()), (vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()], 1));
        feed(stream::iter([Ok(Event::Delete(node("b", "linux/arm64"))), Ok(Event::Apply(node("a", "linux/amd64")))]), &mut sink, &ready)
            .await;
        assert_eq!(*told.borrow(), 1, "the platforms are the same");
        feed(list(vec![node("a", "linux/amd64")]), &mut sink, &ready).await;
        assert_eq!((platforms(), *told.borrow()), (vec!["linux/amd64".to_owned()], 2), "c is gone");
        ready.set(sink.lost());
        assert_eq!((platforms(), readiness.is_ready()), (vec!["*".to_owned()], true));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_may_not_list_nodes_is_ready_after_a_while() {
        let forbidden =
            serde_json::json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403 });
        let answer = move |_: http::Request<kube::client::Body>| {
            let answer = http::Response::builder().status(403).body(kube::client::Body::from(forbidden.to_string().into_bytes())).unwrap();
            std::future::ready(Ok::<_, std::convert::Infallible>(answer))
        };
        let client = Client::new(tower::service_fn(answer), "n");
        let (index, readiness) = (SharedIndex::default(), Readiness::default());
        let sink = Nodes::new(index.clone(), tokio::sync::watch::channel(0).0);
        let watch = tokio::spawn(run::<PartialObjectMeta<Node>>(client, config(), sink, readiness.condition("nodes")));
        tokio::time::sleep(FAILING).await;
        assert!(!readiness.is_ready(), "an API server that is slow to let it in is waited for");
        tokio::time::sleep(3 * FAILING).await;
        assert!(readiness.is_ready());
        assert_eq!(index.read().rules().platforms.names(), ["*"]);
        watch.abort();
    }
}
