//! Fetches what is signed about an image, once for everybody who waits.
//!
//! A question that does not come to its end is an end of the whole: what could not be fetched is never taken for what is not there. Where it is looked
//! for is [`super::attached`]'s, and which images of an index are looked at [`super::inside`]'s.

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use futures::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;

use super::{
    Access, Asker, Lookups,
    ask::{Context, Parts, endpoint},
    busy,
    keys::{ProveKey, place},
    tags::is_ours,
    ticket,
};
use crate::{
    api::{Evidence, MAX_LOOKED_FOR},
    facts::{Busy, Facts, Outcome, is_within},
    flights::Found,
    image::Subject,
    index::{BAD_IS_FRESH, Known, Rules},
    line::Class,
    policy::RegistryEntry,
    proof::{Authority, NoExceptions, Proof},
};

type Flight = BoxFuture<'static, Found<Outcome<Arc<Evidence>>>>;

/// Evidence that is at hand, and is enough to judge by.
#[derive(Debug, Default)]
pub(super) struct AtHand {
    /// What was found. None where nothing is asked.
    pub(super) evidence: Option<Outcome<Arc<Evidence>>>,
    /// It was found out that it proves what is asked. False where that is yet to be judged.
    pub(super) proven: bool,
}

/// Whether evidence is enough to judge by: it proves what is asked (then true), or somebody looked a moment ago (then false: it may not).
fn suffices(evidence: &Evidence, proofs: &[&Proof], now: Timestamp) -> Option<bool> {
    let covered = proofs.iter().all(|proof| proof.is_covered_by(evidence));
    let missing = proofs.iter().filter_map(|proof| proof.judge(evidence, &NoExceptions, now).err());
    let (missing, unlooked) = missing.fold((false, false), |(_, unlooked), unproven| (true, unlooked || unproven.unlooked));
    let proven = covered && !missing;
    (proven || covered && !unlooked && is_within(evidence.looked_at, BAD_IS_FRESH, now)).then_some(proven)
}

/// Whether evidence, of whatever age, says anything about what is asked: everybody was looked for, and inside wherever that matters.
fn speaks(evidence: &Evidence, proofs: &[&Proof]) -> bool {
    let now = Timestamp::now();
    let unlooked = |proof: &Proof| proof.judge(evidence, &NoExceptions, now).is_err_and(|unproven| unproven.unlooked);
    proofs.iter().all(|proof| proof.is_covered_by(evidence) && !unlooked(proof))
}

/// Evidence has to be fetched.
#[derive(Debug)]
pub(super) struct Missing;

/// What is at hand of evidence, if that is enough.
pub(super) fn at_hand(known: &Known, proofs: &[&Proof]) -> Result<AtHand, Missing> {
    if proofs.is_empty() {
        return Ok(AtHand::default());
    }
    let evidence = known.evidence.as_ref().ok_or(Missing)?;
    let now = Timestamp::now();
    let proven = match proofs {
        [proof] if known.proven.holds(proof.number, now) => true,
        _ => suffices(evidence, proofs, now).ok_or(Missing)?,
    };
    if let ([proof], true) = (proofs, proven) {
        known.proven.note(proof.number, now);
    }
    Ok(AtHand { evidence: Some(Outcome::Found(evidence.clone())), proven })
}

/// Everybody for whose signatures is looked: those who are asked for first, then whoever else a policy or Registry trusts that speaks of the
/// image, so that one look does for all of them. In one order, whoever asks.
fn authorities(proofs: &[&Proof], rules: &Rules, subject: &Subject) -> Vec<Arc<Authority>> {
    let mut all: Vec<Arc<Authority>> = Vec::new();
    let asked = proofs.iter().flat_map(|proof| &proof.authorities);
    let others = rules.proofs_of(subject).into_iter().flat_map(|proof| &proof.authorities);
    for authority in asked.chain(others) {
        let ready = !authority.short.is_empty();
        if ready && all.len() < MAX_LOOKED_FOR && !all.iter().any(|held| held.id == authority.id) {
            all.push(authority.clone());
        }
    }
    all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    all
}

impl Lookups {
    /// What is refused anyway is not asked about what is signed.
    pub(super) async fn prove_unless_held(
        &self,
        subject: &Subject,
        registry: Option<&Arc<RegistryEntry>>,
        asker: &Asker<'_>,
        facts: &Facts,
    ) -> Option<Outcome<Arc<Evidence>>> {
        let refused = facts.state.is_bad() && !asker.processor && asker.proofs.iter().all(|proof| !proof.even_held);
        if refused { self.evidence_at_hand(subject, asker) } else { self.prove(subject, registry, asker, Class::Admission).await }
    }

    /// What is written of evidence, at any age, where it speaks of everybody who is asked for.
    pub(super) fn evidence_at_hand(&self, subject: &Subject, asker: &Asker<'_>) -> Option<Outcome<Arc<Evidence>>> {
        let known = self.parts.index.read().image(subject).filter(|_| !asker.proofs.is_empty())?;
        let evidence = known.evidence.clone().filter(|held| speaks(held, asker.proofs))?;
        Some(Outcome::Found(evidence))
    }

    /// What is signed about an image. None where nothing is asked.
    pub async fn prove(
        &self,
        subject: &Subject,
        registry: Option<&Arc<RegistryEntry>>,
        asker: &Asker<'_>,
        class: Class,
    ) -> Option<Outcome<Arc<Evidence>>> {
        let known = self.parts.index.read().image(subject);
        let known = known.as_ref();
        if asker.proofs.is_empty() {
            return None;
        }
        if let Some(Ok(AtHand { evidence, .. })) = known.map(|known| at_hand(known, asker.proofs)) {
            return evidence;
        }
        let access = match &asker.access {
            Ok(access) => access,
            Err(why) => return Some(why.outcome()),
        };
        let (key, flight) = self.flight(subject, registry, (access, asker), class);
        let outcome = self.parts.proofs.get(key, ticket(registry, asker.namespace), asker.deadline, flight).await.unwrap_or_else(busy);
        // What was not proven at the last look opens in no outage.
        let last = known.and_then(|known| known.evidence.clone()).filter(|held| speaks(held, asker.proofs));
        Some(match (outcome, last) {
            (Outcome::Unavailable(_) | Outcome::Pending(_) | Outcome::Unauthorized(_), Some(last)) => Outcome::Found(last),
            (outcome, _) => outcome,
        })
    }

    /// Looks again, whatever is written: the leader's regular look. None where nothing is asked.
    pub async fn prove_again(&self, subject: &Subject, registry: &Arc<RegistryEntry>, asker: &Asker<'_>) -> Option<Outcome<Arc<Evidence>>> {
        if asker.proofs.is_empty() {
            return None;
        }
        let access = match &asker.access {
            Ok(access) => access,
            Err(why) => return Some(why.outcome()),
        };
        let (key, flight) = self.flight(subject, Some(registry), (access, asker), Class::Polling);
        Some(self.parts.proofs.get(key, ticket(Some(registry), asker.namespace), asker.deadline, flight).await.unwrap_or_else(busy))
    }

    /// Looks for it, so that whoever asks next finds it.
    pub(super) fn launch_prove(&self, subject: &Subject, registry: Option<&Arc<RegistryEntry>>, access: &Access, asker: &Asker<'_>) {
        let (key, flight) = self.flight(subject, registry, (access, asker), Class::Admission);
        self.parts.proofs.launch(key, ticket(registry, asker.namespace), flight);
    }

    fn flight(
        &self,
        subject: &Subject,
        registry: Option<&Arc<RegistryEntry>>,
        (access, asker): (&Access, &Asker<'_>),
        class: Class,
    ) -> (ProveKey, impl FnOnce() -> Flight + use<>) {
        let rules = self.parts.index.read().rules();
        let authorities = authorities(asker.proofs, &rules, subject);
        let ids: Vec<&str> = authorities.iter().map(|authority| &*authority.id).collect();
        let key = ProveKey {
            subject: subject.clone(),
            access: access.identity,
            place: place(registry),
            wanted: BuildHasherDefault::<DefaultHasher>::default().hash_one((ids, rules.platforms.names())),
            record: asker.record,
        };
        let (parts, registry, access, namespace) = (self.parts.clone(), registry.cloned(), access.clone(), asker.namespace.to_owned());
        let flown = key.clone();
        let flight = move || parts.prove(flown, registry, access, namespace, class, authorities).boxed();
        (key, flight)
    }
}

impl Parts {
    async fn prove(
        self: Arc<Self>,
        key: ProveKey,
        registry: Option<Arc<RegistryEntry>>,
        access: Access,
        namespace: String,
        class: Class,
        authorities: Vec<Arc<Authority>>,
    ) -> Found<Outcome<Arc<Evidence>>> {
        let outcome = match endpoint(key.subject.registry(), registry.as_ref()) {
            Ok(endpoint) => {
                let repository = key.subject.repository();
                let known = self.index.read().image(&key.subject).is_some_and(|known| known.evidence.is_some());
                let (registry, namespace) = (registry.as_ref(), &*namespace);
                let context = Context { registry, endpoint: &endpoint, access: &access, repository, class, namespace, known };
                match self.gather(&context, &key.subject, &Arc::from(authorities)).await {
                    Ok(evidence) => Outcome::Found(Arc::new(evidence)),
                    Err(end) => end,
                }
            }
            Err(error) => Outcome::Misbehaved(error),
        };
        self.metrics
            .questions
            .get_or_create(&crate::metrics::QuestionLabels { question: crate::metrics::Asked::Prove, outcome: outcome.kind() })
            .inc();
        let outcome = match outcome {
            Outcome::Found(_) if self.place_of(key.subject.registry(), key.subject.repository()) != key.place => {
                Outcome::Busy(Busy::UNANSWERED)
            }
            other => other,
        };
        // Somebody who may not see what is attached must not make it look as if there were nothing.
        if let (Outcome::Found(evidence), true) = (&outcome, key.record)
            && (is_ours(&access) || !evidence.items.is_empty())
        {
            self.note_evidence(&key.subject, evidence).await;
        }
        self.found(outcome, self.lives.facts)
    }

    /// Writes down what was found, where something is written of the image at all.
    async fn note_evidence(&self, subject: &Subject, evidence: &Arc<Evidence>) {
        let Some(writer) = &self.writer else { return };
        let known = self.index.read().image(subject);
        let Some(name) = known.filter(|known| !known.blank).map(|known| known.name.clone()) else { return };
        match writer.change(&name, |object| crate::history::attested(object, evidence, Timestamp::now())).await {
            Ok(Some(object)) => drop(self.index.write().apply_written(&object, Timestamp::now())),
            Ok(None) => {}
            // It is found again when somebody asks again.
            Err(error) => tracing::warn!(%subject, %error, "what is signed about an image was not written"),
        }
    }
}
