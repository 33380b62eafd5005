//! placeholder until the reader lands
#![allow(missing_docs, clippy::all, clippy::pedantic)]
use std::{fmt, str::FromStr, sync::Arc};
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Arc<str>);
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a digest")]
pub struct DigestError;
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a reference")]
pub struct ReferenceError;
impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        let d = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        Self(format!("sha256:{}", d.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>()).into())
    }
    pub fn algorithm(&self) -> &str {
        self.0.split(':').next().unwrap_or("")
    }
    pub fn hex(&self) -> &str {
        self.0.split(':').nth(1).unwrap_or("")
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(s: &str) -> Result<Self, DigestError> {
        if s.starts_with("sha256:") && s.len() == 71 { Ok(Self(s.into())) } else { Err(DigestError) }
    }
}
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: Arc<str>,
    repository: Arc<str>,
    tag: Option<Arc<str>>,
    digest: Option<Digest>,
}
impl Reference {
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (name, digest) = match text.split_once('@') {
            Some((n, d)) => (n, Some(d.parse().map_err(|_| ReferenceError)?)),
            None => (text, None),
        };
        let (host, rest) = match name.split_once('/') {
            Some((h, r)) if h.contains(['.', ':']) || h == "localhost" => (h, r),
            _ => ("docker.io", name),
        };
        let (repo, tag) = match rest.rsplit_once(':') {
            Some((r, t)) => (r, Some(t)),
            None => (rest, None),
        };
        let repo = if host == "docker.io" && !repo.contains('/') { format!("library/{repo}") } else { repo.to_owned() };
        let tag = tag.or(if digest.is_none() { Some("latest") } else { None });
        Ok(Self {
            registry: host.to_lowercase().trim_end_matches(":443").into(),
            repository: repo.into(),
            tag: tag.map(Into::into),
            digest,
        })
    }
    pub fn registry(&self) -> &str {
        &self.registry
    }
    pub fn repository(&self) -> &str {
        &self.repository
    }
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
    pub fn subject(&self) -> Option<Subject> {
        self.digest.clone().map(|d| self.with_digest(d))
    }
    pub fn with_digest(&self, digest: Digest) -> Subject {
        Subject { registry: self.registry.clone(), repository: self.repository.clone(), digest }
    }
    pub fn host_is_ip(&self) -> bool {
        self.registry.split(':').next().is_some_and(|h| h.parse::<std::net::Ipv4Addr>().is_ok())
    }
}
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())
    }
}
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    registry: Arc<str>,
    repository: Arc<str>,
    digest: Digest,
}
impl Subject {
    pub fn registry(&self) -> &str {
        &self.registry
    }
    pub fn repository(&self) -> &str {
        &self.repository
    }
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
    pub fn object_name(&self) -> String {
        format!("{}-x", &Digest::of(self.to_string().as_bytes()).hex()[..16])
    }
}
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.registry, self.repository, self.digest)
    }
}
impl FromStr for Subject {
    type Err = ReferenceError;
    fn from_str(s: &str) -> Result<Self, ReferenceError> {
        Reference::parse(s)?.subject().ok_or(ReferenceError)
    }
}

impl From<&Subject> for Reference {
    fn from(s: &Subject) -> Self {
        Self { registry: s.registry.clone(), repository: s.repository.clone(), tag: None, digest: Some(s.digest.clone()) }
    }
}
