//! What the keeper makes of a registry that is down, busy, or talks nonsense. None of it is a release, and none of it is quarantine.

use std::time::Duration;

use lazaretto::{
    api::{Limits, RegistrySpec, State},
    facts::{Outage, OutageKind},
    history::Weight,
    provider::{Keeper, Question, acr::AzureContainerRegistry},
    registry::{Credentials, Endpoint, Failure, Pass},
};

use super::{REPOSITORY, client, facts, image, now, observe, state, subject};
use crate::support::acr::{Area, Fault, READER, StandIn, digest_of};

fn released() -> (StandIn, String) {
    let acr = StandIn::start();
    let digest = acr.push(REPOSITORY, "1", image("one"));
    acr.pass(&digest);
    (acr, digest)
}

/// What comes of one fault for the attributes, and for the manifest of an image that is released.
async fn ends(fault: Fault) -> [Result<State, Failure>; 2] {
    let (acr, digest) = released();
    let mut ends = Vec::new();
    for area in [Area::Attributes, Area::Manifests] {
        acr.break_down(area, fault.clone());
        ends.push(observe(&acr, READER, &digest).await.map(|seen| seen.facts.state));
        acr.heal();
        assert_eq!(state(&acr, READER, &digest).await, State::Released, "it is over when it is over");
    }
    ends.try_into().unwrap()
}

fn outage(kind: OutageKind, message: &str) -> Result<State, Failure> {
    Err(Failure::Outage(Outage { kind, message: message.into() }))
}

#[tokio::test]
async fn throttling_says_how_long_where_the_registry_does() {
    for (after, expected) in [(None, None), (Some("7"), Some(7)), (Some("86400"), Some(600)), (Some("soon"), None)] {
        let expected = Err(Failure::Throttled { retry_after: expected.map(Duration::from_secs) });
        assert_eq!(ends(Fault::Throttled(after)).await, [expected.clone(), expected], "{after:?}");
    }
}

#[tokio::test]
async fn a_server_error_is_an_outage() {
    for status in [500, 503] {
        let expected = outage(OutageKind::ServerError, "the registry answered not now");
        assert_eq!(ends(Fault::Status(status)).await, [expected.clone(), expected]);
    }
    let page = outage(OutageKind::ServerError, "the registry answered 502 Bad Gateway");
    assert_eq!(ends(Fault::Page(502)).await, [page.clone(), page]);
}

#[tokio::test]
async fn an_outage_of_the_token_server_is_one_of_the_registry() {
    let (acr, digest) = released();
    acr.break_down(Area::Tokens, Fault::Status(503));
    let Err(Failure::Outage(outage)) = observe(&acr, READER, &digest).await else { panic!("an outage") };
    assert_eq!(outage.kind, OutageKind::ServerError);
    assert_eq!(outage.message, format!("the token server {} answered 503 Service Unavailable", acr.host()));
}

#[tokio::test]
async fn a_page_for_browsers_is_no_answer() {
    let (acr, digest) = released();
    acr.break_down(Area::Attributes, Fault::Page(200));
    let expected = format!("{} answers with something that is not the JSON expected (line 1, column 1)", acr.host());
    assert_eq!(observe(&acr, READER, &digest).await, Err(Failure::Misbehaved(expected)));
    acr.heal();
    acr.break_down(Area::Manifests, Fault::Page(200));
    assert!(matches!(observe(&acr, READER, &digest).await, Err(Failure::Misbehaved(_))));
}

#[tokio::test]
async fn half_an_answer_is_none() {
    let (acr, digest) = released();
    acr.break_down(Area::Attributes, Fault::Truncated);
    let Err(Failure::Misbehaved(told)) = observe(&acr, READER, &digest).await else { panic!("half an answer") };
    assert!(told.starts_with(&format!("{} answers with something that is not the JSON expected", acr.host())), "{told}");
    acr.heal();
    acr.break_down(Area::Attributes, Fault::BrokenOff);
    let Err(Failure::Outage(outage)) = observe(&acr, READER, &digest).await else { panic!("a broken connection") };
    assert_eq!(outage.kind, OutageKind::Broken);
    let [_, truncated] = ends(Fault::Truncated).await;
    assert!(matches!(truncated, Err(Failure::Misbehaved(_))), "{truncated:?}");
}

#[tokio::test]
async fn attributes_of_another_image_are_none() {
    let (acr, digest) = released();
    acr.break_down(Area::Attributes, Fault::WrongDigest);
    let expected = format!("asked for the attributes of {digest}, the registry answered with those of sha256:{}", "0".repeat(64));
    assert_eq!(observe(&acr, READER, &digest).await, Err(Failure::Misbehaved(expected)));
}

#[tokio::test]
async fn bytes_of_another_image_are_none() {
    let (acr, digest) = released();
    acr.break_down(Area::Manifests, Fault::OtherBytes);
    let mut other = image("one");
    other.push(b'\n');
    let expected = format!("the registry answered for {digest} with {}", digest_of(&other));
    assert_eq!(observe(&acr, READER, &digest).await, Err(Failure::Misbehaved(expected)));
    acr.fail(&digest);
    assert_eq!(state(&acr, READER, &digest).await, State::Failed, "bad is told without the manifest");
}

#[tokio::test]
async fn the_registrys_firewall_puts_nothing_into_quarantine() {
    let (acr, digest) = released();
    acr.break_down(Area::Everything, Fault::Firewall);
    let told = observe(&acr, READER, &digest).await;
    acr.heal();
    let message = "client with IP '192.0.2.7' is not allowed access, refer https://aka.ms/acr/firewall to grant access.";
    assert_eq!(told, Err(Failure::Forbidden(message.into())));
    // Where the attributes alone are shut off, the image is there and its state is not known.
    acr.break_down(Area::Attributes, Fault::Firewall);
    let facts = facts(&acr, READER, &digest).await;
    assert_eq!(facts.state, State::Quarantined);
    assert!(facts.reason.starts_with("the registry does not show Lazaretto its quarantine state (403)"), "{}", facts.reason);
}

#[tokio::test]
async fn a_401_that_no_token_helps_against_is_a_refusal() {
    let (acr, digest) = released();
    acr.break_down(Area::Everything, Fault::InvalidToken);
    assert!(matches!(observe(&acr, READER, &digest).await, Err(Failure::Misbehaved(_) | Failure::Unauthorized(_))));
    acr.heal();
    acr.break_down(Area::Attributes, Fault::InvalidToken);
    let facts = facts(&acr, READER, &digest).await;
    assert_eq!(facts.state, State::Quarantined, "never released");
}

#[tokio::test]
async fn a_manifest_that_may_not_be_read_leaves_the_attributes_word() {
    let (acr, digest) = released();
    acr.break_down(Area::Manifests, Fault::Status(403));
    let facts = facts(&acr, READER, &digest).await;
    assert_eq!((facts.state, facts.manifest.config), (State::Released, None));
}

#[tokio::test]
async fn attributes_that_say_passed_do_not_outweigh_a_manifest_that_is_blocked() {
    let (acr, digest) = released();
    acr.break_down(Area::Manifests, Fault::Quarantined);
    let seen = observe(&acr, READER, &digest).await.unwrap();
    assert_eq!((seen.facts.state, seen.weight), (State::Quarantined, Weight::Seen));
    assert_eq!(seen.facts.reason, "the registry blocks it: IMAGE_QUARANTINED The image is quarantined.");
}

#[tokio::test]
async fn a_registry_that_is_gone_is_an_outage() {
    let (mut acr, digest) = released();
    acr.stop();
    let Err(Failure::Outage(outage)) = observe(&acr, READER, &digest).await else { panic!("an outage") };
    assert_eq!(outage.kind, OutageKind::Connect);
    acr.start_again();
    assert_eq!(state(&acr, READER, &digest).await, State::Released);
}

#[tokio::test]
async fn one_look_is_one_question_however_many_requests_it_takes() {
    let (acr, digest) = released();
    let limits = Limits { timeout_seconds: 1, ..Limits::default() };
    let endpoint = Endpoint::listed(&acr.host(), &RegistrySpec { plain_http: true, limits, ..RegistrySpec::default() }).unwrap();
    let (client, subject, credentials) = (client(), subject(&acr, &digest), Credentials::basic(READER.0, READER.1));
    // By the third round the client has its token: two answers, each in time by itself.
    let late = Fault::Late(Duration::from_millis(700));
    for (area, fault) in [(Area::Attributes, Fault::Silent), (Area::Manifests, Fault::Stalled), (Area::Everything, late)] {
        acr.break_down(area, fault);
        let client = client.within(Pass::free(endpoint.timeout));
        let question =
            Question { client: &client, endpoint: &endpoint, credentials: &credentials, subject: &subject, adopted: true, now: now() };
        let Err(Failure::Outage(outage)) = AzureContainerRegistry.observe(question).await else { panic!("an outage") };
        assert_eq!(outage.kind, OutageKind::TimedOut);
        assert!(outage.message.ends_with("within 1s"), "{}", outage.message);
        acr.heal();
    }
}
