//! One spelling for each registry.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::clip;

const DOCKER_HUB: &str = "docker.io";
const LOCALHOST: &str = "localhost";
/// Docker Hub answers here too.
const DOCKER_HUB_ALIAS: &str = "registry.hub.docker.com";
const DEFAULT_PORT: u16 = 443;

/// Why a host has no canonical spelling, or is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// It ends in a dot: the same machine under another name.
    #[error("the host `{0}` ends in a dot: leave the dot out")]
    TrailingDot(String),
    /// It begins with a dot, or has nothing between two.
    #[error("the host `{0}` has an empty label: write labels with single dots between them")]
    EmptyLabel(String),
    /// A label begins or ends with a hyphen.
    #[error("a label of the host `{0}` starts or ends with a hyphen: write the host's name in DNS")]
    Hyphen(String),
    /// It has an underscore. The grammar of image names takes such a host for a part of the path.
    #[error("the host `{0}` has an underscore, so nodes do not read it as a host: use a name without")]
    Underscore(String),
    /// The port is not a plain number from 1 to 65535.
    #[error("the port of `{0}` is not a number from 1 to 65535 without leading zeros: write the port plainly")]
    Port(String),
    /// A number, or an IPv4 address in a spelling that only some readers know.
    #[error("the host `{0}` may be read as an IPv4 address: write four decimal numbers such as 10.0.0.5, or a host name")]
    Ipv4(String),
    /// An IPv6 address that is not in the form of RFC 5952, or that maps an IPv4 address.
    #[error("the host `{0}` is no IPv6 address in its shortest form, in lower case: write it as in [fd00::5]")]
    Ipv6(String),
    /// Docker Hub by another name.
    #[error("`{0}` is another name of Docker Hub: write docker.io, with library/ before the official images")]
    DockerHub(String),
    /// Only its spelling makes it a host.
    #[error("`{0}` is a host only as it is spelt here, and a path at docker.io otherwise: write its full domain name")]
    Dotless(String),
    /// The loopback host otherwise than plainly: nodes speak to it by other rules.
    #[error("`{0}` is not the registry that nodes reach at `{1}`: write `{1}`, or another port")]
    Loopback(String, String),
    /// Any other character or form.
    #[error("`{0}` is no host: write a DNS name or an address, and a port if needed, as in registry.example:5000")]
    Malformed(String),
}

/// The canonical spelling of a domain that the grammar has read: lower case, without `:443`.
///
/// `:443` is left out because that is where every client of registries goes without a port. A Registry with plain HTTP is the
/// exception to that, and has to name its hosts with their ports.
pub(crate) fn canonical_host(domain: &str) -> Result<Cow<'_, str>, HostError> {
    if domain == DOCKER_HUB {
        return Ok(Cow::Borrowed(domain));
    }
    let written = || clip(domain);
    let (host, port) = split_port(domain);
    let port = port.map(|digits| plain_port(digits).ok_or_else(|| HostError::Port(written()))).transpose()?;
    let host = if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or_else(|| fault(domain))?;
        // The address has to be as it is displayed: so mapped IPv4 addresses, displayed with dots, are refused too.
        let canonical = address.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address);
        if canonical { Cow::Borrowed(host) } else { return Err(HostError::Ipv6(written())) }
    } else {
        if !host.split('.').all(is_label) {
            return Err(fault(domain));
        }
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) }
    };
    if host == DOCKER_HUB || host.ends_with(".docker.io") || host == DOCKER_HUB_ALIAS {
        return Err(HostError::DockerHub(written()));
    }
    if ends_in_number(&host) && host.parse::<Ipv4Addr>().is_err() {
        return Err(HostError::Ipv4(written()));
    }
    // containerd: HTTP on port 80 for `localhost`, in just this spelling, and for loopback addresses; TLS for all else.
    let default = port == Some(DEFAULT_PORT);
    if is_loopback(&host) && (default || !domain.starts_with(&*host)) {
        return Err(HostError::Loopback(written(), host.into_owned()));
    }
    match port.filter(|_| !default) {
        Some(_) if matches!(host, Cow::Borrowed(_)) => Ok(Cow::Borrowed(domain)),
        Some(port) => Ok(Cow::Owned(format!("{host}:{port}"))),
        None if host.contains(['.', ':']) || host == LOCALHOST => Ok(host),
        None => Err(HostError::Dotless(written())),
    }
}

/// Whether a canonical registry is named by its address.
pub(super) fn is_address(registry: &str) -> bool {
    registry.starts_with('[') || split_port(registry).0.parse::<Ipv4Addr>().is_ok()
}

fn is_loopback(host: &str) -> bool {
    host == LOCALHOST || host == "[::1]" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn split_port(domain: &str) -> (&str, Option<&str>) {
    match domain.rsplit_once(':') {
        // The colons of an address in brackets are not the port's.
        Some((_, after)) if after.contains(']') => (domain, None),
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    }
}

fn plain_port(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether resolvers and URL parsers take a host in lower case for an IPv4 address, well written or not: the last label decides (WHATWG
/// URL, "ends in a number checker"; inet_aton agrees).
fn ends_in_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    digits(last) || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// What is wrong with a text that the grammar does not take for a domain.
pub(super) fn fault(domain: &str) -> HostError {
    let written = clip(domain);
    let (host, port) = split_port(domain);
    if host.contains(['[', ']']) {
        return HostError::Ipv6(written);
    }
    if port.is_some_and(|digits| plain_port(digits).is_none()) {
        return HostError::Port(written);
    }
    let labels = || host.split('.');
    if host.contains('_') {
        HostError::Underscore(written)
    } else if host.ends_with('.') && host.len() > 1 {
        HostError::TrailingDot(written)
    } else if labels().any(str::is_empty) {
        HostError::EmptyLabel(written)
    } else if labels().any(|label| label.starts_with('-') || label.ends_with('-')) {
        HostError::Hyphen(written)
    } else {
        HostError::Malformed(written)
    }
}
