//! From an outcome to a verdict, and the one place where not knowing becomes yes or no.
//!
//! Everything here is a function of values: one policy, one image, what is at hand about it ([`Sight`]) and the time. The table of
//! outcomes ([`table`]) is one total match without a default arm, so that a new way for a question to end does not compile until
//! somebody has decided what it means. [`settle`] is where a policy's `whenUnknown` is read, and nowhere else is it read.
//!
//! Three rules stand above every knob:
//!
//! - known bad never opens: an image last seen in quarantine stays refused whatever the registry does now;
//! - a waiter whose own time ran out ([`Outcome::Busy`]) knows nothing, and nothing opens on it;
//! - a host without a Registry object is never "unavailable": its author may own it.

mod by_name;
mod ends;
mod origin;
mod permit;
mod proven;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use self::{
    by_name::{judge_by_name, warnings_by_name},
    permit::{settle_withheld, withheld},
    proven::{is_proven, with_proof},
};
pub use self::{
    ends::{Basis, Settled, Unknown, Verdict, Why},
    proven::{Proven, outcome_why},
};
use crate::{
    access::Demand,
    api::{Allowance, Evidence, Level, Mode, Requirement, State},
    facts::{Busy, Facts, Manifest, Outcome, is_within},
    image::{Digest, Reference, Subject},
    origin::Origin,
    policy::{Policy, Waiver},
};

/// What is at hand about one image when it is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// The image by digest, when that much is known.
    pub subject: Option<Subject>,
    /// The subject is what the image stands for now, and not merely what its tag stood for at the last look.
    pub certain: bool,
    /// How the question ended.
    pub outcome: Outcome<Arc<Facts>>,
    /// What was known of this image (or of the last digest of its tag) before, and when it was last seen to be so.
    pub last: Option<(Arc<Facts>, Timestamp)>,
    /// Whether the facts came from what is written or from asking just now.
    pub source: Source,
    /// A Registry object speaks of this image.
    pub listed: bool,
    /// The pod is the quarantine processor's of that Registry.
    pub processor: bool,
    /// Whether the registry shows the image to whoever shows the pod's own pull secrets. None where nobody asked.
    pub permit: Option<Outcome<()>>,
    /// What was found signed about it, or how the question for that ended. None where nobody asked.
    pub evidence: Option<Outcome<Arc<Evidence>>>,
    /// Whoever looked has found out, a moment ago, that it proves all that these rules ask for, without exceptions. False where that is yet to be judged.
    pub proven: bool,
    /// Whether another registry goes before the one that it is named at.
    pub origin: Origin,
}

impl Sight {
    /// Nothing is at hand but its name, and whether the pod may use the image.
    #[must_use]
    pub const fn blind(permit: Option<Outcome<()>>, listed: bool, processor: bool) -> Self {
        Self {
            subject: None,
            certain: false,
            outcome: Outcome::Busy(Busy::UNANSWERED),
            last: None,
            source: Source::Asked,
            listed,
            processor,
            permit,
            evidence: None,
            proven: false,
            origin: Origin::Free,
        }
    }

    /// Whether the pod may be told of it what is known.
    #[must_use]
    pub const fn is_shown(&self, demand: Demand) -> bool {
        match demand {
            Demand::Nothing => true,
            Demand::Anonymous => matches!(self.permit, None | Some(Outcome::Found(()))),
            Demand::PullSecret => matches!(self.permit, Some(Outcome::Found(()))),
            Demand::Forbidden | Demand::Impossible => false,
        }
    }

    /// What is known of it, found out just now or before.
    #[must_use]
    pub fn facts(&self) -> Option<&Arc<Facts>> {
        match &self.outcome {
            Outcome::Found(facts) => Some(facts),
            _ => self.last.as_ref().map(|(facts, _)| facts),
        }
    }
}

/// Where facts came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// They were at hand.
    Known,
    /// The registry was asked.
    Asked,
}

/// One image as one policy meets it.
#[derive(Clone, Copy, Debug)]
pub struct Case<'p, 'a> {
    /// The policy.
    pub policy: &'p Policy,
    /// The waivers that may bear; [`judge`] picks those that do.
    pub waivers: &'a [&'a Waiver],
    /// The namespace of the pod.
    pub namespace: &'a str,
    /// The image as the pod names it.
    pub image: &'a Reference,
    /// The pod's author left it to its readers which registry it is in.
    pub unqualified: bool,
    /// What its Registry asks of the pod.
    pub demand: Demand,
    /// The time.
    pub now: Timestamp,
    /// No policy whatever denies the digest of what is seen, or one inside it. False where nobody has looked.
    pub undenied: bool,
    /// What the proofs came to that others of its policies asked for.
    pub proven: Option<&'a Proven<'p>>,
    /// Other registries go before the one that it is named at, so that its name does not say enough to admit it.
    pub contested: bool,
    /// Whoever reads the answer may see what those hold of it.
    pub told: bool,
}

impl Case<'_, '_> {
    /// The digest by which waivers speak of the image.
    fn digest<'s>(&'s self, sight: Option<&'s Sight>) -> Option<&'s Digest> {
        // What a tag stood for once is waived no more when it may stand for another image by now.
        let subject = sight.filter(|sight| sight.certain).and_then(|sight| sight.subject.as_ref());
        self.image.digest().or_else(|| subject.map(Subject::digest))
    }

    fn waived(&self, requirement: Requirement, sight: Option<&Sight>) -> bool {
        let digest = self.digest(sight);
        self.waivers.iter().any(|waiver| waiver.waives(requirement, self.namespace, self.image.name(), digest, self.now))
    }
}

/// What one policy makes of one image of which its name does not say enough. Requirements at level Warn go to `warnings`.
fn judge(case: &Case<'_, '_>, sight: &Sight, warnings: &mut Vec<Why>) -> Verdict {
    if !case.policy.needs_facts() {
        return Verdict::Admit(Basis::NothingRequired);
    }
    if let Some(verdict) = denied_by_digest(case, sight) {
        return verdict;
    }
    let by_release = match case.policy.require.released {
        Level::Off => Verdict::Admit(basis(sight)),
        Level::Deny => released(case, sight),
        Level::Warn => match released(case, sight) {
            Verdict::Admit(basis) => Verdict::Admit(basis),
            Verdict::Refuse(why) => warn(warnings, why, sight),
            Verdict::Unknown(unknown) => warn(warnings, Why::Unknown(unknown), sight),
            Verdict::Busy(busy) => warn(warnings, Why::Busy(busy), sight),
        },
    };
    // Only the release may be wanting, at levels that ask for less, and not what has to be signed.
    match with_proof(case, sight, identified(case, sight, by_release)) {
        unknown @ Verdict::Unknown(_) => known_bad(sight).map_or(unknown, Verdict::Refuse),
        verdict => verdict,
    }
}

/// The same verdict where it is known what the image is and what is inside, if the policy denies some by digest. Whoever does not have to be
/// released, or is waived, may still be denied; and what its tag stood for once does not say what it stands for now. The processor sees what
/// nobody has looked into yet.
fn identified(case: &Case<'_, '_>, sight: &Sight, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Admit(Basis::Processor) if sight.certain => verdict,
        Verdict::Admit(_) if case.policy.denies_digests() && !is_inside_known(sight) => match &sight.outcome {
            Outcome::Found(_) => Verdict::Busy(Busy::UNREAD),
            open => end(open, sight.listed),
        },
        verdict => verdict,
    }
}

/// Whether it is known what the image is and what is inside, from whenever.
fn is_inside_known(sight: &Sight) -> bool {
    sight.certain && sight.facts().is_some_and(|facts| !facts.manifest.is_unread())
}

/// The emergency stop holds for the digest that is known, also when the registry cannot be asked just now.
fn denied_by_digest(case: &Case<'_, '_>, sight: &Sight) -> Option<Verdict> {
    if !case.policy.denies_digests() {
        return None;
    }
    let subject = sight.subject.as_ref()?;
    let (facts, unread) = (sight.facts(), Manifest::default());
    let manifest = facts.map_or(&unread, |facts| &facts.manifest);
    let reason = if case.undenied { None } else { case.policy.denies_digest(subject.digest(), manifest) };
    match reason {
        Some(reason) => Some(Verdict::Refuse(Why::Denied(reason.to_owned()))),
        // An author could put the denied one behind as many others as are held.
        None if manifest.cut => Some(Verdict::Refuse(Why::IndexTooLarge)),
        // Known from a time when nobody looked inside: an outage must not open what the emergency stop may be about.
        None if manifest.is_unread() && facts.is_some_and(|facts| !facts.state.is_bad()) => Some(Verdict::Busy(Busy::UNREAD)),
        None => None,
    }
}

fn warn(warnings: &mut Vec<Why>, why: Why, sight: &Sight) -> Verdict {
    warnings.push(why);
    Verdict::Admit(basis(sight))
}

fn basis(sight: &Sight) -> Basis {
    match sight.source {
        Source::Known => Basis::KnownFacts,
        Source::Asked => Basis::Registry,
    }
}

fn released(case: &Case<'_, '_>, sight: &Sight) -> Verdict {
    let verdict = table(case, sight);
    match &verdict {
        Verdict::Refuse(Why::Held(_) | Why::Blocked(_)) | Verdict::Unknown(Unknown::Pending(_)) if sight.processor => {
            Verdict::Admit(Basis::Processor)
        }
        Verdict::Refuse(Why::Held(_) | Why::Blocked(_) | Why::Unmanaged { .. }) | Verdict::Unknown(_)
            if case.waived(Requirement::Released, Some(sight)) =>
        {
            Verdict::Admit(Basis::Waiver)
        }
        _ => verdict,
    }
}

/// The table: what each end of a question comes to. Total on purpose.
#[must_use]
pub fn table(case: &Case<'_, '_>, sight: &Sight) -> Verdict {
    let verdict = match &sight.outcome {
        Outcome::Found(facts) => match facts.state {
            State::Released => Verdict::Admit(basis(sight)),
            State::Unmanaged => match case.policy.require.unmanaged {
                Allowance::Allow => Verdict::Admit(basis(sight)),
                Allowance::Deny => Verdict::Refuse(Why::Unmanaged { listed: sight.listed }),
            },
            State::Quarantined | State::Failed => Verdict::Refuse(Why::Held(facts.clone())),
            State::Pending if sight.listed => Verdict::Unknown(Unknown::Pending(facts.reason.clone())),
            State::Pending => Verdict::Busy(Busy::UNLISTED),
        },
        other => end(other, sight.listed),
    };
    match verdict {
        Verdict::Unknown(_) | Verdict::Busy(_) => known_bad(sight).map_or(verdict, Verdict::Refuse),
        verdict => verdict,
    }
}

/// What the end of a question comes to that found nothing; one that did is for whoever asked it.
fn end<T>(outcome: &Outcome<T>, listed: bool) -> Verdict {
    match outcome {
        Outcome::Found(_) => Verdict::Busy(Busy::UNPROVEN),
        Outcome::Hidden => Verdict::Refuse(Why::Hidden),
        Outcome::Absent | Outcome::Refused => Verdict::Refuse(Why::NotFoundOrNotPermitted),
        Outcome::Blocked(block) => Verdict::Refuse(Why::Blocked(block.clone())),
        Outcome::Misbehaved(what) => Verdict::Refuse(Why::Misbehaved(what.clone())),
        Outcome::Pending(why) if listed => Verdict::Unknown(Unknown::Pending(why.clone())),
        Outcome::Unavailable(outage) if listed => Verdict::Unknown(Unknown::Unavailable(outage.clone())),
        Outcome::Unauthorized(why) if listed => Verdict::Unknown(Unknown::Unauthorized(why.clone())),
        Outcome::Pending(_) | Outcome::Unavailable(_) => Verdict::Busy(Busy::UNLISTED),
        Outcome::Unauthorized(_) => Verdict::Refuse(Why::NotFoundOrNotPermitted),
        Outcome::Busy(busy) => Verdict::Busy(busy.clone()),
    }
}

/// Known bad never opens.
fn known_bad(sight: &Sight) -> Option<Why> {
    let (facts, _) = sight.last.as_ref()?;
    facts.state.is_bad().then(|| Why::Held(facts.clone()))
}

/// Where not knowing becomes yes or no. `good` is whether the same was known to be good at the last look.
fn settle(case: &Case<'_, '_>, verdict: Verdict, good: impl FnOnce(&Unknown) -> bool) -> Settled {
    let knobs = &case.policy.when_unknown;
    let (allowance, open, unknown) = match verdict {
        Verdict::Admit(basis) => return Settled::Admit(basis),
        Verdict::Refuse(why) => return Settled::Refuse(why),
        Verdict::Busy(busy) => {
            let wait = busy.retry_after;
            return Settled::Later(Why::Busy(busy), wait);
        }
        Verdict::Unknown(unknown) => match &unknown {
            Unknown::Pending(_) => (knobs.pending, Basis::OpenPending, unknown),
            Unknown::Unavailable(_) => (knobs.registry_unavailable, Basis::OpenUnavailable, unknown),
            Unknown::Unauthorized(_) => (knobs.unauthorized, Basis::OpenUnauthorized, unknown),
        },
    };
    if good(&unknown) {
        return Settled::Admit(Basis::LastKnownGood);
    }
    match allowance {
        Allowance::Allow => Settled::Admit(open),
        Allowance::Deny => Settled::Later(Why::Unknown(unknown), RETRY_UNKNOWN),
    }
}

/// After how long it is worth asking again about what nobody knows.
const RETRY_UNKNOWN: Duration = Duration::from_secs(5);

/// The image was good at the last look, that look is young enough for the policy, and what else the pod has to show is shown.
fn was_good(case: &Case<'_, '_>, sight: &Sight, unknown: &Unknown) -> bool {
    // Its author may move a tag, and be slow about that.
    let same = sight.certain || !matches!(unknown, Unknown::Pending(_));
    same && sight.is_shown(case.demand) && was_released(case, sight) && is_proven(case, sight)
}

fn was_released(case: &Case<'_, '_>, sight: &Sight) -> bool {
    let Some((facts, seen)) = &sight.last else { return false };
    let good = match facts.state {
        State::Released => true,
        State::Unmanaged => case.policy.require.released != Level::Deny || case.policy.require.unmanaged == Allowance::Allow,
        State::Pending => case.policy.require.released != Level::Deny,
        State::Quarantined | State::Failed => false,
    };
    let bound = case.policy.when_unknown.last_known_good_for.as_secs();
    good && bound > 0 && is_within(*seen, bound, case.now)
}

/// What one policy says of one image, in its mode.
#[derive(Clone, Debug, PartialEq)]
pub struct Opinion<'p> {
    /// The policy's name.
    pub policy: &'p str,
    /// What it does with its verdict.
    pub mode: Mode,
    /// The verdict after `whenUnknown`.
    pub settled: Settled,
    /// Requirements at level Warn that are not met.
    pub warnings: Vec<Why>,
}

impl<'p> Opinion<'p> {
    /// Judges and settles.
    #[must_use]
    pub fn of(case: &Case<'p, '_>, sight: &Sight) -> Self {
        Self::by_name(case, sight.listed).unwrap_or_else(|| Self::seen(case, sight))
    }

    /// Judges and settles what the name does not decide: [`Opinion::by_name`] is none.
    #[must_use]
    pub fn seen(case: &Case<'p, '_>, sight: &Sight) -> Self {
        let mut warnings = warnings_by_name(case);
        let withheld = withheld(case, sight);
        let untold = !case.told && matches!(sight.origin, Origin::Held(_));
        let hidden = withheld.is_some();
        let settled = match withheld {
            Some(verdict) => {
                warnings.clear();
                settle_withheld(case, sight, verdict)
            }
            None => settle(case, judge(case, sight, &mut warnings), |unknown| was_good(case, sight, unknown)),
        };
        // Each not knowing opens by its own knob, and all have to.
        let origin =
            origin::verdict(case, sight).map(|verdict| origin::named(case, settle(case, verdict, |_| origin::was_free(case, sight))));
        let settled = match origin {
            None => settled,
            Some(origin) if hidden => settled.stricter(origin),
            Some(origin) => origin.stricter(settled),
        };
        if untold {
            warnings.clear();
        }
        Self { policy: &case.policy.name, mode: case.policy.mode, settled, warnings }
    }

    /// The opinion of a policy that needs nothing but the name; `None` when more must be known.
    #[must_use]
    pub fn by_name(case: &Case<'p, '_>, listed: bool) -> Option<Self> {
        let settled = match judge_by_name(case, listed)? {
            Verdict::Admit(basis) => Settled::Admit(basis),
            Verdict::Refuse(why) => Settled::Refuse(why),
            // A name alone leaves nothing unknown.
            Verdict::Unknown(_) | Verdict::Busy(_) => return None,
        };
        let told = !matches!(settled, Settled::Refuse(Why::NotFoundOrNotPermitted));
        let warnings = if told { warnings_by_name(case) } else { Vec::new() };
        Some(Self { policy: &case.policy.name, mode: case.policy.mode, settled, warnings })
    }
}

#[cfg(test)]
mod tests;
