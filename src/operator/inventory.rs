//! The inventory of what runs, kept by the leader only.

use std::sync::Arc;

use futures::StreamExt as _;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::Term;
use crate::{
    history::clip,
    running::{Image, Inventory, Pod, RunningPod},
};

/// The inventory, shared by the leader's loops.
#[derive(Clone, Debug)]
pub(super) struct Shared {
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
    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits for the first list.
    pub(super) async fn listed(&self) {
        // The sender lives in this very value.
        let _ = self.changed.subscribe().wait_for(|count| *count > 0).await;
    }

    /// The namespaces that have pods, in the order of their names.
    pub(super) fn namespaces(&self) -> Vec<Arc<str>> {
        self.held.read().namespaces()
    }

    /// The pods of a namespace, in the order of their names.
    pub(super) fn pods_in(&self, namespace: &str) -> Vec<(Arc<str>, Arc<Pod>)> {
        self.held.read().pods_in(namespace)
    }

    /// Every image that some pod has.
    pub(super) fn images(&self) -> Vec<Arc<Image>> {
        self.held.read().images().cloned().collect()
    }

    /// Goes through all pods, one namespace at a time, so that nobody waits long for the lock.
    pub(super) fn each(&self, mut take: impl FnMut(&Arc<str>, &Pod)) {
        for namespace in self.namespaces() {
            for (_, pod) in self.pods_in(&namespace) {
                take(&namespace, &pod);
            }
        }
    }
}

/// Keeps the inventory while this replica leads.
pub(super) async fn watch(term: Term) {
    let api = Api::<RunningPod>::all(term.operator.client.clone());
    let config = crate::watch::config().fields("status.phase!=Succeeded,status.phase!=Failed").page_size(200);
    let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
    let Shared { held, changed } = &term.inventory;
    while let Some(event) = stream.next().await {
        let news = match event {
            Ok(watcher::Event::Init) => {
                held.write().begin();
                false
            }
            Ok(watcher::Event::InitApply(pod)) => {
                held.write().apply(&pod);
                false
            }
            Ok(watcher::Event::InitDone) => {
                held.write().end();
                true
            }
            Ok(watcher::Event::Apply(pod)) => held.write().apply(&pod),
            Ok(watcher::Event::Delete(pod)) => held.write().delete(&pod),
            Err(error) => {
                tracing::warn!(error = %clip(&error.to_string(), 300), "watching pods");
                false
            }
        };
        if news {
            changed.send_modify(|count| *count += 1);
        }
    }
}
