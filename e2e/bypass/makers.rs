//! Whoever makes the pod, and however soon: a controller, an administrator, a namespace that is a moment old.

use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ServiceAccount};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{IN_QUARANTINE, Refusal, Scene, container, insist, pod, pod_with, read};
use crate::lab::wait::{MOMENT, eventually};

/// A namespace is judged by its labels before the watches have brought them.
#[tokio::test]
async fn a_pod_in_a_namespace_that_was_just_made_is_judged() {
    const NAMESPACES: usize = 50;
    let scene = Scene::bare().await;
    let label = format!("bypass-{}", scene.namespace);
    let selector = json!({ "matchLabels": { &label: "yes" } });
    scene.apply_policy(&scene.namespace, json!({ "match": { "namespaceSelector": selector } })).await;
    // In force is what a first namespace says; with it comes the image's state.
    let (image, digest) = scene.push("app", "1").await;
    let first = scene.lab.namespace_with(json!({ &label: "yes" })).await;
    let create = async |namespace: &str| {
        let pods: Api<Pod> = Api::namespaced(scene.client.clone(), namespace);
        let pod = read(&pod("p", &image));
        insist(async || pods.create(&PostParams::default(), &pod).await).await
    };
    eventually(MOMENT, "the policy is in force", async || {
        let pods: Api<Pod> = Api::namespaced(scene.client.clone(), &first);
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        pods.create(&dry_run, &read(&pod("p", &image))).await.err().map(drop).ok_or("not yet")
    })
    .await;
    for replica in scene.replicas {
        let mut review = scene.review(&pod("p", &image));
        review["request"]["namespace"] = json!(first);
        eventually(MOMENT, "every replica knows the policy", async || {
            let answer = scene.ask(replica, "/validate/enforce", &review).await;
            if answer["status"]["message"].as_str().unwrap_or_default().contains(IN_QUARANTINE) { Ok(()) } else { Err(answer) }
        })
        .await;
    }
    let answers = stream::iter(0..NAMESPACES).map(|at| {
        let (client, label, create) = (scene.client.clone(), &label, &create);
        async move {
            let name = format!("new-{at}-{label}").replace("bypass-", "");
            fresh_namespace(&client, &name, label).await;
            create(&name).await
        }
    });
    let answers: Vec<_> = answers.buffer_unordered(5).collect().await;
    for answer in answers {
        Refusal::of(answer).says(&[&format!("spec.containers[c].image {image} ({digest}): {IN_QUARANTINE}")]);
    }
}

/// A namespace, and at once the ServiceAccount without which the API server itself refuses its pods.
async fn fresh_namespace(client: &Client, name: &str, label: &str) {
    let namespace = json!({ "metadata": { "name": name, "labels": { label: "yes" } } });
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &read(&namespace)).await.unwrap();
    let account: ServiceAccount = read(&json!({ "metadata": { "name": "default" } }));
    match Api::namespaced(client.clone(), name).create(&PostParams::default(), &account).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        other => drop(other.unwrap()),
    }
}

#[tokio::test]
async fn a_service_account_with_every_right_has_its_pods_judged() {
    let scene = Scene::new().await;
    let namespace = &scene.namespace;
    let (image, digest) = scene.push("app", "1").await;
    scene.lab.kubectl(&["create", "serviceaccount", "root", "-n", namespace]).await.ok();
    let account = format!("--serviceaccount={namespace}:root");
    scene.lab.kubectl(&["create", "clusterrolebinding", namespace, "--clusterrole=cluster-admin", &account]).await.ok();
    let pods: Api<Pod> = Api::namespaced(scene.lab.client_of(namespace, "root").await, namespace);
    let spec = json!({ "serviceAccountName": "root", "containers": [container("c", &image)] });
    let pod = read(&pod_with("p", &spec));
    let create = async || insist(async || pods.create(&PostParams::default(), &pod).await).await;
    let rights = async || match create().await {
        Err(kube::Error::Api(status)) if status.message.contains("cannot create resource") => Err(status.message),
        other => Ok(other),
    };
    let answer = eventually(MOMENT, "RBAC knows the binding", rights).await;
    Refusal::of(answer).says(&[&format!("spec.containers[c].image {image} ({digest}): {IN_QUARANTINE}")]);
    // The masters of the cluster, whom RBAC does not even ask.
    let masters: Api<Pod> = Api::namespaced(scene.lab.client_as("root", &["system:masters"]).await, namespace);
    Refusal::of(insist(async || masters.create(&PostParams::default(), &pod).await).await).says(&[IN_QUARANTINE]);
}

#[tokio::test]
async fn what_a_controller_makes_is_judged() {
    let scene = Scene::new().await;
    let (image, digest) = scene.push("app", "1").await;
    scene.node().await; // a DaemonSet makes pods for nodes
    let namespace = scene.namespace.as_str();
    let labels = json!({ "app": "a" });
    let template = |restart: &str| {
        json!({
            "metadata": { "labels": labels },
            "spec": { "restartPolicy": restart, "containers": [container("c", &image)], "tolerations": [{ "operator": "Exists" }] },
        })
    };
    let (always, job) = (template("Always"), json!({ "template": template("Never"), "backoffLimit": 6 }));
    let selector = json!({ "matchLabels": labels });
    let workloads = [
        ("batch/v1", "CronJob", json!({ "schedule": "* * * * *", "jobTemplate": { "spec": job } })),
        ("batch/v1", "Job", job.clone()),
        ("apps/v1", "ReplicaSet", json!({ "replicas": 1, "selector": selector, "template": always })),
        ("apps/v1", "StatefulSet", json!({ "replicas": 1, "serviceName": "s", "selector": selector, "template": always })),
        ("apps/v1", "DaemonSet", json!({ "selector": selector, "template": always })),
        ("v1", "ReplicationController", json!({ "replicas": 1, "selector": labels, "template": always })),
    ];
    for (version, kind, spec) in workloads {
        let object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": kind.to_lowercase() }, "spec": spec });
        scene.lab.kubectl_input(&["create", "-n", namespace, "-f", "-"], &object.to_string()).await.ok();
    }
    // By hand, from a CronJob that waits for its time.
    scene.lab.kubectl(&["create", "job", "by-hand", "--from=cronjob/cronjob", "-n", namespace]).await.ok();

    let sentence = format!("spec.containers[c].image {image} ({digest}): {IN_QUARANTINE}");
    let events: Api<Event> = Api::namespaced(scene.client.clone(), namespace);
    let refused = async |kind: &str, name: &str, deadline: Duration| {
        let fields = format!("reason=FailedCreate,involvedObject.kind={kind}");
        eventually(deadline, &format!("the {kind} {name}'s pod is refused"), async || {
            let found = events.list(&ListParams::default().fields(&fields)).await.map_err(|error| error.to_string())?;
            let of_this = found.items.iter().filter(|event| event.involved_object.name.as_deref().unwrap_or_default().starts_with(name));
            let messages: Vec<_> = of_this.filter_map(|event| event.message.clone()).collect();
            if messages.iter().any(|message| message.contains(&sentence)) { Ok(()) } else { Err(format!("{messages:?}")) }
        })
        .await;
    };
    for (kind, name) in [
        ("Job", "job"),
        ("Job", "by-hand"),
        ("ReplicaSet", "replicaset"),
        ("StatefulSet", "statefulset"),
        ("DaemonSet", "daemonset"),
        ("ReplicationController", "replicationcontroller"),
    ] {
        refused(kind, name, 2 * MOMENT).await;
    }
    // The CronJob's own comes with the next minute.
    refused("Job", "cronjob-", Duration::from_secs(60) + 2 * MOMENT).await;
    let pods = scene.pods().list(&ListParams::default()).await.unwrap();
    assert!(pods.items.is_empty(), "{pods:?}");
}

/// Only the one ServiceAccount that the Registry names may run what is in quarantine there.
#[tokio::test]
async fn the_quarantine_processor_is_one_account_in_one_namespace() {
    let (scene, other) = (Scene::new().await, Scene::new().await);
    let host = format!("{}.corp", scene.namespace);
    let processor = json!({ "namespace": scene.namespace, "serviceAccount": "scanner" });
    scene.register(&host, |spec| spec["quarantine"]["processor"] = processor).await;
    for scene in [&scene, &other] {
        scene.lab.kubectl(&["create", "serviceaccount", "scanner", "-n", &scene.namespace]).await.ok();
    }
    let (_, digest) = scene.push("app", "1").await;
    let image = format!("{host}/{}:1", scene.repository("app"));
    let run_as =
        |name: &str, account: &str, containers: Value| pod_with(name, &json!({ "serviceAccountName": account, "containers": containers }));
    let one = json!([container("c", &image)]);
    let sentence = format!("spec.containers[c].image {image} ({digest}): {IN_QUARANTINE}");
    scene.refused(&run_as("p", "default", one.clone())).await.says(&[&sentence]);
    scene.create(&run_as("scan", "scanner", one.clone())).await.unwrap();
    other.refused(&run_as("scan", "scanner", one.clone())).await.says(&[&sentence]);
    eventually(MOMENT, "the audit log says why it was admitted", async || {
        let basis = scene.audited("scan").into_iter().find(|(key, _)| key.ends_with("/basis"));
        basis.filter(|(_, basis)| basis == "Processor").map(drop).ok_or("not yet")
    })
    .await;

    // It may run that registry's images, not another's; and no denied one.
    let (foreign, foreign_digest) = scene.push("foreign", "1").await;
    let both = json!([container("c", &image), container("d", &foreign)]);
    let refusal = scene.refused(&run_as("p", "scanner", both)).await;
    refusal.says(&[&format!("spec.containers[d].image {foreign} ({foreign_digest}): {IN_QUARANTINE}")]).silent("spec.containers[c]");
    let deny = format!("{}-deny", scene.namespace);
    scene.policy_named(&deny, json!({ "deny": [{ "digest": digest, "reason": "it phones home" }] })).await;
    let denied = scene.refused(&run_as("p", "scanner", one)).await;
    denied.says(&[&format!("{image} ({digest}): denied: it phones home. Use another image [policy {deny}]")]);
}
