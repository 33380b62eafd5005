//! Debts and revocations on the real API server: told in public, and told on what people wrote.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use lazaretto::api::Registry as RegistryObject;
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::lab::install::World;
use crate::lab::registry::{Options, Registry};
use crate::lab::replica::kill;
use crate::lab::wait::{MOMENT, eventually};
use crate::story::{image_status, policy, register, release};

/// A Deployment of one container.
pub async fn deploy(lab: &Lab, namespace: &str, name: &str, image: &str, replicas: u32) {
    let object = json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": { "containers": [{ "name": "c", "image": image }] } },
        },
    });
    let api: Api<Deployment> = Api::namespaced(lab.client().await, namespace);
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

/// Waits for the pods of a Deployment, and has them run this image as their node would.
pub async fn started(lab: &Lab, namespace: &str, name: &str, count: usize, image_id: &str) {
    let api: Api<Pod> = Api::namespaced(lab.client().await, namespace);
    let pods = eventually(2 * MOMENT, "the pods are admitted", async || {
        let pods = api.list(&ListParams::default().labels(&format!("app={name}"))).await.map_err(|error| error.to_string())?;
        if pods.items.len() == count { Ok(pods.items) } else { Err(format!("{} pods", pods.items.len())) }
    })
    .await;
    for pod in pods {
        let container = json!({ "name": "c", "image": "x", "imageID": image_id, "ready": true, "restartCount": 0 });
        let status = json!({ "status": { "phase": "Running", "containerStatuses": [container] } });
        api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }
}

/// The Events of a namespace about one object, as kind/name, type, reason and message.
async fn events(lab: &Lab, namespace: &str, about: &str) -> Vec<String> {
    let path = "jsonpath={range .items[*]}{.involvedObject.kind}/{.involvedObject.name}|{.type} {.reason} {.message}\n{end}";
    let all = lab.kubectl(&["get", "events", "-n", namespace, "-o", path]).await.ok();
    all.stdout.lines().filter_map(|line| line.strip_prefix(&format!("{about}|"))).map(str::to_owned).collect()
}

async fn until_event(lab: &Lab, namespace: &str, about: &str, wanted: &str) {
    eventually(2 * MOMENT, &format!("{about}: an Event {wanted:?}"), async || {
        let events = events(lab, namespace, about).await;
        if events.iter().any(|event| event.contains(wanted)) { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
}

async fn until_owed(lab: &Lab, registry: &str, containers: u32) {
    let api: Api<RegistryObject> = Api::all(lab.client().await);
    eventually(2 * MOMENT, &format!("{registry}: {containers} owe"), async || {
        let debts = api.get(registry).await?.status.unwrap_or_default().debts.unwrap_or_default();
        anyhow::ensure!(debts.total == containers, "{debts:?}");
        Ok(())
    })
    .await;
}

/// The audit lines of debts in a replica's log, as change and number of containers.
fn lines(log: &str, namespace: &str) -> Vec<(String, u64)> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = lines.filter(|line| line["event"] == "debt" && line["namespace"] == namespace);
    ours.map(|line| (line["change"].as_str().unwrap_or_default().to_owned(), line["containers"].as_u64().unwrap_or_default())).collect()
}

#[tokio::test]
async fn what_is_let_in_unjudged_is_settled_in_public_even_if_every_replica_died() {
    let mut world = World::fresh(&[]).await;
    let mut registry = Registry::start(&world.lab, Options::default()).await;
    let name = register(&world.lab, &registry, "Managed", |spec| spec["limits"] = json!({ "timeoutSeconds": 2 })).await;
    let (namespace, lab) = (world.lab.namespace().await, &world.lab);
    policy(lab, &namespace, |spec| spec["whenUnknown"] = json!({ "registryUnavailable": "Allow" })).await;
    let bad = registry.push("team/app", "bad", "bad").await;
    let bad = registry.pinned("team/app", &bad);
    registry.stop().await;
    deploy(lab, &namespace, "web", &bad, 3).await;
    started(lab, &namespace, "web", 3, &bad).await;
    until_owed(lab, &name, 3).await;
    let kubeconfig = lab.kubeconfig_as("jane", &["system:masters"]);
    let listed = lab.lazaretto(&kubeconfig, &["debts"]).await;
    assert_eq!(listed.status.code(), Some(3), "{listed}");
    assert_eq!(
        listed.stdout.lines().filter(|line| line.contains(&bad) && line.contains(&format!("{namespace}/web-"))).count(),
        3,
        "{listed}"
    );

    kill(&mut world.replicas).await;
    registry.start_again().await;
    world.replicas = world.installation.replicas(&world.lab, 2).await;
    let lab = &world.lab;
    until_event(lab, &namespace, "Deployment/web", "Warning DebtBreached 3 containers").await;
    until_owed(lab, &name, 0).await;
    let told: Vec<_> = world.replicas.iter().flat_map(|replica| lines(&replica.logs(), &namespace)).collect();
    assert_eq!(told, [("Owing".to_owned(), 3), ("Breached".to_owned(), 3)]);
    let mut breached = 0.0;
    for replica in &world.replicas {
        breached += replica.metric("lazaretto_debt_changes_total", &[("change", "Breached")]).await;
    }
    assert!((breached - 3.0).abs() < f64::EPSILON, "{breached}");
    let listed = lab.lazaretto(&kubeconfig, &["debts", "--output", "json"]).await.ok();
    assert_eq!(serde_json::from_str::<Value>(&listed.stdout).unwrap(), json!({ "policies": [], "registries": [] }));

    // And the other end: what was let in and turns out to be good.
    let good = registry.push("team/app", "good", "good").await;
    let pinned = registry.pinned("team/app", &good);
    registry.stop().await;
    deploy(lab, &namespace, "api", &pinned, 2).await;
    started(lab, &namespace, "api", 2, &pinned).await;
    until_owed(lab, &name, 2).await;
    registry.start_again().await;
    until_event(lab, &namespace, "Deployment/api", "Warning DebtBreached 2 containers").await;
    release(lab, &good, "clean").await;
    until_owed(lab, &name, 0).await;
}

#[tokio::test]
async fn a_debt_about_a_registry_whose_images_are_released_is_settled() {
    let world = World::shared().await;
    let lab = &world.lab;
    let mut registry = Registry::start(lab, Options::default()).await;
    let limits = |spec: &mut Value| spec["limits"] = json!({ "timeoutSeconds": 2 });
    let name = register(lab, &registry, "None", limits).await;
    let namespace = lab.namespace().await;
    policy(lab, &namespace, |spec| spec["whenUnknown"] = json!({ "registryUnavailable": "Allow" })).await;
    let allow = json!({ "spec": { "require": { "unmanaged": "Allow" } } }).to_string();
    lab.kubectl(&["patch", "quarantinepolicy", &namespace, "--type=merge", "--patch", &allow]).await.ok();
    let digest = registry.push("team/app", "1", "settled").await;
    let image = registry.pinned("team/app", &digest);
    registry.stop().await;
    deploy(lab, &namespace, "web", &image, 2).await;
    started(lab, &namespace, "web", 2, &image).await;
    until_owed(lab, &name, 2).await;
    registry.start_again().await;
    until_event(lab, &namespace, "Deployment/web", "Normal DebtSettled 2 containers").await;
    until_owed(lab, &name, 0).await;
    let told: Vec<_> = world.replicas.iter().flat_map(|replica| lines(&replica.logs(), &namespace)).collect();
    assert_eq!(told, [("Owing".to_owned(), 2), ("Settled".to_owned(), 2)]);
    let mut settled = 0.0;
    for replica in &world.replicas {
        settled += replica.metric("lazaretto_debt_changes_total", &[("change", "Settled")]).await;
    }
    assert!(settled >= 2.0, "{settled}");
}

#[tokio::test]
async fn a_revocation_is_told_on_the_workload_where_the_policy_wants_it() {
    let world = World::shared().await;
    let lab = &world.lab;
    let registry = Registry::start(lab, Options::default()).await;
    register(lab, &registry, "Managed", |_| {}).await;
    let (told, untold) = (lab.namespace().await, lab.namespace().await);
    policy(lab, &told, |_| {}).await;
    policy(lab, &untold, |spec| spec["whenRevoked"] = json!("Ignore")).await;
    let digest = registry.push("team/app", "1", "revoked-while-it-runs").await;
    let image = registry.pinned("team/app", &digest);
    crate::story::run(lab, &told, "first", &image).await.refused();
    release(lab, &digest, "clean").await;
    for namespace in [&told, &untold] {
        deploy(lab, namespace, "web", &image, 2).await;
        started(lab, namespace, "web", 2, &image).await;
    }
    // What a node reports is seen some moments later; what is revoked before that was never known to run.
    let revoked = async || {
        let mut sum = 0.0;
        for replica in &world.replicas {
            sum += replica.metric("lazaretto_debt_changes_total", &[("change", "Revoked")]).await;
        }
        sum
    };
    let before = revoked().await;
    let name = image_status(lab, &digest).await.unwrap().name_any();
    let decision = json!({ "spec": { "quarantine": { "state": "Failed", "by": "admin", "reason": "a worm" } } });
    let api: Api<lazaretto::api::ImageStatus> = Api::all(lab.client().await);
    api.patch(&name, &PatchParams::default(), &Patch::Merge(&decision)).await.unwrap();
    until_event(lab, &told, "Deployment/web", "Warning ImageRevoked 2 containers").await;
    eventually(MOMENT, "all four are counted", async || {
        let now = revoked().await - before;
        if now >= 4.0 { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!(events(lab, &untold, "Deployment/web").await.iter().filter(|event| event.contains("ImageRevoked")).count(), 0);
    let pods: Api<Pod> = Api::namespaced(lab.client().await, &told);
    assert_eq!(pods.list(&ListParams::default().labels("app=web")).await.unwrap().items.len(), 2, "they run on");
}

/// What a tag last stood for is written down, so an outage together with the death of every replica opens nothing that was known to be bad.
#[tokio::test]
async fn a_tag_that_was_known_to_be_bad_stays_refused_in_an_outage_though_every_replica_died() {
    let mut world = World::fresh(&[]).await;
    let mut registry = Registry::start(&world.lab, Options::default()).await;
    register(&world.lab, &registry, "Managed", |spec| spec["limits"] = json!({ "timeoutSeconds": 2 })).await;
    let namespace = world.lab.namespace().await;
    policy(&world.lab, &namespace, |spec| spec["whenUnknown"] = json!({ "registryUnavailable": "Allow" })).await;
    let digest = registry.push("team/app", "1", "known-bad").await;
    let (known, unknown) = (registry.tagged("team/app", "1"), registry.tagged("team/app", "2"));
    crate::story::run(&world.lab, &namespace, "before", &known).await.refused();
    eventually(MOMENT, "the tag is written down", async || {
        let status = image_status(&world.lab, &digest).await.and_then(|object| object.status);
        let tags: Vec<_> = status.iter().flat_map(|status| &status.tags).map(|seen| seen.tag.clone()).collect();
        if tags == ["1"] { Ok(()) } else { Err(format!("{tags:?}")) }
    })
    .await;
    registry.stop().await;
    kill(&mut world.replicas).await;
    world.replicas = world.installation.replicas(&world.lab, 2).await;
    let lab = &world.lab;
    crate::story::run(lab, &namespace, "unknown", &unknown).await.ok();
    let refused = crate::story::run(lab, &namespace, "known", &known).await.refused();
    assert!(refused.stderr.contains("in quarantine since "), "{refused}");
}
