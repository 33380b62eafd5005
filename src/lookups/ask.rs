//! Asks registries, within their lines, and finds out what an end without an answer means.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{
    Access, BOUNDS, Lives,
    health::{FIRST_LOOK, Health, LAST_LOOK},
    keys::{JudgeKey, ProbeKey, ResolveKey, place},
    sources::Sources,
    suffices,
    tags::{Tags, is_ours},
};
use crate::{
    api::{MAX_CHILDREN, QuarantineProvider},
    facts::{Busy, BusyCause, Facts, Outage, Outcome, OutcomeKind},
    flights::{Flights, Found, Ticket},
    history::{Observation, Weight},
    image::{Digest, Reference, Subject},
    index::Known,
    line::{Class, Line},
    memory::Memory,
    metrics::{Asked, Metrics, QuestionLabels},
    policy::RegistryEntry,
    provider::{self, Question, Seen},
    registry::{Endpoint, Failure, Pass, RegistryClient, Request, TagOrDigest},
    watch::SharedIndex,
    writer::{WriteError, Writer},
};

/// How long a probe's finding counts as evidence.
const EVIDENCE: Duration = Duration::from_secs(2);
/// How long a judgement waits for its being written down.
const WRITING: Duration = Duration::from_secs(1);
/// From one look at a registry's front door to the next.
const BETWEEN_PINGS: Duration = Duration::from_millis(100);
/// Images that registries were seen to block, remembered until they are seen to be let through.
const MOST_BLOCKED: usize = 4_096;
/// The least time that a probe has.
const SHORTEST_PROBE: Duration = Duration::from_millis(500);

/// What a flight takes along.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) client: Arc<RegistryClient>,
    pub(super) index: SharedIndex,
    pub(super) writer: Option<Writer>,
    pub(super) metrics: Metrics,
    pub(super) tags: Tags,
    /// What registries blocked, in memory only: an outage opens none of it.
    pub(super) blocked: Mutex<Memory<Reference, Arc<Facts>>>,
    pub(super) sources: Sources,
    pub(super) resolves: Flights<ResolveKey, Outcome<Digest>>,
    pub(super) judges: Flights<JudgeKey, Outcome<Arc<Facts>>>,
    probes: Flights<ProbeKey, bool>,
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
}

pub(super) fn endpoint(host: &str, registry: Option<&Arc<RegistryEntry>>) -> Result<Endpoint, String> {
    match registry {
        Some(registry) => Endpoint::listed(host, &registry.spec).map_err(|error| error.to_string()),
        None => Endpoint::unlisted(host).map_err(|error| error.to_string()),
    }
}

/// What the health of a registry is looked into for: whose question about what it did not answer.
#[derive(Clone, Debug)]
struct About {
    registry: Arc<str>,
    endpoint: Endpoint,
    access: Access,
    health: Arc<Health>,
    namespace: Arc<str>,
    repository: Arc<str>,
}

impl About {
    fn of(context: &Context<'_>, registry: &RegistryEntry, health: Arc<Health>) -> Self {
        Self {
            registry: registry.name.as_str().into(),
            endpoint: context.endpoint.clone(),
            access: context.access.clone(),
            health,
            namespace: context.namespace.into(),
            repository: context.repository.into(),
        }
    }

    fn key(&self) -> ProbeKey {
        ProbeKey::Well(self.registry.clone(), self.namespace.clone())
    }

    /// Probes are nobody's share.
    fn ticket(&self) -> Ticket<'_> {
        Ticket { asker: "", destination: &self.registry }
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
            blocked: Mutex::new(Memory::new(MOST_BLOCKED)),
            sources: Sources::default(),
            resolves: Flights::new(BOUNDS),
            judges: Flights::new(BOUNDS),
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
        let context = Context { registry, endpoint: &endpoint, access, repository, class: Class::Admission, namespace };
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
                Outcome::Busy(Busy { cause: BusyCause::Deadline, retry_after: Duration::from_secs(1) })
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

    fn place_of(&self, host: &str, repository: &str) -> u64 {
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
        let context = Context { registry, endpoint: &endpoint, access, repository: subject.repository(), class, namespace };
        let keeper = provider::keeper(registry.map_or(QuarantineProvider::None, |registry| registry.provider));
        let outcome = self
            .ask_with(&context, pass, async |client| {
                let adopted = registry.is_some_and(|registry| registry.adopted.is_some());
                let (endpoint, credentials, now) = (&endpoint, &*access.credentials, Timestamp::now());
                keeper.observe(Question { client: &client, endpoint, credentials, subject, adopted, now }).await
            })
            .await;
        if let Some(registry) = registry.filter(|_| matches!(outcome, Outcome::Found(_)) && is_ours(access)) {
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
            let bad = known.facts.state.is_bad() && !seen.facts.state.is_bad() && seen.weight != Weight::Explicit;
            bad || (known.facts.provider == seen.facts.provider && seen.weight == Weight::First)
        });
        let fresh = || {
            let mut facts = seen.facts.clone();
            // As much of it as would be written, so that what is remembered is bounded.
            facts.manifest.cut |= facts.manifest.children.len() > MAX_CHILDREN;
            facts.manifest.children.truncate(MAX_CHILDREN);
            Arc::new(facts)
        };
        known.map_or_else(fresh, |known| known.facts.clone())
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
        let health = context.registry.map(|registry| self.sources.health(&registry.name, context.endpoint));
        if let Some(outage) = health.as_ref().and_then(|health| health.out()) {
            return Outcome::Unavailable(outage);
        }
        let line = self.sources.line(&context.endpoint.host, context.registry.map(AsRef::as_ref));
        let (parts, about) =
            (self.clone(), context.registry.zip(health.clone()).map(|(registry, health)| About::of(context, registry, health)));
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
            (Err(Failure::Outage(outage)), Some(health)) => match health.out() {
                // Somebody else has found it out meanwhile.
                Some(outage) => Outcome::Unavailable(outage),
                None => self.outage(context, outage).await,
            },
            (Err(failure), _) => self.meaning(context, failure).await,
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
                if context.registry.is_some() && context.access.own && self.refuses_everything(context).await {
                    Outcome::Unauthorized(why)
                } else {
                    Outcome::Refused
                }
            }
            Failure::Outage(outage) => self.outage(context, outage).await,
        }
    }

    async fn outage<T>(self: &Arc<Self>, context: &Context<'_>, outage: Outage) -> Outcome<T> {
        let Some(registry) = context.registry else {
            // Its author may own it: no finding about it opens anything, so none is sought.
            return Outcome::Busy(Busy { cause: BusyCause::Unlisted, retry_after: Duration::from_secs(5) });
        };
        let deadline = Instant::now() + context.endpoint.timeout;
        let about = About::of(context, registry, self.sources.health(&registry.name, context.endpoint));
        let probe = || self.clone().probe(about.clone());
        match self.probes.get(about.key(), about.ticket(), deadline, probe).await {
            Ok(false) => {}
            Ok(true) => {
                let message = outage.message;
                return Outcome::Pending(format!("the registry is well, but did not answer about this image ({message})"));
            }
            Err(why) => return super::busy(why),
        }
        self.found_out(&about, &outage);
        Outcome::Unavailable(outage)
    }

    /// The operator's regular look at a registry ended in an outage: it counts as one only with the evidence that every other has to have.
    pub(super) async fn suspect(self: &Arc<Self>, registry: &Arc<RegistryEntry>, endpoint: &Endpoint, access: &Access, outage: &Outage) {
        let context = Context { registry: Some(registry), endpoint, access, repository: "", class: Class::Polling, namespace: "" };
        let _found: Outcome<()> = self.outage(&context, outage.clone()).await;
    }

    /// A registry is out, by evidence about itself.
    fn found_out(self: &Arc<Self>, about: &About, outage: &Outage) {
        if about.health.found_out(outage) {
            tracing::warn!(registry = &*about.registry, host = about.endpoint.host, outage = outage.message, "a registry is out");
            tokio::spawn(self.clone().await_recovery(about.clone()));
        }
    }

    /// Whether a registry is well, as far as there is evidence that the author of one image cannot make: it answers about some of the images
    /// that other namespaces asked for, in other repositories. Its storage may be out while its front door is not, and the other way round.
    /// Where there are too few such images, whether it answers anything at all.
    async fn is_well(&self, about: &About, besides: Option<(&str, &str)>) -> bool {
        let mut endpoint = about.endpoint.clone();
        // The evidence must be there before the first review's patience ends.
        endpoint.timeout = probe_time(&endpoint);
        let Some(canaries) = about.health.canaries(besides).filter(|_| is_ours(&about.access)) else {
            // Twice: one answer in ten that is an error makes no outage.
            endpoint.timeout /= 2;
            for wait in [Duration::ZERO, BETWEEN_PINGS] {
                tokio::time::sleep(wait).await;
                if !matches!(self.client.within(Pass::free(endpoint.timeout)).ping(&endpoint).await, Err(Failure::Outage(_))) {
                    return true;
                }
            }
            return false;
        };
        let ask = canaries.iter().map(|canary| {
            let client = self.client.within(Pass::free(endpoint.timeout));
            let (endpoint, credentials) = (&endpoint, &about.access.credentials);
            async move { client.resolve(endpoint, credentials, &canary.repository, TagOrDigest::Digest(&canary.digest)).await }
        });
        let mut asked: FuturesUnordered<_> = ask.collect();
        while let Some(end) = asked.next().await {
            // One answer is enough.
            if !matches!(end, Err(Failure::Outage(_))) {
                return true;
            }
        }
        false
    }

    /// Looks whether it is well, for whoever's question was not answered.
    async fn probe(self: Arc<Self>, about: About) -> Found<bool> {
        let well = self.is_well(&about, Some((&about.namespace, &about.repository))).await;
        let outcome = if well { OutcomeKind::Found } else { OutcomeKind::Unavailable };
        self.metrics.questions.get_or_create(&QuestionLabels { question: Asked::Probe, outcome }).inc();
        Found { value: well, fresh_for: EVIDENCE }
    }

    /// Looks for the end of an outage, and then forgets what was answered while it lasted.
    async fn await_recovery(self: Arc<Self>, about: About) {
        let mut wait = FIRST_LOOK;
        while about.health.out().is_some() {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_LOOK);
            let rules = self.index.read().rules();
            let now = rules.registries.get(&*about.registry).and_then(|registry| endpoint(&about.endpoint.host, Some(registry)).ok());
            if now.is_none_or(|now| now.base != about.endpoint.base) {
                // Nobody asks there any more. Whoever names it again begins anew.
                self.sources.forget(&about.registry, &about.endpoint);
                return;
            }
            if self.is_well(&about, None).await {
                self.well_again(&about.registry, &about.health);
            }
        }
    }

    /// A registry answers, by whatever sign.
    fn well_again(&self, registry: &str, health: &Health) {
        if health.found_well() {
            tracing::info!(registry, "a registry is well again");
            self.probes.forget(|key, _| key.is_of(registry));
            let rules = self.index.read().rules();
            let there = |host: &str, repository: &str| rules.registry_for(host, repository).is_some_and(|found| found.name == registry);
            self.resolves.forget(|key, end| !matches!(end, Outcome::Found(_)) && there(key.image.registry(), key.image.repository()));
            self.judges.forget(|key, end| !matches!(end, Outcome::Found(_)) && there(key.subject.registry(), key.subject.repository()));
            self.recovered.send_modify(|count| *count += 1);
        }
    }

    /// Whether the registry refuses these credentials for everything and not only for one path, which a pod's author may choose.
    async fn refuses_everything(self: &Arc<Self>, context: &Context<'_>) -> bool {
        let name = context.registry.map_or(super::UNLISTED, |registry| &registry.name);
        let key = ProbeKey::Refuses(name.into(), context.access.identity);
        let deadline = Instant::now() + context.endpoint.timeout;
        let (parts, endpoint, credentials) = (self.clone(), context.endpoint.clone(), context.access.credentials.clone());
        let ask = || async move {
            let request = Request { method: http::Method::GET, path: "/v2/", scopes: &[], body: None };
            let refuses = matches!(parts.client.request(&endpoint, &credentials, request).await, Err(Failure::Unauthorized(_)));
            Found { value: refuses, fresh_for: EVIDENCE }
        };
        self.probes.get(key, ticket(context.endpoint), deadline, ask).await.unwrap_or_default()
    }

    fn found<T>(&self, outcome: Outcome<T>, good: Duration) -> Found<Outcome<T>> {
        let life = match &outcome {
            Outcome::Found(_) => good,
            Outcome::Absent
            | Outcome::Hidden
            | Outcome::Refused
            | Outcome::Blocked(_)
            | Outcome::Misbehaved(_)
            | Outcome::Unauthorized(_) => self.lives.no,
            Outcome::Pending(_) | Outcome::Unavailable(_) => self.lives.not_yet,
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

fn probe_time(endpoint: &Endpoint) -> Duration {
    (endpoint.timeout / 2).max(SHORTEST_PROBE)
}

/// Probes are nobody's share.
fn ticket(endpoint: &Endpoint) -> Ticket<'_> {
    Ticket { asker: "", destination: endpoint.base.as_str() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{facts::OutageKind, registry::ClientOptions};

    /// Its author may own it: nothing that it does or leaves undone is evidence of anything, so it is not even sought.
    #[tokio::test]
    async fn a_host_without_a_registry_object_is_never_unavailable() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Arc::new(RegistryClient::new(ClientOptions::default()).unwrap());
        let parts = Arc::new(Parts::new(client, SharedIndex::default(), None, Metrics::new().0, Lives::default()));
        let (endpoint, access) = (endpoint("registry.example", None).unwrap(), crate::wallet::anonymous());
        let (repository, class, namespace) = ("team/app", Class::Admission, "team");
        let context = Context { registry: None, endpoint: &endpoint, access: &access, repository, class, namespace };
        for kind in [OutageKind::Connect, OutageKind::TimedOut, OutageKind::ServerError] {
            let outage = Outage { kind, message: "out".to_owned() };
            let outcome: Outcome<()> = parts.meaning(&context, Failure::Outage(outage)).await;
            assert!(matches!(outcome, Outcome::Busy(Busy { cause: BusyCause::Unlisted, .. })), "{outcome:?}");
        }
        assert_eq!((parts.probes.aloft(), parts.probes.kept()), (0, (0, 0)), "nobody was probed");
    }
}
