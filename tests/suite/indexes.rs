//! What is signed about an index and about its images: each for the nodes that may run it.

use std::{collections::BTreeMap, time::Duration};

use lazaretto::{api::QuarantinePolicy, image::Digest};
use serde_json::{Value, json};

use crate::support::{
    registry::{BUNDLE, FakeRegistry, Fault, OCI_INDEX, OCI_MANIFEST},
    signer,
    world::{Answer, Listed, World, open, shut},
};

const REPOSITORY: &str = "team/app";

/// A registry, and the world of a policy that asks for something of the authority `build`.
struct Scene {
    registry: FakeRegistry,
    world: World,
}

impl Scene {
    async fn new(require: &Value) -> Self {
        let registry = FakeRegistry::start().await;
        let world = World::new(shut()).with(&Listed::new(&registry));
        let scene = Self { registry, world };
        scene.ask_for(require);
        // Once something is attached somewhere, the registry has lists.
        scene.sign(&Digest::of(b"something else"));
        scene
    }

    fn ask_for(&self, require: &Value) {
        let key = include_str!("../fixtures/proof/keys/ecdsa-p256.pub.pem");
        let mut require = require.clone();
        require["unmanaged"] = "Allow".into();
        let policy: QuarantinePolicy = serde_json::from_value(json!({
            "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": "all-images" },
            "spec": { "mode": "Enforce", "require": require, "authorities": [{ "name": "build", "publicKey": key }] },
        }))
        .unwrap();
        assert!(self.world.index.write().apply_policy(&policy));
        assert!(self.world.index.read().unreadable().is_empty(), "{:?}", self.world.index.read().unreadable());
    }

    /// Nodes of these platforms join, and all are known.
    fn nodes(&self, platforms: &[&str]) {
        let mut index = self.world.index.write();
        for platform in platforms {
            let (os, architecture) = platform.split_once('/').unwrap();
            let labels = [("kubernetes.io/os", os), ("kubernetes.io/arch", architecture)];
            let labels: BTreeMap<String, String> = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            index.apply_node(&format!("node-{}", platform.replace('/', "-")), &labels);
        }
        index.know_nodes(true);
    }

    fn push(&self, seed: &str) -> Digest {
        self.registry.push_image(REPOSITORY, seed, seed)
    }

    /// Pushes an index of images with their platforms. Returns its digest.
    fn index(&self, entries: &[(&Digest, &str, &str)]) -> Digest {
        self.registry.push_index(REPOSITORY, None, entries)
    }

    fn sign(&self, digest: &Digest) {
        self.registry.attach(REPOSITORY, digest, signer::signature(digest));
    }

    async fn ask(&self, digest: &Digest) -> Answer {
        self.world.ask(&format!("{}/{REPOSITORY}@{digest}", self.registry.host())).await
    }
}

/// Until what was found wanting is looked at again. Time is paused: nobody waits.
async fn later() {
    tokio::time::sleep(Duration::from_secs(6)).await;
}

fn signatures() -> Value {
    json!({ "signatures": {} })
}

#[tokio::test(start_paused = true)]
async fn an_index_that_is_signed_itself_does_for_all_of_its_images_and_they_are_not_asked_about() {
    let scene = Scene::new(&signatures()).await;
    let (amd64, arm64) = (scene.push("amd64"), scene.push("arm64"));
    let index = scene.index(&[(&amd64, "linux", "amd64"), (&arm64, "linux", "arm64")]);
    scene.sign(&index);
    scene.ask(&index).await.admits("Registry");
    for image in [&amd64, &arm64] {
        assert_eq!(scene.registry.count(&image.hex()[..16]), 0, "{:?}", scene.registry.log());
    }
}

#[tokio::test(start_paused = true)]
async fn an_index_whose_images_are_all_signed_is_signed_and_the_refusal_names_the_one_that_is_not() {
    let scene = Scene::new(&signatures()).await;
    let (amd64, arm64) = (scene.push("amd64"), scene.push("arm64"));
    let index = scene.index(&[(&amd64, "linux", "amd64"), (&arm64, "linux", "arm64")]);
    scene
        .ask(&index)
        .await
        .refuses(": linux/amd64, linux/arm64: it is not signed by build (nothing that is attached to it is a signature that is");
    scene.sign(&amd64);
    later().await;
    scene
        .ask(&index)
        .await
        .refuses(": linux/arm64: it is not signed by build (nothing that is attached to it is a signature that is read here)");
    scene.sign(&arm64);
    later().await;
    scene.ask(&index).await.admits("Registry");
}

#[tokio::test(start_paused = true)]
async fn only_images_that_a_node_may_run_have_to_be_proven_and_a_node_of_another_platform_asks_for_more() {
    let scene = Scene::new(&signatures()).await;
    let (amd64, arm64) = (scene.push("amd64"), scene.push("arm64"));
    let index = scene.index(&[(&amd64, "linux", "amd64"), (&arm64, "linux", "arm64")]);
    scene.sign(&amd64);
    scene.nodes(&["linux/amd64"]);
    scene.ask(&index).await.admits("Registry");
    assert_eq!(scene.registry.count(&arm64.hex()[..16]), 0, "{:?}", scene.registry.log());
    scene.nodes(&["linux/arm64"]);
    // At once, and not when what was found is old.
    scene.ask(&index).await.refuses("linux/arm64: it is not signed by build");
    scene.world.index.write().delete_node("node-linux-arm64");
    scene.ask(&index).await.admits("Registry");
    scene.world.index.write().know_nodes(false);
    scene.ask(&index).await.refuses("linux/arm64: it is not signed by build");
    scene.world.index.write().know_nodes(true);
    scene.nodes(&["linux/s390x"]);
    scene.world.index.write().delete_node("node-linux-amd64");
    scene.ask(&index).await.refuses("it is not signed by build (nothing that is attached to it is a signature that is read here); sign and attach what is missing; none of the images of the index is for a platform of this cluster's nodes");
}

/// What somebody made of others' signed images and one of their own.
#[tokio::test(start_paused = true)]
async fn an_index_of_others_signed_images_and_one_that_is_not_is_refused_however_it_is_hidden() {
    let (signed, mine) = ("signed", "mine");
    let entry = |digest: &Digest, platform: Value| {
        let mut entry = json!({ "mediaType": OCI_MANIFEST, "digest": digest.to_string(), "size": 1 });
        if !platform.is_null() {
            entry["platform"] = platform;
        }
        entry
    };
    let amd64 = || json!({ "os": "linux", "architecture": "amd64" });
    let cases = [
        (amd64(), "linux/amd64+2"),
        (json!({ "os": "linux", "architecture": "x86_64" }), "linux/x86_64"),
        (json!({ "os": "Linux", "architecture": "AMD64" }), "Linux/AMD64"),
        (json!({ "os": "linux", "architecture": "amd64", "variant": "v3" }), "linux/amd64/v3"),
        (json!({ "os": "", "architecture": "amd64" }), "amd64"),
        (json!({ "os": "strange", "architecture": "thing" }), "strange/thing"),
        // A runtime takes it where the signed one is of a variant that no node has.
        (json!({ "os": "linux", "architecture": "386" }), "linux/386"),
        (Value::Null, "any"),
    ];
    for (platform, named) in cases {
        let scene = Scene::new(&signatures()).await;
        scene.nodes(&["linux/amd64"]);
        let (signed, mine) = (scene.push(signed), scene.push(mine));
        scene.sign(&signed);
        let push = |entries: Value| {
            let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
            scene.registry.push(REPOSITORY, None, OCI_INDEX, index.to_string())
        };
        let index = push(json!([entry(&signed, amd64()), entry(&mine, platform.clone())]));
        scene.ask(&index).await.refuses(&format!(": {named}: it is not signed by build"));
        // In an index within the index, that is called another platform's.
        let inner = push(json!([entry(&mine, platform)]));
        let mut nested = entry(&inner, json!({ "os": "linux", "architecture": "arm64" }));
        nested["mediaType"] = OCI_INDEX.into();
        let index = push(json!([entry(&signed, amd64()), nested]));
        scene.ask(&index).await.refuses(&format!(": {named}: it is not signed by build"));
    }
}

#[tokio::test(start_paused = true)]
async fn attestations_inside_an_index_are_no_images() {
    let scene = Scene::new(&signatures()).await;
    let (amd64, attestation) = (scene.push("amd64"), scene.push("attestation"));
    scene.sign(&amd64);
    let index = scene.index(&[(&amd64, "linux", "amd64"), (&attestation, "unknown", "unknown")]);
    scene.ask(&index).await.admits("Registry");
    assert_eq!(scene.registry.count(&attestation.hex()[..16]), 0, "{:?}", scene.registry.log());
}

/// "Could not ask" is never "not signed", for no image.
#[tokio::test(start_paused = true)]
async fn an_image_about_which_nothing_could_be_fetched_is_not_called_unsigned() {
    for place in ["/referrers/", "/manifests/sha256-", "/blobs/"] {
        let scene = Scene::new(&signatures()).await;
        let (amd64, arm64) = (scene.push("amd64"), scene.push("arm64"));
        let index = scene.index(&[(&amd64, "linux", "amd64"), (&arm64, "linux", "arm64")]);
        scene.sign(&amd64);
        scene.sign(&arm64);
        let path = match place {
            "/referrers/" => format!("{place}{arm64}"),
            "/manifests/sha256-" => format!("{place}{}", arm64.hex()),
            _ => place.to_owned(),
        };
        scene.registry.fault(&path, Fault::Answer(500, Vec::new(), String::new()));
        let answer = scene.ask(&index).await;
        assert!(!answer.allowed && !answer.message.contains("not signed"), "{place}: {answer:?}");
        assert_eq!(answer.status.as_ref().map(|(code, _)| *code), Some(504), "{place}: {answer:?}");
        scene.registry.clear_faults();
        later().await;
        scene.ask(&index).await.admits("Registry");
    }
    // One that is not there is not called unsigned either, and is named.
    let scene = Scene::new(&signatures()).await;
    let (amd64, gone) = (scene.push("amd64"), Digest::of(b"gone"));
    scene.sign(&amd64);
    let index = scene.index(&[(&amd64, "linux", "amd64"), (&gone, "linux", "arm64")]);
    scene.ask(&index).await.refuses(": linux/arm64: the registry does not have this image, or hides it. Then try again");
    scene.nodes(&["linux/amd64"]);
    later().await;
    scene.ask(&index).await.admits("Registry");
}

#[tokio::test(start_paused = true)]
async fn what_was_proven_by_its_images_survives_an_outage_and_what_was_not_opens_in_none() {
    let mut scene = Scene::new(&signatures()).await;
    scene.world.set_knobs(open());
    scene.ask_for(&signatures());
    let (amd64, arm64) = (scene.push("amd64"), scene.push("arm64"));
    scene.sign(&amd64);
    let index = scene.index(&[(&amd64, "linux", "amd64"), (&arm64, "linux", "arm64")]);
    scene.ask(&index).await.refuses("linux/arm64: it is not signed by build");
    scene.registry.close().await;
    let answer = scene.ask(&index).await;
    assert!(!answer.allowed, "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn an_index_of_very_many_images_costs_little_and_says_so() {
    let scene = Scene::new(&signatures()).await;
    let images: Vec<Digest> = (0..9).map(|number| scene.push(&format!("image-{number}"))).collect();
    let entries: Vec<(&Digest, &str, &str)> = images.iter().map(|image| (image, "linux", "amd64")).collect();
    let index = scene.index(&entries);
    let before = scene.registry.requests().len();
    scene.ask(&index).await.refuses("the index has 9 images that nodes may run, and at most 8 are looked at");
    assert!(scene.registry.requests().len() - before < 10, "{:?}", scene.registry.log());
    let index = scene.index(&entries[..8]);
    let before = scene.registry.requests().len();
    scene.ask(&index).await.refuses("it is not signed by build");
    assert!(scene.registry.requests().len() - before < 50, "{:?}", scene.registry.log());
    // A thousand who wait cost no more than one.
    later().await;
    let before = scene.registry.requests().len();
    futures::future::join_all((0..1_000).map(|_| scene.ask(&index))).await;
    assert!(scene.registry.requests().len() - before < 50, "{:?}", scene.registry.log());
    for image in &images[..8] {
        scene.sign(image);
    }
    later().await;
    scene.ask(&index).await.admits("Registry");
}

#[tokio::test(start_paused = true)]
async fn each_requirement_is_met_where_it_is_attached() {
    let scene = Scene::new(&json!({ "signatures": {}, "sbom": {}, "vulnerabilities": {} })).await;
    let (amd64, arm64) = (scene.push("amd64"), scene.push("arm64"));
    let index = scene.index(&[(&amd64, "linux", "amd64"), (&arm64, "linux", "arm64")]);
    let attach = |digest: &Digest, kind: &str, predicate: &Value| {
        scene.registry.attach(REPOSITORY, digest, signer::bundle(digest, kind, predicate));
    };
    let sbom = json!({ "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [] });
    scene.sign(&index);
    scene.ask(&index).await.refuses("linux/amd64, linux/arm64: it has no SBOM signed by build");
    attach(&amd64, signer::CYCLONEDX, &sbom);
    later().await;
    scene.ask(&index).await.refuses(": linux/arm64: it has no SBOM signed by build");
    attach(&arm64, signer::CYCLONEDX, &sbom);
    later().await;
    scene.ask(&index).await.refuses("linux/amd64, linux/arm64: it has no vulnerability report signed by build");
    let report = json!({
        "scanner": { "uri": "pkg:github/aquasecurity/trivy@0.66.0", "version": "0.66.0", "result": { "SchemaVersion": 2, "Results": [] } },
        "metadata": { "scanStartedOn": "2026-01-01T00:00:00Z", "scanFinishedOn": "2026-01-01T00:00:01Z" },
    });
    attach(&index, signer::VULN, &report);
    later().await;
    scene.ask(&index).await.admits("Registry");
}

/// Nobody signs it, and it is attached to the index or to its images.
#[tokio::test(start_paused = true)]
async fn an_index_of_an_image_whose_life_has_ended_does_not_start_there() {
    let scene = Scene::new(&json!({ "endOfLife": {} })).await;
    let (amd64, arm64) = (scene.push("amd64"), scene.push("arm64"));
    let index = scene.index(&[(&amd64, "linux", "amd64"), (&arm64, "linux", "arm64")]);
    scene.ask(&index).await.admits("Registry");
    let annotations = json!({ "vnd.microsoft.artifact.lifecycle.end-of-life.date": "2020-06-30" });
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": BUNDLE, "layers": null, "annotations": annotations });
    let artifact = scene.registry.push(REPOSITORY, None, OCI_MANIFEST, manifest.to_string());
    scene.registry.refer(REPOSITORY, &arm64, &artifact, "application/vnd.microsoft.artifact.lifecycle");
    later().await;
    scene.ask(&index).await.refuses(": linux/arm64: its life ended on 2020-06-30");
    scene.nodes(&["linux/amd64"]);
    later().await;
    scene.ask(&index).await.admits("Registry");
}
