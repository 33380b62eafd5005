//! What a policy can be set to, each setting as the user meets it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use lazaretto::api::{QuarantinePolicy, Waiver};
use serde_json::{Value, json};

use crate::bypass::{IN_QUARANTINE, Refusal, Scene, container, dry_run, insist, pod, pod_with, read, registry};
use crate::lab::image::{INDEX, Image, MANIFEST};
use crate::lab::registry::{Options, Registry};
use crate::lab::wait::{MOMENT, eventually, until};
use crate::story;

#[tokio::test]
async fn warn_admits_and_says_so() {
    let scene = Scene::bare().await;
    scene.policy(json!({ "mode": "Warn" })).await;
    let (image, digest) = scene.push("app", "1").await;
    let output = story::run(scene.lab, &scene.namespace, "p", &image).await.ok();
    let warnings: Vec<_> = output.stderr.lines().filter_map(|line| line.strip_prefix("Warning: ")).collect();
    let [warning] = warnings[..] else { panic!("{output}") };
    let expected = format!("lazaretto: spec.containers[p].image: {IN_QUARANTINE} ");
    assert!(warning.starts_with(&expected) && warning.ends_with(&format!("[policy {}] {image}", scene.namespace)), "{warning}");
    assert!(warning.chars().count() <= 256, "{warning}");
    assert!(story::image_status(scene.lab, &digest).await.is_some());

    // However long the name is, the cause is read.
    let long = format!("{}/{}", "a".repeat(90), "b".repeat(90));
    let (image, _) = scene.push(&long, "1").await;
    let output = story::run(scene.lab, &scene.namespace, "q", &image).await.ok();
    let warning = output.stderr.lines().find_map(|line| line.strip_prefix("Warning: ")).unwrap_or_else(|| panic!("{output}"));
    assert!(warning.starts_with("lazaretto: spec.containers[q].image: in quarantine since"), "{warning}");
    assert_eq!(warning.chars().count(), 256, "{warning}");
}

#[tokio::test]
async fn audit_admits_in_silence_and_leaves_a_trace() {
    let scene = Scene::bare().await;
    scene.policy(json!({ "mode": "Audit" })).await;
    let (image, digest) = scene.push("app", "1").await;
    let output = story::run(scene.lab, &scene.namespace, "p", &image).await.ok();
    assert_eq!(output.stderr, "", "{output}");
    let expected = [
        ("basis", "Registry"),
        ("digest", digest.as_str()),
        ("image", image.as_str()),
        ("mode", "Audit"),
        ("policy", scene.namespace.as_str()),
        ("verdict", "Refuse"),
    ];
    eventually(MOMENT, "the API server's audit log has our annotations", async || {
        let mut found = scene.audited("p");
        found.retain(|(key, _)| key.starts_with("observe"));
        let mut found: Vec<_> = found.iter().map(|(key, value)| (key.rsplit('/').next().unwrap(), value.as_str())).collect();
        found.sort_unstable();
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    eventually(MOMENT, "a replica has written the audit line", async || {
        let lines = scene.replicas.iter().flat_map(|replica| replica.logs().lines().map(str::to_owned).collect::<Vec<_>>());
        let mut lines = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let found = lines
            .any(|line| line["event"] == "admission" && line["image"] == *image && line["mode"] == "Audit" && line["verdict"] == "Refuse");
        if found { Ok(()) } else { Err("not yet") }
    })
    .await;
}

/// What only observes blocks nobody, not even by what it cannot judge; nor does a policy block who has none.
#[tokio::test]
async fn a_pod_of_too_many_images_is_refused_only_where_it_would_be_judged() {
    let (enforced, observed, free) = (Scene::new().await, Scene::bare().await, Scene::bare().await);
    observed.policy(json!({ "mode": "Audit" })).await;
    let containers: Vec<_> = (0..257).map(|at| container(&format!("c{at}"), "elsewhere.corp/app:1")).collect();
    let crowd = pod_with("crowd", &json!({ "containers": containers }));
    enforced.refused(&crowd).await.says(&["the pod names 257 images; at most 256 can be judged at once"]);
    observed.create(&crowd).await.unwrap();
    free.create(&crowd).await.unwrap();
    eventually(MOMENT, "the audit log says that it was not judged", async || {
        let unjudged = observed.audited("crowd").into_iter().find(|(key, _)| key.starts_with("observe") && key.ends_with("/unjudged"));
        unjudged.filter(|(_, why)| why.starts_with("the pod names 257 images")).map(drop).ok_or("not yet")
    })
    .await;
}

#[tokio::test]
async fn a_denied_pattern_stops_what_is_released() {
    let scene = Scene::new().await;
    let (image, digest) = scene.push_released("app", "1").await;
    let (other, _) = scene.push_released("other", "1").await;
    let stop = format!("{}-stop", scene.namespace);
    let pattern = format!("{}/{}/app", registry().await.host(), scene.namespace);
    let deny = json!([{ "image": pattern, "reason": "CVE-2026-0001 is in it" }]);
    // It asks for nothing else, and asks no registry.
    scene.policy_named(&stop, json!({ "deny": deny, "require": { "released": "Off" } })).await;
    let sentence =
        format!("spec.containers[c].image {image} ({digest}): denied: CVE-2026-0001 is in it. Use another image [policy {stop}]");
    scene.refused(&pod("p", &image)).await.says(&[&sentence]);
    scene.refused(&pod("p", &registry().await.pinned(&scene.repository("app"), &digest))).await.says(&["denied: CVE-2026-0001"]);
    scene.create(&pod("p", &other)).await.unwrap();
}

#[tokio::test]
async fn a_denied_digest_stops_every_index_that_holds_it() {
    let scene = Scene::bare().await;
    let registry = registry().await;
    let repository = scene.repository("app");
    let (index, children) = registry.push_index(&repository, "1", &repository).await;
    let deny = json!([{ "digest": children[1], "reason": "it mines coins" }]);
    scene.policy(json!({ "deny": deny, "require": { "released": "Off" } })).await;
    let image = registry.tagged(&repository, "1");
    let sentence = format!("denied: it mines coins. Use another image [policy {}]", scene.namespace);
    scene.refused(&pod("p", &image)).await.says(&[&format!("{image} ({index}): {sentence}")]);
    for digest in [&index, &children[1]] {
        let image = registry.pinned(&repository, digest);
        scene.refused(&pod("p", &image)).await.says(&[&format!("{image}: {sentence}")]);
    }
    // The image for the other platform is another image; and quarantine is not what this policy asks about.
    scene.create(&pod("p", &registry.pinned(&repository, &children[0]))).await.unwrap();
}

/// An ImageStatus lists sixteen images of an index. A denied one may not hide behind sixteen others.
#[tokio::test]
async fn a_denied_digest_does_not_hide_at_the_end_of_a_long_index() {
    let scene = Scene::bare().await;
    let registry = registry().await;
    let repository = scene.repository("app");
    let (_, children) = registry.push_index(&repository, "1", &repository).await;
    let size = Image::for_platform(&repository, "linux", "amd64").manifest.len();
    let entry = |digest: &str, architecture: &str| json!({ "mediaType": MANIFEST, "digest": digest, "size": size, "platform": { "os": "linux", "architecture": architecture } });
    let mut entries: Vec<_> = (0..16).map(|at| entry(&children[1], &format!("old{at}"))).collect();
    entries.push(entry(&children[0], "amd64"));
    let long = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string();
    let digest = registry.push_manifest(&repository, "long", INDEX, long.as_bytes()).await;
    let image = registry.tagged(&repository, "long");

    let deny = json!([{ "digest": children[0], "reason": "it mines coins" }]);
    scene.policy(json!({ "deny": deny, "require": { "released": "Off" } })).await;
    let place = format!("spec.containers[c].image {image} ({digest}): ");
    let sentence = "the index has more than the 16 images that are held of one, and this policy denies some by digest: name the image for \
                    the node's platform by its own digest";
    // Whether anything is written of it or not: a dry run remembers no more than what would be written.
    let answer = scene.ask(&scene.replicas[0], "/validate", &scene.review(&pod("p", &image))).await;
    let message = answer["status"]["message"].as_str().unwrap_or_default();
    assert!(message.starts_with(&place) && message.contains(sentence), "{answer}");
    for _ in 0..3 {
        scene.refused(&pod("p", &image)).await.says(&[&place, sentence]);
    }
    scene.create(&pod("p", &registry.pinned(&repository, &children[1]))).await.unwrap();
    scene.refused(&pod("q", &registry.pinned(&repository, &children[0]))).await.says(&["denied: it mines coins"]);
}

#[tokio::test]
async fn a_policy_may_want_digests() {
    let scene = Scene::bare().await;
    scene.policy(json!({ "require": { "digest": "Deny" } })).await;
    let (_, digest) = scene.push("app", "1").await;
    let registry = registry().await;
    let (image, pinned) = (registry.tagged(&scene.repository("app"), "1"), registry.pinned(&scene.repository("app"), &digest));
    scene.refused(&pod("p", &pinned)).await.says(&[IN_QUARANTINE]);
    scene.release(&pinned, &digest).await;
    let sentence = "the image is named by tag, and this policy wants a digest: write NAME@sha256:...";
    scene.refused(&pod("p", &image)).await.says(&[&format!("spec.containers[c].image {image}: {sentence}")]);
    scene.create(&pod("p", &pinned)).await.unwrap();

    let warned = Scene::bare().await;
    warned.policy(json!({ "require": { "digest": "Warn" } })).await;
    let output = story::run(warned.lab, &warned.namespace, "p", &image).await.ok();
    let expected =
        format!("Warning: lazaretto: spec.containers[p].image: named by tag, not by digest [policy {}] {image}\n", warned.namespace);
    assert_eq!(output.stderr, expected);
    let output = story::run(warned.lab, &warned.namespace, "q", &pinned).await.ok();
    assert_eq!(output.stderr, "");
}

/// A requirement at level Warn in a policy that enforces.
#[tokio::test]
async fn a_quarantine_may_be_a_warning() {
    let scene = Scene::bare().await;
    scene.policy(json!({ "require": { "released": "Warn" } })).await;
    let (image, _) = scene.push("app", "1").await;
    let output = story::run(scene.lab, &scene.namespace, "p", &image).await.ok();
    assert!(output.stderr.starts_with(&format!("Warning: lazaretto: spec.containers[p].image: {IN_QUARANTINE}")), "{output}");
}

#[tokio::test]
async fn a_waiver_frees_one_image_in_one_namespace_until_it_expires() {
    let (scene, other) = (Scene::new().await, Scene::new().await);
    let (image, digest) = scene.push("app", "1").await;
    let (sibling, _) = scene.push("app", "2").await;
    scene.refused(&pod("p", &image)).await.says(&[IN_QUARANTINE]);
    let waivers: Api<Waiver> = Api::all(scene.client.clone());
    let expires = Timestamp::now() + Duration::from_secs(3_600);
    let spec = json!({
        "requirements": ["Released"], "digests": [digest], "namespaces": [scene.namespace], "reason": "a demonstration", "by": "admin",
        "expires": expires.to_string(),
    });
    let waiver: Waiver = read(&json!({ "metadata": { "name": scene.namespace }, "spec": spec }));
    waivers.create(&PostParams::default(), &waiver).await.unwrap();
    scene.known(&image, true).await;
    scene.create(&pod("p", &image)).await.unwrap();
    scene.refused(&pod("q", &sibling)).await.says(&[IN_QUARANTINE]);
    other.refused(&pod("p", &image)).await.says(&[&format!("{image} ({digest}): {IN_QUARANTINE}")]);
    eventually(MOMENT, "the audit log says on what it rests", async || {
        let basis = scene.audited("p").into_iter().find(|(key, value)| key.ends_with("/basis") && value == "Waiver");
        basis.map(drop).ok_or("not yet")
    })
    .await;

    // It never lifts a deny.
    let deny = format!("{}-deny", scene.namespace);
    scene.policy_named(&deny, json!({ "deny": [{ "digest": digest, "reason": "it is worse than we thought" }] })).await;
    scene.refused(&pod("q", &image)).await.says(&["denied: it is worse than we thought", &deny]);
    let policies: Api<QuarantinePolicy> = Api::all(scene.client.clone());
    policies.delete(&deny, &kube::api::DeleteParams::default()).await.unwrap();
    scene.known(&image, true).await;

    // Its end comes by the clock, without a write.
    let soon = Timestamp::now() + Duration::from_secs(3);
    let sooner = Patch::Merge(json!({ "spec": { "expires": soon.to_string() } }));
    waivers.patch(&scene.namespace, &PatchParams::default(), &sooner).await.unwrap();
    scene.known(&image, false).await;
    assert!(Timestamp::now() >= soon, "not before its time");
    scene.refused(&pod("q", &image)).await.says(&[&format!("{image} ({digest}): {IN_QUARANTINE}")]);
}

#[tokio::test]
async fn of_several_policies_each_must_admit() {
    let scene = Scene::bare().await;
    scene.policy(json!({ "require": { "released": "Off" } })).await;
    let (image, digest) = scene.push("app", "1").await;
    scene.create(&pod("p", &image)).await.unwrap();
    let name = |what: &str| format!("{}-{what}", scene.namespace);
    scene.policy_named(&name("observer"), json!({ "mode": "Warn" })).await;
    scene.create(&pod("q", &image)).await.unwrap();
    scene.policy_named(&name("strict"), json!({})).await;
    let refusal = scene.refused(&pod("r", &image)).await;
    refusal.says(&[&format!("{image} ({digest}): {IN_QUARANTINE}"), &format!("[policy {}]", name("strict"))]);
    refusal.silent(&format!("[policy {}]", scene.namespace)).silent(&name("observer"));
    // Two that refuse are both named: who satisfies one must not be surprised by the other.
    scene.policy_named(&name("digests"), json!({ "require": { "released": "Off", "digest": "Deny" } })).await;
    let both = scene.refused(&pod("r", &image)).await;
    both.says(&[&format!("[policy {}]", name("strict")), &format!("wants a digest: write NAME@sha256:... [policy {}]", name("digests"))]);
    // Yes from all: released, and named by digest.
    story::release(scene.lab, &digest, "scanned").await;
    let pinned = registry().await.pinned(&scene.repository("app"), &digest);
    scene.known(&pinned, true).await;
    scene.create(&pod("r", &pinned)).await.unwrap();
    scene.refused(&pod("s", &image)).await.says(&[&name("digests")]).silent(&name("strict"));
}

/// Who breaks a policy opens nothing, and can read what is wrong with it.
#[tokio::test]
async fn a_policy_that_cannot_be_read_stays_in_force_as_it_was() {
    let scene = Scene::new().await;
    let (image, _) = scene.push("app", "1").await;
    scene.refused(&pod("p", &image)).await.says(&[IN_QUARANTINE]);
    let here = json!({ "matchLabels": { "kubernetes.io/metadata.name": scene.namespace } });
    let unreadable = json!({ "matchExpressions": [{ "key": "a", "operator": "Near", "values": ["b"] }] });
    let cases = [
        (json!({ "namespaceSelector": unreadable, "images": ["elsewhere.corp/**"] }), "spec.match.namespaceSelector: "),
        (json!({ "namespaceSelector": here, "images": ["registry.hub.docker.com/x/y"] }), "spec.match.images: "),
        (json!({ "namespaceSelector": here, "excludeImages": ["**", "registry.corp:0443/x"] }), "spec.match.excludeImages: "),
    ];
    let policies: Api<QuarantinePolicy> = Api::all(scene.client.clone());
    for (matching, field) in cases {
        scene.apply_policy(&scene.namespace, json!({ "match": matching })).await;
        let generation = policies.get(&scene.namespace).await.unwrap().metadata.generation;
        let ready = ready_at(&policies, &scene.namespace, generation).await;
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "NotInForce"), "{ready:?}");
        assert!(ready.message.starts_with(field), "{ready:?}");
        assert!(ready.message.ends_with(". Its last readable form, if there was one, stays in force"), "{ready:?}");
        for replica in scene.replicas {
            let answer = scene.ask(replica, "/validate", &scene.review(&pod("p", &image))).await;
            assert_eq!(answer["allowed"], false, "{answer}");
        }
        let refusal = scene.refused(&pod("p", &image)).await;
        refusal.says(&[IN_QUARANTINE, &format!("[policy {}]", scene.namespace)]);
    }
    // Mended, it is in force as it says.
    scene.policy(json!({ "match": { "excludeImages": [format!("{}/**", registry().await.host())] } })).await;
    scene.known(&image, true).await;
    let generation = policies.get(&scene.namespace).await.unwrap().metadata.generation;
    assert_eq!(ready_at(&policies, &scene.namespace, generation).await.status, "True");
    Refusal::of(scene.create(&pod("p", "192.0.2.1/x")).await).says(&[crate::bypass::BY_ADDRESS]);
    scene.create(&pod("p", &image)).await.unwrap();
}

/// Level Warn lets start what is not released, and nothing that is denied: a slow look-up must not hide it.
#[tokio::test]
async fn a_denied_digest_does_not_hide_behind_a_warning() {
    let scene = Scene::bare().await;
    let mut registry = Registry::start(scene.lab, Options::default()).await;
    crate::story::register(scene.lab, &registry, "Managed", |spec| spec["limits"] = json!({ "timeoutSeconds": 2 })).await;
    let denied = registry.push("team/app", "denied", &scene.namespace).await;
    let deny = json!([{ "digest": denied, "reason": "a backdoor" }]);
    scene.policy(json!({ "require": { "released": "Warn" }, "deny": deny, "whenUnknown": { "registryUnavailable": "Deny" } })).await;
    let (other, tagged) = (registry.tagged("team/app", "other"), registry.tagged("team/app", "denied"));
    registry.push("team/app", "other", "other").await;
    insist(async || scene.pods().create(&dry_run(), &read(&pod("p", &other))).await).await.unwrap();
    registry.stop().await;
    let answer = scene.pods().create(&PostParams::default(), &read(&pod("p", &tagged))).await;
    assert!(matches!(&answer, Err(kube::Error::Api(status)) if status.code == 504), "{answer:?}");
    registry.start_again().await;
    scene.refused(&pod("p", &tagged)).await.says(&["denied: a backdoor"]);
}

/// What can be told from a pattern alone is told by whoever applies it, and never comes to stand.
#[tokio::test]
async fn a_pattern_that_matches_nothing_is_refused_when_it_is_applied() {
    let scene = Scene::new().await;
    let here = json!({ "matchLabels": { "kubernetes.io/metadata.name": scene.namespace } });
    let policies: Api<QuarantinePolicy> = Api::all(scene.client.clone());
    let apply = async |images: &[&str]| {
        let spec = json!({ "match": { "namespaceSelector": here, "images": images } });
        let object =
            json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": "patterns" }, "spec": spec });
        policies.patch("patterns", &PatchParams { dry_run: true, ..PatchParams::apply("test").force() }, &Patch::Apply(&object)).await
    };
    for wrong in [
        "nginx",
        "team/app",
        "registry.corp",
        "registry.corp/",
        "registry.corp//app",
        "registry.corp/a**b",
        "registry.corp/app:1",
        "docker.io/nginx",
    ] {
        let error = apply(&["registry.corp/**", wrong]).await.expect_err(wrong).to_string();
        assert!(error.contains("write patterns of full names, registry/repository"), "{wrong}: {error}");
    }
    let right = [
        "**",
        "**/app",
        "*.corp/**",
        "registry.corp:5000/**/app",
        "localhost/x",
        "localhost:5000/**",
        "[fd00::5]:5000/x/*",
        "docker.io/**",
    ];
    for right in right.iter().chain(&["docker.io/library/nginx", "registry.corp/team-*/app", "registry.corp/a__b/c.d/e--f"]) {
        lazaretto::pattern::Pattern::parse(right).unwrap();
        apply(&[right]).await.unwrap_or_else(|error| panic!("{right}: {error}"));
    }
}

async fn ready_at(policies: &Api<QuarantinePolicy>, name: &str, generation: Option<i64>) -> Condition {
    let object = until(policies.clone(), name, "its status speaks of this generation", move |object: Option<&QuarantinePolicy>| {
        object.and_then(|object| object.status.as_ref()).is_some_and(|status| status.observed_generation == generation)
    })
    .await;
    let conditions = object.unwrap().status.unwrap().conditions;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.observed_generation == generation);
    ready.unwrap_or_else(|| panic!("{conditions:?}")).clone()
}
