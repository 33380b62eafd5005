//! The story that the program is for: an image is pushed, and no pod starts from it until it is released.

use std::time::Duration;

use kube::{Api, api::Patch, api::PatchParams};
use lazaretto::api::{ImageStatus, QuarantinePolicy, Registry as RegistryObject};
use serde_json::{Value, json};

use crate::lab::{
    Lab,
    install::World,
    process::Output,
    registry::{Options, Registry},
    wait::{MOMENT, eventually, until},
};

/// A policy that speaks of one namespace only.
pub async fn policy(lab: &Lab, namespace: &str, change: impl FnOnce(&mut Value)) {
    let mut spec = json!({ "match": { "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } } } });
    change(&mut spec);
    let policies: Api<QuarantinePolicy> = Api::all(lab.client().await);
    let object =
        json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": namespace }, "spec": spec });
    let applied = policies.patch(namespace, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    let generation = applied.metadata.generation;
    until(policies, namespace, "the policy is in force", move |object: Option<&QuarantinePolicy>| {
        object.and_then(|object| object.status.as_ref()).is_some_and(|status| status.observed_generation == generation)
    })
    .await;
    in_force(lab, namespace).await;
}

/// Waits until the API server calls us for pods of the namespace: it takes up a webhook configuration some moments after it is written.
async fn in_force(lab: &Lab, namespace: &str) {
    eventually(MOMENT, "the API server asks us", async || {
        let output = lab.kubectl(&["run", "probe", "--image=not-listed.invalid/probe:1", "--dry-run=server", "-n", namespace]).await;
        if output.stderr.contains("lazaretto.dev") || output.stderr.contains("Warning: lazaretto") {
            Ok(())
        } else {
            Err(output.to_string())
        }
    })
    .await;
}

/// A Registry object for a registry of the laboratory, ready for use: for Managed, adopted.
pub async fn register(lab: &Lab, registry: &Registry, provider: &str, change: impl FnOnce(&mut Value)) -> String {
    let name = format!("r{}", registry.port());
    let mut spec = json!({ "hosts": [registry.host()], "plainHTTP": true, "quarantine": { "provider": provider }, "pollInterval": "10s" });
    change(&mut spec);
    let registries: Api<RegistryObject> = Api::all(lab.client().await);
    let object = json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": name }, "spec": spec });
    registries.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    let managed = provider == "Managed";
    until(registries, &name, "a pass over the registry", move |object: Option<&RegistryObject>| {
        let status = object.and_then(|object| object.status.as_ref());
        status.is_some_and(|status| {
            status.last_complete_pass.is_some()
                && (!managed || status.adoption.as_ref().is_some_and(|adoption| adoption.completed.is_some()))
        })
    })
    .await;
    name
}

/// `kubectl run`, without waiting for the pod.
pub async fn run(lab: &Lab, namespace: &str, name: &str, image: &str) -> Output {
    lab.kubectl(&["run", name, "--image", image, "-n", namespace]).await
}

/// The same until it is admitted: each replica hears of what changed by a watch of its own.
pub async fn admitted(lab: &Lab, namespace: &str, name: &str, image: &str) {
    eventually(MOMENT, "it is admitted", async || {
        let output = run(lab, namespace, name, image).await;
        if output.status.success() { Ok(()) } else { Err(output) }
    })
    .await;
}

/// The one ImageStatus of a digest, or of a subject.
pub async fn image_status(lab: &Lab, digest: &str) -> Option<ImageStatus> {
    let all = Api::<ImageStatus>::all(lab.client().await).list(&kube::api::ListParams::default()).await.unwrap();
    let mut found = all.into_iter().filter(|object| object.spec.subject.ends_with(digest));
    let first = found.next();
    assert!(found.next().is_none(), "two objects for {digest}");
    first
}

/// Decides as the administrator, and waits until it is written.
pub async fn release(lab: &Lab, digest: &str, reason: &str) {
    let api = Api::<ImageStatus>::all(lab.client().await);
    let name = image_status(lab, digest).await.expect("the image is known").metadata.name.unwrap();
    let decision = json!({ "spec": { "quarantine": { "state": "Released", "by": "admin", "reason": reason } } });
    api.patch(&name, &PatchParams::default(), &Patch::Merge(&decision)).await.unwrap();
    until(api, &name, "released", |object: Option<&ImageStatus>| {
        object.and_then(|object| object.status.as_ref()).is_some_and(|status| status.state == lazaretto::api::State::Released)
    })
    .await;
}

#[tokio::test]
async fn a_pod_does_not_start_until_its_image_is_released() {
    let world = World::shared().await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let registry = Registry::start(lab, Options::default()).await;
    register(lab, &registry, "Managed", |_| {}).await;
    policy(lab, &namespace, |_| {}).await;

    let digest = registry.push("team/app", "1.0", "one").await;
    let image = registry.tagged("team/app", "1.0");
    let refused = run(lab, &namespace, "p", &image).await.refused();
    for part in [
        "admission webhook \"enforce",
        "denied the request",
        &format!("spec.containers[p].image {image} ({digest})"),
        "in quarantine since",
        &format!("lazaretto quarantine release {} --reason TEXT", registry.pinned("team/app", &digest)),
        &format!("[policy {namespace}]"),
    ] {
        assert!(refused.stderr.contains(part), "{part:?} is not in {refused}");
    }

    release(lab, &digest, "scanned by hand").await;
    run(lab, &namespace, "p", &image).await.ok();

    let object = image_status(lab, &digest).await.unwrap();
    let status = object.status.unwrap();
    let states: Vec<_> =
        status.history.iter().map(|transition| (transition.number, transition.state.as_str(), transition.by.as_str())).collect();
    assert_eq!(states, [(1, "Quarantined", "lazaretto"), (2, "Released", "admin")]);

    // The Events, the audit lines of the leader, and the annotations in the API server's own audit log.
    let name = object.metadata.name.unwrap();
    eventually(MOMENT, "the Events", async || {
        let events = lab
            .kubectl(&["get", "events", "-n", "default", "-o", "jsonpath={range .items[*]}{.involvedObject.name} {.reason}\n{end}"])
            .await
            .ok();
        let mut reasons: Vec<_> = events.stdout.lines().filter_map(|line| line.strip_prefix(&format!("{name} "))).collect();
        reasons.sort_unstable();
        if reasons == ["Available", "Quarantined", "Released"] { Ok(()) } else { Err(format!("{reasons:?}")) }
    })
    .await;
    let lines = world.replicas.iter().flat_map(|replica| replica.logs().lines().map(str::to_owned).collect::<Vec<_>>());
    let lines: Vec<Value> =
        lines.filter_map(|line| serde_json::from_str(&line).ok()).filter(|line: &Value| line["digest"] == digest.as_str()).collect();
    let transitions: Vec<_> = lines
        .iter()
        .filter(|line| line["event"] == "transition")
        .map(|line| (line["from"].as_str().unwrap(), line["to"].as_str().unwrap()))
        .collect();
    assert_eq!(transitions, [("", "Quarantined"), ("Quarantined", "Released")]);
    let admissions: Vec<_> = lines.iter().filter(|line| line["event"] == "admission").collect();
    assert!(admissions.iter().any(|line| line["verdict"] == "Refuse" && line["policies"] == namespace.as_str()), "{admissions:?}");
    eventually(MOMENT, "the annotations", async || {
        let events = lab.audit_of(&namespace, "p");
        // Entries of one kind are numbered, so the annotation's name varies.
        let said = |word: &str| {
            let annotations = events.iter().filter_map(|event| event["annotations"].as_object()).flatten();
            annotations
                .into_iter()
                .any(|(name, value)| name.starts_with("enforce") && name.ends_with(".lazaretto.dev/verdict") && value == word)
        };
        if said("Refuse") && said("Admit") { Ok(()) } else { Err(serde_json::to_string(&events).unwrap()) }
    })
    .await;
}

#[tokio::test]
async fn a_replica_set_is_refused_and_comes_by_itself() {
    let world = World::shared().await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let registry = Registry::start(lab, Options::default()).await;
    register(lab, &registry, "Managed", |_| {}).await;
    policy(lab, &namespace, |_| {}).await;
    let digest = registry.push("team/app", "2.0", "two").await;
    let image = registry.tagged("team/app", "2.0");
    run(lab, &namespace, "first", &image).await.refused();
    // The entry for templates has 1 s and fails open: on a busy machine the API server may go on without us once or twice.
    eventually(MOMENT, "the Deployment's author is warned", async || {
        let applied = lab.kubectl(&["create", "deployment", "app", "--image", &image, "--dry-run=server", "-n", &namespace]).await.ok();
        let warned = applied.stderr.contains("Warning: lazaretto: spec.containers[") && applied.stderr.contains("in quarantine since");
        if warned { Ok(()) } else { Err(applied.to_string()) }
    })
    .await;
    lab.kubectl(&["create", "deployment", "app", "--image", &image, "-n", &namespace]).await.ok();
    eventually(MOMENT, "the ReplicaSet is refused", async || {
        let events =
            lab.kubectl(&["get", "events", "-n", &namespace, "-o", "jsonpath={range .items[*]}{.reason} {.message}\n{end}"]).await.ok();
        if events.stdout.contains("FailedCreate") && events.stdout.contains("in quarantine since") { Ok(()) } else { Err(events.stdout) }
    })
    .await;
    release(lab, &digest, "scanned").await;
    eventually(Duration::from_secs(90), "the Deployment's pod", async || {
        let pods = lab.kubectl(&["get", "pods", "-n", &namespace, "-l", "app=app", "-o", "name"]).await.ok();
        if pods.stdout.starts_with("pod/app-") { Ok(()) } else { Err(pods.stdout) }
    })
    .await;
}
