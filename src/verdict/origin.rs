//! What it comes to that another registry goes before the one at which an image is named.

use std::time::Duration;

use super::{Case, Settled, Sight, Unknown, Verdict, Why};
use crate::{
    facts::{Busy, Outcome, is_within},
    origin::Origin,
};

/// After how long it is worth asking again about what was not answered in time.
const AGAIN: Duration = Duration::from_secs(2);

/// None where none goes before it. That one of them does not answer is never read as its not holding the repository; and that it does not let
/// itself be asked about this one path opens by no knob, or whoever writes a pod could choose such a path.
pub(super) fn verdict(case: &Case<'_, '_>, sight: &Sight) -> Option<Verdict> {
    let outcome = match &sight.origin {
        Origin::Free => return None,
        Origin::Held(instead) if case.told => return Some(Verdict::Refuse(Why::Shadowed(instead.clone()))),
        // What is held inside is nothing to whoever may not see it there.
        Origin::Held(_) => return Some(Verdict::Refuse(Why::NotFoundOrNotPermitted)),
        Origin::Open { outcome, .. } => outcome,
    };
    Some(match outcome {
        Outcome::Found(never) => match *never {},
        Outcome::Absent | Outcome::Hidden | Outcome::Refused | Outcome::Blocked(_) => Verdict::Refuse(Why::OriginNotShown),
        Outcome::Misbehaved(_) if !case.told => Verdict::Refuse(Why::OriginNotShown),
        Outcome::Misbehaved(what) => Verdict::Refuse(Why::OriginOpen(Box::new(Why::Misbehaved(what.clone())))),
        // It is well, and slow about this one path.
        Outcome::Pending(_) => Verdict::Busy(Busy::late(AGAIN)),
        Outcome::Unavailable(outage) => Verdict::Unknown(Unknown::Unavailable(outage.clone())),
        Outcome::Unauthorized(why) => Verdict::Unknown(Unknown::Unauthorized(why.clone())),
        Outcome::Busy(busy) => Verdict::Busy(busy.clone()),
    })
}

/// The same, and what has to wait says that it is not the image's own registry that it waits for.
pub(super) fn named(case: &Case<'_, '_>, settled: Settled) -> Settled {
    match settled {
        Settled::Later(why, after) => {
            // Which registry that is, and how it fares, is for those who may see what it holds.
            let why = if case.told { why } else { Why::Busy(Busy::late(after)) };
            Settled::Later(Why::OriginOpen(Box::new(why)), after)
        }
        other => other,
    }
}

/// No registry that has not said held it at the last look, and that look is young enough for the policy.
pub(super) fn was_free(case: &Case<'_, '_>, sight: &Sight) -> bool {
    let Origin::Open { free_at: Some(at), .. } = &sight.origin else { return false };
    let bound = case.policy.when_unknown.last_known_good_for.as_secs();
    bound > 0 && is_within(*at, bound, case.now)
}
