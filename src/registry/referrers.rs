//! What a registry has about an image beside the image: referrers (OCI distribution 1.1, "listing referrers"), artifacts by tag, and blobs.
//!
//! A registry's filter is not relied on: it may know none, and what it leaves out would look like nothing. Everything is listed and chosen from here.

use bytes::Bytes;
use http::{
    HeaderMap, Method, StatusCode,
    header::{CONTENT_TYPE, LINK},
};
use serde::{Deserialize, Deserializer};

use super::{
    Credentials, Endpoint, Failure, RegistryClient, TagOrDigest, check,
    failure::tidy,
    manifest::ACCEPT,
    manifest_url, pull,
    question::{Ask, Question},
    transport::MOST_BYTES,
    url_in, url_of,
};
use crate::image::Digest;

/// Pages of one list of referrers.
const MOST_PAGES: usize = 16;
/// Entries of one list of referrers. Whoever may push may attach as many as they like.
const MOST_ENTRIES: usize = 2_000;
/// Layers of one artifact.
const MOST_LAYERS: usize = 256;
/// Bytes of an artifact's manifest. One with as many signatures as are read has half of that.
const MOST_ARTIFACT_BYTES: usize = 512 << 10;
/// The media type of an index.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What refers to an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Referrers {
    /// What does.
    pub entries: Vec<Referrer>,
    /// There are more than are read.
    pub cut: bool,
}

/// One thing that refers to an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// Its artifact type; empty where the list does not say.
    pub kind: String,
    /// What the list says of the image's life.
    pub notes: Notes,
}

/// Of what is written on a manifest this is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Notes {
    /// The end of an image's life.
    #[serde(rename = "vnd.microsoft.artifact.lifecycle.end-of-life.date", default)]
    pub end_of_life: Option<String>,
    /// When the manifest was made.
    #[serde(rename = "org.opencontainers.image.created", default)]
    pub created: Option<String>,
}

/// A manifest that is no image: what is attached to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Its layers.
    pub layers: Vec<Layer>,
    /// There are more than are read.
    pub cut: bool,
    /// What is written on it.
    pub notes: Notes,
}

/// A layer of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes, by what the manifest says.
    pub size: u64,
    /// cosign's annotation with the signature, in base64.
    pub signature: Option<String>,
}

#[derive(Deserialize)]
struct WireIndex {
    #[serde(default, deserialize_with = "null_is_none")]
    manifests: Vec<WireEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEntry {
    digest: String,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<Notes>,
}

#[derive(Deserialize)]
struct WireArtifact {
    #[serde(default, deserialize_with = "null_is_none")]
    layers: Vec<WireLayer>,
    #[serde(default)]
    annotations: Option<Notes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireLayer {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    annotations: Option<WireAnnotations>,
}

/// Of what is written on a layer only this is read.
#[derive(Deserialize)]
struct WireAnnotations {
    #[serde(rename = "dev.cosignproject.cosign/signature", default)]
    signature: Option<String>,
}

/// Go's JSON has null for a list that was never filled.
fn null_is_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(reader: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(reader)?.unwrap_or_default())
}

impl RegistryClient {
    /// What refers to a digest: by the referrers API, or by its fallback tag where the registry has none.
    pub async fn referrers(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
        repository: &str,
        digest: &Digest,
    ) -> Result<Referrers, Failure> {
        self.ask(endpoint, credentials, &[pull(endpoint, repository)], async |question| referrers(&question, repository, digest).await)
            .await
    }

    /// An artifact by tag or digest; none where there is none.
    pub async fn artifact(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
        repository: &str,
        reference: TagOrDigest<'_>,
    ) -> Result<Option<Artifact>, Failure> {
        self.ask(endpoint, credentials, &[pull(endpoint, repository)], async |question| {
            let Some(bytes) = manifest(&question, repository, reference, MOST_ARTIFACT_BYTES).await? else { return Ok(None) };
            artifact(&bytes).map(Some)
        })
        .await
    }

    /// A blob whose bytes have the digest, of at most so many bytes; none where there is none.
    pub async fn blob(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
        repository: &str,
        digest: &Digest,
        limit: usize,
    ) -> Result<Option<Bytes>, Failure> {
        let url = url_in(endpoint, repository, "blobs", TagOrDigest::Digest(digest))?;
        let ask = Ask { method: Method::GET, url, accept: "*/*", body: None, limit };
        self.ask(endpoint, credentials, &[pull(endpoint, repository)], async |question| {
            let answer = question.answer(&ask).await?;
            match answer.status {
                StatusCode::OK => check(digest, &answer.body).map(|()| Some(answer.body)),
                StatusCode::NOT_FOUND => Ok(None),
                _ => Err(answer.failure()),
            }
        })
        .await
    }
}

async fn referrers(question: &Question<'_>, repository: &str, digest: &Digest) -> Result<Referrers, Failure> {
    let mut found = Referrers::default();
    let mut next = Some(url_in(question.endpoint, repository, "referrers", TagOrDigest::Digest(digest))?);
    for page in 0.. {
        let Some(url) = next.take() else { break };
        if page >= MOST_PAGES {
            found.cut = true;
            break;
        }
        let ask = Ask { method: Method::GET, url, accept: ACCEPT, body: None, limit: MOST_BYTES };
        let answer = question.answer(&ask).await?;
        let is_index = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|kind| kind.starts_with(INDEX));
        match answer.status.as_u16() {
            200 if is_index || page > 0 => found.add(&answer.body)?,
            // Registries from before 1.1 do not know the path, and say so in different ways, or with a page for people.
            200 | 400 | 404 | 405 | 406 if page == 0 => {
                // An algorithm and at most 64 digits of its hash ("referrers tag schema").
                let hex = digest.hex();
                let tag = format!("{}-{}", digest.algorithm(), hex.get(..64).unwrap_or(&hex));
                if let Some(bytes) = manifest(question, repository, TagOrDigest::Tag(&tag), MOST_BYTES).await? {
                    found.add(&bytes)?;
                }
                return Ok(found);
            }
            404 => return Err(Failure::Misbehaved("the registry names a page of referrers that it does not have".to_owned())),
            _ => return Err(answer.failure()),
        }
        if found.cut {
            break;
        }
        match next_page(&answer.headers, &ask) {
            Next::Page(path) => next = Some(url_of(question.endpoint, &path)?),
            Next::None => {}
            Next::Elsewhere => found.cut = true,
        }
    }
    Ok(found)
}

impl Referrers {
    fn add(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let index: WireIndex = serde_json::from_slice(bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Failure::Misbehaved(format!("the registry's list of referrers cannot be read (line {line}, column {column})"))
        })?;
        for entry in index.manifests {
            if self.entries.len() >= MOST_ENTRIES {
                self.cut = true;
                return Ok(());
            }
            match digest(&entry.digest) {
                Ok(digest) => {
                    let (kind, notes) = (entry.artifact_type.unwrap_or_default(), entry.annotations.unwrap_or_default());
                    self.entries.push(Referrer { digest, kind, notes });
                }
                // Somebody attached what nobody can fetch.
                Err(_) => self.cut = true,
            }
        }
        Ok(())
    }
}

/// What a list says of what comes after it.
enum Next {
    None,
    /// The path and query of the next page.
    Page(String),
    /// It is somewhere that is not asked.
    Elsewhere,
}

/// The next page (RFC 8288). Whatever host it names: registries behind a proxy name themselves as they are called behind it.
fn next_page(headers: &HeaderMap, ask: &Ask) -> Next {
    let values = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    for link in values.flat_map(|value| value.split('<').skip(1)) {
        let Some((target, parameters)) = link.split_once('>') else { continue };
        let mut parameters = parameters.split([';', ',']).map(str::trim);
        if !parameters.any(|parameter| matches!(parameter, "rel=\"next\"" | "rel=next")) {
            continue;
        }
        return match ask.url.join(target) {
            Ok(next) if next.path() == ask.url.path() && next.query() != ask.url.query() => {
                Next::Page(next.query().map_or_else(|| next.path().to_owned(), |query| format!("{}?{query}", next.path())))
            }
            _ => Next::Elsewhere,
        };
    }
    Next::None
}

async fn manifest(question: &Question<'_>, repository: &str, reference: TagOrDigest<'_>, limit: usize) -> Result<Option<Bytes>, Failure> {
    let url = manifest_url(question.endpoint, repository, reference)?;
    let answer = question.answer(&Ask { method: Method::GET, url, accept: ACCEPT, body: None, limit }).await?;
    match answer.status {
        StatusCode::OK => {
            if let TagOrDigest::Digest(asked) = reference {
                check(asked, &answer.body)?;
            }
            Ok(Some(answer.body))
        }
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(answer.failure()),
    }
}

fn artifact(bytes: &[u8]) -> Result<Artifact, Failure> {
    let wire: WireArtifact = serde_json::from_slice(bytes).map_err(|error| {
        Failure::Misbehaved(format!("the manifest of an artifact cannot be read (line {}, column {})", error.line(), error.column()))
    })?;
    let cut = wire.layers.len() > MOST_LAYERS;
    // What is attached last stands last.
    let older = wire.layers.len().saturating_sub(MOST_LAYERS);
    let layer = |layer: WireLayer| {
        let digest = digest(&layer.digest)?;
        Ok(Layer { media_type: layer.media_type, digest, size: layer.size, signature: layer.annotations.and_then(|all| all.signature) })
    };
    let notes = wire.annotations.unwrap_or_default();
    Ok(Artifact { layers: wire.layers.into_iter().skip(older).map(layer).collect::<Result<_, Failure>>()?, cut, notes })
}

fn digest(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(|_| Failure::Misbehaved(tidy(&format!("the registry names `{text}`, which is no digest"), 256)))
}
