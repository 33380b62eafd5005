//! What the keeper makes of each row and each position of what is not known.

use lazaretto::{
    api::{Provider, State},
    facts::Manifest,
    history::Weight,
    registry::{Credentials, Failure, TagOrDigest},
};

use super::{CONFIG, REPOSITORY, client, digest, endpoint, facts, image, now, observe, observe_at, state};
use crate::support::acr::{Judgement, PULLER, PUSHER, READER, Role, StandIn, Unentitled, WRITER, digest_of};

const NO_STATE: &str = "the registry gives it no quarantine state: nobody has judged it yet, or the registry's quarantine policy is off";

fn hidden(status: u16) -> String {
    format!(
        "the registry does not show Lazaretto its quarantine state ({status}), so it counts as quarantined: the Registry's credentials need the role AcrQuarantineReader"
    )
}

fn with_image() -> (StandIn, String) {
    let acr = StandIn::start();
    let digest = acr.push(REPOSITORY, "1", image("one"));
    (acr, digest)
}

#[tokio::test]
async fn an_image_goes_through_its_states() {
    let (acr, pushed) = with_image();
    let seen = observe(&acr, READER, &pushed).await.unwrap();
    assert_eq!(seen.weight, Weight::Seen);
    assert_eq!((seen.facts.state, seen.facts.reason.as_str()), (State::Quarantined, "nobody has judged it yet at the registry"));
    assert_eq!((seen.facts.by, seen.facts.provider), (acr.host(), Provider::AzureContainerRegistry));
    assert_eq!((seen.facts.since, seen.facts.observed_at), (acr.created(REPOSITORY, &pushed), now()));
    assert_eq!(seen.facts.manifest, Manifest { config: Some(digest(CONFIG)), ..Manifest::default() });

    acr.judge(
        &pushed,
        Judgement::Passed,
        Some(r#"{"scanner":"MoleScan","state":"scan passed","link":"https://scan.example/r/77?sig=secret"}"#),
    );
    let seen = observe(&acr, READER, &pushed).await.unwrap();
    assert_eq!(seen.weight, Weight::Explicit);
    assert_eq!((seen.facts.state, seen.facts.reason.as_str()), (State::Released, "released at the registry"));
    assert_eq!(seen.facts.by, format!("MoleScan at {}", acr.host()));
    assert_eq!(seen.facts.details, "MoleScan; scan passed; https://scan.example/r/77");

    acr.judge(
        &pushed,
        Judgement::Failed,
        Some(r#"{"scanner":"MoleScan","state":"blocked","result":{"version":"1.2.0","summary":[{"severity":"Critical","count":3}]}}"#),
    );
    let seen = observe(&acr, READER, &pushed).await.unwrap();
    assert_eq!(seen.weight, Weight::Explicit);
    assert_eq!((seen.facts.state, seen.facts.reason.as_str()), (State::Failed, "failed at the registry"));
    assert_eq!(seen.facts.details, "MoleScan; blocked; 3 Critical");
    assert_eq!(seen.facts.manifest.config, Some(digest(CONFIG)), "a reader may read what is blocked");
}

#[tokio::test]
async fn the_state_of_what_nobody_judged_is_quarantine_in_every_position() {
    let (acr, pushed) = with_image();
    let positions = [
        (Some("Quarantined"), "nobody has judged it yet at the registry"),
        (Some("quarantined"), "nobody has judged it yet at the registry"),
        (Some("ScanStarted"), "the registry says `ScanStarted`, which is not Passed"),
        (Some(""), "the registry says ``, which is not Passed"),
        (None, NO_STATE),
    ];
    for (word, reason) in positions {
        acr.switch(|switches| switches.unjudged = word);
        let facts = facts(&acr, READER, &pushed).await;
        assert_eq!((facts.state, facts.reason.as_str()), (State::Quarantined, reason), "{word:?}");
    }
    acr.switch(|switches| switches.lower_case = true);
    acr.pass(&pushed);
    assert_eq!(state(&acr, READER, &pushed).await, State::Released);
    acr.fail(&pushed);
    assert_eq!(state(&acr, READER, &pushed).await, State::Failed);
}

#[tokio::test]
async fn a_registry_whose_policy_is_off_releases_nothing_by_that() {
    let (acr, pushed) = with_image();
    acr.switch(|switches| switches.policy = false);
    for identity in [READER, PULLER] {
        let facts = facts(&acr, identity, &pushed).await;
        assert_eq!((facts.state, facts.reason.as_str()), (State::Quarantined, NO_STATE));
    }
    // Azure's own scanner writes this without the policy too, whatever it has found: it cannot be told from a release.
    acr.judge(&pushed, Judgement::Passed, Some(r#"{"scanner":"Azure Security Monitoring-Qualys Scanner","state":"Scan Failed"}"#));
    let facts = facts(&acr, READER, &pushed).await;
    assert_eq!((facts.state, facts.details.as_str()), (State::Released, "Azure Security Monitoring-Qualys Scanner; Scan Failed"));
}

#[tokio::test]
async fn attributes_without_any_optional_field_do() {
    let (acr, pushed) = with_image();
    acr.switch(|switches| switches.sparse = true);
    assert_eq!(state(&acr, READER, &pushed).await, State::Quarantined);
    acr.pass(&pushed);
    let facts = facts(&acr, READER, &pushed).await;
    assert_eq!((facts.state, facts.since, facts.by), (State::Released, now(), acr.host()));
}

#[tokio::test]
async fn the_fields_are_not_stripped_for_us() {
    let (acr, pushed) = with_image();
    acr.switch(|switches| switches.api_version_strips = true);
    acr.pass(&pushed);
    assert_eq!(state(&acr, READER, &pushed).await, State::Released);
    assert!(acr.asked().iter().all(|asked| !asked.path.contains("api-version")));
}

#[tokio::test]
async fn details_that_cannot_be_read_change_no_state() {
    let (acr, pushed) = with_image();
    for (details, shown) in [("", ""), ("looked fine", "looked fine"), ("[]", "[]"), (r#"{"state":{}}"#, ""), ("{", "{")] {
        acr.judge(&pushed, Judgement::Passed, Some(details));
        let facts = facts(&acr, READER, &pushed).await;
        assert_eq!((facts.state, facts.details.as_str(), facts.by), (State::Released, shown, acr.host()), "{details}");
    }
}

#[tokio::test]
async fn since_is_the_last_update_and_never_later_than_now() {
    let (acr, pushed) = with_image();
    for moves in [false, true] {
        acr.switch(|switches| switches.patch_moves_time = moves);
        acr.pass(&pushed);
        let since = facts(&acr, READER, &pushed).await.since;
        assert_eq!(since > acr.created(REPOSITORY, &pushed), moves);
        assert!(since < now());
    }
    let slow_clock = "2001-01-01T00:00:00Z".parse().unwrap();
    let seen = observe_at(slow_clock, &client(), &acr, &Credentials::basic(READER.0, READER.1), &pushed).await.unwrap();
    assert_eq!((seen.facts.since, seen.facts.observed_at), (slow_clock, slow_clock));
}

#[tokio::test]
async fn credentials_without_the_quarantine_role_never_see_a_release_that_is_none() {
    let (acr, pushed) = with_image();
    let blocked = "the registry blocks it: IMAGE_QUARANTINED The image is quarantined.";
    for (position, reason) in [
        (Unentitled::Shown, "nobody has judged it yet at the registry"),
        (Unentitled::Denied, blocked),
        (Unentitled::Quarantined, blocked),
        (Unentitled::Missing, blocked),
    ] {
        acr.switch(|switches| switches.unentitled = position);
        for head_403 in [true, false] {
            acr.switch(|switches| switches.head_403 = head_403);
            let seen = observe(&acr, PULLER, &pushed).await.unwrap();
            assert_eq!(
                (seen.facts.state, seen.facts.reason.as_str(), seen.weight),
                (State::Quarantined, reason, Weight::Seen),
                "{position:?}"
            );
        }
        // Azure/acr #522: whoever may push might read what is in quarantine. That it can be read does not release it.
        acr.switch(|switches| switches.push_reads_quarantine = true);
        let facts = facts(&acr, PUSHER, &pushed).await;
        acr.switch(|switches| switches.push_reads_quarantine = false);
        let reason = match position {
            Unentitled::Denied => hidden(403),
            Unentitled::Missing => hidden(404),
            Unentitled::Shown | Unentitled::Quarantined => reason.to_owned(),
        };
        assert_eq!((facts.state, facts.reason), (State::Quarantined, reason), "{position:?}");
    }
    acr.pass(&pushed);
    assert_eq!(state(&acr, PULLER, &pushed).await, State::Released);
}

#[tokio::test]
async fn what_is_not_there_is_no_quarantine() {
    let (acr, _) = with_image();
    let none = digest_of(b"never pushed");
    for identity in [READER, WRITER, PULLER] {
        assert_eq!(observe(&acr, identity, &none).await, Err(Failure::NotFound));
    }
}

#[tokio::test]
async fn a_release_that_fails_later_is_seen_whatever_the_tag_does() {
    for keeps in [false, true] {
        let (acr, pushed) = with_image();
        acr.switch(|switches| switches.failed_keeps_tag = keeps);
        acr.pass(&pushed);
        assert_eq!(state(&acr, READER, &pushed).await, State::Released);
        acr.fail(&pushed);
        let seen = observe(&acr, READER, &pushed).await.unwrap();
        assert_eq!((seen.facts.state, seen.weight), (State::Failed, Weight::Explicit));
        acr.pass(&pushed);
        assert_eq!(state(&acr, READER, &pushed).await, State::Released);
    }
}

#[tokio::test]
async fn a_lock_is_the_registrys_block_and_no_state() {
    let (acr, pushed) = with_image();
    acr.pass(&pushed);
    let token = super::pushing(&acr, PUSHER).await;
    let body = Some(("application/json", br#"{"readEnabled":false}"#.to_vec()));
    let reply = super::send(&acr, http::Method::PATCH, &super::attributes_path(&pushed), Some(&token), body).await;
    assert_eq!(reply.status, 200);
    let Err(Failure::Blocked(block)) = observe(&acr, READER, &pushed).await else { panic!("a lock blocks") };
    assert_eq!(block.code, "REGISTRY_DISALLOWED_OPERATION");
    acr.fail(&pushed);
    assert_eq!(state(&acr, READER, &pushed).await, State::Failed, "what is known to be bad is told");
}

#[tokio::test]
async fn a_role_that_is_taken_away_hides_what_waits_and_nothing_else() {
    let (acr, waiting) = with_image();
    let released = acr.push(REPOSITORY, "2", image("two"));
    acr.pass(&released);
    acr.grant(READER.0, &[Role::Pull]);
    assert_eq!(state(&acr, READER, &waiting).await, State::Quarantined);
    assert_eq!(state(&acr, READER, &released).await, State::Released);
}

#[tokio::test]
async fn a_tag_that_waits_is_not_found_and_one_that_was_pushed_again_is_the_old_one() {
    let (acr, old) = with_image();
    let client = client();
    for identity in [PULLER, READER, WRITER] {
        let credentials = Credentials::basic(identity.0, identity.1);
        let resolve = async |tag| client.resolve(&endpoint(&acr), &credentials, REPOSITORY, TagOrDigest::Tag(tag)).await;
        assert_eq!(resolve("1").await, Err(Failure::NotFound));
    }
    acr.pass(&old);
    let new = acr.push(REPOSITORY, "1", image("new"));
    let credentials = Credentials::basic(READER.0, READER.1);
    let resolve = async || client.resolve(&endpoint(&acr), &credentials, REPOSITORY, TagOrDigest::Tag("1")).await;
    assert_eq!(resolve().await, Ok(digest(&old)));
    acr.fail(&new);
    assert_eq!(resolve().await, Ok(digest(&old)));
    acr.pass(&new);
    assert_eq!(resolve().await, Ok(digest(&new)));
}
