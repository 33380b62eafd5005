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
    image::{Digest, Reference, Subject, read},
    keyring::{Holder, Keyring},
    pattern::Pattern,
    pod, review,
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
