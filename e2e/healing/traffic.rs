//! Pods that are made all the while, and what came of each.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::lab::Lab;
use crate::lab::wait::MOMENT;

/// Between two creations. One that is slow does not hold the next one up.
const PACE: Duration = Duration::from_millis(150);

/// One creation.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it began.
    pub begun: Instant,
    /// How long it took.
    pub took: Duration,
    /// The API server's message when it failed.
    pub result: Result<(), String>,
}

/// Makes pods in one namespace until it is dropped.
pub struct Traffic {
    namespace: String,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    done: watch::Receiver<usize>,
    task: tokio::task::AbortHandle,
}

impl Traffic {
    /// Begins to make pods with these images, one after the other.
    pub async fn start(lab: &Lab, namespace: &str, images: &[&str]) -> Self {
        let pods: Api<Pod> = Api::namespaced(lab.client().await, namespace);
        let images: Vec<String> = images.iter().map(|&image| image.to_owned()).collect();
        let attempts = Arc::<Mutex<Vec<Attempt>>>::default();
        let (count, done) = watch::channel(0);
        let kept = attempts.clone();
        let task = tokio::spawn(async move {
            let mut ticks = interval(PACE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut flights = JoinSet::new();
            for image in images.iter().cycle() {
                ticks.tick().await;
                while flights.try_join_next().is_some() {}
                let pod = json!({ "metadata": { "generateName": "t-" }, "spec": { "containers": [{ "name": "c", "image": image }] } });
                let pod: Pod = serde_json::from_value(pod).unwrap();
                let (pods, kept, count) = (pods.clone(), kept.clone(), count.clone());
                flights.spawn(async move {
                    let begun = Instant::now();
                    let result = pods.create(&PostParams::default(), &pod).await;
                    let result = result.map(|pod| drop(pod.name_any())).map_err(|error| error.to_string());
                    kept.lock().push(Attempt { begun, took: begun.elapsed(), result });
                    count.send_modify(|count| *count += 1);
                });
            }
        });
        Self { namespace: namespace.to_owned(), attempts, done, task: task.abort_handle() }
    }

    /// What came of the creations that began at or after `since`, as far as they have ended.
    pub fn since(&self, since: Instant) -> Vec<Attempt> {
        self.attempts.lock().iter().filter(|attempt| attempt.begun >= since).cloned().collect()
    }

    /// Waits until `count` creations that began after now have succeeded. With `strict`, none of them may fail.
    async fn pass(&self, count: usize, strict: bool) {
        let begun = Instant::now();
        let mut done = self.done.clone();
        let enough = done.wait_for(|_| {
            let attempts = self.since(begun);
            attempts.iter().filter(|attempt| attempt.result.is_ok()).count() >= count
                || (strict && attempts.iter().any(|attempt| attempt.result.is_err()))
        });
        let waited = timeout(2 * MOMENT, enough).await.is_ok();
        let attempts = self.since(begun);
        let failed: Vec<_> = attempts.iter().filter_map(|attempt| attempt.result.as_ref().err()).collect();
        assert!(
            waited,
            "{}: not {count} pods within {:?}; {} tried, of which failed: {failed:?}",
            self.namespace,
            2 * MOMENT,
            attempts.len()
        );
        assert!(!strict || failed.is_empty(), "{}: {failed:?}", self.namespace);
    }

    /// Waits until `count` pods more were made, and not one refused, all asked for after now.
    pub async fn flows(&self, count: usize) {
        self.pass(count, true).await;
    }

    /// Waits until `count` pods more were made; others may fail meanwhile.
    pub async fn flows_again(&self, count: usize) {
        self.pass(count, false).await;
    }

    /// Waits until a creation that began after now has failed, and returns its message.
    pub async fn fails(&self) -> String {
        let begun = Instant::now();
        let mut done = self.done.clone();
        let first = || self.since(begun).into_iter().find_map(|attempt| attempt.result.err());
        let waited = timeout(2 * MOMENT, done.wait_for(|_| first().is_some())).await.is_ok();
        assert!(waited, "{}: every pod was made for {:?}", self.namespace, 2 * MOMENT);
        first().unwrap()
    }

    /// Every creation since `since` must have succeeded. Returns how many there were, and the longest.
    #[track_caller]
    pub fn unharmed(&self, since: Instant) -> (usize, Duration) {
        let attempts = self.since(since);
        let failed: Vec<_> = attempts.iter().filter_map(|attempt| attempt.result.as_ref().err()).collect();
        assert!(failed.is_empty(), "{}: {} of {} failed: {failed:?}", self.namespace, failed.len(), attempts.len());
        (attempts.len(), attempts.iter().map(|attempt| attempt.took).max().unwrap_or_default())
    }

    /// From the first to the last creation that failed since `since`, and how many there were.
    pub fn gap(&self, since: Instant) -> (usize, Duration) {
        let attempts = self.since(since);
        let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
        let begins = failed.iter().map(|attempt| attempt.begun).min();
        let ends = failed.iter().map(|attempt| attempt.begun).max();
        (failed.len(), begins.zip(ends).map_or(Duration::ZERO, |(first, last)| last - first))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}
