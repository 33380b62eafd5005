//! What is at hand about an image, and a flight for what is not.
//!
//! [`Lookups::see`] gives a [`Sight`]: facts that are written and fresh, or the end of a question that somebody's flight asked. It
//! decides nothing. Its one judgement is about *evidence* (module `ask`): a question that ended in an outage becomes `Unavailable` only
//! when the registry itself, asked something else, is out too; and credentials are `Unauthorized` only when the registry refuses them for
//! everything. Without such evidence a pod's author could choose an image that is slow, or a path that is forbidden, and have a
//! policy's leniency towards outages let it in.
//!
//! Replicas do not divide images among themselves. What one learned is an ImageStatus a moment later and wakes who waits in the others, so
//! a burst of one new image costs a look-up for each replica at the most. An owner for each image would save two of three, and cost a
//! forwarded request, a membership to keep, and an answer to the question who asks when the owner is slow.

mod ask;
mod asker;
mod attached;
mod blocked;
mod evidence;
mod health;
mod inside;
mod keys;
mod origin;
mod permit;
mod prove;
mod rooms;
mod sources;
mod tags;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::watch;

pub use self::asker::{Access, Asker, Lives, NoAccess};
use self::{
    ask::{Context, Parts, endpoint},
    keys::{JudgeKey, ResolveKey, place},
    prove::AtHand,
};
use crate::{
    api::Provider,
    facts::{Busy, BusyCause, Facts, Manifest, Outcome},
    flights::{Bounds, NotYet, Ticket},
    image::{Digest, Reference, Subject},
    index::{self, Known},
    line::Class,
    metrics::{Asked, Metrics, QuestionLabels},
    policy::RegistryEntry,
    proof::Proof,
    provider::{self, Question, Seen},
    registry::{Failure, Pass, RegistryClient, Request},
    verdict::{Sight, Source},
    watch::SharedIndex,
    writer::{WriteError, Writer},
};

/// Look-ups, shared by admission and operator.
#[derive(Debug)]
pub struct Lookups {
    parts: Arc<Parts>,
}

/// Flights at once, in all, to one registry, and of one namespace there; answers that are kept, and their bytes.
const BOUNDS: Bounds = Bounds { flights: 8_192, destination: 2_048, share: 1_024, answers: 16_384, bytes: 12 << 20 };
/// Kinds of questions, each with bounds of its own.
const KINDS: usize = 6;
/// The most that is ever [kept](Lookups::kept): answers, and the bytes that they take.
pub const MOST_KEPT: (usize, usize) = (KINDS * BOUNDS.answers, KINDS * BOUNDS.bytes);
/// All hosts without a Registry object are one destination: their names come from authors of pods.
const UNLISTED: &str = "";

impl Lookups {
    /// Look-ups over a client. Without a writer nothing is written down.
    #[must_use]
    pub fn new(client: Arc<RegistryClient>, index: SharedIndex, writer: Option<Writer>, metrics: Metrics, lives: Lives) -> Self {
        Self { parts: Arc::new(Parts::new(client, index, writer, metrics, lives)) }
    }

    /// What is at hand about an image, without asking or waiting for anybody; `access` is called when it takes credentials to know,
    /// as for the digest of a tag.
    #[must_use]
    pub fn at_hand(
        &self,
        image: &Reference,
        registry: Option<&Arc<RegistryEntry>>,
        processor: bool,
        (inside, proofs): (bool, &[&Proof]),
        access: impl FnOnce() -> Option<Access>,
    ) -> Option<Sight> {
        let subject = match image.subject() {
            Some(subject) => subject,
            None => {
                match self.parts.resolves.peek(&ResolveKey { image: image.clone(), access: access()?.identity, place: place(registry) })? {
                    Outcome::Found(digest) => image.with_digest(digest),
                    _ => return None,
                }
            }
        };
        let known = self.parts.index.read().image(&subject)?;
        let AtHand { evidence, proven } = prove::at_hand(&known, proofs).ok()?;
        suffices(&known, &subject, registry, inside).then(|| Sight {
            subject: Some(subject),
            certain: true,
            outcome: Outcome::Found(known.facts.clone()),
            source: Source::Known,
            evidence,
            proven,
            ..Sight::blind(None, registry.is_some(), processor)
        })
    }

    /// What is at hand about an image now; asks for what is not, until the asker's deadline.
    pub async fn see(&self, image: &Reference, registry: Option<&Arc<RegistryEntry>>, asker: &Asker<'_>) -> Sight {
        let mut sight = self.look(image, registry, asker).await;
        self.parts.blocked.weigh(image, registry, &mut sight);
        sight
    }

    async fn look(&self, image: &Reference, registry: Option<&Arc<RegistryEntry>>, asker: &Asker<'_>) -> Sight {
        let listed = registry.is_some();
        let sight = |subject, outcome, last, source, certain, evidence| Sight {
            subject,
            certain,
            outcome,
            last,
            source,
            evidence,
            ..Sight::blind(None, listed, asker.processor)
        };
        let (subject, resolved_now) = match image.subject() {
            Some(subject) => (subject, Source::Known),
            None => match self.digest_of(image, registry, asker).await {
                (Outcome::Found(digest), source) => (image.with_digest(digest), source),
                (other, source) => {
                    let OfTag { mut subject, known: mut last, at } = self.last_of_tag(image, registry, asker.access.as_ref().ok());
                    // By another host of its Registry it may be known to be bad.
                    if last.as_ref().is_none_or(|(facts, _)| !facts.state.is_bad())
                        && let Some((there, bad)) = self.parts.index.read().bad_at_another_host(image, at, Timestamp::now())
                    {
                        (subject, last) = (Some(there), Some((bad.facts.clone(), bad.facts.observed_at)));
                    }
                    let outcome = other.found::<Arc<Facts>>().map_or_else(|end| end, |_| Outcome::Absent);
                    let evidence = subject.as_ref().and_then(|subject| self.evidence_at_hand(subject, asker));
                    return sight(subject, outcome, last, source, false, evidence);
                }
            },
        };
        let known = self.parts.index.read().image(&subject);
        if let Some(known) = known.as_ref().filter(|known| suffices(known, &subject, registry, asker.inside)) {
            self.note_tag(image, &subject, resolved_now, asker);
            let evidence = self.prove_unless_held(&subject, registry, asker, &known.facts).await;
            return sight(Some(subject), Outcome::Found(known.facts.clone()), None, resolved_now, true, evidence);
        }
        let last = self.parts.index.read().last(&subject, Timestamp::now()).map(|known| last_look(&known, &subject, registry));
        let outcome = match (self.judge(&subject, registry, asker, Class::Admission).await, known) {
            // What is written was seen later than an answer that is still remembered.
            (Outcome::Found(facts), Some(known)) if known.facts.observed_at > facts.observed_at => Outcome::Found(known.facts.clone()),
            (outcome, _) => outcome,
        };
        self.note_tag(image, &subject, resolved_now, asker);
        let evidence = match &outcome {
            Outcome::Found(facts) => self.prove_unless_held(&subject, registry, asker, facts).await,
            // What could not be asked about itself is not asked about what is signed.
            _ => self.evidence_at_hand(&subject, asker),
        };
        sight(Some(subject), outcome, last, Source::Asked, true, evidence)
    }

    /// A tag that was asked for just now is written down with the image that it stands for.
    fn note_tag(&self, image: &Reference, subject: &Subject, resolved: Source, asker: &Asker<'_>) {
        if let (Source::Asked, true, Ok(access)) = (resolved, asker.record, &asker.access) {
            self.parts.note_tag(image, subject, access);
        }
    }

    /// What is at hand about an image without asking or waiting; launches what is missing, so that the next one finds it.
    #[must_use]
    pub fn glance(&self, image: &Reference, registry: Option<&Arc<RegistryEntry>>, asker: &Asker<'_>) -> Option<Sight> {
        let access = asker.access.as_ref().ok()?;
        let subject = match image.subject() {
            Some(subject) => subject,
            None => {
                let key = ResolveKey { image: image.clone(), access: access.identity, place: place(registry) };
                match self.parts.resolves.peek(&key) {
                    Some(Outcome::Found(digest)) => image.with_digest(digest),
                    Some(_) => return None,
                    None => {
                        self.launch_resolve(&key, registry, access, asker.namespace);
                        // A warning may speak of what the tag stood for at the last look.
                        self.last_of_tag(image, registry, Some(access)).subject?
                    }
                }
            }
        };
        let known = self.parts.index.read().image(&subject);
        match known {
            Some(known) if known.facts.state.is_bad() || suffices(&known, &subject, registry, asker.inside) => {
                let outcome = Outcome::Found(known.facts.clone());
                let (listed, processor) = (registry.is_some(), asker.processor);
                let AtHand { evidence, proven } = prove::at_hand(&known, asker.proofs).unwrap_or_else(|_| {
                    // Without the Registry's own credentials there may seem to be nothing.
                    if access.own || registry.is_none_or(|registry| registry.spec.credentials.is_none()) {
                        self.launch_prove(&subject, registry, access, asker);
                    }
                    AtHand::default()
                });
                Some(Sight {
                    subject: Some(subject),
                    certain: true,
                    outcome,
                    source: Source::Known,
                    evidence,
                    proven,
                    ..Sight::blind(None, listed, processor)
                })
            }
            _ => {
                self.launch_judge(&subject, registry, access, asker);
                None
            }
        }
    }

    /// What is written under this name changed: whoever waits for it is woken, if that is enough to judge by, and answers that it belies
    /// are forgotten. What a collector marks on stale facts answers no question.
    pub fn heard(&self, name: &str) {
        // Most of what a replica hears of nobody asked it about.
        if self.aloft() == 0 && self.parts.resolves.kept().0 == 0 {
            return;
        }
        let subject = self.parts.index.read().subject_named(name);
        if let Some(subject) = subject {
            self.landed(&subject);
        }
    }

    fn landed(&self, subject: &Subject) {
        let (known, enough) = {
            let index = self.parts.index.read();
            let rules = index.rules();
            let registry = rules.registry_for(subject.registry(), subject.repository());
            let Some(known) = index.image(subject) else { return };
            let enough = suffices(&known, subject, registry, true);
            (known, enough)
        };
        if enough {
            self.parts.judges.land(&Outcome::Found(known.facts.clone()), self.parts.lives.facts, |key| key.subject == *subject);
        }
        if known.facts.provider == Provider::AzureContainerRegistry && !known.facts.state.is_bad() {
            // Such a registry hides the tags of what is in quarantine, and shows them from now on.
            let same = |image: &Reference| (image.registry(), image.repository()) == (subject.registry(), subject.repository());
            self.parts.resolves.forget(|key, end| !matches!(end, Outcome::Found(_)) && same(&key.image));
        }
    }

    /// Flights in the air.
    #[must_use]
    pub fn aloft(&self) -> usize {
        let facts = self.parts.resolves.aloft() + self.parts.judges.aloft() + self.parts.proofs.aloft();
        facts + self.parts.holds.aloft() + self.parts.permissions.aloft()
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
        let key = ResolveKey { image: image.clone(), access: access.identity, place: place(registry) };
        if let Some(outcome) = self.parts.resolves.peek(&key) {
            return (outcome, Source::Known);
        }
        let parts = self.parts.clone();
        let namespace = asker.namespace.to_owned();
        let flight = || parts.resolve(key.clone(), registry.cloned(), access.clone(), namespace);
        let outcome = self.parts.resolves.get(key.clone(), ticket(registry, asker.namespace), asker.deadline, flight).await;
        (outcome.unwrap_or_else(busy), Source::Asked)
    }

    fn launch_resolve(&self, key: &ResolveKey, registry: Option<&Arc<RegistryEntry>>, access: &Access, namespace: &str) {
        let parts = self.parts.clone();
        let flight = || parts.resolve(key.clone(), registry.cloned(), access.clone(), namespace.to_owned());
        self.parts.resolves.launch(key.clone(), ticket(registry, namespace), flight);
    }

    async fn judge(
        &self,
        subject: &Subject,
        registry: Option<&Arc<RegistryEntry>>,
        asker: &Asker<'_>,
        class: Class,
    ) -> Outcome<Arc<Facts>> {
        let access = match &asker.access {
            Ok(access) => access,
            Err(why) => return why.outcome(),
        };
        let key = JudgeKey { subject: subject.clone(), access: access.identity, place: place(registry), record: asker.record };
        let parts = self.parts.clone();
        let namespace = asker.namespace.to_owned();
        let flight = || parts.judge(key.clone(), registry.cloned(), access.clone(), namespace, class);
        self.parts.judges.get(key.clone(), ticket(registry, asker.namespace), asker.deadline, flight).await.unwrap_or_else(busy)
    }

    /// What is owed: a judgement that nobody waits for any more.
    pub async fn make_up(&self, subject: &Subject, registry: Option<&Arc<RegistryEntry>>, asker: &Asker<'_>) -> Outcome<Arc<Facts>> {
        let judged = self.judge(subject, registry, asker, Class::Retry).await;
        if !matches!(judged, Outcome::Found(_)) {
            return judged;
        }
        match self.prove(subject, registry, asker, Class::Retry).await {
            Some(evidence) => evidence.found().map_or_else(|end| end, |_| judged),
            None => judged,
        }
    }

    fn launch_judge(&self, subject: &Subject, registry: Option<&Arc<RegistryEntry>>, access: &Access, asker: &Asker<'_>) {
        let key = JudgeKey { subject: subject.clone(), access: access.identity, place: place(registry), record: asker.record };
        let parts = self.parts.clone();
        let namespace = asker.namespace.to_owned();
        // The pods of a template come in a moment, and wait for the same flight.
        let flight = || parts.judge(key.clone(), registry.cloned(), access.clone(), namespace, Class::Admission);
        self.parts.judges.launch(key.clone(), ticket(registry, asker.namespace), flight);
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
        let outcome = self.parts.ask_state(subject, Some(registry), access, Class::Polling, namespace, |pass| pass).await;
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
        let (repository, class) = (subject.repository(), Class::Polling);
        let context = Context { registry: Some(registry), endpoint: &endpoint, access, repository, class, namespace: "", known: true };
        self.parts
            .ask(&context, async |client| {
                let (endpoint, credentials, now) = (&endpoint, &*access.credentials, Timestamp::now());
                provider::confirm(&Question { client: &client, endpoint, credentials, subject, adopted: false, now }).await
            })
            .await
    }

    /// Whether the registry answers at all, and whether it takes these credentials.
    pub async fn health(&self, registry: &Arc<RegistryEntry>, access: &Access) -> Result<(), Failure> {
        let Some(host) = registry.hosts.first() else { return Ok(()) };
        let endpoint = endpoint(host, Some(registry)).map_err(Failure::Misbehaved)?;
        let request = Request { method: http::Method::GET, path: "/v2/", scopes: &[], body: None };
        let pass = Pass::new(self.parts.line(host, registry), Class::Polling, "", endpoint.timeout, || ());
        let end = match self.parts.client.within(pass).request(&endpoint, &access.credentials, request).await {
            Ok(answer) if answer.status.is_server_error() => {
                Err(Failure::of(answer.status, &answer.headers, &answer.body, Timestamp::now()))
            }
            Ok(_) => Ok(()),
            Err(failure) => Err(failure),
        };
        match end {
            Err(Failure::Outage(outage)) => {
                self.parts.suspect(registry, &endpoint, access, &outage).await;
                Err(Failure::Outage(outage))
            }
            // Alive it is; whether it answers about images, too, is found out by whoever looks for the end of the outage.
            Ok(()) => self.parts.sources.health(&registry.name, &endpoint).out().map_or(Ok(()), |outage| Err(Failure::Outage(outage))),
            other => other,
        }
    }

    /// Changes whenever a registry that was out is well again.
    #[must_use]
    pub fn recovered(&self) -> watch::Receiver<u64> {
        self.parts.recovered.subscribe()
    }

    /// Forgets what is stale, and registries that are gone. Called now and then.
    pub fn sweep(&self) {
        self.parts.resolves.sweep();
        self.parts.judges.sweep();
        self.parts.proofs.sweep();
        self.parts.holds.sweep();
        self.parts.permissions.sweep();
        self.parts.probes.sweep();
        let rules = self.parts.index.read().rules();
        self.parts.sources.keep(|name| rules.registries.contains_key(name));
    }

    /// Answers that are kept, and the bytes that they take; at most [`MOST_KEPT`].
    #[must_use]
    pub fn kept(&self) -> (usize, usize) {
        let Parts { resolves, judges, proofs, holds, permissions, probes, .. } = &*self.parts;
        let all: [_; KINDS] = [resolves.kept(), judges.kept(), proofs.kept(), holds.kept(), permissions.kept(), probes.kept()];
        (all.iter().map(|(count, _)| count).sum(), all.iter().map(|(_, bytes)| bytes).sum())
    }

    /// Whether a registry is out, by what this replica has seen.
    #[must_use]
    pub fn is_out(&self, registry: &str) -> bool {
        self.parts.sources.is_out(registry)
    }

    /// How many registries are out, by what this replica has seen.
    #[must_use]
    pub fn registries_out(&self) -> usize {
        self.parts.sources.out()
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
        let line = self.parts.line(subject.registry(), registry);
        let client = self.parts.client.within(Pass::new(line, Class::Admission, "", endpoint.timeout, || ()));
        let question = Question {
            client: &client,
            endpoint: &endpoint,
            credentials: &access.credentials,
            subject,
            adopted: registry.adopted.is_some(),
            now: Timestamp::now(),
        };
        provider::keeper(registry.provider).carry_out(question, decision).await
    }

    /// What a tag stood for when it was last asked.
    fn last_of_tag(&self, image: &Reference, registry: Option<&Arc<RegistryEntry>>, access: Option<&Access>) -> OfTag {
        let Some(last) = self.parts.last_digest(image, access) else { return OfTag::default() };
        let index = self.parts.index.read();
        let known = index.last(&last.subject, Timestamp::now()).filter(|known| last.shown || known.facts.state.is_bad()).map(|known| {
            let (facts, seen) = last_look(&known, &last.subject, registry);
            // A tag is no better known than when it was resolved.
            (facts, seen.min(last.at))
        });
        // To whoever may not see it nothing is told of it but that it is bad.
        let subject = (last.shown || known.is_some()).then_some(last.subject);
        OfTag { subject, known, at: Some(last.at) }
    }
}

/// What a tag stood for, what was known of that and when it was last seen to be so, and when the tag was asked.
#[derive(Default)]
struct OfTag {
    subject: Option<Subject>,
    known: Option<(Arc<Facts>, Timestamp)>,
    at: Option<Timestamp>,
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

/// Whose share a flight takes, and whose bound.
fn ticket<'a>(registry: Option<&'a Arc<RegistryEntry>>, namespace: &'a str) -> Ticket<'a> {
    Ticket { asker: namespace, destination: registry.map_or(UNLISTED, |registry| &registry.name) }
}
