//! What is written of an image, tampered with.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use lazaretto::api::{ImageStatus, State};
use lazaretto::image::Subject;
use serde_json::{Value, json};

use super::{IN_QUARANTINE, Scene, pod, read, registry};
use crate::lab::install::NAMESPACE;
use crate::lab::registry::{Options, Registry};
use crate::lab::wait::{MOMENT, eventually, until};
use crate::story;

/// Somebody with every right on ImageStatuses but the verbs that decide.
async fn editor(scene: &Scene<'_>) -> Client {
    let name = format!("editor-{}", scene.namespace);
    let rules = json!([{ "apiGroups": ["lazaretto.dev"], "resources": ["imagestatuses", "imagestatuses/status"], "verbs": ["*"] }]);
    let role: ClusterRole = read(&json!({ "metadata": { "name": name }, "rules": rules }));
    Api::all(scene.client.clone()).create(&PostParams::default(), &role).await.unwrap();
    let binding: ClusterRoleBinding = read(&json!({
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name }],
    }));
    Api::all(scene.client.clone()).create(&PostParams::default(), &binding).await.unwrap();
    let client = scene.lab.client_as(&name, &[]).await;
    let images: Api<ImageStatus> = Api::all(client.clone());
    eventually(MOMENT, "RBAC knows the binding", async || images.list(&ListParams::default().limit(1)).await.map(drop)).await;
    client
}

fn released(by: &str) -> Value {
    json!({ "state": "Released", "by": by, "reason": "trust me" })
}

fn object(name: &str, subject: &Subject, decision: Option<Value>) -> ImageStatus {
    let mut spec = json!({ "subject": subject.to_string() });
    if let Some(decision) = decision {
        spec["quarantine"] = decision;
    }
    ImageStatus::new(name, serde_json::from_value(spec).unwrap())
}

/// The answer must be a refusal by the guard.
#[track_caller]
fn forbidden<T: std::fmt::Debug>(answer: kube::Result<T>, sentence: &str) {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(sentence) => {}
        other => panic!("should have been forbidden with {sentence:?}: {other:?}"),
    }
}

async fn subject(scene: &Scene<'_>, name: &str, digest: &str) -> Subject {
    registry().await.pinned(&scene.repository(name), digest).parse().unwrap()
}

#[tokio::test]
async fn nobody_writes_an_images_status_into_release() {
    let scene = Scene::new().await;
    let (image, digest) = scene.push("app", "1").await;
    scene.refused(&pod("p", &image)).await.says(&[IN_QUARANTINE]);
    let name = story::image_status(scene.lab, &digest).await.unwrap().name_any();
    let administrator: Api<ImageStatus> = Api::all(scene.client.clone());
    let sentence = "imagestatuses/status is written by system:serviceaccount:lazaretto-system:lazaretto only, not by admin: \
                    decide in spec.quarantine instead";
    let patch = Patch::Merge(json!({ "status": { "state": "Released", "observedAt": "2100-01-01T00:00:00Z" } }));
    forbidden(administrator.patch_status(&name, &PatchParams::default(), &patch).await, sentence);
    let mut whole = administrator.get(&name).await.unwrap();
    whole.status.as_mut().unwrap().state = State::Released;
    forbidden(administrator.replace_status(&name, &PostParams::default(), &whole).await, sentence);
    // Through the object itself the status is not written at all.
    let kept = administrator.replace(&name, &PostParams::default(), &whole).await.unwrap();
    assert_eq!(kept.status.unwrap().state, State::Quarantined);
    scene.refused(&pod("p", &image)).await.says(&[IN_QUARANTINE]);
}

#[tokio::test]
async fn without_the_verb_nobody_releases_or_forgets() {
    let scene = Scene::new().await;
    let (image, digest) = scene.push("app", "1").await;
    scene.refused(&pod("p", &image)).await.says(&[IN_QUARANTINE]);
    let name = story::image_status(scene.lab, &digest).await.unwrap().name_any();
    let subject = subject(&scene, "app", &digest).await;
    let user = format!("editor-{}", scene.namespace);
    let images: Api<ImageStatus> = Api::all(editor(&scene).await);
    let needs = |what: &str| {
        format!(
            "{user} may not {what} {subject}: that needs the verb release on imagestatuses/quarantine, which ClusterRole lazaretto-releaser gives"
        )
    };

    let release = Patch::Merge(json!({ "spec": { "quarantine": released(&user) } }));
    forbidden(images.patch(&name, &PatchParams::default(), &release).await, &needs("release"));
    let borrowed = Patch::Merge(json!({ "spec": { "quarantine": released("admin") } }));
    let sentence = format!("spec.quarantine.by must be your own user name, {user}, not admin");
    forbidden(images.patch(&name, &PatchParams::default(), &borrowed).await, &sentence);
    forbidden(images.delete(&name, &DeleteParams::default()).await, &needs("delete what is known against"));
    let all = ListParams::default().fields(&format!("metadata.name={name}"));
    forbidden(images.delete_collection(&DeleteParams::default(), &all).await, &needs("delete what is known against"));
    let another = object(&format!("{name}-copy"), &subject, Some(released(&user)));
    forbidden(images.create(&PostParams::default(), &another).await, &needs("release"));
    scene.refused(&pod("p", &image)).await.says(&[IN_QUARANTINE]);

    // Even for who may: what is forgotten is new, and what is new is in quarantine.
    let administrator: Api<ImageStatus> = Api::all(scene.client.clone());
    administrator.delete(&name, &DeleteParams::default()).await.unwrap();
    until(administrator, &name, "it is gone", |object: Option<&ImageStatus>| object.is_none()).await;
    for _ in 0..5 {
        scene.refused(&pod("p", &image)).await.says(&[&format!("{image} ({digest}): {IN_QUARANTINE}")]);
    }
}

#[tokio::test]
async fn a_record_that_is_made_beforehand_releases_nothing() {
    let scene = Scene::new().await;
    let (image, digest) = scene.push("app", "1").await;
    let subject = subject(&scene, "app", &digest).await;
    let name = subject.object_name();
    let user = format!("editor-{}", scene.namespace);
    let images: Api<ImageStatus> = Api::all(editor(&scene).await);
    let mut born = object(&name, &subject, Some(released(&user)));
    let sentence = format!("{user} may not release {subject}: that needs the verb release");
    forbidden(images.create(&PostParams::default(), &born).await, &sentence);
    // A status cannot be born with the object.
    born.spec.quarantine = None;
    born.status = Some(serde_json::from_value(json!({ "state": "Released", "provider": "Managed" })).unwrap());
    let made = images.create(&PostParams::default(), &born).await.unwrap();
    assert_eq!(made.status, None);
    scene.refused(&pod("p", &image)).await.says(&[&format!("{image} ({digest}): {IN_QUARANTINE}")]);
    // It is the very object that the facts went into.
    let there = story::image_status(scene.lab, &digest).await.unwrap();
    assert_eq!((there.name_any(), there.status.unwrap().state), (name, State::Quarantined));
    scene.release(&image, &digest).await;
    scene.create(&pod("p", &image)).await.unwrap();
}

/// Who may change a Registry, and may not release, releases nothing by saying that nobody keeps its flag any more.
#[tokio::test]
async fn a_flag_that_nobody_keeps_any_more_still_holds() {
    let scene = Scene::bare().await;
    scene.policy(json!({ "require": { "unmanaged": "Allow" } })).await;
    let host = format!("{}.corp", scene.namespace);
    scene.register(&host, |_| {}).await;
    let (_, digest) = scene.push("app", "1").await;
    let (_, fresh) = scene.push("app", "2").await;
    let image = |digest: &str| format!("{host}/{}@{digest}", scene.repository("app"));
    let held = format!("spec.containers[c].image {}: {IN_QUARANTINE}", image(&digest));
    scene.refused(&pod("p", &image(&digest))).await.says(&[&held]);

    let registries: Api<lazaretto::api::Registry> = Api::all(scene.client.clone());
    let off = Patch::Merge(json!({ "spec": { "quarantine": { "provider": "None" } } }));
    registries.patch(&host.replace('.', "-"), &PatchParams::default(), &off).await.unwrap();
    // What was never held is admitted: so the change is known.
    scene.known(&image(&fresh), true).await;
    scene.create(&pod("fresh", &image(&fresh))).await.unwrap();
    for replica in scene.replicas {
        let answer = scene.ask(replica, "/validate", &scene.review(&pod("p", &image(&digest)))).await;
        assert!(answer["status"]["message"].as_str().unwrap_or_default().starts_with(&held), "a dry run: {answer}");
    }
    scene.refused(&pod("p", &image(&digest))).await.says(&[&held]);
    scene.release(&image(&digest), &digest).await;
    scene.create(&pod("p", &image(&digest))).await.unwrap();
}

/// The name of an object is a handle. Who holds the one that an image would get holds nothing.
#[tokio::test]
async fn a_squatted_name_changes_nothing() {
    let scene = Scene::new().await;
    let images: Api<ImageStatus> = Api::all(editor(&scene).await);
    let squat = async |name: &str| {
        let nothing = registry().await.pinned("nobody/nothing", &format!("sha256:{}", "0".repeat(64))).parse().unwrap();
        images.create(&PostParams::default(), &object(name, &nothing, None)).await.unwrap();
    };
    let (image, digest) = scene.push("app", "1").await;
    let name = subject(&scene, "app", &digest).await.object_name();
    squat(&name).await;
    scene.refused(&pod("p", &image)).await.says(&[&format!("{image} ({digest}): {IN_QUARANTINE}")]);
    let held = story::image_status(scene.lab, &digest).await.expect("it is written under another name");
    assert_ne!(held.name_any(), name);
    scene.release(&image, &digest).await;
    scene.create(&pod("p", &image)).await.unwrap();

    // With no name left nothing is written; the image stays where it is.
    let (image, digest) = scene.push("app", "2").await;
    let name = subject(&scene, "app", &digest).await.object_name();
    squat(&name).await;
    for turn in 1..4 {
        squat(&format!("{}-{turn}", &name[..name.len().min(60)])).await;
    }
    for _ in 0..3 {
        scene.refused(&pod("q", &image)).await.says(&[&format!("{image} ({digest}): {IN_QUARANTINE}")]);
    }
    assert!(story::image_status(scene.lab, &digest).await.is_none());
}

/// Two objects for one image: the strictest wins, whoever wrote the other, and whenever it claims to have seen it.
#[tokio::test]
async fn a_second_record_that_claims_a_release_loses() {
    let scene = Scene::new().await;
    let (image, digest) = scene.push("app", "1").await;
    scene.refused(&pod("p", &image)).await.says(&[IN_QUARANTINE]);
    let subject = subject(&scene, "app", &digest).await;
    let name = format!("{}-second", scene.namespace);

    // Somebody who may release decides on a copy: that is not the image's record, and says so by changing nothing.
    let administrator: Api<ImageStatus> = Api::all(scene.client.clone());
    administrator.create(&PostParams::default(), &object(&name, &subject, Some(released("admin")))).await.unwrap();
    for replica in scene.replicas {
        let answer = scene.ask(replica, "/validate", &scene.review(&pod("p", &image))).await;
        assert_eq!(answer["allowed"], false, "{answer}");
    }
    scene.refused(&pod("p", &image)).await.says(&[IN_QUARANTINE]);

    // Even with our own name under it, as an attacker with our token would write it.
    let ours: Api<ImageStatus> = Api::all(scene.lab.client_of(NAMESPACE, "lazaretto").await);
    let forged = json!({ "status": {
        "state": "Released", "provider": "Managed", "observedAt": "2100-01-01T00:00:00Z", "since": "2020-01-01T00:00:00Z", "by": "admin",
        "emittedThrough": 1, "history": [{ "number": 1, "at": "2100-01-01T00:00:00Z", "state": "Released", "by": "admin", "reason": "" }],
    } });
    ours.patch_status(&name, &PatchParams::default(), &Patch::Merge(forged)).await.unwrap();
    // Each replica has seen the forgery when it has seen what was written after it.
    let (marker, marked) = scene.push_released("marker", "1").await;
    scene.hold(&marker, &marked).await;
    for replica in scene.replicas {
        let answer = scene.ask(replica, "/validate", &scene.review(&pod("p", &image))).await;
        let message = answer["status"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(&format!("{image} ({digest}): {IN_QUARANTINE}")), "{answer}");
    }
    scene.refused(&pod("p", &image)).await.says(&[IN_QUARANTINE]);
    administrator.delete(&name, &DeleteParams::default()).await.unwrap();
}

/// Who may make records, and nothing else, cannot keep a release from being carried out either.
#[tokio::test]
async fn an_empty_second_record_hides_nothing() {
    let scene = Scene::new().await;
    let (image, digest) = scene.push("app", "1").await;
    scene.refused(&pod("p", &image)).await.says(&[IN_QUARANTINE]);
    let (subject, name) = (subject(&scene, "app", &digest).await, story::image_status(scene.lab, &digest).await.unwrap().name_any());
    let editor: Api<ImageStatus> = Api::all(editor(&scene).await);
    for second in ["a", "z"] {
        let second = format!("{second}-{}", scene.namespace);
        editor.create(&PostParams::default(), &object(&second, &subject, None)).await.unwrap();
    }
    let administrator: Api<ImageStatus> = Api::all(scene.client.clone());
    let release = Patch::Merge(json!({ "spec": { "quarantine": released("admin") } }));
    let generation = administrator.patch(&name, &PatchParams::default(), &release).await.unwrap().metadata.generation;
    until(administrator, &name, "the release is carried out", move |object: Option<&ImageStatus>| {
        object.and_then(|object| object.status.as_ref()).is_some_and(|status| {
            status.state == State::Released && status.observed_generation == generation && status.emitted_through == 2
        })
    })
    .await;
    scene.known(&image, true).await;
    scene.create(&pod("p", &image)).await.unwrap();
}

/// A hold counts by whatever name it is written, also before anybody has asked for the image, and also while its registry is down.
#[tokio::test]
async fn a_hold_holds_by_whatever_name_and_before_anybody_asks() {
    let scene = Scene::bare().await;
    let mut registry = Registry::start(scene.lab, Options::default()).await;
    story::register(scene.lab, &registry, "Managed", |spec| spec["limits"] = json!({ "timeoutSeconds": 2 })).await;
    scene.policy(json!({ "whenUnknown": { "registryUnavailable": "Allow" } })).await;
    let failed = || json!({ "state": "Failed", "by": "admin", "reason": "a worm" });
    let administrator: Api<ImageStatus> = Api::all(scene.client.clone());
    let written = |name: &str| {
        let (api, name) = (administrator.clone(), name.to_owned());
        async move {
            until(api, &name, "the hold is carried out", |object: Option<&ImageStatus>| {
                object.and_then(|object| object.status.as_ref()).is_some_and(|status| status.state == State::Failed)
            })
            .await;
        }
    };

    // On a second record of what was released.
    let digest = registry.push("team/app", "known", &scene.namespace).await;
    let known = registry.pinned("team/app", &digest);
    scene.refused(&pod("p", &known)).await.says(&[IN_QUARANTINE]);
    scene.release(&known, &digest).await;
    let second = format!("{}-hold", scene.namespace);
    administrator.create(&PostParams::default(), &object(&second, &known.parse().unwrap(), Some(failed()))).await.unwrap();
    written(&second).await;
    scene.known(&known, false).await;
    scene.refused(&pod("p", &known)).await.says(&["found unfit since", "a worm"]);

    // Before anybody has asked, and with nobody to ask.
    let digest = registry.push("team/app", "unknown", &format!("{} too", scene.namespace)).await;
    let unknown = registry.pinned("team/app", &digest);
    registry.stop().await;
    let subject: Subject = unknown.parse().unwrap();
    administrator.create(&PostParams::default(), &object(&subject.object_name(), &subject, Some(failed()))).await.unwrap();
    written(&subject.object_name()).await;
    scene.known(&unknown, false).await;
    scene.refused(&pod("p", &unknown)).await.says(&["found unfit since", "a worm"]);
}
