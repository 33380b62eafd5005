//! What the leader does, and nobody else: it looks again at images in use, adopts, carries decisions out, emits audit lines and
//! Events from the numbered history, lists debts, collects what is unused, and keeps the webhook configuration.
//!
//! Every loop is level-triggered: it works out from what is there what is to be done, so that a new leader needs no hand-over and
//! a change that nobody saw is found all the same. Each write asks the claim first.

mod adopt;
mod collect;
mod debts;
mod decide;
mod emit;
mod entries;
mod inventory;
mod pass;
mod release;
mod statuses;
mod webhooks;

use std::{collections::HashSet, sync::Arc, time::Duration};

use kube::Client;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use entries::{Entries, entries};

use crate::{
    admin::{Condition, Readiness},
    api::ShortDuration,
    authority::Trust,
    lease::{Claim, Leadership},
    lookups::Lookups,
    metrics::Metrics,
    wallet::Wallet,
    watch::SharedIndex,
    writer::Writer,
};

/// How often a leader makes sure that its watches are alive.
const GLANCE: Duration = Duration::from_millis(250);

/// What the operator goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our own namespace.
    pub namespace: String,
    /// The name of this replica, for Events.
    pub pod_name: String,
    /// The Service that the API server reaches us by.
    pub service_name: String,
    /// Its port.
    pub service_port: i32,
    /// The ValidatingWebhookConfiguration, which the chart makes empty.
    pub webhook_configuration: String,
    /// How long the API server waits for us.
    pub webhook_timeout_seconds: i32,
    /// Namespaces that are never judged.
    pub excluded: HashSet<String>,
    /// For how long an image must have been unused to be collected.
    pub collect_after: ShortDuration,
}

/// Everything that the loops share.
pub struct Operator {
    client: Client,
    settings: Settings,
    index: SharedIndex,
    lookups: Arc<Lookups>,
    wallet: Arc<Wallet>,
    writer: Writer,
    metrics: Metrics,
    readiness: Readiness,
    watched: Vec<Condition>,
    trust: Trust,
    rules_changed: watch::Receiver<u64>,
    images_changed: watch::Receiver<u64>,
}

/// What [`Operator::new`] takes.
pub struct Parts {
    /// The API server.
    pub client: Client,
    /// What to go by.
    pub settings: Settings,
    /// Everything that is known by watching.
    pub index: SharedIndex,
    /// Asks registries.
    pub lookups: Arc<Lookups>,
    /// Credentials for them.
    pub wallet: Arc<Wallet>,
    /// Writes ImageStatus objects.
    pub writer: Writer,
    /// The metrics.
    pub metrics: Metrics,
    /// The webhook configuration is filled only when this replica is ready.
    pub readiness: Readiness,
    /// What the index is fed by. While one of these does not hold nobody operates here: a pass over images that are not all known yet would
    /// vouch for those that it did not look at.
    pub watched: Vec<Condition>,
    /// The caBundle to inject.
    pub trust: Trust,
    /// Changes with each change of a policy, registry or waiver.
    pub rules_changed: watch::Receiver<u64>,
    /// Changes with each change of an image status.
    pub images_changed: watch::Receiver<u64>,
}

/// One leader's term: the operator and the claim under which it may write.
#[derive(Clone)]
struct Term {
    operator: Arc<Operator>,
    claim: Claim,
    inventory: inventory::Shared,
}

impl Operator {
    /// An operator that does nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { client, settings, index, lookups, wallet, writer, metrics, readiness, watched, trust, rules_changed, images_changed } =
            parts;
        Arc::new(Self {
            client,
            settings,
            index,
            lookups,
            wallet,
            writer,
            metrics,
            readiness,
            watched,
            trust,
            rules_changed,
            images_changed,
        })
    }

    /// Operates whenever this replica leads, until `stop`.
    pub async fn run(self: Arc<Self>, mut leadership: Leadership, stop: CancellationToken) {
        loop {
            let claim = leadership.borrow_and_update().clone();
            self.metrics.leading.set(i64::from(claim.is_some()));
            let Some(claim) = claim else {
                tokio::select! {
                    changed = leadership.changed() => if changed.is_err() { return },
                    () = stop.cancelled() => return,
                }
                continue;
            };
            if !self.sees() {
                tokio::select! {
                    () = tokio::time::sleep(GLANCE) => {}
                    () = stop.cancelled() => return,
                }
                continue;
            }
            tracing::info!(term = claim.term(), "leading");
            let mut tasks = self.clone().begin(&claim);
            let ended = loop {
                tokio::select! {
                    changed = leadership.changed() => {
                        let same = leadership.borrow_and_update().as_ref().is_some_and(|now| now.term() == claim.term());
                        if changed.is_err() || !same {
                            break "the claim ended";
                        }
                    }
                    _ = tasks.join_next() => break "a loop of the operator ended",
                    () = tokio::time::sleep(GLANCE) => if !self.sees() { break "a watch has failed" },
                    () = stop.cancelled() => break "stopping",
                }
            };
            tasks.shutdown().await;
            self.metrics.leading.set(0);
            tracing::info!(term = claim.term(), why = ended, "no longer leading");
            if stop.is_cancelled() {
                return;
            }
            // A loop that ended under a claim that goes on was a bug's doing: begin again, but not in a spin.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Whether the index is all that there is.
    fn sees(&self) -> bool {
        self.watched.iter().all(Condition::holds)
    }

    fn begin(self: Arc<Self>, claim: &Claim) -> JoinSet<()> {
        let inventory = inventory::Shared::default();
        let term = Term { operator: self, claim: claim.clone(), inventory };
        let mut tasks = JoinSet::new();
        tasks.spawn(inventory::watch(term.clone()));
        tasks.spawn(decide::run(term.clone()));
        tasks.spawn(pass::run(term.clone()));
        tasks.spawn(debts::run(term.clone()));
        tasks.spawn(collect::run(term.clone()));
        tasks.spawn(webhooks::run(term));
        tasks
    }
}

impl Term {
    /// Whether a write may still be begun.
    fn may_write(&self) -> bool {
        self.claim.is_current()
    }
}
