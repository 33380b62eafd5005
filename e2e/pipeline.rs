//! That `lazaretto check` says in a pipeline what the cluster says: from files, from the registry, from the cluster.

use serde_json::{Value, json};

use crate::lab::{
    Lab,
    install::World,
    registry::{Options, Registry},
};
use crate::story;

/// One image, what the cluster says of it, and the exit status of a pipeline that asks.
struct Case {
    image: String,
    admitted: bool,
    /// In each refusal.
    reason: &'static str,
}

/// What `check --output json` says of one image: its answer, digest, and each opinion's policy, verdict and reason.
async fn check(lab: &Lab, kubeconfig: &std::path::Path, namespace: &str, image: &str, ways: &[&str]) -> (Option<i32>, Value) {
    let arguments = [&["check", "--image", image, "--namespace", namespace, "--output", "json"], ways].concat();
    let output = lab.lazaretto(kubeconfig, &arguments).await;
    let told: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"));
    let image = &told["objects"][0]["images"][0];
    let opinions: Vec<_> = image["opinions"]
        .as_array()
        .unwrap_or_else(|| panic!("{output}"))
        .iter()
        .map(|opinion| [&opinion["policy"], &opinion["mode"], &opinion["verdict"], &opinion["reason"]].map(Clone::clone))
        .collect();
    (output.status.code(), json!({ "answer": told["answer"], "digest": image["digest"], "opinions": opinions }))
}

/// The objects of a kind, as a pipeline would have them in a file.
async fn dump(lab: &Lab, what: &str) -> String {
    lab.kubectl(&["get", what, "-o", "yaml"]).await.ok().stdout
}

#[tokio::test]
async fn a_pipeline_is_told_what_the_cluster_would_say() {
    let world = World::shared().await;
    let lab = &world.lab;
    let namespace = lab.namespace().await;
    let (managed, plain) = (Registry::start(lab, Options::default()).await, Registry::start(lab, Options::default()).await);
    story::register(lab, &managed, "Managed", |_| {}).await;
    story::register(lab, &plain, "None", |_| {}).await;
    let backdoor = plain.push("team/app", "bad", "bad").await;
    story::policy(lab, &namespace, |spec| {
        spec["require"] = json!({ "unmanaged": "Allow" });
        spec["deny"] =
            json!([{ "digest": backdoor, "reason": "backdoor" }, { "image": "not-listed.invalid/**", "reason": "asks whether it is in force" }]);
    })
    .await;
    let fine = plain.push("team/app", "fine", "fine").await;
    let released = managed.push("team/app", "released", "released").await;
    let held = managed.push("team/app", "held", "held").await;
    for digest in [&released, &held] {
        story::run(lab, &namespace, "first", &managed.pinned("team/app", digest)).await.refused();
    }
    story::run(lab, &namespace, "first", &plain.pinned("team/app", &fine)).await.ok();
    story::release(lab, &released, "scanned").await;

    // What the cluster itself knows of these is all that a pipeline with files has.
    let viewer = lab.kubeconfig_as("pipeline", &[]);
    lab.kubectl(&["create", "clusterrolebinding", &format!("{namespace}-viewer"), "--clusterrole=lazaretto-viewer", "--user=pipeline"])
        .await
        .ok();
    let (role, user) = (format!("{namespace}-namespaces"), "--user=pipeline");
    lab.kubectl(&["create", "clusterrole", &role, "--verb=get", "--resource=namespaces"]).await.ok();
    lab.kubectl(&["create", "clusterrolebinding", &role, &format!("--clusterrole={role}"), user]).await.ok();
    let files = lab.directory().join(format!("{namespace}-check"));
    std::fs::create_dir_all(&files).unwrap();
    let put = |name: &str, text: &str| {
        let path = files.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let policies = put("policies.yaml", &dump(lab, "quarantinepolicies,registries,waivers").await);
    let facts = put("facts.yaml", &dump(lab, "imagestatuses").await);
    let label = format!("kubernetes.io/metadata.name={namespace}");
    let docker = put("docker.json", "{}");

    let case = |image: String, admitted: bool, reason: &'static str| Case { image, admitted, reason };
    for Case { image, admitted, reason } in [
        case(managed.pinned("team/app", &released), true, ""),
        case(managed.pinned("team/app", &held), false, "in quarantine since"),
        case(plain.pinned("team/app", &fine), true, ""),
        case(plain.pinned("team/app", &backdoor), false, "backdoor"),
    ] {
        let cluster = lab.kubectl(&["run", "asked", "--image", &image, "--dry-run=server", "-n", &namespace]).await;
        assert_eq!(cluster.status.success(), admitted, "{cluster}");
        assert!(admitted || cluster.stderr.contains(reason), "{cluster}");
        let offline: &[&str] = &["--policy", &policies, "--facts", &facts, "--namespace-label", &label];
        let registries = [offline, &["--registries", "--docker-config", &docker]].concat();
        let ways: [(&str, &[&str]); 4] = [
            ("from files", offline),
            ("from files and registries", &registries),
            ("from the cluster", &["--cluster", "--namespace-label", &label]),
            ("from cluster and registries", &["--cluster", "--namespace-label", &label, "--registries", "--docker-config", &docker]),
        ];
        let mut answers = Vec::new();
        for (way, arguments) in ways {
            let (code, told) = check(lab, &viewer, &namespace, &image, arguments).await;
            assert_eq!(code, Some(i32::from(!admitted)), "{image} {way}: {told}");
            let said = told["opinions"].to_string();
            assert!(admitted || said.contains(reason), "{image} {way}: {told}");
            answers.push(told);
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{image}: {answers:#?}");
    }
}
