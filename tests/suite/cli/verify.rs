//! `lazaretto verify` over what reference signers signed.

use std::fs;

use serde_json::{Value, json};

use super::{Desk, policy};
use crate::support::registry::{FakeRegistry, Fault, OCI_MANIFEST};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/proof/");
const DIGEST: &str = "sha256:081294eb6f171bf6684ba99085580e7865ca430b98144a18683d43261526cd00";

fn fixture(name: &str) -> String {
    format!("{FIXTURES}{name}")
}

/// The checks of a report that did not pass.
fn failed(report: &Value) -> Vec<(String, String)> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["result"] != "Passed");
    checks.map(|check| (check["check"].as_str().unwrap().to_owned(), check["result"].as_str().unwrap().to_owned())).collect()
}

#[tokio::test]
async fn a_bundle_is_verified_with_a_key_by_digest_or_artifact() {
    let desk = Desk::new();
    let key = fixture("keys/ecdsa-p256.pub.pem");
    let bundle = fixture("key-ecdsa-p256.bundle.json");
    let ended = desk.run(&["verify", "--key", &key, "--bundle", &bundle, "--digest", DIGEST]).await;
    assert_eq!((ended.code, &*ended.err), (0, ""));
    let lines: Vec<&str> = ended.out.lines().collect();
    assert!(lines[0].starts_with("CHECK ") && lines[4].starts_with("Signature     Passed   the signature is right"), "{}", ended.out);
    assert!(ended.out.contains("https://sigstore.dev/cosign/sign/v1"), "{}", ended.out);

    let (message, artifact) = (fixture("message.bundle.json"), fixture("artifact.txt"));
    let ended = desk.run(&["verify", "--key", &key, "--bundle", &message, "--artifact", &artifact, "-o", "json"]).await;
    assert_eq!((ended.code, &ended.json()["verified"]), (0, &json!(true)), "{}", ended.err);
    let ended = desk.run(&["verify", "--key", &key, "--bundle", &message, "--artifact", &bundle, "-o", "json"]).await;
    assert_eq!((ended.code, &ended.json()["verified"]), (1, &json!(false)));
    assert_eq!(failed(&ended.json()), [("Digest".to_owned(), "Failed".to_owned())]);
}

#[tokio::test]
async fn a_bundle_that_proves_nothing_shows_where_it_fails_and_what_was_not_reached() {
    let desk = Desk::new();
    let key = fixture("keys/ecdsa-p384.pub.pem");
    let ended =
        desk.run(&["verify", "--key", &key, "--bundle", &fixture("js-p256-no-hint.bundle.json"), "--digest", DIGEST, "-o", "json"]).await;
    assert_eq!((ended.code, &*ended.err), (1, ""));
    let failed = failed(&ended.json());
    let failed: Vec<(&str, &str)> = failed.iter().map(|(check, result)| (&**check, &**result)).collect();
    assert_eq!(failed, [("Signature", "Failed"), ("Statement", "NotReached"), ("Digest", "NotReached")]);
}

#[tokio::test]
async fn a_keyless_bundle_is_verified_offline_against_a_trusted_root() {
    let desk = Desk::new();
    let root = fixture("keyless.trusted_root.json");
    let run = async |bundle: &str, identity: &str| {
        let issuer = "https://issuer.example";
        let bundle = fixture(bundle);
        let trust = ["--trusted-root", &*root, "--certificate-identity", identity, "--certificate-oidc-issuer", issuer];
        let about = ["--bundle", &*bundle, "--digest", DIGEST, "-o", "json"];
        desk.run(&[&["verify"], &trust[..], &about[..]].concat()).await
    };
    let ended = run("keyless.bundle.json", "builder@example.com").await;
    assert_eq!((ended.code, ended.json()["checks"].as_array().unwrap().len()), (0, 11), "{}{}", ended.out, ended.err);
    assert_eq!(ended.json()["signer"], "builder@example.com (by https://issuer.example)");
    let ended = run("keyless.bundle.json", "somebody@example.com").await;
    assert_eq!((ended.code, &*failed(&ended.json())[0].0), (1, "Identity"));
    let ended = run("keyless-no-inclusion.bundle.json", "builder@example.com").await;
    assert_eq!((ended.code, &*failed(&ended.json())[0].0), (1, "Log"));
}

#[tokio::test]
async fn what_cannot_be_read_is_no_refusal() {
    let desk = Desk::new();
    fs::write(desk.path().join("key.pem"), "hello").unwrap();
    let bundle = fixture("key-ecdsa-p256.bundle.json");
    let ended = desk.run(&["verify", "--key", "key.pem", "--bundle", &bundle, "--digest", DIGEST]).await;
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("cannot read key.pem: no public key in PEM"), "{}", ended.err);
    let key = fixture("keys/ecdsa-p256.pub.pem");
    let ended = desk.run(&["verify", "--key", &key, "--bundle", "missing.json", "--digest", DIGEST]).await;
    assert!(ended.code == 2 && ended.err.contains("cannot read missing.json"), "{}", ended.err);
    let ended = desk.run(&["verify", "--key", &key, "--bundle", &bundle]).await;
    assert_eq!(ended.code, 2, "what it is about has to be given");
    fs::write(desk.path().join("key.pem"), "-".repeat(5_000)).unwrap();
    let ended = desk.run(&["verify", "--key", "key.pem", "--bundle", &bundle, "--digest", DIGEST]).await;
    assert!(ended.code == 2 && ended.err.contains("key.pem has more than 4 KiB"), "{}", ended.err);
}

#[tokio::test]
async fn an_image_is_verified_at_its_registry_by_what_policies_ask() {
    let registry = FakeRegistry::start().await;
    let (desk, authority) = (Desk::new(), fs::read_to_string(fixture("keys/ecdsa-p256.pub.pem")).unwrap());
    desk.put(
        "rules.yaml",
        &[
            policy(
                "signed",
                &json!({ "authorities": [{ "name": "build", "publicKey": authority }], "require": { "signatures": {}, "sbom": {} } }),
            ),
            super::registry("corp", &serde_json::to_value(registry.spec()).unwrap()),
        ],
    );
    let read = |name: &str| fs::read(fixture(name)).unwrap();
    let digest = registry.push("team/app", Some("1"), OCI_MANIFEST, read("manifest.json"));
    let image = format!("{}/team/app:1", registry.host());
    let run = async || desk.run(&["verify", &image, "--policy", "rules.yaml", "-o", "json"]).await;
    let results = |report: &Value| -> Vec<(String, String)> {
        let checks = report["checks"].as_array().unwrap().iter();
        checks.map(|check| (check["requirement"].as_str().unwrap().into(), check["result"].as_str().unwrap().into())).collect()
    };
    let pairs = |first: &str, second: &str| vec![("Signatures".to_owned(), first.to_owned()), ("SBOM".to_owned(), second.to_owned())];
    registry.attach("team/app", &digest, read("key-ecdsa-p256.bundle.json"));
    let ended = run().await;
    assert_eq!((ended.code, results(&ended.json())), (1, pairs("Passed", "Failed")), "{}", ended.err);
    assert_eq!(ended.json()["checks"][1]["detail"], "it has no SBOM signed by build; sign and attach what is missing");
    registry.attach("team/app", &digest, read("spdx.bundle.json"));
    let ended = run().await;
    assert_eq!((ended.code, results(&ended.json())), (0, pairs("Passed", "Passed")), "{}", ended.err);
    assert_eq!(ended.json()["subject"], format!("{}/team/app@{digest}", registry.host()));

    // What cannot be asked is not unsigned.
    registry.fault("/referrers/", Fault::Answer(500, Vec::new(), String::new()));
    let ended = run().await;
    assert_eq!((ended.code, results(&ended.json())), (3, pairs("Unknown", "Unknown")), "{}", ended.err);
    let ended = desk.run(&["verify", "registry.example/other:1", "--policy", "missing.yaml"]).await;
    assert_eq!(ended.code, 2);
}

#[tokio::test]
async fn of_an_index_each_image_is_shown_that_a_node_may_run() {
    let registry = FakeRegistry::start().await;
    let (desk, authority) = (Desk::new(), fs::read_to_string(fixture("keys/ecdsa-p256.pub.pem")).unwrap());
    desk.put(
        "rules.yaml",
        &[
            policy("signed", &json!({ "authorities": [{ "name": "build", "publicKey": authority }], "require": { "signatures": {} } })),
            super::registry("corp", &serde_json::to_value(registry.spec()).unwrap()),
        ],
    );
    let signed = registry.push("team/app", None, OCI_MANIFEST, fs::read(fixture("manifest.json")).unwrap());
    registry.attach("team/app", &signed, fs::read(fixture("key-ecdsa-p256.bundle.json")).unwrap());
    let other = registry.push_image("team/app", "other", "other");
    registry.push_index("team/app", Some("1"), &[(&signed, "linux", "amd64"), (&other, "linux", "arm64")]);
    let image = format!("{}/team/app:1", registry.host());
    let run = async |more: &[&str]| desk.run(&[&["verify", &image, "--policy", "rules.yaml"], more].concat()).await;
    let ended = run(&["-o", "json"]).await;
    let report = ended.json();
    let check = &report["checks"][0];
    let of = |at: usize| (check["platforms"][at]["platform"].as_str().unwrap(), check["platforms"][at]["result"].as_str().unwrap());
    assert_eq!(
        (ended.code, check["result"].as_str(), of(0), of(1)),
        (1, Some("Failed"), ("linux/amd64", "Passed"), ("linux/arm64", "Failed"))
    );
    assert!(check["detail"].as_str().unwrap().starts_with("linux/arm64: it is not signed by build"), "{check}");
    let table = run(&[]).await.out;
    let rows: Vec<String> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!((&*rows[1], &*rows[2]), ("policy signed Signatures Failed -", "- linux/amd64 Passed -"), "{table}");
    assert!(rows[3].starts_with("- linux/arm64 Failed it is not signed by build"), "{table}");
    let ended = run(&["--platform", "linux/amd64", "-o", "json"]).await;
    assert_eq!((ended.code, ended.json()["checks"][0]["platforms"].as_array().map(Vec::len)), (0, Some(1)), "{}", ended.err);
    let ended = run(&["--platform", "linux"]).await;
    assert!(ended.code == 2 && ended.err.contains("such as linux/arm64"), "{}", ended.err);
}
