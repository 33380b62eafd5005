//! What reference signers signed (`tests/fixtures/proof`), as it is and tampered with.

use ::base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{keyless::Wanted, *};

fn fixture(name: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/proof/");
    std::fs::read(format!("{path}{name}")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn text(name: &str) -> String {
    String::from_utf8(fixture(name)).unwrap()
}

fn digest() -> Digest {
    text("digest.txt").trim().parse().unwrap()
}

fn key(kind: &str) -> PublicKey {
    PublicKey::from_pem(&text(&format!("keys/{kind}.pub.pem"))).unwrap()
}

fn bundle(name: &str) -> Bundle {
    Bundle::read(&fixture(name)).unwrap_or_else(|refusal| panic!("{name}: {refusal}"))
}

fn root(name: &str) -> TrustRoot {
    TrustRoot::read(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The predicate type of what a bundle proves with the P-256 key, or where it fails and why.
fn proves(bytes: &[u8], key: &PublicKey) -> Result<String, (Step, String)> {
    let proven = Bundle::read(bytes).and_then(|bundle| {
        let attested = with_key(&bundle, key, Subject::Digest(&digest()))?;
        Ok(match attested.said {
            Said::Statement(statement) => statement.predicate_type,
            Said::Signature => "signature".to_owned(),
        })
    });
    proven.map_err(|refusal| (refusal.step, refusal.why))
}

/// A bundle with something changed in its JSON.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut bundle: Value = serde_json::from_slice(&fixture(name)).unwrap();
    change(&mut bundle);
    serde_json::to_vec(&bundle).unwrap()
}

#[track_caller]
fn refused(found: Result<String, (Step, String)>, step: Step, why: &str) {
    let (at, said) = found.unwrap_err();
    assert!(at == step && said.contains(why), "{at:?}: {said}");
}

#[test]
fn what_sigstore_go_and_sigstore_js_sign_with_keys_is_accepted() {
    for kind in ["ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048", "rsa-3072"] {
        let found = proves(&fixture(&format!("key-{kind}.bundle.json")), &key(kind));
        assert_eq!(found.as_deref(), Ok(statement::SIGNED), "{kind}");
    }
    assert_eq!(proves(&fixture("js-p256.bundle.json"), &key("ecdsa-p256")).as_deref(), Ok(statement::SIGNED));
}

#[test]
fn a_statement_of_several_subjects_counts_when_one_of_them_is_ours() {
    let key = key("ecdsa-p256");
    assert!(proves(&fixture("several-subjects.bundle.json"), &key).is_ok());
    refused(proves(&fixture("twice.bundle.json"), &key), Step::Digest, "2 times: one subject has to be it");
    refused(proves(&fixture("other.bundle.json"), &key), Step::Digest, "and not about sha256:");
}

#[test]
fn what_is_tampered_with_is_refused_with_its_reason() {
    let (p256, name) = (key("ecdsa-p256"), "key-ecdsa-p256.bundle.json");
    let payload = |change: fn(String) -> String| {
        changed(name, |bundle| {
            let held = STANDARD.decode(bundle["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
            bundle["dsseEnvelope"]["payload"] = STANDARD.encode(change(String::from_utf8(held).unwrap())).into();
        })
    };
    let tampered = payload(|text| text.replace("Statement/v1", "Statement/v0.1"));
    refused(proves(&tampered, &p256), Step::Signature, "another key, or changed since");
    refused(proves(&fixture(name), &key("ed25519")), Step::Material, "signed with another key");
    let unhinted = changed(name, |bundle| bundle["verificationMaterial"]["publicKey"]["hint"] = "".into());
    assert!(proves(&unhinted, &p256).is_ok(), "a hint is none that must be there");
    for kind in ["ecdsa-p384", "ed25519", "rsa-2048"] {
        refused(proves(&unhinted, &key(kind)), Step::Signature, "the signature is not this ");
    }
    refused(proves(&fixture("wrong-type.bundle.json"), &p256), Step::PayloadType, "the payload is `text/plain`");
    let renamed = changed(name, |bundle| bundle["dsseEnvelope"]["payloadType"] = "application/json".into());
    refused(proves(&renamed, &p256), Step::PayloadType, "no in-toto statement");
    let whole = fixture(name);
    for end in 0..whole.trim_ascii_end().len() {
        assert_eq!(proves(&whole[..end], &p256).unwrap_err().0, Step::Read, "cut at {end}");
    }
    refused(proves(&whole[..whole.len() / 2], &p256), Step::Read, "it ends in the middle");
    let doubled = String::from_utf8(whole).unwrap().replacen('{', r#"{"mediaType":"x","#, 1);
    refused(proves(doubled.as_bytes(), &p256), Step::Read, "the key `mediaType` is there twice");
    let nested = format!("{}{}", r#"{"a":"#.repeat(1_000), "}".repeat(1_000));
    refused(proves(nested.as_bytes(), &p256), Step::Read, "nested deeper than 64 levels");
    refused(proves(&vec![b' '; bundle::MAX_BYTES + 1], &p256), Step::Read, "it has more than 24 MiB");
}

type Change = fn(&mut Value);

#[test]
fn a_bundle_of_an_odd_shape_is_refused() {
    let name = "key-ecdsa-p256.bundle.json";
    let cases: [(&str, Change); 8] = [
        ("no bundle of a version", |bundle| bundle["mediaType"] = "application/json".into()),
        ("no verificationMaterial", |bundle| drop(bundle.as_object_mut().unwrap().remove("verificationMaterial"))),
        ("neither a key's hint nor a certificate", |bundle| bundle["verificationMaterial"] = json!({})),
        ("more than one of", |bundle| bundle["verificationMaterial"]["certificate"] = json!({ "rawBytes": "" })),
        ("neither a dsseEnvelope nor", |bundle| drop(bundle.as_object_mut().unwrap().remove("dsseEnvelope"))),
        ("both a dsseEnvelope and", |bundle| bundle["messageSignature"] = json!({ "signature": "AAAA" })),
        ("the envelope has no signature", |bundle| bundle["dsseEnvelope"]["signatures"] = json!([])),
        ("has one signature, this has more", |bundle| {
            let signature = bundle["dsseEnvelope"]["signatures"][0].clone();
            bundle["dsseEnvelope"]["signatures"] = json!([signature, signature]);
        }),
    ];
    for (why, change) in cases {
        refused(proves(&changed(name, change), &key("ecdsa-p256")), Step::Read, why);
    }
}

#[test]
fn a_statement_with_a_key_twice_is_refused_though_it_is_signed() {
    let payload = br#"{"_type":"https://in-toto.io/Statement/v1","subject":[],"subject":[],"predicateType":"x"}"#;
    let refusal = Statement::about(payload, &digest()).unwrap_err();
    assert!(refusal.step == Step::Statement && refusal.why.contains("the key `subject` is there twice"), "{refusal:?}");
}

#[test]
fn an_artifact_is_verified_by_its_bytes_or_by_their_digest() {
    let (bundle, artifact) = (bundle("message.bundle.json"), fixture("artifact.txt"));
    let key = key("ecdsa-p256");
    for subject in [Subject::Artifact(&artifact), Subject::Digest(&Digest::of(&artifact))] {
        assert_eq!(with_key(&bundle, &key, subject).unwrap().said, Said::Signature);
    }
    let refusal = with_key(&bundle, &key, Subject::Artifact(b"another")).unwrap_err();
    assert_eq!(refusal.step, Step::Digest, "{refusal}");
    let signed = changed("message.bundle.json", |bundle| bundle["messageSignature"]["messageDigest"] = json!(null));
    let refusal = with_key(&Bundle::read(&signed).unwrap(), &key, Subject::Digest(&digest())).unwrap_err();
    assert_eq!((refusal.step, &*refusal.why), (Step::Signature, "the signature is not this key's over this artifact"));
}

#[test]
fn cosigns_older_signatures_are_accepted_and_their_forgeries_refused() {
    let (payload, signature, key) = (fixture("simple.payload.json"), text("simple.signature.b64"), key("ecdsa-p256"));
    let signature = signature.trim();
    let check = |payload: &[u8], signature: &str, digest: &Digest| {
        simple::with_key(payload, signature, &key, digest).map(|_| String::new()).map_err(|refusal| (refusal.step, refusal.why))
    };
    assert!(check(&payload, signature, &digest()).is_ok());
    refused(check(&payload, signature, &Digest::of(b"other")), Step::Digest, "and not about sha256:");
    refused(check(&payload, "!", &digest()), Step::Read, "no base64");
    let mut tampered = payload.clone();
    tampered[20] ^= 1;
    refused(check(&tampered, signature, &digest()), Step::Signature, "another key, or changed since");
}

#[test]
fn keyless_bundles_are_proven_by_their_logs() {
    let root = root("keyless.trusted_root.json");
    let (digest, fingerprint) = (digest(), Digest::of(&fixture("keyless.trusted_root.json")));
    for (name, subject) in [
        ("keyless.bundle.json", "builder@example.com"),
        ("keyless-rekor-v2.bundle.json", "builder@example.com"),
        ("keyless-integrated-time.bundle.json", "builder@example.com"),
    ] {
        let attested =
            keyless(&bundle(name), &root, Subject::Digest(&digest)).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}")).signer;
        let Signer::Keyless { issuer, subject: found, root } = attested else { panic!("{name}") };
        assert_eq!((&*issuer, &*found, root), ("https://issuer.example", subject, fingerprint.clone()), "{name}");
    }
    let js = self::root("js-keyless.trusted_root.json");
    assert!(keyless(&bundle("js-keyless.bundle.json"), &js, Subject::Digest(&digest)).is_ok());
    let uri = keyless(&bundle("keyless-uri.bundle.json"), &root, Subject::Digest(&digest)).unwrap().signer;
    assert!(matches!(&uri, Signer::Keyless { subject, .. } if subject.starts_with("https://")), "{uri}");
}

#[test]
fn keyless_bundles_that_prove_nothing_are_refused_with_the_step() {
    let (trusted, other) = (root("keyless.trusted_root.json"), root("keyless-other-root.trusted_root.json"));
    let digest = digest();
    let cases = [
        ("keyless-expired.bundle.json", &trusted, Step::Certificate),
        ("keyless-rekor-v2-expired.bundle.json", &trusted, Step::Certificate),
        ("keyless-no-inclusion.bundle.json", &trusted, Step::Log),
        ("keyless-no-sct.bundle.json", &trusted, Step::CertificateLog),
        ("keyless-no-time.bundle.json", &trusted, Step::Time),
        ("keyless-other-entry.bundle.json", &trusted, Step::Log),
        ("keyless-other.bundle.json", &trusted, Step::Digest),
        ("key-ecdsa-p256.bundle.json", &trusted, Step::Material),
    ];
    for (name, root, step) in cases {
        let refusal = keyless(&bundle(name), root, Subject::Digest(&digest)).unwrap_err();
        assert_eq!(refusal.step, step, "{name}: {refusal}");
    }
    let refusal = keyless(&bundle("keyless.bundle.json"), &other, Subject::Digest(&digest)).unwrap_err();
    assert!(matches!(refusal.step, Step::Certificate | Step::Time | Step::Log), "{refusal:?}");
    let refusal = with_key(&bundle("keyless.bundle.json"), &key("ecdsa-p256"), Subject::Digest(&digest)).unwrap_err();
    assert_eq!((refusal.step, &*refusal.why), (Step::Material, "it was signed with a certificate, and a key is trusted"));
}

#[test]
fn an_identity_is_wanted_exactly_or_by_the_whole_of_a_pattern() {
    let holds = |pattern: &str, text: &str| Wanted::Pattern(pattern.to_owned()).holds(text);
    assert!(Wanted::Exact("a*".to_owned()).holds("a*") && !Wanted::Exact("a*".to_owned()).holds("ab"));
    let cases = [
        ("https://forge.example/acme/*/build@refs/tags/*", "https://forge.example/acme/app/build@refs/tags/v1", true),
        ("https://forge.example/acme/*/build@refs/tags/*", "https://forge.example/acme/app/x/build@refs/tags/v1", false),
        ("https://forge.example/acme/*/build@refs/tags/*", "https://forge.example/acme/app/build@refs/tags/v1/x", false),
        ("https://forge.example/acme/**", "https://forge.example/acme/app/x/build", true),
        ("https://forge.example/acme/**", "https://forge.example/acme", false),
        ("https://forge.example/acme/**", "xhttps://forge.example/acme/app", false),
        ("*@example.com", "builder@example.com", true),
        ("*@example.com", "builder@example.com.evil", false),
        ("**", "", true),
        ("", "a", false),
        ("a**b*c", "a/x/b-c", true),
    ];
    for (pattern, text, held) in cases {
        assert_eq!(holds(pattern, text), held, "{pattern} {text}");
    }
    assert!(!holds(&"*a".repeat(100), &"a".repeat(99)));
}

#[test]
fn keys_of_other_kinds_and_other_texts_are_refused() {
    let why = |pem: &str| PublicKey::from_pem(pem).unwrap_err();
    assert_eq!(why(""), KeyError::NotPem);
    assert_eq!(why(&text("keys/ecdsa-p256.pem")), KeyError::NotPem);
    assert_eq!(why(&text("keys/ecdsa-p256.pub.pem").repeat(2)), KeyError::TooMuch);
    let rsa_1024 = "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDCFENGw33yGihy92pDjZQhl0C3\n6rPJj+CvfSC8+q28hxA161QFNUd13wuCTUcq0Qd2qsBe/2hFyc2DCJJg0h1L78+6\nZ4UMR7EOcpfdUE9Hf3m/hs+FUR45uBJeDK1HSFHD8bHKD6kv8FPGfJTotc+2xjJw\noYi+1hqp1fIekaxsyQIDAQAB\n-----END PUBLIC KEY-----\n";
    assert_eq!(why(rsa_1024), KeyError::Kind);
}

#[test]
fn a_trusted_root_that_trusts_nothing_is_none() {
    let why = |json: &[u8]| TrustRoot::read(json).unwrap_err().to_string();
    assert!(why(b"{}").starts_with("no trusted root: "), "{}", why(b"{}"));
    assert!(why(b"{\"a\":1,\"a\":1}").contains("twice"));
    let mut empty: Value = serde_json::from_slice(&fixture("keyless.trusted_root.json")).unwrap();
    empty["ctlogs"] = json!([]);
    assert!(why(&serde_json::to_vec(&empty).unwrap()).contains("needs certificateAuthorities, tlogs and ctlogs"));
}

#[test]
fn a_predicate_type_is_a_base_or_a_version_of_it() {
    let base = "https://spdx.dev/Document";
    let cases = [("", true), ("/v2.3", true), ("/v3", true), ("/x", false), ("s", false), ("/version", false), ("2", false)];
    for (rest, is) in cases {
        assert_eq!(statement::is_version_of(&format!("{base}{rest}"), base), is, "{rest}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Bundle::read(&bytes);
        let _ = dsse::Envelope::read(&bytes);
        let _ = Statement::about(&bytes, &digest());
        let _ = TrustRoot::read(&bytes);
        let _ = json::check(&bytes);
    }

    #[test]
    fn no_flipped_byte_of_a_bundle_is_accepted_as_another_statement(place in 0usize..2_000, flip in 1u8..=255) {
        let mut bytes = fixture("key-ecdsa-p256.bundle.json");
        let place = place % bytes.len();
        bytes[place] ^= flip;
        if let Ok(predicate_type) = proves(&bytes, &key("ecdsa-p256")) {
            prop_assert_eq!(predicate_type, statement::SIGNED);
        }
    }
}
