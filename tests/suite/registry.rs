//! The registry client against a registry that misbehaves.

#[path = "registry/answers.rs"]
mod answers;
#[path = "registry/outages.rs"]
mod outages;
#[path = "registry/redirects.rs"]
mod redirects;
#[path = "registry/tokens.rs"]
mod tokens;

use std::time::Duration;

use lazaretto::{
    facts::{Block, Outage, OutageKind},
    image::Digest,
    registry::{ClientOptions, Credentials, Endpoint, Failure, Proxies, RegistryClient, TagOrDigest},
};

use crate::support::registry::FakeRegistry;

fn client() -> RegistryClient {
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    RegistryClient::new(ClientOptions { cluster_ranges: Vec::new(), proxies: Proxies::none() }).unwrap()
}

/// An image `team/app:1` in an open registry.
async fn with_image() -> (FakeRegistry, Digest) {
    let registry = FakeRegistry::start().await;
    let digest = registry.push_image("team/app", "1", "one");
    (registry, digest)
}

async fn resolve(client: &RegistryClient, endpoint: &Endpoint, credentials: &Credentials) -> Result<Digest, Failure> {
    client.resolve(endpoint, credentials, "team/app", TagOrDigest::Tag("1")).await
}

/// Asks a fresh client for `team/app:1`, without credentials.
async fn resolved(registry: &FakeRegistry) -> Result<Digest, Failure> {
    resolve(&client(), &registry.endpoint(), &Credentials::Anonymous).await
}

fn outage<T: std::fmt::Debug>(end: Result<T, Failure>) -> (OutageKind, String) {
    match end {
        Err(Failure::Outage(Outage { kind, message })) => (kind, message),
        other => panic!("not an outage: {other:?}"),
    }
}

fn misbehaved<T: std::fmt::Debug>(end: Result<T, Failure>) -> String {
    match end {
        Err(Failure::Misbehaved(message)) => message,
        other => panic!("not misbehaved: {other:?}"),
    }
}

fn blocked(code: &str, message: &str) -> Failure {
    Failure::Blocked(Block { code: code.to_owned(), message: message.to_owned() })
}

/// The questions can be asked from tasks.
#[tokio::test]
async fn the_futures_are_send() {
    fn send<T: Send>(_: T) {}
    let (client, endpoint, digest) = (client(), Endpoint::unlisted("reg.example").unwrap(), Digest::of(b""));
    send(client.resolve(&endpoint, &Credentials::Anonymous, "a", TagOrDigest::Digest(&digest)));
    send(client.manifest(&endpoint, &Credentials::Anonymous, "a", &digest));
    send(client.ping(&endpoint));
    send(client.get_json::<serde_json::Value>(&endpoint, &Credentials::Anonymous, "/x", &[]));
}
