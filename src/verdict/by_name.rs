//! What one policy makes of an image by its name alone, before anybody is asked.

use super::{Basis, Case, Verdict, Why};
use crate::{
    access::Demand,
    api::{Allowance, Level, Requirement},
};

/// What one policy makes of an image by its name alone: `None` when more must be known.
pub(super) fn judge_by_name(case: &Case<'_, '_>, listed: bool) -> Option<Verdict> {
    if case.image.host_is_ip() && !listed {
        return Some(Verdict::Refuse(Why::AddressLiteral));
    }
    if let Some(reason) = case.policy.denies(case.image) {
        return Some(Verdict::Refuse(Why::Denied(reason.to_owned())));
    }
    if let Some(why) = from_elsewhere(case) {
        return Some(Verdict::Refuse(why));
    }
    if case.demand == Demand::Forbidden {
        return Some(Verdict::Refuse(Why::NotFoundOrNotPermitted));
    }
    if case.policy.require.digest == Level::Deny && lacks_digest(case) {
        return Some(Verdict::Refuse(Why::NoDigest));
    }
    if case.demand == Demand::PullSecret {
        return None;
    }
    if !case.policy.needs_facts() && !case.contested {
        return Some(Verdict::Admit(Basis::NothingRequired));
    }
    // Nobody keeps a flag at a host without a Registry object, so nothing that it could answer would help.
    if !listed && case.policy.require.released == Level::Deny && case.policy.require.unmanaged == Allowance::Deny && !may_be_waived(case) {
        return Some(Verdict::Refuse(Why::Unmanaged { listed }));
    }
    None
}

/// The policy wants a digest, or would like one, and the image is named without.
fn lacks_digest(case: &Case<'_, '_>) -> bool {
    case.policy.require.digest != Level::Off && case.image.digest().is_none() && !case.waived(Requirement::Digest, None)
}

/// Why an image is not to come from where its name says, if it is not.
fn from_elsewhere(case: &Case<'_, '_>) -> Option<Why> {
    if case.demand == Demand::Impossible {
        return Some(Why::Excluded);
    }
    let unqualified = lacks_registry(case).filter(|_| case.policy.unqualified() == Level::Deny);
    let elsewhere = || case.policy.elsewhere(case.image.name()).filter(|_| !case.waived(Requirement::Sources, None));
    unqualified.or_else(|| elsewhere().map(Why::SourceNotAllowed))
}

/// The image is named without its registry.
fn lacks_registry(case: &Case<'_, '_>) -> Option<Why> {
    (case.unqualified && !case.waived(Requirement::Sources, None)).then(|| Why::Unqualified(case.image.name().to_owned()))
}

/// What the name alone earns a warning for.
pub(super) fn warnings_by_name(case: &Case<'_, '_>) -> Vec<Why> {
    let unqualified = lacks_registry(case).filter(|_| case.policy.unqualified() == Level::Warn);
    let digest = (case.policy.require.digest == Level::Warn && lacks_digest(case)).then_some(Why::NoDigest);
    unqualified.into_iter().chain(digest).collect()
}

/// A quarantine is waived by digest, so a tag's has to be found out first; but only where some waiver speaks of this namespace.
fn may_be_waived(case: &Case<'_, '_>) -> bool {
    match case.image.digest() {
        Some(_) => case.waived(Requirement::Released, None),
        None => case.waivers.iter().any(|waiver| waiver.concerns(Requirement::Released, case.namespace, case.now)),
    }
}
