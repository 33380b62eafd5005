//! What is at hand about an image, and a flight for what is not.
//!
//! [`Lookups::see`] gives a [`Sight`]: facts that are written and fresh, or the end of a question that somebody's flight asked. It
//! decides nothing. Its one judgement is about *evidence*: a question that ended in an outage becomes `Unavailable` only when the
//! registry itself, asked something else, is out too; and credentials are `Unauthorized` only when the registry refuses them for
//! everything. Without such evidence a pod's author could choose an image that is slow, or a path that is forbidden, and have a
//! policy's leniency towards outages let it in.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    api::{MAX_CHILDREN, QuarantineProvider},
    facts::{Busy, BusyCause, Facts, Manifest, Outage, Outcome},
    flights::{Bounds, Flights, Found, NotYet},
    history::{Observation, Weight},
    image::{Digest, Reference, Subject},
    index::{self, Known},
    limiter::{Limiter, Priority},
    memory::Memory,
    metrics::{Asked, Metrics, QuestionLabels},
    policy::RegistryEntry,
    provider::{self, Question, Seen},
    registry::{CredentialIdentity, Credentials, Endpoint, Failure, RegistryClient, Request, TagOrDigest},
    verdict::{Sight, Source},
    watch::SharedIndex,
    writer::{WriteError, Writer},
};

/// What is shown to a registry, and whose it is.
#[derive(Clone, Debug)]
pub struct Access {
    /// What is shown.
    pub credentials: Arc<Credentials>,
    /// Tells it apart from others without knowing it.
    pub identity: CredentialIdentity,
    /// The Registry object names it: Lazaretto's own.
    pub own: bool,
}

/// Why the Registry's own credentials cannot be had. What is wrong with them is told where the Registry's administrators read it, and not
/// to authors of pods.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAccess {
    /// The API server does not show the Secret just now: nothing is known of the registry by that.
    #[error("{0}")]
    Later(String),
    /// There is no such Secret, or it makes no sense.
    #[error("{0}")]
    Broken(String),
}

impl NoAccess {
    /// How a question ends that could not be asked for want of them.
    fn outcome<T>(&self) -> Outcome<T> {
        match self {
            Self::Later(_) => Outcome::Busy(Busy { cause: BusyCause::Credentials, retry_after: Duration::from_secs(2) }),
            Self::Broken(_) => Outcome::Unauthorized("Lazaretto's own credentials for this registry cannot be used".to_owned()),
        }
    }
}

/// Who wants to know about an image.
#[derive(Clone, Debug)]
pub struct Asker<'a> {
    /// The namespace whose share a new look-up takes.
    pub namespace: &'a str,
    /// What to show the registry; `Err` when the Registry's own credentials cannot be had.
    pub access: Result<Access, NoAccess>,
    /// Until when an answer is of use.
    pub deadline: Instant,
    /// Whether what is found may be written down; not in a dry run.
    pub record: bool,
    /// Whether the pod is the quarantine processor's.
    pub processor: bool,
    /// Whether it has to be known what is inside the image: a policy denies some by digest.
    pub inside: bool,
}

/// For how long answers are kept, before jitter.
#[derive(Clone, Copy, Debug)]
pub struct Lives {
    /// The digest of a tag.
    pub tag: Duration,
    /// Facts that were asked for.
    pub facts: Duration,
    /// An end that will not soon be another: absent, refused, blocked.
    pub no: Duration,
    /// An end that may be another in a moment: pending, unavailable.
    pub not_yet: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Self { tag: Duration::from_secs(10), facts: Duration::from_secs(5), no: Duration::from_secs(5), not_yet: Duration::from_secs(2) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ResolveKey {
    image: Reference,
    access: CredentialIdentity,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct JudgeKey {
    subject: Subject,
    access: CredentialIdentity,
    record: bool,
}

/// Whose a tag's last digest is: the Registry's own credentials are one, whatever they hold now, so that a Secret that changes or
/// goes does not make a known bad tag an unknown one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TagKey {
    image: Reference,
    stranger: Option<CredentialIdentity>,
}

impl TagKey {
    fn new(image: &Reference, access: Option<&Access>) -> Self {
        Self { image: image.clone(), stranger: access.filter(|access| !access.own).map(|access| access.identity) }
    }
}

/// A tag's last digest.
type Tags = Memory<TagKey, (Digest, Timestamp)>;

/// Look-ups, shared by admission and operator.
#[derive(Debug)]
pub struct Lookups {
    parts: Arc<Parts>,
    resolves: Flights<ResolveKey, Outcome<Digest>>,
    judges: Flights<JudgeKey, Outcome<Arc<Facts>>>,
}

/// What a flight takes along.
#[derive(Debug)]
struct Parts {
    client: Arc<RegistryClient>,
    index: SharedIndex,
    writer: Option<Writer>,
    metrics: Metrics,
    lives: Lives,
    probes: Flights<String, bool>,
    limiters: Mutex<HashMap<String, (crate::api::Limits, Arc<Limiter>)>>,
    tags: Mutex<Tags>,
    jitter: RandomState,
}

/// Flights at once, in all and for one namespace, and answers that are kept.
const BOUNDS: Bounds = Bounds { flights: 1_024, share: 128, entries: 65_536 };
/// Limiters that are kept: hosts are named by pod authors.
const MOST_LIMITERS: usize = 4_096;
/// How long a probe's finding counts as evidence.
const EVIDENCE: Duration = Duration::from_secs(2);

impl Lookups {
    /// Look-ups over a client. Without a writer nothing is written down.
    #[must_use]
    pub fn new(client: Arc<RegistryClient>, index: SharedIndex, writer: Option<Writer>, metrics: Metrics, lives: Lives) -> Self {
        let parts = Parts {
            client,
            index,
            writer,
            metrics,
            lives,
            probes: Flights::new(BOUNDS),
            limiters: Mutex::default(),
            tags: Mutex::new(Memory::new(BOUNDS.entries)),
            jitter: RandomState::new(),
        };
        Self { parts: Arc::new(parts), resolves: Flights::new(BOUNDS), judges: Flights::new(BOUNDS) }
    }

    /// What is at hand about an image, without asking or waiting for anybody; `access` is called when it takes credentials to know,
    /// as for the digest of a tag.
    #[must_use]
    pub fn at_hand(
        &self,
        image: &Reference,
        registry: Option<&Arc<RegistryEntry>>,
        processor: bool,
        inside: bool,
        access: impl FnOnce() -> Option<Access>,
    ) -> Option<Sight> {
        let subject = match image.subject() {
            Some(subject) => subject,
            None => match self.resolves.peek(&ResolveKey { image: image.clone(), access: access()?.identity })? {
                Outcome::Found(digest) => image.with_digest(digest),
                _ => return None,
            },
        };
        let known = self.parts.index.read().image(&subject)?;
        suffices(&known, &subject, registry, inside).then(|| Sight {
            subject: Some(subject),
            certain: true,
            outcome: Outcome::Found(known.facts.clone()),
            last: None,
            source: Source::Known,
            listed: registry.is_some(),
            processor,
        })
    }

    /// What is at hand about an image now; asks for what is not, until the asker's deadline.
    pub async fn see(&self, image: &Reference, registry: Option<&Arc<RegistryEntry>>, asker: &Asker<'_>) -> Sight {
        let listed = registry.is_some();
        let sight =
            |subject, outcome, last, source, certain| Sight { subject, certain, outcome, last, source, listed, processor: asker.processor };
        let (subject, resolved_now) = match image.subject() {
            Some(subject) => (subject, Source::Known),
            None => match self.digest_of(image, registry, asker).await {
                (Outcome::Found(digest), source) => (image.with_digest(digest), source),
                (other, source) => {
                    let (subject, last) = self.last_of_tag(image, registry, asker);
                    let outcome = other.found::<Arc<Facts>>().map_or_else(|end| end, |_| Outcome::Absent);
                    return sight(subject, outcome, last, source, false);
                }
            },
        };
        let known = self.parts.index.read().image(&subject);
        if let Some(known) = known.as_ref().filter(|known| suffices(known, &subject, registry, asker.inside)) {
            return sight(Some(subject), Outcome::Found(known.facts.clone()), None, resolved_now, true);
        }
        let last = known.map(|known| last_look(&known, &subject, registry));
        let outcome = match (self.judge(&subject, registry, asker).await, &last) {
            // What is written was seen later than an answer that is still remembered.
            (Outcome::Found(facts), Some((written, _))) if written.observed_at > facts.observed_at => Outcome::Found(written.clone()),
            (outcome, _) => outcome,
        };
        sight(Some(subject), outcome, last, Source::Asked, true)
    }

    /// What is at hand about an image without asking or waiting; launches what is missing, so that the next one finds it.
    #[must_use]
    pub fn glance(&self, image: &Reference, registry: Option<&Arc<RegistryEntry>>, asker: &Asker<'_>) -> Option<Sight> {
        let access = asker.access.as_ref().ok()?;
        let subject = match image.subject() {
            Some(subject) => subject,
            None => {
                let key = ResolveKey { image: image.clone(), access: access.identity };
                match self.resolves.peek(&key) {
                    Some(Outcome::Found(digest)) => image.with_digest(digest),
                    Some(_) => return None,
                    None => {
                        self.launch_resolve(key, registry, access, asker.namespace);
                        // A warning may speak of what the tag stood for at the last look.
                        self.last_of_tag(image, registry, asker).0?
                    }
                }
            }
        };
        let known = self.parts.index.read().image(&subject);
        match known {
            Some(known) if known.facts.state.is_bad() || suffices(&known, &subject, registry, asker.inside) => {
                let outcome = Outcome::Found(known.facts.clone());
                let (listed, processor) = (registry.is_some(), asker.processor);
                Some(Sight { subject: Some(subject), certain: true, outcome, last: None, source: Source::Known, listed, processor })
            }
            _ => {
                self.launch_judge(&subject, registry, access, asker);
                None
            }
        }
    }

    /// What is written of a subject changed: whoever waits for it is woken, if that is enough to judge by. What a collector marks on stale
    /// facts answers no question.
    pub fn landed(&self, subject: &Subject) {
        let known = {
            let index = self.parts.index.read();
            let rules = index.rules();
            let registry = rules.registry_for(subject.registry(), subject.repository());
            index.image(subject).filter(|known| suffices(known, subject, registry, true))
        };
        if let Some(known) = known {
            self.judges.land(&Outcome::Found(known.facts.clone()), self.parts.lives.facts, |key| key.subject == *subject);
        }
    }

    /// Flights in the air.
    #[must_use]
    pub fn aloft(&self) -> usize {
        self.resolves.aloft() + self.judges.aloft()
    }

    /// The digest that a tag stands for now, for the leader's adoption.
    pub async fn digest_of(
        &self,
        image: &Reference,
        registry: Option<&Arc<RegistryEntry>>,
        asker: &Asker<'_>,
    ) -> (Outcome<Digest>, Source) {
        let access = match &asker.access {
            Ok(access) => access,
            Err(why) => return (why.outcome(), Source::Asked),
        };
        let key = ResolveKey { image: image.clone(), access: access.identity };
        if let Some(outcome) = self.resolves.peek(&key) {
            return (outcome, Source::Known);
        }
        let parts = self.parts.clone();
        let outcome =
            self.resolves.get(key.clone(), asker.namespace, asker.deadline, || parts.resolve(key, registry.cloned(), access.clone())).await;
        (outcome.unwrap_or_else(busy), Source::Asked)
    }

    fn launch_resolve(&self, key: ResolveKey, registry: Option<&Arc<RegistryEntry>>, access: &Access, namespace: &str) {
        let parts = self.parts.clone();
        self.resolves.launch(key.clone(), namespace, || parts.resolve(key, registry.cloned(), access.clone()));
    }

    async fn judge(&self, subject: &Subject, registry: Option<&Arc<RegistryEntry>>, asker: &Asker<'_>) -> Outcome<Arc<Facts>> {
        let access = match &asker.access {
            Ok(access) => access,
            Err(why) => return why.outcome(),
        };
        let key = JudgeKey { subject: subject.clone(), access: access.identity, record: asker.record };
        let parts = self.parts.clone();
        let namespace = asker.namespace.to_owned();
        let flight = || parts.judge(key.clone(), registry.cloned(), access.clone(), namespace);
        self.judges.get(key.clone(), asker.namespace, asker.deadline, flight).await.unwrap_or_else(busy)
    }

    fn launch_judge(&self, subject: &Subject, registry: Option<&Arc<RegistryEntry>>, access: &Access, asker: &Asker<'_>) {
        let key = JudgeKey { subject: subject.clone(), access: access.identity, record: asker.record };
        let parts = self.parts.clone();
        let namespace = asker.namespace.to_owned();
        self.judges.launch(key.clone(), asker.namespace, || parts.judge(key, registry.cloned(), access.clone(), namespace));
    }

    /// Looks again at an image, whatever is written of it: the leader's regular look. What was seen and could not be written is an error:
    /// a pass must not vouch for what it has found to be otherwise.
    pub async fn look_again(
        &self,
        subject: &Subject,
        registry: &Arc<RegistryEntry>,
        access: &Access,
        namespace: &str,
    ) -> Result<Outcome<Arc<Facts>>, WriteError> {
        let outcome = self.parts.ask_state(subject, Some(registry), access, Priority::Polling).await;
        self.parts.metrics.questions.get_or_create(&QuestionLabels { question: Asked::Poll, outcome: outcome.kind() }).inc();
        match outcome.found() {
            Ok(Seen::State(observation)) => self.parts.record(subject, observation, namespace).await.map(Outcome::Found),
            Ok(Seen::Pending(why)) => Ok(Outcome::Pending(why)),
            Err(end) => Ok(end),
        }
    }

    /// What a manifest says, whoever keeps the flag: for the leader's adoption.
    pub async fn manifest_of(&self, subject: &Subject, registry: &Arc<RegistryEntry>, access: &Access) -> Outcome<Manifest> {
        let endpoint = match endpoint(subject.registry(), Some(registry)) {
            Ok(endpoint) => endpoint,
            Err(error) => return Outcome::Misbehaved(error),
        };
        let limiter = self.parts.limiter(subject.registry(), Some(registry));
        let context = Context { registry: Some(registry), endpoint: &endpoint, access, limiter: &limiter };
        let question = Question {
            client: &self.parts.client,
            endpoint: &endpoint,
            credentials: &access.credentials,
            subject,
            adopted: false,
            now: Timestamp::now(),
        };
        self.parts.ask(&context, Priority::Admission, provider::confirm(&question)).await
    }

    /// Whether the registry answers at all, and whether it takes these credentials.
    pub async fn health(&self, registry: &Arc<RegistryEntry>, access: &Access) -> Result<(), Failure> {
        let Some(host) = registry.hosts.first() else { return Ok(()) };
        let endpoint = endpoint(host, Some(registry)).map_err(Failure::Misbehaved)?;
        let request = Request { method: http::Method::GET, path: "/v2/", scopes: &[], body: None };
        match self.parts.client.request(&endpoint, &access.credentials, request).await {
            Ok(answer) if answer.status.is_server_error() => {
                Err(Failure::of(answer.status, &answer.headers, &answer.body, Timestamp::now()))
            }
            Ok(_) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Carries a person's decision out at the registry that keeps the flag.
    pub async fn carry_out(
        &self,
        subject: &Subject,
        registry: &Arc<RegistryEntry>,
        access: &Access,
        decision: &crate::api::Decision,
    ) -> Result<(), Failure> {
        let endpoint = endpoint(subject.registry(), Some(registry)).map_err(Failure::Misbehaved)?;
        let question = Question {
            client: &self.parts.client,
            endpoint: &endpoint,
            credentials: &access.credentials,
            subject,
            adopted: registry.adopted.is_some(),
            now: Timestamp::now(),
        };
        provider::keeper(registry.provider).carry_out(question, decision).await
    }

    /// What a tag stood for when it was last asked, and what was known of that.
    fn last_of_tag(
        &self,
        image: &Reference,
        registry: Option<&Arc<RegistryEntry>>,
        asker: &Asker<'_>,
    ) -> (Option<Subject>, Option<(Arc<Facts>, Timestamp)>) {
        let key = TagKey::new(image, asker.access.as_ref().ok());
        let Some((digest, resolved)) = self.parts.tags.lock().get(&key).cloned() else { return (None, None) };
        let subject = image.with_digest(digest);
        let known = self.parts.index.read().image(&subject);
        let last = known.map(|known| {
            let (facts, seen) = last_look(&known, &subject, registry);
            // A tag is no better known than when it was resolved.
            (facts, seen.min(resolved))
        });
        (Some(subject), last)
    }
}

/// Whether what is known of an image is enough to judge it by, without asking.
fn suffices(known: &Known, subject: &Subject, registry: Option<&Arc<RegistryEntry>>, inside: bool) -> bool {
    index::is_fresh(known, subject, registry.map(AsRef::as_ref), Timestamp::now()) && !(inside && known.facts.manifest.is_unread())
}

fn last_look(known: &Known, subject: &Subject, registry: Option<&Arc<RegistryEntry>>) -> (Arc<Facts>, Timestamp) {
    (known.facts.clone(), index::last_seen(known, subject, registry.map(AsRef::as_ref)))
}

fn busy<T>(why: NotYet) -> Outcome<T> {
    let (cause, seconds) = match why {
        NotYet::Deadline | NotYet::Lost => (BusyCause::Deadline, 1),
        NotYet::Full => (BusyCause::QueueFull, 3),
        NotYet::Share => (BusyCause::Share, 3),
    };
    Outcome::Busy(Busy { cause, retry_after: Duration::from_secs(seconds) })
}

fn endpoint(host: &str, registry: Option<&Arc<RegistryEntry>>) -> Result<Endpoint, String> {
    match registry {
        Some(registry) => Endpoint::listed(host, &registry.spec).map_err(|error| error.to_string()),
        None => Endpoint::unlisted(host).map_err(|error| error.to_string()),
    }
}

/// How a question ended, and the context that says what the end means.
struct Context<'a> {
    registry: Option<&'a Arc<RegistryEntry>>,
    endpoint: &'a Endpoint,
    access: &'a Access,
    limiter: &'a Limiter,
}

impl Parts {
    async fn resolve(self: Arc<Self>, key: ResolveKey, registry: Option<Arc<RegistryEntry>>, access: Access) -> Found<Outcome<Digest>> {
        let outcome = self.ask_digest(&key.image, registry.as_ref(), &access).await;
        self.metrics.questions.get_or_create(&QuestionLabels { question: Asked::Resolve, outcome: outcome.kind() }).inc();
        if let Outcome::Found(digest) = &outcome {
            self.tags.lock().insert(TagKey::new(&key.image, Some(&access)), (digest.clone(), Timestamp::now()));
        }
        self.found(outcome, self.lives.tag)
    }

    async fn ask_digest(&self, image: &Reference, registry: Option<&Arc<RegistryEntry>>, access: &Access) -> Outcome<Digest> {
        let endpoint = match endpoint(image.registry(), registry) {
            Ok(endpoint) => endpoint,
            Err(error) => return Outcome::Misbehaved(error),
        };
        let limiter = self.limiter(image.registry(), registry);
        let context = Context { registry, endpoint: &endpoint, access, limiter: &limiter };
        let tag = TagOrDigest::Tag(image.tag().unwrap_or("latest"));
        self.ask(&context, Priority::Admission, self.client.resolve(&endpoint, &access.credentials, image.repository(), tag)).await
    }

    async fn judge(
        self: Arc<Self>,
        key: JudgeKey,
        registry: Option<Arc<RegistryEntry>>,
        access: Access,
        namespace: String,
    ) -> Found<Outcome<Arc<Facts>>> {
        let outcome = self.ask_state(&key.subject, registry.as_ref(), &access, Priority::Admission).await;
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

    /// Writes an observation down. What comes back may know more than what was seen: a person's decision, say. A bad finding that cannot be
    /// written is held in memory, so that what is written does not hide it from this replica.
    async fn record(&self, subject: &Subject, seen: Observation, namespace: &str) -> Result<Arc<Facts>, WriteError> {
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

    async fn ask_state(
        &self,
        subject: &Subject,
        registry: Option<&Arc<RegistryEntry>>,
        access: &Access,
        priority: Priority,
    ) -> Outcome<Seen> {
        let endpoint = match endpoint(subject.registry(), registry) {
            Ok(endpoint) => endpoint,
            Err(error) => return Outcome::Misbehaved(error),
        };
        let limiter = self.limiter(subject.registry(), registry);
        let context = Context { registry, endpoint: &endpoint, access, limiter: &limiter };
        let question = Question {
            client: &self.client,
            endpoint: &endpoint,
            credentials: &access.credentials,
            subject,
            adopted: registry.is_some_and(|registry| registry.adopted.is_some()),
            now: Timestamp::now(),
        };
        let keeper = provider::keeper(registry.map_or(QuarantineProvider::None, |registry| registry.provider));
        self.ask(&context, priority, keeper.observe(question)).await
    }

    /// Asks within the registry's limits, and finds out what an end without an answer means. When the question turns slow a probe
    /// starts beside it, so that the evidence is there when the time is up.
    async fn ask<T>(&self, context: &Context<'_>, priority: Priority, question: impl Future<Output = Result<T, Failure>>) -> Outcome<T> {
        let patience = context.endpoint.timeout;
        let _permit = match context.limiter.acquire(priority, Instant::now() + patience).await {
            Ok(permit) => permit,
            Err(busy) => return Outcome::Busy(busy),
        };
        let mut question = std::pin::pin!(question);
        let answer = match tokio::time::timeout(patience / 2, &mut question).await {
            Ok(answer) => answer,
            Err(_) => {
                self.launch_probe(context);
                question.await
            }
        };
        match answer {
            Ok(value) => Outcome::Found(value),
            Err(failure) => self.meaning(context, failure).await,
        }
    }

    async fn meaning<T>(&self, context: &Context<'_>, failure: Failure) -> Outcome<T> {
        match failure {
            Failure::NotFound => match context.registry.map(|registry| registry.provider) {
                Some(QuarantineProvider::AzureContainerRegistry) => Outcome::Hidden,
                Some(QuarantineProvider::Managed | QuarantineProvider::None) | None => Outcome::Absent,
            },
            Failure::Forbidden(_) => Outcome::Refused,
            Failure::Blocked(block) => Outcome::Blocked(block),
            Failure::Pending(why) => Outcome::Pending(why),
            Failure::Misbehaved(what) => Outcome::Misbehaved(what),
            Failure::Throttled { retry_after } => {
                let wait = retry_after.unwrap_or(Duration::from_secs(5));
                context.limiter.close_for(wait);
                Outcome::Busy(Busy { cause: BusyCause::Throttled, retry_after: wait })
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

    async fn outage<T>(&self, context: &Context<'_>, outage: Outage) -> Outcome<T> {
        if context.registry.is_none() {
            // Its author may own it: no finding about it opens anything, so none is sought.
            return Outcome::Busy(Busy { cause: BusyCause::Unlisted, retry_after: Duration::from_secs(5) });
        }
        let deadline = Instant::now() + context.endpoint.timeout;
        let alive = self.probes.get(context.endpoint.base.to_string(), "probe", deadline, || self.probe(context)).await;
        match alive {
            Ok(false) => Outcome::Unavailable(outage),
            Ok(true) => Outcome::Pending(format!("the registry is well, but did not answer about this image ({})", outage.message)),
            Err(why) => busy(why),
        }
    }

    fn launch_probe(&self, context: &Context<'_>) {
        if context.registry.is_some() {
            self.probes.launch(context.endpoint.base.to_string(), "probe", || self.probe(context));
        }
    }

    /// Whether the registry answers anything at all.
    fn probe(&self, context: &Context<'_>) -> impl Future<Output = Found<bool>> + Send + 'static {
        let client = self.client.clone();
        let mut endpoint = context.endpoint.clone();
        // The evidence must be there before the first review's patience ends.
        endpoint.timeout = (endpoint.timeout / 2).max(Duration::from_millis(500));
        let metrics = self.metrics.clone();
        async move {
            let alive = !matches!(client.ping(&endpoint).await, Err(Failure::Outage(_)));
            let outcome = if alive { crate::facts::OutcomeKind::Found } else { crate::facts::OutcomeKind::Unavailable };
            metrics.questions.get_or_create(&QuestionLabels { question: Asked::Probe, outcome }).inc();
            Found { value: alive, fresh_for: EVIDENCE }
        }
    }

    /// Whether the registry refuses these credentials for everything and not only for one path, which a pod's author may choose.
    async fn refuses_everything(&self, context: &Context<'_>) -> bool {
        let request = Request { method: http::Method::GET, path: "/v2/", scopes: &[], body: None };
        matches!(self.client.request(context.endpoint, &context.access.credentials, request).await, Err(Failure::Unauthorized(_)))
    }

    fn limiter(&self, host: &str, registry: Option<&Arc<RegistryEntry>>) -> Arc<Limiter> {
        let limits = registry.map_or_else(
            || crate::api::Limits { requests_per_second: 20, concurrent_requests: 4, ..crate::api::Limits::default() },
            |registry| registry.spec.limits.clone(),
        );
        // A Registry's limiter goes by its name, which no host can have for want of a slash in hosts.
        let key = registry.map_or_else(|| host.to_owned(), |registry| format!("/{}", registry.name));
        let mut limiters = self.limiters.lock();
        if let Some((held, limiter)) = limiters.get(&key)
            && *held == limits
        {
            return limiter.clone();
        }
        if limiters.len() >= MOST_LIMITERS {
            limiters.retain(|key, (_, limiter)| key.starts_with('/') || Arc::strong_count(limiter) > 1);
        }
        let limiter = Arc::new(Limiter::new(&limits));
        limiters.insert(key, (limits, limiter.clone()));
        limiter
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
        let lookups = Lookups::new(client, SharedIndex::default(), None, Metrics::new().0, Lives::default());
        let (endpoint, access) = (endpoint("registry.example", None).unwrap(), crate::wallet::anonymous());
        let limiter = lookups.parts.limiter("registry.example", None);
        let context = Context { registry: None, endpoint: &endpoint, access: &access, limiter: &limiter };
        for kind in [OutageKind::Connect, OutageKind::TimedOut, OutageKind::ServerError] {
            let outage = Outage { kind, message: "out".to_owned() };
            let outcome: Outcome<()> = lookups.parts.meaning(&context, Failure::Outage(outage)).await;
            assert!(matches!(outcome, Outcome::Busy(Busy { cause: BusyCause::Unlisted, .. })), "{outcome:?}");
        }
        assert_eq!(lookups.parts.probes.entries(), 0, "nobody was probed");
    }
}
