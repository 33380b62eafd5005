use std::{convert::Infallible, sync::Arc};

use http::{Request, Response, StatusCode};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::advance;

use super::*;

/// What the API server answers by path, and what it was asked.
#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<Vec<(String, u16, String)>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn set(&self, path: &str, status: u16, body: &serde_json::Value) {
        let mut answers = self.answers.lock();
        answers.retain(|(known, ..)| known != path);
        answers.push((path.to_owned(), status, body.to_string()));
    }

    fn docker(&self, namespace: &str, name: &str, user: &str) {
        let config = json!({"auths": {"reg.example": {"username": user, "password": "hunter2"}}}).to_string();
        let data = json!({".dockerconfigjson": k8s_openapi::ByteString(config.into_bytes())});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson", "data": data});
        self.set(&format!("/api/v1/namespaces/{namespace}/secrets/{name}"), 200, &secret);
    }

    fn fail(&self, namespace: &str, name: &str, code: u16, reason: &str) {
        let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "no"});
        self.set(&format!("/api/v1/namespaces/{namespace}/secrets/{name}"), code, &status);
    }

    /// Status 0 never answers; what was not set is not found.
    fn reader(&self) -> PodCredentials {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.method(), http::Method::GET);
            let path = request.uri().path().to_owned();
            server.asked.lock().push(path.clone());
            let answer = server.answers.lock().iter().find(|(known, ..)| *known == path).map(|(_, status, body)| (*status, body.clone()));
            async move {
                let missing = || {
                    (404, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound"}).to_string())
                };
                let (status, body) = answer.unwrap_or_else(missing);
                if status == 0 {
                    std::future::pending::<()>().await;
                }
                let response =
                    Response::builder().status(StatusCode::from_u16(status).unwrap()).body(Body::from(body.into_bytes())).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        PodCredentials::new(Client::new(service, "default"))
    }

    fn asked(&self) -> usize {
        self.asked.lock().len()
    }
}

fn user(name: &str) -> Credentials {
    Credentials::basic(name, "hunter2")
}

/// What the pod with these pull secrets has for `reg.example/app`.
async fn of(reader: &PodCredentials, secrets: &[&str]) -> Found {
    reader.all("team", "default", secrets, "reg.example/app").await
}

fn found(users: &[&str]) -> Found {
    Found { credentials: users.iter().map(|name| user(name)).collect(), unusable: vec![] }
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_read_once_in_a_while() {
    let server = Server::default();
    server.docker("team", "pull", "first");
    let reader = server.reader();
    let all = join_all((0..10).map(|_| of(&reader, &["pull"]))).await;
    assert!(all.iter().all(|read| *read == found(&["first"])));
    assert_eq!(*server.asked.lock(), ["/api/v1/namespaces/team/secrets/pull"]);

    server.docker("team", "pull", "second");
    assert_eq!(of(&reader, &["pull"]).await, found(&["first"]));
    advance(FRESH).await;
    assert_eq!(of(&reader, &["pull"]).await, found(&["second"]));
    assert_eq!(server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_namespaces_secret_is_not_anothers() {
    let server = Server::default();
    server.docker("team", "pull", "team");
    server.docker("other", "pull", "other");
    let reader = server.reader();
    assert_eq!(of(&reader, &["pull"]).await, found(&["team"]));
    assert_eq!(reader.all("other", "default", &["pull"], "reg.example/app").await, found(&["other"]));
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_fails_what_was_read_before_counts_and_not_for_ever() {
    let server = Server::default();
    server.docker("team", "pull", "robot");
    let reader = server.reader();
    assert_eq!(of(&reader, &["pull"]).await, found(&["robot"]));
    server.fail("team", "pull", 500, "InternalError");
    advance(Duration::from_secs(300)).await;
    for _ in 0..5 {
        assert_eq!(of(&reader, &["pull"]).await, found(&["robot"]));
    }
    assert_eq!(server.asked(), 2, "the API server is not pressed");
    advance(Duration::from_secs(301)).await;
    assert!(matches!(of(&reader, &["pull"]).await.unusable[..], [CredentialsError::Unreadable { .. }]));
    // A deletion is an answer.
    server.docker("team", "pull", "robot");
    advance(FRESH_FAILURE).await;
    assert_eq!(of(&reader, &["pull"]).await, found(&["robot"]));
    server.fail("team", "pull", 404, "NotFound");
    advance(FRESH).await;
    assert_eq!(of(&reader, &["pull"]).await, Found::default());
}

#[tokio::test(start_paused = true)]
async fn pull_secrets_are_tried_in_order_and_missing_ones_are_tolerated() {
    let server = Server::default();
    server.docker("team", "one", "one");
    server.docker("team", "two", "two");
    server.docker("other", "three", "three");
    server.fail("team", "forbidden", 403, "Forbidden");
    let broken =
        json!({"metadata": {}, "type": "kubernetes.io/dockercfg", "data": {".dockercfg": k8s_openapi::ByteString(b"hunter2".to_vec())}});
    server.set("/api/v1/namespaces/team/secrets/broken", 200, &broken);
    server.set("/api/v1/namespaces/team/secrets/odd", 200, &json!({"metadata": {}, "data": {"password": "%%hunter2"}}));
    server.set("/api/v1/namespaces/team/secrets/silent", 0, &json!({}));
    let reader = server.reader();
    let names = ["two", "missing", "forbidden", "three", "one", "broken", "odd", "silent"];
    let read = of(&reader, &names).await;
    assert_eq!(read.credentials, [user("two"), user("one")]);
    let unusable: Vec<_> = read.unusable.iter().map(ToString::to_string).collect();
    assert_eq!(
        unusable,
        [
            "Secret team/forbidden cannot be read: the API server answers 403 Forbidden",
            "Secret team/broken: `.dockercfg` is not a Docker configuration (line 1, column 1)",
            "Secret team/odd cannot be read: the API server answers with something else",
            "Secret team/silent cannot be read: the API server did not answer within 3s",
        ]
    );
    assert_eq!(reader.find("team", "default", &names, "reg.example/app").await, Some(user("two")));
    assert_eq!(reader.find("team", "default", &["one"], "elsewhere.example/app").await, None);
}

#[tokio::test(start_paused = true)]
async fn the_service_accounts_count_when_the_pod_names_none() {
    let server = Server::default();
    server.docker("team", "one", "one");
    server.docker("team", "two", "two");
    let account = json!({"metadata": {"name": "builder"}, "imagePullSecrets": [{"name": "two"}]});
    server.set("/api/v1/namespaces/team/serviceaccounts/builder", 200, &account);
    let reader = server.reader();
    let ask = async |account: &str, secrets: &[&str]| reader.all("team", account, secrets, "reg.example/app").await;
    for _ in 0..3 {
        assert_eq!(ask("builder", &[]).await, found(&["two"]));
    }
    assert_eq!(server.asked(), 2);
    assert_eq!(ask("builder", &["one"]).await, found(&["one"]));
    assert_eq!(ask("missing", &[]).await, Found::default());
}

#[tokio::test(start_paused = true)]
async fn no_name_leads_out_of_the_namespace() {
    let server = Server::default();
    server.docker("other", "theirs", "theirs");
    let reader = server.reader();
    for name in ["../../other/secrets/theirs", "..", ".", "", "a/b", "a?b", "a%2fb", "UPPER", "a..b", &"a".repeat(254)] {
        assert_eq!(of(&reader, &[name]).await, Found::default(), "{name}");
        assert_eq!(reader.all("team", name, &[], "reg.example/app").await, Found::default(), "{name}");
        assert_eq!(reader.all(name, "default", &["theirs"], "reg.example/app").await, Found::default(), "{name}");
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn so_many_pull_secrets_are_read_and_no_more() {
    let server = Server::default();
    let names: Vec<String> = (0..20).map(|at| format!("s{at}")).collect();
    for name in &names {
        server.docker("team", name, name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let read = of(&server.reader(), &names).await;
    assert_eq!(read.credentials.len(), MOST_PULL_SECRETS);
    assert_eq!(read.unusable, [CredentialsError::TooMany(20)]);
    assert_eq!(server.asked(), MOST_PULL_SECRETS);
}

#[tokio::test(start_paused = true)]
async fn a_large_secret_is_not_remembered() {
    let server = Server::default();
    server.docker("team", "large", &"u".repeat(MOST_REMEMBERED_BYTES));
    let reader = server.reader();
    for _ in 0..2 {
        assert_eq!(of(&reader, &["large"]).await.credentials.len(), 1);
    }
    assert_eq!(server.asked(), 2);
}
