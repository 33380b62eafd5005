//! One question to one registry: deadline, size limit, redirects, kinds of failure.

mod address;
mod challenge;
mod endpoint;
mod failure;
mod identity;
mod manifest;
mod proxy;
mod realm;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde::de::DeserializeOwned;
use thiserror::Error;

pub use self::{
    address::{AddressRange, RangeError},
    endpoint::{Authorities, Endpoint, EndpointError, UNLISTED_TIMEOUT},
    failure::Failure,
    proxy::Proxies,
};
pub use crate::keyring::{CredentialIdentity, Credentials, Holder};
use crate::{facts::Manifest, image::Digest};

/// What a manifest is asked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagOrDigest<'a> {
    /// A tag.
    Tag(&'a str),
    /// A digest.
    Digest(&'a Digest),
}

/// A manifest or index whose bytes have the digest asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestAnswer {
    /// The digest of the bytes.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// What it says; for an index the children of nested indexes, too.
    pub manifest: Manifest,
    /// The exact bytes, at most 4 MiB.
    pub bytes: Bytes,
}

/// A finished HTTP answer. The body is whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status, never 401.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, at most 4 MiB.
    pub body: Bytes,
}

/// A request to an API beside the distribution API, such as ACR's `/acr/v1`.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// Path and query, beginning with `/`.
    pub path: &'a str,
    /// The token scopes to ask for, such as `repository:team/app:pull`.
    pub scopes: &'a [String],
    /// A JSON body.
    pub body: Option<Bytes>,
}

/// The client could not be made.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The TLS client could not be made, for want of certificate authorities for instance.
    #[error("cannot make a TLS client: {0}")]
    Tls(String),
    /// The resolver could not be made.
    #[error("cannot make a resolver from /etc/resolv.conf: {0}")]
    Resolver(String),
}

/// What the client is made of.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// The cluster's own ranges (services, pods, nodes): hosts without a Registry object are never reached there, be the addresses private or not.
    pub cluster_ranges: Vec<AddressRange>,
    /// The proxies on the way out.
    pub proxies: Proxies,
}

/// Asks registries. One for the process: it holds the connections and the tokens.
#[derive(Debug)]
pub struct RegistryClient {}

impl RegistryClient {
    /// Call it inside a tokio runtime, after the crypto provider is installed.
    pub fn new(options: ClientOptions) -> Result<Self, BuildError> {
        drop(options);
        Ok(Self {})
    }

    /// The digest of what a tag names, or that a digest is there.
    pub async fn resolve(
        &self,
        _endpoint: &Endpoint,
        _credentials: &Credentials,
        _repository: &str,
        _reference: TagOrDigest<'_>,
    ) -> Result<Digest, Failure> {
        Err(Failure::NotFound)
    }

    /// A manifest or index by its digest.
    pub async fn manifest(
        &self,
        _endpoint: &Endpoint,
        _credentials: &Credentials,
        _repository: &str,
        _digest: &Digest,
    ) -> Result<ManifestAnswer, Failure> {
        Err(Failure::NotFound)
    }

    /// Whether the registry is alive: `GET /v2/` answers 200, 401 or 403.
    pub async fn ping(&self, _endpoint: &Endpoint) -> Result<(), Failure> {
        Err(Failure::NotFound)
    }

    /// Any request. A status other than 401 is an answer, for the caller to judge with [`Failure::of`].
    pub async fn request(&self, _endpoint: &Endpoint, _credentials: &Credentials, _request: Request<'_>) -> Result<Answer, Failure> {
        Err(Failure::NotFound)
    }

    /// A JSON document; a status other than 200 is the failure that it means.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        _endpoint: &Endpoint,
        _credentials: &Credentials,
        _path: &str,
        _scopes: &[String],
    ) -> Result<T, Failure> {
        Err(Failure::NotFound)
    }
}
