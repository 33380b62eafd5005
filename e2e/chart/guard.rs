//! The guard: who may decide on an image, proven against people with every right but the verbs.
//!
//! Each test takes names of its own, so they share one installation.

use std::sync::atomic::{AtomicU32, Ordering};

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use lazaretto::api::{ImageStatus, Registry, State};
use serde_json::{Value, json};

use super::{installed, refusal, untyped};
use crate::lab::Lab;
use crate::lab::install::NAMESPACE;
use crate::lab::wait::{MOMENT, eventually, until};

const US: &str = "system:serviceaccount:lazaretto-system:lazaretto";

static NEXT: AtomicU32 = AtomicU32::new(0);

fn unique(what: &str) -> String {
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until each of the policies acts, which takes some seconds after their creation, and finds no fault in them.
pub async fn in_force(lab: &Lab) {
    let client = lab.client().await;
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let checked = |policy: Option<&ValidatingAdmissionPolicy>| {
        policy.and_then(|policy| policy.status.as_ref()).is_some_and(|status| status.type_checking.is_some())
    };
    for name in ["lazaretto-decisions", "lazaretto-status", "lazaretto-waivers"] {
        let policy = until(policies.clone(), name, "its expressions are checked", checked).await.unwrap();
        let warnings = policy.status.unwrap().type_checking.unwrap().expression_warnings;
        assert_eq!(warnings, None, "{name}");
    }
    let image = json!({ "subject": "r/x@sha256:0", "quarantine": { "state": "Released", "by": "nobody", "reason": "probe" } });
    let waiver =
        json!({ "requirements": ["Digest"], "images": ["**"], "reason": "probe", "by": "nobody", "expires": "2100-01-01T00:00:00Z" });
    for (kind, spec) in [("ImageStatus", image), ("Waiver", waiver)] {
        eventually(MOMENT, "the guard acts", async || {
            let dry_run = PostParams { dry_run: true, ..PostParams::default() };
            match untyped(client.clone(), kind).create(&dry_run, &object(kind, "probe", &spec)).await {
                Err(kube::Error::Api(status)) if status.message.contains("ValidatingAdmissionPolicy") => Ok(()),
                other => Err(format!("{kind}: {other:?}")),
            }
        })
        .await;
    }
    let registries = untyped(client, "Registry");
    let registry = json!({ "hosts": ["probe"] });
    registries.create(&PostParams::default(), &object("Registry", "probe", &registry)).await.unwrap();
    eventually(MOMENT, "the guard of status acts", async || {
        let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
        match registries.patch_status("probe", &dry_run, &Patch::Merge(json!({ "status": { "images": 1 } }))).await {
            Err(kube::Error::Api(status)) if status.message.contains("ValidatingAdmissionPolicy") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    registries.delete("probe", &DeleteParams::default()).await.unwrap();
}

fn object(kind: &str, name: &str, spec: &Value) -> DynamicObject {
    let whole = json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec,
    });
    serde_json::from_value(whole).unwrap()
}

/// Somebody with `rules`, under a new name.
async fn person(lab: &Lab, what: &str, rules: Value) -> (Client, String) {
    let name = unique(what);
    let client = lab.client().await;
    let role = json!({ "metadata": { "name": name }, "rules": rules });
    Api::<ClusterRole>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
    bind(&client, &name, &name).await;
    (ready(lab, &name).await, name)
}

/// Somebody with one of the chart's roles.
async fn holder(lab: &Lab, role: &str) -> (Client, String) {
    let name = unique(role);
    bind(&lab.client().await, role, &name).await;
    (ready(lab, &name).await, name)
}

async fn bind(client: &Client, role: &str, user: &str) {
    let binding = json!({
        "metadata": { "name": unique("binding") },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    });
    Api::<ClusterRoleBinding>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
}

/// The person's client, once the authorizer has learnt of the binding.
async fn ready(lab: &Lab, user: &str) -> Client {
    let client = lab.client_as(user, &[]).await;
    let images: Api<ImageStatus> = Api::all(client.clone());
    eventually(MOMENT, "RBAC knows the new binding", async || images.list(&ListParams::default().limit(1)).await.map(drop)).await;
    client
}

/// Every right on the resources and their status, but not the verbs of the guard.
async fn editor(lab: &Lab) -> (Client, String) {
    let resources = [
        "imagestatuses",
        "imagestatuses/status",
        "waivers",
        "waivers/status",
        "registries",
        "registries/status",
        "quarantinepolicies",
        "quarantinepolicies/status",
    ];
    person(lab, "editor", json!([{ "apiGroups": ["lazaretto.dev"], "resources": resources, "verbs": ["*"] }])).await
}

async fn releaser(lab: &Lab) -> (Client, String) {
    holder(lab, "lazaretto-releaser").await
}

/// The program's own ServiceAccount, by a token and with the rights that the chart gives it.
async fn ours(lab: &Lab) -> Api<ImageStatus> {
    Api::all(lab.client_of(NAMESPACE, "lazaretto").await)
}

/// A new image in this state, recorded as the program records it.
async fn image(lab: &Lab, state: State) -> String {
    let name = unique("image");
    let ours = ours(lab).await;
    let new = ImageStatus::new(&name, serde_json::from_value(json!({ "subject": subject(&name) })).unwrap());
    ours.create(&PostParams::default(), &new).await.unwrap();
    let status = json!({ "status": { "state": state } });
    ours.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    name
}

fn subject(name: &str) -> String {
    format!("r.corp/{name}@sha256:1")
}

fn decision(state: &str, by: &str) -> Value {
    json!({ "spec": { "quarantine": { "state": state, "by": by, "reason": "a test" } } })
}

async fn merge(client: &Client, name: &str, patch: Value) -> kube::Result<ImageStatus> {
    Api::all(client.clone()).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

async fn decide(client: &Client, name: &str, state: &str, by: &str) -> kube::Result<ImageStatus> {
    merge(client, name, decision(state, by)).await
}

/// The guard's own words, after what the API server puts before them.
#[track_caller]
fn forbidden<T: std::fmt::Debug>(result: kube::Result<T>, policy: &str, sentence: &str) {
    let (code, message) = refusal(result);
    let expected = format!("ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: {sentence}");
    assert!(code == 403 && message.ends_with(&expected), "{code}: {message}\nexpected: {expected}");
}

/// What the refused person reads, by what they tried.
fn needs(verb: &str, user: &str, tried: &str, name: &str) -> String {
    let subject = subject(name);
    format!(
        "{user} may not {tried} {subject}: that needs the verb {verb} on imagestatuses/quarantine, which ClusterRole lazaretto-releaser gives"
    )
}

const DECISIONS: &str = "lazaretto-decisions";

#[tokio::test]
async fn an_editor_without_the_verbs_decides_nothing() {
    let lab = installed().await;
    let (eve, user) = editor(lab).await;
    let name = image(lab, State::Quarantined).await;
    forbidden(decide(&eve, &name, "Released", &user).await, DECISIONS, &needs("release", &user, "release", &name));
    forbidden(decide(&eve, &name, "Quarantined", &user).await, DECISIONS, &needs("quarantine", &user, "hold", &name));
    forbidden(decide(&eve, &name, "Failed", &user).await, DECISIONS, &needs("quarantine", &user, "fail", &name));
}

#[tokio::test]
async fn an_image_is_not_created_released() {
    let lab = installed().await;
    let (eve, user) = editor(lab).await;
    let images = untyped(eve.clone(), "ImageStatus");
    for (state, verb, tried) in
        [("Released", "release", "release"), ("Quarantined", "quarantine", "hold"), ("Failed", "quarantine", "fail")]
    {
        let name = unique("born");
        let spec = json!({ "subject": subject(&name), "quarantine": decision(state, &user)["spec"]["quarantine"] });
        let new = images.create(&PostParams::default(), &object("ImageStatus", &name, &spec)).await;
        forbidden(new, DECISIONS, &needs(verb, &user, tried, &name));
        let apply = Patch::Apply(object("ImageStatus", &name, &spec));
        let applied = images.patch(&name, &PatchParams::apply("eve"), &apply).await;
        forbidden(applied, DECISIONS, &needs(verb, &user, tried, &name));
    }
    // A status that comes with a new object is not kept, not even the administrator's.
    let name = unique("born");
    let mut new = object("ImageStatus", &name, &json!({ "subject": subject(&name) }));
    new.data["status"] = json!({ "state": "Released" });
    let made = untyped(lab.client().await, "ImageStatus").create(&PostParams::default(), &new).await.unwrap();
    assert_eq!(made.data.get("status"), None);
}

#[tokio::test]
async fn a_decision_that_is_null_is_none() {
    let lab = installed().await;
    let (eve, user) = editor(lab).await;
    let name = unique("null");
    let spec = json!({ "subject": subject(&name), "quarantine": null });
    untyped(eve.clone(), "ImageStatus").create(&PostParams::default(), &object("ImageStatus", &name, &spec)).await.unwrap();
    forbidden(decide(&eve, &name, "Released", &user).await, DECISIONS, &needs("release", &user, "release", &name));
    let status = json!({ "status": { "state": "Quarantined" } });
    ours(lab).await.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let (rae, user) = releaser(lab).await;
    decide(&rae, &name, "Released", &user).await.unwrap();
}

#[tokio::test]
async fn a_releaser_decides_in_their_own_name() {
    let lab = installed().await;
    let (rae, user) = releaser(lab).await;
    let name = image(lab, State::Quarantined).await;
    let sentence = format!("spec.quarantine.by must be your own user name, {user}, not the-boss");
    forbidden(decide(&rae, &name, "Released", "the-boss").await, DECISIONS, &sentence);
    forbidden(decide(&rae, &name, "Failed", "the-boss").await, DECISIONS, &sentence);
    for state in ["Released", "Failed", "Quarantined", "Released"] {
        let decided = decide(&rae, &name, state, &user).await.unwrap();
        assert_eq!(decided.spec.quarantine.unwrap().by, user);
    }
    // Nor under the name of the one who decided before.
    let (other, other_name) = releaser(lab).await;
    let changed = merge(&other, &name, json!({ "spec": { "quarantine": { "reason": "another" } } })).await;
    forbidden(changed, DECISIONS, &format!("spec.quarantine.by must be your own user name, {other_name}, not {user}"));
    merge(&rae, &name, json!({ "spec": { "quarantine": null } })).await.unwrap();
}

#[tokio::test]
async fn a_decision_is_neither_changed_nor_taken_back_without_the_verb() {
    let lab = installed().await;
    let (rae, releaser) = releaser(lab).await;
    let (eve, user) = editor(lab).await;
    let name = image(lab, State::Quarantined).await;
    decide(&rae, &name, "Failed", &releaser).await.unwrap();
    let taken_back = merge(&eve, &name, json!({ "spec": { "quarantine": null } })).await;
    forbidden(taken_back, DECISIONS, &needs("release", &user, "take back the decision on", &name));
    let relaxed = decide(&eve, &name, "Quarantined", &user).await;
    forbidden(relaxed, DECISIONS, &needs("release", &user, "relax the decision on", &name));
    forbidden(decide(&eve, &name, "Failed", &user).await, DECISIONS, &needs("quarantine", &user, "fail", &name));
    decide(&rae, &name, "Released", &releaser).await.unwrap();
    let reworded = merge(&eve, &name, json!({ "spec": { "quarantine": { "reason": "another", "by": user } } })).await;
    forbidden(reworded, DECISIONS, &needs("release", &user, "release", &name));
}

#[tokio::test]
async fn who_may_only_hold_cannot_let_go() {
    let lab = installed().await;
    let rules = json!([
        { "apiGroups": ["lazaretto.dev"], "resources": ["imagestatuses"], "verbs": ["*"] },
        { "apiGroups": ["lazaretto.dev"], "resources": ["imagestatuses/quarantine"], "verbs": ["quarantine"] },
    ]);
    let (hal, user) = person(lab, "holder", rules).await;
    let name = image(lab, State::Released).await;
    decide(&hal, &name, "Quarantined", &user).await.unwrap();
    decide(&hal, &name, "Failed", &user).await.unwrap();
    let relaxed = decide(&hal, &name, "Quarantined", &user).await;
    forbidden(relaxed, DECISIONS, &needs("release", &user, "relax the decision on", &name));
    forbidden(decide(&hal, &name, "Released", &user).await, DECISIONS, &needs("release", &user, "release", &name));
}

#[tokio::test]
async fn a_right_may_be_given_for_one_image() {
    let lab = installed().await;
    let (mine, other) = (image(lab, State::Quarantined).await, image(lab, State::Quarantined).await);
    let rules = json!([
        { "apiGroups": ["lazaretto.dev"], "resources": ["imagestatuses"], "verbs": ["*"] },
        { "apiGroups": ["lazaretto.dev"], "resources": ["imagestatuses/quarantine"], "resourceNames": [mine], "verbs": ["release"] },
    ]);
    let (ann, user) = person(lab, "owner", rules).await;
    decide(&ann, &mine, "Released", &user).await.unwrap();
    forbidden(decide(&ann, &other, "Released", &user).await, DECISIONS, &needs("release", &user, "release", &other));
}

#[tokio::test]
async fn what_is_bad_or_decided_is_deleted_by_releasers_only() {
    let lab = installed().await;
    let (eve, user) = editor(lab).await;
    let images: Api<ImageStatus> = Api::all(eve.clone());
    for state in [State::Quarantined, State::Failed] {
        let name = image(lab, state).await;
        let sentence = needs("release", &user, "delete what is known against", &name);
        forbidden(images.delete(&name, &DeleteParams::default()).await, DECISIONS, &sentence);
        let one = ListParams::default().fields(&format!("metadata.name={name}"));
        forbidden(images.delete_collection(&DeleteParams::default(), &one).await, DECISIONS, &sentence);
    }
    let (rae, releaser) = releaser(lab).await;
    let decided = image(lab, State::Released).await;
    decide(&rae, &decided, "Released", &releaser).await.unwrap();
    let sentence = needs("release", &user, "delete the decision on", &decided);
    forbidden(images.delete(&decided, &DeleteParams::default()).await, DECISIONS, &sentence);
    // What is neither: RBAC's business alone.
    for state in [State::Released, State::Unmanaged] {
        let name = image(lab, state).await;
        images.delete(&name, &DeleteParams::default()).await.unwrap();
    }

    let rules = json!([
        { "apiGroups": ["lazaretto.dev"], "resources": ["imagestatuses"], "verbs": ["*"] },
        { "apiGroups": ["lazaretto.dev"], "resources": ["imagestatuses/quarantine"], "verbs": ["release"] },
    ]);
    let (ada, _) = person(lab, "remover", rules).await;
    let images: Api<ImageStatus> = Api::all(ada);
    images.delete(&decided, &DeleteParams::default()).await.unwrap();
    let bad = image(lab, State::Failed).await;
    let one = ListParams::default().fields(&format!("metadata.name={bad}"));
    images.delete_collection(&DeleteParams::default(), &one).await.unwrap();
}

#[tokio::test]
async fn the_program_records_and_collects_and_never_decides() {
    let lab = installed().await;
    let ours = ours(lab).await;
    let sentence = "Lazaretto records what it finds and never decides; spec.quarantine is left to people";
    let name = image(lab, State::Quarantined).await;
    // Once an object is made, its spec is not the program's to write: RBAC says so before the guard.
    let unwritable = |result: kube::Result<ImageStatus>, verb: &str| {
        let (code, message) = refusal(result);
        assert!(code == 403 && message.contains(&format!("cannot {verb} resource \"imagestatuses\"")), "{code}: {message}");
    };
    for state in ["Released", "Quarantined", "Failed"] {
        unwritable(ours.patch(&name, &PatchParams::default(), &Patch::Merge(decision(state, US))).await, "patch");
        let born = unique("born");
        let spec = json!({ "subject": subject(&born), "quarantine": decision(state, US)["spec"]["quarantine"] });
        let new = ImageStatus::new(&born, serde_json::from_value(spec).unwrap());
        forbidden(ours.create(&PostParams::default(), &new).await, DECISIONS, sentence);
    }
    let (rae, user) = releaser(lab).await;
    decide(&rae, &name, "Failed", &user).await.unwrap();
    let taken_back = ours.patch(&name, &PatchParams::default(), &Patch::Merge(json!({ "spec": { "quarantine": null } }))).await;
    unwritable(taken_back, "patch");
    // It writes status under a standing decision, and removes what it collects.
    let mut whole = ours.get(&name).await.unwrap();
    unwritable(ours.replace(&name, &PostParams::default(), &whole).await, "update");
    whole.status.as_mut().unwrap().state = State::Failed;
    ours.replace_status(&name, &PostParams::default(), &whole).await.unwrap();
    ours.delete(&name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn status_is_written_by_the_program_only() {
    let lab = installed().await;
    let (eve, user) = editor(lab).await;
    let name = image(lab, State::Quarantined).await;
    let whole = untyped(lab.client().await, "ImageStatus").get(&name).await.unwrap();
    let mut released = whole.clone();
    released.data["status"]["state"] = json!("Released");
    let sentence = |plural: &str, hint: &str| format!("{plural}/status is written by {US} only, not by {user}{hint}");

    let images = untyped(eve.clone(), "ImageStatus");
    let hint = ": decide in spec.quarantine instead";
    let replaced = images.replace_status(&name, &PostParams::default(), &released).await;
    forbidden(replaced, "lazaretto-status", &sentence("imagestatuses", hint));
    let mut apply = object("ImageStatus", &name, &json!({}));
    apply.data = json!({ "status": { "state": "Released" } });
    let applied = images.patch_status(&name, &PatchParams::apply("eve").force(), &Patch::Apply(apply)).await;
    forbidden(applied, "lazaretto-status", &sentence("imagestatuses", hint));
    // Through the object itself it is not written at all.
    let kept = images.replace(&name, &PostParams::default(), &released).await.unwrap();
    assert_eq!(kept.data["status"]["state"], "Quarantined");
    // Not by the administrator either: whoever must can change the guard, which leaves a trace.
    let administrator = untyped(lab.client().await, "ImageStatus");
    let patch = Patch::Merge(json!({ "status": { "state": "Released" } }));
    let administered = administrator.patch_status(&name, &PatchParams::default(), &patch).await;
    forbidden(administered, "lazaretto-status", &format!("imagestatuses/status is written by {US} only, not by admin{hint}"));

    for (kind, plural, spec) in [
        ("Registry", "registries", json!({ "hosts": ["r.corp"] })),
        ("QuarantinePolicy", "quarantinepolicies", json!({})),
        (
            "Waiver",
            "waivers",
            json!({ "requirements": ["Digest"], "images": ["**"], "reason": "a test", "by": user, "expires": "2100-01-01T00:00:00Z" }),
        ),
    ] {
        let (api, name) = (untyped(eve.clone(), kind), unique("guarded"));
        api.create(&PostParams::default(), &object(kind, &name, &spec)).await.unwrap();
        let patch = Patch::Merge(json!({ "status": { "observedGeneration": 7 } }));
        forbidden(api.patch_status(&name, &PatchParams::default(), &patch).await, "lazaretto-status", &sentence(plural, ""));
        let ours = untyped(lab.client_of(NAMESPACE, "lazaretto").await, kind);
        ours.patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
    }
}

#[tokio::test]
async fn an_adoption_is_not_forgotten_on_request() {
    let lab = installed().await;
    let (eve, user) = editor(lab).await;
    let name = unique("adopted");
    let registry = json!({ "hosts": ["r.corp"], "quarantine": { "provider": "Managed" } });
    untyped(eve.clone(), "Registry").create(&PostParams::default(), &object("Registry", &name, &registry)).await.unwrap();
    let ours: Api<Registry> = Api::all(lab.client_of(NAMESPACE, "lazaretto").await);
    let adoption = json!({ "status": { "adoption": { "instant": "2026-01-01T00:00:00Z", "adopted": 3 } } });
    ours.patch_status(&name, &PatchParams::default(), &Patch::Merge(adoption)).await.unwrap();
    let forget = Patch::Merge(json!({ "status": { "adoption": null } }));
    let forgotten = untyped(eve, "Registry").patch_status(&name, &PatchParams::default(), &forget).await;
    forbidden(forgotten, "lazaretto-status", &format!("registries/status is written by {US} only, not by {user}"));
    assert_eq!(ours.get(&name).await.unwrap().status.unwrap().adoption.unwrap().adopted, 3);
}

#[tokio::test]
async fn metadata_stays_free() {
    let lab = installed().await;
    let (eve, _) = editor(lab).await;
    let (rae, user) = releaser(lab).await;
    let name = image(lab, State::Quarantined).await;
    decide(&rae, &name, "Failed", &user).await.unwrap();
    let labelled = merge(&eve, &name, json!({ "metadata": { "labels": { "team": "a" }, "finalizers": ["example.com/later"] } })).await;
    assert_eq!(labelled.unwrap().labels()["team"], "a");
    merge(&eve, &name, json!({ "metadata": { "finalizers": null } })).await.unwrap();
    // The garbage collector takes its own finalizer away, and then the object.
    let images = ours(lab).await;
    images.delete(&name, &DeleteParams::foreground()).await.unwrap();
    until(images, &name, "it is gone", |image: Option<&ImageStatus>| image.is_none()).await;
}

/// An owner that does not exist makes the garbage collector delete. It has no verb either.
#[tokio::test]
async fn nobody_lets_the_garbage_collector_delete_for_them() {
    let lab = installed().await;
    let (eve, _) = editor(lab).await;
    let name = image(lab, State::Quarantined).await;
    let owner = json!([{ "apiVersion": "v1", "kind": "Namespace", "name": "gone", "uid": "00000000-0000-0000-0000-000000000000" }]);
    merge(&eve, &name, json!({ "metadata": { "ownerReferences": owner } })).await.unwrap();
    eventually(MOMENT, "the garbage collector was refused", async || {
        let of_this = |event: &Value| event["objectRef"]["name"] == *name && event["verb"] == "delete";
        let tried = lab.control_plane().audit().into_iter().find(of_this).ok_or("it did not try")?;
        assert_eq!(tried["user"]["username"], "system:serviceaccount:kube-system:generic-garbage-collector");
        assert_eq!(tried["responseStatus"]["code"], 403);
        Ok::<_, &str>(())
    })
    .await;
    merge(&eve, &name, json!({ "metadata": { "ownerReferences": null } })).await.unwrap();
}

const WAIVERS: &str = "lazaretto-waivers";

fn waiver(requirement: &str, by: &str) -> Value {
    let digest = format!("sha256:{}", "0".repeat(64));
    json!({ "requirements": [requirement], "digests": [digest], "reason": "a test", "by": by, "expires": "2100-01-01T00:00:00Z" })
}

#[tokio::test]
async fn a_quarantine_is_waived_by_releasers_only() {
    let lab = installed().await;
    let (pat, user) = holder(lab, "lazaretto-policy-author").await;
    let waivers = untyped(pat.clone(), "Waiver");
    let name = unique("waiver");
    let sentence = format!(
        "{user} may not waive Released: that needs the verb release on imagestatuses/quarantine, which ClusterRole lazaretto-releaser gives"
    );
    let create = async |spec: &Value| waivers.create(&PostParams::default(), &object("Waiver", &name, spec)).await;
    forbidden(create(&waiver("Released", &user)).await, WAIVERS, &sentence);
    create(&waiver("Digest", &user)).await.unwrap();
    let widen = Patch::Merge(json!({ "spec": { "requirements": ["Digest", "Released"] } }));
    forbidden(waivers.patch(&name, &PatchParams::default(), &widen).await, WAIVERS, &sentence);

    bind(&lab.client().await, "lazaretto-releaser", &user).await;
    eventually(MOMENT, "with both roles it is waived", async || waivers.patch(&name, &PatchParams::default(), &widen).await.map(drop))
        .await;
    let narrow = Patch::Merge(json!({ "spec": { "requirements": ["Digest"] } }));
    waivers.patch(&name, &PatchParams::default(), &narrow).await.unwrap();
    waivers.delete(&name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_waiver_is_signed_by_its_author() {
    let lab = installed().await;
    let (pat, user) = holder(lab, "lazaretto-policy-author").await;
    let (other, other_user) = holder(lab, "lazaretto-policy-author").await;
    let (waivers, others) = (untyped(pat, "Waiver"), untyped(other, "Waiver"));
    let name = unique("waiver");
    let borrowed = waivers.create(&PostParams::default(), &object("Waiver", &name, &waiver("Digest", "the-boss"))).await;
    forbidden(borrowed, WAIVERS, &format!("spec.by must be your own user name, {user}, not the-boss"));
    waivers.create(&PostParams::default(), &object("Waiver", &name, &waiver("Digest", &user))).await.unwrap();
    let longer = json!({ "spec": { "expires": "2101-01-01T00:00:00Z" } });
    let extended = others.patch(&name, &PatchParams::default(), &Patch::Merge(longer)).await;
    forbidden(extended, WAIVERS, &format!("spec.by must be your own user name, {other_user}, not {user}"));
    let taken_over = json!({ "spec": { "expires": "2101-01-01T00:00:00Z", "by": other_user } });
    others.patch(&name, &PatchParams::default(), &Patch::Merge(taken_over)).await.unwrap();
    // Labels are nobody's decision, and to end a waiver is always allowed.
    let label = Patch::Merge(json!({ "metadata": { "labels": { "ticket": "1" } } }));
    waivers.patch(&name, &PatchParams::default(), &label).await.unwrap();
    waivers.delete(&name, &DeleteParams::default()).await.unwrap();
}
