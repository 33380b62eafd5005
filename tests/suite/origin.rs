//! Shadowed names: a stranger publishes an internal repository's name elsewhere.

use std::time::Duration;

use lazaretto::api::{QuarantinePolicy, Registry, RegistrySpec};
use serde_json::{Value, json};
use tokio::time::advance;

use crate::support::{
    registry::{FakeRegistry, Fault},
    world::{Listed, PATIENCE, World, open, open_for_outages, shut},
};

const TAGS: &str = "/tags/list";

/// The registry inside goes before the one outside.
async fn world(when_unknown: lazaretto::api::WhenUnknown) -> (World, FakeRegistry, FakeRegistry) {
    let (inside, outside) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let world = World::new(when_unknown).with(&Listed::new(&outside));
    mark(&world, inside.spec());
    inside.push_image("acme/payments", "1.0", "ours");
    outside.push_image("acme/payments", "1.7", "a stranger's");
    outside.push_image("external/tool", "2", "a tool");
    (world, inside, outside)
}

fn mark(world: &World, spec: RegistrySpec) {
    let object = Registry::new("inside", RegistrySpec { priority: true, ..spec });
    assert!(world.index.write().apply_registry(&object));
    assert!(world.index.read().unreadable().is_empty(), "{:?}", world.index.read().unreadable());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_held_inside_comes_from_nowhere_else() {
    let (world, inside, outside) = world(open()).await;
    let (ours, theirs) = (inside.host(), outside.host());
    for (image, instead) in [("acme/payments:1.7", "acme/payments:1.7 instead"), ("acme/payments", "acme/payments:latest instead")] {
        world.ask(&format!("{theirs}/{image}")).await.refuses(&format!("write {ours}/{instead}"));
    }
    world.ask(&format!("{theirs}/external/tool:2")).await.admits("Registry");
    world.ask(&format!("{ours}/acme/payments:1.0")).await.admits("Registry");

    // What is known is asked no more, by whatever tag, and a name's being free is known as well.
    assert_eq!(inside.count(TAGS), 2, "{:?}", inside.log());
    world.ask(&format!("{theirs}/external/tool:2")).await.admits("Registry");
    world.ask(&format!("{theirs}/acme/payments:1.0")).await.refuses(&format!("write {ours}/acme/payments:1.0 instead"));
    assert_eq!(inside.count(TAGS), 2, "{:?}", inside.log());

    // A repository that is made inside counts within two minutes.
    inside.push_image("external/tool", "1", "a fork");
    advance(Duration::from_secs(121)).await;
    world.ask(&format!("{theirs}/external/tool:2")).await.refuses(&format!("write {ours}/external/tool:2 instead"));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_has_not_said_no() {
    let (world, mut inside, outside) = world(shut()).await;
    let theirs = outside.host();
    world.ask(&format!("{theirs}/acme/payments:1.7")).await.refuses("instead");
    inside.close().await;
    advance(Duration::from_secs(700)).await;
    let tool = format!("{theirs}/external/tool:2");
    world.ask(&tool).await.waits(5, "Registry", "has to say whether it holds a repository of this name: its registry is unavailable");
    world.set_knobs(open_for_outages());
    world.ask(&tool).await.admits("OpenUnavailable");
    // What it held the last time it holds still, whatever a policy opens.
    world.set_knobs(open());
    world.ask(&format!("{theirs}/acme/payments:1.7")).await.refuses("instead");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_free_stays_so_in_an_outage_for_as_long_as_the_policy_says() {
    let mut knobs = shut();
    knobs.last_known_good_for = "1h".parse().unwrap();
    let (world, mut inside, outside) = world(knobs).await;
    let tool = format!("{}/external/tool:2", outside.host());
    world.ask(&tool).await.admits("Registry");
    inside.close().await;
    advance(Duration::from_secs(130)).await;
    world.ask(&tool).await.admits("LastKnownGood");
    world.set_knobs(shut());
    world.ask(&tool).await.waits(5, "Registry", "has to say whether it holds a repository of this name: its registry is unavailable");
}

/// Whoever writes a pod chooses the path: that the registry does not show this one, or is slow about it, must open nothing.
#[tokio::test(start_paused = true)]
async fn one_path_that_is_not_shown_opens_by_no_knob() {
    let (world, inside, outside) = world(open()).await;
    let tool = format!("{}/external/tool:2", outside.host());
    let denied = r#"{"errors":[{"code":"DENIED","message":"no"}]}"#.to_owned();
    inside.fault("external/tool/tags", Fault::Answer(403, Vec::new(), denied));
    world.ask(&tool).await.refuses("does not show whether it holds a repository of this name");
    inside.clear_faults();
    inside.fault("external/tool/tags", Fault::Answer(404, Vec::new(), "<html>".to_owned()));
    advance(Duration::from_secs(10)).await;
    world.ask(&tool).await.refuses("answers 404 to a question for tags, and not as a registry does");
    inside.clear_faults();
    inside.fault("external/tool/tags", Fault::Hang);
    advance(Duration::from_secs(10)).await;
    let answer = world.ask_from("team", &tool, PATIENCE).await;
    assert!(!answer.allowed, "{answer:?}");
}

fn policy(world: &World, spec: &Value) {
    let object: QuarantinePolicy = serde_json::from_value(json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": "all-images" }, "spec": spec,
    }))
    .unwrap();
    assert!(world.index.write().apply_policy(&object));
}

/// A policy that asks for nothing else costs no other question.
#[tokio::test(start_paused = true)]
async fn whoever_asks_for_nothing_gets_no_stranger_s_image_either() {
    let (world, inside, outside) = world(shut()).await;
    policy(&world, &json!({ "mode": "Enforce", "require": { "released": "Off" } }));
    world.ask(&format!("{}/acme/payments:1.7", outside.host())).await.refuses(&format!("write {}/acme/payments:1.7", inside.host()));
    world.ask(&format!("{}/external/tool:2", outside.host())).await.admits("NothingRequired");
    assert_eq!(outside.count("/v2/"), 0, "{:?}", outside.log());
    assert_eq!(inside.count("/v2/"), inside.count(TAGS), "{:?}", inside.log());
}

/// What a name says only about where something is kept is no part of it.
#[tokio::test(start_paused = true)]
async fn a_proxy_keeps_a_name_under_its_own_path() {
    let (world, inside, outside) = world(shut()).await;
    mark(&world, RegistrySpec { path_prefix: Some("cache/hub".to_owned()), ..inside.spec() });
    inside.push_image("cache/hub/acme/payments", "1.7", "proxied");
    let theirs = outside.host();
    world.ask(&format!("{theirs}/acme/payments:1.7")).await.refuses(&format!("write {}/cache/hub/acme/payments:1.7", inside.host()));
    world.ask(&format!("{theirs}/external/tool:2")).await.admits("Registry");
}

/// The mirror's answer is what is judged: nodes get that, and not the registry's.
#[tokio::test(start_paused = true)]
async fn what_nodes_draw_through_a_mirror_is_judged_by_the_mirror() {
    let mirror = FakeRegistry::start().await;
    let world = World::new(shut());
    let spec = json!({
        "hosts": ["docker.io"], "plainHTTP": true, "mirror": { "endpoint": mirror.url(), "pathPrefix": "hub" },
    });
    let object = Registry::new("hub", serde_json::from_value(spec).unwrap());
    assert!(world.index.write().apply_registry(&object));
    let digest = mirror.push_image("hub/library/nginx", "1", "as mirrored");
    let answer = world.ask("nginx:1").await;
    answer.admits("Registry");
    assert_eq!(answer.digest, Some(digest.to_string()));
    let asked = mirror.requests();
    assert!(asked.iter().all(|request| request.path.starts_with("/v2/hub/library/nginx/")), "{:?}", mirror.log());
    let as_nodes_ask = [("ns".to_owned(), "docker.io".to_owned())];
    assert!(asked.iter().all(|request| request.query == as_nodes_ask), "{asked:?}");
    world.ask("docker.io/acme/payments:1").await.refuses("not found");
}
