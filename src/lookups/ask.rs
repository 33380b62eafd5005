//! Asks registries, within their lines, and finds out what an end without an answer means.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};

use super::{
    Access, BOUNDS, Lives,
    health::{FIRST_LOOK, Health, LAST_LOOK},
    keys::{JudgeKey, ProbeKey, ResolveKey},
    sources::Sources,
    suffices,
    tags::Tags,
};
use crate::{
    api::{MAX_CHILDREN, QuarantineProvider},
    facts::{Busy, BusyCause, Facts, Outage, Outcome, OutcomeKind},
    flights::{Flights, Found, Ticket},
    history::{Observation, Weight},
    image::{Digest, Reference, Subject},
    index::Known,
    line::{Class, Line},
    metrics::{Asked, Metrics, QuestionLabels},
    policy::RegistryEntry,
    provider::{self, Question, Seen},
    registry::{Endpoint, Failure, Pass, RegistryClient, Request, TagOrDigest},
    watch::SharedIndex,
    writer::{WriteError, Writer},
};

/// How long a probe's finding counts as evidence.
const EVIDENCE: Duration = Duration::from_secs(2);
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

impl Parts {
    pub(super) fn new(client: Arc<RegistryClient>, index: SharedIndex, writer: Option<Writer>, metrics: Metrics, lives: Lives) -> Self {
        Self {
            client,
            index,
            writer,
            metrics,
            tags: Tags::default(),
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
        if let Outcome::Found(digest) = &outcome {
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
            Ok(Seen::State(observation)) if key.record => {
                let unwritten = self.unwritten(&key.subject, &observation);
                Outcome::Found(self.record(&key.subject, observation, &namespace).await.unwrap_or(unwritten))
            }
            Ok(Seen::State(observation)) => Outcome::Found(self.unwritten(&key.subject, &observation)),
            Err(end) => end,
        };
        self.found(outcome, self.lives.facts)
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
        if matches!(outcome, Outcome::Found(_)) && registry.is_some() && access.own {
            self.sources.health(&endpoint).answered(namespace, subject.repository(), subject.digest());
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
                self.index.write().apply_image(&object, Timestamp::now());
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
        if let Some(outage) = context.registry.and_then(|_| self.sources.health(context.endpoint).out()) {
            return Outcome::Unavailable(outage);
        }
        let line = self.sources.line(&context.endpoint.host, context.registry.map(AsRef::as_ref));
        let (parts, endpoint, listed) = (self.clone(), context.endpoint.clone(), context.registry.is_some());
        let slow = move || {
            if listed {
                let key = ProbeKey::Alive(endpoint.base.as_str().into());
                parts.probes.launch(key, ticket(&endpoint), || parts.clone().probe(endpoint.clone()));
            }
        };
        let pass = pass(Pass::new(line, context.class, context.namespace, context.endpoint.timeout, slow));
        match question(self.client.within(pass)).await {
            Ok(value) => Outcome::Found(value),
            Err(failure) => self.meaning(context, failure).await,
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
        if context.registry.is_none() {
            // Its author may own it: no finding about it opens anything, so none is sought.
            return Outcome::Busy(Busy { cause: BusyCause::Unlisted, retry_after: Duration::from_secs(5) });
        }
        let health = self.sources.health(context.endpoint);
        let deadline = Instant::now() + context.endpoint.timeout;
        let probe = || self.clone().probe(context.endpoint.clone());
        let key = ProbeKey::Alive(context.endpoint.base.as_str().into());
        match self.probes.get(key, ticket(context.endpoint), deadline, probe).await {
            Ok(false) => {}
            Ok(true) if self.answers_about_others(context, &health, Some((context.namespace, context.repository))).await => {
                return Outcome::Pending(format!("the registry is well, but did not answer about this image ({})", outage.message));
            }
            Ok(true) => {}
            Err(why) => return super::busy(why),
        }
        self.found_out(context.endpoint, context.access, &outage);
        Outcome::Unavailable(outage)
    }

    /// A registry is out, by evidence about itself.
    pub(super) fn found_out(self: &Arc<Self>, endpoint: &Endpoint, access: &Access, outage: &Outage) {
        let health = self.sources.health(endpoint);
        if health.found_out(outage) {
            tracing::warn!(registry = endpoint.host, outage = outage.message, "a registry is out");
            tokio::spawn(self.clone().await_recovery(endpoint.clone(), access.clone(), health));
        }
    }

    /// Whether a registry that is alive also answers about images: its storage may be out while its front door is not. Asked of what it
    /// answered other namespaces about before, in other repositories than the one in question: whoever chose that one has not chosen these.
    async fn answers_about_others(&self, context: &Context<'_>, health: &Health, besides: Option<(&str, &str)>) -> bool {
        // Without anything to ask about there is no evidence of an outage.
        let Some(canaries) = health.canaries(besides).filter(|_| context.access.own) else { return true };
        let mut endpoint = context.endpoint.clone();
        endpoint.timeout = probe_time(&endpoint);
        let ask = canaries.iter().map(|canary| {
            let client = self.client.within(Pass::free(endpoint.timeout));
            let (endpoint, credentials) = (&endpoint, &context.access.credentials);
            async move { client.resolve(endpoint, credentials, &canary.repository, TagOrDigest::Digest(&canary.digest)).await }
        });
        futures::future::join_all(ask).await.iter().any(|end| !matches!(end, Err(Failure::Outage(_))))
    }

    /// Whether the registry answers anything at all.
    async fn probe(self: Arc<Self>, mut endpoint: Endpoint) -> Found<bool> {
        // The evidence must be there before the first review's patience ends.
        endpoint.timeout = probe_time(&endpoint);
        let alive = !matches!(self.client.within(Pass::free(endpoint.timeout)).ping(&endpoint).await, Err(Failure::Outage(_)));
        let outcome = if alive { OutcomeKind::Found } else { OutcomeKind::Unavailable };
        self.metrics.questions.get_or_create(&QuestionLabels { question: Asked::Probe, outcome }).inc();
        Found { value: alive, fresh_for: EVIDENCE }
    }

    /// Looks for the end of an outage, and then forgets what was answered while it lasted.
    async fn await_recovery(self: Arc<Self>, endpoint: Endpoint, access: Access, health: Arc<Health>) {
        let mut wait = FIRST_LOOK;
        loop {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_LOOK);
            let named = self.index.read().rules().names_host(&endpoint.host);
            if !named {
                // Nobody asks any more. Whoever names it again begins anew.
                break;
            }
            if !self.clone().probe(endpoint.clone()).await.value {
                continue;
            }
            let context =
                Context { registry: None, endpoint: &endpoint, access: &access, repository: "", class: Class::Retry, namespace: "" };
            if self.answers_about_others(&context, &health, None).await {
                break;
            }
        }
        self.well_again(&endpoint, &health);
    }

    /// A registry answers, by whatever sign.
    fn well_again(&self, endpoint: &Endpoint, health: &Health) {
        if health.found_well() {
            tracing::info!(registry = endpoint.host, "a registry is well again");
            let base: Arc<str> = endpoint.base.as_str().into();
            self.probes.forget(|key, _| matches!(key, ProbeKey::Alive(of) | ProbeKey::Refuses(of, _) if *of == base));
            // Several hosts, even of several Registries, may be reached at one place.
            let rules = self.index.read().rules();
            let places: RefCell<HashMap<(String, Option<String>), bool>> = RefCell::default();
            let there = |host: &str, repository: &str| {
                let registry = rules.registry_for(host, repository);
                let name = (host.to_owned(), registry.map(|registry| registry.name.clone()));
                let same = || self::endpoint(host, registry).is_ok_and(|other| other.base == endpoint.base);
                *places.borrow_mut().entry(name).or_insert_with(same)
            };
            self.resolves.forget(|key, end| !matches!(end, Outcome::Found(_)) && there(key.image.registry(), key.image.repository()));
            self.judges.forget(|key, end| !matches!(end, Outcome::Found(_)) && there(key.subject.registry(), key.subject.repository()));
            self.recovered.send_modify(|count| *count += 1);
        }
    }

    /// Whether the registry refuses these credentials for everything and not only for one path, which a pod's author may choose.
    async fn refuses_everything(self: &Arc<Self>, context: &Context<'_>) -> bool {
        let key = ProbeKey::Refuses(context.endpoint.base.as_str().into(), context.access.identity);
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
