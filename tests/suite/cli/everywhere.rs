//! `lazaretto check` against registries and against a cluster: the same answers as from files.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path as UrlPath, State},
    http::StatusCode,
    routing::get,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::*;
use crate::support::{
    acr::{READER, StandIn},
    registry::{Access, FakeRegistry, OCI_MANIFEST, TokenServer, image},
};

/// An API server that lists what it is given. It stops when it is dropped.
pub(super) struct FakeCluster {
    objects: Objects,
    server: JoinHandle<()>,
}

type Objects = Arc<Mutex<Vec<Value>>>;

impl Drop for FakeCluster {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeCluster {
    /// Starts it, and points the desk's kubeconfig at it.
    pub(super) async fn start(desk: &mut Desk, objects: &[Value]) -> Self {
        let objects = Arc::new(Mutex::new(objects.to_vec()));
        let router = Router::new()
            .route("/apis/lazaretto.dev/v1alpha1/{plural}", get(list))
            .route("/api/v1/namespaces/{name}", get(namespace))
            .route("/api/v1/{plural}", get(others))
            .route("/apis/{group}/v1/{plural}", get(others))
            .with_state(objects.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "lab", "user": {}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": "own"}}]
        });
        let path = desk.path().join("kubeconfig");
        fs::write(&path, kubeconfig.to_string()).unwrap();
        desk.environment.push(("KUBECONFIG", path.display().to_string()));
        Self { objects, server }
    }
}

async fn list(State(objects): State<Objects>, UrlPath(plural): UrlPath<String>) -> String {
    let kind = match plural.as_str() {
        "quarantinepolicies" => "QuarantinePolicy",
        "registries" => "Registry",
        "waivers" => "Waiver",
        "imagestatuses" => "ImageStatus",
        other => panic!("nobody needs {other}"),
    };
    let items: Vec<Value> = objects.lock().iter().filter(|object| object["kind"] == kind).cloned().collect();
    json!({"apiVersion": "lazaretto.dev/v1alpha1", "kind": format!("{kind}List"), "metadata": {}, "items": items}).to_string()
}

/// Kubernetes' own objects.
async fn others(State(objects): State<Objects>, uri: axum::http::Uri) -> String {
    let plural = uri.path().rsplit('/').next().unwrap_or_default();
    let of_that_kind = |object: &&Value| format!("{}s", object["kind"].as_str().unwrap_or_default()).to_lowercase() == plural;
    let items: Vec<Value> = objects.lock().iter().filter(of_that_kind).cloned().collect();
    json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}).to_string()
}

async fn namespace(State(objects): State<Objects>, UrlPath(name): UrlPath<String>) -> (StatusCode, String) {
    let of_that_name = |object: &&Value| object["kind"] == "Namespace" && object["metadata"]["name"] == name.as_str();
    if let Some(object) = objects.lock().iter().find(of_that_name) {
        return (StatusCode::OK, object.to_string());
    }
    let message = format!("namespaces \"{name}\" not found");
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": message});
    (StatusCode::NOT_FOUND, status.to_string())
}

/// The registry as `registry.corp`, reached where it listens.
fn listed(fake: &FakeRegistry, provider: &str) -> Value {
    let spec = json!({"hosts": ["registry.corp"], "endpoint": fake.url(), "plainHTTP": true, "quarantine": {"provider": provider}});
    let mut object = registry("corp", &spec);
    object["status"] = json!({"adoption": {"instant": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:01:00Z"}});
    object
}

/// A fact as it is written where nobody keeps a flag.
fn unmanaged(subject: &str, children: &[String]) -> Value {
    let mut object = fact(subject, "Unmanaged");
    object["status"]["provider"] = json!("None");
    object["status"]["children"] = json!(children);
    if children.is_empty() {
        object["status"]["config"] = json!(lazaretto::image::Digest::of(b"configuration").to_string());
    }
    object
}

#[tokio::test]
async fn files_registry_and_cluster_give_the_same_answer() {
    let mut desk = Desk::new();
    let fake = FakeRegistry::start().await;
    let child = fake.push("app", None, OCI_MANIFEST, image("bad"));
    let good = fake.push_image("app", "good", "good");
    let bad = fake.push_index("app", Some("bad"), &[(&child, "linux", "amd64")]);
    let rules = [
        listed(&fake, "None"),
        // The emergency stop names the image inside the index.
        policy("baseline", &json!({"require": {"unmanaged": "Allow"}, "deny": [{"digest": child.to_string(), "reason": "backdoor"}]})),
    ];
    let facts = [
        unmanaged(&format!("registry.corp/app@{good}"), &[]),
        unmanaged(&format!("registry.corp/app@{bad}"), &[format!("linux/amd64={child}")]),
    ];
    desk.put("policy.yaml", &rules);
    desk.put("facts.yaml", &facts);
    let _cluster = FakeCluster::start(&mut desk, &[&rules[..], &facts[..]].concat()).await;

    for (tag, digest, code, reason) in [("good", &good, 0, "Unmanaged since"), ("bad", &bad, 1, "denied: backdoor. Use another image")] {
        let pinned = format!("registry.corp/app@{digest}");
        let tagged = format!("registry.corp/app:{tag}");
        let stands_for = format!("{tagged}={digest}");
        let ways: [&[&str]; 6] = [
            &["--image", &pinned, "--policy=policy.yaml", "--facts=facts.yaml"],
            &["--image", &tagged, "--policy=policy.yaml", "--facts=facts.yaml", "--tag", &stands_for],
            &["--image", &pinned, "--policy=policy.yaml", "--registries"],
            &["--image", &tagged, "--policy=policy.yaml", "--registries"],
            &["--image", &pinned, "--cluster"],
            &["--image", &tagged, "--cluster", "--registries"],
        ];
        for way in ways {
            let ended = desk.run(&[&["check", "-ojson"], way].concat()).await;
            assert_eq!(ended.code, code, "{way:?}: {}{}", ended.out, ended.err);
            let report = ended.json();
            let judged = &report["objects"][0]["images"][0];
            assert_eq!(judged["digest"], digest.to_string(), "{way:?}");
            assert!(judged["opinions"][0]["reason"].as_str().unwrap().starts_with(reason), "{way:?}: {report}");
        }
    }
    assert!(fake.requests().iter().all(|request| matches!(request.method.as_str(), "GET" | "HEAD")), "{:?}", fake.log());
}

#[tokio::test]
async fn what_lazaretto_keeps_is_not_guessed_from_the_registry() {
    let mut desk = Desk::new();
    let fake = FakeRegistry::start().await;
    let known = fake.push_image("app", "known", "known");
    let new = fake.push_image("app", "new", "new");
    let rules = [listed(&fake, "Managed"), policy("baseline", &json!({}))];
    let facts = [fact(&format!("registry.corp/app@{known}"), "Released")];
    desk.put("policy.yaml", &rules);
    desk.put("facts.yaml", &facts);
    let _cluster = FakeCluster::start(&mut desk, &[&rules[..], &facts[..]].concat()).await;

    let alone = ["check", "-ojson", "--policy=policy.yaml", "--registries", "--image=registry.corp/app:known"];
    let ended = desk.run(&alone).await;
    assert_eq!(ended.code, 3, "whether it was released stands in the cluster: {}", ended.out);
    let reason = &ended.json()["objects"][0]["images"][0]["opinions"][0]["reason"];
    assert_eq!(reason, "Lazaretto itself keeps the quarantine flag of this registry: give --facts or --cluster");
    assert_eq!(
        desk.run(&[&alone[..], &["--facts=facts.yaml"]].concat()).await.code,
        0,
        "the tag from the registry, the state from the file"
    );

    assert_eq!(desk.run(&["check", "--cluster", "--registries", "--image=registry.corp/app:known"]).await.code, 0);
    let pinned = format!("registry.corp/app@{new}");
    let unseen = desk.run(&["check", "--cluster", "--image", &pinned]).await;
    assert_eq!(unseen.code, 3);
    assert!(unseen.out.contains("the cluster has not seen it yet: give --registries"), "{}", unseen.out);
    let ended = desk.run(&["check", "--cluster", "--registries", "--image", &pinned]).await;
    assert_eq!(ended.code, 1, "as the cluster would, on seeing it for the first time: {}", ended.out);
    assert!(ended.out.contains("in quarantine since"), "{}", ended.out);
    let absent = desk.run(&["check", "--cluster", "--registries", "--image=registry.corp/app:absent"]).await;
    assert_eq!(absent.code, 1);
    assert!(absent.out.contains("the image was not found, or Lazaretto is not permitted to see it"), "{}", absent.out);
}

#[tokio::test]
async fn a_policy_is_tried_over_those_of_the_cluster() {
    let mut desk = Desk::new();
    let rules = [policy("baseline", &json!({"require": {"released": "Off"}}))];
    let namespaces = [json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "own", "labels": {"env": "prod"}}})];
    let cluster = FakeCluster::start(&mut desk, &[&rules[..], &namespaces[..]].concat()).await;
    let arguments = ["check", "--cluster", "--image=registry.corp/app:1", "-ojson"];
    let ended = desk.run(&arguments).await;
    assert_eq!((ended.code, ended.json()["objects"][0]["namespace"].clone()), (0, json!("own")), "the namespace is the kubeconfig's");

    let chooses =
        json!({"match": {"namespaceSelector": {"matchLabels": {"env": "prod"}}}, "require": {"released": "Off", "digest": "Deny"}});
    desk.put("new.yaml", &[policy("baseline", &chooses)]);
    let over = [&arguments[..], &["--policy=new.yaml"]].concat();
    assert_eq!(desk.run(&over).await.code, 1, "the labels are the cluster's, the policy is the file's");
    let elsewhere = desk.run(&[&over[..], &["--namespace=still-to-be-made"]].concat()).await;
    assert_eq!(elsewhere.code, 3, "{}", elsewhere.out);
    cluster.objects.lock().clear();
    let nowhere = desk.run(&["check", "--context=lab", "--image=nginx", "--policy=new.yaml"]).await;
    assert_eq!((nowhere.code, nowhere.err.as_str()), (2, "lazaretto: --context names a cluster: give --cluster as well\n"));
    assert_eq!(desk.run(&["check", "--cluster", "--image=nginx"]).await.code, 0, "a cluster without policies admits");
}

#[tokio::test]
async fn a_registry_that_wants_credentials_is_shown_those_that_are_given() {
    let mut desk = Desk::new();
    let fake = FakeRegistry::builder().access(Access::Bearer(TokenServer::for_user("robot", "gull"))).start().await;
    fake.push_image("app", "1", "one");
    desk.put(
        "policy.yaml",
        &[listed(&fake, "None"), policy("baseline", &json!({"require": {"unmanaged": "Allow"}, "whenUnknown": {"unauthorized": "Allow"}}))],
    );
    let arguments = ["check", "--policy=policy.yaml", "--registries", "--image=registry.corp/app:1"];
    let ended = desk.run(&arguments).await;
    assert_eq!(ended.code, 3, "that these are refused says nothing about the cluster's own: {}", ended.out);
    assert!(
        ended.out.contains("the registry does not show it with these credentials: give --docker-config, or --docker-login"),
        "{}",
        ended.out
    );

    let config = |password: &str| {
        json!({"auths": {"registry.corp": {"username": "robot", "password": password}}, "credsStore": "desktop"}).to_string()
    };
    fs::write(desk.path().join("config.json"), config("gull")).unwrap();
    let given = desk.run(&[&arguments[..], &["--docker-config=config.json"]].concat()).await;
    assert_eq!(given.code, 0, "{}{}", given.out, given.err);
    assert_eq!(given.err, "lazaretto: config.json names credential helpers, which are not run; only its `auths` are used\n");
    desk.environment.push(("DOCKER_CONFIG", desk.path().display().to_string()));
    assert_eq!(desk.run(&[&arguments[..], &["--docker-login"]].concat()).await.code, 0);
    fs::write(desk.path().join("config.json"), config("albatross")).unwrap();
    let wrong = desk.run(&[&arguments[..], &["--docker-login"]].concat()).await;
    assert_eq!(wrong.code, 3, "{}", wrong.out);
    assert!(!wrong.out.contains("albatross") && !wrong.err.contains("albatross"));
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_a_failure_and_no_verdict() {
    let mut desk = Desk::new();
    drop(FakeCluster::start(&mut desk, &[]).await);
    let ended = desk.run(&["check", "--cluster", "--image=nginx"]).await;
    assert_eq!(ended.code, 2);
    assert!(ended.err.starts_with("lazaretto: cannot list "), "{}", ended.err);
    assert!(ended.err.contains(": the API server of the kubeconfig cannot be reached: Connection refused"), "{}", ended.err);
    let listed = desk.run(&["quarantine", "list", "--context=lab"]).await;
    assert_eq!(listed.code, 2);
    assert!(listed.err.starts_with("lazaretto: cannot list imagestatuses: the API server"), "{}", listed.err);
    let other = desk.run(&["quarantine", "list", "--context=sea"]).await;
    assert!(other.err.starts_with("lazaretto: no cluster to ask: ") && other.err.contains("sea"), "{}", other.err);
}

#[tokio::test]
async fn the_same_where_the_registry_keeps_the_flag() {
    let mut desk = Desk::new();
    let acr = StandIn::start();
    let held = acr.push("app", "held", image("held"));
    let released = acr.push("app", "released", image("released"));
    acr.pass(&released);
    let spec = json!({
        "hosts": [acr.host()],
        "plainHTTP": true,
        "credentials": {"secretName": "acr"},
        "quarantine": {"provider": "AzureContainerRegistry"}
    });
    let mut azure = registry("azure", &spec);
    azure["status"] = json!({"lastCompletePass": jiff::Timestamp::now().to_string()});
    let written = |digest: &str, state: &str| {
        let mut object = fact(&acr.pinned("app", digest), state);
        object["status"]["provider"] = json!("AzureContainerRegistry");
        object
    };
    let rules = [azure, policy("baseline", &json!({}))];
    let facts = [written(&held, "Quarantined"), written(&released, "Released")];
    desk.put("policy.yaml", &rules);
    desk.put("facts.yaml", &facts);
    let login = json!({"auths": {acr.host(): {"username": READER.0, "password": READER.1}}});
    fs::write(desk.path().join("config.json"), login.to_string()).unwrap();
    let cluster = FakeCluster::start(&mut desk, &[&rules[..], &facts[..]].concat()).await;

    let asking: &[&str] = &["--registries", "--docker-config=config.json"];
    for (digest, code, state) in [(&released, 0, "Released"), (&held, 1, "Quarantined")] {
        let pinned = acr.pinned("app", digest);
        let ways: [&[&str]; 4] =
            [&["--policy=policy.yaml", "--facts=facts.yaml"], &["--policy=policy.yaml"], &["--cluster"], &["--cluster"]];
        for (at, way) in ways.into_iter().enumerate() {
            let asking = if at % 2 == 1 { asking } else { &[] };
            let ended = desk.run(&[&["check", "-ojson", "--image", &pinned], way, asking].concat()).await;
            assert_eq!(ended.code, code, "{way:?}: {}{}", ended.out, ended.err);
            assert_eq!(ended.json()["objects"][0]["images"][0]["state"], state, "{way:?}");
        }
    }

    // A cluster that has not looked for too long does not vouch for what was good, but for what was bad.
    cluster.objects.lock()[0].as_object_mut().unwrap().remove("status");
    let stale = desk.run(&["check", "--cluster", "--image", &acr.pinned("app", &released)]).await;
    assert_eq!(stale.code, 3);
    let words = "the cluster last saw it Released at 2026-01-01T00:00:00Z, too long ago to go by: give --registries";
    assert!(stale.out.contains(words), "{}", stale.out);
    let asked = desk.run(&[&["check", "--cluster", "--image", &acr.pinned("app", &released)], asking].concat()).await;
    assert_eq!(asked.code, 0, "{}", asked.out);
    assert_eq!(desk.run(&["check", "--cluster", "--image", &acr.pinned("app", &held)]).await.code, 1);
    assert!(acr.asked().iter().all(|asked| matches!(asked.method.as_str(), "GET" | "HEAD" | "POST")), "{:?}", acr.asked());
}

/// The credentials that are given stand for the pod's pull secrets; what is free to all is asked without any.
#[tokio::test]
async fn a_pods_pull_secret_is_proven_by_those_that_are_given() {
    let desk = Desk::new();
    let server = TokenServer::for_user("coolteam", "gull").right(None, "library/").right(Some("coolteam"), "coolteam/");
    let fake = FakeRegistry::builder().access(Access::Bearer(server)).start().await;
    for repository in ["library/base", "coolteam/app"] {
        fake.push_image(repository, "1", repository);
    }
    let mut object = listed(&fake, "None");
    object["spec"]["access"] = json!([
        {"paths": ["library/**", "coolteam/free"], "anonymous": true}, {"paths": ["coolteam/**"], "prove": "PullSecret"},
    ]);
    desk.put("policy.yaml", &[object, policy("baseline", &json!({"require": {"unmanaged": "Allow"}}))]);
    let config = |name: &str, password: &str| {
        let config = json!({"auths": {"registry.corp": {"username": "coolteam", "password": password}}});
        fs::write(desk.path().join(name), config.to_string()).unwrap();
    };
    config("good.json", "gull");
    config("bad.json", "albatross");
    let (good, bad) = (&["--docker-config=good.json"][..], &["--docker-config=bad.json"][..]);
    for (image, credentials, code, reason) in [
        ("library/base", &[][..], 0, ""),
        ("library/base", bad, 0, ""),
        ("coolteam/free", good, 1, "the image was not found, or Lazaretto is not permitted to see it"),
        ("coolteam/app", good, 0, ""),
        ("coolteam/app", bad, 1, "the image was not found, or Lazaretto is not permitted to see it"),
        ("coolteam/none", bad, 1, "the image was not found, or Lazaretto is not permitted to see it"),
        ("coolteam/app", &[], 3, "wants to have it proven by the pod's pull secrets"),
    ] {
        let image = format!("--image=registry.corp/{image}:1");
        let ended = desk.run(&[&["check", "--policy=policy.yaml", "--registries", &image], credentials].concat()).await;
        assert_eq!(ended.code, code, "{image} {credentials:?}: {}{}", ended.out, ended.err);
        assert!(ended.out.contains(reason), "{image} {credentials:?}: {}", ended.out);
    }
}
