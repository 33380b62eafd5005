//! The stand-in over the wire, row by row of what is known of the real one.

use http::{Method, header};
use jiff::Timestamp;
use serde_json::json;

use super::{
    HTTP, INDEX, MANIFEST, REPOSITORY, Reply, attributes_path, basic, bearer, get, image, index, manifest_path, pulling, pushing, send,
};
use crate::support::acr::{ONLOOKER, PULLER, PUSHER, READER, StandIn, Switches, Unentitled, WRITER, digest_of};

async fn put(acr: &StandIn, reference: &str, bytes: Vec<u8>) -> Reply {
    let token = pushing(acr, PUSHER).await;
    let reply = send(acr, Method::PUT, &manifest_path(reference), Some(&token), Some((MANIFEST, bytes))).await;
    assert_eq!(reply.status, 201);
    reply
}

async fn patch(acr: &StandIn, identity: (&str, &str), digest: &str, body: &serde_json::Value) -> Reply {
    let token = pushing(acr, identity).await;
    send(acr, Method::PATCH, &attributes_path(digest), Some(&token), Some(("application/json", body.to_string().into_bytes()))).await
}

async fn head(acr: &StandIn, reference: &str, identity: (&str, &str)) -> Reply {
    let token = pulling(acr, identity).await;
    send(acr, Method::HEAD, &manifest_path(reference), Some(&token), None).await
}

async fn pull(acr: &StandIn, reference: &str, identity: (&str, &str)) -> Reply {
    get(acr, &manifest_path(reference), &pulling(acr, identity).await).await
}

fn with_policy(policy: bool) -> StandIn {
    StandIn::with(Switches { policy, ..Switches::default() })
}

fn events(acr: &StandIn) -> Vec<(&'static str, String)> {
    acr.events().iter().map(|event| (event.action, event.tag.clone().unwrap_or_default())).collect()
}

#[tokio::test]
async fn a_push_by_tag_without_the_policy_is_there_at_once() {
    let acr = with_policy(false);
    let digest = put(&acr, "1", image("one")).await.digest().to_owned();
    assert_eq!(digest, digest_of(&image("one")));
    for identity in [PULLER, READER] {
        let reply = pull(&acr, "1", identity).await;
        assert_eq!((reply.status.as_u16(), reply.digest(), &reply.body[..]), (200, digest.as_str(), &image("one")[..]));
        assert_eq!(pull(&acr, &digest, identity).await.status, 200);
    }
    assert_eq!(events(&acr), [("quarantine", "1".into()), ("push", "1".into())]);
}

#[tokio::test]
async fn a_push_by_tag_under_the_policy_waits_and_raises_one_event() {
    let acr = with_policy(true);
    let old = put(&acr, "1", image("old")).await.digest().to_owned();
    acr.pass(&old);
    let new = put(&acr, "1", image("new")).await.digest().to_owned();
    for identity in [PULLER, READER, WRITER] {
        assert_eq!(pull(&acr, "1", identity).await.digest(), old, "the tag keeps its old value");
    }
    acr.pass(&new);
    assert_eq!(pull(&acr, "1", PULLER).await.digest(), new);
    assert_eq!(events(&acr), [("quarantine", "1".into()), ("push", "1".into()), ("quarantine", "1".into()), ("push", "1".into())]);
    let ids: Vec<u64> = acr.events().iter().map(|event| event.id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
}

#[tokio::test]
async fn a_tag_that_waits_is_hidden_from_everybody() {
    let acr = with_policy(true);
    put(&acr, "1", image("one")).await;
    for identity in [PULLER, PUSHER, READER, WRITER] {
        let reply = pull(&acr, "1", identity).await;
        assert_eq!(reply.error(), (404, "MANIFEST_UNKNOWN".into()));
        assert_eq!(reply.json()["errors"][0]["message"], "manifest tagged by \"1\" is not found");
        let reply = head(&acr, "1", identity).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (404, 0));
    }
    let list = get(&acr, &format!("/v2/{REPOSITORY}/tags/list"), &pulling(&acr, PULLER).await).await;
    assert_eq!(list.json(), json!({ "name": REPOSITORY, "tags": [] }));
    acr.switch(|switches| switches.policy = false);
    assert_eq!(pull(&acr, "1", PULLER).await.status, 200);
}

#[tokio::test]
async fn a_digest_that_waits_is_for_the_quarantine_roles() {
    let acr = with_policy(true);
    let digest = put(&acr, "1", image("one")).await.digest().to_owned();
    for identity in [PULLER, PUSHER] {
        let reply = pull(&acr, &digest, identity).await;
        assert_eq!(reply.status, 403);
        assert_eq!(
            reply.json(),
            json!({ "errors": [{ "code": "IMAGE_QUARANTINED", "message": "The image is quarantined.", "detail": {} }] })
        );
        let reply = head(&acr, &digest, identity).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (403, 0));
    }
    for identity in [READER, WRITER] {
        assert_eq!(pull(&acr, &digest, identity).await.status, 200);
        let reply = head(&acr, &digest, identity).await;
        assert_eq!((reply.status.as_u16(), reply.digest()), (200, digest.as_str()));
        assert_eq!(reply.headers[header::CONTENT_LENGTH], image("one").len().to_string());
    }
    acr.switch(|switches| switches.head_403 = false);
    assert_eq!(head(&acr, &digest, PULLER).await.status, 404);
    assert_eq!(pull(&acr, &digest, PULLER).await.status, 403);
    acr.switch(|switches| switches.push_reads_quarantine = true);
    assert_eq!(pull(&acr, &digest, PUSHER).await.status, 200);
    assert_eq!(pull(&acr, &digest, PULLER).await.status, 403);
    acr.switch(|switches| switches.policy = false);
    assert_eq!(pull(&acr, &digest, PULLER).await.status, 200);
}

#[tokio::test]
async fn attributes_of_what_waits_are_shown_to_the_quarantine_roles_and_to_others_by_a_switch() {
    let acr = with_policy(true);
    let digest = acr.push(REPOSITORY, "1", image("one"));
    let path = attributes_path(&digest);
    for identity in [READER, WRITER] {
        let reply = get(&acr, &path, &pulling(&acr, identity).await).await;
        assert_eq!(reply.json()["manifest"]["changeableAttributes"]["quarantineState"], "Quarantined");
    }
    let token = pulling(&acr, PULLER).await;
    let positions = [
        (Unentitled::Shown, 200, ""),
        (Unentitled::Denied, 403, "DENIED"),
        (Unentitled::Quarantined, 403, "IMAGE_QUARANTINED"),
        (Unentitled::Missing, 404, "MANIFEST_UNKNOWN"),
    ];
    for (position, status, code) in positions {
        acr.switch(|switches| switches.unentitled = position);
        assert_eq!(get(&acr, &path, &token).await.error(), (status, code.into()), "{position:?}");
    }
    acr.pass(&digest);
    for (position, ..) in positions {
        acr.switch(|switches| switches.unentitled = position);
        assert_eq!(get(&acr, &path, &token).await.status, 200, "{position:?}");
    }
    acr.switch(|switches| switches.policy = false);
    acr.fail(&digest);
    assert_eq!(get(&acr, &path, &token).await.status, 200);
    assert_eq!(get(&acr, &attributes_path("1"), &token).await.error(), (400, "DIGEST_INVALID".into()));
    assert_eq!(get(&acr, &attributes_path(&digest_of(b"no such")), &token).await.error(), (404, "MANIFEST_UNKNOWN".into()));
}

#[tokio::test]
async fn attributes_have_the_form_that_was_recorded() {
    let acr = with_policy(true);
    let digest = acr.push(REPOSITORY, "1.4.0", image("one"));
    let read = |path: String| {
        let acr = &acr;
        async move { get(acr, &path, &pulling(acr, READER).await).await.json() }
    };
    let waiting = read(attributes_path(&digest)).await;
    assert_eq!(waiting["manifest"].get("tags"), None, "a tag that waits is none");
    acr.judge(&digest, crate::support::acr::Judgement::Passed, Some(r#"{"state":"scan passed"}"#));
    let mut passed = read(attributes_path(&digest)).await;
    let time = passed["manifest"]["lastUpdateTime"].take();
    passed["manifest"]["createdTime"].take();
    assert_eq!(time.as_str().unwrap().len(), "2026-02-11T09:14:03.5512345Z".len());
    assert_eq!(time.as_str().unwrap().parse::<Timestamp>().unwrap(), acr.created(REPOSITORY, &digest));
    assert_eq!(
        passed,
        json!({ "registry": acr.host(), "imageName": REPOSITORY, "manifest": {
            "digest": digest, "imageSize": image("one").len(), "createdTime": null, "lastUpdateTime": null,
            "architecture": "amd64", "os": "linux", "mediaType": MANIFEST, "tags": ["1.4.0"],
            "changeableAttributes": {
                "deleteEnabled": true, "writeEnabled": true, "readEnabled": true, "listEnabled": true,
                "quarantineState": "Passed", "quarantineDetails": r#"{"state":"scan passed"}"#,
            },
        } })
    );
    let path = attributes_path(&digest);
    let versioned = format!("{path}?api-version=2021-07-01");
    assert_eq!(read(versioned.clone()).await["manifest"]["changeableAttributes"]["quarantineState"], "Passed");
    acr.switch(|switches| switches.api_version_strips = true);
    assert_eq!(read(versioned).await["manifest"]["changeableAttributes"].get("quarantineState"), None);
    assert_eq!(read(path.clone()).await["manifest"]["changeableAttributes"]["quarantineState"], "Passed");
    acr.switch(|switches| switches.sparse = true);
    assert_eq!(read(path).await, json!({ "manifest": { "digest": digest, "changeableAttributes": { "quarantineState": "Passed" } } }));
    let escaped = attributes_path(&digest).replace("tide/gate", "tide%2Fgate").replace("sha256:", "sha256%3A");
    assert_eq!(read(escaped).await["manifest"]["digest"], digest.as_str());
}

#[tokio::test]
async fn the_state_of_what_nobody_judged_is_a_switch() {
    let acr = with_policy(true);
    let digest = acr.push(REPOSITORY, "1", image("one"));
    let token = pulling(&acr, READER).await;
    let state = async || {
        get(&acr, &attributes_path(&digest), &token).await.json()["manifest"]["changeableAttributes"].get("quarantineState").cloned()
    };
    assert_eq!(state().await, Some(json!("Quarantined")));
    acr.switch(|switches| switches.lower_case = true);
    assert_eq!(state().await, Some(json!("quarantined")));
    acr.pass(&digest);
    assert_eq!(state().await, Some(json!("passed")));
    let digest = acr.push(REPOSITORY, "2", image("two"));
    let state = async || {
        get(&acr, &attributes_path(&digest), &token).await.json()["manifest"]["changeableAttributes"].get("quarantineState").cloned()
    };
    acr.switch(|switches| switches.unjudged = None);
    assert_eq!(state().await, None);
    acr.switch(|switches| (switches.unjudged, switches.policy) = (Some("Quarantined"), false));
    assert_eq!(state().await, None, "without the policy nothing is in quarantine");
}

#[tokio::test]
async fn a_writer_that_may_push_releases() {
    let acr = with_policy(true);
    let digest = put(&acr, "1", image("one")).await.digest().to_owned();
    let passed = json!({ "quarantineState": "Passed", "quarantineDetails": "{\"state\":\"scan passed\"}" });
    for identity in [PUSHER, READER, PULLER, ONLOOKER] {
        assert_eq!(patch(&acr, identity, &digest, &passed).await.error(), (403, "DENIED".into()), "{identity:?}");
    }
    // A token that was asked for too little: the challenge says what to ask for.
    let small = pulling(&acr, WRITER).await;
    let body = Some(("application/json", passed.to_string().into_bytes()));
    let reply = send(&acr, Method::PATCH, &attributes_path(&digest), Some(&small), body).await;
    assert_eq!(reply.status, 401);
    assert!(reply.challenge().ends_with(r#"scope="repository:tide/gate:pull,push",error="insufficient_scope""#), "{}", reply.challenge());
    assert_eq!(pull(&acr, "1", PULLER).await.status, 404);

    let reply = patch(&acr, WRITER, &digest, &passed).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["manifest"]["changeableAttributes"]["quarantineState"], "Passed");
    assert_eq!(pull(&acr, "1", PULLER).await.digest(), digest);
    assert_eq!(pull(&acr, &digest, PULLER).await.status, 200);
    assert_eq!(events(&acr), [("quarantine", "1".into()), ("push", "1".into())]);
    assert_eq!(patch(&acr, WRITER, &digest, &passed).await.status, 200, "once more changes nothing");
    assert_eq!(acr.events().len(), 2);
    acr.switch(|switches| switches.patch_204 = true);
    let reply = patch(&acr, WRITER, &digest, &passed).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0));
}

#[tokio::test]
async fn without_the_policy_whoever_may_push_may_judge() {
    let acr = with_policy(false);
    let digest = put(&acr, "1", image("one")).await.digest().to_owned();
    for state in ["Passed", "Failed"] {
        assert_eq!(patch(&acr, PUSHER, &digest, &json!({ "quarantineState": state })).await.status, 200);
        assert_eq!(pull(&acr, "1", PULLER).await.status, 200);
    }
    assert_eq!(acr.events().len(), 2, "the push was told when it came");
}

#[tokio::test]
async fn what_failed_stays_blocked_and_raises_no_event() {
    let acr = with_policy(true);
    let digest = put(&acr, "1", image("one")).await.digest().to_owned();
    assert_eq!(patch(&acr, WRITER, &digest, &json!({ "quarantineState": "Failed" })).await.status, 200);
    assert_eq!(pull(&acr, "1", PULLER).await.status, 404);
    assert_eq!(pull(&acr, &digest, PULLER).await.error(), (403, "IMAGE_QUARANTINED".into()));
    assert_eq!(pull(&acr, &digest, READER).await.status, 200);
    assert_eq!(events(&acr), [("quarantine", "1".into())]);
    // The text forbids no second thoughts.
    assert_eq!(patch(&acr, WRITER, &digest, &json!({ "quarantineState": "Passed" })).await.status, 200);
    assert_eq!(pull(&acr, "1", PULLER).await.status, 200);
    assert_eq!(events(&acr), [("quarantine", "1".into()), ("push", "1".into())]);
}

#[tokio::test]
async fn what_fails_after_its_release_is_blocked_and_its_tag_is_a_switch() {
    let acr = with_policy(true);
    let digest = acr.push(REPOSITORY, "1", image("one"));
    acr.pass(&digest);
    acr.fail(&digest);
    assert_eq!(pull(&acr, &digest, PULLER).await.status, 403);
    assert_eq!(pull(&acr, "1", PULLER).await.status, 404);
    acr.switch(|switches| switches.failed_keeps_tag = true);
    assert_eq!(pull(&acr, "1", PULLER).await.digest(), digest);
    assert_eq!(pull(&acr, &digest, PULLER).await.status, 403);
}

#[tokio::test]
async fn other_states_and_details_against_the_schema_are_refused() {
    let acr = with_policy(true);
    let digest = acr.push(REPOSITORY, "1", image("one"));
    for wrong in [json!("Quarantined"), json!("passed"), json!(""), json!(7)] {
        assert_eq!(patch(&acr, WRITER, &digest, &json!({ "quarantineState": wrong })).await.status, 400, "{wrong}");
    }
    for wrong in [
        json!("not JSON"),
        json!({ "state": "not a string" }),
        json!(r#"{"surplus":1}"#),
        json!(r#"{"result":{"version":"1"}}"#),
        json!(r#"{"result":{"summary":[]}}"#),
        json!(r#"{"result":{"version":"1","summary":[{"severity":"Terrible","count":1}]}}"#),
        json!(json!({ "result": { "version": "1", "summary": [], "description": "x".repeat(1025) } }).to_string()),
    ] {
        let body = json!({ "quarantineState": "Passed", "quarantineDetails": wrong });
        assert_eq!(patch(&acr, WRITER, &digest, &body).await.error(), (400, "MANIFEST_INVALID".into()), "{wrong}");
    }
    assert_eq!(pull(&acr, "1", PULLER).await.status, 404);
    acr.switch(|switches| switches.strict_details = false);
    let body = json!({ "quarantineState": "Passed", "quarantineDetails": "not JSON" });
    assert_eq!(patch(&acr, WRITER, &digest, &body).await.status, 200);
}

#[tokio::test]
async fn a_patch_moves_the_time_by_a_switch() {
    let acr = with_policy(true);
    let digest = acr.push(REPOSITORY, "1", image("one"));
    let token = pulling(&acr, READER).await;
    let updated = async || get(&acr, &attributes_path(&digest), &token).await.json()["manifest"]["lastUpdateTime"].clone();
    let before = updated().await;
    acr.pass(&digest);
    assert_eq!(updated().await, before);
    acr.switch(|switches| switches.patch_moves_time = true);
    acr.fail(&digest);
    assert!(updated().await.as_str() > before.as_str());
}

#[tokio::test]
async fn a_push_that_is_judged_late_does_not_take_the_tag_back() {
    let acr = with_policy(true);
    let (first, second) = (acr.push(REPOSITORY, "1", image("first")), acr.push(REPOSITORY, "1", image("second")));
    acr.pass(&second);
    acr.pass(&first);
    assert_eq!(pull(&acr, "1", PULLER).await.digest(), second);
    assert_eq!(pull(&acr, &first, PULLER).await.status, 200);
    assert_eq!(events(&acr).iter().filter(|(action, _)| *action == "push").count(), 1);
    // What is released already needs no second judgement under another tag.
    acr.push(REPOSITORY, "2", image("second"));
    assert_eq!(pull(&acr, "2", PULLER).await.digest(), second);
}

#[tokio::test]
async fn turning_the_policy_on_blocks_what_was_there() {
    let acr = with_policy(false);
    let (judged, other) = (acr.push(REPOSITORY, "judged", image("judged")), acr.push(REPOSITORY, "other", image("other")));
    acr.pass(&judged);
    acr.switch(|switches| switches.policy = true);
    assert_eq!(pull(&acr, "judged", PULLER).await.status, 200);
    assert_eq!(pull(&acr, "other", PULLER).await.status, 404);
    assert_eq!(pull(&acr, &other, PULLER).await.status, 403);
    acr.pass(&other);
    assert_eq!(pull(&acr, "other", PULLER).await.digest(), other);
}

#[tokio::test]
async fn a_judgement_of_an_index_reaches_its_images_by_a_switch() {
    let acr = with_policy(true);
    for cascade in [false, true] {
        acr.switch(|switches| switches.cascade = cascade);
        let child = acr.push(REPOSITORY, &digest_of(&image(&cascade.to_string())), image(&cascade.to_string()));
        let all = acr.push(REPOSITORY, "many", index(&[(&child, "linux/amd64")]));
        acr.pass(&all);
        let reply = pull(&acr, "many", PULLER).await;
        assert_eq!((reply.digest(), reply.headers[header::CONTENT_TYPE].to_str().unwrap()), (all.as_str(), INDEX));
        assert_eq!(pull(&acr, &child, PULLER).await.status, if cascade { 200 } else { 403 });
        let attributes = get(&acr, &attributes_path(&all), &pulling(&acr, PULLER).await).await.json();
        assert_eq!(attributes["manifest"]["references"][0]["digest"], child.as_str());
        assert_eq!(attributes["manifest"].get("os"), None);
    }
    assert_eq!(events(&acr)[..2], [("quarantine", String::new()), ("quarantine", "many".into())]);
}

#[tokio::test]
async fn an_image_is_pushed_in_parts_as_clients_do() {
    let acr = with_policy(true);
    let token = pushing(&acr, PUSHER).await;
    let ask = async |method: Method, path: &str, body: Option<(&str, Vec<u8>)>| send(&acr, method, path, Some(&token), body).await;
    let blob = b"a layer".to_vec();
    let blob_digest = digest_of(&blob);
    let blob_path = format!("/v2/{REPOSITORY}/blobs/{blob_digest}");
    assert_eq!(ask(Method::HEAD, &blob_path, None).await.status, 404);
    let begun = ask(Method::POST, &format!("/v2/{REPOSITORY}/blobs/uploads/?mount={blob_digest}&from=other"), None).await;
    assert_eq!(begun.status, 202);
    let place = begun.headers[header::LOCATION].to_str().unwrap().to_owned();
    let part = ask(Method::PATCH, &place, Some(("application/octet-stream", blob[..3].to_vec()))).await;
    assert_eq!((part.status.as_u16(), part.headers[header::RANGE].to_str().unwrap()), (202, "0-2"));
    let wrong = ask(Method::PUT, &format!("{place}?digest={}", digest_of(b"other")), None).await;
    assert_eq!(wrong.error(), (400, "DIGEST_INVALID".into()));
    assert_eq!(ask(Method::PATCH, &place, None).await.error(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
    let whole = ask(
        Method::POST,
        &format!("/v2/{REPOSITORY}/blobs/uploads/?digest={blob_digest}"),
        Some(("application/octet-stream", blob.clone())),
    )
    .await;
    assert_eq!(whole.status, 201);
    assert_eq!(ask(Method::GET, &blob_path, None).await.body, blob);

    let wrong = ask(Method::PUT, &manifest_path(&digest_of(b"other")), Some((MANIFEST, image("one")))).await;
    assert_eq!(wrong.error(), (400, "DIGEST_INVALID".into()));
    let wrong = ask(Method::PUT, &manifest_path("1"), Some((INDEX, image("one")))).await;
    assert_eq!(wrong.error(), (400, "MANIFEST_INVALID".into()));
    let digest = digest_of(&image("one"));
    let right = ask(Method::PUT, &manifest_path(&digest), Some((MANIFEST, image("one")))).await;
    assert_eq!((right.status.as_u16(), right.headers[header::LOCATION].to_str().unwrap()), (201, manifest_path(&digest).as_str()));
    assert_eq!(events(&acr), [("quarantine", String::new())]);
    let reply = send(&acr, Method::PUT, &manifest_path("1"), Some(&pulling(&acr, PULLER).await), Some((MANIFEST, image("two")))).await;
    assert_eq!(reply.status, 401);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let acr = with_policy(true);
    for variant in ["a", "b", "c"] {
        let digest = acr.push(REPOSITORY, variant, image(variant));
        acr.pass(&digest);
    }
    acr.push("other", "x", image("x"));
    acr.switch(|switches| switches.page = Some(1));
    let token = pulling(&acr, READER).await;
    let catalog = bearer(&acr, READER, "registry:catalog:*").await;
    for (path, field, all, token) in [
        (format!("/v2/{REPOSITORY}/tags/list"), "tags", 3, &token),
        (format!("/acr/v1/{REPOSITORY}/_manifests"), "manifests", 3, &token),
        (format!("/acr/v1/{REPOSITORY}/_tags"), "tags", 3, &token),
        ("/v2/_catalog".to_owned(), "repositories", 2, &catalog),
    ] {
        let mut next = Some(format!("{path}?n=50&orderby=none"));
        let mut found = Vec::new();
        while let Some(path) = next {
            let reply = get(&acr, &path, token).await;
            let page = reply.json()[field].as_array().cloned().unwrap();
            assert_eq!(page.len(), 1);
            found.extend(page);
            assert!(found.len() <= all, "{path} goes round");
            next = reply.headers.get(header::LINK).map(|link| {
                let link = link.to_str().unwrap();
                assert!(link.ends_with(r#">; rel="next""#) && link.contains("n=1&orderby=none"), "{link}");
                link[1..link.find('>').unwrap()].to_owned()
            });
        }
        assert_eq!(found.len(), all, "{path}");
        found.dedup();
        assert_eq!(found.len(), all, "{path}");
    }
    acr.switch(|switches| switches.page = None);
    let reply = get(&acr, &format!("/acr/v1/{REPOSITORY}/_tags"), &token).await;
    assert_eq!((reply.json()["tags"].as_array().unwrap().len(), reply.headers.get(header::LINK)), (3, None));
    assert_eq!(reply.json()["tags"][0]["name"], "a");
    let one = get(&acr, &format!("/acr/v1/{REPOSITORY}/_tags/b"), &token).await;
    assert_eq!(one.json()["tag"]["digest"], digest_of(&image("b")));
    assert_eq!(get(&acr, &format!("/acr/v1/{REPOSITORY}/_tags/none"), &token).await.error(), (404, "TAG_UNKNOWN".into()));
}

#[tokio::test]
async fn a_lock_is_another_thing_than_quarantine() {
    let acr = with_policy(true);
    let digest = acr.push(REPOSITORY, "1", image("one"));
    acr.pass(&digest);
    assert_eq!(patch(&acr, PUSHER, &digest, &json!({ "readEnabled": false })).await.status, 200);
    assert_eq!(pull(&acr, &digest, PULLER).await.error(), (405, "REGISTRY_DISALLOWED_OPERATION".into()));
    let attributes = get(&acr, &attributes_path(&digest), &pulling(&acr, PULLER).await).await.json();
    assert_eq!(attributes["manifest"]["changeableAttributes"]["readEnabled"], false);
    assert_eq!(attributes["manifest"]["changeableAttributes"]["quarantineState"], "Passed");
}

#[tokio::test]
async fn events_have_the_form_that_the_webhook_reference_shows() {
    let acr = with_policy(true);
    let digest = acr.push(REPOSITORY, "1.4.0", image("one"));
    acr.pass(&digest);
    acr.delete(REPOSITORY, &digest);
    let bodies: Vec<_> = acr.events().iter().map(|event| event.body(&acr.host())).collect();
    let size = image("one").len();
    assert_eq!(bodies[0]["target"], json!({ "size": size, "length": size, "digest": digest, "repository": REPOSITORY, "tag": "1.4.0" }));
    assert_eq!((&bodies[0]["action"], &bodies[0]["request"]["method"]), (&json!("quarantine"), &json!("PUT")));
    assert_eq!(bodies[1]["target"]["mediaType"], MANIFEST);
    assert_eq!((&bodies[1]["action"], &bodies[1]["request"]["host"]), (&json!("push"), &json!(acr.host())));
    assert_eq!(bodies[2]["target"], json!({ "mediaType": MANIFEST, "digest": digest, "repository": REPOSITORY }));
    assert_eq!((&bodies[2]["action"], &bodies[2]["request"]["method"]), (&json!("delete"), &json!("DELETE")));
}

#[tokio::test]
async fn what_was_stopped_comes_back_with_all_it_held() {
    let mut acr = with_policy(true);
    let digest = acr.push(REPOSITORY, "1", image("one"));
    acr.pass(&digest);
    acr.stop();
    let refused = HTTP.get(acr.url("/v2/")).send().await.unwrap_err();
    assert!(refused.is_connect(), "{refused:?}");
    acr.start_again();
    assert_eq!(pull(&acr, "1", PULLER).await.digest(), digest);
    assert!(acr.count("GET", "/v2/") > 0);
    assert_eq!(acr.asked().last().map(|asked| asked.user.clone()), Some(Some("puller".into())));
    acr.forget_asked();
    assert_eq!(send(&acr, Method::GET, "/v2/", Some(&basic(PULLER)), None).await.status, 200);
    assert_eq!(acr.asked().len(), 1);
}
