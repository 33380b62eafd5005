//! What the leader does besides: debts, collection, conditions and Events, and how little it writes.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use lazaretto::api::{ImageStatus, QuarantinePolicy, Registry as RegistryObject, State, Waiver};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::adoption::running;
use crate::healing::{ANY, apply_policy};
use crate::lab::Lab;
use crate::lab::image::{Image, digest};
use crate::lab::install::{NAMESPACE, World};
use crate::lab::registry::{OTHER_PASSWORD, Options, PASSWORD, Registry, USER};
use crate::lab::wait::{MOMENT, eventually, until};
use crate::story::{image_status, policy, register, release, run};
use crate::transitions::{leader, quarantined, succeeded};

/// The debts of a policy: how many, and the listed ones.
async fn until_debts(lab: &Lab, name: &str, expected: &[(String, String)]) {
    let api: Api<QuarantinePolicy> = Api::all(lab.client().await);
    // A settled debt is found at the next look at the registry.
    eventually(2 * MOMENT, &format!("debts of {name}"), async || {
        let debts = api.get(name).await?.status.unwrap_or_default().debts;
        let listed: Vec<_> = debts.items.iter().map(|debt| (debt.pod.clone(), debt.image.clone())).collect();
        anyhow::ensure!(listed == expected && debts.total as usize == expected.len(), "{debts:?}");
        Ok(())
    })
    .await;
}

async fn until_metric(world: &World, name: &str, expected: f64) {
    eventually(2 * MOMENT, &format!("{name} is {expected}"), async || {
        let client = world.lab.client().await;
        let now = world.replicas[leader(&client, &world.replicas).await].metric(name, &[]).await;
        if (now - expected).abs() < f64::EPSILON { Ok(()) } else { Err(now) }
    })
    .await;
}

#[tokio::test]
async fn what_runs_unjudged_is_a_debt_until_it_is_judged() {
    let world = World::fresh(&[]).await;
    let lab = &world.lab;
    let mut registry = Registry::start(lab, Options::default()).await;
    register(lab, &registry, "Managed", |_| {}).await;
    let namespace = lab.namespace().await;

    // Admitted while no policy was there, and its registry is down when the policy comes.
    let unjudged = registry.push("team/app", "unjudged", "unjudged").await;
    let pinned = registry.pinned("team/app", &unjudged);
    running(lab, &namespace, "unjudged", &registry.tagged("team/app", "unjudged"), &pinned).await;
    registry.stop().await;
    policy(lab, &namespace, |_| {}).await;
    until_debts(lab, &namespace, &[(format!("{namespace}/unjudged"), pinned.clone())]).await;
    until_metric(&world, "lazaretto_debts", 1.0).await;
    until_metric(&world, "lazaretto_running_refused", 0.0).await;
    let shown = lab.kubectl(&["get", "quarantinepolicies", &namespace, "--no-headers"]).await.ok();
    assert_eq!(shown.stdout.split_whitespace().collect::<Vec<_>>()[..4], [&namespace, "Enforce", "True", "1"]);

    // Judged as soon as that is possible: it runs, and ought not to.
    let back = Instant::now();
    registry.start_again().await;
    until_debts(lab, &namespace, &[]).await;
    eprintln!("operator: the debt was settled {:?} after the registry came back", back.elapsed());
    until_metric(&world, "lazaretto_debts", 0.0).await;
    until_metric(&world, "lazaretto_running_refused", 1.0).await;
    assert_eq!(image_status(lab, &unjudged).await.unwrap().status.unwrap().state, State::Quarantined);
    release(lab, &unjudged, "a test").await;
    until_metric(&world, "lazaretto_running_refused", 0.0).await;

    // A node may report an image of an index, or an image's configuration: it is what its index or manifest was judged to be.
    let (index, children) = registry.push_index("team/app", "many", "many").await;
    let plain = registry.push("team/app", "plain", "plain").await;
    let config = digest(&Image::new("plain").config);
    for (name, of) in [("child", &index), ("config", &plain)] {
        let image = registry.pinned("team/app", of);
        run(lab, &namespace, name, &image).await.refused();
        release(lab, of, "a test").await;
    }
    let before = states(lab).await;
    running(lab, &namespace, "child", &registry.tagged("team/app", "many"), &registry.pinned("team/app", &children[1])).await;
    running(lab, &namespace, "config", &registry.tagged("team/app", "plain"), &config).await;
    // Seen, and in order: when their images are held, both run on what is refused.
    for of in [&index, &plain] {
        hold(lab, of).await;
    }
    until_metric(&world, "lazaretto_running_refused", 2.0).await;
    until_debts(lab, &namespace, &[]).await;
    assert_eq!(states(lab).await.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "nothing else was looked up");
}

async fn states(lab: &Lab) -> BTreeMap<String, State> {
    let all = Api::<ImageStatus>::all(lab.client().await).list(&ListParams::default()).await.unwrap();
    all.into_iter().map(|object| (object.spec.subject.clone(), object.status.map(|status| status.state).unwrap_or_default())).collect()
}

/// Decides that an image is to be held, and waits until it is.
async fn hold(lab: &Lab, digest: &str) {
    let name = image_status(lab, digest).await.unwrap().name_any();
    let decision = json!({ "spec": { "quarantine": { "state": "Quarantined", "by": "admin", "reason": "CVE-2026-0001" } } });
    let api: Api<ImageStatus> = Api::all(lab.client().await);
    api.patch(&name, &PatchParams::default(), &Patch::Merge(&decision)).await.unwrap();
    let held = |object: Option<&ImageStatus>| {
        object.and_then(|object| object.status.as_ref()).is_some_and(|status| status.state == State::Quarantined)
    };
    until(api, &name, "held", held).await;
}

#[tokio::test]
async fn what_nobody_uses_is_collected_but_no_decision() {
    let mut world = World::fresh(&[("imageStatuses.collectAfter", "1s")]).await;
    let namespace = world.lab.namespace().await;
    let (unmanaged, managed) =
        (Registry::start(&world.lab, Options::default()).await, Registry::start(&world.lab, Options::default()).await);
    register(&world.lab, &unmanaged, "None", |_| {}).await;
    register(&world.lab, &managed, "Managed", |_| {}).await;
    let lab = &world.lab;
    let selector = json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } } });
    apply_policy(lab, &namespace, json!({ "match": selector, "require": { "unmanaged": "Allow" } })).await;
    let mut digests = BTreeMap::new();
    for name in ["held", "released"] {
        let digest = managed.push("team/app", name, name).await;
        eventually(MOMENT, "the policy is in force", async || {
            let output =
                lab.kubectl(&["run", "probe", "--dry-run=server", "--image", &managed.pinned("team/app", &digest), "-n", &namespace]).await;
            if output.stderr.contains("in quarantine since") { Ok(()) } else { Err(output) }
        })
        .await;
        run(lab, &namespace, name, &managed.pinned("team/app", &digest)).await.refused();
        digests.insert(name, digest);
    }
    for name in ["unused", "used", "decided"] {
        let digest = unmanaged.push("team/app", name, name).await;
        run(lab, &namespace, name, &unmanaged.pinned("team/app", &digest)).await.ok();
        digests.insert(name, digest);
    }
    release(lab, &digests["released"], "a test").await;
    let name = image_status(lab, &digests["decided"]).await.unwrap().name_any();
    let decision = json!({ "spec": { "quarantine": { "state": "Failed", "by": "admin", "reason": "never" } } });
    Api::<ImageStatus>::all(lab.client().await).patch(&name, &PatchParams::default(), &Patch::Merge(&decision)).await.unwrap();
    lab.kubectl(&["delete", "pod", "unused", "decided", "-n", &namespace, "--timeout=30s"]).await.ok();

    // Each leader looks when it begins to lead: the first finds and marks, the next one collects.
    let client = world.lab.client().await;
    for turn in ["marked", "collected"] {
        let at = leader(&client, &world.replicas).await;
        let old = world.replicas.remove(at);
        old.signal("TERM").await;
        succeeded(&client, old.pod()).await;
        old.exited(MOMENT).await;
        let new = world.installation.replica(&world.lab).await;
        new.wait_ready().await;
        world.replicas.push(new);
        eventually(MOMENT, turn, async || {
            let object = image_status(&world.lab, &digests["unused"]).await;
            match (turn, &object) {
                ("marked", Some(object)) if object.status.as_ref().is_some_and(|status| status.unused_since.is_some()) => Ok(()),
                ("collected", None) => Ok(()),
                _ => Err(format!("{object:?}")),
            }
        })
        .await;
    }
    let left = states(&world.lab).await;
    for (name, state) in
        [("used", State::Unmanaged), ("decided", State::Unmanaged), ("held", State::Quarantined), ("released", State::Released)]
    {
        let (_, found) = left.iter().find(|(subject, _)| subject.ends_with(&digests[name])).unwrap_or_else(|| panic!("{name}: {left:?}"));
        assert_eq!(*found, state, "{name}");
    }
    assert_eq!(left.len(), 4, "{left:?}");
    let used = image_status(&world.lab, &digests["used"]).await.unwrap();
    assert_eq!(used.status.unwrap().unused_since, None);
}

fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let found = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((&found.status, &found.reason, &found.message))
}

/// Waits until a Registry's `Reachable` and `Authorized` are as they should be, and returns the object.
async fn until_conditions(lab: &Lab, name: &str, reachable: &str, authorized: &str) -> RegistryObject {
    let api: Api<RegistryObject> = Api::all(lab.client().await);
    eventually(4 * MOMENT, &format!("{name}: reachable {reachable}, authorized {authorized}"), async || {
        let object = api.get(name).await?;
        let conditions = object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        let is = |type_, status| condition(&conditions, type_).is_some_and(|(now, ..)| now == status);
        anyhow::ensure!(is("Reachable", reachable) && is("Authorized", authorized), "{conditions:?}");
        Ok(object)
    })
    .await
}

/// The Events about an object, as type, reason and note.
async fn events(lab: &Lab, name: &str) -> Vec<String> {
    let path = "jsonpath={range .items[*]}{.involvedObject.name}|{.type} {.reason} {.message}\n{end}";
    let all = lab.kubectl(&["get", "events", "-n", "default", "-o", path]).await.ok();
    all.stdout.lines().filter_map(|line| line.strip_prefix(&format!("{name}|"))).map(str::to_owned).collect()
}

async fn until_event(lab: &Lab, name: &str, wanted: &str) {
    eventually(MOMENT, &format!("{name}: an Event {wanted:?}"), async || {
        let events = events(lab, name).await;
        if events.iter().any(|event| event.contains(wanted)) { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_registrys_conditions_tell_what_is_wrong_with_it() {
    let world = World::shared().await;
    let lab = &world.lab;
    let mut registry = Registry::start(lab, Options { password: true, ..Options::default() }).await;
    let name = format!("r{}", registry.port());
    let secret = async |password: &str| {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": NAMESPACE },
            "type": "kubernetes.io/basic-auth", "stringData": { "username": USER, "password": password },
        });
        lab.kubectl_input(&["apply", "-f", "-"], &secret.to_string()).await.ok();
    };
    secret(OTHER_PASSWORD).await;
    let object = json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": name },
        "spec": { "hosts": [registry.host()], "plainHTTP": true, "credentials": { "secretName": name }, "pollInterval": "10s",
                  "quarantine": { "provider": "Managed" } },
    });
    lab.kubectl_input(&["apply", "-f", "-"], &object.to_string()).await.ok();
    let status = until_conditions(lab, &name, "True", "False").await.status.unwrap();
    let (_, reason, told) = condition(&status.conditions, "Authorized").unwrap();
    assert!(reason == "NotAccepted" && !told.is_empty(), "{told:?}");
    assert!(!told.contains(OTHER_PASSWORD), "{told:?}");
    assert_eq!(status.last_complete_pass, None);
    until_event(lab, &name, &format!("Warning PassFailed {told}")).await;

    let begun = Instant::now();
    secret(PASSWORD).await;
    let first = until_conditions(lab, &name, "True", "True").await.status.unwrap().last_complete_pass;
    eprintln!("operator: a password that was put right is in use after {:?}", begun.elapsed());
    let api: Api<RegistryObject> = Api::all(lab.client().await);
    let moved = |object: Option<&RegistryObject>| {
        object.and_then(|object| object.status.as_ref()?.last_complete_pass).is_some_and(|pass| Some(pass) > first)
    };
    until(api.clone(), &name, "the next pass", moved).await;

    registry.stop().await;
    let status = until_conditions(lab, &name, "False", "Unknown").await.status.unwrap();
    let (_, reason, told) = condition(&status.conditions, "Reachable").unwrap();
    assert!(reason == "Outage" && !told.is_empty(), "{told:?}");
    until_event(lab, &name, "Warning PassFailed").await;
    let stood = status.last_complete_pass;
    registry.start_again().await;
    let again = until_conditions(lab, &name, "True", "True").await.status.unwrap();
    assert!(again.last_complete_pass > stood, "{:?} after {stood:?}", again.last_complete_pass);
    let (_, reason, told) = condition(&again.conditions, "Reachable").unwrap();
    assert_eq!((reason, told), ("Answers", ""));
    assert_eq!(condition(&again.conditions, "PollingBehind").map(|(status, ..)| status), Some("False"));
}

#[tokio::test]
async fn a_revocation_is_a_warning() {
    let world = World::shared().await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let registry = Registry::start(lab, Options::default()).await;
    register(lab, &registry, "Managed", |_| {}).await;
    policy(lab, &namespace, |_| {}).await;
    let digest = registry.push("team/app", "1", "revoked").await;
    let image = registry.tagged("team/app", "1");
    run(lab, &namespace, "first", &image).await.refused();
    release(lab, &digest, "clean").await;
    run(lab, &namespace, "second", &image).await.ok();
    hold(lab, &digest).await;
    let refused = run(lab, &namespace, "third", &image).await.refused();
    assert!(refused.stderr.contains("by admin (CVE-2026-0001)"), "{refused}");
    let name = image_status(lab, &digest).await.unwrap().name_any();
    until_event(lab, &name, &format!("Warning Revoked {}: Quarantined by admin: CVE-2026-0001", registry.pinned("team/app", &digest)))
        .await;
    let mut types: Vec<_> = events(lab, &name).await.iter().map(|event| event.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    types.sort();
    assert_eq!(types, ["Normal Available", "Normal Quarantined", "Normal Released", "Warning Revoked"]);
}

#[tokio::test]
async fn a_waiver_is_active_until_it_expires() {
    let world = World::shared().await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let registry = Registry::start(lab, Options::default()).await;
    register(lab, &registry, "Managed", |_| {}).await;
    policy(lab, &namespace, |_| {}).await;
    let digest = registry.push("team/app", "1", "waived").await;
    let image = registry.tagged("team/app", "1");
    run(lab, &namespace, "before", &image).await.refused();
    let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(20);
    let waiver = json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Waiver", "metadata": { "name": namespace },
        "spec": { "requirements": ["Released"], "digests": [digest], "namespaces": [namespace], "reason": "a test", "by": "admin",
                  "expires": format!("{expires:.0}") },
    });
    lab.kubectl_input(&["apply", "-f", "-"], &waiver.to_string()).await.ok();
    let api: Api<Waiver> = Api::all(lab.client().await);
    let active = |object: &Waiver| {
        let conditions = object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        condition(&conditions, "Active").map(|(status, reason, message)| [status, reason, message].map(str::to_owned))
    };
    let is = |status: &'static str| move |object: Option<&Waiver>| object.and_then(active).is_some_and(|[now, ..]| now == status);
    until(api.clone(), &namespace, "it is active", is("True")).await;
    run(lab, &namespace, "during", &image).await.ok();
    eventually(2 * MOMENT, "it is over", async || {
        let refused = lab.kubectl(&["run", "after", "--image", &image, "-n", &namespace, "--dry-run=server"]).await;
        if !refused.status.success() && refused.stderr.contains("in quarantine since") { Ok(()) } else { Err(refused) }
    })
    .await;
    assert!(jiff::Timestamp::now() >= expires - jiff::SignedDuration::from_secs(1), "not before its time");
    // Its status is told at the next look of the leader, within a minute.
    let told = eventually(3 * MOMENT, "its status tells", async || {
        let object = api.get(&namespace).await?;
        let told = active(&object);
        anyhow::ensure!(told.as_ref().is_some_and(|[status, ..]| status == "False"), "{told:?}");
        Ok(told.unwrap())
    })
    .await;
    let at = format!("{expires:.0}");
    assert_eq!(told, ["False".to_owned(), "NotInForce".to_owned(), format!("it expired at {at}")]);
}

/// What the program's account wrote, by the API server's own audit log: verb and resource. Leases and Events are not in it.
fn written(lab: &Lab, since: jiff::Timestamp) -> BTreeMap<String, usize> {
    let user = format!("system:serviceaccount:{NAMESPACE}:lazaretto");
    let mut counts = BTreeMap::new();
    let later = |event: &Value| event["requestReceivedTimestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap() >= since;
    for event in lab.control_plane().audit().iter().filter(|event| event["user"]["username"] == user.as_str() && later(event)) {
        let object = &event["objectRef"];
        let sub = object["subresource"].as_str().map(|sub| format!("/{sub}")).unwrap_or_default();
        *counts.entry(format!("{} {}{sub}", event["verb"].as_str().unwrap(), object["resource"].as_str().unwrap())).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn when_nothing_happens_next_to_nothing_is_written() {
    const IMAGES: usize = 50;
    const MEASURED: Duration = Duration::from_secs(60);
    let world = World::fresh(&[]).await;
    let lab = &world.lab;
    let client = lab.client().await;
    let namespace = lab.namespace().await;
    let registry = Registry::start(lab, Options::default()).await;
    register(lab, &registry, "Managed", |spec| spec["pollInterval"] = "20s".into()).await;
    policy(lab, &namespace, |_| {}).await;
    let images = quarantined(lab, &registry, &namespace, IMAGES).await;
    for (digest, _) in &images[..5] {
        release(lab, digest, "a test").await;
    }
    for (at, (digest, _)) in images[..5].iter().enumerate() {
        let pinned = registry.pinned("team/app", digest);
        running(lab, &namespace, &format!("running-{at}"), &pinned, &pinned).await;
    }
    run(lab, &namespace, "of-no-registry", ANY).await.refused();
    // A policy that audits and would refuse something that runs has that in its status, once.
    let observed = lab.namespace().await;
    let pinned = registry.pinned("team/app", &images[10].0);
    running(lab, &observed, "observed", &pinned, &pinned).await;
    let matching = json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": observed } } });
    apply_policy(lab, &observed, json!({ "mode": "Audit", "match": matching })).await;
    let policies: Api<QuarantinePolicy> = Api::all(client.clone());
    until(policies, &observed, "what would be refused is written", |object: Option<&QuarantinePolicy>| {
        let found = object.and_then(|object| object.status.as_ref()?.would_refuse.as_ref());
        found.is_some_and(|found| found.pods == 1)
    })
    .await;

    // It is quiet when all audit lines are out and a whole interval brought nothing but the Registry's status.
    let begun = eventually(4 * MOMENT, "it is quiet", async || {
        let all = Api::<ImageStatus>::all(client.clone()).list(&ListParams::default()).await?;
        let out = |object: &ImageStatus| {
            object.status.as_ref().is_some_and(|status| status.history.last().is_some_and(|last| last.number == status.emitted_through))
        };
        anyhow::ensure!(all.iter().all(out), "transitions wait");
        let now = jiff::Timestamp::now();
        let written = written(lab, now - jiff::SignedDuration::from_secs(10));
        anyhow::ensure!(written.keys().all(|what| what == "patch registries/status"), "{written:?}");
        Ok(now)
    })
    .await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let count = async || {
        let all = lab
            .kubectl(&[
                "get",
                "events.events.k8s.io",
                "-A",
                "-o",
                "jsonpath={range .items[*]}{.reportingController} {.metadata.resourceVersion}\n{end}",
            ])
            .await
            .ok();
        all.stdout.lines().filter(|line| line.starts_with("lazaretto ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let events = count().await;
    let mut renewals = 0;
    let mut version = leases.get("lazaretto").await.unwrap().resource_version();
    eventually(MEASURED + MOMENT, "a minute has passed", async || {
        let now = leases.get("lazaretto").await.unwrap().resource_version();
        if now != version {
            renewals += 1;
            version = now;
        }
        let passed = jiff::Timestamp::now().duration_since(begun);
        if passed >= MEASURED.try_into().unwrap() { Ok(()) } else { Err(passed) }
    })
    .await;
    let written = written(lab, begun);
    eprintln!("operator: in {MEASURED:?} with {IMAGES} images and a pass each 20 s: {written:?}, and {renewals} renewals of the Lease");
    assert_eq!(written.keys().collect::<Vec<_>>(), ["patch registries/status"]);
    assert!((2..=4).contains(&written["patch registries/status"]), "one a pass");
    assert!((10..=13).contains(&renewals), "one each five seconds: {renewals}");
    assert_eq!(count().await, events, "no Event");
}
