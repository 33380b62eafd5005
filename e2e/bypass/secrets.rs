//! Pull secrets, which the pod's author chooses: they may open a registry, and never a quarantine.

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use lazaretto::api::Registry as RegistryObject;
use serde_json::{Value, json};

use super::{IN_QUARANTINE, NOT_FOUND, Scene, container, dry_run, pod, pod_with, read, registry};
use crate::lab::install::World;
use crate::lab::registry::{OTHER_PASSWORD, Options, PASSWORD, Registry, USER};
use crate::lab::wait::{MOMENT, eventually, until};
use crate::story;

async fn secret(scene: &Scene<'_>, name: &str, kind: &str, data: Value) {
    let secret: Secret = read(&json!({ "metadata": { "name": name }, "type": kind, "stringData": data }));
    Api::namespaced(scene.client.clone(), &scene.namespace).create(&PostParams::default(), &secret).await.unwrap();
}

async fn login(scene: &Scene<'_>, name: &str, host: &str, password: &str) {
    let auths = json!({ "auths": { host: { "username": USER, "password": password } } });
    secret(scene, name, "kubernetes.io/dockerconfigjson", json!({ ".dockerconfigjson": auths.to_string() })).await;
}

fn pulling(name: &str, image: &str, secrets: &[&str]) -> Value {
    let secrets: Vec<_> = secrets.iter().map(|name| json!({ "name": name })).collect();
    pod_with(name, &json!({ "containers": [container("c", image)], "imagePullSecrets": secrets }))
}

/// As the chart installs it, nobody reads pods' secrets: what stands there changes nothing.
#[tokio::test]
async fn without_the_opt_in_pull_secrets_change_nothing() {
    let scene = Scene::new().await;
    let (good, _) = scene.push_released("good", "1").await;
    let (bad, digest) = scene.push("bad", "1").await;
    let host = registry().await.host();
    login(&scene, "wrong", &host, "guessed").await;
    login(&scene, "foreign", "elsewhere.corp", PASSWORD).await;
    secret(&scene, "opaque", "Opaque", json!({ ".dockerconfigjson": "\u{1}rubbish" })).await;
    let torn = json!({ "auths": { &host: { "auth": "not base64" } } }).to_string();
    secret(&scene, "torn", "kubernetes.io/dockerconfigjson", json!({ ".dockerconfigjson": torn })).await;
    let cases: [&[&str]; 5] =
        [&["missing"], &["wrong"], &["foreign"], &["opaque", "torn"], &["missing", "wrong", "foreign", "opaque", "torn"]];
    for (at, secrets) in cases.into_iter().enumerate() {
        scene.refused(&pulling("p", &bad, secrets)).await.says(&[&format!("spec.containers[c].image {bad} ({digest}): {IN_QUARANTINE}")]);
        scene.create(&pulling(&format!("p{at}"), &good, secrets)).await.unwrap();
    }
}

/// Where the installation opts in, a pod's secrets are what the registry is shown; a world of its own, which also has the quiet that it
/// takes to see that a dry run writes nothing.
#[tokio::test]
async fn with_the_opt_in_they_open_what_they_are_for() {
    let world = World::fresh(&[("pullSecrets.enabled", "true")]).await;
    let scene = Scene::within(&world).await;
    let registry = Registry::start(scene.lab, Options { password: true, ..Options::default() }).await;
    let spec = json!({ "hosts": [registry.host()], "plainHTTP": true, "quarantine": { "provider": "Managed" }, "pollInterval": "10s" });
    let object = json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": "private" }, "spec": spec });
    let registries: Api<RegistryObject> = Api::all(scene.client.clone());
    registries.patch("private", &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    until(registries, "private", "what ran before is adopted", |object: Option<&RegistryObject>| {
        let adoption = object.and_then(|object| object.status.as_ref()?.adoption.as_ref());
        adoption.is_some_and(|adoption| adoption.completed.is_some())
    })
    .await;
    scene.policy(json!({})).await;
    login(&scene, "right", &registry.host(), PASSWORD).await;
    login(&scene, "wrong", &registry.host(), OTHER_PASSWORD).await;
    login(&scene, "foreign", "localhost:1", PASSWORD).await;
    secret(&scene, "opaque", "Opaque", json!({ "password": PASSWORD })).await;
    let digest = registry.push("team/app", "1", "one").await;
    let image = registry.tagged("team/app", "1");
    let held = format!("spec.containers[c].image {image} ({digest}): {IN_QUARANTINE}");
    let hidden = format!("spec.containers[c].image {image}: {NOT_FOUND}");

    a_dry_run_writes_nothing(&scene, &pulling("p", &image, &["right"]), &held, &digest).await;

    scene.refused(&pulling("p", &image, &["right"])).await.says(&[&held]);
    // What that pod was told is not what others are told.
    for secrets in [&[][..], &["missing"], &["wrong"], &["foreign"], &["opaque"]] {
        scene.refused(&pulling("p", &image, secrets)).await.says(&[&hidden]).silent(&digest);
    }
    let release = async || {
        story::release(scene.lab, &digest, "scanned").await;
        for replica in scene.replicas {
            eventually(MOMENT, "the replica knows the release", async || {
                let answer = scene.ask(replica, "/validate", &scene.review(&pulling("p", &image, &["right"]))).await;
                if answer["allowed"] == true { Ok(()) } else { Err(answer) }
            })
            .await;
        }
    };
    release().await;
    scene.create(&pulling("right", &image, &["right"])).await.unwrap();
    // Missing and useless ones beside it are passed over, as the kubelet does.
    scene.create(&pulling("among", &image, &["missing", "opaque", "foreign", "right"])).await.unwrap();
    for secrets in [&[][..], &["missing"], &["wrong"], &["foreign"], &["opaque"]] {
        scene.refused(&pulling("p", &image, secrets)).await.says(&[&hidden]);
    }

    // Those of the ServiceAccount count where the pod names none.
    let account: ServiceAccount = read(&json!({ "metadata": { "name": "puller" }, "imagePullSecrets": [{ "name": "right" }] }));
    Api::namespaced(scene.client.clone(), &scene.namespace).create(&PostParams::default(), &account).await.unwrap();
    let spec = json!({ "serviceAccountName": "puller", "containers": [container("c", &image)] });
    scene.create(&pod_with("account", &spec)).await.unwrap();

    // Another namespace has a secret of that name, or none: never this one's.
    let other = Scene::within(&world).await;
    other.policy(json!({})).await;
    other.refused(&pulling("p", &image, &["right"])).await.says(&[&hidden]);
    other.refused(&pod("p", &image)).await.says(&[&hidden]);
}

async fn a_dry_run_writes_nothing(scene: &Scene<'_>, pod: &Value, held: &str, digest: &str) {
    let written = async || {
        let mut all = 0.0;
        for replica in scene.replicas {
            all += replica.metric("lazaretto_writes_total", &[("what", "ImageStatus")]).await;
            all += replica.metric("lazaretto_writes_total", &[("what", "Event")]).await;
        }
        all
    };
    let before = written().await;
    for _ in 0..3 {
        let answer = super::insist(async || scene.pods().create(&dry_run(), &read(pod)).await).await;
        super::Refusal::of(answer).says(&[held]);
    }
    // By hand too, as a person would.
    let file = pod.to_string();
    let refused = scene.lab.kubectl_input(&["create", "--dry-run=server", "-n", &scene.namespace, "-f", "-"], &file).await.refused();
    assert!(refused.stderr.contains(held), "{refused}");
    assert!(story::image_status(scene.lab, digest).await.is_none());
    let after = written().await;
    assert!((after - before).abs() < f64::EPSILON, "{before} {after}");
}
