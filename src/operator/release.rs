//! Lets images out of quarantine that are proven: the flag follows the proof, where Lazaretto keeps the flag and the Registry says what it takes.
//!
//! Only an image that is in quarantine because it is new is let go. What a person has decided stays as it is, and so does what was found
//! unfit. What is still missing is written on the ImageStatus, so that whoever waits can read it.

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
    api::{EvidenceItem, EvidenceKind, Exception, ImageStatus, ImageStatusStatus, Provider, State},
    facts::{Facts, Outcome},
    history::{self, Merged, Observation, Weight},
    image::Subject,
    index::Known,
    lookups::{Access, Asker},
    policy::RegistryEntry,
    proof::{NoExceptions, signer},
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

/// When which image is looked at again. In memory: a new leader looks at all of them once.
#[derive(Debug, Default)]
pub(super) struct Due(HashMap<Subject, Look>);

/// When an image is looked at again, and when it was looked at first.
#[derive(Clone, Copy, Debug)]
struct Look {
    next: Instant,
    first: Instant,
}

impl Due {
    fn is_due(&self, subject: &Subject, now: Instant) -> bool {
        self.0.get(subject).is_none_or(|look| look.next <= now)
    }

    /// Somebody may sign at any time, and most often does so soon: the longer it has waited, the later it is looked at again.
    fn looked(&mut self, subject: Subject, now: Instant, waits: bool) {
        let first = self.0.get(&subject).map_or(now, |look| look.first);
        let wait = if waits { (now.duration_since(first) / 10).clamp(SOON, LATE) } else { REGULARLY };
        self.0.insert(subject, Look { next: now + wait, first });
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
    due.0.retain(|subject, _| there.contains(subject));
    all.retain(|(subject, _)| due.is_due(subject, now));
    // Those that wait first, and of each the longest unseen.
    all.sort_by_cached_key(|(subject, known)| (!waits(entry, known), due.0.get(subject).map(|look| look.next)));
    all.truncate(MOST_LOOKS);
    let looks = all.into_iter().map(|(subject, known)| async move {
        let why = one(term, entry, access, &subject, &known).await;
        (subject, waits(entry, &known), why)
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

/// It is new, in quarantine for that, and may be released by its proof.
fn waits(entry: &RegistryEntry, known: &Known) -> bool {
    let facts = &known.facts;
    entry.release.is_some() && facts.state == State::Quarantined && facts.provider == Provider::Managed && facts.by == US && !known.decided
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
    let proof = entry.release.as_ref().filter(|_| waits(entry, known))?;
    if !term.may_write() {
        return Some("no longer leading".to_owned());
    }
    let now = Timestamp::now();
    let verdict = proof.judge(&evidence, &NoExceptions, now);
    let facts = Facts { observed_at: now, ..(*known.facts).clone() };
    let observation = match &verdict {
        Ok(()) => {
            let counts: Vec<&EvidenceItem> = evidence.items.iter().filter(|item| proof.uses(item)).collect();
            Observation {
                facts: Facts { state: State::Released, since: now, reason: reason(&counts), details: details(&counts), ..facts },
                weight: Weight::Explicit,
            }
        }
        Err(unproven) => Observation { facts: Facts { details: format!("{WAITS}{unproven}"), ..facts }, weight: Weight::Seen },
    };
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

/// The status with what was found, unless somebody has decided meanwhile.
fn settled(object: &ImageStatus, observation: &Observation, now: Timestamp) -> Option<ImageStatusStatus> {
    let status = object.status.as_ref()?;
    let waits = status.state == State::Quarantined && status.by == US && status.provider == Provider::Managed;
    if !waits || object.spec.quarantine.is_some() {
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
    format!("proven: {}", parts.join(", "))
}

fn details(counts: &[&EvidenceItem]) -> String {
    let parts = counts.iter().map(|item| format!("{} {} by {}", word(item.kind), item.digest, signer(item)));
    history::clip(&parts.collect::<Vec<_>>().join("; "), 512)
}
