//! A registry that keeps the flag itself: what Lazaretto reads there, and for how long it relies on it.

use kube::{Api, api::Patch, api::PatchParams};
use lazaretto::api::{ImageStatus, Registry, State};
use serde_json::{Value, json};

use crate::lab::{
    Lab,
    install::{NAMESPACE, World},
    wait::{MOMENT, eventually, until},
};
use crate::story;
use crate::support::acr::{READER, StandIn, WRITER};

const REPOSITORY: &str = "team/app";

fn image(text: &str) -> String {
    let config = format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"author":"{text}"}}"#);
    let digest = lazaretto::image::Digest::of(config.as_bytes());
    json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest.to_string(), "size": config.len() },
        "layers": [],
    })
    .to_string()
}

/// A Registry object for the stand-in, with these credentials, after its first pass.
async fn register(lab: &Lab, acr: &StandIn, (user, password): (&str, &str)) -> String {
    let name = format!("acr{}", acr.port());
    let literals = [format!("--from-literal=username={user}"), format!("--from-literal=password={password}")];
    let secret = ["create", "secret", "generic", &name, "-n", NAMESPACE, "--type=kubernetes.io/basic-auth", &literals[0], &literals[1]];
    lab.kubectl(&secret).await.ok();
    let object = json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": name },
        "spec": {
            "hosts": [acr.host()], "plainHTTP": true, "pollInterval": "10s", "credentials": { "secretName": name },
            "quarantine": { "provider": "AzureContainerRegistry" },
        },
    });
    let api: Api<Registry> = Api::all(lab.client().await);
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    pass(lab, &name, |_| true).await;
    name
}

/// Waits for a complete pass that begins after now and of which something is true, and returns the status.
pub async fn pass(lab: &Lab, name: &str, condition: impl Fn(&Value) -> bool + Send + 'static) -> Value {
    let api: Api<Registry> = Api::all(lab.client().await);
    let now = jiff::Timestamp::now();
    let met = move |object: Option<&Registry>| {
        let status = object.and_then(|object| object.status.as_ref());
        status.is_some_and(|status| {
            status.last_complete_pass.is_some_and(|began| began > now) && condition(&serde_json::to_value(status).unwrap())
        })
    };
    let object = until(api, name, "a complete pass", met).await.unwrap();
    serde_json::to_value(object.status).unwrap()
}

async fn state(lab: &Lab, digest: &str, expected: State) {
    eventually(MOMENT, &format!("{digest} is {expected}"), async || {
        let found = story::image_status(lab, digest).await.and_then(|object| object.status).map(|status| status.state);
        if found == Some(expected) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// A CronJob's image, or that of a Deployment without replicas: nothing in the cluster names its digest for weeks.
#[tokio::test]
async fn what_is_revoked_while_nothing_uses_it_is_refused_when_it_is_asked_for_again() {
    let world = World::shared().await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let acr = StandIn::start();
    let name = register(lab, &acr, READER).await;
    story::policy(lab, &namespace, |_| {}).await;
    let digest = acr.push(REPOSITORY, "1.0", image("one"));
    let tagged = acr.tagged(REPOSITORY, "1.0");
    // While it is in quarantine the registry hides its tag.
    let hidden = "the image was not found, or is in quarantine and hidden (this registry hides the tags of such images)";
    let refused = story::run(lab, &namespace, "p", &tagged).await.refused();
    assert!(refused.stderr.contains(hidden), "{refused}");
    let refused = story::run(lab, &namespace, "p", &acr.pinned(REPOSITORY, &digest)).await.refused();
    assert!(refused.stderr.contains("Only the registry's quarantine processor can release it"), "{refused}");
    acr.pass(&digest);
    state(lab, &digest, State::Released).await;
    story::admitted(lab, &namespace, "p", &tagged).await;

    // Nothing names its digest by now; the collector writes so after half an hour.
    let object = story::image_status(lab, &digest).await.unwrap();
    let api: Api<ImageStatus> = Api::all(lab.client_of(NAMESPACE, "lazaretto").await);
    let mut unused = object.clone();
    unused.status.as_mut().unwrap().unused_since = Some(jiff::Timestamp::now());
    let object_name = object.metadata.name.clone().unwrap();
    api.replace_status(&object_name, &kube::api::PostParams::default(), &unused).await.unwrap();
    acr.fail(&digest);
    pass(lab, &name, |_| true).await;
    state(lab, &digest, State::Failed).await;
    let refused = story::run(lab, &namespace, "again", &tagged).await.refused();
    assert!(refused.stderr.contains(hidden), "{refused}");
    let refused = story::run(lab, &namespace, "again", &acr.pinned(REPOSITORY, &digest)).await.refused();
    assert!(refused.stderr.contains("found unfit since"), "{refused}");

    // Images that are bad and gone from the registry take nothing from the freshness of the others.
    let good = acr.push(REPOSITORY, "good", image("good"));
    acr.pass(&good);
    story::run(lab, &namespace, "good", &acr.pinned(REPOSITORY, &good)).await.ok();
    acr.delete(REPOSITORY, &digest);
    let status = pass(lab, &name, |_| true).await;
    assert_eq!((&status["exceptionsTotal"], &status["images"]), (&json!(0), &json!(2)), "{status}");
    state(lab, &digest, State::Failed).await;
}

#[tokio::test]
async fn a_decision_is_carried_out_at_the_registry_and_read_back() {
    let world = World::shared().await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let acr = StandIn::start();
    acr.grant(READER.0, &[]);
    register(lab, &acr, WRITER).await;
    story::policy(lab, &namespace, |_| {}).await;
    let digest = acr.push(REPOSITORY, "1.0", image("decided"));
    let pinned = acr.pinned(REPOSITORY, &digest);
    story::run(lab, &namespace, "p", &pinned).await.refused();
    story::release(lab, &digest, "scanned by hand").await;
    story::run(lab, &namespace, "p", &pinned).await.ok();
    let (judgement, details) = acr.judgement(REPOSITORY, &digest).unwrap();
    assert_eq!(format!("{judgement:?}"), "Passed");
    assert!(details.is_some_and(|details| details.contains("admin: scanned by hand")));
}
