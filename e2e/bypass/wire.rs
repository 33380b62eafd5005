//! Requests as nobody sends them: every one gets its answer, and every answer is an AdmissionReview with the request's uid.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use kube::api::PostParams;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{IN_QUARANTINE, Scene, pod, read};
use crate::lab::registry::{Options, Registry};
use crate::lab::replica::Replica;
use crate::lab::wait::{MOMENT, eventually};
use crate::story;

const UID: &str = "0c1de5f0-7a52-4c6a-9f86-000000000007";

fn client(http2: bool) -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(MOMENT);
    // Who may answer in our stead is the API server's business; here it is about what is answered.
    let builder = builder.tls_danger_accept_invalid_certs(true);
    if http2 { builder } else { builder.http1_only() }.build().unwrap()
}

/// The response of a replica to what is posted to it, past the API server: always 200, always an AdmissionReview.
pub async fn post(replica: &Replica, path: &str, body: reqwest::Body) -> Value {
    post_as(replica, path, Some("application/json"), body, true).await
}

async fn post_as(replica: &Replica, path: &str, kind: Option<&str>, body: reqwest::Body, http2: bool) -> Value {
    let mut request = client(http2).post(format!("https://{}{path}", replica.webhook())).body(body);
    if let Some(kind) = kind {
        request = request.header(CONTENT_TYPE, kind);
    }
    let answer = request.send().await.unwrap_or_else(|error| panic!("{path}: no answer: {error:?}"));
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{path}: {text}");
    response(&text)
}

fn response(text: &str) -> Value {
    let review: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    assert_eq!((&review["apiVersion"], &review["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")), "{review}");
    assert!(review["response"]["uid"].is_string() && review["response"]["allowed"].is_boolean(), "{review}");
    review["response"].clone()
}

#[track_caller]
fn assert_refused(response: &Value, uid: &str, sentence: &str) {
    let expected = (json!(uid), json!(false), json!(403));
    assert_eq!(
        (&response["uid"], &response["allowed"], &response["status"]["code"]),
        (&expected.0, &expected.1, &expected.2),
        "{response}"
    );
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains(sentence), "{sentence:?} is not in {message:?}");
}

/// A review, written in the API server's order: the uid stands first in the request.
fn request(change: impl FnOnce(&mut Value)) -> String {
    let mut review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": UID, "kind": { "group": "", "version": "v1", "kind": "Pod" }, "namespace": "nowhere", "operation": "CREATE",
            "userInfo": { "username": "mallory" }, "object": pod("p", "x"),
        },
    });
    change(&mut review);
    let uid = review["request"].as_object_mut().unwrap().remove("uid");
    let first = uid.map_or_else(String::new, |uid| format!("\"uid\":{uid},"));
    review.to_string().replacen("\"request\":{", &format!("\"request\":{{{first}"), 1)
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_the_form_that_the_api_server_reads() {
    let scene = Scene::bare().await;
    let replica = &scene.replicas[0];
    let with = |pointer: &'static str, value: Value| request(|review| *review.pointer_mut(pointer).unwrap() = value);
    let without = |field: &str| request(|review| drop(review["request"].as_object_mut().unwrap().remove(field)));
    let whole = request(|_| {});
    let cases = [
        // Nothing in it says which request it was.
        (String::new(), "", "cannot read the AdmissionReview: it ends too early"),
        ("rubbish".into(), "", "cannot read the AdmissionReview: it is not JSON"),
        ("[1, 2]".into(), "", "cannot read the AdmissionReview"),
        ("{}".into(), "", "cannot read the AdmissionReview: missing field `apiVersion`"),
        (r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#.into(), "", "the AdmissionReview has no request"),
        (without("uid"), "", "cannot read the AdmissionReview: missing field `uid`"),
        (with("/request/uid", json!(7)), "", "cannot read the AdmissionReview: a field has another type"),
        // The uid is there, and comes back.
        (
            with("/apiVersion", json!("admission.k8s.io/v1beta1")),
            UID,
            "this is no AdmissionReview of admission.k8s.io/v1 but admission.k8s.io/v1beta1",
        ),
        (with("/kind", json!("Pod")), UID, "this is no AdmissionReview of admission.k8s.io/v1 but admission.k8s.io/v1, Pod"),
        (without("kind"), UID, "cannot read the AdmissionReview: missing field `kind`"),
        (without("operation"), UID, "cannot read the AdmissionReview: missing field `operation`"),
        (without("object"), UID, "the request has no object"),
        (with("/request/userInfo", json!("me")), UID, "cannot read the AdmissionReview: a field has another type"),
        (with("/request/object", json!("pod")), UID, "cannot read the pod: a field has another type"),
        (with("/request/object/spec/containers", json!({})), UID, "cannot read the pod: a field has another type"),
        (with("/request/object/spec/containers/0/image", json!(["s3cret"])), UID, "cannot read the pod: a field has another type"),
        (whole[..whole.len() - 1].into(), UID, "cannot read the AdmissionReview: it ends too early"),
        (whole.replace("\"mallory\"", "mallory"), UID, "cannot read the AdmissionReview: it is not JSON"),
    ];
    for (body, uid, sentence) in &cases {
        for path in ["/validate/enforce", "/validate"] {
            let response = post(replica, path, body.clone().into()).await;
            assert_refused(&response, uid, sentence);
            assert!(!response.to_string().contains("s3cret"), "no excerpt: {response}");
        }
        // For policies that only observe, who block nobody: the audit log has the reason.
        let response = post(replica, "/validate/observe", body.clone().into()).await;
        assert_eq!((&response["uid"], &response["allowed"]), (&json!(uid), &json!(true)), "{response}");
        let why = response["auditAnnotations"]["unjudged"].as_str().unwrap_or_default();
        assert!(why.contains(sentence), "{response}");
    }
    let torn = [whole.as_bytes(), &[0xff, 0xfe]].concat();
    assert_refused(&post(replica, "/validate/enforce", torn.into()).await, UID, "cannot read the AdmissionReview: it is not JSON");
    // Deeper than any stack, where a pod has free form: read over.
    let deep = request(|review| review["request"]["object"]["metadata"]["x"] = json!("DEEP"));
    let deep = deep.replace("\"DEEP\"", &format!("{}{}", "[".repeat(500_000), "]".repeat(500_000)));
    assert_eq!(post(replica, "/validate/enforce", deep.into()).await["uid"], UID);
    // A template is never refused, whatever it is.
    for (body, uid, _) in cases {
        let response = post(replica, "/warn", body.into()).await;
        assert_eq!((&response["uid"], &response["allowed"]), (&json!(uid), &json!(true)), "{response}");
    }
    replica.wait_ready().await;
}

#[tokio::test]
async fn the_content_type_is_nobodys_business() {
    let scene = Scene::new().await;
    let (image, digest) = scene.push("app", "1").await;
    for kind in [None, Some("text/plain"), Some("application/yaml"), Some("multipart/form-data; boundary=x"), Some(";;;")] {
        let body = scene.review(&pod("p", &image)).to_string();
        let response = post_as(&scene.replicas[0], "/validate/enforce", kind, body.into(), true).await;
        assert_refused(&response, "6e0f0c8e-0001-4a4b-9d63-000000000001", &format!("{image} ({digest}): {IN_QUARANTINE}"));
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_gets_its_answer() {
    let scene = Scene::bare().await;
    let filled = |size: usize| {
        let empty = request(|review| review["request"]["object"]["metadata"]["x"] = json!(""));
        let fill = "x".repeat(size - empty.len());
        request(|review| review["request"]["object"]["metadata"]["x"] = json!(fill))
    };
    for http2 in [true, false] {
        for megabytes in [9, 32] {
            let body = filled(megabytes << 20);
            let response = post_as(&scene.replicas[0], "/validate/enforce", Some("application/json"), body.into(), http2).await;
            assert_refused(&response, UID, "the AdmissionReview is larger than 8 MiB");
        }
        let body = filled(8 << 20);
        assert_eq!(body.len(), 8 << 20);
        let response = post_as(&scene.replicas[0], "/validate/enforce", Some("application/json"), body.into(), http2).await;
        assert_eq!((&response["uid"], &response["allowed"]), (&json!(UID), &json!(true)), "{response}");
    }
}

/// A request that stops in the middle: one that keeps its connection open, and one that ends it there.
#[tokio::test]
async fn half_a_body_gets_its_answer() {
    let scene = Scene::bare().await;
    let body = request(|_| {});
    for (half, uid) in [(body.len() / 2, UID), (10, ""), (0, "")] {
        let begun = Instant::now();
        let text = half_a_request(&scene.replicas[0], &body, half, false).await;
        let response = response(&text);
        assert_eq!(
            (&response["uid"], &response["allowed"], &response["status"]["code"]),
            (&json!(uid), &json!(false), &json!(504)),
            "{response}"
        );
        assert_eq!(response["status"]["message"], "the AdmissionReview did not arrive in time: try again shortly");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    let text = half_a_request(&scene.replicas[0], &body, body.len() / 2, true).await;
    assert_refused(&response(&text), UID, "the AdmissionReview broke off");
}

/// Sends the first bytes of a body that was announced as longer; returns the body of the answer. `close`: says that no more will come.
async fn half_a_request(replica: &Replica, body: &str, half: usize, close: bool) -> String {
    let address = replica.webhook();
    let head = format!(
        "POST /validate/enforce?timeout=1s HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{}",
        body.len(),
        &body[..half],
    );
    let talk = move || -> std::io::Result<String> {
        let config = rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(rustls::crypto::aws_lc_rs::default_provider())))
            .with_no_client_auth();
        let name = rustls_pki_types::ServerName::from(address.ip());
        let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(MOMENT))?;
        let mut stream = rustls::StreamOwned::new(connection, socket);
        stream.write_all(head.as_bytes())?;
        stream.flush()?;
        if close {
            stream.conn.send_close_notify();
            stream.flush()?;
            stream.sock.shutdown(std::net::Shutdown::Write)?;
        }
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
            _ => Ok(String::from_utf8(answer).unwrap()),
        }
    };
    let answer = tokio::task::spawn_blocking(talk).await.unwrap().unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    text.to_owned()
}

/// Trusts anybody: see [`client`].
#[derive(Debug)]
struct Anybody(rustls::crypto::CryptoProvider);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// While nobody knows yet the answer is 504 with a time to come back; who follows it needs nothing else.
#[tokio::test]
async fn not_yet_becomes_yes_for_who_waits() {
    let scene = Scene::new().await;
    let registry = Registry::start(scene.lab, Options::default()).await;
    story::register(scene.lab, &registry, "Managed", |spec| spec["limits"] = json!({ "timeoutSeconds": 2 })).await;
    let digest = registry.push("app", "1", &scene.namespace).await;
    let image = registry.tagged("app", "1");
    scene.refused(&pod("p", &image)).await.says(&[&format!("{image} ({digest}): {IN_QUARANTINE}")]);
    scene.release(&image, &digest).await;
    assert_eq!(registry.push("app", "2", &scene.namespace).await, digest, "another tag of the same image");
    let image = registry.tagged("app", "2");

    registry.process().signal("STOP").await;
    let asked = Instant::now();
    let answer = scene.pods().create(&PostParams::default(), &read(&pod("p", &image))).await;
    let Err(kube::Error::Api(status)) = answer else { panic!("{answer:?}") };
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!((status.code, status.reason.as_str()), (504, "Timeout"), "{status:?}");
    let seconds = status.details.as_ref().unwrap().retry_after_seconds;
    assert!((1..=30).contains(&seconds), "{status:?}");
    for part in [&format!("spec.containers[c].image {image}: its registry is unavailable ("), "and this policy waits until it can be asked"]
    {
        assert!(status.message.contains(part), "{part:?} is not in {status:?}");
    }
    let response = scene.ask(&scene.replicas[0], "/validate/enforce", &scene.review(&pod("p", &image))).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(504)), "{response}");

    let wait_and_thaw = async {
        eventually(2 * MOMENT, "kubectl was told to wait", async || {
            let told = |event: &Value| event["responseStatus"]["code"] == 504;
            if scene.lab.audit_of(&scene.namespace, "waits").iter().any(told) { Ok(()) } else { Err("not yet") }
        })
        .await;
        registry.process().signal("CONT").await;
    };
    let (output, ()) = tokio::join!(story::run(scene.lab, &scene.namespace, "waits", &image), wait_and_thaw);
    output.ok();
}
