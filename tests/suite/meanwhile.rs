//! What changes while a review waits, or between two reviews, and what an image is called elsewhere.

use std::{convert::Infallible, time::Duration};

use lazaretto::{
    api::{Level, QuarantinePolicy, QuarantineProvider, QuarantineSpec, Registry, RegistrySpec},
    image::Digest,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::{
    registry::{FakeRegistry, Fault, Quirk},
    world::{Answer, Asks, Listed, PATIENCE, World, open, open_for_outages, shut},
};

const SLOW: Duration = Duration::from_millis(4_900);

pub(crate) fn kept_by(registry: &FakeRegistry, provider: QuarantineProvider) -> RegistrySpec {
    RegistrySpec { quarantine: QuarantineSpec { provider, processor: None, release: None }, ..registry.spec() }
}

/// By two hosts, which are one.
pub(crate) fn twice(registry: &FakeRegistry, provider: QuarantineProvider) -> (String, String, RegistrySpec) {
    let (host, alias) = (registry.host(), registry.host().replace("127.0.0.1", "localhost"));
    let spec = RegistrySpec { hosts: vec![host.clone(), alias.clone()], endpoint: Some(registry.url()), ..kept_by(registry, provider) };
    (host, alias, spec)
}

pub(crate) fn put(world: &World, spec: RegistrySpec) {
    let mut object = Registry::new("corp", spec);
    object.status = serde_json::from_value(json!({
        "adoption": { "instant": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:01:00Z" },
    }))
    .unwrap();
    assert!(world.index.write().apply_registry(&object));
}

fn deny(world: &World, digest: &Digest) {
    assert!(world.index.write().apply_policy(&denying(digest)));
}

pub(crate) fn denying(digest: &Digest) -> QuarantinePolicy {
    serde_json::from_value(json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": "all-images" },
        "spec": {
            "mode": "Enforce", "require": { "released": "Deny", "unmanaged": "Allow" },
            "deny": [{ "digest": digest.to_string(), "reason": "a worm" }],
        },
    }))
    .unwrap()
}

/// Before anything is looked for, the labels of a namespace may have to be read; the rules of before that are none after it.
#[tokio::test(start_paused = true)]
async fn what_is_denied_while_labels_are_read_is_refused() {
    let registry = FakeRegistry::start().await;
    let mut world = World::new(shut());
    put(&world, kept_by(&registry, QuarantineProvider::Managed));
    let image = format!("{}/team/app@{}", registry.host(), Digest::of(b"app"));
    world.write(&image, "Released", "Managed");
    let selecting = json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": "selecting" },
        "spec": {
            "mode": "Enforce", "require": { "released": "Deny" }, "match": { "namespaceSelector": { "matchLabels": { "level": "high" } } },
        },
    });
    assert!(world.index.write().apply_policy(&serde_json::from_value(selecting).unwrap()));
    let index = world.index.clone();
    let answer = move |_: http::Request<kube::client::Body>| {
        index.write().apply_policy(&denying(&Digest::of(b"app")));
        let namespace = json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": { "name": "team" } });
        std::future::ready(Ok::<_, Infallible>(http::Response::<kube::client::Body>::new(namespace.to_string().into_bytes().into())))
    };
    world.gate.client = Some(kube::Client::new(tower::service_fn(answer), "lazaretto-system"));
    let answer = world.ask(&image).await;
    assert!(!answer.allowed && answer.message.contains("denied: a worm"), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_denied_while_a_review_waits_is_refused() {
    let registry = FakeRegistry::start().await;
    let world = World::new(shut()).with(&Listed::new(&registry));
    let digest = registry.push_image("team/app", "1", "app");
    registry.quirk("team/app", Quirk::Delay(SLOW / 2));
    let image = format!("{}/team/app:1", registry.host());
    let stop = async {
        sleep(Duration::from_secs(1)).await;
        deny(&world, &digest);
    };
    let (answer, ()) = tokio::join!(world.ask(&image), stop);
    assert!(answer.message.contains("denied: a worm"), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_before_is_none_when_another_keeps_the_flag() {
    let registry = FakeRegistry::start().await;
    let world = World::new(shut());
    put(&world, kept_by(&registry, QuarantineProvider::None));
    registry.push_image("team/app", "1", "app");
    let image = format!("{}/team/app:1", registry.host());
    world.ask(&image).await.admits("Registry");
    put(&world, kept_by(&registry, QuarantineProvider::Managed));
    world.ask(&image).await.refuses("in quarantine since ");

    // Also where the question was on its way.
    put(&world, kept_by(&registry, QuarantineProvider::None));
    registry.push_image("team/slow", "1", "slow");
    registry.quirk("team/slow", Quirk::Delay(SLOW / 2));
    let image = format!("{}/team/slow:1", registry.host());
    let change = async {
        sleep(Duration::from_secs(1)).await;
        put(&world, kept_by(&registry, QuarantineProvider::Managed));
    };
    let (answer, ()) = tokio::join!(world.ask(&image), change);
    assert!(!answer.allowed, "{answer:?}");
    world.ask(&image).await.refuses("in quarantine since ");
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_place_is_none() {
    let (old, new) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let world = World::new(shut());
    let at = |registry: &FakeRegistry| RegistrySpec {
        hosts: vec!["registry.corp".to_owned()],
        endpoint: Some(registry.url()),
        ..kept_by(registry, QuarantineProvider::None)
    };
    put(&world, at(&old));
    let digest = old.push_image("team/app", "1", "app");
    new.push_image("team/app", "1", "app");
    new.quirk("team/app", Quirk::ForbiddenText);
    let images = ["registry.corp/team/app:1".to_owned(), format!("registry.corp/team/app@{digest}")];
    for image in &images {
        world.ask(image).await.admits("Registry");
    }
    put(&world, at(&new));
    for image in &images {
        world.ask(image).await.refuses("the registry blocks it: QUARANTINED");
    }
}

/// The same bytes by another host, in another repository, or inside an index: in an outage nobody can ask, and what they are is known.
#[tokio::test(start_paused = true)]
async fn known_bad_opens_under_no_other_name() {
    let mut registry = FakeRegistry::start().await;
    let (host, alias, spec) = twice(&registry, QuarantineProvider::Managed);
    let world = World::new(open());
    put(&world, spec);
    let digest = registry.push_image("team/app", "1", "bad");
    world.write(&format!("{host}/team/app@{digest}"), "Failed", "Managed");
    registry.close().await;
    for name in [format!("{host}/team/app"), format!("{alias}/team/app"), format!("{host}/other/copy")] {
        world.ask(&format!("{name}@{digest}")).await.refuses("found unfit since ");
    }
    world.ask(&format!("{host}/team/app@{}", Digest::of(b"unknown"))).await.admits("OpenUnavailable");
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_blocked_opens_in_no_outage() {
    let mut registry = FakeRegistry::start().await;
    let (host, alias, spec) = twice(&registry, QuarantineProvider::Managed);
    let world = World::new(open_for_outages());
    put(&world, spec);
    let digest = registry.push_image("team/app", "1", "app");
    registry.quirk("team/app", Quirk::ForbiddenText);
    let images = |host: &str| [":1".to_owned(), format!("@{digest}")].map(|version| format!("{host}/team/app{version}"));
    for image in images(&host) {
        world.ask(&image).await.refuses("the registry blocks it: QUARANTINED");
    }
    sleep(Duration::from_secs(10)).await;
    registry.close().await;
    for image in images(&host).iter().chain(&images(&alias)) {
        world.ask_from("another", image, PATIENCE).await.refuses("the registry blocks it: QUARANTINED");
    }
    world.ask(&format!("{alias}/team/app:2")).await.admits("OpenUnavailable");
}

/// Each host of a Registry may be spoken to by itself, and what one gives out says nothing about what another blocks.
#[tokio::test(start_paused = true)]
async fn what_one_host_blocked_opens_in_no_outage_because_another_gives_it_out() {
    let (mut strict, mut lax) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let world = World::new(open_for_outages());
    let hosts = vec![strict.host(), lax.host()];
    put(&world, RegistrySpec { hosts, ..kept_by(&strict, QuarantineProvider::None) });
    let digest = [&strict, &lax].map(|registry| registry.push_image("team/app", "1", "app"))[1].clone();
    let images = [&strict, &lax].map(|registry| format!("{}/team/app:1", registry.host()));
    strict.quirk("team/app", Quirk::ForbiddenText);
    world.ask(&images[0]).await.refuses("the registry blocks it: QUARANTINED");
    world.ask(&images[1]).await.admits("Registry");
    world.write(&format!("{}/team/app@{digest}", lax.host()), "Released", "None");
    sleep(Duration::from_secs(10)).await;
    strict.close().await;
    lax.close().await;
    world.ask(&images[0]).await.refuses("the registry blocks it: QUARANTINED");
    // Too long ago to be known as good; but nobody blocked it there.
    world.ask(&images[1]).await.admits("OpenUnavailable");
}

/// What was good once and was blocked later was last seen blocked.
#[tokio::test(start_paused = true)]
async fn what_was_good_before_it_was_blocked_opens_in_no_outage() {
    let mut registry = FakeRegistry::start().await;
    let world = World::new(open_for_outages()).with(&Listed::new(&registry).kept_by(QuarantineProvider::Managed));
    let digest = registry.push_image("team/app", "1", "app");
    let image = format!("{}/team/app@{digest}", registry.host());
    // From a time when somebody else kept the flag, so that the registry is asked.
    world.write(&image, "Released", "None");
    registry.quirk("team/app", Quirk::ForbiddenText);
    world.ask(&image).await.refuses("the registry blocks it: QUARANTINED");
    sleep(Duration::from_secs(10)).await;
    registry.close().await;
    world.ask(&image).await.refuses("the registry blocks it: QUARANTINED");
}

/// Its tag may stand for what is denied by now, and what it stood for is held while a review waits.
#[tokio::test(start_paused = true)]
async fn what_becomes_of_what_a_tag_stood_for_says_nothing_about_what_it_stands_for() {
    let registry = FakeRegistry::start().await;
    let world = World::new(shut()).with(&Listed::new(&registry));
    let digest = registry.push_image("team/app", "1", "app");
    let image = format!("{}/team/app:1", registry.host());
    world.ask(&image).await.admits("Registry");
    let mut policy = denying(&Digest::of(b"evil"));
    policy.spec.require.released = Level::Warn;
    assert!(world.index.write().apply_policy(&policy));
    sleep(Duration::from_secs(120)).await;
    registry.quirk("team/app", Quirk::Hang);
    let hold = async {
        sleep(Duration::from_secs(1)).await;
        world.write(&format!("{}/team/app@{digest}", registry.host()), "Quarantined", "Managed");
    };
    let (answer, ()) = tokio::join!(world.ask(&image), hold);
    assert!(!answer.allowed, "{answer:?}");
}

/// Asks for an image whose answer takes a while, in which something happens.
async fn ask_while(world: &World, registry: &FakeRegistry, name: &str, happens: impl FnOnce()) -> Answer {
    registry.push_image(name, "1", name);
    registry.quirk(name, Quirk::Delay(SLOW / 2));
    let image = format!("{}/{name}:1", registry.host());
    let change = async {
        sleep(Duration::from_secs(1)).await;
        happens();
    };
    tokio::join!(world.ask(&image), change).0
}

const CHANGED: &str = "policies or registries changed while this pod was judged";

#[tokio::test(start_paused = true)]
async fn who_is_no_processor_any_more_runs_nothing_that_is_in_quarantine() {
    let registry = FakeRegistry::start().await;
    let world = World::new(shut());
    let processed_by = |account: &str| RegistrySpec {
        quarantine: serde_json::from_value(json!({
            "provider": "Managed", "processor": { "namespace": "team", "serviceAccount": account },
        }))
        .unwrap(),
        ..registry.spec()
    };
    put(&world, processed_by("default"));
    ask_while(&world, &registry, "team/first", || ()).await.admits("Processor");
    let answer = ask_while(&world, &registry, "team/second", || put(&world, processed_by("scanner"))).await;
    assert!(!answer.allowed && answer.message.contains(CHANGED), "{answer:?}");
}

/// What is denied is inside an image that was decided about before anybody looked inside, and nobody had a reason to when the review came.
#[tokio::test(start_paused = true)]
async fn what_is_denied_inside_an_image_meanwhile_is_looked_for() {
    let registry = FakeRegistry::start().await;
    let world = World::new(shut());
    put(&world, kept_by(&registry, QuarantineProvider::Managed));
    let digest = registry.push_image("team/app", "1", "team/app");
    world.write(&format!("{}/team/app@{digest}", registry.host()), "Released", "Managed");
    let answer = ask_while(&world, &registry, "team/app", || deny(&world, &Digest::of(b"inside"))).await;
    answer.waits(5, "Deadline", "what is inside this one was not read yet");
    // Nothing is written here, and what was seen inside counts all the same.
    world.ask(&format!("{}/team/app:1", registry.host())).await.admits("Registry");
}

#[tokio::test(start_paused = true)]
async fn what_has_to_be_shown_otherwise_by_now_is_asked_again() {
    let registry = FakeRegistry::start().await;
    let world = World::new(shut());
    let with = |access: serde_json::Value| RegistrySpec {
        access: serde_json::from_value(access).unwrap(),
        ..kept_by(&registry, QuarantineProvider::None)
    };
    put(&world, with(json!([])));
    let anonymous = json!([{ "paths": ["**"], "anonymous": true }]);
    let answer = ask_while(&world, &registry, "team/app", || put(&world, with(anonymous))).await;
    assert!(!answer.allowed && answer.message.contains(CHANGED), "{answer:?}");
}

/// What becomes known to be bad while something else is waited for wins, whatever the time by whoever's clock.
#[tokio::test(start_paused = true)]
async fn what_is_found_bad_while_a_review_waits_opens_in_no_outage() {
    let registry = FakeRegistry::start().await;
    let world = World::new(open()).with(&Listed::new(&registry));
    let image = format!("{}/team/app@{}", registry.host(), Digest::of(b"app"));
    registry.quirk("*", Quirk::Hang);
    let change = async {
        sleep(Duration::from_secs(1)).await;
        // Of last January.
        world.write(&image, "Quarantined", "Managed");
    };
    let (answer, ()) = tokio::join!(world.ask(&image), change);
    answer.refuses("in quarantine since ");
}

/// A registry that hides the tags of what is in quarantine shows them from the release on: what was answered before is no answer after it.
#[tokio::test(start_paused = true)]
async fn a_tag_that_was_hidden_is_seen_at_once_when_its_release_is_heard_of() {
    let registry = FakeRegistry::start().await;
    let world = World::new(shut());
    put(&world, kept_by(&registry, QuarantineProvider::AzureContainerRegistry));
    let (image, other) = (format!("{}/team/app:1", registry.host()), format!("{}/team/other:1", registry.host()));
    for image in [&image, &other] {
        world.ask(image).await.refuses("was not found, or is in quarantine and hidden");
    }
    let digest = registry.push_image("team/app", "1", "app");
    registry.push_image("team/other", "1", "other");
    let asked = registry.requests().len();
    world.ask(&image).await.refuses("was not found, or is in quarantine and hidden");
    assert_eq!(registry.requests().len(), asked, "what was answered a moment ago is remembered");
    world.write(&format!("{}/team/app@{digest}", registry.host()), "Released", "AzureContainerRegistry");
    let answer = world.ask(&image).await;
    assert_eq!(answer.digest.as_deref(), Some(&*digest.to_string()), "{answer:?}");
    world.ask(&other).await.refuses("was not found, or is in quarantine and hidden");
}

/// A registry that has hung for a while, with three images in quarantine, of which the first was asked for.
async fn hanging() -> (FakeRegistry, World, [String; 3]) {
    let registry = FakeRegistry::start().await;
    let world = World::new(open_for_outages()).with(&Listed::new(&registry).kept_by(QuarantineProvider::Managed));
    let images = [0, 1, 2].map(|number| {
        registry.push_image(&format!("team/app-{number}"), "1", &number.to_string());
        format!("{}/team/app-{number}:1", registry.host())
    });
    registry.quirk("*", Quirk::Hang);
    world.ask(&images[0]).await.admits("OpenUnavailable");
    // Long enough for the regular looks to be five seconds apart.
    sleep(Duration::from_secs(21)).await;
    (registry, world, images)
}

/// Nobody has noticed yet that the registry is well; whoever asks first is answered by it all the same, and not out of the outage, however long ago
/// the last look was.
#[tokio::test(start_paused = true)]
async fn after_an_outage_the_first_review_is_answered_by_the_registry() {
    for since in [0, 100, 200, 300, 400] {
        let (registry, world, images) = hanging().await;
        let known = world.ask(&images[1]).await;
        known.admits("OpenUnavailable");
        assert!(known.took <= Duration::from_millis(800), "whoever asks in an outage waits for one short look: {:?}", known.took);
        sleep(Duration::from_millis(since)).await;
        registry.clear_quirks();
        // As far away as many are.
        registry.quirk("*", Quirk::Delay(Duration::from_millis(200)));
        world.ask(&images[2]).await.refuses("in quarantine since");
    }
}

/// To ask to be left alone is an answer: nothing opens any more, and nobody asks before its time.
#[tokio::test(start_paused = true)]
async fn a_registry_that_asks_to_be_left_alone_is_out_no_more() {
    let (registry, world, images) = hanging().await;
    registry.clear_quirks();
    registry.quirk("*", Quirk::ThrottledFor(Duration::from_secs(30)));
    let (began, asked) = (Instant::now(), registry.requests().len());
    for image in &images {
        let answer = world.ask(image).await;
        assert!(!answer.allowed && answer.basis == "Deadline" && answer.message.contains("the registry asks to wait "), "{answer:?}");
    }
    sleep(Duration::from_secs(29).saturating_sub(began.elapsed())).await;
    assert_eq!(registry.requests().len(), asked + 1, "{:?}", registry.log());
    sleep(Duration::from_secs(2)).await;
    registry.clear_quirks();
    world.ask(&images[2]).await.refuses("in quarantine since");
}

/// So is the first one about a tag that was good before: it may stand for another image by now.
#[tokio::test(start_paused = true)]
async fn after_an_outage_the_first_review_of_a_known_tag_is_answered_by_the_registry() {
    let registry = FakeRegistry::start().await;
    let world = World::new(open()).with(&Listed::new(&registry).kept_by(QuarantineProvider::Managed));
    let [app, other] = ["app", "other"].map(|name| format!("{}/team/{name}:1", registry.host()));
    let good = registry.push_image("team/app", "1", "app");
    registry.push_image("team/other", "1", "other");
    world.write(&format!("{}/team/app@{good}", registry.host()), "Released", "Managed");
    world.ask(&app).await.admits("Registry");
    registry.quirk("*", Quirk::Hang);
    world.ask(&other).await.admits("OpenUnavailable");
    sleep(Duration::from_secs(21)).await;
    let mut slowest = Duration::ZERO;
    for number in 0..20 {
        let answer = world.ask(&app).await;
        answer.admits("OpenUnavailable");
        if number > 0 {
            slowest = slowest.max(answer.took);
        }
    }
    assert!(slowest <= Duration::from_millis(1), "while looks go on nobody waits for one: {slowest:?}");
    sleep(Duration::from_secs(2)).await;
    registry.push_image("team/app", "1", "another");
    registry.clear_quirks();
    world.ask(&app).await.refuses("in quarantine since");
}

/// What it answered to others while it was ill says nothing once it is well.
#[tokio::test(start_paused = true)]
async fn what_a_registry_answered_while_it_was_ill_is_forgotten_when_it_is_well() {
    let registry = FakeRegistry::start().await;
    let world = World::new(open()).with(&Listed::new(&registry));
    let [lost, slow] = ["lost", "slow"].map(|name| format!("{}/team/{name}:1", registry.host()));
    registry.push_image("team/lost", "1", "lost");
    registry.quirk("*", Quirk::Hang);
    registry.fault("/team/lost/", Fault::Answer(404, Vec::new(), String::new()));
    let (slow, lost_meanwhile) = tokio::join!(world.ask(&slow), async {
        // Just before it is found out.
        sleep(Duration::from_millis(4_900)).await;
        world.ask(&lost).await
    });
    slow.admits("OpenUnavailable");
    lost_meanwhile.refuses("the image was not found");
    registry.clear_quirks();
    registry.clear_faults();
    world.ask(&format!("{}/team/none:1", registry.host())).await.refuses("the image was not found");
    world.ask(&lost).await.admits("Registry");
}

/// What another replica finds out wakes whoever waits here: nobody has to wait for an answer of their own.
#[tokio::test(start_paused = true)]
async fn what_is_written_by_another_replica_answers_whoever_waits() {
    for (state, admitted) in [("Released", true), ("Quarantined", false)] {
        let registry = FakeRegistry::start().await;
        let world = World::new(shut()).with(&Listed::new(&registry).kept_by(QuarantineProvider::Managed));
        let image = format!("{}/team/app@{}", registry.host(), Digest::of(b"app"));
        registry.quirk("*", Quirk::Hang);
        let change = async {
            sleep(Duration::from_secs(1)).await;
            world.write_of("other", &image, state, "Managed", Some(&Digest::of(b"config").to_string()));
        };
        let (answer, ()) = tokio::join!(world.ask(&image), change);
        assert_eq!((answer.allowed, answer.took.as_millis() / 10), (admitted, 100), "{answer:?}");
    }
}

/// The images of a pod are asked for at once, and each once.
#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_slowest_image_and_asks_for_none_twice() {
    let registry = FakeRegistry::start().await;
    registry.quirk("*", Quirk::Delay(Duration::from_millis(100)));
    let world = World::new(shut()).with(&Listed::new(&registry).within(1_000, 100));
    let images: Vec<String> = (0..8).map(|number| format!("{}/team/app-{number}:1", registry.host())).collect();
    for number in 0..8 {
        registry.push_image(&format!("team/app-{number}"), "1", &number.to_string());
    }
    let alone = world.ask(&images[0]).await;
    alone.admits("Registry");
    let asked = registry.requests().len();
    let beside: Vec<&str> = images[1..].iter().chain(&images[1..]).map(String::as_str).collect();
    let answer = world.ask_as(&Asks { beside: &beside[1..], ..Asks::default() }, beside[0], PATIENCE).await;
    answer.admits("Registry");
    assert!(answer.took <= alone.took + Duration::from_millis(20), "{:?}, and one alone {:?}", answer.took, alone.took);
    assert_eq!(registry.requests().len(), asked + 7 * asked, "{:?}", registry.log());
}

/// The look that was on its way asked before the recovery, and hangs.
#[tokio::test(start_paused = true)]
async fn who_asks_while_a_look_of_before_the_recovery_hangs_is_answered_by_the_registry() {
    let (registry, world, [_, first, second]) = hanging().await;
    let later = async {
        // It has knocked twice.
        sleep(Duration::from_millis(400)).await;
        registry.clear_quirks();
        world.ask(&second).await
    };
    let (during, after) = tokio::join!(world.ask(&first), later);
    after.refuses("in quarantine since");
    assert!(!during.allowed || during.basis == "OpenUnavailable", "{during:?}");
}
