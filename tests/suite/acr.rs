//! Azure Container Registry: the stand-in as clients meet it, and what the keeper makes of it.

#[path = "acr/decisions.rs"]
mod decisions;
#[path = "acr/faults.rs"]
mod faults;
#[path = "acr/indexes.rs"]
mod indexes;
#[path = "acr/states.rs"]
mod states;
#[path = "acr/tokens.rs"]
mod tokens;
#[path = "acr/wire.rs"]
mod wire;

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use jiff::Timestamp;
use lazaretto::{
    api::{Decision, RegistrySpec, State},
    facts::Facts,
    history::Observation,
    image::{Digest, Subject},
    provider::{Keeper, Question, Seen, acr::AzureContainerRegistry},
    registry::{ClientOptions, Credentials, Endpoint, Failure, Proxies, RegistryClient},
};
use serde_json::{Value, json};

use crate::support::acr::StandIn;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "sha256:c5b1d63604f273462ef36fadac3182d43ae6a6138731cf594b314835cf1c034f";
const REPOSITORY: &str = "tide/gate";

/// The manifest of an image; another variant has another digest.
fn image(variant: &str) -> Vec<u8> {
    let config = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": CONFIG, "size": 78 });
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], "annotations": { "variant": variant } });
    manifest.to_string().into_bytes()
}

/// An index over manifests, each with its platform.
fn index(children: &[(&str, &str)]) -> Vec<u8> {
    let listed: Vec<Value> = children
        .iter()
        .map(|(digest, platform)| {
            let (os, architecture) = platform.split_once('/').unwrap();
            json!({ "mediaType": MANIFEST, "digest": digest, "size": 247, "platform": { "os": os, "architecture": architecture } })
        })
        .collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": listed }).to_string().into_bytes()
}

/// What came back over the wire.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Status and the code of the first error.
    fn error(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned())
    }

    fn digest(&self) -> &str {
        self.headers["docker-content-digest"].to_str().unwrap()
    }

    fn challenge(&self) -> &str {
        self.headers[header::WWW_AUTHENTICATE].to_str().unwrap()
    }
}

/// A client for the wire that keeps no connection: each test has a runtime of its own.
static HTTP: LazyLock<reqwest::Client> = LazyLock::new(|| {
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap()
});

async fn send(acr: &StandIn, method: Method, path: &str, authorization: Option<&str>, body: Option<(&str, Vec<u8>)>) -> Reply {
    let mut request = HTTP.request(method, acr.url(path));
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    if let Some((media_type, bytes)) = body {
        request = request.header(header::CONTENT_TYPE, media_type).body(bytes);
    }
    let answer = request.send().await.unwrap();
    Reply { status: answer.status(), headers: answer.headers().clone(), body: answer.bytes().await.unwrap() }
}

fn basic((user, password): (&str, &str)) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// `Bearer` and a token for a scope, as clients with a password get it.
async fn bearer(acr: &StandIn, identity: (&str, &str), scope: &str) -> String {
    let path = format!("/oauth2/token?service={}&scope={scope}", acr.host());
    let reply = send(acr, Method::GET, &path, Some(&basic(identity)), None).await;
    assert_eq!(reply.status, 200, "{}", reply.json());
    format!("Bearer {}", reply.json()["access_token"].as_str().unwrap())
}

/// The same for pulling from (and pushing to) the one repository.
async fn pulling(acr: &StandIn, identity: (&str, &str)) -> String {
    bearer(acr, identity, &format!("repository:{REPOSITORY}:pull")).await
}

async fn pushing(acr: &StandIn, identity: (&str, &str)) -> String {
    bearer(acr, identity, &format!("repository:{REPOSITORY}:pull,push")).await
}

async fn get(acr: &StandIn, path: &str, authorization: &str) -> Reply {
    send(acr, Method::GET, path, Some(authorization), None).await
}

fn manifest_path(reference: &str) -> String {
    format!("/v2/{REPOSITORY}/manifests/{reference}")
}

fn attributes_path(digest: &str) -> String {
    format!("/acr/v1/{REPOSITORY}/_manifests/{digest}")
}

fn client() -> RegistryClient {
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    RegistryClient::new(ClientOptions { cluster_ranges: Vec::new(), proxies: Proxies::none() }).unwrap()
}

fn endpoint(acr: &StandIn) -> Endpoint {
    let spec = RegistrySpec { plain_http: true, ..RegistrySpec::default() };
    Endpoint::listed(&acr.host(), &spec).unwrap()
}

fn subject(acr: &StandIn, digest: &str) -> Subject {
    acr.pinned(REPOSITORY, digest).parse().unwrap()
}

fn digest(text: &str) -> Digest {
    text.parse().unwrap()
}

/// When the tests ask.
fn now() -> Timestamp {
    "2100-01-01T00:00:00Z".parse().unwrap()
}

/// What the keeper says of an image of the one repository, asked by a fresh client with an identity's password.
async fn observe(acr: &StandIn, identity: (&str, &str), digest: &str) -> Result<Observation, Failure> {
    observe_by(&client(), acr, &Credentials::basic(identity.0, identity.1), digest).await
}

async fn observe_by(client: &RegistryClient, acr: &StandIn, credentials: &Credentials, digest: &str) -> Result<Observation, Failure> {
    observe_at(now(), client, acr, credentials, digest).await
}

async fn observe_at(
    now: Timestamp,
    client: &RegistryClient,
    acr: &StandIn,
    credentials: &Credentials,
    digest: &str,
) -> Result<Observation, Failure> {
    let (endpoint, subject) = (endpoint(acr), subject(acr, digest));
    let question = Question { client, endpoint: &endpoint, credentials, subject: &subject, adopted: true, now };
    match AzureContainerRegistry.observe(question).await? {
        Seen::State(observation) => Ok(observation),
        Seen::Pending(why) => panic!("this registry knows no pending: {why}"),
    }
}

async fn facts(acr: &StandIn, identity: (&str, &str), digest: &str) -> Facts {
    observe(acr, identity, digest).await.unwrap().facts
}

async fn state(acr: &StandIn, identity: (&str, &str), digest: &str) -> State {
    facts(acr, identity, digest).await.state
}

async fn carry_out(acr: &StandIn, identity: (&str, &str), digest: &str, decision: &Decision) -> Result<(), Failure> {
    let (client, endpoint, subject) = (client(), endpoint(acr), subject(acr, digest));
    let credentials = Credentials::basic(identity.0, identity.1);
    let question =
        Question { client: &client, endpoint: &endpoint, credentials: &credentials, subject: &subject, adopted: true, now: now() };
    AzureContainerRegistry.carry_out(question, decision).await
}
