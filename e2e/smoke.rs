//! That the laboratory itself is sound: without these, a failure elsewhere could be anybody's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tokio::net::TcpListener;

use crate::lab::Lab;
use crate::lab::control_plane::Authority;
use crate::lab::forwarder::Forwarder;
use crate::lab::image::MANIFEST;
use crate::lab::process::Process;
use crate::lab::registry::{OTHER_PASSWORD, Options, PASSWORD, Registry, USER};
use crate::lab::wait::{MOMENT, eventually};

#[tokio::test]
async fn a_pod_is_admitted_and_stays_pending() {
    let lab = Lab::start().await;
    let namespace = lab.namespace().await;
    let pods: Api<Pod> = Api::namespaced(lab.client().await, &namespace);
    let pod = json!({
        "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "localhost:1/none" }] },
    });
    let made = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    assert_eq!(made.spec.unwrap().service_account_name.as_deref(), Some("default"));
    assert_eq!(made.status.unwrap().phase.as_deref(), Some("Pending"));
    eventually(MOMENT, "the creation is in the audit log", async || {
        let events = lab.audit_of(&namespace, "p");
        events.iter().any(|event| event["verb"] == "create").then_some(()).ok_or("it is not")
    })
    .await;
}

#[tokio::test]
async fn people_and_accounts_have_the_rights_that_rbac_gives_them() {
    let lab = Lab::start().await;
    let namespace = lab.namespace().await;
    let account = lab.kubeconfig_of(&namespace, "default").await;
    let who = lab.kubectl_with(&account, &["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).await.ok();
    assert_eq!(who.stdout, format!("system:serviceaccount:{namespace}:default"));
    let refused = lab.kubectl_with(&account, &["get", "pods"]).await.refused();
    assert!(refused.stderr.contains("cannot list resource \"pods\""), "{refused}");

    let person = lab.kubeconfig_as("alice", &["developers"]);
    let who = lab.kubectl_with(&person, &["auth", "whoami", "-o", "jsonpath={.status.userInfo}"]).await.ok();
    assert!(who.stdout.contains(r#""username":"alice""#) && who.stdout.contains("developers"), "{who}");
    lab.kubectl(&["create", "rolebinding", "alice", "--clusterrole=view", "--user=alice", "-n", &namespace]).await.ok();
    lab.kubectl_with(&person, &["get", "pods", "-n", &namespace]).await.ok();
}

#[tokio::test]
async fn a_pushed_image_has_the_digest_that_crane_sees() {
    let lab = Lab::start().await;
    let mut registry = Registry::start(lab, Options::default()).await;
    let one = registry.push("team/app", "v1", "one").await;
    let two = registry.push("team/app", "v2", "two").await;
    assert_ne!(one, two);
    let seen = lab.crane(&["digest", "--insecure", &registry.tagged("team/app", "v1")]).await.ok();
    assert_eq!(seen.stdout.trim(), one);
    let archive = lab.crane(&["export", "--insecure", &registry.pinned("team/app", &two), "-"]).await.ok();
    assert!(archive.stdout.contains("two"), "the layer holds the variant");
    assert!(registry.manifest_requests("team/app") > 0);

    let (index, children) = registry.push_index("team/app", "many", "three").await;
    let seen = lab.crane(&["digest", "--insecure", &registry.tagged("team/app", "many")]).await.ok();
    assert_eq!(seen.stdout.trim(), index);
    let arm = ["digest", "--insecure", "--platform=linux/arm64", &registry.tagged("team/app", "many")];
    assert_eq!(lab.crane(&arm).await.ok().stdout.trim(), children[1]);

    registry.stop().await;
    lab.crane(&["digest", "--insecure", &registry.tagged("team/app", "v1")]).await.refused();
    registry.start_again().await;
    let seen = lab.crane(&["digest", "--insecure", &registry.tagged("team/app", "v1")]).await.ok();
    assert_eq!(seen.stdout.trim(), one);
    registry.delete("team/app", &one).await;
    lab.crane(&["digest", "--insecure", &registry.tagged("team/app", "v1")]).await.refused();
}

#[tokio::test]
async fn a_registry_with_tls_and_a_password_asks_for_both() {
    let lab = Lab::start().await;
    let authority = Authority::new("a company");
    let tls = Some(authority.server(&["localhost".into()]));
    let mut registry = Registry::start(lab, Options { tls, password: true }).await;
    let digest = registry.push("app", "v1", "one").await;
    let url = format!("https://{}/v2/app/manifests/v1", registry.host());
    let trusting = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap()])
        .build()
        .unwrap();
    let strange = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(strange.get(&url).send().await.unwrap_err().is_connect(), "its certificate is nobody's");
    assert_eq!(trusting.get(&url).send().await.unwrap().status(), 401);
    let ask = async |password| {
        let request = trusting.head(&url).header("accept", MANIFEST).basic_auth(USER, Some(password));
        request.send().await.unwrap()
    };
    assert_eq!(ask(OTHER_PASSWORD).await.status(), 401);
    assert_eq!(ask(PASSWORD).await.headers()["docker-content-digest"], digest);
    registry.change_password(OTHER_PASSWORD).await;
    assert_eq!(ask(PASSWORD).await.status(), 401);
    assert_eq!(ask(OTHER_PASSWORD).await.headers()["docker-content-digest"], digest);
}

#[tokio::test]
async fn a_service_is_shared_out_among_the_ready() {
    let lab = Lab::start().await;
    let namespace = lab.namespace().await;
    lab.kubectl(&["create", "service", "clusterip", "s", "--tcp=8080", "-n", &namespace]).await.ok();
    let ip = lab.kubectl(&["get", "service", "s", "-n", &namespace, "-o", "jsonpath={.spec.clusterIP}"]).await.ok();
    let service = SocketAddr::new(ip.stdout.parse().unwrap(), 8080);
    let forwarder = Forwarder::start(service).await;
    let ask = async || {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        http.get(format!("http://{service}/")).send().await?.text().await
    };
    ask().await.expect_err("no endpoint is ready");

    let (first, first_ready) = echo("first").await;
    let (second, second_ready) = echo("second").await;
    let _first = forwarder.join(first, first);
    let second = forwarder.join(second, second);
    forwarder.wait_for_ready(2).await;
    let answers = [ask().await.unwrap(), ask().await.unwrap()];
    assert!(answers.contains(&"first".into()) && answers.contains(&"second".into()), "{answers:?}");

    first_ready.store(false, Ordering::Relaxed);
    forwarder.wait_for_ready(1).await;
    assert_eq!([ask().await.unwrap(), ask().await.unwrap()], ["second", "second"]);
    first_ready.store(true, Ordering::Relaxed);
    forwarder.wait_for_ready(2).await;
    drop(second);
    forwarder.wait_for_ready(1).await;
    assert_eq!([ask().await.unwrap(), ask().await.unwrap()], ["first", "first"]);
    assert!(second_ready.load(Ordering::Relaxed), "it left because its membership ended");
}

/// A server that says its name, and whether it is ready.
async fn echo(name: &'static str) -> (SocketAddr, Arc<AtomicBool>) {
    let ready = Arc::new(AtomicBool::new(true));
    let asked = ready.clone();
    let readyz = async move || if asked.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let router = Router::new().route("/", get(async move || name)).route("/readyz", get(readyz));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    (address, ready)
}

/// The test starts itself a second time to have a run that can be killed.
#[tokio::test]
async fn nothing_survives_a_killed_run() {
    const REPORT: &str = "LAZARETTO_LAB_REPORT";
    if let Some(report) = std::env::var_os(REPORT) {
        let lab = Lab::fresh().await;
        let registry = Registry::start(&lab, Options::default()).await;
        let all = lab.control_plane().processes().iter().chain([registry.process()]);
        let pids: Vec<_> = all.map(|process: &Process| process.pid().to_string()).collect();
        let part = std::path::Path::new(&report).with_extension("part");
        std::fs::write(&part, pids.join("\n")).unwrap();
        std::fs::rename(part, report).unwrap();
        return std::future::pending().await;
    }
    let lab = Lab::start().await;
    let report = lab.directory().join("report");
    let mut run = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "smoke::nothing_survives_a_killed_run"])
        .env(REPORT, &report)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pids = eventually(3 * MOMENT, "the other run has started", async || tokio::fs::read_to_string(&report).await).await;
    let alive = || pids.lines().filter(|pid| alive(pid)).count();
    assert_eq!((pids.lines().count(), alive()), (4, 4));
    run.kill().await.unwrap();
    eventually(Duration::from_secs(5), "its children are gone", async || match alive() {
        0 => Ok(()),
        some => Err(format!("{some} live on")),
    })
    .await;
}

/// Whether a process runs; one that has ended and waits to be reaped does not.
fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
