//! A registry as it is reached.

use std::{fmt, sync::Arc, time::Duration};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use thiserror::Error;
use url::{Host, Url};

use crate::api::RegistrySpec;

/// How long one question may take at a host that has no Registry object.
pub const UNLISTED_TIMEOUT: Duration = Duration::from_secs(10);
/// More certificates than this in one `caBundle` are refused.
const MOST_AUTHORITIES: usize = 128;

/// A registry as it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its canonical name as references give it: `host` or `host:port`.
    pub host: String,
    /// Where it is spoken to: scheme, host and port.
    pub base: Url,
    /// It has a Registry object: private addresses are permitted.
    pub listed: bool,
    /// Certificate authorities besides the well-known ones.
    pub authorities: Option<Authorities>,
    /// Whether HTTP without TLS is permitted: the Registry said so.
    pub plain_http: bool,
    /// How long one question may take, tokens and redirects included.
    pub timeout: Duration,
}

/// A Registry that cannot be reached as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// No URL can be made of the host.
    #[error("`{0}` is not a registry host")]
    Host(String),
    /// The endpoint is not of the permitted form.
    #[error("the endpoint `{0}` is not `https://host[:port]`, or `http://host[:port]` with plainHTTP: true")]
    Endpoint(String),
    /// The CA bundle cannot be read.
    #[error("the caBundle holds no certificate that can be read: {0}")]
    Authorities(String),
}

impl Endpoint {
    /// A host that has no Registry object: TLS, public addresses and well-known authorities only.
    pub fn unlisted(host: &str) -> Result<Self, EndpointError> {
        Ok(Self {
            host: host.to_owned(),
            base: base_of(host, "https")?,
            listed: false,
            authorities: None,
            plain_http: false,
            timeout: UNLISTED_TIMEOUT,
        })
    }

    /// A host of a Registry object.
    pub fn listed(host: &str, spec: &RegistrySpec) -> Result<Self, EndpointError> {
        let base = match &spec.endpoint {
            None => base_of(host, if spec.plain_http { "http" } else { "https" })?,
            Some(endpoint) => {
                let base = Url::parse(endpoint).map_err(|_| EndpointError::Endpoint(endpoint.clone()))?;
                let bare = base.has_host()
                    && base.path() == "/"
                    && base.query().is_none()
                    && base.fragment().is_none()
                    && base.username().is_empty();
                let scheme = base.scheme() == "https" || (spec.plain_http && base.scheme() == "http");
                if !bare || !scheme || base.password().is_some() {
                    return Err(EndpointError::Endpoint(endpoint.clone()));
                }
                base
            }
        };
        Ok(Self {
            host: host.to_owned(),
            base,
            listed: true,
            authorities: spec.ca_bundle.as_deref().map(Authorities::from_pem).transpose()?,
            plain_http: spec.plain_http,
            timeout: Duration::from_secs(spec.limits.timeout_seconds.clamp(1, 60).into()),
        })
    }
}

/// `docker.io` is a name, not an address: the registry answers elsewhere, as every client knows.
fn base_of(host: &str, scheme: &str) -> Result<Url, EndpointError> {
    let reached = if host == "docker.io" { "registry-1.docker.io" } else { host };
    let wrong = || EndpointError::Host(host.chars().take(255).collect());
    let base = Url::parse(&format!("{scheme}://{reached}/")).map_err(|_| wrong())?;
    // What the URL parser would read otherwise than it is written (user information, a path, `0x7f.1` for 127.0.0.1) names no registry.
    let written = match base.host() {
        Some(Host::Ipv6(_)) => reached.starts_with('['),
        Some(found) => reached.split(':').next() == Some(found.to_string().as_str()),
        None => false,
    };
    if written
        && base.path() == "/"
        && base.query().is_none()
        && base.fragment().is_none()
        && base.username().is_empty()
        && base.password().is_none()
    {
        Ok(base)
    } else {
        Err(wrong())
    }
}

/// Certificate authorities of one Registry, read and bounded.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Authorities(Arc<[CertificateDer<'static>]>);

impl Authorities {
    /// Reads PEM. Between 1 and 128 certificates, each of which could be a trust anchor.
    pub fn from_pem(pem: &str) -> Result<Self, EndpointError> {
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .take(MOST_AUTHORITIES + 1)
            .collect::<Result<_, _>>()
            .map_err(|error| EndpointError::Authorities(error.to_string()))?;
        if certificates.is_empty() || certificates.len() > MOST_AUTHORITIES {
            return Err(EndpointError::Authorities(format!(
                "it holds {} certificates, and 1 to {MOST_AUTHORITIES} are read",
                certificates.len()
            )));
        }
        let mut roots = rustls::RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|error| EndpointError::Authorities(error.to_string()))?;
        }
        Ok(Self(certificates.into()))
    }

    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Authorities({})", self.0.len())
    }
}
