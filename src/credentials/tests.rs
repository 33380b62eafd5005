use std::{convert::Infallible, sync::Arc};

use http::{Request, Response, StatusCode};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::advance;

use super::*;

const OURS: &str = "lazaretto";

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
    fn reader(&self) -> SecretReader {
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
        SecretReader::new(Client::new(service, "default"), OURS)
    }

    fn asked(&self) -> usize {
        self.asked.lock().len()
    }
}

fn user(name: &str) -> Credentials {
    Credentials::basic(name, "hunter2")
}

fn own(name: &str) -> Identified {
    Identified::new(user(name), Holder::Registry)
}

#[tokio::test(start_paused = true)]
async fn a_registrys_credentials_are_read_once_in_a_while() {
    let server = Server::default();
    server.docker(OURS, "pull", "first");
    let reader = server.reader();
    assert_eq!(reader.known_registry_credentials("pull", "reg.example"), None);
    let all = join_all((0..10).map(|_| reader.registry_credentials("pull", "reg.example"))).await;
    assert!(all.iter().all(|read| *read == Ok(own("first"))));
    assert_eq!(*server.asked.lock(), ["/api/v1/namespaces/lazaretto/secrets/pull"]);

    server.docker(OURS, "pull", "second");
    assert_eq!(reader.registry_credentials("pull", "reg.example").await, Ok(own("first")));
    assert_eq!(reader.fresh_registry_credentials("pull", "reg.example"), Some(Ok(own("first"))));
    advance(FRESH).await;
    assert_eq!(reader.fresh_registry_credentials("pull", "reg.example"), None);
    assert_eq!(reader.known_registry_credentials("pull", "reg.example"), Some(Ok(own("first"))));
    assert_eq!(reader.registry_credentials("pull", "reg.example").await, Ok(own("second")));

    // Refused by the registry: read anew at once.
    server.docker(OURS, "pull", "third");
    reader.forget_registry_credentials("pull");
    assert_eq!(reader.registry_credentials("pull", "reg.example").await, Ok(own("third")));
    assert_eq!(server.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_the_way_of_a_registrys_credentials_is_said() {
    let server = Server::default();
    server.docker(OURS, "pull", "robot");
    server.fail(OURS, "secret", 403, "Forbidden");
    server.set("/api/v1/namespaces/lazaretto/secrets/opaque", 200, &json!({"metadata": {"name": "opaque"}, "type": "Opaque"}));
    server.set("/api/v1/namespaces/lazaretto/secrets/odd", 200, &json!({"metadata": {}, "data": {"password": "%%hunter2"}}));
    server.set("/api/v1/namespaces/lazaretto/secrets/silent", 0, &json!({}));
    let reader = server.reader();
    let cases = [
        ("absent", "Secret lazaretto/absent does not exist"),
        ("secret", "Secret lazaretto/secret cannot be read: the API server answers 403 Forbidden"),
        ("silent", "Secret lazaretto/silent cannot be read: the API server did not answer within 3s"),
        ("odd", "Secret lazaretto/odd cannot be read: the API server answers with something else"),
        (
            "opaque",
            "Secret lazaretto/opaque: it is of type `Opaque`, not kubernetes.io/dockerconfigjson, kubernetes.io/dockercfg or kubernetes.io/basic-auth",
        ),
    ];
    for (name, sentence) in cases {
        assert_eq!(reader.registry_credentials(name, "reg.example").await.unwrap_err().to_string(), sentence);
    }
    let other = reader.registry_credentials("pull", "other.example").await;
    assert_eq!(other.unwrap_err().to_string(), "Secret lazaretto/pull has no entry for other.example");
    assert_eq!(format!("{reader:?}"), "SecretReader(6)");
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_fails_what_was_read_before_counts_and_not_for_ever() {
    let server = Server::default();
    server.docker(OURS, "pull", "robot");
    let reader = server.reader();
    let ask = async || reader.registry_credentials("pull", "reg.example").await;
    assert_eq!(ask().await, Ok(own("robot")));
    server.fail(OURS, "pull", 500, "InternalError");
    advance(Duration::from_secs(300)).await;
    for _ in 0..5 {
        assert_eq!(ask().await, Ok(own("robot")));
    }
    assert_eq!(server.asked(), 2, "the API server is not pressed");
    advance(Duration::from_secs(301)).await;
    assert!(matches!(ask().await, Err(CredentialsError::Unreadable { .. })));
    // A deletion is an answer.
    server.docker(OURS, "pull", "robot");
    advance(FRESH_FAILURE).await;
    assert_eq!(ask().await, Ok(own("robot")));
    server.fail(OURS, "pull", 404, "NotFound");
    advance(FRESH).await;
    assert!(matches!(ask().await, Err(CredentialsError::Absent { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_pods_pull_secrets_are_tried_in_order_and_missing_ones_are_tolerated() {
    let server = Server::default();
    server.docker("team", "one", "one");
    server.docker("team", "two", "two");
    server.docker("other", "three", "three");
    server.fail("team", "forbidden", 403, "Forbidden");
    let broken =
        json!({"metadata": {}, "type": "kubernetes.io/dockercfg", "data": {".dockercfg": k8s_openapi::ByteString(b"hunter2".to_vec())}});
    server.set("/api/v1/namespaces/team/secrets/broken", 200, &broken);
    let reader = server.reader();
    let found = reader.pod_credentials("team", &["two", "missing", "forbidden", "three", "one", "broken"], "reg.example/app").await;
    assert_eq!(found.credentials, [user("two"), user("one")]);
    let unusable: Vec<_> = found.unusable.iter().map(ToString::to_string).collect();
    assert_eq!(
        unusable,
        [
            "Secret team/forbidden cannot be read: the API server answers 403 Forbidden",
            "Secret team/broken: `.dockercfg` is not a Docker configuration (line 1, column 1)",
        ]
    );
    assert_eq!(reader.pod_credentials("team", &["one"], "elsewhere.example/app").await, PodCredentials::default());
}

#[tokio::test(start_paused = true)]
async fn no_name_leads_out_of_the_namespace() {
    let server = Server::default();
    server.docker("other", "theirs", "theirs");
    let reader = server.reader();
    for name in ["../../other/secrets/theirs", "..", ".", "", "a/b", "a?b", "a%2fb", "UPPER", "a..b", &"a".repeat(254)] {
        assert_eq!(reader.pod_credentials("team", &[name], "reg.example/app").await, PodCredentials::default(), "{name}");
        assert!(reader.pod_credentials(name, &["theirs"], "reg.example/app").await.credentials.is_empty(), "{name}");
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pod_has_so_many_pull_secrets_read_and_no_more() {
    let server = Server::default();
    let names: Vec<String> = (0..20).map(|at| format!("s{at}")).collect();
    for name in &names {
        server.docker("team", name, name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = server.reader().pod_credentials("team", &names, "reg.example/app").await;
    assert_eq!(found.credentials.len(), MOST_PULL_SECRETS);
    assert_eq!(found.unusable, [CredentialsError::TooMany(20)]);
    assert_eq!(server.asked(), MOST_PULL_SECRETS);
}

#[tokio::test(start_paused = true)]
async fn a_strangers_large_secret_is_not_remembered() {
    let server = Server::default();
    server.docker("team", "large", &"u".repeat(MOST_REMEMBERED_BYTES));
    server.docker(OURS, "large", &"u".repeat(MOST_REMEMBERED_BYTES));
    let reader = server.reader();
    for _ in 0..2 {
        assert_eq!(reader.pod_credentials("team", &["large"], "reg.example/app").await.credentials.len(), 1);
        assert!(reader.registry_credentials("large", "reg.example").await.is_ok());
    }
    assert_eq!(server.asked(), 3);
}
