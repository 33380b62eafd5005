//! `lazaretto whatif` against an API server that lists what it is given.

use super::{everywhere::FakeCluster, *};

fn image(digit: char) -> String {
    format!("registry.corp/app@{}", digest(digit))
}

/// A registry whose flag Lazaretto keeps.
fn kept() -> Value {
    let mut object = registry("corp", &json!({"hosts": ["registry.corp"], "quarantine": {"provider": "Managed"}}));
    object["status"] = json!({"adoption": {"instant": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:01:00Z"}});
    object
}

fn namespace(name: &str, environment: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"environment": environment}}})
}

fn running(namespace: &str, name: &str, image: &str, owner: Option<&str>) -> Value {
    let mut object = pod(name, image);
    let owner = owner.map(|owner| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true}));
    object["metadata"] =
        json!({"name": name, "namespace": namespace, "uid": name, "ownerReferences": owner.into_iter().collect::<Vec<_>>()});
    object["status"] = json!({"phase": "Running", "containerStatuses": [{"name": "main", "imageID": image}]});
    object
}

fn workload(kind: &str, namespace: &str, name: &str, image: &str, owner: Option<(&str, &str)>) -> Value {
    let owner = owner.map(|(kind, name)| json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": true}));
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": image}]}});
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "uid": name, "ownerReferences": owner.into_iter().collect::<Vec<_>>()},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template, "serviceName": "x"},
    })
}

/// Two namespaces, of which one is production, where two Deployments run, a StatefulSet does not, and a pod is alone.
fn cluster() -> Vec<Value> {
    vec![
        kept(),
        fact(&image('a'), "Released"),
        fact(&image('b'), "Quarantined"),
        namespace("shop", "production"),
        namespace("lab", "test"),
        workload("Deployment", "shop", "web", &image('b'), None),
        workload("ReplicaSet", "shop", "web-1", &image('b'), Some(("Deployment", "web"))),
        running("shop", "web-1-x", &image('b'), Some("web-1")),
        running("shop", "web-1-y", &image('b'), Some("web-1")),
        workload("Deployment", "shop", "good", &image('a'), None),
        running("shop", "good-1-x", &image('a'), Some("good-1")),
        workload("StatefulSet", "shop", "idle", &image('b'), None),
        running("shop", "alone", &image('c'), None),
        running("lab", "free", &image('b'), None),
    ]
}

const PRODUCTION: &str = r#"{"namespaceSelector": {"matchLabels": {"environment": "production"}}}"#;

fn strict(mode: &str) -> Value {
    policy("strict", &json!({"mode": mode, "match": serde_json::from_str::<Value>(PRODUCTION).unwrap()}))
}

/// Workload, pods and template of each line.
fn lines(report: &Value, list: &str) -> Vec<(String, u64, bool)> {
    let line =
        |line: &Value| (line["workload"].as_str().unwrap().to_owned(), line["pods"].as_u64().unwrap(), line["template"].as_bool().unwrap());
    report[list].as_array().unwrap().iter().map(line).collect()
}

#[tokio::test]
async fn what_a_policy_would_refuse_is_listed_by_workload_before_it_is_applied() {
    let mut desk = Desk::new();
    let _cluster = FakeCluster::start(&mut desk, &cluster()).await;
    desk.put("policy.yaml", &[strict("Audit")]);
    let ended = desk.run(&["whatif", "-f", "policy.yaml", "--output=json"]).await;
    assert_eq!(ended.code, 1, "{}", ended.err);
    let report = ended.json();
    assert_eq!(lines(&report, "refused"), [("Deployment/web".into(), 2, true), ("StatefulSet/idle".into(), 0, true)]);
    assert_eq!(lines(&report, "notKnown"), [("Pod/alone".into(), 1, false)]);
    assert_eq!(lines(&report, "refusedAlready"), []);
    assert_eq!(report["pods"], json!({"judged": 5, "refused": 2, "notKnown": 1, "refusedAlready": 0}));
    let first = &report["refused"][0];
    assert_eq!((&first["namespace"], &first["container"], &first["image"]), (&json!("shop"), &json!("main"), &json!(image('b'))));
    assert_eq!(first["policies"], json!([{"policy": "strict", "mode": "Audit", "reason": "in quarantine since 2026-01-01T00:00:00Z"}]));

    let ended = desk.run(&["whatif", "--policy=policy.yaml"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.out.starts_with("NAMESPACE "), "{}", ended.out);
    assert!(ended.out.lines().nth(1).unwrap().ends_with("in quarantine since 2026-01-01T00:00:00Z [strict]"), "{}", ended.out);
    assert!(ended.err.contains("2 running pods and 2 templates would be refused that are not now"), "{}", ended.err);
    assert!(ended.err.contains("so it is not seen which namespaces"), "{}", ended.err);
    let ended = desk.run(&["whatif", "-f", "policy.yaml", "--exclude-namespace=shop"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{}", ended.err);
}

#[tokio::test]
async fn what_is_refused_already_is_no_news() {
    let mut desk = Desk::new();
    let mut objects = cluster();
    objects.push(strict("Enforce"));
    let _cluster = FakeCluster::start(&mut desk, &objects).await;
    desk.put("same.yaml", &[strict("Enforce")]);
    let ended = desk.run(&["whatif", "-f", "same.yaml", "-ojson"]).await;
    let report = ended.json();
    assert_eq!((ended.code, lines(&report, "refused")), (3, Vec::new()), "{}", ended.out);
    assert_eq!(lines(&report, "refusedAlready"), [("Deployment/web".into(), 2, true), ("StatefulSet/idle".into(), 0, true)]);
    let mut wider = strict("Enforce");
    wider["spec"]["match"] = json!({});
    desk.put("wider.yaml", &[wider]);
    let report = desk.run(&["whatif", "-f", "wider.yaml", "-ojson"]).await.json();
    assert_eq!(lines(&report, "refused"), [("Pod/free".into(), 1, false)]);
}

#[tokio::test]
async fn a_registry_whose_flag_nobody_would_keep_any_more_is_tried_as_well() {
    let mut desk = Desk::new();
    let mut objects = cluster();
    objects.push(strict("Enforce"));
    let _cluster = FakeCluster::start(&mut desk, &objects).await;
    desk.put("registry.yaml", &[registry("corp", &json!({"hosts": ["registry.corp"]}))]);
    let ended = desk.run(&["whatif", "--registry", "registry.yaml", "-ojson"]).await;
    let report = ended.json();
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert_eq!(
        lines(&report, "refused"),
        [("Deployment/good".into(), 0, true), ("Pod/alone".into(), 1, false), ("ReplicaSet/good-1".into(), 1, false)]
    );
    assert_eq!(report["refused"][0]["policies"][0]["reason"], "nobody keeps a quarantine flag for it");
    // One that changes nothing.
    desk.put("kept.yaml", &[registry("corp", &json!({"hosts": ["registry.corp"], "quarantine": {"provider": "Managed"}}))]);
    let ended = desk.run(&["whatif", "--registry", "kept.yaml"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{}", ended.err);
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_said_before_any_cluster_is_asked() {
    let desk = Desk::new();
    desk.put("misspelt.yaml", &[policy("strict", &json!({"requires": {"released": "Deny"}}))]);
    desk.put("pattern.yaml", &[policy("strict", &json!({"match": {"images": ["a**"]}}))]);
    desk.put("fact.yaml", &[fact(&image('a'), "Released")]);
    desk.put("pod.yaml", &[pod("web", "nginx")]);
    fs::write(desk.path().join("empty.yaml"), "").unwrap();
    desk.put("fine.yaml", &[strict("Enforce")]);
    for (file, why) in [
        ("misspelt.yaml", "cannot read misspelt.yaml: QuarantinePolicy strict: spec.requires is no field of it"),
        ("pattern.yaml", "Policy strict cannot be read: spec.match.images"),
        ("fact.yaml", "image statuses are read from the cluster"),
        ("pod.yaml", "cannot read pod.yaml: Pod (v1) is not read here"),
        ("empty.yaml", "empty.yaml is empty: there is nothing to try"),
        ("missing.yaml", "cannot read missing.yaml"),
        ("fine.yaml", "no cluster to ask"),
    ] {
        let ended = desk.run(&["whatif", "--policy", file]).await;
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{file}: {}", ended.err);
        assert!(ended.err.contains(why), "{file}: {}", ended.err);
    }
    assert_eq!(desk.run(&["whatif"]).await.code, 2);
}
