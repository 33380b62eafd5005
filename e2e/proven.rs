//! A pipeline on the real control plane with a real registry: pushed, signed, listed, scanned, and released by that.
//!
//! What is attached was signed by sigstore-go (`tests/fixtures/proof`). Distribution's registry has no list of referrers, so the pipeline keeps
//! the fallback tag, as its clients do.

use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use lazaretto::api::{ImageStatus, State};
use serde_json::{Value, json};

use crate::lab::{
    Lab,
    install::{NAMESPACE, World},
    registry::{Options, Registry},
    wait::{MOMENT, eventually},
};
use crate::{kept_elsewhere::pass, story};

const REPOSITORY: &str = "team/app";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/proof/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn authorities() -> Value {
    json!([{ "name": "build", "publicKey": String::from_utf8(fixture("keys/ecdsa-p256.pub.pem")).unwrap() }])
}

/// The key of `build`, as evidence names it.
fn key() -> String {
    let pem = String::from_utf8(fixture("keys/ecdsa-p256.pub.pem")).unwrap();
    lazaretto::proof::PublicKey::from_pem(&pem).unwrap().fingerprint().to_string()
}

/// What the laboratory's probe is refused for at once; it would wait for a host that is nowhere.
fn denied() -> Value {
    json!([{ "image": "not-listed.invalid/**", "reason": "it is nowhere" }])
}

/// Pushes the image that the fixtures are about.
async fn push(registry: &Registry) -> String {
    registry.push_blob(REPOSITORY, b"{}").await;
    let digest = registry.push_manifest(REPOSITORY, "1.0", MANIFEST, &fixture("manifest.json")).await;
    assert_eq!(digest, String::from_utf8(fixture("digest.txt")).unwrap().trim());
    digest
}

/// Attaches bundles, and only these.
async fn attach(registry: &Registry, digest: &str, bundles: &[&str]) {
    let mut entries = Vec::new();
    for bundle in bundles {
        let bytes = fixture(&format!("{bundle}.bundle.json"));
        let layer = registry.push_blob(REPOSITORY, &bytes).await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": lazaretto::image::Digest::of(b"{}").to_string(), "size": 2 },
            "layers": [{ "mediaType": BUNDLE, "digest": layer, "size": bytes.len() }],
            "subject": { "mediaType": MANIFEST, "digest": digest, "size": fixture("manifest.json").len() },
        });
        let manifest = manifest.to_string();
        let name = lazaretto::image::Digest::of(manifest.as_bytes()).to_string();
        registry.push_manifest(REPOSITORY, &name, MANIFEST, manifest.as_bytes()).await;
        entries.push(json!({ "mediaType": MANIFEST, "digest": name, "size": manifest.len(), "artifactType": BUNDLE }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    registry.push_manifest(REPOSITORY, &digest.replace(':', "-"), INDEX, index.to_string().as_bytes()).await;
}

async fn status_of(lab: &Lab, registry: &Registry, digest: &str) -> Option<ImageStatus> {
    story::image_status(lab, &registry.pinned(REPOSITORY, digest)).await
}

/// Waits until what the image waits for is this.
async fn waits(lab: &Lab, registry: &Registry, digest: &str, missing: &str) {
    eventually(MOMENT, missing, async || {
        let status = status_of(lab, registry, digest).await.and_then(|object| object.status).unwrap_or_default();
        let text = format!("{:?} {}", status.state, status.details);
        if status.state == State::Quarantined && status.details.contains(missing) { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn an_image_is_released_by_its_proof_and_each_missing_step_keeps_it() {
    let world = World::shared().await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let registry = Registry::start(lab, Options::default()).await;
    story::register(lab, &registry, "Managed", |spec| {
        spec["quarantine"]["release"] = json!({
            "authorities": authorities(), "signatures": {}, "sbom": {}, "vulnerabilities": { "maxSeverity": "Medium" },
        });
    })
    .await;
    story::policy(lab, &namespace, |_| {}).await;
    let digest = push(&registry).await;
    let image = format!("{}/{REPOSITORY}:1.0", registry.host());
    let refused = async |missing: &str| {
        waits(lab, &registry, &digest, missing).await;
        eventually(MOMENT, missing, async || {
            let output = story::run(lab, &namespace, "p", &image).await.refused();
            if output.stderr.contains(&format!("It is released as soon as that is proven: {missing}")) { Ok(()) } else { Err(output) }
        })
        .await;
    };
    story::run(lab, &namespace, "p", &image).await.refused();
    refused("it is not signed by build").await;
    attach(&registry, &digest, &["key-ecdsa-p256"]).await;
    refused("it has no SBOM signed by build").await;
    attach(&registry, &digest, &["key-ecdsa-p256", "cyclonedx"]).await;
    refused("it has no vulnerability report signed by build").await;
    attach(&registry, &digest, &["key-ecdsa-p256", "cyclonedx", "vuln-high"]).await;
    refused("its vulnerability report does not do: 1 of severity High, 0 allowed: CVE-2025-0001").await;
    // Each of the others taken away again is named again.
    attach(&registry, &digest, &["cyclonedx", "vuln-clean"]).await;
    refused("it is not signed by build").await;
    attach(&registry, &digest, &["key-ecdsa-p256", "vuln-clean"]).await;
    refused("it has no SBOM signed by build").await;

    attach(&registry, &digest, &["key-ecdsa-p256", "cyclonedx", "vuln-clean"]).await;
    story::admitted(lab, &namespace, "p", &image).await;
    let object = status_of(lab, &registry, &digest).await.unwrap();
    let status = object.status.clone().unwrap();
    let last = status.history.last().unwrap();
    assert_eq!((last.state, &*last.by), (State::Released, "lazaretto"));
    assert!(
        last.reason.starts_with("proven: signature ") && last.reason.contains(", SBOM ") && last.reason.contains(", scan "),
        "{last:?}"
    );
    let evidence = status.evidence.as_ref().unwrap();
    assert_eq!(evidence.items.len(), 3, "{evidence:?}");
    assert!(evidence.items.iter().all(|item| status.details.contains(&item.digest)), "{}", status.details);
    assert!(serde_json::to_vec(&object).unwrap().len() <= lazaretto::api::MAX_OBJECT_BYTES);

    // The flag follows the proof: who asks for more holds again what does not have it, until it has.
    story::register(lab, &registry, "Managed", |spec| {
        let mut both = authorities();
        let second = String::from_utf8(fixture("keys/ecdsa-p384.pub.pem")).unwrap();
        both.as_array_mut().unwrap().push(json!({ "name": "review", "publicKey": second }));
        spec["quarantine"]["release"] = json!({ "authorities": both, "signatures": { "threshold": 2 } });
    })
    .await;
    refused("it is signed by 1 of the 2 that are wanted; not by review").await;
    let status = status_of(lab, &registry, &digest).await.and_then(|object| object.status).unwrap();
    assert_eq!(status.history.last().map(|last| &*last.reason), Some("its proof does not hold any more"));
    attach(&registry, &digest, &["key-ecdsa-p256", "key-ecdsa-p384"]).await;
    story::admitted(lab, &namespace, "q", &image).await;
}

#[tokio::test]
async fn a_person_who_holds_an_image_outweighs_its_proof() {
    let world = World::shared().await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let registry = Registry::start(lab, Options::default()).await;
    let name = story::register(lab, &registry, "Managed", |_| {}).await;
    story::policy(lab, &namespace, |_| {}).await;
    let digest = push(&registry).await;
    attach(&registry, &digest, &["key-ecdsa-p256"]).await;
    let subject = format!("{}/{REPOSITORY}@{digest}", registry.host());
    story::run(lab, &namespace, "p", &subject).await.refused();
    let object = status_of(lab, &registry, &digest).await.unwrap().metadata.name.unwrap();
    let decision = json!({ "spec": { "quarantine": { "state": "Quarantined", "by": "admin", "reason": "under review" } } });
    let images = kube::Api::<ImageStatus>::all(lab.client().await);
    images.patch(&object, &PatchParams::default(), &Patch::Merge(&decision)).await.unwrap();
    assert_eq!(
        story::register(lab, &registry, "Managed", |spec| {
            spec["quarantine"]["release"] = json!({ "authorities": authorities(), "signatures": {} });
        })
        .await,
        name
    );
    // A look at what is proven comes with each pass.
    for _ in 0..2 {
        pass(lab, &name, |_| true).await;
    }
    let refused = story::run(lab, &namespace, "p", &subject).await.refused();
    assert!(refused.stderr.contains("in quarantine since"), "{refused}");
    let status = status_of(lab, &registry, &digest).await.unwrap().status.unwrap();
    assert!(status.history.iter().all(|transition| transition.state == State::Quarantined), "{:?}", status.history);
}

#[tokio::test]
async fn a_policy_asks_for_signatures_and_the_evidence_is_shared_by_replicas() {
    let world = World::shared().await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let registry = Registry::start(lab, Options::default()).await;
    story::register(lab, &registry, "None", |_| {}).await;
    story::policy(lab, &namespace, |spec| {
        spec["deny"] = denied();
        spec["authorities"] = authorities();
        spec["require"] = json!({ "unmanaged": "Allow", "signatures": { "by": ["build"] } });
    })
    .await;
    let digest = push(&registry).await;
    let image = format!("{}/{REPOSITORY}@{digest}", registry.host());
    let refused = story::run(lab, &namespace, "p", &image).await.refused();
    assert!(
        refused.stderr.contains("it is not signed by build (nothing that is attached to it is a signature that is read here)"),
        "{refused}"
    );
    attach(&registry, &digest, &["key-ecdsa-p256"]).await;
    story::admitted(lab, &namespace, "p", &image).await;
    let evidence = status_of(lab, &registry, &digest).await.and_then(|object| object.status).and_then(|status| status.evidence).unwrap();
    assert_eq!(evidence.items.len(), 1, "{evidence:?}");
    // Whoever signs and is not asked for by the policy, or is asked for and did not sign: the object says who did.
    story::policy(lab, &namespace, |spec| {
        spec["deny"] = denied();
        spec["authorities"] = json!([{ "name": "other", "publicKey": String::from_utf8(fixture("keys/ed25519.pub.pem")).unwrap() }]);
        spec["require"] = json!({ "unmanaged": "Allow", "signatures": {} });
    })
    .await;
    eventually(MOMENT, "the other authority is asked for", async || {
        let output = story::run(lab, &namespace, "q", &image).await;
        if output.stderr.contains("it is not signed by other") { Ok(()) } else { Err(output) }
    })
    .await;

    // An identity, by a trusted root in a ConfigMap that is made after the policy.
    story::policy(lab, &namespace, |spec| {
        spec["deny"] = denied();
        spec["authorities"] = json!([{ "name": "builder", "keyless": {
            "issuer": "https://issuer.example", "subject": "builder@example.com", "trustRoot": { "configMapName": "sigstore-root" },
        } }]);
        spec["require"] = json!({ "unmanaged": "Allow", "signatures": {} });
    })
    .await;
    attach(&registry, &digest, &["keyless"]).await;
    let root = format!("--from-file=trusted_root.json={}/tests/fixtures/proof/keyless.trusted_root.json", env!("CARGO_MANIFEST_DIR"));
    lab.kubectl(&["create", "configmap", "sigstore-root", "-n", NAMESPACE, &root]).await.ok();
    story::admitted(lab, &namespace, "r", &image).await;
    let status = status_of(lab, &registry, &digest).await.and_then(|object| object.status).unwrap();
    let signed = status.evidence.unwrap().items.into_iter().find(|item| item.subject == "builder@example.com");
    assert_eq!(signed.map(|item| item.issuer).as_deref(), Some("https://issuer.example"));
}

/// A node, as far as its kubelet tells its platform.
async fn join(lab: &Lab, name: &str, architecture: &str) {
    let labels = json!({ "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture });
    let node: Node =
        serde_json::from_value(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } })).unwrap();
    kube::Api::<Node>::all(lab.client().await).create(&PostParams::default(), &node).await.unwrap();
}

#[tokio::test]
async fn an_index_is_proven_by_its_images_for_the_platforms_of_the_nodes_that_there_are() {
    // Others make nodes, too.
    let world = World::fresh(&[]).await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let registry = Registry::start(lab, Options::default()).await;
    story::register(lab, &registry, "None", |_| {}).await;
    story::policy(lab, &namespace, |spec| {
        spec["deny"] = denied();
        spec["authorities"] = authorities();
        spec["require"] = json!({ "unmanaged": "Allow", "signatures": {} });
    })
    .await;
    let signed = push(&registry).await;
    attach(&registry, &signed, &["key-ecdsa-p256"]).await;
    let (other, attestation) =
        (registry.push(REPOSITORY, "other", "other").await, registry.push(REPOSITORY, "attestation", "attestation").await);
    let entry = |digest: &str, os: &str, architecture: &str| {
        let size = if digest == signed { fixture("manifest.json").len() } else { 1 };
        json!({ "mediaType": MANIFEST, "digest": digest, "size": size, "platform": { "os": os, "architecture": architecture } })
    };
    let entries = json!([entry(&signed, "linux", "amd64"), entry(&other, "linux", "arm64"), entry(&attestation, "unknown", "unknown")]);
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    let index = registry.push_manifest(REPOSITORY, "multi", INDEX, index.to_string().as_bytes()).await;
    let image = format!("{}/{REPOSITORY}@{index}", registry.host());
    let refused = async |name: &str| {
        eventually(MOMENT, "the image for arm64 is not signed", async || {
            let output = story::run(lab, &namespace, name, &image).await;
            if output.stderr.contains("linux/arm64: it is not signed by build (nothing that is attached to it") {
                Ok(())
            } else {
                Err(output)
            }
        })
        .await;
    };
    // There are no nodes: it may run anywhere.
    refused("p").await;
    join(lab, &format!("{namespace}-amd64"), "amd64").await;
    story::admitted(lab, &namespace, "q", &image).await;
    let object = status_of(lab, &registry, &index).await.unwrap();
    assert!(serde_json::to_vec(&object).unwrap().len() <= lazaretto::api::MAX_OBJECT_BYTES);
    let evidence = object.status.and_then(|status| status.evidence).unwrap();
    assert_eq!((&*evidence.items[0].about, &*evidence.items[0].key), (&["linux/amd64".to_owned()][..], &*key()), "{evidence:?}");
    join(lab, &format!("{namespace}-arm64"), "arm64").await;
    refused("r").await;
    let nodes = kube::Api::<Node>::all(lab.client().await);
    for architecture in ["arm64", "amd64"] {
        nodes.delete(&format!("{namespace}-{architecture}"), &DeleteParams::default()).await.unwrap();
    }
}
