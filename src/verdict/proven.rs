//! What the evidence about an image comes to for one policy.

use std::time::Duration;

use super::{Basis, Case, Sight, Unknown, Verdict, Why, basis, end};
use crate::{
    api::Requirement,
    facts::{Busy, BusyCause, Outcome},
    image::Subject,
    proof::Exceptions,
};

/// The same verdict where what has to be signed is signed; the processor of the quarantine sees images before they are.
pub(super) fn with_proof(case: &Case<'_, '_>, sight: &Sight, verdict: Verdict) -> Verdict {
    if !case.policy.proof.is_asked() || matches!(verdict, Verdict::Refuse(_) | Verdict::Admit(Basis::Processor)) {
        return verdict;
    }
    match (proven(case, sight), verdict) {
        (refused @ Verdict::Refuse(_), _) | (refused @ Verdict::Busy(_), Verdict::Admit(_) | Verdict::Unknown(_)) => refused,
        (Verdict::Admit(_), verdict) | (_, verdict @ (Verdict::Busy(_) | Verdict::Unknown(_))) => verdict,
        (unknown, _) => unknown,
    }
}

/// What the evidence comes to. That it could not be had is never read as "not signed".
fn proven(case: &Case<'_, '_>, sight: &Sight) -> Verdict {
    let unread = || Verdict::Busy(Busy { cause: BusyCause::Unproven, retry_after: Duration::from_secs(2) });
    match &sight.evidence {
        Some(Outcome::Found(evidence)) if case.policy.proof.is_covered_by(evidence) => {
            match case.policy.proof.judge(evidence, &Excepted { case, sight }, case.now) {
                Ok(()) => Verdict::Admit(basis(sight)),
                Err(unproven) => Verdict::Refuse(Why::Unproven(unproven)),
            }
        }
        // Somebody was named as an authority a moment ago.
        Some(Outcome::Found(_)) => unread(),
        Some(other) => end(other, sight),
        // Where the image itself could not be asked about, that says why.
        None => match &sight.outcome {
            Outcome::Found(_) => unread(),
            other => end(other, sight),
        },
    }
}

/// The waivers, as proof knows them.
struct Excepted<'c, 'p, 'a> {
    case: &'c Case<'p, 'a>,
    sight: &'c Sight,
}

impl Exceptions for Excepted<'_, '_, '_> {
    fn waives(&self, requirement: Requirement) -> bool {
        self.case.waived(requirement, Some(self.sight))
    }

    fn excepts(&self, id: &str) -> bool {
        let Case { waivers, namespace, image, now, .. } = *self.case;
        let subject = self.sight.subject.as_ref().filter(|_| self.sight.certain);
        let digest = image.digest().or_else(|| subject.map(Subject::digest));
        waivers.iter().any(|waiver| waiver.excepts(id, namespace, image.name(), digest, now))
    }
}

/// Why there is nothing, for whoever asked by hand: how a question ended that found nothing.
#[must_use]
pub fn outcome_why<T>(outcome: &Outcome<T>) -> Why {
    match outcome {
        Outcome::Found(_) | Outcome::Absent | Outcome::Refused => Why::NotFoundOrNotPermitted,
        Outcome::Hidden => Why::Hidden,
        Outcome::Blocked(block) => Why::Blocked(block.clone()),
        Outcome::Misbehaved(what) => Why::Misbehaved(what.clone()),
        Outcome::Pending(why) => Why::Unknown(Unknown::Pending(why.clone())),
        Outcome::Unavailable(outage) => Why::Unknown(Unknown::Unavailable(outage.clone())),
        Outcome::Unauthorized(why) => Why::Unknown(Unknown::Unauthorized(why.clone())),
        Outcome::Busy(busy) => Why::Busy(busy.clone()),
    }
}
