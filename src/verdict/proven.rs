//! What the evidence about an image comes to for one policy.

use std::cell::RefCell;

use smallvec::SmallVec;

use super::{Basis, Case, Sight, Unknown, Verdict, Why, basis, end};
use crate::{
    api::Requirement,
    facts::{Busy, Outcome},
    proof::{Exceptions, Proof},
};

/// The same verdict where what has to be signed is signed; the processor of the quarantine sees images before they are.
pub(super) fn with_proof(case: &Case<'_, '_>, sight: &Sight, verdict: Verdict) -> Verdict {
    if !case.policy.proof.is_asked() || matches!(verdict, Verdict::Refuse(_) | Verdict::Admit(Basis::Processor)) {
        return verdict;
    }
    match (proven(case, sight), verdict) {
        // What its tag stood for at the last look is signed; what it stands for now may not be.
        (Verdict::Admit(basis), Verdict::Admit(_)) if !sight.certain && basis != Basis::Waiver => end(&sight.outcome, sight.listed),
        (refused @ Verdict::Refuse(_), _) | (refused @ Verdict::Busy(_), Verdict::Admit(_) | Verdict::Unknown(_)) => refused,
        (Verdict::Admit(_), verdict) | (_, verdict @ (Verdict::Busy(_) | Verdict::Unknown(_))) => verdict,
        (unknown, _) => unknown,
    }
}

/// Whether what is asked is proven by what is at hand.
pub(super) fn is_proven(case: &Case<'_, '_>, sight: &Sight) -> bool {
    !case.policy.proof.is_asked() || matches!(proven(case, sight), Verdict::Admit(_))
}

/// What each proof came to that was asked for of one image: several policies may ask for the same.
#[derive(Debug, Default)]
pub struct Proven<'p>(RefCell<SmallVec<[(&'p Proof, Verdict); 2]>>);

/// What the evidence comes to, found out once.
fn proven(case: &Case<'_, '_>, sight: &Sight) -> Verdict {
    let Some(memo) = case.proven else { return find_out(case, sight) };
    let proof: &Proof = &case.policy.proof;
    let held = memo.0.borrow().iter().find(|(held, _)| std::ptr::eq(*held, proof)).map(|(_, verdict)| verdict.clone());
    held.unwrap_or_else(|| {
        let verdict = find_out(case, sight);
        memo.0.borrow_mut().push((proof, verdict.clone()));
        verdict
    })
}

/// What the evidence comes to. That it could not be had is never read as "not signed".
fn find_out(case: &Case<'_, '_>, sight: &Sight) -> Verdict {
    if sight.proven {
        return Verdict::Admit(basis(sight));
    }
    let exceptions = Excepted { case, sight };
    if !case.waivers.is_empty() && case.policy.proof.requirements().all(|requirement| exceptions.waives(requirement)) {
        return Verdict::Admit(Basis::Waiver);
    }
    match &sight.evidence {
        Some(Outcome::Found(evidence)) if case.policy.proof.is_covered_by(evidence) => {
            match case.policy.proof.judge(evidence, &exceptions, case.now) {
                Ok(()) => Verdict::Admit(basis(sight)),
                // A node of another platform has joined, or the index itself was enough for whoever looked.
                Err(unproven) if unproven.unlooked => end(&sight.outcome, sight.listed),
                Err(unproven) => Verdict::Refuse(Why::Unproven(unproven)),
            }
        }
        // Somebody was named as an authority a moment ago.
        Some(Outcome::Found(_)) => Verdict::Busy(Busy::UNPROVEN),
        Some(other) => end(other, sight.listed),
        // Where the image itself could not be asked about, that says why.
        None => end(&sight.outcome, sight.listed),
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
        let digest = self.case.digest(Some(self.sight));
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::{Evidence, QuarantinePolicy, State},
        facts::{Block, BusyCause, Facts, Manifest, Outage, OutageKind},
        image::{Digest, Reference},
        origin::Origin,
        policy::Policy,
        verdict::{Opinion, Settled, Source},
    };

    const KEY: &str = include_str!("../../tests/fixtures/proof/keys/ecdsa-p256.pub.pem");

    fn policy(released: &str, when_unknown: &Value) -> Policy {
        let object: QuarantinePolicy = serde_json::from_value(json!({
            "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": "p" },
            "spec": {
                "authorities": [{ "name": "build", "publicKey": KEY }],
                "require": { "released": released, "signatures": {} }, "whenUnknown": when_unknown,
            },
        }))
        .unwrap();
        Policy::try_from(&object).unwrap()
    }

    fn evidence(policy: &Policy, signed: bool) -> Arc<Evidence> {
        let authority = &policy.proof.authorities[0];
        let item = json!({ "kind": "Signature", "key": &*authority.id, "digest": Digest::of(b"signature").to_string() });
        let items = if signed { vec![item] } else { Vec::new() };
        let object = json!({ "lookedAt": "2026-01-01T00:00:00Z", "lookedFor": [&*authority.short], "items": items, "lookedInside": ["*"] });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn facts(state: State) -> Arc<Facts> {
        let now = Timestamp::now();
        let (by, reason, details) = (String::new(), String::new(), String::new());
        let provider = crate::api::Provider::Managed;
        Arc::new(Facts { state, since: now, by, reason, details, provider, observed_at: now, manifest: Manifest::default() })
    }

    /// Every end that a question may have.
    fn ends<T: Clone>(found: &T) -> Vec<Outcome<T>> {
        let outage = Outage { kind: OutageKind::Connect, message: "out".to_owned() };
        let busy = Busy { cause: BusyCause::Deadline, retry_after: Duration::from_secs(1) };
        vec![
            Outcome::Found(found.clone()),
            Outcome::Absent,
            Outcome::Hidden,
            Outcome::Refused,
            Outcome::Blocked(Block { code: "X".to_owned(), message: String::new() }),
            Outcome::Pending("slow".to_owned()),
            Outcome::Unavailable(outage),
            Outcome::Unauthorized("no".to_owned()),
            Outcome::Busy(busy),
            Outcome::Misbehaved("odd".to_owned()),
        ]
    }

    fn settled(policy: &Policy, outcome: Outcome<Arc<Facts>>, evidence: Option<Outcome<Arc<Evidence>>>, known: bool) -> Settled {
        settled_as(true, policy, outcome, evidence, known.then_some(State::Released))
    }

    fn settled_as(
        certain: bool,
        policy: &Policy,
        outcome: Outcome<Arc<Facts>>,
        evidence: Option<Outcome<Arc<Evidence>>>,
        known: Option<State>,
    ) -> Settled {
        let image = Reference::parse("registry.corp/team/app:1").unwrap();
        let now = Timestamp::now();
        let sight = Sight {
            subject: Some(image.with_digest(Digest::of(b"app"))),
            certain,
            outcome,
            last: known.map(|state| (facts(state), now)),
            source: Source::Asked,
            listed: true,
            processor: false,
            permit: None,
            evidence,
            proven: false,
            origin: Origin::Free,
        };
        let (unqualified, demand, contested, told) = (false, crate::access::Demand::Nothing, false, true);
        let (waivers, namespace): (&[&crate::policy::Waiver], _) = (&[], "team");
        let case =
            Case { policy, waivers, namespace, image: &image, unqualified, demand, now, undenied: true, proven: None, contested, told };
        Opinion::of(&case, &sight).settled
    }

    /// Whatever the release is worth, what the registry does, and what a policy opens: known to be unsigned is refused.
    #[test]
    fn what_is_known_not_to_be_signed_never_opens() {
        let open = json!({ "pending": "Allow", "registryUnavailable": "Allow", "unauthorized": "Allow", "lastKnownGoodFor": "24h" });
        for (released, knobs) in [("Deny", &open), ("Warn", &open), ("Off", &open), ("Off", &json!({})), ("Warn", &json!({}))] {
            let policy = policy(released, knobs);
            let unsigned = || Some(Outcome::Found(evidence(&policy, false)));
            for state in [State::Released, State::Quarantined, State::Unmanaged] {
                for outcome in ends(&facts(state)) {
                    for known in [false, true] {
                        let settled = settled(&policy, outcome.clone(), unsigned(), known);
                        assert!(!matches!(settled, Settled::Admit(_)), "{released} {knobs} {outcome:?} {known}: {settled:?}");
                    }
                }
            }
        }
    }

    /// Its tag may stand for another by now: only an outage opens that, and only to what was good at the last look.
    #[test]
    fn what_a_tag_stood_for_proves_nothing_about_what_it_stands_for() {
        let signed = |policy: &Policy| Some(Outcome::Found(evidence(policy, true)));
        for released in ["Deny", "Warn", "Off"] {
            let policy = policy(released, &json!({}));
            for state in [State::Released, State::Quarantined, State::Unmanaged] {
                for end in ends(&facts(state)).into_iter().filter(|end| !matches!(end, Outcome::Found(_))) {
                    let settled = settled_as(false, &policy, end.clone(), signed(&policy), Some(state));
                    let known_good = settled == Settled::Admit(Basis::LastKnownGood);
                    assert!(!matches!(settled, Settled::Admit(_)) || known_good, "{released} {state:?} {end:?}: {settled:?}");
                }
            }
            let busy = settled_as(false, &policy, Outcome::Busy(Busy::UNANSWERED), signed(&policy), Some(State::Released));
            assert!(matches!(busy, Settled::Later(Why::Busy(_), _)), "{released}: {busy:?}");
        }
    }

    /// Whatever else is asked of it: what was last seen unfit opens by no knob.
    #[test]
    fn known_bad_opens_by_no_knob_at_any_level() {
        let open = json!({ "pending": "Allow", "registryUnavailable": "Allow", "unauthorized": "Allow", "lastKnownGoodFor": "24h" });
        for released in ["Deny", "Warn", "Off"] {
            let outage = Outcome::Unavailable(Outage { kind: OutageKind::Connect, message: "out".to_owned() });
            let settled = settled_as(true, &policy(released, &open), outage, None, Some(State::Failed));
            assert!(matches!(settled, Settled::Refuse(Why::Held(_))), "{released}: {settled:?}");
        }
    }

    /// Not even the images of an index about which nobody has asked are called unsigned, and nothing opens on that.
    #[test]
    fn an_index_whose_images_have_not_been_looked_at_waits() {
        let policy = policy("Off", &json!({ "pending": "Allow", "registryUnavailable": "Allow", "unauthorized": "Allow" }));
        let outside = Evidence { looked_inside: Vec::new(), ..(*evidence(&policy, false)).clone() };
        let settled = settled(&policy, Outcome::Found(facts(State::Released)), Some(Outcome::Found(Arc::new(outside))), true);
        assert!(matches!(settled, Settled::Later(Why::Busy(Busy { cause: BusyCause::Unproven, .. }), _)), "{settled:?}");
    }

    /// The level of the release says nothing about what could not be fetched: only `whenUnknown` does.
    #[test]
    fn what_could_not_be_fetched_opens_by_no_other_knob_than_its_own() {
        for released in ["Deny", "Warn", "Off"] {
            let policy = policy(released, &json!({}));
            let ends = ends(&evidence(&policy, true)).into_iter().map(Some).chain([None]);
            for end in ends {
                let settled = settled(&policy, Outcome::Found(facts(State::Released)), end.clone(), true);
                let proven = matches!(end, Some(Outcome::Found(_)));
                assert_eq!(matches!(settled, Settled::Admit(_)), proven, "{released} {end:?}: {settled:?}");
            }
        }
        let policy = policy("Off", &json!({ "registryUnavailable": "Allow" }));
        let outage = Outcome::Unavailable(Outage { kind: OutageKind::Connect, message: "out".to_owned() });
        let settled = settled(&policy, Outcome::Found(facts(State::Released)), Some(outage), false);
        assert_eq!(settled, Settled::Admit(Basis::OpenUnavailable));
    }

    #[test]
    fn known_good_survives_an_outage_with_its_proof() {
        let policy = policy("Deny", &json!({}));
        let outage = || Outcome::Unavailable(Outage { kind: OutageKind::Connect, message: "out".to_owned() });
        let signed = Some(Outcome::Found(evidence(&policy, true)));
        assert_eq!(settled(&policy, outage(), signed, true), Settled::Admit(Basis::LastKnownGood));
        assert!(matches!(settled(&policy, outage(), None, true), Settled::Later(..)), "its proof is not known");
    }
}
