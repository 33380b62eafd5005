//! A registry as it is reached.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

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
    /// It is the mirror that nodes draw through, with the path under which that keeps what it mirrors; empty for none.
    pub mirror: Option<Box<str>>,
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
            mirror: None,
        })
    }

    /// A host of a Registry object.
    pub fn listed(host: &str, spec: &RegistrySpec) -> Result<Self, EndpointError> {
        let mirror = spec.mirror.as_ref();
        let base = match mirror.map(|mirror| &mirror.endpoint).or(spec.endpoint.as_ref()) {
            None => base_of(host, if spec.plain_http { "http" } else { "https" })?,
            Some(written) => {
                let permitted = |url: &Url| is_bare(url) && (url.scheme() == "https" || (spec.plain_http && url.scheme() == "http"));
                Url::parse(written).ok().filter(permitted).ok_or_else(|| EndpointError::Endpoint(written.clone()))?
            }
        };
        Ok(Self {
            host: host.to_owned(),
            base,
            listed: true,
            authorities: spec.ca_bundle.as_deref().map(Authorities::from_pem).transpose()?,
            plain_http: spec.plain_http,
            timeout: Duration::from_secs(spec.limits.timeout_seconds.clamp(1, 60).into()),
            mirror: mirror.map(|mirror| mirror.path_prefix.as_deref().unwrap_or_default().into()),
        })
    }

    /// Where it keeps a repository.
    pub(super) fn path_of<'r>(&self, repository: &'r str) -> Cow<'r, str> {
        match self.mirror.as_deref() {
            None | Some("") => repository.into(),
            Some(prefix) => format!("{prefix}/{repository}").into(),
        }
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
    if written && is_bare(&base) { Ok(base) } else { Err(wrong()) }
}

/// Scheme, host and port only.
fn is_bare(url: &Url) -> bool {
    url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_reached_where_it_says() {
        let cases = [
            ("reg.example", "https://reg.example/"),
            ("reg.example:5000", "https://reg.example:5000/"),
            ("docker.io", "https://registry-1.docker.io/"),
            ("localhost:5000", "https://localhost:5000/"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/"),
            ("[fd00::1]:5000", "https://[fd00::1]:5000/"),
        ];
        for (host, base) in cases {
            let endpoint = Endpoint::unlisted(host).unwrap();
            assert_eq!((endpoint.base.as_str(), endpoint.listed, endpoint.plain_http), (base, false, false), "{host}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for host in [
            "",
            "a/b",
            "user@reg.example",
            "reg.example?x",
            "reg.example#x",
            "0x7f.1",
            "127.1",
            "reg example",
            "reg.example:99999",
            "REG.example",
            "a:b:c",
        ] {
            assert_eq!(Endpoint::unlisted(host), Err(EndpointError::Host(host.into())), "{host}");
        }
    }

    #[test]
    fn a_registry_object_may_say_where_and_how() {
        let of = |endpoint: Option<&str>, plain_http: bool| {
            let spec = RegistrySpec { endpoint: endpoint.map(Into::into), plain_http, ..RegistrySpec::default() };
            Endpoint::listed("reg.example", &spec).map(|endpoint| endpoint.base.to_string())
        };
        assert_eq!(of(None, false), Ok("https://reg.example/".into()));
        assert_eq!(of(None, true), Ok("http://reg.example/".into()));
        assert_eq!(of(Some("https://harbor.svc:8443"), false), Ok("https://harbor.svc:8443/".into()));
        assert_eq!(of(Some("http://harbor.svc"), true), Ok("http://harbor.svc/".into()));
        for (written, plain_http) in [
            ("http://harbor.svc", false),
            ("https://harbor.svc/path", false),
            ("https://u:p@harbor.svc", false),
            ("https://harbor.svc?x", false),
            ("harbor.svc", true),
        ] {
            assert_eq!(of(Some(written), plain_http), Err(EndpointError::Endpoint(written.into())), "{written}");
        }
    }

    #[test]
    fn authorities_are_certificates() {
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        assert_eq!(format!("{:?}", Authorities::from_pem(&pem.repeat(2)).unwrap()), "Authorities(2)");
        assert!(Authorities::from_pem(&pem.repeat(129)).is_err());
        for wrong in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(Authorities::from_pem(wrong), Err(EndpointError::Authorities(_))), "{wrong}");
        }
    }
}
