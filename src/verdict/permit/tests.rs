use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{QuarantinePolicy, State},
    facts::{Block, BusyCause, Facts, Manifest, Outage, OutageKind},
    image::{Digest, Reference},
    policy::Policy,
    verdict::{Basis, Opinion, Source},
};

fn policy(require: &Value, when_unknown: &Value) -> Policy {
    let object: QuarantinePolicy = serde_json::from_value(json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": "p" },
        "spec": { "require": require, "whenUnknown": when_unknown },
    }))
    .unwrap();
    Policy::try_from(&object).unwrap()
}

fn open() -> Value {
    json!({ "pending": "Allow", "registryUnavailable": "Allow", "unauthorized": "Allow", "lastKnownGoodFor": "24h" })
}

fn facts(state: State) -> Arc<Facts> {
    let now = Timestamp::UNIX_EPOCH;
    let (by, reason, details) = (String::new(), String::new(), String::new());
    let provider = crate::api::Provider::Managed;
    Arc::new(Facts { state, since: now, by, reason, details, provider, observed_at: now, manifest: Manifest::default() })
}

fn outage() -> Outage {
    Outage { kind: OutageKind::Connect, message: "out".to_owned() }
}

/// Every end that a proof may have, and none at all; but for the one that proves.
fn unproven() -> Vec<Option<Outcome<()>>> {
    let busy = Busy { cause: BusyCause::Share, retry_after: Duration::from_secs(3) };
    let ends = [
        Outcome::Absent,
        Outcome::Hidden,
        Outcome::Refused,
        Outcome::Blocked(Block { code: "X".to_owned(), message: String::new() }),
        Outcome::Pending("slow".to_owned()),
        Outcome::Unavailable(outage()),
        Outcome::Unauthorized("no".to_owned()),
        Outcome::Busy(busy),
        Outcome::Misbehaved("odd".to_owned()),
    ];
    ends.into_iter().map(Some).chain([None]).collect()
}

/// How the question about an image ended, and what was known of it before.
type Known = (Outcome<Arc<Facts>>, Option<(Arc<Facts>, Timestamp)>);

/// What one may know of an image: nothing, and everything that makes others admit or refuse it.
fn known() -> Vec<Known> {
    let last = Some((facts(State::Released), Timestamp::UNIX_EPOCH));
    vec![
        (Outcome::Absent, None),
        (Outcome::Found(facts(State::Released)), None),
        (Outcome::Found(facts(State::Quarantined)), None),
        (Outcome::Found(facts(State::Failed)), None),
        (Outcome::Unavailable(outage()), last),
        (Outcome::Unavailable(outage()), None),
        (Outcome::Misbehaved("odd".to_owned()), None),
    ]
}

fn opinion(policy: &Policy, demand: Demand, permit: Option<Outcome<()>>, (outcome, last): Known) -> Opinion<'_> {
    let image = Reference::parse("registry.corp/team/app:1").unwrap();
    let (listed, processor, source, evidence) = (true, true, Source::Known, None);
    let sight = Sight {
        subject: Some(image.with_digest(Digest::of(b"app"))),
        certain: true,
        outcome,
        last,
        source,
        listed,
        processor,
        permit,
        evidence,
        proven: false,
        origin: crate::origin::Origin::Free,
    };
    let (namespace, now) = ("team", Timestamp::UNIX_EPOCH);
    let case = Case {
        policy,
        waivers: &[],
        namespace,
        image: &image,
        unqualified: true,
        demand,
        now,
        undenied: true,
        proven: None,
        contested: false,
        told: true,
    };
    Opinion::of(&case, &sight)
}

fn warning() -> Value {
    json!({ "released": "Deny", "digest": "Warn", "sources": { "unqualified": "Warn" } })
}

/// Known good, known bad or not there, under every knob: whoever may not use an image hears the same word.
#[test]
fn whoever_may_not_use_an_image_learns_nothing_of_it() {
    for knobs in [json!({}), open()] {
        let policy = policy(&warning(), &knobs);
        for permit in unproven() {
            let word = |known| opinion(&policy, Demand::PullSecret, permit.clone(), known);
            let nothing = word((Outcome::Absent, None));
            for known in known() {
                let said = word(known.clone());
                // In an outage in which the policy opens, what is known to be bad stays shut: the one difference that there is.
                if !matches!((&permit, &nothing.settled, knobs == open()), (Some(Outcome::Unavailable(_)), _, true)) {
                    assert_eq!(said, nothing, "{permit:?} {known:?}");
                }
                assert_eq!(said.warnings, [], "{permit:?} {known:?}");
                if let Settled::Refuse(why) = said.settled {
                    assert_eq!(why, Why::NotFoundOrNotPermitted, "{permit:?} {known:?}");
                }
            }
        }
        for known in known() {
            let said = opinion(&policy, Demand::Forbidden, Some(Outcome::Found(())), known);
            assert_eq!((said.settled, said.warnings), (Settled::Refuse(Why::NotFoundOrNotPermitted), Vec::new()));
        }
    }
}

/// A pod's author chooses the image and the credentials: that they are slow, bad or odd opens nothing.
#[test]
fn only_an_outage_of_the_registry_itself_opens_and_only_what_a_proof_would_open() {
    let policy = policy(&json!({}), &open());
    for permit in unproven() {
        for (outcome, last) in known() {
            let settled = opinion(&policy, Demand::PullSecret, permit.clone(), (outcome.clone(), last.clone())).settled;
            let good =
                matches!(&outcome, Outcome::Found(facts) if facts.state == State::Released) || matches!(outcome, Outcome::Unavailable(_));
            let opens = matches!(permit, Some(Outcome::Unavailable(_))) && good;
            // The processor of the quarantine runs what is held; it has to be permitted as everybody.
            let held = matches!(permit, Some(Outcome::Unavailable(_))) && matches!(&outcome, Outcome::Found(facts) if facts.state.is_bad());
            assert_eq!(matches!(settled, Settled::Admit(_)), opens || held, "{permit:?} {outcome:?}: {settled:?}");
            if opens {
                assert_eq!(settled, Settled::Admit(Basis::OpenUnavailable), "and is a debt");
            }
        }
    }
}

#[test]
fn known_good_is_no_permission_in_an_outage_and_a_proof_that_is_remembered_is() {
    let policy = policy(&json!({}), &json!({ "lastKnownGoodFor": "24h" }));
    let good = || (Outcome::Unavailable(outage()), Some((facts(State::Released), Timestamp::UNIX_EPOCH)));
    let settled = opinion(&policy, Demand::PullSecret, Some(Outcome::Unavailable(outage())), good()).settled;
    assert!(matches!(settled, Settled::Later(Why::Unknown(_), _)), "{settled:?}");
    let settled = opinion(&policy, Demand::PullSecret, Some(Outcome::Found(())), good()).settled;
    assert_eq!(settled, Settled::Admit(Basis::LastKnownGood));
}

#[test]
fn a_policy_that_asks_for_nothing_still_asks_whether_the_pod_may() {
    let policy = policy(&json!({ "released": "Off" }), &open());
    let nothing = || (Outcome::Busy(Busy { cause: BusyCause::Deadline, retry_after: AGAIN }), None);
    let said = |demand, permit| opinion(&policy, demand, permit, nothing()).settled;
    assert_eq!(said(Demand::PullSecret, Some(Outcome::Found(()))), Settled::Admit(Basis::NothingRequired));
    assert_eq!(said(Demand::PullSecret, Some(Outcome::Refused)), Settled::Refuse(Why::NotFoundOrNotPermitted));
    assert!(matches!(said(Demand::PullSecret, None), Settled::Later(..)));
    assert_eq!(said(Demand::Forbidden, None), Settled::Refuse(Why::NotFoundOrNotPermitted));
    assert_eq!(said(Demand::Anonymous, None), Settled::Admit(Basis::NothingRequired));
}

/// Whoever builds on the answer has to know that it is not the last one.
#[test]
fn what_is_not_known_yet_is_told_as_that_in_an_outage_too() {
    let policy = policy(&json!({ "released": "Deny" }), &open());
    let busy = (Outcome::Busy(Busy::UNPROVEN), None);
    let settled = opinion(&policy, Demand::PullSecret, Some(Outcome::Unavailable(outage())), busy).settled;
    let wait = Busy::UNPROVEN.retry_after;
    assert_eq!(settled, Settled::Later(Why::Busy(Busy::late(wait)), wait), "and not for what");
}
