//! Lets images out of quarantine that are proven: the flag follows the proof, where Lazaretto keeps the flag and the Registry says what it takes.
//!
//! Only an image that is in quarantine because it is new is let go. What a person has decided stays as it is, and so does what was found
//! unfit. What is still missing is written on the ImageStatus, so that whoever waits can read it.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::time::Instant;

use super::Term;
use crate::{
    api::{Evidence, EvidenceKind, Exception, ImageStatus, ImageStatusStatus, Provider, State},
    facts::{Facts, Outcome},
    history::{self, Merged, Observation, Weight},
    image::Subject,
    index::Known,
    line::Class,
    lookups::{Access, Asker},
    policy::RegistryEntry,
    proof::{NoExceptions, Proof},
    sentence::WAITS,
};

/// Images at once; the registry's limits have the last word.
const AT_ONCE: usize = 4;
/// Who lets go, and who holds what is new.
const US: &str = "lazaretto";

/// Looks at every new image in quarantine of a registry. Returns how many there were, and what could not be looked at.
pub(super) async fn look(term: &Term, entry: &Arc<RegistryEntry>, access: &Access) -> (u32, Vec<Exception>) {
    let Some(proof) = &entry.release else { return (0, Vec::new()) };
    let waiting: Vec<(Subject, Arc<Known>)> = {
        let index = term.operator.index.read();
        let rules = index.rules();
        let ours =
            |subject: &Subject| rules.registry_for(subject.registry(), subject.repository()).is_some_and(|found| found.name == entry.name);
        let waits = |known: &Known| {
            known.facts.state == State::Quarantined && known.facts.provider == Provider::Managed && known.facts.by == US && !known.decided
        };
        index
            .images()
            .filter(|(subject, known)| waits(known) && ours(subject))
            .map(|(subject, known)| (subject.clone(), known.clone()))
            .collect()
    };
    let looked = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
    let looks = stream::iter(waiting).map(|(subject, known)| async move {
        let why = one(term, entry, proof, access, &subject, &known).await?;
        Some(Exception { subject: subject.to_string(), reason: history::clip(&why, 128) })
    });
    (looked, looks.buffer_unordered(AT_ONCE).filter_map(|exception| async { exception }).collect().await)
}

/// One image. Returns why it could not be looked at.
async fn one(term: &Term, entry: &Arc<RegistryEntry>, proof: &Proof, access: &Access, subject: &Subject, known: &Known) -> Option<String> {
    let operator = &term.operator;
    let deadline = Instant::now() + entry.poll_interval;
    let proofs = [proof];
    let asker =
        Asker { namespace: "", access: Ok(access.clone()), deadline, record: true, processor: false, inside: false, proofs: &proofs };
    let evidence = match operator.lookups.prove(subject, Some(entry), &asker, Class::Polling).await? {
        Outcome::Found(evidence) => evidence,
        other => return super::pass::reason(&other),
    };
    if !term.may_write() {
        return Some("no longer leading".to_owned());
    }
    let now = Timestamp::now();
    let verdict = proof.judge(&evidence, &NoExceptions, now);
    let facts = Facts { observed_at: now, ..(*known.facts).clone() };
    let observation = match &verdict {
        Ok(()) => Observation {
            facts: Facts { state: State::Released, since: now, reason: reason(&evidence), details: details(&evidence), ..facts },
            weight: Weight::Explicit,
        },
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
fn reason(evidence: &Evidence) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut last = None;
    for item in &evidence.items {
        if last.replace(item.kind) != Some(item.kind) {
            let hex = item.digest.rsplit(':').next().unwrap_or_default();
            parts.push(format!("{} {}", word(item.kind), hex.get(..8).unwrap_or(hex)));
        }
    }
    format!("proven: {}", parts.join(", "))
}

fn details(evidence: &Evidence) -> String {
    let parts = evidence.items.iter().map(|item| format!("{} {} by key {}", word(item.kind), item.digest, item.key));
    history::clip(&parts.collect::<Vec<_>>().join("; "), 512)
}
