//! Leadership by compare-and-swap on a Lease.
//!
//! What only one replica may do (polling, status, emitting) is done by the one that holds the Lease. The rules are client-go's, with its
//! numbers: a term of 15 s, given up after 10 s without a renewal, each call bounded to a third of the term. Healthy leaders renew every 5 s
//! where client-go does every 2 s: one write in etcd is what this costs, and a fresh try each second after a failure keeps the margin.
//!
//! 1. A Lease has run out when *we* have not seen it change for its term, by our monotonic clock. Times written by others are for people.
//! 2. Every write carries the resourceVersion that was read: whoever lost a race gets 409 and has changed nothing.
//! 3. Our own time counts from *before* the request that renewed it, others' waiting from after they saw the result. So a leader stops at
//!    least [`MARGIN`] before anybody can follow it, reachable or not.
//!
//! No lease can stop a process between its check and its write: a frozen leader may wake up in the middle of a request. So whoever leads asks
//! [`Claim::is_current`] before each write, bounds the write to [`MARGIN`], and writes with a resourceVersion, which is what decides in the end.
//! A claim ends by the clock, with nobody there to end it. Of two clocks: the monotonic one runs on while a process is stopped (SIGSTOP, a
//! starved node) but not while a machine is suspended, where the wall clock jumps; the first of the two to run out ends the claim. The wall
//! clock set backwards during a suspension would hide it: then only the resourceVersion is left.
//!
//! Crates that offer this compare clocks of several nodes, or release without a resourceVersion and so wipe a successor's Lease.

mod decide;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::coordination::v1::{Lease as Stored, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use decide::{Action, Observed, decide, observe};

/// How long others leave a Lease alone that they do not see change.
const TERM: Duration = Duration::from_secs(15);

/// How long a renewal is good for, from before its request.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// Between renewals.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// Between looks at a Lease that another holds.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// For all calls of one try.
const TRY: Duration = Duration::from_secs(5);

/// Between the end of a claim and the earliest follower: how long a write begun under a claim may take at most.
pub const MARGIN: Duration = TERM.saturating_sub(GOOD_FOR);

/// What [`Lease::run`] says: the claim while we lead.
pub type Leadership = watch::Receiver<Option<Claim>>;

/// Proof of leading, valid by the clock. Renewals prolong it; once it has ended it never comes back.
#[derive(Clone)]
pub struct Claim {
    term: u64,
    until: Arc<Mutex<Option<Until>>>,
}

#[derive(Clone, Copy)]
struct Until {
    monotonic: Instant,
    wall: Timestamp,
}

/// Contends for one Lease.
pub struct Lease {
    leases: Api<Stored>,
    name: String,
    identity: String,
    owners: Vec<OwnerReference>,
    seen: Option<Observed>,
    claims: watch::Sender<Option<Claim>>,
}

/// How a try ended that the API server answered.
enum Outcome {
    Leading,
    Following,
    /// Somebody wrote between our read and our write: another contender, or a person with a label. The next read tells.
    Overtaken,
}

// === impl Claim ===

impl Claim {
    /// Counts changes of leadership, upwards over the life of the Lease object: no two claims bear the same number.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether we still lead. Ask before each write, not once before a batch.
    pub fn is_current(&self) -> bool {
        self.until.lock().is_some_and(|until| Instant::now() < until.monotonic && Timestamp::now() < until.wall)
    }

    fn ends(&self) -> Option<Instant> {
        self.until.lock().map(|until| until.monotonic)
    }

    /// Fails if it has ended: a claim that somebody saw end must not come back.
    fn prolong(&self, until: Until) -> bool {
        let current = self.is_current();
        if current {
            *self.until.lock() = Some(until);
        }
        current
    }

    fn end(&self) {
        *self.until.lock() = None;
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("term", &self.term).field("current", &self.is_current()).finish_non_exhaustive()
    }
}

impl Until {
    /// For a request that begins now.
    fn beginning_now() -> Self {
        let wall = Timestamp::now();
        let good_for = SignedDuration::try_from(GOOD_FOR).unwrap_or_default();
        Self { monotonic: Instant::now() + GOOD_FOR, wall: wall.checked_add(good_for).unwrap_or(wall) }
    }
}

// === impl Lease ===

impl Lease {
    /// `replica` is a name for people (the pod's). The identity adds a random part, so that it belongs to this process alone: a container that
    /// restarts in the same pod is another one.
    pub fn new(client: Client, namespace: &str, name: &str, replica: &str) -> (Self, Leadership) {
        let (claims, leadership) = watch::channel(None);
        let identity = format!("{replica}_{:016x}", RandomState::new().hash_one(replica));
        let leases = Api::namespaced(client, namespace);
        let lease = Self { leases, name: name.to_owned(), identity, owners: Vec::new(), seen: None, claims };
        (lease, leadership)
    }

    /// What the Lease is deleted with. Set when it is made, never later.
    #[must_use]
    pub fn owned_by(self, owners: Vec<OwnerReference>) -> Self {
        Self { owners, ..self }
    }

    /// What stands in `holderIdentity` while this process leads.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Contends until `stop`, then releases what is held. Stop whoever acts under the claim first: after the release another acts at once.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let begun = Instant::now();
            let ends = self.claim().and_then(|claim| claim.ends());
            let attempt = tokio::time::timeout_at(ends.map_or(begun + TRY, |ends| ends.min(begun + TRY)), self.attempt());
            let outcome = tokio::select! {
                outcome = attempt => outcome,
                () = stop.cancelled() => break,
            };
            let next = match outcome {
                Ok(Ok(Outcome::Leading)) => RENEW_EVERY,
                Ok(Ok(Outcome::Following)) => {
                    self.stop_leading("another holds the Lease");
                    LOOK_EVERY
                }
                Ok(Ok(Outcome::Overtaken)) => RETRY_AFTER,
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.name, "cannot read or write the Lease");
                    RETRY_AFTER
                }
                Err(_) => {
                    tracing::warn!(lease = self.name, "the API server did not answer for the Lease");
                    RETRY_AFTER
                }
            };
            let next = match self.claim() {
                Some(claim) if !claim.is_current() => {
                    self.stop_leading("the claim ran out");
                    Instant::now()
                }
                Some(claim) => claim.ends().map_or(begun + next, |ends| ends.min(begun + next)),
                None => begun + next,
            };
            tokio::select! {
                // Never at once: a loop that fails at once must not spin.
                () = tokio::time::sleep_until(next.max(Instant::now() + Duration::from_millis(100))) => {}
                () = stop.cancelled() => break,
            }
        }
        self.release().await;
    }

    /// Reads, decides, and writes if there is something to take or to renew.
    async fn attempt(&mut self) -> kube::Result<Outcome> {
        let until = Until::beginning_now();
        let mut stored = self.leases.get_opt(&self.name).await?;
        let now = Instant::now();
        self.seen = observe(self.seen.take(), stored.as_ref(), now);
        let action = decide(self.seen.as_ref(), &self.identity, now);
        if action == Action::Leave {
            return Ok(Outcome::Following);
        }
        let continued = self.claim();
        let transitions = stored.as_ref().and_then(|lease| lease.spec.as_ref()?.lease_transitions).unwrap_or_default();
        let transitions = if continued.is_some() { transitions } else { transitions.saturating_add(1) };
        let lease = stored.get_or_insert_with(|| Stored {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                owner_references: (!self.owners.is_empty()).then(|| self.owners.clone()),
                ..ObjectMeta::default()
            },
            ..Stored::default()
        });
        self.fill(lease.spec.get_or_insert_default(), transitions, continued.is_some());
        let parameters = PostParams::default();
        let written = match action {
            Action::Create => self.leases.create(&parameters, lease).await,
            _ => self.leases.replace(&self.name, &parameters, lease).await,
        };
        match written {
            Ok(written) => self.seen = observe(self.seen.take(), Some(&written), now),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => return Ok(Outcome::Overtaken),
            Err(error) => return Err(error),
        }
        match continued {
            Some(claim) => {
                claim.prolong(until);
            }
            None => self.start_leading(u64::try_from(transitions).unwrap_or_default(), until),
        }
        Ok(Outcome::Leading)
    }

    fn fill(&self, spec: &mut LeaseSpec, transitions: i32, continued: bool) {
        let now = Some(MicroTime(Timestamp::now()));
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(TERM.as_secs()).ok();
        spec.lease_transitions = Some(transitions);
        spec.renew_time.clone_from(&now);
        if !continued {
            spec.acquire_time = now;
        }
    }

    fn claim(&self) -> Option<Claim> {
        self.claims.borrow().clone()
    }

    /// Says nothing if the claim is over already: the process stood still between the request and its answer.
    fn start_leading(&self, term: u64, until: Until) {
        let claim = Claim { term, until: Arc::new(Mutex::new(Some(until))) };
        if claim.is_current() {
            tracing::info!(term, identity = self.identity, "leading");
            self.claims.send_replace(Some(claim));
        }
    }

    fn stop_leading(&self, reason: &'static str) {
        // Followers come here at each look: nobody is woken for it.
        self.claims.send_if_modified(|claim| {
            let ended = claim.take();
            if let Some(claim) = &ended {
                claim.end();
                tracing::info!(term = claim.term, reason, "no longer leading");
            }
            ended.is_some()
        });
    }

    /// Frees the Lease if it is still ours, so that the next leader need not wait for a term.
    async fn release(&self) {
        self.stop_leading("shutting down");
        let release = async {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
                return Ok(());
            }
            spec.holder_identity = None;
            self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
        };
        match tokio::time::timeout(TRY, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "the Lease was not released; it runs out by itself"),
            Err(_) => tracing::info!("the Lease was not released in time; it runs out by itself"),
        }
    }
}

#[cfg(test)]
mod tests;
