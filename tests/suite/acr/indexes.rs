//! Indexes: the strictest written state of the images in them.

use lazaretto::{
    api::State,
    facts::{Child, OutageKind},
    history::Weight,
    registry::Failure,
};

use super::{REPOSITORY, attributes_path, digest, facts, image, index, observe, state};
use crate::support::acr::{Area, Fault, Judgement, PULLER, READER, StandIn, Switches, Unentitled, digest_of};

/// An index over amd64 and arm64 under the tag `many`: the index and its images.
fn push(acr: &StandIn) -> (String, [String; 2]) {
    let children = ["amd64", "arm64"].map(|architecture| {
        let bytes = image(architecture);
        acr.push(REPOSITORY, &digest_of(&bytes), bytes)
    });
    let all = acr.push(REPOSITORY, "many", index(&[(&children[0], "linux/amd64"), (&children[1], "linux/arm64")]));
    (all, children)
}

#[tokio::test]
async fn an_index_is_released_when_none_of_its_images_is_held() {
    let acr = StandIn::start();
    let (all, children) = push(&acr);
    for child in &children {
        acr.pass(child);
    }
    assert_eq!(state(&acr, READER, &all).await, State::Quarantined);
    acr.pass(&all);
    let seen = observe(&acr, READER, &all).await.unwrap();
    assert_eq!((seen.facts.state, seen.weight), (State::Released, Weight::Explicit));
    let platforms = ["linux/amd64", "linux/arm64"].map(ToOwned::to_owned);
    let listed: Vec<_> = children.iter().zip(platforms).map(|(child, platform)| Child { digest: digest(child), platform }).collect();
    assert_eq!(seen.facts.manifest.children, listed);
}

#[tokio::test]
async fn the_strictest_image_of_a_released_index_wins() {
    let acr = StandIn::start();
    let (all, [amd64, arm64]) = push(&acr);
    acr.pass(&all);
    let seen = observe(&acr, READER, &all).await.unwrap();
    assert_eq!((seen.facts.state, seen.weight), (State::Quarantined, Weight::Seen));
    assert_eq!(seen.facts.reason, format!("its image for linux/amd64 is in quarantine at the registry: {amd64}"));

    acr.judge(&arm64, Judgement::Failed, Some(r#"{"scanner":"MoleScan","state":"blocked"}"#));
    let seen = observe(&acr, READER, &all).await.unwrap();
    assert_eq!((seen.facts.state, seen.weight), (State::Failed, Weight::Explicit));
    assert_eq!(seen.facts.reason, format!("its image for linux/arm64 failed at the registry: {arm64}"));
    assert_eq!((seen.facts.by, seen.facts.details.as_str()), (format!("MoleScan at {}", acr.host()), "MoleScan; blocked"));

    acr.pass(&amd64);
    acr.pass(&arm64);
    assert_eq!(state(&acr, READER, &all).await, State::Released);
}

#[tokio::test]
async fn a_judgement_that_reaches_the_images_needs_no_other() {
    let acr = StandIn::with(Switches { cascade: true, ..Switches::default() });
    let (all, _) = push(&acr);
    acr.pass(&all);
    assert_eq!(state(&acr, READER, &all).await, State::Released);
    acr.fail(&all);
    let facts = facts(&acr, READER, &all).await;
    assert_eq!((facts.state, facts.reason.as_str()), (State::Failed, "failed at the registry"));
}

#[tokio::test]
async fn an_image_without_a_state_leaves_the_word_to_its_index() {
    let acr = StandIn::with(Switches { unjudged: None, ..Switches::default() });
    let (all, children) = push(&acr);
    acr.pass(&all);
    assert_eq!(state(&acr, READER, &all).await, State::Released);
    assert_eq!(state(&acr, READER, &children[0]).await, State::Quarantined, "by itself it is held");
}

#[tokio::test]
async fn only_a_released_index_is_looked_through() {
    let acr = StandIn::start();
    let (all, children) = push(&acr);
    for judgement in [None, Some(Judgement::Failed)] {
        if let Some(judgement) = judgement {
            acr.judge(&all, judgement, None);
        }
        acr.forget_asked();
        assert!(state(&acr, READER, &all).await.is_bad());
        assert_eq!(acr.count("GET", &attributes_path(&children[0])), 0);
    }
}

#[tokio::test]
async fn sixteen_images_are_asked_about_and_attestations_are_none() {
    let acr = StandIn::start();
    let children: Vec<String> = (0..18).map(|at| acr.push(REPOSITORY, &format!("c{at}"), image(&at.to_string()))).collect();
    let attestation = acr.push(REPOSITORY, "att", image("attestation"));
    let mut listed: Vec<(&str, &str)> = vec![(&attestation, "unknown/unknown")];
    listed.extend(children.iter().map(|child| (child.as_str(), "linux/amd64")));
    let all = acr.push(REPOSITORY, "many", index(&listed));
    for child in &children {
        acr.pass(child);
    }
    acr.pass(&all);
    assert_eq!(state(&acr, READER, &all).await, State::Released);
    let asked = |digest: &String| acr.count("GET", &attributes_path(digest)) > 0;
    assert_eq!(children.iter().map(asked).collect::<Vec<_>>(), (0..18).map(|at| at < 16).collect::<Vec<_>>());
    assert!(!asked(&attestation));
    acr.fail(&children[15]);
    assert_eq!(state(&acr, READER, &all).await, State::Failed);
}

#[tokio::test]
async fn an_image_that_is_hidden_is_held_and_one_that_is_missing_is_not() {
    let acr = StandIn::start();
    let (all, children) = push(&acr);
    acr.pass(&all);
    for (position, expected) in [
        (Unentitled::Denied, State::Quarantined),
        (Unentitled::Quarantined, State::Quarantined),
        (Unentitled::Shown, State::Quarantined),
        (Unentitled::Missing, State::Released),
    ] {
        acr.switch(|switches| switches.unentitled = position);
        assert_eq!(state(&acr, PULLER, &all).await, expected, "{position:?}");
    }
    for child in &children {
        acr.delete(REPOSITORY, child);
    }
    assert_eq!(state(&acr, READER, &all).await, State::Released);
}

#[tokio::test]
async fn the_images_of_an_index_that_may_not_be_read_are_those_its_attributes_name() {
    let acr = StandIn::start();
    let (all, [amd64, arm64]) = push(&acr);
    acr.pass(&all);
    acr.pass(&amd64);
    acr.fail(&arm64);
    acr.break_down(Area::Manifests, Fault::Status(403));
    assert_eq!(state(&acr, READER, &all).await, State::Failed);
    acr.pass(&arm64);
    assert_eq!(state(&acr, READER, &all).await, State::Released);
}

#[tokio::test]
async fn an_index_is_not_released_while_an_image_of_it_cannot_be_asked_about() {
    let acr = StandIn::start();
    let (all, children) = push(&acr);
    acr.pass(&all);
    for child in &children {
        acr.pass(child);
    }
    // The attributes of the index, then those of its images.
    for (fault, failure) in [
        (Fault::Throttled(Some("7")), Failure::Throttled { retry_after: Some(std::time::Duration::from_secs(7)) }),
        (
            Fault::Status(503),
            Failure::Outage(lazaretto::facts::Outage { kind: OutageKind::ServerError, message: "the registry answered not now".into() }),
        ),
    ] {
        let client = super::client();
        let credentials = lazaretto::registry::Credentials::basic(READER.0, READER.1);
        assert_eq!(super::observe_by(&client, &acr, &credentials, &all).await.unwrap().facts.state, State::Released);
        acr.break_after(Area::Attributes, fault, 1);
        assert_eq!(super::observe_by(&client, &acr, &credentials, &all).await, Err(failure));
        acr.heal();
    }
}
