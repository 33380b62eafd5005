//! Fetches what is signed about an image, once for everybody who waits.
//!
//! Four places are looked in: the referrers of the digest (by the registry's list, or its fallback tag), and cosign's older tags for
//! signatures and attestations. Each thing is checked as soon as it is here, and forgotten; what stays is the evidence. A question that does not
//! come to its end is an end of the whole: what could not be fetched is never taken for what is not there. What is there and cannot be
//! used (too large, another digest, no bundle) proves nothing, and the evidence says so.

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
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
    facts::{Busy, BusyCause, Facts, Outcome, is_within},
    flights::Found,
    image::{Digest, Subject},
    index::{BAD_IS_FRESH, Known, Rules},
    line::Class,
    policy::RegistryEntry,
    proof::{
        Authority, NoExceptions, Proof,
        bundle::{self, MEDIA_TYPE as BUNDLE},
        gather::{self, Checked, Form, Found as Thing, Life},
        simple,
    },
    registry::{Artifact, Failure, Layer, Notes, Referrer, RegistryClient, TagOrDigest},
};

type Flight = BoxFuture<'static, Found<Outcome<Arc<Evidence>>>>;

/// Referrers that are looked into.
const MOST_CANDIDATES: usize = 64;
/// Things that are checked of one image.
const MOST_THINGS: usize = 128;
/// Requests for one image at once.
const AT_ONCE: usize = 4;
/// Bytes of one thing at a host without a Registry object, which its author may own.
const UNLISTED: usize = 1 << 20;
/// Characters of a tag (OCI distribution 1.1, "pulling manifests").
const LONGEST_TAG: usize = 128;
const MISSING: &str = "the registry lists it and does not have it";
/// What makers attach to an image about its life.
const LIFECYCLE: &str = "application/vnd.microsoft.artifact.lifecycle";
/// A DSSE envelope by itself.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";

/// Evidence that is at hand, and is enough to judge by.
#[derive(Debug, Default)]
pub(super) struct AtHand {
    /// What was found. None where nothing is asked.
    pub(super) evidence: Option<Outcome<Arc<Evidence>>>,
    /// It was found out that it proves what is asked. False where that is yet to be judged.
    pub(super) proven: bool,
}

/// Whether evidence is enough to judge by: it proves what is asked (then true), or somebody looked a moment ago (then false: it may not).
fn suffices(evidence: &Evidence, proofs: &[&Proof]) -> Option<bool> {
    let now = Timestamp::now();
    let covered = proofs.iter().all(|proof| proof.is_covered_by(evidence));
    let proven = covered && proofs.iter().all(|proof| proof.judge(evidence, &NoExceptions, now).is_ok());
    (proven || covered && is_within(evidence.looked_at, BAD_IS_FRESH, now)).then_some(proven)
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
    let proven = suffices(evidence, proofs).ok_or(Missing)?;
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
        let evidence = known.evidence.clone().filter(|held| asker.proofs.iter().all(|proof| proof.is_covered_by(held)))?;
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
        let last = known.and_then(|known| known.evidence.clone()).filter(|held| asker.proofs.iter().all(|proof| proof.is_covered_by(held)));
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
        let authorities = authorities(asker.proofs, &self.parts.index.read().rules(), subject);
        let ids: Vec<&str> = authorities.iter().map(|authority| &*authority.id).collect();
        let key = ProveKey {
            subject: subject.clone(),
            access: access.identity,
            place: place(registry),
            authorities: BuildHasherDefault::<DefaultHasher>::default().hash_one(ids),
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
                let context =
                    Context { registry: registry.as_ref(), endpoint: &endpoint, access: &access, repository, class, namespace: &namespace };
                match self.gather(&context, key.subject.digest(), &Arc::from(authorities)).await {
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
                Outcome::Busy(Busy { cause: BusyCause::Deadline, retry_after: Duration::from_secs(1) })
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

    /// Everything that is there about a digest, checked.
    async fn gather<E>(
        self: &Arc<Self>,
        context: &Context<'_>,
        digest: &Digest,
        authorities: &Arc<[Arc<Authority>]>,
    ) -> Result<Evidence, Outcome<E>> {
        let (endpoint, credentials, repository) = (context.endpoint, &*context.access.credentials, context.repository);
        let tag = digest.to_string().replace(':', "-");
        let by_tag = async |suffix: &str| {
            let tag = format!("{tag}.{suffix}");
            if tag.len() > LONGEST_TAG {
                // Nobody can have written it.
                return Ok(None);
            }
            self.ask_for(context, async |client| client.artifact(endpoint, credentials, repository, TagOrDigest::Tag(&tag)).await).await
        };
        let list = self.ask_for(context, async |client| client.referrers(endpoint, credentials, repository, digest).await);
        let (referrers, signatures, attestations) = futures::try_join!(list, by_tag("sig"), by_tag("att"))?;
        let mut checked: Vec<Checked> = Vec::new();
        let mut layers: Vec<Layer> = Vec::new();
        for artifact in [signatures, attestations].into_iter().flatten() {
            if artifact.cut {
                checked.push(Checked::unread("it has more signatures under one tag than are read".to_owned()));
            }
            layers.extend(artifact.layers);
        }
        // Some registries show the type of an artifact's configuration, or none: its layers tell.
        let may_be =
            |kind: &str| kind.is_empty() || kind.starts_with(BUNDLE) || kind == ENVELOPE || kind == "application/vnd.oci.empty.v1+json";
        let mut candidates: Vec<Digest> = Vec::new();
        let mut lives: Vec<Life> = Vec::new();
        let lived = |lives: &mut Vec<Life>, notes: Notes| {
            lives.extend(notes.end_of_life.map(|end| Life { end, said: notes.created }));
        };
        for Referrer { digest: name, kind, notes } in referrers.entries {
            let told = notes.end_of_life.is_some();
            if kind == LIFECYCLE && told {
                lived(&mut lives, notes);
                continue;
            }
            if (may_be(&kind) || kind == LIFECYCLE) && !candidates.contains(&name) && candidates.len() <= MOST_CANDIDATES {
                candidates.push(name);
            }
        }
        if referrers.cut || candidates.len() > MOST_CANDIDATES {
            candidates.truncate(MOST_CANDIDATES);
            checked.push(Checked::unread(format!(
                "more than {MOST_CANDIDATES} things that may be signatures refer to it; no more are looked at"
            )));
        }
        let artifacts: Vec<Result<Artifact, String>> = stream::iter(candidates)
            .map(|name| async move {
                let reference = TagOrDigest::Digest(&name);
                let asked = self.ask(context, async |client| client.artifact(endpoint, credentials, repository, reference).await).await;
                // One that cannot be used is no reason not to look at the others; whoever may push may attach it.
                match asked {
                    Outcome::Found(Some(artifact)) => Ok(Ok(artifact)),
                    Outcome::Found(None) | Outcome::Absent | Outcome::Hidden => Ok(Err(format!("{name}: {MISSING}"))),
                    Outcome::Misbehaved(why) => Ok(Err(format!("{name}: {why}"))),
                    Outcome::Refused | Outcome::Blocked(_) => Ok(Err(format!("{name}: the registry does not give it out"))),
                    other => other.found().map(|_| Err(String::new())),
                }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for artifact in artifacts {
            match artifact {
                Ok(artifact) => {
                    lived(&mut lives, artifact.notes);
                    layers.extend(artifact.layers);
                }
                Err(why) => checked.push(Checked::unread(why)),
            }
        }
        layers
            .retain(|layer| layer.media_type.starts_with(BUNDLE) || layer.media_type == ENVELOPE || layer.media_type == simple::MEDIA_TYPE);
        if layers.is_empty() && checked.is_empty() {
            // A registry may hide from whoever asks that anything is there at all.
            self.ask_for(context, async |client| client.resolve(endpoint, credentials, repository, TagOrDigest::Digest(digest)).await)
                .await?;
        }
        if layers.len() > MOST_THINGS {
            // What is attached last stands last.
            layers.drain(..layers.len() - MOST_THINGS);
            checked.push(Checked::unread(format!("it has more than {MOST_THINGS} signatures; no more are looked at")));
        }
        let things: Vec<Checked> =
            stream::iter(layers).map(|layer| self.check(context, layer, digest, authorities)).buffered(AT_ONCE).try_collect().await?;
        checked.extend(things);
        Ok(gather::conclude(checked, &lives, authorities, Timestamp::now()))
    }

    /// Fetches one thing and checks it.
    async fn check<E>(
        self: &Arc<Self>,
        context: &Context<'_>,
        layer: Layer,
        digest: &Digest,
        authorities: &Arc<[Arc<Authority>]>,
    ) -> Result<Checked, Outcome<E>> {
        let Layer { media_type, digest: name, size, signature } = layer;
        let limit = if media_type == simple::MEDIA_TYPE { simple::MAX_BYTES } else { bundle::MAX_BYTES };
        let skip = |why: String| Ok(Checked::unread(format!("{name}: {why}")));
        let limit = if context.registry.is_some() { limit } else { limit.min(UNLISTED) };
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= limit) else {
            return skip(format!("it has {size} bytes, and at most {limit} are read"));
        };
        let Ok(_room) = self.rooms.of(context.registry.map(|registry| &*registry.name)).take(size).await else {
            return skip("there is no room for it".to_owned());
        };
        let (endpoint, credentials, repository) = (context.endpoint, &*context.access.credentials, context.repository);
        let fetched: Outcome<Option<bytes::Bytes>> =
            self.ask(context, async |client| client.blob(endpoint, credentials, repository, &name, size.max(1)).await).await;
        let bytes = match fetched {
            Outcome::Found(Some(bytes)) => bytes,
            Outcome::Found(None) | Outcome::Absent | Outcome::Hidden => return skip(MISSING.to_owned()),
            Outcome::Misbehaved(why) => return skip(why),
            Outcome::Refused | Outcome::Blocked(_) => return skip("the registry does not give it out".to_owned()),
            other => return other.found().map(|_| Checked::default()),
        };
        let form = if media_type == ENVELOPE {
            Form::Envelope
        } else if media_type == simple::MEDIA_TYPE {
            let Some(signature) = signature else { return skip("it has no signature".to_owned()) };
            Form::Simple(signature)
        } else {
            Form::Bundle
        };
        let thing = Thing { digest: name, bytes, form };
        let (digest, authorities) = (digest.clone(), authorities.clone());
        match tokio::task::spawn_blocking(move || gather::check(&thing, &authorities, &digest)).await {
            Ok(checked) => Ok(checked),
            Err(error) => {
                tracing::error!(%error, "a signature was not checked");
                Err(Outcome::Busy(Busy { cause: BusyCause::Deadline, retry_after: Duration::from_secs(1) }))
            }
        }
    }

    async fn ask_for<T, E>(
        self: &Arc<Self>,
        context: &Context<'_>,
        question: impl AsyncFnOnce(RegistryClient) -> Result<T, Failure>,
    ) -> Result<T, Outcome<E>> {
        self.ask(context, question).await.found()
    }
}
