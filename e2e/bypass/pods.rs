//! Every place in a pod where an image may stand, and every moment at which one may get there.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};

use super::{IN_QUARANTINE, Refusal, Scene, container, insist, pod, pod_with, read};
use crate::lab::wait::{MOMENT, eventually};

#[tokio::test]
async fn an_image_is_judged_wherever_it_stands() {
    let scene = Scene::new().await;
    let (good, _) = scene.push_released("good", "1").await;
    let (bad, digest) = scene.push("bad", "1").await;
    let main = json!([container("c", &good)]);
    let cases = [
        (json!({ "containers": [container("c", &good), container("d", &bad)] }), "spec.containers[d].image"),
        (json!({ "containers": main, "initContainers": [container("i", &bad)] }), "spec.initContainers[i].image"),
        (
            json!({ "containers": main, "initContainers": [{ "name": "s", "image": bad, "restartPolicy": "Always" }] }),
            "spec.initContainers[s].image",
        ),
        (
            json!({ "containers": main, "volumes": [{ "name": "v", "image": { "reference": bad, "pullPolicy": "IfNotPresent" } }] }),
            "spec.volumes[v].image.reference",
        ),
    ];
    for (spec, path) in cases {
        let refusal = scene.refused(&pod_with("p", &spec)).await;
        refusal.says(&[&format!("{path} {bad} ({digest}): {IN_QUARANTINE}")]).silent(&good);
    }
    // However it is sent: by server-side apply, and without a name of its own.
    let apply = Patch::Apply(pod("applied", &bad));
    let applied = insist(async || scene.pods().patch("applied", &PatchParams::apply("test"), &apply).await).await;
    Refusal::of(applied).says(&[&format!("spec.containers[c].image {bad} ({digest}): {IN_QUARANTINE}")]);
    let mut nameless = pod("p", &bad);
    nameless["metadata"] = json!({ "generateName": "p-" });
    scene.refused(&nameless).await.says(&[&format!("spec.containers[c].image {bad} ({digest}): {IN_QUARANTINE}")]);
    // All of them are named at once.
    let everywhere = json!({
        "containers": [container("c", &bad)], "initContainers": [container("i", &bad)],
        "volumes": [{ "name": "v", "image": { "reference": bad } }],
    });
    let refusal = scene.refused(&pod_with("p", &everywhere)).await;
    refusal.says(&["spec.containers[c].image", "spec.initContainers[i].image", "spec.volumes[v].image.reference"]);
    // The same places with a released image.
    let released = json!({
        "containers": main, "initContainers": [container("i", &good)], "volumes": [{ "name": "v", "image": { "reference": good } }],
    });
    let made = scene.create(&pod_with("p", &released)).await.unwrap();
    let volumes = made.spec.unwrap().volumes.unwrap();
    assert!(volumes.iter().any(|volume| volume.image.is_some()), "the API server keeps image volumes: {volumes:?}");
}

#[tokio::test]
async fn an_ephemeral_container_is_judged() {
    let scene = Scene::new().await;
    let (good, _) = scene.push_released("good", "1").await;
    let (bad, digest) = scene.push("bad", "1").await;
    scene.create(&pod("p", &good)).await.unwrap();
    let namespace = scene.namespace.as_str();
    let sentence = format!("spec.ephemeralContainers[dbg].image {bad} ({digest}): {IN_QUARANTINE}");

    let debug = ["debug", "p", "-n", namespace, "-c", "dbg", "--profile=general", "--image"];
    let refused = scene.lab.kubectl(&[&debug[..], &[&bad]].concat()).await.refused();
    assert!(refused.stderr.contains(&sentence), "{refused}");
    // Its copy of the pod is another pod.
    let copy = [&debug[..], &[&bad, "--copy-to=q"]].concat();
    let refused = scene.lab.kubectl(&copy).await.refused();
    assert!(refused.stderr.contains(&format!("spec.containers[dbg].image {bad} ({digest}): {IN_QUARANTINE}")), "{refused}");

    let pods = scene.pods();
    let ephemeral = |image: &str| json!({ "spec": { "ephemeralContainers": [container("dbg", image)] } });
    let patch = Patch::Strategic(ephemeral(&bad));
    let patched = insist(async || pods.patch_ephemeral_containers("p", &PatchParams::default(), &patch).await).await;
    Refusal::of(patched).says(&[&sentence]);
    let replaced = insist(async || {
        let mut whole = pods.get_ephemeral_containers("p").await?;
        whole.spec.as_mut().unwrap().ephemeral_containers = Some(vec![read(&container("dbg", &bad))]);
        pods.replace_ephemeral_containers("p", &PostParams::default(), &whole).await
    })
    .await;
    Refusal::of(replaced).says(&[&sentence]);

    // One that may start does, by the same way; and a second one is judged by itself.
    scene.lab.kubectl(&[&debug[..], &[&good]].concat()).await.ok();
    let second = Patch::Strategic(json!({ "spec": { "ephemeralContainers": [container("more", &bad)] } }));
    let patched = insist(async || pods.patch_ephemeral_containers("p", &PatchParams::default(), &second).await).await;
    Refusal::of(patched).says(&["spec.ephemeralContainers[more].image"]).silent("spec.ephemeralContainers[dbg]");
}

#[tokio::test]
async fn an_update_is_judged_by_the_images_that_it_brings() {
    let scene = Scene::new().await;
    let (one, _) = scene.push_released("one", "1").await;
    let (two, second) = scene.push_released("two", "1").await;
    let (bad, digest) = scene.push("bad", "1").await;
    let spec = json!({
        "initContainers": [container("i", &one)], "containers": [container("a", &one), container("b", &two)],
    });
    scene.create(&pod_with("p", &spec)).await.unwrap();

    let change = |list: &str, name: &str, image: &str| json!({ "spec": { list: [container(name, image)] } });
    let sentence = |path: &str, image: &str, digest: &str| format!("{path} {image} ({digest}): {IN_QUARANTINE}");
    let refused = Refusal::of(scene.patch("p", change("containers", "b", &bad)).await);
    refused.says(&[&sentence("spec.containers[b].image", &bad, &digest)]);
    let refused = Refusal::of(scene.patch("p", change("initContainers", "i", &bad)).await);
    refused.says(&[&sentence("spec.initContainers[i].image", &bad, &digest)]);

    // Both were admitted, each where it stands. Then one is found out: from then on it goes nowhere else.
    scene.hold(&two, &second).await;
    let swap = json!({ "spec": { "containers": [container("a", &two), container("b", &one)] } });
    let refused = Refusal::of(scene.patch("p", swap).await);
    refused.says(&[&sentence("spec.containers[a].image", &two, &second)]).silent("spec.containers[b]");
    // The subresources change no image.
    for subresource in ["--subresource=resize", "--subresource=status"] {
        let patch = change("containers", "a", &bad).to_string();
        scene.lab.kubectl(&["patch", "pod", "p", "-n", &scene.namespace, subresource, "--patch", &patch]).await;
        let images: Vec<_> = scene.pods().get("p").await.unwrap().spec.unwrap().containers.into_iter().map(|c| c.image.unwrap()).collect();
        assert_eq!(images, [one.clone(), two.clone()], "{subresource}");
    }
    // What stays where it is does not stand in the way of what gets better.
    let better = change("containers", "a", &scene.push_released("three", "1").await.0);
    scene.patch("p", better).await.unwrap();
    // The good one is good in another place, too.
    scene.patch("p", change("containers", "b", &one)).await.unwrap();
}

/// Labels, annotations and deletion of what runs never depend on us.
#[tokio::test]
async fn an_update_without_new_images_does_not_reach_us() {
    let scene = Scene::new().await;
    let (image, digest) = scene.push_released("app", "1").await;
    let (other, _) = scene.push_released("other", "1").await;
    scene.create(&pod("p", &image)).await.unwrap();
    scene.hold(&image, &digest).await;
    scene.refused(&pod("q", &image)).await.says(&[IN_QUARANTINE]);

    let labelled = scene.patch("p", json!({ "metadata": { "labels": { "a": "b" }, "annotations": { "c": "d" } } })).await.unwrap();
    assert_eq!(labelled.labels()["a"], "b");
    let status = Patch::Merge(json!({ "status": { "phase": "Running", "message": "by hand" } }));
    scene.pods().patch_status("p", &PatchParams::default(), &status).await.unwrap();
    let finalizers = |finalizers: Value| json!({ "metadata": { "finalizers": finalizers } });
    scene.patch("p", finalizers(json!(["example.com/f"]))).await.unwrap();
    let remove = Patch::Merge(finalizers(Value::Null));
    scene.pods().patch("p", &PatchParams::default(), &remove).await.unwrap();
    scene.patch("p", json!({ "spec": { "containers": [container("c", &other)] } })).await.unwrap();
    scene.delete("p").await;

    // The API server's own log says which of those were asked about: every answer of ours leaves annotations.
    let asked = |event: &Value| {
        let annotations = event["annotations"].as_object().into_iter().flatten();
        annotations.into_iter().any(|(key, _)| key.contains(".lazaretto.dev/"))
    };
    let seen = eventually(MOMENT, "all of it is in the audit log", async || {
        let events = scene.lab.audit_of(&scene.namespace, "p");
        let all: Vec<_> = events
            .iter()
            .map(|event| {
                let (verb, sub) =
                    (event["verb"].as_str().unwrap_or_default(), event["objectRef"]["subresource"].as_str().unwrap_or_default());
                (format!("{verb} {sub}").trim().to_owned(), asked(event))
            })
            .collect();
        if all.iter().any(|(what, _)| what == "delete") { Ok(all) } else { Err(format!("{all:?}")) }
    })
    .await;
    let seen: Vec<_> = seen.iter().map(|(what, asked)| (what.as_str(), *asked)).collect();
    assert_eq!(
        seen,
        [
            ("create", true),
            ("patch", false), // labels and annotations
            ("patch status", false),
            ("patch", false), // finalizers
            ("patch", false),
            ("patch", true), // an image
            ("delete", false),
        ]
    );
}

/// The mark of a mirror pod is a claim that anybody can write; the node's own identity is not.
#[tokio::test]
async fn a_forged_mirror_pod_is_judged() {
    let scene = Scene::new().await;
    let (bad, digest) = scene.push("bad", "1").await;
    let sentence = format!("spec.containers[c].image {bad} ({digest}): {IN_QUARANTINE}");
    let owner = scene.node().await.controller_owner_ref(&()).unwrap();
    let node = owner.name.clone();
    let mut mirror = pod_with("mirror", &json!({ "nodeName": node, "containers": [container("c", &bad)] }));
    mirror["metadata"]["ownerReferences"] = json!([owner]);
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "0123", "kubernetes.io/config.source": "file" });

    // A cluster-admin; and one who takes a node's name, but is no node.
    scene.refused(&mirror).await.says(&[&sentence]);
    let identity = format!("system:node:{node}");
    let pods_as =
        async |user: &str, groups: &[&str]| -> Api<Pod> { Api::namespaced(scene.lab.client_as(user, groups).await, &scene.namespace) };
    let create = async |pods: &Api<Pod>, pod: &Value| {
        let pod = read(pod);
        insist(async || pods.create(&PostParams::default(), &pod).await).await
    };
    let impostor = pods_as(&identity, &["system:masters"]).await;
    Refusal::of(create(&impostor, &mirror).await).says(&[&sentence]);

    // Another node: the API server's own plugin refuses it; where that is off, we do.
    let other = "system:node:other";
    let another = pods_as(other, &["system:nodes"]).await;
    let refused = create(&another, &mirror).await.unwrap_err().to_string();
    assert!(refused.contains("can only create pods with spec.nodeName set to itself"), "{refused}");
    let mut review = scene.review(&mirror);
    for (user, groups) in [(other, ["system:nodes"]), (identity.as_str(), ["system:masters"]), ("mallory", ["system:nodes"])] {
        review["request"]["userInfo"] = json!({ "username": user, "groups": groups });
        for replica in scene.replicas {
            let answer = scene.ask(replica, "/validate/enforce", &review).await;
            assert_eq!(answer["allowed"], false, "{user}: {answer}");
            assert!(answer["status"]["message"].as_str().unwrap().contains(&sentence), "{user}: {answer}");
        }
    }

    // The node itself: its static pods start with or without us. A pod of its that is no mirror is judged.
    review["request"]["userInfo"] = json!({ "username": identity, "groups": ["system:nodes", "system:authenticated"] });
    let answer = scene.ask(&scene.replicas[0], "/validate/enforce", &review).await;
    assert_eq!((&answer["allowed"], &answer["auditAnnotations"]["basis"]), (&json!(true), &json!("MirrorPod")), "{answer}");
    review["request"]["object"]["metadata"]["annotations"] = json!({});
    let answer = scene.ask(&scene.replicas[0], "/validate/enforce", &review).await;
    assert_eq!(answer["allowed"], false, "{answer}");
    let itself = pods_as(&identity, &["system:nodes"]).await;
    let made = create(&itself, &mirror).await.unwrap();
    assert_eq!(made.spec.unwrap().node_name, Some(node));
}
