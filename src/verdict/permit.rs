//! What the access rules of a Registry come to for one pod and one image, before anything is made of the image itself.
//!
//! Whoever may not see an image learns nothing of it: the refusal is that of an image that is not there, and says no digest, no state and no warning.
//! Only an outage of the registry itself leaves it open whether a pod may; a slow answer does not, since a pod's author chooses the image and the
//! credentials that are slow.

use std::time::Duration;

use super::{Case, Settled, Sight, Unknown, Verdict, Why, judge, settle, was_good};
use crate::{
    access::Demand,
    facts::{Busy, Outcome},
};

/// After how long it is worth asking again about what was not answered in time.
const AGAIN: Duration = Duration::from_secs(2);

/// Why a pod may not use the image, or not yet; none where it may.
pub(super) fn withheld(case: &Case<'_, '_>, sight: &Sight) -> Option<Verdict> {
    match case.demand {
        Demand::Nothing => return None,
        // By tag it was asked for without credentials anyway.
        Demand::Anonymous if sight.permit.is_none() => return None,
        Demand::Forbidden | Demand::Impossible => return Some(Verdict::Refuse(Why::NotFoundOrNotPermitted)),
        Demand::PullSecret | Demand::Anonymous => {}
    }
    Some(match &sight.permit {
        Some(Outcome::Found(())) => return None,
        Some(
            Outcome::Absent | Outcome::Hidden | Outcome::Refused | Outcome::Blocked(_) | Outcome::Misbehaved(_) | Outcome::Unauthorized(_),
        ) => Verdict::Refuse(Why::NotFoundOrNotPermitted),
        Some(Outcome::Unavailable(outage)) => Verdict::Unknown(Unknown::Unavailable(outage.clone())),
        Some(Outcome::Busy(busy)) => Verdict::Busy(busy.clone()),
        // The rule may be a moment old.
        Some(Outcome::Pending(_)) | None => Verdict::Busy(Busy::late(AGAIN)),
    })
}

/// Settles it for a pod that may not use the image, or of which nobody knows that it may.
pub(super) fn settle_withheld(case: &Case<'_, '_>, sight: &Sight, verdict: Verdict) -> Settled {
    let settled = settle(case, verdict, |unknown| was_good(case, sight, unknown));
    if !matches!(settled, Settled::Admit(_)) {
        return settled;
    }
    // A policy opens in an outage, and so for whom the proof is wanting: but only to what whoever has one would get.
    let proven = Sight { permit: Some(Outcome::Found(())), ..sight.clone() };
    match settle(case, judge(case, &proven, &mut Vec::new()), |unknown| was_good(case, &proven, unknown)) {
        Settled::Admit(_) => settled,
        Settled::Refuse(_) => Settled::Refuse(Why::NotFoundOrNotPermitted),
        Settled::Later(_, wait) => Settled::Later(Why::Busy(Busy::late(wait)), wait),
    }
}

#[cfg(test)]
mod tests;
