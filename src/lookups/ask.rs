//! Asks registries, within their lines, and finds out what an end without an answer means.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{
    Access, BOUNDS, Lives,
    blocked::Blocked,
    evidence::About,
    keys::{HoldsKey, JudgeKey, PermitKey, ProbeKey, ProveKey, ResolveKey, place},
    origin::FoundHeld,
    permit::Permits,
    rooms::Rooms,
    sources::Sources,
    suffices,
    tags::{Tags, is_ours},
};
use crate::{
    api::{Evidence, MAX_CHILDREN, QuarantineProvider},
    facts::{Busy, BusyCause, Facts, Outcome},
    flights::{Flights, Found},
    history::{Observation, Weight},
    image::{Digest, Reference, Subject},
    index::Known,
    line::{Class, Line},
    metrics::{Asked, Metrics, QuestionLabels},
    policy::RegistryEntry,
    provider::{self, Question, Seen},
    registry::{Endpoint, Failure, Pass, RegistryClient, TagOrDigest},
    watch::SharedIndex,
    writer::{WriteError, Writer},
};

/// How long a judgement waits for its being written down.
const WRITING: Duration = Duration::from_secs(1);

/// What a flight takes along.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) client: Arc<RegistryClient>,
    pub(super) index: SharedIndex,
    pub(super) writer: Option<Writer>,
    pub(super) metrics: Metrics,
    pub(super) tags: Tags,
    pub(super) blocked: Blocked,
    pub(super) sources: Sources,
    pub(super) resolves: Flights<ResolveKey, Outcome<Digest>>,
    pub(super) judges: Flights<JudgeKey, Outcome<Arc<Facts>>>,
    pub(super) proofs: Flights<ProveKey, Outcome<Arc<Evidence>>>,
    pub(super) holds: Flights<HoldsKey, Outcome<bool>>,
    pub(super) found_held: Mutex<FoundHeld>,
    pub(super) permissions: Flights<PermitKey, Outcome<()>>,
    pub(super) permits: Permits,
    /// How much of evidence is held at once.
    pub(super) rooms: Rooms,
    pub(super) probes: Flights<ProbeKey, bool>,
    /// Counts registries that were out and are well again.
    pub(super) recovered: watch::Sender<u64>,
    pub(super) lives: Lives,
    jitter: RandomState,
}

/// One question and all that its end depends on.
pub(super) struct Context<'a> {
    pub(super) registry: Option<&'a Arc<RegistryEntry>>,
    pub(super) endpoint: &'a Endpoint,
    pub(super) access: &'a Access,
    pub(super) repository: &'a str,
    pub(super) class: Class,
    pub(super) namespace: &'a str,
    /// Something is known of it from before: then nobody waits to see whether a registry that is out answers again, where that was looked at lately.
    pub(super) known: bool,
}

pub(super) fn endpoint(host: &str, registry: Option<&Arc<RegistryEntry>>) -> Result<Endpoint, String> {
    match registry {
        Some(registry) => Endpoint::listed(host, &registry.spec).map_err(|error| error.to_string()),
        None => Endpoint::unlisted(host).map_err(|error| error.to_string()),
    }
}

impl Parts {
    pub(super) fn new(client: Arc<RegistryClient>, index: SharedIndex, writer: Option<Writer>, metrics: Metrics, lives: Lives) -> Self {
        Self {
            client,
            index,
            writer,
            metrics,
            tags: Tags::default(),
            blocked: Blocked::default(),
            sources: Sources::default(),
            resolves: Flights::new(BOUNDS),
            judges: Flights::new(BOUNDS),
            proofs: Flights::new(BOUNDS),
            holds: Flights::new(BOUNDS),
            found_held: Mutex::default(),
            permissions: Flights::new(BOUNDS),
            permits: Permits::default(),
            rooms: Rooms::default(),
            probes: Flights::new(BOUNDS),
            recovered: watch::channel(0).0,
            lives,
            jitter: RandomState::new(),
        }
    }

    /// The digest that a tag stands for.
    pub(super) async fn resolve(
        self: Arc<Self>,
        key: ResolveKey,
        registry: Option<Arc<RegistryEntry>>,
        access: Access,
        namespace: String,
    ) -> Found<Outcome<Digest>> {
        let outcome = self.ask_digest(&key.image, registry.as_ref(), &access, &namespace).await;
        self.metrics.questions.get_or_create(&QuestionLabels { question: Asked::Resolve, outcome: outcome.kind() }).inc();
        if let Outcome::Found(digest) = &outcome
            && self.place_of(key.image.registry(), key.image.repository()) == key.place
        {
            self.tags.resolved(&key.image, &access, digest);
        }
        self.found(outcome, self.lives.tag)
    }

    async fn ask_digest(
        self: &Arc<Self>,
        image: &Reference,
        registry: Option<&Arc<RegistryEntry>>,
        access: &Access,
        namespace: &str,
    ) -> Outcome<Digest> {
        let endpoint = match endpoint(image.registry(), registry) {
            Ok(endpoint) => endpoint,
            Err(error) => return Outcome::Misbehaved(error),
        };
        let repository = image.repository();
        let known = self.last_digest(image, Some(access)).is_some();
        let context = Context { registry, endpoint: &endpoint, access, repository, class: Class::Admission, namespace, known };
        let tag = TagOrDigest::Tag(image.tag().unwrap_or("latest"));
        self.ask(&context, async |client| client.resolve(&endpoint, &access.credentials, repository, tag).await).await
    }

    /// The facts about a digest, written down where the key says so.
    pub(super) async fn judge(
        self: Arc<Self>,
        key: JudgeKey,
        registry: Option<Arc<RegistryEntry>>,
        access: Access,
        namespace: String,
        class: Class,
    ) -> Found<Outcome<Arc<Facts>>> {
        let by_now = {
            let (parts, subject, registry) = (self.clone(), key.subject.clone(), registry.clone());
            move || parts.by_now(&subject, registry.as_ref())
        };
        let needless = by_now.clone();
        let unless = move |pass: Pass| pass.unless(move || needless().is_some());
        let outcome = self.ask_state(&key.subject, registry.as_ref(), &access, class, &namespace, unless).await;
        if let (Outcome::Busy(_), Some(facts)) = (&outcome, by_now()) {
            return self.found(Outcome::Found(facts), self.lives.facts);
        }
        self.metrics.questions.get_or_create(&QuestionLabels { question: Asked::Judge, outcome: outcome.kind() }).inc();
        let outcome = match outcome.found() {
            Ok(Seen::Pending(why)) => Outcome::Pending(why),
            Ok(Seen::State(_)) if self.place_of(key.subject.registry(), key.subject.repository()) != key.place => {
                // Somebody else answered than whom the Registry object names by now.
                Outcome::Busy(Busy::UNANSWERED)
            }
            Ok(Seen::State(observation)) if key.record => {
                let unwritten = self.unwritten(&key.subject, &observation);
                let (parts, subject) = (self.clone(), key.subject.clone());
                let writing = tokio::spawn(async move { parts.record(&subject, observation, &namespace).await });
                // An API server that is slow or wants to be left alone keeps nobody from what the registry has said.
                match tokio::time::timeout(WRITING, writing).await {
                    Ok(Ok(Ok(written))) => Outcome::Found(written),
                    _ => Outcome::Found(unwritten),
                }
            }
            Ok(Seen::State(observation)) => Outcome::Found(self.unwritten(&key.subject, &observation)),
            Err(end) => end,
        };
        self.found(outcome, self.lives.facts)
    }

    pub(super) fn place_of(&self, host: &str, repository: &str) -> u64 {
        place(self.index.read().rules().registry_for(host, repository))
    }

    /// What is written of an image meanwhile, by another replica, say, if that is enough to judge it by.
    fn by_now(&self, subject: &Subject, registry: Option<&Arc<RegistryEntry>>) -> Option<Arc<Facts>> {
        let known = self.index.read().image(subject)?;
        suffices(&known, subject, registry, true).then(|| known.facts.clone())
    }

    /// What the keeper of the flag says of a digest.
    pub(super) async fn ask_state(
        self: &Arc<Self>,
        subject: &Subject,
        registry: Option<&Arc<RegistryEntry>>,
        access: &Access,
        class: Class,
        namespace: &str,
        pass: impl FnOnce(Pass) -> Pass,
    ) -> Outcome<Seen> {
        let endpoint = match endpoint(subject.registry(), registry) {
            Ok(endpoint) => endpoint,
            Err(error) => return Outcome::Misbehaved(error),
        };
        let known = self.index.read().image(subject).is_some();
        let context = Context { registry, endpoint: &endpoint, access, repository: subject.repository(), class, namespace, known };
        let keeper = provider::keeper(registry.map_or(QuarantineProvider::None, |registry| registry.provider));
        let outcome = self
            .ask_with(&context, pass, async |client| {
                let adopted = registry.is_some_and(|registry| registry.adopted.is_some());
                let (endpoint, credentials, now) = (&endpoint, &*access.credentials, Timestamp::now());
                keeper.observe(Question { client: &client, endpoint, credentials, subject, adopted, now }).await
            })
            .await;
        // Whoever reaches the webhook's port may make up namespaces.
        let exists = class != Class::Admission || self.index.read().namespace(namespace).is_some();
        if let Some(registry) = registry.filter(|_| exists && matches!(outcome, Outcome::Found(_)) && is_ours(access)) {
            self.sources.health(&registry.name, &endpoint).answered(namespace, subject.repository(), subject.digest());
        }
        outcome
    }

    /// Writes an observation down. What comes back may know more than what was seen: a person's decision, say. A bad finding that cannot be
    /// written is held in memory, so that what is written does not hide it from this replica.
    pub(super) async fn record(&self, subject: &Subject, seen: Observation, namespace: &str) -> Result<Arc<Facts>, WriteError> {
        let Some(writer) = &self.writer else { return Ok(self.unwritten(subject, &seen)) };
        match writer.record(subject, &seen, namespace).await {
            Ok(object) => {
                let written = Known::read(&object, Timestamp::now()).map(|(_, known)| known.facts);
                self.index.write().apply_written(&object, Timestamp::now());
                Ok(written.unwrap_or_else(|| Arc::new(seen.facts)))
            }
            Err(error) => {
                tracing::warn!(%subject, %error, "an image's status was not written");
                self.index.write().hold_unwritten(subject, &Arc::new(seen.facts));
                Err(error)
            }
        }
    }

    /// What is known once an observation was made that is not written down, in a dry run or because it could not be. What is known to
    /// be bad is not cleared by that, nor a state that was kept: only the merge with what is written could tell that it may be.
    fn unwritten(&self, subject: &Subject, seen: &Observation) -> Arc<Facts> {
        let known = self.index.read().image(subject).filter(|known| {
            let cleared = seen.weight == Weight::Explicit && !known.held;
            let bad = known.facts.state.is_bad() && !seen.facts.state.is_bad() && !cleared;
            bad || (known.facts.provider == seen.facts.provider && seen.weight == Weight::First)
        });
        let fresh = || {
            let mut facts = seen.facts.clone();
            // As much of it as would be written, so that what is remembered is bounded.
            facts.manifest.cut |= facts.manifest.children.len() > MAX_CHILDREN;
            facts.manifest.children.truncate(MAX_CHILDREN);
            Arc::new(facts)
        };
        let Some(known) = known else { return fresh() };
        if !known.facts.manifest.is_unread() {
            return known.facts.clone();
        }
        // A person may have decided before anybody looked inside.
        Arc::new(Facts { manifest: fresh().manifest.clone(), ..(*known.facts).clone() })
    }

    /// Asks, each request in its turn. When the question turns slow a probe starts beside it, so that the evidence is there when the time
    /// is up.
    pub(super) async fn ask<T>(
        self: &Arc<Self>,
        context: &Context<'_>,
        question: impl AsyncFnOnce(RegistryClient) -> Result<T, Failure>,
    ) -> Outcome<T> {
        self.ask_with(context, |pass| pass, question).await
    }

    async fn ask_with<T>(
        self: &Arc<Self>,
        context: &Context<'_>,
        pass: impl FnOnce(Pass) -> Pass,
        question: impl AsyncFnOnce(RegistryClient) -> Result<T, Failure>,
    ) -> Outcome<T> {
        let about = context.registry.map(|registry| About::of(context, registry, &self.sources));
        let health = about.as_ref().map(|about| about.health().clone());
        if let Some(outage) = health.as_ref().and_then(|health| health.out()) {
            let again = match (context.class, about.clone()) {
                (Class::Admission, Some(about)) => self.answers_again(about, !context.known).await,
                _ => false,
            };
            if !again {
                return Outcome::Unavailable(outage);
            }
        }
        let line = about.as_ref().map_or_else(|| self.sources.line(&context.endpoint.host, None), |about| about.line().clone());
        let parts = self.clone();
        let slow = move || {
            if let Some(about) = about {
                let probe = || parts.clone().probe(about.clone());
                parts.probes.launch(about.key(), about.ticket(), probe);
            }
        };
        let mut pass = pass(Pass::new(line, context.class, context.namespace, context.endpoint.timeout, slow));
        if let Some(health) = &health {
            pass = pass.interrupted_by(health.watch());
        }
        match (question(self.client.within(pass)).await, health) {
            (Ok(value), health) => {
                if let Some((registry, health)) = context.registry.zip(health).filter(|(_, health)| health.out().is_some()) {
                    self.well_again(&registry.name, &health);
                }
                Outcome::Found(value)
            }
            (Err(failure), health) => {
                if let (Failure::Throttled { .. }, Some((registry, health))) = (&failure, context.registry.zip(health)) {
                    // That is an answer, too, and nobody asks whether it is alive until its time is over.
                    self.well_again(&registry.name, &health);
                }
                self.meaning(context, failure).await
            }
        }
    }

    pub(super) async fn meaning<T>(self: &Arc<Self>, context: &Context<'_>, failure: Failure) -> Outcome<T> {
        match failure {
            Failure::NotFound => match context.registry.map(|registry| registry.provider) {
                Some(QuarantineProvider::AzureContainerRegistry) => Outcome::Hidden,
                Some(QuarantineProvider::Managed | QuarantineProvider::None) | None => Outcome::Absent,
            },
            Failure::Forbidden(_) => Outcome::Refused,
            Failure::Blocked(block) => Outcome::Blocked(block),
            Failure::Pending(why) => Outcome::Pending(why),
            Failure::Misbehaved(what) => Outcome::Misbehaved(what),
            Failure::Held(busy) => Outcome::Busy(busy),
            Failure::Throttled { retry_after } => {
                let retry_after = retry_after.unwrap_or(Duration::from_secs(1));
                Outcome::Busy(Busy { cause: BusyCause::Throttled, retry_after })
            }
            Failure::Unauthorized(why) => {
                let own = context.registry.filter(|_| context.access.own);
                match own {
                    Some(registry) if self.refuses_everything(context, registry).await => Outcome::Unauthorized(why),
                    _ => Outcome::Refused,
                }
            }
            Failure::Outage(outage) => self.outage(context, outage).await,
        }
    }

    pub(super) fn found<T>(&self, outcome: Outcome<T>, good: Duration) -> Found<Outcome<T>> {
        let life = match &outcome {
            Outcome::Found(_) => good,
            Outcome::Absent
            | Outcome::Hidden
            | Outcome::Refused
            | Outcome::Blocked(_)
            | Outcome::Misbehaved(_)
            | Outcome::Unauthorized(_) => self.lives.no,
            Outcome::Pending(_) => self.lives.not_yet,
            // Whoever asks in an outage waits for a look that all of them share, and for no answer of before it.
            Outcome::Unavailable(_) => Duration::ZERO,
            Outcome::Busy(busy) => busy.retry_after.min(self.lives.not_yet),
        };
        Found { value: outcome, fresh_for: self.jittered(life) }
    }

    /// Between three quarters of a life and the whole, so that what was asked together is not asked again together.
    fn jittered(&self, life: Duration) -> Duration {
        let share = u32::try_from(self.jitter.hash_one(Instant::now()) % 256).unwrap_or_default();
        life * (768 + share) / 1_024
    }

    /// The line in front of a registry, for what the leader asks of it besides.
    pub(super) fn line(&self, host: &str, registry: &RegistryEntry) -> Line {
        self.sources.line(host, Some(registry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{Outage, OutageKind},
        registry::ClientOptions,
    };

    /// Its author may own it: nothing that it does or leaves undone is evidence of anything, so it is not even sought.
    #[tokio::test]
    async fn a_host_without_a_registry_object_is_never_unavailable() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Arc::new(RegistryClient::new(ClientOptions::default()).unwrap());
        let parts = Arc::new(Parts::new(client, SharedIndex::default(), None, Metrics::new().0, Lives::default()));
        let (endpoint, access) = (endpoint("registry.example", None).unwrap(), crate::wallet::anonymous());
        let (repository, class, namespace) = ("team/app", Class::Admission, "team");
        let context = Context { registry: None, endpoint: &endpoint, access: &access, repository, class, namespace, known: false };
        for kind in [OutageKind::Connect, OutageKind::TimedOut, OutageKind::ServerError] {
            let outage = Outage { kind, message: "out".to_owned() };
            let outcome: Outcome<()> = parts.meaning(&context, Failure::Outage(outage)).await;
            assert!(matches!(outcome, Outcome::Busy(Busy { cause: BusyCause::Unlisted, .. })), "{outcome:?}");
        }
        assert_eq!((parts.probes.aloft(), parts.probes.kept()), (0, (0, 0)), "nobody was probed");
    }
}
