//! Borrowed sight, with a real registry behind a token server that grants per path: what one team may use is nobody else's, however well it is known.

use serde_json::json;

use crate::lab::{
    install::{NAMESPACE, World},
    registry::{Options, Registry},
    tokens::{PASSWORD, TEAM, TokenServer},
};
use crate::story;

#[tokio::test]
async fn what_is_one_team_s_is_nobody_else_s() {
    let world = World::shared().await;
    let lab = &world.lab;
    let (team, other) = (lab.namespace().await, lab.namespace().await);
    let mut registry = Registry::start(lab, Options::default()).await;
    registry.push("library/base", "1", "for everybody").await;
    let private = registry.push("coolteam/app", "1", "the team's").await;
    let tokens = TokenServer::start().await;
    registry.behind(&tokens).await;

    let secret = format!("tokens-{}", registry.port());
    let literals = [format!("--from-literal=username={TEAM}"), format!("--from-literal=password={PASSWORD}")];
    let create = ["create", "secret", "generic", &secret, "-n", NAMESPACE, "--type=kubernetes.io/basic-auth", &literals[0], &literals[1]];
    lab.kubectl(&create).await.ok();
    story::register(lab, &registry, "None", |spec| {
        spec["credentials"] = json!({ "secretName": secret });
        spec["access"] = json!([
            { "paths": ["library/**"], "anonymous": true },
            { "paths": ["coolteam/**"], "allow": { "namespaces": [team] } },
        ]);
    })
    .await;
    for namespace in [&team, &other] {
        story::policy(lab, namespace, |spec| {
            spec["require"] = json!({ "unmanaged": "Allow" });
            spec["deny"] = json!([{ "image": "not-listed.invalid/**", "reason": "asks whether it is in force" }]);
        })
        .await;
    }

    // The team's: by tag and by digest. From then on it is known, and lies on a node.
    story::admitted(lab, &team, "ours", &registry.tagged("coolteam/app", "1")).await;
    story::admitted(lab, &team, "pinned", &registry.pinned("coolteam/app", &private)).await;
    assert!(story::image_status(lab, &private).await.is_some());
    // Everybody's, for a pod that has no pull secret.
    for namespace in [&team, &other] {
        story::admitted(lab, namespace, "base", &registry.tagged("library/base", "1")).await;
    }

    // Nobody else's, and nobody else learns whether it is there.
    let refusal = async |image: &str| {
        let output = story::run(lab, &other, "theirs", image).await.refused();
        assert!(output.stderr.contains("the image was not found, or Lazaretto is not permitted to see it"), "{output}");
        output.stderr.replace(image, "IMAGE")
    };
    let there = refusal(&registry.tagged("coolteam/app", "1")).await;
    assert_eq!(there, refusal(&registry.tagged("coolteam/app", "2")).await, "another tag");
    assert_eq!(there, refusal(&registry.tagged("coolteam/nothing", "1")).await, "a path that is not there");
    assert_eq!(there, refusal(&registry.tagged("elsewhere/app", "1")).await, "a path that no rule speaks of");
    let pinned = refusal(&registry.pinned("coolteam/app", &private)).await;
    assert_eq!(pinned, refusal(&registry.pinned("coolteam/app", &lazaretto::image::Digest::of(b"nothing").to_string())).await);
    assert!(!there.contains("sha256:"), "{there}");
}
