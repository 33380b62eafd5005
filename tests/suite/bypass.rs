//! Ways past the gate: other names of the same image, answers of before, and evidence that was made up.

use std::{convert::Infallible, time::Duration};

use lazaretto::{
    api::{ImageStatus, Level, Limits, QuarantineProvider, RegistrySpec},
    image::Digest,
};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    meanwhile::{denying, kept_by, put, twice},
    support::{
        registry::{FakeRegistry, Quirk, image},
        world::{Listed, PATIENCE, World, open, open_for_outages, shut},
    },
};

/// With the knobs as they come.
fn deny(world: &World, digest: &Digest, released: Level) {
    let mut policy = denying(digest);
    policy.spec.require.released = released;
    assert!(world.index.write().apply_policy(&policy));
}

fn write(world: &World, name: &str, subject: &str, status: &serde_json::Value) {
    let mut object = json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "ImageStatus", "metadata": { "name": name }, "spec": { "subject": subject },
        "status": { "provider": "Managed", "since": "2026-01-01T00:00:00Z", "by": "jane", "reason": "r", "observedAt": jiff::Timestamp::now() },
    });
    let state = &status["state"];
    object["status"]["history"] = json!([{ "number": 1, "at": "2026-01-01T00:00:00Z", "state": state, "by": "jane", "reason": "r" }]);
    object["status"].as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    let object: ImageStatus = serde_json::from_value(object).unwrap();
    assert!(world.index.write().apply_image(&object, jiff::Timestamp::now()));
}

/// What the tag `team/app:1` stands for at this host is bad.
fn fail_tagged(world: &World, host: &str) {
    let tags = json!([{ "tag": "1", "at": jiff::Timestamp::now() }]);
    write(world, "host", &format!("{host}/team/app@{}", Digest::of(b"app")), &json!({ "state": "Failed", "tags": tags }));
}

#[tokio::test(start_paused = true)]
async fn what_was_blocked_by_digest_opens_by_no_tag() {
    let mut registry = FakeRegistry::start().await;
    let world = World::new(open_for_outages()).with(&Listed::new(&registry));
    let digest = registry.push_image("team/app", "1", "app");
    let (tagged, pinned) = (format!("{}/team/app:1", registry.host()), format!("{}/team/app@{digest}", registry.host()));
    world.ask(&tagged).await.admits("Registry");
    sleep(Duration::from_secs(30)).await;
    registry.quirk("team/app", Quirk::ForbiddenText);
    world.ask(&pinned).await.refuses("the registry blocks it: QUARANTINED");
    sleep(Duration::from_secs(30)).await;
    registry.close().await;
    for image in [&pinned, &tagged] {
        world.ask(image).await.refuses("the registry blocks it: QUARANTINED");
    }
}

#[tokio::test(start_paused = true)]
async fn known_bad_by_another_name_opens_by_no_tag() {
    let mut registry = FakeRegistry::start().await;
    let (host, alias, spec) = twice(&registry, QuarantineProvider::None);
    let world = World::new(open());
    put(&world, spec);
    let digest = registry.push_image("team/app", "1", "bad");
    world.ask(&format!("{alias}/team/app:1")).await.admits("Registry");
    sleep(Duration::from_secs(30)).await;
    world.write(&format!("{host}/team/app@{digest}"), "Failed", "Managed");
    registry.close().await;
    for version in [format!("@{digest}"), ":1".to_owned()] {
        world.ask(&format!("{alias}/team/app{version}")).await.refuses("found unfit since ");
    }
}

/// What was good when it was last seen at one host, and is known to be bad at the other since, is bad.
#[tokio::test(start_paused = true)]
async fn what_was_good_at_one_host_opens_in_no_outage_once_it_is_bad_at_the_other() {
    let mut registry = FakeRegistry::start().await;
    let (host, alias, spec) = twice(&registry, QuarantineProvider::Managed);
    let world = World::new(open());
    put(&world, spec);
    let digest = registry.push_image("team/app", "1", "app");
    // From a time when somebody else kept the flag, so that it has to be asked about anew.
    write(&world, "alias", &format!("{alias}/team/app@{digest}"), &json!({ "state": "Released", "provider": "None" }));
    registry.close().await;
    let pinned = format!("{alias}/team/app@{digest}");
    world.ask(&pinned).await.admits("LastKnownGood");
    write(&world, "host", &format!("{host}/team/app@{digest}"), &json!({ "state": "Failed" }));
    world.ask(&pinned).await.refuses("found unfit since ");
}

#[tokio::test(start_paused = true)]
async fn a_tag_that_stands_for_what_is_bad_at_one_host_opens_in_no_outage_by_the_other() {
    let mut registry = FakeRegistry::start().await;
    let (host, alias, spec) = twice(&registry, QuarantineProvider::None);
    let world = World::new(open());
    put(&world, spec);
    registry.close().await;
    world.ask(&format!("{alias}/team/app:1")).await.admits("OpenUnavailable");
    fail_tagged(&world, &host);
    world.ask(&format!("{alias}/team/app:1")).await.refuses("found unfit since ");
    world.ask(&format!("{alias}/team/app:2")).await.admits("OpenUnavailable");
}

#[tokio::test(start_paused = true)]
async fn a_tag_that_is_seen_to_be_bad_at_one_host_while_a_review_waits_opens_in_no_outage_by_the_other() {
    let registry = FakeRegistry::start().await;
    let (host, alias, spec) = twice(&registry, QuarantineProvider::None);
    let world = World::new(open());
    put(&world, spec);
    registry.quirk("*", Quirk::Hang);
    let change = async {
        sleep(Duration::from_secs(1)).await;
        fail_tagged(&world, &host);
    };
    let image = format!("{alias}/team/app:1");
    let (answer, ()) = tokio::join!(world.ask(&image), change);
    answer.refuses("found unfit since ");
}

/// A name that is released opens in an outage whatever becomes of its namesakes: anybody can have one of those looked at for the first time.
#[tokio::test(start_paused = true)]
async fn what_is_released_opens_in_an_outage_though_its_namesake_is_new() {
    let mut registry = FakeRegistry::start().await;
    let (host, alias, spec) = twice(&registry, QuarantineProvider::Managed);
    let world = World::new(open());
    put(&world, spec);
    let digest = registry.push_image("team/app", "1", "app");
    let tags = json!([{ "tag": "1", "at": jiff::Timestamp::now() }]);
    write(&world, "host", &format!("{host}/team/app@{digest}"), &json!({ "state": "Released", "tags": tags }));
    world.ask(&format!("{host}/team/app:1")).await.admits("Registry");
    write(&world, "alias", &format!("{alias}/team/app@{digest}"), &json!({ "state": "Quarantined" }));
    sleep(Duration::from_secs(120)).await;
    registry.close().await;
    world.ask(&format!("{host}/team/app:1")).await.admits("LastKnownGood");
    world.ask(&format!("{alias}/team/app:1")).await.refuses("in quarantine since ");
}

#[tokio::test(start_paused = true)]
async fn what_is_found_bad_by_another_name_while_a_review_waits_opens_in_no_outage() {
    for known in [false, true] {
        let registry = FakeRegistry::start().await;
        let (host, alias, spec) = twice(&registry, QuarantineProvider::Managed);
        let world = World::new(open());
        put(&world, spec);
        let digest = Digest::of(b"app");
        registry.quirk("*", Quirk::Hang);
        let image = format!("{alias}/team/app@{digest}");
        if known {
            write(&world, "alias", &image, &json!({ "state": "Released", "provider": "None" }));
        }
        let change = async {
            sleep(Duration::from_secs(1)).await;
            write(&world, "host", &format!("{host}/team/app@{digest}"), &json!({ "state": "Failed" }));
        };
        let (answer, ()) = tokio::join!(world.ask(&image), change);
        answer.refuses("found unfit since ");
    }
}

/// What is inside an index that is known to be bad says nothing about what is inside one of its images.
#[tokio::test(start_paused = true)]
async fn the_inside_of_an_index_is_not_that_of_its_images() {
    for level in [Level::Off, Level::Warn] {
        let registry = FakeRegistry::start().await;
        let world = World::new(shut());
        put(&world, kept_by(&registry, QuarantineProvider::Managed));
        let child = registry.push_image("team/app", "1", "child");
        // The configuration of the image, say.
        deny(&world, &Digest::of(b"inside"), level);
        let index = format!("{}/team/app@{}", registry.host(), Digest::of(b"index"));
        write(&world, "an-image", &index, &json!({ "state": "Quarantined", "children": [format!("linux/amd64={child}")] }));
        registry.quirk("team/app", Quirk::Hang);
        let answer = world.ask(&format!("{}/team/app@{child}", registry.host())).await;
        assert!(!answer.allowed, "{level:?}: {answer:?}");
    }
}

/// The one image hangs, and not the registry: its author can bring that about.
#[tokio::test(start_paused = true)]
async fn what_a_tag_stood_for_has_no_grace_while_what_it_stands_for_is_slow() {
    for level in [Level::Off, Level::Warn, Level::Deny] {
        let registry = FakeRegistry::start().await;
        let world = World::new(shut());
        put(&world, kept_by(&registry, QuarantineProvider::Managed));
        let evil = Digest::of(&image("evil"));
        let good = registry.push_image("team/app", "1", "app");
        let pinned = format!("{}/team/app@{good}", registry.host());
        write(&world, "an-image", &pinned, &json!({ "state": "Released", "config": Digest::of(b"configuration").to_string() }));
        deny(&world, &evil, level);
        let tagged = format!("{}/team/app:1", registry.host());
        assert!(world.ask(&tagged).await.allowed);
        assert_eq!(registry.push_image("team/app", "1", "evil"), evil);
        sleep(Duration::from_secs(60)).await;
        registry.quirk("team/app", Quirk::Hang);
        let answer = world.ask(&tagged).await;
        assert!(!answer.allowed, "{level:?}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_in_an_outage_is_no_answer_after_it() {
    for by_digest in [false, true] {
        let registry = FakeRegistry::start().await;
        let world = World::new(open_for_outages()).with(&Listed::new(&registry).kept_by(QuarantineProvider::Managed));
        let digest = registry.push_image("team/app", "1", "a");
        let version = if by_digest { format!("@{digest}") } else { ":1".to_owned() };
        let image = format!("{}/team/app{version}", registry.host());
        registry.quirk("*", Quirk::Hang);
        world.ask(&image).await.admits("OpenUnavailable");
        sleep(Duration::from_secs(23)).await;
        world.ask(&image).await.admits("OpenUnavailable");
        registry.clear_quirks();
        // As long as what the last short look found counts.
        sleep(Duration::from_millis(300)).await;
        world.ask(&image).await.refuses("in quarantine since");
    }
}

/// Whoever reaches the port of the webhook may write any namespace into a review.
#[tokio::test(start_paused = true)]
async fn namespaces_that_are_made_up_are_no_evidence() {
    let registry = FakeRegistry::start().await;
    let mut world = World::new(open_for_outages());
    let limits = Limits { requests_per_second: 1_000, concurrent_requests: 64, ..Limits::default() };
    put(&world, RegistrySpec { limits, ..kept_by(&registry, QuarantineProvider::Managed) });
    let host = registry.host();
    for number in 0..6 {
        registry.push_image(&format!("honest/app-{number}"), "1", "honest");
        let answer = world.ask_from(&format!("honest-{number}"), &format!("{host}/honest/app-{number}:1"), PATIENCE).await;
        answer.refuses("in quarantine since");
    }
    // From here on no namespace is made where a review names one.
    let nobody = |_: http::Request<kube::client::Body>| async {
        Ok::<_, Infallible>(http::Response::builder().status(404).body(kube::client::Body::empty()).unwrap())
    };
    world.gate.client = Some(kube::Client::new(tower::service_fn(nobody), "lazaretto-system"));
    for number in 0..300 {
        let (repository, tag) = (format!("evil/app-{}", number % 20), number.to_string());
        registry.push_image(&repository, &tag, &tag);
        world.ask_from(&format!("fake-{number}"), &format!("{host}/{repository}:{tag}"), PATIENCE).await.refuses("in quarantine since");
    }
    for number in 0..20 {
        registry.quirk(&*format!("evil/app-{number}"), Quirk::Hang);
    }
    registry.push_image("evil/new", "1", "new");
    registry.quirk("evil/new", Quirk::Hang);
    sleep(Duration::from_secs(30)).await;
    let answer = world.ask_from("fake-new", &format!("{host}/evil/new:1"), PATIENCE).await;
    assert!(!answer.allowed && answer.message.contains("the registry is well"), "{answer:?}");
    world.ask_from("honest-1", &format!("{host}/honest/app-0:1"), PATIENCE).await.refuses("in quarantine since");
}
