//! The rules in the resources' definitions, each accepted and refused by a real API server.

use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use lazaretto::api::{ImageStatus, QuarantinePolicy, Registry};
use serde_json::{Value, json};

use super::{installed, refusal, untyped};
use crate::lab::install::NAMESPACE;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Asks for the object without making it.
async fn ask(kind: &str, name: &str, spec: &Value) -> kube::Result<DynamicObject> {
    let client = installed().await.client().await;
    let whole = json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    untyped(client, kind).create(&dry_run, &serde_json::from_value(whole).unwrap()).await
}

async fn accepts(kind: &str, spec: Value) -> DynamicObject {
    ask(kind, "a", &spec).await.unwrap_or_else(|error| panic!("{kind} {spec}: {error}"))
}

async fn refuses(kind: &str, spec: Value, message: &str) {
    let (code, text) = refusal(ask(kind, "a", &spec).await);
    assert!(code == 422 && text.contains(message), "{kind} {spec}: {code} {text}\nexpected: {message}");
}

#[tokio::test]
async fn a_policy() {
    let kind = "QuarantinePolicy";
    let whole = accepts(kind, json!({})).await;
    let policy: QuarantinePolicy = whole.try_parse().unwrap();
    assert_eq!(policy.spec, lazaretto::api::QuarantinePolicySpec::default(), "the API server's defaults are the program's");

    accepts(kind, json!({ "deny": [{ "image": "evil.example/**", "reason": "no" }, { "digest": DIGEST, "reason": "no" }] })).await;
    let either = "spec.deny[0]: Invalid value: give either image (a pattern) or digest";
    refuses(kind, json!({ "deny": [{ "reason": "no" }] }), either).await;
    refuses(kind, json!({ "deny": [{ "image": "a", "digest": DIGEST, "reason": "no" }] }), either).await;
    refuses(kind, json!({ "deny": [{ "image": "a" }] }), "spec.deny[0].reason: Required value").await;
    refuses(kind, json!({ "deny": [{ "digest": "sha256:1", "reason": "no" }] }), "spec.deny[0].digest in body should match").await;
    refuses(kind, json!({ "deny": [{ "image": "Upper", "reason": "no" }] }), "spec.deny[0].image in body should match").await;
    refuses(kind, json!({ "match": { "images": ["a b"] } }), "spec.match.images[0] in body should match").await;
    refuses(kind, json!({ "match": { "images": [""] } }), "spec.match.images[0] in body should be at least 1 chars long").await;
    refuses(kind, json!({ "match": { "excludeImages": ["a b"] } }), "spec.match.excludeImages[0] in body should match").await;
    refuses(kind, json!({ "mode": "Block" }), r#"spec.mode: Unsupported value: "Block": supported values: "Audit", "Warn", "Enforce""#)
        .await;
    refuses(kind, json!({ "whenUnknown": { "pending": "Warn" } }), r#"spec.whenUnknown.pending: Unsupported value: "Warn""#).await;

    accepts(kind, json!({ "whenUnknown": { "lastKnownGoodFor": "0s" } })).await;
    accepts(kind, json!({ "whenUnknown": { "lastKnownGoodFor": "1h30m" } })).await;
    for duration in ["", "5", "-1s", "1s1m", "1.5h", "1w"] {
        refuses(kind, json!({ "whenUnknown": { "lastKnownGoodFor": duration } }), "spec.whenUnknown.lastKnownGoodFor in body should").await;
    }

    let (code, message) = refusal(ask(kind, &"n".repeat(64), &json!({})).await);
    assert!(code == 422 && message.contains("the name of a policy has at most 63 characters"), "{message}");
    ask(kind, &"n".repeat(63), &json!({})).await.unwrap();
}

#[tokio::test]
async fn a_registry() {
    let kind = "Registry";
    let whole = accepts(kind, json!({ "hosts": ["registry.corp", "localhost:5000", "[::1]:5000"] })).await;
    let registry: Registry = whole.try_parse().unwrap();
    let defaults = lazaretto::api::RegistrySpec { hosts: registry.spec.hosts.clone(), ..Default::default() };
    assert_eq!(registry.spec, defaults, "the API server's defaults are the program's");

    refuses(kind, json!({}), "spec.hosts: Required value").await;
    refuses(kind, json!({ "hosts": [] }), "spec.hosts in body should have at least 1 items").await;
    refuses(kind, json!({ "hosts": ["a", "a"] }), "spec.hosts[1]: Duplicate value").await;
    refuses(kind, json!({ "hosts": ["Upper"] }), "spec.hosts[0] in body should match").await;
    refuses(kind, json!({ "hosts": ["a/b"] }), "spec.hosts[0] in body should match").await;
    refuses(kind, json!({ "hosts": ["a"], "repositories": ["a:b"] }), "spec.repositories[0] in body should match").await;

    let azure =
        |credentials: Value| json!({ "hosts": ["a"], "quarantine": { "provider": "AzureContainerRegistry" }, "credentials": credentials });
    accepts(kind, azure(json!({ "secretName": "s" }))).await;
    let needs = "provider AzureContainerRegistry needs credentials: quarantine states are not shown to anonymous callers";
    refuses(kind, azure(json!(null)), needs).await;
    refuses(kind, json!({ "hosts": ["a"], "quarantine": { "provider": "AzureContainerRegistry" } }), needs).await;
    accepts(kind, json!({ "hosts": ["a"], "quarantine": { "provider": "Managed" } })).await;

    let endpoint = |endpoint: &str, plain: bool| json!({ "hosts": ["a"], "endpoint": endpoint, "plainHTTP": plain });
    accepts(kind, endpoint("http://a:5000", true)).await;
    accepts(kind, endpoint("https://a", false)).await;
    accepts(kind, json!({ "hosts": ["a"], "plainHTTP": true })).await;
    let plain = "a plain http:// endpoint needs plainHTTP: true, and plainHTTP: true an http:// endpoint";
    refuses(kind, endpoint("http://a:5000", false), plain).await;
    refuses(kind, endpoint("https://a", true), plain).await;
    for wrong in ["ftp://a", "https://", "https://user@a", "https://a/path", "https://a?q"] {
        refuses(kind, endpoint(wrong, false), "spec.endpoint in body should match").await;
    }

    for interval in ["10s", "1m", "1h30m", "1d", "20d", "0m10s"] {
        accepts(kind, json!({ "hosts": ["a"], "pollInterval": interval })).await;
    }
    for interval in ["0s", "9s", "0d", "0d5s", "0h9s"] {
        refuses(kind, json!({ "hosts": ["a"], "pollInterval": interval }), "poll no more often than every 10s").await;
    }
    let limits = |limits: Value| json!({ "hosts": ["a"], "limits": limits });
    accepts(kind, limits(json!({ "requestsPerSecond": 1 }))).await;
    refuses(kind, limits(json!({ "requestsPerSecond": 0 })), "spec.limits.requestsPerSecond in body should be greater than or equal to 1")
        .await;
    refuses(kind, limits(json!({ "timeoutSeconds": 21 })), "spec.limits.timeoutSeconds in body should be less than or equal to 20").await;
    let half = json!({ "hosts": ["a"], "quarantine": { "processor": { "namespace": "scanner" } } });
    refuses(kind, half, "spec.quarantine.processor.serviceAccount: Required value").await;

    let (code, message) = refusal(ask(kind, &"n".repeat(64), &json!({ "hosts": ["a"] })).await);
    assert!(code == 422 && message.contains("the name of a registry has at most 63 characters"), "{message}");
}

#[tokio::test]
async fn a_waiver() {
    let kind = "Waiver";
    let waiver = |requirements: Value, named: Value| {
        let mut spec = json!({ "requirements": requirements, "reason": "r", "by": "admin", "expires": "2100-01-01T00:00:00Z" });
        spec.as_object_mut().unwrap().extend(named.as_object().unwrap().clone());
        spec
    };
    accepts(kind, waiver(json!(["Digest"]), json!({ "images": ["registry.corp/legacy/**"] }))).await;
    accepts(kind, waiver(json!(["Released", "Digest"]), json!({ "digests": [DIGEST] }))).await;
    accepts(kind, waiver(json!(["Released"]), json!({ "digests": [DIGEST], "images": [], "namespaces": ["a"] }))).await;
    let name = "name the images: digests or images";
    refuses(kind, waiver(json!(["Digest"]), json!({})), name).await;
    refuses(kind, waiver(json!(["Digest"]), json!({ "images": [], "digests": [] })), name).await;
    let pattern = "quarantine is waived by digest only: a pattern would also free what is pushed tomorrow";
    refuses(kind, waiver(json!(["Released"]), json!({ "images": ["**"] })), pattern).await;
    refuses(kind, waiver(json!(["Digest", "Released"]), json!({ "images": ["**"], "digests": [DIGEST] })), pattern).await;
    refuses(kind, waiver(json!([]), json!({ "digests": [DIGEST] })), "spec.requirements in body should have at least 1 items").await;
    refuses(kind, waiver(json!(["Digest", "Digest"]), json!({ "digests": [DIGEST] })), "spec.requirements[1]: Duplicate value").await;
    refuses(kind, waiver(json!(["Everything"]), json!({ "digests": [DIGEST] })), r#"Unsupported value: "Everything""#).await;
    for field in ["reason", "by", "expires"] {
        let mut spec = waiver(json!(["Digest"]), json!({ "digests": [DIGEST] }));
        spec.as_object_mut().unwrap().remove(field);
        refuses(kind, spec, &format!("spec.{field}: Required value")).await;
    }
    refuses(
        kind,
        waiver(json!(["Digest"]), json!({ "digests": [DIGEST], "expires": "tomorrow" })),
        "spec.expires in body must be of type date-time",
    )
    .await;
}

#[tokio::test]
async fn an_image_status() {
    let kind = "ImageStatus";
    accepts(kind, json!({ "subject": "r/x@sha256:1" })).await;
    refuses(kind, json!({}), "spec.subject: Required value").await;
    refuses(kind, json!({ "subject": "" }), "spec.subject in body should be at least 1 chars long").await;
    let decision = |state: &str| json!({ "subject": "r/x@sha256:1", "quarantine": { "state": state, "by": "admin", "reason": "r" } });
    accepts(kind, decision("Released")).await;
    refuses(
        kind,
        decision("Unmanaged"),
        r#"spec.quarantine.state: Unsupported value: "Unmanaged": supported values: "Released", "Quarantined", "Failed""#,
    )
    .await;
    for field in ["state", "by", "reason"] {
        let mut spec = decision("Released");
        spec["quarantine"].as_object_mut().unwrap().remove(field);
        refuses(kind, spec, &format!("spec.quarantine.{field}: Required value")).await;
    }
}

#[tokio::test]
async fn a_subject_never_changes_and_a_decision_expects_a_state() {
    let lab = installed().await;
    let ours: Api<ImageStatus> = Api::all(lab.client_of(NAMESPACE, "lazaretto").await);
    let admin: Api<ImageStatus> = Api::all(lab.client().await);
    let name = "expecting";
    let new = ImageStatus::new(name, serde_json::from_value(json!({ "subject": "r/x@sha256:1" })).unwrap());
    ours.create(&PostParams::default(), &new).await.unwrap();
    let merge = async |patch: Value| admin.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;

    let (code, message) = refusal(merge(json!({ "spec": { "subject": "r/y@sha256:1" } })).await);
    assert_eq!(code, 422);
    assert!(message.contains("the subject never changes: delete the object and let Lazaretto make another"), "{message}");

    let decide = |state: &str, expects: Value| json!({ "spec": { "quarantine": { "state": state, "by": "admin", "reason": "r", "expects": expects } } });
    // Nothing is known yet: any expectation passes.
    merge(decide("Quarantined", json!("Released"))).await.unwrap();
    let record = async |state: &str| {
        let patch = Patch::Merge(json!({ "status": { "state": state } }));
        ours.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    };
    // A decision that stands does not hinder later facts.
    record("Failed").await;
    let (code, message) = refusal(merge(decide("Released", json!("Quarantined"))).await);
    assert_eq!(code, 422);
    let moved = "the image is no longer in the state that this decision expects: look at it again, then decide";
    assert!(message.contains(moved), "{message}");
    merge(decide("Released", json!("Failed"))).await.unwrap();
    record("Released").await;
    merge(json!({ "metadata": { "labels": { "a": "b" } } })).await.unwrap();
    let (_, message) = refusal(merge(decide("Quarantined", json!("Failed"))).await);
    assert!(message.contains(moved), "{message}");
    merge(decide("Quarantined", json!(null))).await.unwrap();
}

/// What a person reads with `kubectl get` and `kubectl explain`.
#[tokio::test]
async fn kubectl_shows_and_explains_them() {
    let lab = installed().await;
    let shown = "{apiVersion: lazaretto.dev/v1alpha1, kind: QuarantinePolicy, metadata: {name: shown}, spec: {mode: Audit}}";
    lab.kubectl_input(&["create", "-f", "-"], shown).await.ok();
    // Categories are looked up in kubectl's cache, which may be older than the definitions.
    let cache = lab.directory().join("discovery");
    let all = lab.kubectl(&["get", "lazaretto", "--cache-dir", cache.to_str().unwrap(), "-o", "name"]).await.ok();
    assert!(all.stdout.contains("quarantinepolicy.lazaretto.dev/shown"), "{all}");
    for (resource, columns) in [
        ("imagestatuses", "NAME STATE SINCE BY REASON SUBJECT"),
        ("quarantinepolicies", "NAME MODE READY DEBTS WOULD REFUSE AGE"),
        ("registries", "NAME PROVIDER REACHABLE AUTHORIZED LAST PASS HOSTS"),
        ("waivers", "NAME REQUIREMENTS EXPIRES ACTIVE BY REASON"),
    ] {
        let client = lab.client().await;
        let request = http::Request::get(format!("/apis/lazaretto.dev/v1alpha1/{resource}"))
            .header("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
            .body(Vec::new())
            .unwrap();
        let table: Value = client.request(request).await.unwrap();
        let names: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect();
        assert_eq!(names.join(" ").to_uppercase(), columns);
    }
    for (field, text) in [
        ("imagestatus.spec.quarantine.expects", "When the image is in another state by then, the write is refused."),
        ("quarantinepolicy.spec.whenUnknown.registryUnavailable", "The registry is down, by evidence about the registry itself."),
        ("quarantinepolicy.status.wouldRefuse", "What the policy would refuse of what runs"),
        ("registry.spec.quarantine.provider", "Who keeps the flag."),
        ("waiver.spec.by", "Must be the requester's own."),
    ] {
        let explained = lab.kubectl(&["explain", field]).await.ok();
        let words: Vec<_> = explained.stdout.split_whitespace().collect();
        assert!(words.join(" ").contains(text), "{explained}");
    }
}

/// The manifests in the documentation, applied by the person they name.
#[tokio::test]
async fn the_examples_in_the_documentation_are_accepted() {
    let lab = installed().await;
    let jane = lab.kubeconfig_as("jane", &["system:masters"]);
    let document = std::fs::read_to_string(format!("{}/docs/resources.md", crate::lab::ROOT)).unwrap();
    let examples: Vec<_> = document.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() > 5);
    for (number, example) in examples.into_iter().enumerate() {
        let file = lab.directory().join(format!("example-{number}.yaml"));
        std::fs::write(&file, example).unwrap();
        let create = ["create", "--dry-run=server", "--validate=strict", "-f", file.to_str().unwrap()];
        lab.kubectl_with(&jane, &create).await.ok();
    }
}
