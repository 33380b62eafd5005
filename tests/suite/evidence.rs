//! What is signed about an image: found in every place, fetched once, and never guessed.

use std::{sync::Arc, time::Duration};

use axum::body::Bytes;
use lazaretto::{api::QuarantinePolicy, image::Digest, proof::TrustRoot};
use serde_json::{Value, json};

use crate::support::{
    registry::{BUNDLE, FakeRegistry, Fault, OCI_INDEX, OCI_MANIFEST, respond},
    world::{Listed, World, open, shut},
};

const REPOSITORY: &str = "team/app";

fn fixture(name: &str) -> Bytes {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/proof/");
    std::fs::read(format!("{path}{name}")).unwrap().into()
}

fn text(name: &str) -> String {
    String::from_utf8(fixture(name).to_vec()).unwrap()
}

fn authority(name: &str, kind: &str) -> Value {
    json!({ "name": name, "publicKey": text(&format!("keys/{kind}.pub.pem")) })
}

/// A policy that asks for these of the authorities `build` (P-256) and `release` (Ed25519).
fn ask(world: &World, require: &Value) {
    let mut require = require.clone();
    require["released"] = "Deny".into();
    require["unmanaged"] = "Allow".into();
    let policy: QuarantinePolicy = serde_json::from_value(json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": "all-images" },
        "spec": {
            "mode": "Enforce", "require": require,
            "authorities": [authority("build", "ecdsa-p256"), authority("release", "ed25519")],
        },
    }))
    .unwrap();
    assert!(world.index.write().apply_policy(&policy));
    assert!(world.index.read().unreadable().is_empty(), "{:?}", world.index.read().unreadable());
}

/// The registry, with the image that the fixtures are about, and the world of a policy that asks for signatures by `build`.
async fn scene(require: Value) -> (FakeRegistry, World, Digest, String) {
    let registry = FakeRegistry::start().await;
    let world = World::new(shut()).with(&Listed::new(&registry));
    ask(&world, &require);
    let digest = registry.push(REPOSITORY, Some("1"), OCI_MANIFEST, fixture("manifest.json"));
    assert_eq!(digest.to_string(), text("digest.txt").trim());
    let image = format!("{}/{REPOSITORY}@{digest}", registry.host());
    (registry, world, digest, image)
}

/// Until what was found wanting is looked at again. Time is paused: nobody waits.
async fn later() {
    tokio::time::sleep(Duration::from_secs(6)).await;
}

fn signatures() -> Value {
    json!({ "signatures": { "by": ["build"] } })
}

#[tokio::test(start_paused = true)]
async fn a_signature_is_found_as_a_referrer_and_asked_for_once() {
    let (registry, world, digest, image) = scene(signatures()).await;
    registry.attach(REPOSITORY, &digest, fixture("key-ecdsa-p256.bundle.json"));
    let burst = futures::future::join_all((0..1_000).map(|_| world.ask(&image))).await;
    for answer in burst {
        answer.admits("Registry");
    }
    let log = registry.log();
    let asked = |part: &str| log.iter().filter(|line| line.contains(part)).count();
    assert_eq!((asked("/referrers/"), asked("/blobs/"), asked(".sig"), asked(".att")), (1, 1, 1, 1), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_signature_is_found_under_every_tag_that_it_may_stand_under() {
    let simple = |digest: &Digest| format!("{}.sig", digest.to_string().replace(':', "-"));
    let (registry, world, digest, image) = scene(signatures()).await;
    let annotations = json!({ "dev.cosignproject.cosign/signature": text("simple.signature.b64").trim() });
    let layer = ("application/vnd.dev.cosign.simplesigning.v1+json", fixture("simple.payload.json"), annotations);
    registry.push_artifact(REPOSITORY, Some(&simple(&digest)), "", &[layer]);
    world.ask(&image).await.admits("Registry");

    // The fallback tag of a registry without a list of referrers.
    let (registry, world, digest, image) = scene(signatures()).await;
    let artifact = registry.push_artifact(REPOSITORY, None, BUNDLE, &[(BUNDLE, fixture("key-ecdsa-p256.bundle.json"), json!({}))]);
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{ "mediaType": OCI_MANIFEST, "digest": artifact.to_string(), "size": 1, "artifactType": BUNDLE }],
    });
    let tag = digest.to_string().replace(':', "-");
    registry.push(REPOSITORY, Some(&tag), "application/vnd.oci.image.index.v1+json", index.to_string());
    world.ask(&image).await.admits("Registry");

    // An attestation of cosign's older form: the envelope alone.
    let (registry, world, digest, image) = scene(json!({ "sbom": {} })).await;
    let bundle: Value = serde_json::from_slice(&fixture("spdx.bundle.json")).unwrap();
    let envelope = Bytes::from(bundle["dsseEnvelope"].to_string());
    let tag = format!("{}.att", digest.to_string().replace(':', "-"));
    registry.push_artifact(REPOSITORY, Some(&tag), "", &[("application/vnd.dsse.envelope.v1+json", envelope, json!({}))]);
    world.ask(&image).await.admits("Registry");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_signed_is_refused_and_admitted_once_it_is() {
    let (registry, world, digest, image) = scene(signatures()).await;
    world.ask(&image).await.refuses("it is not signed by build (nothing that is attached to it is a signature that is read here)");
    registry.attach(REPOSITORY, &digest, fixture("key-ed25519.bundle.json"));
    later().await;
    world.ask(&image).await.refuses("it is not signed by build");
    registry.attach(REPOSITORY, &digest, fixture("other.bundle.json"));
    later().await;
    world.ask(&image).await.refuses("and not about sha256:");
    registry.attach(REPOSITORY, &digest, fixture("key-ecdsa-p256.bundle.json"));
    later().await;
    world.ask(&image).await.admits("Registry");
}

#[tokio::test(start_paused = true)]
async fn a_threshold_counts_signers_and_not_signatures() {
    let (registry, world, digest, image) = scene(json!({ "signatures": { "threshold": 2 } })).await;
    registry.attach(REPOSITORY, &digest, fixture("key-ecdsa-p256.bundle.json"));
    registry.attach(REPOSITORY, &digest, fixture("js-p256.bundle.json"));
    world.ask(&image).await.refuses("it is signed by 1 of the 2 that are wanted; not by release");
    registry.attach(REPOSITORY, &digest, fixture("key-ed25519.bundle.json"));
    later().await;
    world.ask(&image).await.admits("Registry");
}

/// "Could not ask" is never "not signed", and opens by no knob of an author's.
#[tokio::test(start_paused = true)]
async fn what_could_not_be_fetched_is_not_called_unsigned() {
    for place in ["/referrers/", ".sig", "/blobs/"] {
        let (registry, world, digest, image) = scene(signatures()).await;
        registry.attach(REPOSITORY, &digest, fixture("key-ecdsa-p256.bundle.json"));
        registry.fault(place, Fault::Answer(500, Vec::new(), String::new()));
        let answer = world.ask(&image).await;
        assert!(!answer.allowed && !answer.message.contains("not signed"), "{place}: {answer:?}");
        assert_eq!(answer.status.as_ref().map(|(code, _)| *code), Some(504), "{place}: {answer:?}");
        registry.clear_faults();
        later().await;
        world.ask(&image).await.admits("Registry");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_signed_at_the_last_look_opens_in_no_outage() {
    let (mut registry, world, _, image) = scene(signatures()).await;
    world.set_knobs(open());
    ask(&world, &signatures());
    world.ask(&image).await.refuses("it is not signed by build");
    registry.close().await;
    let answer = world.ask(&image).await;
    assert!(!answer.allowed, "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bill_of_materials_and_a_report_have_to_be_signed_and_good_enough() {
    let require = json!({ "sbom": { "by": ["build"], "formats": ["CycloneDX"] }, "vulnerabilities": { "by": ["build"] } });
    let (registry, world, digest, image) = scene(require).await;
    registry.attach(REPOSITORY, &digest, fixture("spdx.bundle.json"));
    world.ask(&image).await.refuses("it has no SBOM in CycloneDX signed by build");
    registry.attach(REPOSITORY, &digest, fixture("cyclonedx.bundle.json"));
    later().await;
    world.ask(&image).await.refuses("it has no vulnerability report signed by build");
    registry.attach(REPOSITORY, &digest, fixture("vuln-high.bundle.json"));
    later().await;
    world.ask(&image).await.refuses("its vulnerability report does not do: ");
    registry.attach(REPOSITORY, &digest, fixture("vex.bundle.json"));
    let with_vex = json!({ "vulnerabilities": { "by": ["build"], "vexBy": ["build"] } });
    ask(&world, &with_vex);
    later().await;
    let answer = world.ask(&image).await;
    answer.admits("Registry");
    let old = json!({ "vulnerabilities": { "by": ["build"], "maxSeverity": "Critical", "maxAge": "24h" } });
    ask(&world, &old);
    later().await;
    world.ask(&image).await.refuses("is older than 1d");
}

#[tokio::test(start_paused = true)]
async fn what_is_attached_in_bad_faith_costs_little_and_is_named() {
    // Ten thousand referrers.
    let (registry, world, digest, image) = scene(signatures()).await;
    let junk = registry.push_artifact(REPOSITORY, None, BUNDLE, &[(BUNDLE, Bytes::from_static(b"{}"), json!({}))]);
    for number in 0..10_000_u32 {
        registry.refer(REPOSITORY, &digest, &Digest::of(&number.to_be_bytes()), BUNDLE);
    }
    world.ask(&image).await.refuses("more than 64 things that may be signatures refer to it; no more are looked at");
    assert!(registry.requests().len() < 100, "{}", registry.requests().len());
    drop(junk);

    // An attestation of 100 MB, by its own word and against it.
    for size in [100_000_000_u64, 1_000] {
        let (registry, world, digest, image) = scene(signatures()).await;
        let large = registry.push_blob(REPOSITORY, vec![b' '; 2_000_000]);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": BUNDLE, "config": { "digest": Digest::of(b"{}").to_string() },
            "layers": [{ "mediaType": BUNDLE, "digest": large.to_string(), "size": size }],
        });
        let artifact = registry.push(REPOSITORY, None, OCI_MANIFEST, manifest.to_string());
        registry.refer(REPOSITORY, &digest, &artifact, BUNDLE);
        let why = if size > 1_000 { "it has 100000000 bytes, and at most 25165824 are read" } else { "sends more than " };
        world.ask(&image).await.refuses(why);
    }

    // A bundle nested a thousand deep.
    let (registry, world, digest, image) = scene(signatures()).await;
    registry.attach(REPOSITORY, &digest, format!("{}{}", r#"{"a":"#.repeat(1_000), "}".repeat(1_000)));
    world.ask(&image).await.refuses("nested deeper than 64 levels");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_taken_out_of_a_policy_costs_no_request_and_a_new_one_is_looked_for() {
    let (registry, world, digest, image) = scene(json!({ "signatures": { "threshold": 2 } })).await;
    registry.attach(REPOSITORY, &digest, fixture("key-ecdsa-p256.bundle.json"));
    world.ask(&image).await.refuses("not by release");
    let asked = registry.requests().len();
    ask(&world, &signatures());
    world.ask(&image).await.admits("Registry");
    assert_eq!(registry.requests().len(), asked, "{:?}", registry.log());
}

/// A registry behind a proxy names itself as it is called there.
#[tokio::test(start_paused = true)]
async fn a_list_goes_on_whatever_host_its_next_page_names() {
    let next = |path: &str, query: &str| format!("<http://internal:5000{path}?{query}>; rel=\"next\"");
    let registry = FakeRegistry::builder();
    let artifact =
        FakeRegistry::start().await.push_artifact(REPOSITORY, None, BUNDLE, &[(BUNDLE, fixture("key-ecdsa-p256.bundle.json"), json!({}))]);
    let registry = registry
        .before(move |request| {
            let path = request.path.strip_prefix("/v2/team/app/referrers/")?;
            let page = |entries: Value, link: Option<String>| {
                let list = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
                let mut headers = vec![("content-type", OCI_INDEX.to_owned())];
                headers.extend(link.map(|link| ("link", link)));
                Some(respond(200, &headers, list.to_string()))
            };
            match request.query.as_slice() {
                [] => page(json!(null), Some(next(&format!("/v2/team/app/referrers/{path}"), "n=2"))),
                [(_, two)] if two == "2" => page(json!([{ "digest": artifact.to_string(), "artifactType": BUNDLE }]), None),
                other => panic!("{other:?}"),
            }
        })
        .start()
        .await;
    let world = World::new(shut()).with(&Listed::new(&registry));
    ask(&world, &signatures());
    let digest = registry.push(REPOSITORY, Some("1"), OCI_MANIFEST, fixture("manifest.json"));
    registry.push_artifact(REPOSITORY, None, BUNDLE, &[(BUNDLE, fixture("key-ecdsa-p256.bundle.json"), json!({}))]);
    world.ask(&format!("{}/{REPOSITORY}@{digest}", registry.host())).await.admits("Registry");
}

/// What anybody may attach takes no signature away; but no report is the latest while something could not be read.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_hides_no_signature_and_lets_no_report_count() {
    let (registry, world, digest, image) = scene(signatures()).await;
    registry.attach(REPOSITORY, &digest, fixture("key-ecdsa-p256.bundle.json"));
    registry.attach(REPOSITORY, &digest, fixture("vuln-clean.bundle.json"));
    registry.refer(REPOSITORY, &digest, &Digest::of(b"nowhere"), BUNDLE);
    let odd = registry.push(REPOSITORY, None, OCI_MANIFEST, r#"{"schemaVersion":2,"layers":[{"digest":"x"}]}"#);
    registry.refer(REPOSITORY, &digest, &odd, BUNDLE);
    world.ask(&image).await.admits("Registry");
    ask(&world, &json!({ "vulnerabilities": {} }));
    later().await;
    world.ask(&image).await.refuses("not everything that is attached to it could be read, and a later report may be among that");
}

/// A policy that trusts an identity waits for its trusted root, and then goes by the certificates under it.
#[tokio::test(start_paused = true)]
async fn an_identity_is_trusted_by_the_trusted_root_that_is_named() {
    let (registry, world, digest, image) = scene(signatures()).await;
    let keyless = |subject: Value| {
        let mut keyless = json!({ "issuer": "https://issuer.example", "trustRoot": { "configMapName": "sigstore", "key": "root.json" } });
        keyless.as_object_mut().unwrap().extend(subject.as_object().unwrap().clone());
        let policy: QuarantinePolicy = serde_json::from_value(json!({
            "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": "all-images" },
            "spec": {
                "authorities": [{ "name": "builder", "keyless": keyless }, authority("build", "ecdsa-p256")],
                "require": { "unmanaged": "Allow", "signatures": { "by": ["builder"] } },
            },
        }))
        .unwrap();
        assert!(world.index.write().apply_policy(&policy));
        assert!(world.index.read().unreadable().is_empty(), "{:?}", world.index.read().unreadable());
    };
    registry.attach(REPOSITORY, &digest, fixture("keyless.bundle.json"));
    keyless(json!({ "subject": "builder@example.com" }));
    let answer = world.ask(&image).await;
    assert_eq!(answer.status.as_ref().map(|(code, _)| *code), Some(504), "its trusted root is not at hand: {answer:?}");

    let sources: Vec<_> = world.index.read().rules().root_sources().into_iter().collect();
    assert_eq!(sources.len(), 1, "{sources:?}");
    let root = |name: &str| Arc::new(TrustRoot::read(&fixture(name)).unwrap());
    assert!(world.index.write().apply_root(&sources[0], &root("keyless-other-root.trusted_root.json")));
    later().await;
    world.ask(&image).await.refuses("it is not signed by builder");
    assert!(world.index.write().apply_root(&sources[0], &root("keyless.trusted_root.json")));
    assert!(!world.index.write().apply_root(&sources[0], &root("keyless.trusted_root.json")), "the same is no news");
    later().await;
    world.ask(&image).await.admits("Registry");
    keyless(json!({ "subject": "somebody@example.com" }));
    later().await;
    world.ask(&image).await.refuses("it is not signed by builder");
    keyless(json!({ "subjectPattern": "*@example.com" }));
    world.ask(&image).await.admits("Registry");
}

/// Nobody signs it, so it only ever refuses.
#[tokio::test(start_paused = true)]
async fn an_image_whose_life_has_ended_does_not_start() {
    let (registry, world, digest, image) = scene(json!({ "endOfLife": {} })).await;
    let live = |end: &str, made: &str| {
        let annotations = json!({
            "vnd.microsoft.artifact.lifecycle.end-of-life.date": end, "org.opencontainers.image.created": made,
        });
        let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": null, "annotations": annotations });
        let artifact = registry.push(REPOSITORY, None, OCI_MANIFEST, manifest.to_string());
        registry.refer(REPOSITORY, &digest, &artifact, "application/vnd.microsoft.artifact.lifecycle");
    };
    world.ask(&image).await.admits("Registry");
    live("2020-06-30", "2020-01-01T00:00:00Z");
    later().await;
    world.ask(&image).await.refuses("its life ended on 2020-06-30, by what its makers attached to it; use a later image");
    live("2999-01-01T00:00:00Z", "2021-01-01T00:00:00Z");
    later().await;
    world.ask(&image).await.admits("Registry");
    live("2021-06-30", "2022-01-01T00:00:00Z");
    later().await;
    world.ask(&image).await.refuses("its life ended on 2021-06-30");
    ask(&world, &json!({ "endOfLife": { "grace": "36500d" } }));
    later().await;
    world.ask(&image).await.admits("Registry");
}
