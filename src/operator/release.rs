//! Lets images out of quarantine that are proven: the flag follows the proof, where Lazaretto keeps the flag and the Registry says what it takes.
//!
//! Only an image that is in quarantine because it is new, or because its proof was lost, is let go; and only what was let go by proof goes back
//! when the proof does not hold any more: a report too old, a later one that is worse, a signer who is trusted no longer. What a person has decided
//! stays as it is, and so does what was found unfit. What could not be fetched changes nothing. What is missing is written on the ImageStatus, so that
//! whoever waits can read it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::time::Instant;

use super::Term;
use crate::{
    api::{Evidence, EvidenceItem, EvidenceKind, Exception, ImageStatus, ImageStatusStatus, Provider, State},
    facts::{Facts, Outcome},
    history::{self, Merged, Observation, Weight},
    image::Subject,
    index::Known,
    lookups::{Access, Asker},
    policy::RegistryEntry,
    proof::{NoExceptions, Proof, signer},
    sentence::WAITS,
};

/// Images at once; the registry's limits have the last word.
const AT_ONCE: usize = 4;
/// Images of one pass: what else is due comes with the next.
const MOST_LOOKS: usize = 200;
/// How soon one that waits is looked at again: with each pass at first, and later no more than this.
const SOON: Duration = Duration::from_secs(5);
const LATE: Duration = Duration::from_secs(600);
/// How often one is that is proven.
const REGULARLY: Duration = Duration::from_secs(3_600);
/// Who lets go, and who holds what is new.
const US: &str = "lazaretto";
/// How the reason of a release by proof begins.
const PROVEN: &str = "proven: ";
/// The reason why one is held again.
const LOST: &str = "its proof does not hold any more";

/// When which image is looked at again. In memory: a new leader looks at all of them once.
#[derive(Debug, Default)]
pub(super) struct Due {
    looks: HashMap<Subject, Look>,
    /// What it takes, as it was at the last pass.
    takes: Option<Proof>,
}

/// When an image is looked at again, and since when it waits, where it does.
#[derive(Clone, Copy, Debug)]
struct Look {
    next: Instant,
    since: Option<Instant>,
}

impl Due {
    /// Where it takes something else now, everything is due.
    fn by(&mut self, takes: Option<&Proof>) {
        if self.takes.as_ref() != takes {
            self.looks.clear();
            self.takes = takes.cloned();
        }
    }

    fn is_due(&self, subject: &Subject, now: Instant) -> bool {
        self.looks.get(subject).is_none_or(|look| look.next <= now)
    }

    /// Somebody may sign at any time, and most often does so soon: the longer it has waited, the later it is looked at again.
    fn looked(&mut self, subject: Subject, now: Instant, waits: bool) {
        let since = waits.then(|| self.looks.get(&subject).and_then(|look| look.since).unwrap_or(now));
        let wait = since.map_or(REGULARLY, |since| (now.duration_since(since) / 10).clamp(SOON, LATE));
        self.looks.insert(subject, Look { next: now + wait, since });
    }
}

/// Looks at what is signed about the images of a registry: new ones in quarantine, which are released by it, and those in use that are proven, since
/// a later report may say something else. Returns what could not be looked at.
pub(super) async fn look(term: &Term, entry: &Arc<RegistryEntry>, access: &Access, due: &mut Due) -> Vec<Exception> {
    let now = Instant::now();
    let mut all: Vec<(Subject, Arc<Known>)> = {
        let index = term.operator.index.read();
        let rules = index.rules();
        let ours =
            |subject: &Subject| rules.registry_for(subject.registry(), subject.repository()).is_some_and(|found| found.name == entry.name);
        let bears = |known: &Known| known.unused_since.is_none() && (waits(entry, known) || known.evidence.is_some());
        let found = index.images().filter(|(subject, known)| bears(known) && ours(subject));
        found.map(|(subject, known)| (subject.clone(), known.clone())).collect()
    };
    let there: HashSet<&Subject> = all.iter().map(|(subject, _)| subject).collect();
    due.by(entry.release.as_ref());
    due.looks.retain(|subject, _| there.contains(subject));
    all.retain(|(subject, _)| due.is_due(subject, now));
    // Those that wait first, and of each the longest unseen.
    all.sort_by_cached_key(|(subject, known)| (!waits(entry, known), due.looks.get(subject).map(|look| look.next)));
    all.truncate(MOST_LOOKS);
    let looks = all.into_iter().map(|(subject, known)| async move {
        let why = one(term, entry, access, &subject, &known).await;
        // One that was let go may wait again by now, and the other way round.
        let now = term.operator.index.read().image(&subject).unwrap_or(known);
        (subject, waits(entry, &now), why)
    });
    let ends: Vec<_> = stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
    let mut exceptions = Vec::new();
    for (subject, waiting, why) in ends {
        if let Some(why) = why {
            exceptions.push(Exception { subject: subject.to_string(), reason: history::clip(&why, 128) });
        }
        due.looked(subject, now, waiting);
    }
    exceptions
}

/// It is in quarantine by us, and may be released by its proof.
fn waits(entry: &RegistryEntry, known: &Known) -> bool {
    entry.release.is_some() && known.facts.state == State::Quarantined && is_ours(known)
}

/// It was released by its proof, and goes by it.
fn is_let_go(entry: &RegistryEntry, known: &Known) -> bool {
    entry.release.is_some() && known.facts.state == State::Released && known.facts.reason.starts_with(PROVEN) && is_ours(known)
}

fn is_ours(known: &Known) -> bool {
    known.facts.provider == Provider::Managed && known.facts.by == US && !known.decided
}

/// One image. Returns why it could not be looked at.
async fn one(term: &Term, entry: &Arc<RegistryEntry>, access: &Access, subject: &Subject, known: &Known) -> Option<String> {
    let operator = &term.operator;
    let rules = operator.index.read().rules();
    let proofs = rules.proofs_of(subject);
    let deadline = Instant::now() + entry.poll_interval;
    let asker =
        Asker { namespace: "", access: Ok(access.clone()), deadline, record: true, processor: false, inside: false, proofs: &proofs };
    let evidence = match operator.lookups.prove_again(subject, entry, &asker).await? {
        Outcome::Found(evidence) => evidence,
        other => return super::pass::reason(&other),
    };
    let proof = entry.release.as_ref()?;
    let now = Timestamp::now();
    if is_let_go(entry, known) && is_cut(&evidence) && proof.judge(&evidence, &NoExceptions, now).is_err() {
        return Some(format!("what is attached could not all be read ({})", evidence.unproven));
    }
    let observation = observe(proof, &known.facts, &evidence, (waits(entry, known), is_let_go(entry, known)), now)?;
    if !term.may_write() {
        return Some("no longer leading".to_owned());
    }
    match operator.writer.change(&known.name, |object| settled(object, &observation, now)).await {
        Ok(Some(object)) => {
            operator.index.write().apply_written(&object, now);
            operator.lookups.heard(&known.name);
            None
        }
        Ok(None) => None,
        Err(error) => Some(format!("what was found could not be written: {error}")),
    }
}

/// Not everything that is attached was read: what is missing may be there.
fn is_cut(evidence: &Evidence) -> bool {
    evidence.more || evidence.platforms.iter().any(|image| image.more)
}

/// What the evidence comes to for an image that waits, or that was let go by its proof. None where that is no news.
fn observe(proof: &Proof, known: &Facts, evidence: &Evidence, (waits, let_go): (bool, bool), now: Timestamp) -> Option<Observation> {
    // While somebody's trusted root is not at hand, nobody can say that it is not signed.
    if !(waits || let_go && proof.is_covered_by(evidence)) {
        return None;
    }
    let facts = Facts { observed_at: now, ..known.clone() };
    match proof.judge(evidence, &NoExceptions, now) {
        Ok(()) if let_go => None,
        Ok(()) => {
            let counts: Vec<&EvidenceItem> = evidence.items.iter().filter(|item| proof.uses(item)).collect();
            let facts = Facts { state: State::Released, since: now, reason: reason(&counts), details: details(&counts), ..facts };
            Some(Observation { facts, weight: Weight::Explicit })
        }
        // The platforms of nodes have changed meanwhile; the next pass goes by them.
        Err(unproven) if unproven.unlooked => None,
        Err(unproven) => {
            let details = format!("{WAITS}{unproven}");
            let facts = if let_go {
                Facts { state: State::Quarantined, since: now, reason: LOST.to_owned(), details, ..facts }
            } else {
                Facts { details, ..facts }
            };
            Some(Observation { facts, weight: Weight::Seen })
        }
    }
}

/// The status with what was found, unless somebody has decided meanwhile.
fn settled(object: &ImageStatus, observation: &Observation, now: Timestamp) -> Option<ImageStatusStatus> {
    let status = object.status.as_ref()?;
    let goes_by_proof = match status.state {
        State::Quarantined => true,
        State::Released => status.reason.starts_with(PROVEN),
        State::Failed | State::Pending | State::Unmanaged => false,
    };
    let ours = status.by == US && status.provider == Provider::Managed;
    if !(ours && goes_by_proof) || object.spec.quarantine.is_some() {
        return None;
    }
    match history::merge(object, observation, now) {
        Merged::Changed(status) => Some(*status),
        Merged::Unchanged | Merged::Full => None,
    }
}

const fn word(kind: EvidenceKind) -> &'static str {
    match kind {
        EvidenceKind::Signature => "signature",
        EvidenceKind::Sbom => "SBOM",
        EvidenceKind::Vulnerabilities => "scan",
        EvidenceKind::Vex => "VEX",
    }
}

/// Short enough for the history: each kind with the beginning of its digest.
fn reason(counts: &[&EvidenceItem]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut last = None;
    for item in counts {
        if last.replace(item.kind) != Some(item.kind) {
            let hex = item.digest.rsplit(':').next().unwrap_or_default();
            parts.push(format!("{} {}", word(item.kind), hex.get(..8).unwrap_or(hex)));
        }
    }
    format!("{PROVEN}{}", parts.join(", "))
}

fn details(counts: &[&EvidenceItem]) -> String {
    let parts = counts.iter().map(|item| format!("{} {} by {}", word(item.kind), item.digest, signer(item)));
    history::clip(&parts.collect::<Vec<_>>().join("; "), 512)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{facts::Manifest, image::Digest, proof::Asked};

    const KEY: &str = include_str!("../../tests/fixtures/proof/keys/ecdsa-p256.pub.pem");

    fn proof() -> Proof {
        let authorities = serde_json::from_value::<Vec<crate::api::Authority>>(json!([{ "name": "build", "publicKey": KEY }])).unwrap();
        let signatures = serde_json::from_value(json!({})).unwrap();
        Proof::read(&Asked { authorities: &authorities, signatures: Some(&signatures), ..Asked::default() }).unwrap()
    }

    fn evidence(proof: &Proof, signed: bool, looked: bool) -> Evidence {
        let authority = &proof.authorities[0];
        let item = json!({ "kind": "Signature", "key": &*authority.id, "digest": Digest::of(b"signature").to_string() });
        serde_json::from_value(json!({
            "lookedAt": "2026-01-01T00:00:00Z",
            "lookedFor": if looked { vec![&*authority.short] } else { Vec::new() },
            "items": if signed { vec![item] } else { Vec::new() }, "lookedInside": ["*"],
        }))
        .unwrap()
    }

    fn known(state: State, reason: &str) -> Facts {
        Facts {
            state,
            since: Timestamp::UNIX_EPOCH,
            by: US.to_owned(),
            reason: reason.to_owned(),
            details: String::new(),
            provider: Provider::Managed,
            observed_at: Timestamp::UNIX_EPOCH,
            manifest: Manifest::default(),
        }
    }

    /// Whoever has just lost a proof mends that soon, however long it held.
    #[tokio::test(start_paused = true)]
    async fn what_begins_to_wait_is_looked_at_soon_and_what_has_waited_long_less_often() {
        let subject: Subject = format!("registry.corp/team/app@sha256:{}", "a".repeat(64)).parse().unwrap();
        let (mut due, begun) = (Due::default(), Instant::now());
        let mut next = |after: u64, waits: bool| {
            let now = begun + Duration::from_secs(after);
            due.looked(subject.clone(), now, waits);
            (due.looks[&subject].next - now).as_secs()
        };
        assert_eq!([next(0, true), next(100, true), next(100_000, true)], [5, 10, 600]);
        assert_eq!([next(100_001, false), next(200_000, true), next(200_100, true)], [3_600, 5, 10]);
    }

    /// What becomes of it: the state, its reason, its details.
    fn seen(known: &Facts, evidence: &Evidence, kind: (bool, bool)) -> Option<(State, String, String)> {
        let seen = observe(&proof(), known, evidence, kind, Timestamp::now())?;
        Some((seen.facts.state, seen.facts.reason, seen.facts.details))
    }

    #[test]
    fn the_flag_follows_the_proof() {
        let (new, proven) = (known(State::Quarantined, "new"), known(State::Released, "proven: signature 12345678"));
        let (waits, let_go, neither) = ((true, false), (false, true), (false, false));
        let [signed, unsigned, unread] =
            [(true, true), (false, true), (false, false)].map(|(signed, looked)| evidence(&proof(), signed, looked));
        let (state, reason, _) = seen(&new, &signed, waits).unwrap();
        assert_eq!(state, State::Released);
        assert!(reason.starts_with(PROVEN), "{reason}");
        let (state, reason, details) = seen(&new, &unsigned, waits).unwrap();
        assert_eq!((state, &*reason), (State::Quarantined, "new"));
        assert!(details.starts_with("waits: it is not signed by build"), "{details}");
        assert_eq!(seen(&proven, &signed, let_go), None);
        let (state, reason, details) = seen(&proven, &unsigned, let_go).unwrap();
        assert_eq!((state, &*reason), (State::Quarantined, LOST));
        assert!(details.starts_with("waits: it is not signed by build"), "{details}");
        assert_eq!(seen(&proven, &unread, let_go), None, "nobody has looked for whoever has to sign");
        assert_eq!(seen(&proven, &unsigned, neither), None, "a person decided");
        let outside = Evidence { looked_inside: Vec::new(), ..unsigned };
        assert_eq!((seen(&proven, &outside, let_go), seen(&new, &outside, waits)), (None, None), "its images may be signed");
    }
}
