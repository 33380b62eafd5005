//! One question to one registry: a deadline, a size limit, redirects, tokens, and typed ends.
//!
//! The host of an image is chosen by whoever may write a pod. So a registry is a stranger until a Registry object names it, and even then it may be broken. What
//! comes back is believed only as far as it can be checked: a manifest's bytes are hashed, a digest that was asked for must come back, a document must be of the
//! form that it was served as. An end is never guessed: 403 is a refusal or a policy by what its body says, a broken connection is an outage and not "not found",
//! and a token server that is down is an outage and not "unauthorized".
//!
//! # Where credentials go
//!
//! The registry itself names the token server (the *realm*) that is to see its user's password. A registry that wants passwords can have them by asking for Basic, so
//! the rule is not there to keep them from it. It is there so that one forged or injected answer cannot hand them to a third party, and cannot make us
//! knock with `Authorization` at doors inside the cluster. Hence:
//!
//! * a realm is HTTPS; HTTP only where the Registry says `plainHTTP` and the realm is one of its own hosts or near them;
//! * stored credentials go to the registry's own host (any port; the host in references and the one of `endpoint` are both its own), and to pairs that are known:
//!   `docker.io` and `auth.docker.io`, `registry.gitlab.com` and `gitlab.com`;
//! * for a registry with a Registry object also to the domain above its host and all within it, if that domain has two labels or more: `reg.corp.example` and
//!   `auth.corp.example`. Under a shared suffix such as `azurecr.io` that includes strangers; an operator named this registry and trusts what it says under
//!   TLS. Strangers get no such trust, which is why sharing a suffix is not enough without a Registry object;
//! * anonymous token requests carry nothing, and go to any public host under TLS;
//! * `Authorization` is shown to one origin only. A redirect that leaves it leaves it without, and one that wants credentials then is not followed further. Token
//!   requests follow no redirect at all.
//!
//! # Which addresses are reached
//!
//! Checked where the connection is made (modules `address` and `resolver`), at each redirect again: public addresses only, but for the hosts of a Registry object and those
//! near them; link-local, multicast and clouds' metadata services never. Through a proxy (`HTTPS_PROXY`, `NO_PROXY`) the proxy resolves names, out of our
//! sight: then only addresses in URLs and names of the inside (`*.svc`, `*.local`, `*.internal`, single labels) are refused, and the proxy must do the rest.

mod address;
mod challenge;
mod endpoint;
mod failure;
mod holds;
mod identity;
mod manifest;
mod pass;
mod proxy;
mod question;
mod realm;
mod referrers;
mod resolver;
pub(crate) mod slots;
mod token;
mod transport;

use std::{collections::HashSet, fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header::CONTENT_TYPE};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use thiserror::Error;
use url::Url;

pub use self::{
    address::{AddressRange, RangeError},
    endpoint::{Authorities, Endpoint, EndpointError, UNLISTED_TIMEOUT},
    failure::Failure,
    pass::Pass,
    proxy::Proxies,
    referrers::{Artifact, Layer, Notes, Referrer, Referrers},
};
use self::{
    manifest::{ACCEPT, Document, MOST_CHILDREN},
    question::{Ask, Question},
    token::{MOST_TOKENS, Tokens},
    transport::{MOST_BYTES, Transport},
};
pub use crate::keyring::{CredentialIdentity, Credentials, Holder};
use crate::{
    facts::{Child, Manifest},
    image::Digest,
};

/// Indexes within an index are followed so deep, and no more of them than this in all. Nobody is known to nest at all; the specification permits it.
const MOST_NESTING: usize = 2;
const MOST_NESTED: usize = 8;

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
    /// What it says; for an index the children of nested indexes, too, at most 512 in all.
    pub manifest: Manifest,
    /// The exact bytes, at most 4 MiB.
    pub bytes: Bytes,
}

/// A finished HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status, never 401.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body: whole and at most 4 MiB for a success, the first 64 KiB otherwise.
    pub body: Bytes,
}

impl Answer {
    /// What a status other than success means.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::of(self.status, &self.headers, &self.body, Timestamp::now())
    }
}

/// A request to an API beside the distribution API, such as ACR's `/acr/v1`.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method. Only GET and HEAD follow redirects.
    pub method: Method,
    /// Path and query, beginning with one `/`.
    pub path: &'a str,
    /// The token scopes to ask for, such as `repository:team/app:pull`. What the registry's own challenge asks for is added as far as it only reads.
    pub scopes: &'a [String],
    /// A JSON body.
    pub body: Option<Bytes>,
}

/// What the client is made of.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// The cluster's own ranges (services, pods, nodes): hosts without a Registry object are never reached there, be the addresses private or not.
    pub cluster_ranges: Vec<AddressRange>,
    /// The proxies on the way out.
    pub proxies: Proxies,
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

/// Asks registries. One for the process: it holds the connections and the tokens. Clones share them.
///
/// Each method is one question with one total deadline around everything (names, connections, tokens, redirects, bodies): [`Endpoint::timeout`], or, for a client
/// [within](Self::within) a [`Pass`], what all questions of one look-up may take together. Such a client also waits for its turn before each request.
#[derive(Clone)]
pub struct RegistryClient {
    shared: Arc<Shared>,
    pass: Option<Arc<Pass>>,
}

struct Shared {
    transport: Transport,
    tokens: Tokens,
}

impl fmt::Debug for RegistryClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RegistryClient")
            .field("transport", &self.shared.transport)
            .field("tokens", &self.shared.tokens.len())
            .field("pass", &self.pass)
            .finish()
    }
}

impl RegistryClient {
    /// Call it after the crypto provider is installed. Reads `/etc/resolv.conf`, `/etc/hosts` and the system's certificate authorities.
    pub fn new(options: ClientOptions) -> Result<Self, BuildError> {
        let shared = Shared { transport: Transport::new(options)?, tokens: Tokens::new(MOST_TOKENS) };
        Ok(Self { shared: Arc::new(shared), pass: None })
    }

    /// The same client for one look-up.
    #[must_use]
    pub fn within(&self, pass: Pass) -> Self {
        Self { shared: self.shared.clone(), pass: Some(Arc::new(pass)) }
    }

    /// The digest of the manifest or index that a tag names now, or that a digest is there.
    ///
    /// A HEAD where that is enough (Docker Hub counts no HEAD), a GET where the registry gives no digest, or refuses: only a GET says why. What a HEAD finds may still
    /// be refused to a GET: some registries enforce their policies there alone.
    pub async fn resolve(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
        repository: &str,
        reference: TagOrDigest<'_>,
    ) -> Result<Digest, Failure> {
        let url = manifest_url(endpoint, repository, reference)?;
        self.ask(endpoint, credentials, &[pull(endpoint, repository)], async |question| resolve(&question, url, reference).await).await
    }

    /// Whether whoever shows these is let at a manifest or index. Of what there is no word is said: a HEAD, whose end is the same whatever stands in the
    /// way, and a GET only where the registry knows no HEAD at all.
    pub async fn permits(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
        repository: &str,
        reference: TagOrDigest<'_>,
    ) -> Result<(), Failure> {
        let url = manifest_url(endpoint, repository, reference)?;
        self.ask(endpoint, credentials, &[pull(endpoint, repository)], async |question| permits(&question, url).await).await
    }

    /// A manifest or index by its digest, its bytes hashed.
    pub async fn manifest(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
        repository: &str,
        digest: &Digest,
    ) -> Result<ManifestAnswer, Failure> {
        self.ask(endpoint, credentials, &[pull(endpoint, repository)], async |question| manifest(&question, repository, digest).await).await
    }

    /// Whether the registry is alive: `GET /v2/` answers 200, or 401 or 403 to one who shows nothing.
    pub async fn ping(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        let ask = Ask { method: Method::GET, url: url_of(endpoint, "/v2/")?, accept: "*/*", body: None, limit: MOST_BYTES };
        self.ask(endpoint, &Credentials::Anonymous, &[], async |question| {
            let answer = question.fetch(&ask, None).await?;
            match answer.status.as_u16() {
                200 | 401 | 403 => Ok(()),
                404 => Err(Failure::Misbehaved(format!("{} speaks no registry protocol: /v2/ is not found", endpoint.host))),
                _ => Err(answer.failure()),
            }
        })
        .await
    }

    /// Any request. Every status but 401 is an answer, for the caller to judge, with [`Answer::failure`] where it has no other meaning.
    pub async fn request(&self, endpoint: &Endpoint, credentials: &Credentials, request: Request<'_>) -> Result<Answer, Failure> {
        let ask = Ask {
            method: request.method,
            url: url_of(endpoint, request.path)?,
            accept: "application/json",
            body: request.body,
            limit: MOST_BYTES,
        };
        self.ask(endpoint, credentials, request.scopes, async |question| question.answer(&ask).await).await
    }

    /// A JSON document; a status other than 200 is the failure that it means.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
        path: &str,
        scopes: &[String],
    ) -> Result<T, Failure> {
        let answer = self.request(endpoint, credentials, Request { method: Method::GET, path, scopes, body: None }).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.failure());
        }
        serde_json::from_slice(&answer.body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Failure::Misbehaved(format!(
                "{} answers with something that is not the JSON expected (line {line}, column {column})",
                endpoint.host
            ))
        })
    }

    async fn ask<'a, T>(
        &'a self,
        endpoint: &'a Endpoint,
        credentials: &'a Credentials,
        scopes: &'a [String],
        work: impl AsyncFnOnce(Question<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let own;
        let pass = match &self.pass {
            Some(pass) => pass.as_ref(),
            None => {
                own = Pass::free(endpoint.timeout);
                &own
            }
        };
        work(Question { transport: &self.shared.transport, tokens: &self.shared.tokens, endpoint, credentials, scopes, pass }).await
    }
}

/// The scope for pulling from a repository.
fn pull(endpoint: &Endpoint, repository: &str) -> String {
    format!("repository:{}:pull", endpoint.path_of(repository))
}

fn url_of(endpoint: &Endpoint, path: &str) -> Result<Url, Failure> {
    // Two slashes would begin a host.
    let url = if path.starts_with('/') && !path.starts_with("//") { endpoint.base.join(path).ok() } else { None };
    url.filter(|url| url.origin() == endpoint.base.origin())
        .ok_or_else(|| Failure::Misbehaved("the path of a request is not one".to_owned()))
}

fn manifest_url(endpoint: &Endpoint, repository: &str, reference: TagOrDigest<'_>) -> Result<Url, Failure> {
    url_in(endpoint, repository, "manifests", reference)
}

/// Of a repository, its `manifests`, `blobs` or `referrers`.
fn url_in(endpoint: &Endpoint, repository: &str, place: &str, reference: TagOrDigest<'_>) -> Result<Url, Failure> {
    let reference = match reference {
        TagOrDigest::Tag(tag) if is_plain(tag) => tag.to_owned(),
        TagOrDigest::Digest(digest) => digest.to_string(),
        TagOrDigest::Tag(_) => return Err(Failure::Misbehaved("the tag of a request is not one".to_owned())),
    };
    within(endpoint, repository, &format!("{place}/{reference}"))
}

/// The list of a repository's tags, of which one is asked for.
fn url_in_list(endpoint: &Endpoint, repository: &str) -> Result<Url, Failure> {
    let mut url = within(endpoint, repository, "tags/list")?;
    url.query_pairs_mut().append_pair("n", "1");
    Ok(url)
}

/// References are read elsewhere and hold nothing else; were one to, it must not become another path.
fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text.bytes().all(plain) && !text.starts_with('.')
}

fn within(endpoint: &Endpoint, repository: &str, rest: &str) -> Result<Url, Failure> {
    if !repository.split('/').all(is_plain) {
        return Err(Failure::Misbehaved("the repository of a request is not one".to_owned()));
    }
    let mut url = url_of(endpoint, &format!("/v2/{}/{rest}", endpoint.path_of(repository)))?;
    if endpoint.mirror.is_some() {
        // As nodes ask: a mirror of several registries tells them apart by this.
        url.query_pairs_mut().append_pair("ns", &endpoint.host);
    }
    Ok(url)
}

async fn resolve(question: &Question<'_>, url: Url, reference: TagOrDigest<'_>) -> Result<Digest, Failure> {
    let mut ask = Ask { method: Method::HEAD, url, accept: ACCEPT, body: None, limit: MOST_BYTES };
    let head = question.answer(&ask).await?;
    match head.status.as_u16() {
        200 => match (digest_header(&head), reference) {
            (Some(found), TagOrDigest::Tag(_)) if is_sha256(&found) => return Ok(found),
            (Some(found), TagOrDigest::Digest(asked)) if found == *asked => return Ok(found),
            (Some(found), TagOrDigest::Digest(asked)) if is_sha256(&found) == is_sha256(asked) => {
                return Err(another_digest(asked, &found));
            }
            // Missing, or of a form that says nothing about what was asked: the bytes will.
            _ => {}
        },
        // A refusal says why in its body, and some registries answer no HEAD.
        400 | 403 | 405 | 409 | 412 | 423 | 451 | 501 => {}
        _ => return Err(head.failure()),
    }
    ask.method = Method::GET;
    let answer = question.answer(&ask).await?;
    if answer.status != StatusCode::OK {
        return Err(answer.failure());
    }
    match reference {
        TagOrDigest::Digest(asked) => check(asked, &answer.body).map(|()| asked.clone()),
        TagOrDigest::Tag(_) => {
            let hashed = Digest::of(&answer.body);
            match digest_header(&answer).filter(is_sha256) {
                Some(said) if said != hashed => Err(another_digest(&said, &hashed)),
                _ => Ok(hashed),
            }
        }
    }
}

async fn permits(question: &Question<'_>, url: Url) -> Result<(), Failure> {
    let mut ask = Ask { method: Method::HEAD, url, accept: ACCEPT, body: None, limit: MOST_BYTES };
    let mut answer = question.answer(&ask).await?;
    if matches!(answer.status.as_u16(), 405 | 501) {
        ask.method = Method::GET;
        answer = question.answer(&ask).await?;
    }
    if answer.status == StatusCode::OK { Ok(()) } else { Err(answer.failure()) }
}

async fn manifest(question: &Question<'_>, repository: &str, digest: &Digest) -> Result<ManifestAnswer, Failure> {
    let (document, bytes) = document(question, repository, digest).await?;
    let Document { media_type, mut manifest, mut nested } = document;
    if !is_sha256(digest) {
        // The same image by the name that everybody else calls it by: what is denied by that is denied by this.
        manifest.children.push(Child { digest: Digest::of(&bytes), platform: "any".to_owned() });
    }
    let mut seen: HashSet<Digest> = HashSet::from([digest.clone()]);
    for _ in 0..MOST_NESTING {
        for index in std::mem::take(&mut nested) {
            if !seen.insert(index.clone()) {
                continue;
            }
            if seen.len() > MOST_NESTED + 1 {
                return Err(Failure::Misbehaved(format!("the registry served an index with more than {MOST_NESTED} indexes in it")));
            }
            let (inner, _) = document_within(question, repository, &index).await?;
            manifest.children.extend(inner.manifest.children);
            nested.extend(inner.nested);
        }
    }
    nested.retain(|index| !seen.contains(index));
    if !nested.is_empty() {
        return Err(Failure::Misbehaved(format!("the registry served an index nested more than {MOST_NESTING} deep")));
    }
    if manifest.children.len() > MOST_CHILDREN {
        return Err(Failure::Misbehaved(format!("the registry served an index of more than {MOST_CHILDREN} images")));
    }
    Ok(ManifestAnswer { digest: digest.clone(), media_type, manifest, bytes })
}

/// An index within an index. That it is missing does not mean that the image is.
async fn document_within(question: &Question<'_>, repository: &str, digest: &Digest) -> Result<(Document, Bytes), Failure> {
    document(question, repository, digest).await.map_err(|failure| match failure {
        Failure::NotFound => Failure::Misbehaved(format!("the registry served an index that names {digest}, and does not have it")),
        other => other,
    })
}

async fn document(question: &Question<'_>, repository: &str, digest: &Digest) -> Result<(Document, Bytes), Failure> {
    let url = manifest_url(question.endpoint, repository, TagOrDigest::Digest(digest))?;
    let answer = question.answer(&Ask { method: Method::GET, url, accept: ACCEPT, body: None, limit: MOST_BYTES }).await?;
    if answer.status != StatusCode::OK {
        return Err(answer.failure());
    }
    check(digest, &answer.body)?;
    let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let document = manifest::read(content_type, &answer.body).map_err(|why| Failure::Misbehaved(failure::tidy(&why, 256)))?;
    Ok((document, answer.body))
}

fn digest_header(answer: &Answer) -> Option<Digest> {
    answer.headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

fn is_sha256(digest: &Digest) -> bool {
    digest.to_string().starts_with("sha256:")
}

/// Whether bytes have the digest that was asked for, by its own algorithm.
fn check(asked: &Digest, bytes: &[u8]) -> Result<(), Failure> {
    let hashed = if is_sha256(asked) { Digest::of(bytes) } else { sha512(bytes)? };
    if hashed == *asked { Ok(()) } else { Err(another_digest(asked, &hashed)) }
}

fn sha512(bytes: &[u8]) -> Result<Digest, Failure> {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, bytes);
    let hex: String =
        hash.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|nibble| char::from_digit(nibble.into(), 16)).collect();
    format!("sha512:{hex}").parse().map_err(|_| Failure::Misbehaved("a digest of an algorithm that Lazaretto does not know".to_owned()))
}

fn another_digest(asked: &Digest, found: &Digest) -> Failure {
    Failure::Misbehaved(failure::tidy(&format!("the registry answered for {asked} with {found}"), 256))
}
