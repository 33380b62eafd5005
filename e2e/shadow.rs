//! Shadowed names, with two real registries: what is held inside comes from nowhere else.

use serde_json::json;

use crate::lab::{
    install::World,
    registry::{Options, Registry},
    wait::{MOMENT, eventually},
};
use crate::story;

#[tokio::test]
async fn a_stranger_s_image_of_an_internal_name_does_not_start() {
    let world = World::shared().await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let (mut inside, outside) = (Registry::start(lab, Options::default()).await, Registry::start(lab, Options::default()).await);
    inside.push("acme/payments", "1.0", "ours").await;
    outside.push("acme/payments", "1.7", "a stranger's").await;
    outside.push("external/tool", "2", "a tool").await;
    outside.push("external/other", "1", "another tool").await;
    story::register(lab, &outside, "None", |_| {}).await;
    story::register(lab, &inside, "None", |spec| {
        spec["priority"] = json!(true);
        // Others of the laboratory use other names.
        spec["repositories"] = json!(["acme/**", "external/**"]);
    })
    .await;
    let allows = |unavailable: &'static str| {
        move |spec: &mut serde_json::Value| {
            spec["require"] = json!({ "unmanaged": "Allow" });
            spec["whenUnknown"] = json!({ "registryUnavailable": unavailable });
            spec["deny"] = json!([{ "image": "not-listed.invalid/**", "reason": "asks whether it is in force" }]);
        }
    };
    story::policy(lab, &namespace, allows("Deny")).await;

    let stranger = outside.tagged("acme/payments", "1.7");
    let instead = format!("write {} instead", inside.tagged("acme/payments", "1.7"));
    eventually(MOMENT, "the stranger's is refused", async || {
        let output = story::run(lab, &namespace, "payments", &stranger).await;
        if !output.status.success() && output.stderr.contains(&instead) { Ok(()) } else { Err(output) }
    })
    .await;
    story::admitted(lab, &namespace, "tool", &outside.tagged("external/tool", "2")).await;
    story::admitted(lab, &namespace, "ours", &inside.tagged("acme/payments", "1.0")).await;

    // A pipeline is told the same.
    let check = ["check", "--image", &stranger, "--namespace", &namespace, "--cluster", "--registries", "--output", "json"];
    let label = format!("kubernetes.io/metadata.name={namespace}");
    let viewer = lab.kubeconfig_as("pipeline", &["system:masters"]);
    let told = lab.lazaretto(&viewer, &[&check[..], &["--namespace-label", &label]].concat()).await;
    assert!(told.status.code() == Some(1) && told.stdout.contains(&instead), "{told}");

    // The registry inside is down: it has not said no about a name that nobody asked it for.
    inside.stop().await;
    let other = outside.tagged("external/other", "1");
    let refused = story::run(lab, &namespace, "other", &other).await;
    assert!(!refused.status.success() && !refused.stderr.contains("instead"), "{refused}");
    story::policy(lab, &namespace, allows("Allow")).await;
    story::admitted(lab, &namespace, "other", &other).await;
    // And what it holds, it holds.
    let refused = story::run(lab, &namespace, "payments", &stranger).await;
    assert!(!refused.status.success(), "{refused}");
    inside.start_again().await;
}
