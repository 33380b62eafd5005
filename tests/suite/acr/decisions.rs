//! A person's decision, carried out at the registry and read back.

use lazaretto::{
    api::{Decision, DecisionState, State},
    registry::Failure,
};
use serde_json::{Value, json};

use super::{REPOSITORY, attributes_path, carry_out, facts, image, manifest_path, pulling, state};
use crate::support::acr::{Area, Fault, Judgement, ONLOOKER, PULLER, PUSHER, READER, StandIn, WRITER, digest_of};

const NEEDED: &str = "To carry decisions out, the Registry's credentials need the roles AcrPush and AcrQuarantineWriter";

fn decide(state: DecisionState) -> Decision {
    Decision { state, by: "alice@corp.example".into(), reason: "reviewed, not reachable".into(), details: None, expects: None }
}

fn with_image() -> (StandIn, String) {
    let acr = StandIn::start();
    let digest = acr.push(REPOSITORY, "1", image("one"));
    (acr, digest)
}

#[tokio::test]
async fn a_release_is_written_with_who_and_why_and_read_back() {
    for (patch_204, metadata_scopes) in [(false, false), (true, false), (false, true), (true, true)] {
        let (acr, digest) = with_image();
        acr.switch(|switches| (switches.patch_204, switches.metadata_scopes) = (patch_204, metadata_scopes));
        let decision = Decision { details: Some("https://tickets.example/7".into()), ..decide(DecisionState::Released) };
        assert_eq!(carry_out(&acr, WRITER, &digest, &decision).await, Ok(()));
        let (judgement, details) = acr.judgement(REPOSITORY, &digest).unwrap();
        assert_eq!(judgement, Judgement::Passed);
        assert_eq!(
            serde_json::from_str::<Value>(&details.unwrap()).unwrap(),
            json!({
                "scanner": "lazaretto", "state": "released", "link": "https://tickets.example/7",
                "result": { "version": env!("CARGO_PKG_VERSION"), "summary": [], "description": "alice@corp.example: reviewed, not reachable" },
            })
        );
        let facts = facts(&acr, READER, &digest).await;
        assert_eq!((facts.state, facts.by), (State::Released, format!("lazaretto at {}", acr.host())));
        assert_eq!(facts.details, "lazaretto; released; alice@corp.example: reviewed, not reachable; https://tickets.example/7");
        let pulled = super::get(&acr, &manifest_path("1"), &pulling(&acr, PULLER).await).await;
        assert_eq!(pulled.digest(), digest, "the tag goes with it");
        assert_eq!(acr.events().last().unwrap().action, "push");
    }
}

#[tokio::test]
async fn a_failure_is_written_too_and_both_may_be_taken_back() {
    let (acr, digest) = with_image();
    for (decision, judgement, expected) in [
        (DecisionState::Failed, Judgement::Failed, State::Failed),
        (DecisionState::Released, Judgement::Passed, State::Released),
        (DecisionState::Failed, Judgement::Failed, State::Failed),
    ] {
        assert_eq!(carry_out(&acr, WRITER, &digest, &decide(decision)).await, Ok(()));
        assert_eq!(acr.judgement(REPOSITORY, &digest).unwrap().0, judgement);
        assert_eq!(state(&acr, WRITER, &digest).await, expected);
    }
}

#[tokio::test]
async fn the_longest_decision_fits_the_schema() {
    let (acr, digest) = with_image();
    let decision =
        Decision { by: "b".repeat(256), reason: "\"\\ü".repeat(85), details: Some("d\n".repeat(256)), ..decide(DecisionState::Failed) };
    assert_eq!(carry_out(&acr, WRITER, &digest, &decision).await, Ok(()));
    assert_eq!(facts(&acr, READER, &digest).await.details.chars().count(), 256);
}

#[tokio::test]
async fn what_was_let_go_is_not_held_again_here() {
    let (acr, digest) = with_image();
    acr.forget_asked();
    let told = "Azure Container Registry cannot put an image back into quarantine: fail it to keep it from being pulled";
    assert_eq!(carry_out(&acr, WRITER, &digest, &decide(DecisionState::Quarantined)).await, Err(Failure::Forbidden(told.into())));
    assert_eq!(acr.asked(), []);
}

#[tokio::test]
async fn credentials_without_the_roles_are_told_which() {
    let (acr, digest) = with_image();
    let denied = "requested access to the resource is denied";
    for identity in [PUSHER, READER, PULLER] {
        let told = carry_out(&acr, identity, &digest, &decide(DecisionState::Released)).await;
        assert_eq!(told, Err(Failure::Forbidden(format!("{denied}. {NEEDED}"))), "{identity:?}");
    }
    assert!(matches!(carry_out(&acr, ONLOOKER, &digest, &decide(DecisionState::Released)).await, Err(Failure::Forbidden(_))));
    let wrong = carry_out(&acr, ("writer", "wrong"), &digest, &decide(DecisionState::Released)).await;
    assert_eq!(wrong, Err(Failure::Unauthorized(format!("the token server {} refuses (401). {NEEDED}", acr.host()))));
    assert_eq!(acr.judgement(REPOSITORY, &digest), Some((Judgement::Unjudged, None)));
}

#[tokio::test]
async fn a_decision_that_did_not_arrive_says_so() {
    let (acr, digest) = with_image();
    let decision = decide(DecisionState::Released);
    let none = digest_of(b"never pushed");
    assert_eq!(carry_out(&acr, WRITER, &none, &decision).await, Err(Failure::NotFound));
    acr.break_down(Area::Attributes, Fault::Status(503));
    assert!(matches!(carry_out(&acr, WRITER, &digest, &decision).await, Err(Failure::Outage(_))));
    acr.heal();
    acr.break_down(Area::Attributes, Fault::Throttled(None));
    assert_eq!(carry_out(&acr, WRITER, &digest, &decision).await, Err(Failure::Throttled { retry_after: None }));
    acr.heal();
    acr.break_down(Area::Attributes, Fault::Status(201));
    assert!(matches!(carry_out(&acr, WRITER, &digest, &decision).await, Err(Failure::Misbehaved(_))));
    acr.heal();
    assert_eq!(acr.judgement(REPOSITORY, &digest), Some((Judgement::Unjudged, None)));
    // Sent twice is as good as once.
    for _ in 0..2 {
        assert_eq!(carry_out(&acr, WRITER, &digest, &decision).await, Ok(()));
    }
    assert_eq!(acr.events().iter().filter(|event| event.action == "push").count(), 1);
    // One each for the three that failed; then each time a challenge and the write.
    assert_eq!(acr.count("PATCH", &attributes_path(&digest)), 7);
}
