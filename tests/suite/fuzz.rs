//! Everything that strangers write, mutated: pods and reviews come from any author, pull secrets from any namespace.
//!
//! A target fails by panicking, by breaking a property of its own, or by taking [`PATIENCE`] for one input. Each searches for
//! `LAZARETTO_FUZZ_SECONDS`, 1 by default; `LAZARETTO_FUZZ_SEED` repeats a search.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use lazaretto::{
    api::{QuarantinePolicy, Registry},
    image::{Digest, Reference, Subject, read},
    index::Index,
    judgement::{self, Answer, FieldPath, Scope, Setting},
    keyring::{Holder, Keyring},
    pattern::Pattern,
    pod, proof, review,
};
use tokio::time::Instant;

use crate::support::random::{Random, search_until};

/// Inputs grow no further, in bytes.
const LONGEST: usize = 16 << 10;
/// Inputs that are kept to mutate further.
const POOL: usize = 256;
/// One input must never take so long, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a target on mutations of a corpus. The target panics on a fault.
fn fuzz(name: &str, corpus: &[&str], pieces: &[&str], target: impl Fn(&[u8])) {
    let mut random = Random::seeded(name);
    let until = search_until(Duration::from_secs(1));
    let mut pool: Vec<Vec<u8>> = corpus.iter().map(|text| text.as_bytes().to_vec()).collect();
    let mut runs = 0_usize;
    while runs < pool.len() || Instant::now() < until {
        let mut input = pool[if runs < pool.len() { runs } else { random.below(pool.len()) }].clone();
        if runs >= corpus.len() {
            for _ in 0..=random.below(4) {
                random.mutate(&mut input, pieces);
            }
            if random.one_in(20) {
                // Deep and long inputs come of repetition.
                let start = random.below(input.len() + 1);
                let end = start + random.below((input.len() - start).min(32) + 1);
                let repeated = input[start..end].repeat(1 + random.below(200));
                input.splice(end..end, repeated);
            }
            input.truncate(LONGEST);
        }
        let started = Instant::now();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            eprintln!("{name}: at run {runs}, input {:?}", String::from_utf8_lossy(&input));
            resume_unwind(panic);
        }
        assert!(started.elapsed() < PATIENCE, "{name}: {:?} takes {:?}", String::from_utf8_lossy(&input), started.elapsed());
        if random.one_in(8) {
            let place = random.below(POOL);
            match pool.get_mut(place) {
                // The corpus itself stays.
                Some(kept) if place >= corpus.len() => *kept = input,
                None => pool.push(input),
                Some(_) => {}
            }
        }
        runs += 1;
    }
    eprintln!("{name}: {runs} inputs");
}

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

// === image names and patterns ===

const HEX: &str = "4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1";

const NAME_PIECES: [&str; 28] = [
    "/",
    "//",
    ":",
    "@",
    ".",
    "..",
    "_",
    "__",
    "-",
    "[",
    "]",
    "*",
    "**",
    "/**/",
    "%2f",
    " ",
    "\0",
    "A",
    "a",
    "0",
    "é",
    "docker.io/",
    "localhost",
    ":443",
    ":5000",
    "[fd00::5]",
    "sha256:",
    "127.1",
];

#[test]
fn image_names() {
    let pinned = format!("registry.corp:5000/team/app:1@sha256:{HEX}");
    let long = format!("h.io/a@sha512:{HEX}{HEX}");
    let corpus =
        ["nginx", "docker.io/library/nginx:1.27", "LAZ/gate", "registry:443/x", "[fd00::1]:5000/gate:1", "10.0.0.5:5000/x", &pinned, &long];
    fuzz("Reference::parse", &corpus, &NAME_PIECES, |input| {
        let text = text(input);
        let _ = text.parse::<Digest>();
        match Reference::parse(&text) {
            Ok(reference) => {
                assert!(read(&text).is_ok());
                assert_eq!(Reference::parse(&reference.to_string()), Ok(reference.clone()));
                if let Some(subject) = reference.subject() {
                    assert_eq!(subject.to_string().parse::<Subject>(), Ok(subject.clone()));
                    assert!(subject.object_name().len() <= 63);
                }
            }
            Err(error) => {
                let sentence = error.to_string();
                assert!(sentence.len() <= 150 && sentence.chars().all(|character| (' '..='~').contains(&character)), "{sentence}");
                assert!(text.parse::<Subject>().is_err());
            }
        }
    });
}

#[test]
fn patterns() {
    let corpus =
        ["registry.corp/team/**", "**", "*.corp/**/app", "docker.io/library/nginx", "[fd00::1]:5000/*", "r.io/*a*a*a*b", "team-*/x"];
    let names = ["docker.io/library/nginx".to_owned(), format!("r.io/{}", "a".repeat(250)), format!("r.io{}", "/a".repeat(125))];
    fuzz("Pattern::parse", &corpus, &NAME_PIECES, |input| {
        let text = text(input);
        for (parsed, whole) in [(Pattern::parse(&text), true), (Pattern::parse_path(&text), false)] {
            let Ok(pattern) = parsed else { continue };
            for name in &names {
                let _ = pattern.matches(name);
            }
            // A pattern without stars speaks of exactly its own name, and that is a name.
            if !text.contains('*') {
                assert!(pattern.matches(&text) && !pattern.matches(&format!("{text}/x")));
                if whole {
                    assert_eq!(Reference::parse(&text).map(|reference| reference.name().to_owned()), Ok(text.clone()));
                }
            }
        }
    });
}

fn named<T: serde::de::DeserializeOwned>(kind: &str, spec: &serde_json::Value) -> T {
    let object = serde_json::json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": kind, "metadata": { "name": "x" }, "spec": spec });
    serde_json::from_value(object).unwrap()
}

/// Whatever a node would take a text for, no spelling gets an image past the rules about where it comes from and who may use it.
#[test]
fn sources_and_access() {
    let mut index = Index::default();
    let sources = serde_json::json!({ "released": "Off", "sources": { "allowed": ["registry.corp/**", "[fd00::5]:5000/**"], "unqualified": "Deny" } });
    index.apply_policy(&named::<QuarantinePolicy>("QuarantinePolicy", &serde_json::json!({ "require": sources })));
    let access = serde_json::json!({
        "hosts": ["registry.corp", "[fd00::5]:5000"], "exclude": ["library/old/**"],
        "access": [{ "paths": ["library/**"], "anonymous": true }, { "paths": ["coolteam/**"], "allow": { "namespaces": ["coolteam"] } }],
    });
    index.apply_registry(&named::<Registry>("Registry", &access));
    assert!(index.unreadable().is_empty());
    let (rules, labels) = (index.rules(), BTreeMap::new());
    let pinned = format!("registry.corp/coolteam/app:1@sha256:{HEX}");
    let corpus = [
        "registry.corp/library/base:1",
        "registry.corp/library/old/base",
        "registry.corp/library/../coolteam/app",
        "REGISTRY.corp:443/coolteam//app",
        "[fd00::5]:5000/coolteam/app",
        "docker.io/library/nginx",
        "nginx",
        &pinned,
    ];
    let pieces: Vec<&str> = NAME_PIECES.into_iter().chain(["registry.corp", "coolteam", "library", "old", "Registry"]).collect();
    fuzz("sources and access", &corpus, &pieces, |input| {
        let text = text(input);
        let setting = Setting::new(&rules, Scope::Enforce, "other", &labels, jiff::Timestamp::UNIX_EPOCH);
        let spoken = setting.spoken(FieldPath::Text("image"), &text);
        assert!(spoken.wants().is_none(), "the name decides");
        let admitted = judgement::conclude(&setting.consider_all(vec![spoken], |_| None)).answer == Answer::Admit;
        if admitted {
            // As a node reads it, which knows nothing of canonical names.
            let node = read(&text).unwrap();
            let domain = node.domain.to_ascii_lowercase();
            assert!(["registry.corp", "registry.corp:443", "[fd00::5]:5000"].contains(&&*domain), "{domain}");
            assert!(node.path.starts_with("library/") && !node.path.starts_with("library/old/"), "{}", node.path);
            assert!(!node.path.contains("..") && !node.path.contains("//"), "{}", node.path);
        }
    });
}

// === what the API server sends ===

const JSON_PIECES: [&str; 40] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "1e999",
    "-0",
    "{}",
    "[]",
    "[[[[[[[[",
    "\"\"",
    "\\u0000",
    "\\ud800",
    "\\",
    "é",
    "\u{feff}",
    "\"uid\":",
    "\"request\":",
    "\"object\":",
    "\"spec\":",
    "\"containers\":",
    "\"initContainers\":",
    "\"ephemeralContainers\":",
    "\"volumes\":",
    "\"image\":",
    "\"reference\":",
    "\"name\":",
    "\"template\":",
    "\"jobTemplate\":",
    "\"auths\":",
    "\"auth\":",
    "\"username\":",
    "\"password\":",
    "\"identitytoken\":",
    "dTpw",
    "=",
];

const POD: &str = r#"{"metadata":{"name":"p","namespace":"n","annotations":{"kubernetes.io/config.mirror":"h"},"ownerReferences":[]},"spec":{"nodeName":"n1","serviceAccountName":"s","imagePullSecrets":[{"name":"pull"}],"initContainers":[{"name":"i","image":"z:1"}],"containers":[{"name":"a","image":"x:1"},{"name":"b"}],"ephemeralContainers":null,"volumes":[{"name":"v","image":{"reference":"data:1"}}]}}"#;

#[test]
fn reviews() {
    let whole = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"705ab4f5-6393-11e8-b7cc-42010a800002","kind":{{"group":"","version":"v1","kind":"Pod"}},"name":"p","namespace":"n","operation":"CREATE","userInfo":{{"username":"u","groups":["g"]}},"object":{POD},"oldObject":null,"dryRun":false}}}}"#
    );
    let corpus = [whole.as_str(), r#"{"request":{"uid":"1"}}"#, r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#];
    fuzz("review::read", &corpus, &JSON_PIECES, |input| {
        let uid = review::uid_of(input);
        match review::read(input) {
            // Whatever becomes of the rest, the answer must carry this uid.
            Ok(request) => {
                assert_eq!(uid.as_deref(), Some(&*request.uid));
                if let Some(object) = request.object {
                    let _ = pod::read(object.get());
                }
            }
            Err(error) => assert!(error.to_string().chars().count() <= 250, "{error}"),
        }
    });
}

#[test]
fn pods_and_templates() {
    let deployment = format!(r#"{{"spec":{{"template":{POD}}}}}"#);
    let cron_job = format!(r#"{{"spec":{{"jobTemplate":{deployment}}}}}"#);
    let template = format!(r#"{{"template":{POD}}}"#);
    fuzz("pod::read", &[POD, &deployment, &cron_job, &template], &JSON_PIECES, |input| {
        let text = text(input);
        let short = |error: &String| assert!(error.chars().count() <= 200, "{error}");
        let read = pod::read(&text);
        match &read {
            Ok(pod) => {
                assert!(pod.new_images(pod).is_empty(), "nothing is new against itself");
                let same = pod::template("Pod", &text).expect("read above").expect("of a pod");
                assert!(same.images().eq(pod.images()));
                for named in pod.images() {
                    assert!(!named.image.is_empty());
                    let _ = (named.path(), Reference::parse(named.image));
                }
            }
            Err(error) => short(error),
        }
        for kind in pod::WORKLOAD_KINDS.into_iter().chain(["PodTemplate"]) {
            let _ = pod::template(kind, &text).inspect_err(short);
        }
    });
}

// === pull secrets ===

#[test]
fn pull_secrets() {
    let corpus = [
        r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dXNlcjpwYXNzd29yZA=="},"*.corp:5000/team":{"username":"u","password":"p"},"r.io":null}}"#,
        r#"{"registry.corp":{"auth":"dTpw\n","identitytoken":"t"},"[fd00::1]:5000":{"username":"u"},"[a-z].io":{}}"#,
        r#"{"auths":null}"#,
        "user",
    ];
    let kinds = [
        ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
        ("kubernetes.io/dockercfg", ".dockercfg"),
        ("kubernetes.io/basic-auth", "username"),
    ];
    fuzz("Keyring::add", &corpus, &JSON_PIECES, |input| {
        for (kind, key) in kinds {
            let mut data = BTreeMap::from([(key.to_owned(), ByteString(input.to_vec()))]);
            if key == "username" {
                data.insert("password".to_owned(), ByteString(input.to_vec()));
            }
            let secret = Secret { type_: Some(kind.to_owned()), data: Some(data), ..Secret::default() };
            for holder in [Holder::Pod, Holder::Registry] {
                let mut keyring = Keyring::default();
                match keyring.add(&secret, holder) {
                    Ok(()) => {
                        for name in ["docker.io/library/nginx", "registry.corp:5000/team/app", "[fd00::1]:5000/x", ""] {
                            let found = keyring.lookup(name);
                            assert!(found.is_empty() || !keyring.is_empty());
                        }
                    }
                    Err(error) => {
                        assert!(keyring.is_empty(), "all or nothing");
                        assert!(error.to_string().chars().count() <= 350, "{error}");
                    }
                }
            }
            let _ = Keyring::of_registry(&secret, "registry.corp:5000");
        }
    });
}

// === what is signed ===

const PROOF_PIECES: [&str; 22] = [
    "\"dsseEnvelope\":",
    "\"payloadType\":\"application/vnd.in-toto+json\"",
    "\"signatures\":[{\"sig\":\"",
    "\"verificationMaterial\":",
    "\"publicKey\":{\"hint\":\"\"}",
    "\"certificate\":{\"rawBytes\":\"\"}",
    "\"subject\":[{\"digest\":{\"sha256\":\"",
    "\"predicate\":{",
    "\"predicateType\":\"",
    "\"critical\":{\"image\":{\"docker-manifest-digest\":\"",
    "\"Vulnerabilities\":[",
    "\"Severity\":\"CRITICAL\"",
    "\"VulnerabilityID\":\"CVE-2026-0001\"",
    "\"metadata\":{\"scanFinishedOn\":\"2026-01-01T00:00:00Z\"}",
    "\"spdxVersion\":\"SPDX-2.3\"",
    "\"bomFormat\":\"CycloneDX\"",
    "null",
    "[]",
    "{}",
    "\\u0000",
    "1e999",
    "-1",
];

fn fixture(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/fixtures/proof/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The payload of a bundle's envelope, and its predicate.
fn statement(name: &str) -> (String, String) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let bundle: serde_json::Value = serde_json::from_str(&fixture(name)).unwrap();
    let payload = STANDARD.decode(bundle["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
    let read: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    (String::from_utf8(payload).unwrap(), read["predicate"].to_string())
}

fn signed() -> (proof::PublicKey, Digest) {
    let key = proof::PublicKey::from_pem(&fixture("keys/ecdsa-p256.pub.pem")).unwrap();
    (key, fixture("digest.txt").trim().parse().unwrap())
}

/// What is read of a trusted root is named by its own bytes, and holds up under a bundle.
#[test]
fn trusted_roots() {
    let corpus = ["keyless.trusted_root.json", "keyless-other-root.trusted_root.json", "js-keyless.trusted_root.json"].map(fixture);
    let bundle = fixture("keyless.bundle.json");
    let bundle = proof::Bundle::read(bundle.as_bytes()).unwrap();
    let (_, digest) = signed();
    let corpus: Vec<&str> = corpus.iter().map(String::as_str).collect();
    let pieces = [&PROOF_PIECES[..], &["\"tlogs\":[]", "\"ctlogs\":null", "\"validFor\":{}", "rawBytes", "9999-12-31T00:00:00Z"]].concat();
    fuzz("trusted root", &corpus, &pieces, |input| {
        let Ok(root) = proof::TrustRoot::read(input) else { return };
        assert_eq!(*root.fingerprint(), Digest::of(input));
        if let Ok(attested) = proof::keyless(&bundle, &root, proof::Subject::Digest(&digest)) {
            assert!(matches!(attested.signer, proof::Signer::Keyless { root: named, .. } if named == Digest::of(input)));
        }
    });
}

/// Nothing but what was signed is accepted: a mutation that is, says what the original says.
#[test]
fn bundles() {
    let (key, digest) = signed();
    let corpus = ["key-ecdsa-p256.bundle.json", "js-p256.bundle.json", "message.bundle.json", "keyless.bundle.json"].map(fixture);
    let root = proof::TrustRoot::read(fixture("keyless.trusted_root.json").as_bytes()).unwrap();
    let corpus: Vec<&str> = corpus.iter().map(String::as_str).collect();
    fuzz("bundle", &corpus, &PROOF_PIECES, |input| {
        let Ok(bundle) = proof::Bundle::read(input) else { return };
        let subject = proof::Subject::Digest(&digest);
        for attested in [proof::with_key(&bundle, &key, subject), proof::keyless(&bundle, &root, subject)].into_iter().flatten() {
            if let proof::Said::Statement(statement) = attested.said {
                assert_eq!(statement.predicate_type, proof::statement::SIGNED);
            }
        }
    });
}

#[test]
fn envelopes_and_statements() {
    let (key, digest) = signed();
    let bundle: serde_json::Value = serde_json::from_str(&fixture("spdx.bundle.json")).unwrap();
    let (envelope, (payload, _)) = (bundle["dsseEnvelope"].to_string(), statement("several-subjects.bundle.json"));
    fuzz("dsse", &[&envelope, &payload], &PROOF_PIECES, |input| {
        if let Ok(statement) = proof::Statement::about(input, &digest) {
            assert!(!statement.predicate_type.is_empty() && statement.predicate_type.len() <= 256);
        }
        let Ok(envelope) = proof::dsse::Envelope::read(input) else { return };
        if envelope.verify(&key).is_ok() {
            assert!(envelope.expect_statement().is_ok(), "the type is signed, too");
        }
    });
}

#[test]
fn simple_signing_payloads() {
    let (key, digest) = signed();
    let (payload, signature) = (fixture("simple.payload.json"), fixture("simple.signature.b64"));
    fuzz("simple signing", &[&payload], &PROOF_PIECES, |input| {
        let accepted = proof::simple::with_key(input, signature.trim(), &key, &digest).is_ok();
        assert!(!accepted || input == payload.as_bytes(), "another payload is accepted");
        let _ = proof::simple::with_key(payload.as_bytes(), &text(input), &key, &digest);
    });
}

#[test]
fn vulnerability_reports() {
    let corpus =
        ["vuln-clean.bundle.json", "vuln-high.bundle.json", "vulns-v02.bundle.json", "vex.bundle.json"].map(|name| statement(name).1);
    let corpus: Vec<&str> = corpus.iter().map(String::as_str).collect();
    let (_, digest) = signed();
    let kinds = [
        "https://cosign.sigstore.dev/attestation/vuln/v1",
        "https://in-toto.io/attestation/vulns/v0.1",
        "https://in-toto.io/attestation/vulns/v0.2",
        "application/sarif+json",
    ];
    fuzz("vulnerability report", &corpus, &PROOF_PIECES, |input| {
        for kind in kinds {
            let Ok(report) = proof::report::read(kind, input) else { continue };
            let summary = proof::report::Summary::of(&report);
            let json = serde_json::to_vec(&summary).unwrap();
            assert!(json.len() <= 1_200, "{} bytes", json.len());
            assert_eq!(serde_json::from_slice::<proof::report::Summary>(&json).unwrap(), summary);
        }
        let _ = proof::vex::read(input, &digest);
    });
}

#[test]
fn bills_of_materials() {
    let corpus = ["spdx.bundle.json", "cyclonedx.bundle.json"].map(|name| statement(name).1);
    let corpus: Vec<&str> = corpus.iter().map(String::as_str).collect();
    fuzz("SBOM header", &corpus, &PROOF_PIECES, |input| {
        for kind in ["https://spdx.dev/Document", "https://cyclonedx.org/bom"] {
            if let Ok(sbom) = proof::sbom::read(kind, input) {
                assert!(!sbom.version.is_empty() && sbom.name.chars().count() <= 64);
            }
        }
    });
}
