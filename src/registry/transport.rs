//! One HTTP request and its whole answer, within limits.

use std::{collections::HashMap, error::Error, fmt, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use url::{Host, Url};

use super::{
    Answer, Authorities, BuildError, ClientOptions, Failure, Proxies,
    address::{AddressRange, Kind, Rules, kind},
    failure::tidy,
    resolver::{CheckedResolver, ResolveError},
};
use crate::facts::{Outage, OutageKind};

/// No manifest, token or attribute list is larger.
pub(super) const MOST_BYTES: usize = 4 << 20;
/// So much of the body of an error is read.
const MOST_ERROR_BYTES: usize = 64 << 10;
/// Name, connection and TLS handshake; less than the least usual deadline of a question, so that the two can be told apart.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// The status of an error is known before its body: a body that hangs does not turn a refusal into an outage.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// Servers commonly close idle connections after a minute.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Clients for other certificate authorities or proxies than the commonest are dropped beyond this many.
const MOST_CLIENTS: usize = 64;

/// One request, redirects not followed.
pub(super) struct Hop<'a> {
    /// Bytes that the body of an answer may have.
    pub(super) limit: usize,
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) rules: Rules,
    pub(super) authorities: Option<&'a Authorities>,
    /// On connections apart from those of look-ups: HTTP/2 carries only so many requests at once on one, and slow ones may take them all.
    pub(super) apart: bool,
}

/// What connections may be shared by.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Way {
    rules: Rules,
    authorities: Option<Authorities>,
    proxy: Option<String>,
    apart: bool,
}

/// Sends requests. Holds the connections.
pub(super) struct Transport {
    resolver: CheckedResolver,
    cluster: Arc<[AddressRange]>,
    proxies: Proxies,
    clients: Mutex<HashMap<Way, reqwest::Client>>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Transport").field("proxies", &self.proxies).finish_non_exhaustive()
    }
}

impl Transport {
    pub(super) fn new(options: ClientOptions) -> Result<Self, BuildError> {
        let cluster: Arc<[AddressRange]> = options.cluster_ranges.into();
        let resolver = CheckedResolver::new(Arc::clone(&cluster))?;
        let transport = Self { resolver, cluster, proxies: options.proxies, clients: Mutex::default() };
        // Now rather than at the first question: without certificate authorities, say, nothing would ever work.
        transport
            .client(Way { rules: Rules::Listed, authorities: None, proxy: None, apart: false })
            .map_err(|error| BuildError::Tls(innermost(&error)))?;
        Ok(transport)
    }

    fn client(&self, way: Way) -> Result<reqwest::Client, reqwest::Error> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(&way) {
            return Ok(client.clone());
        }
        // The proxy's own address is the operator's choice.
        let rules = if way.proxy.is_some() { Rules::Listed } else { way.rules };
        let mut builder = reqwest::Client::builder()
            // Harbor waves through clients whose name holds `cosign` or `notation`: ours never may.
            .user_agent(concat!("lazaretto/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(self.resolver.under(rules))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(8)
            .tcp_nodelay(true)
            .no_proxy();
        if let Some(proxy) = &way.proxy {
            builder = builder.proxy(reqwest::Proxy::all(proxy)?);
        }
        if let Some(authorities) = &way.authorities {
            let certificates: Result<Vec<_>, _> =
                authorities.certificates().iter().map(|der| reqwest::Certificate::from_der(der)).collect();
            builder = builder.tls_certs_merge(certificates?);
        }
        let client = builder.build()?;
        if clients.len() >= MOST_CLIENTS {
            clients.retain(|way, _| way.authorities.is_none());
        }
        clients.insert(way, client.clone());
        Ok(client)
    }

    /// Sends one request and reads the whole answer. Waits without end of its own: the question's deadline is around it.
    pub(super) async fn send(&self, hop: Hop<'_>) -> Result<Answer, Failure> {
        let peer = peer(hop.url);
        let proxy = self.proxies.of(hop.url).map(str::to_owned);
        self.check(hop.url, hop.rules, proxy.is_some())?;
        let client = self
            .client(Way { rules: hop.rules, authorities: hop.authorities.cloned(), proxy, apart: hop.apart })
            .map_err(|error| Failure::Misbehaved(tidy(&format!("cannot make a client for {peer}: {}", innermost(&error)), 256)))?;
        let is_head = hop.method == Method::HEAD;
        tracing::debug!(method = %hop.method, host = peer, path = hop.url.path(), "asks");
        let mut request = client.request(hop.method, hop.url.clone()).headers(hop.headers);
        if let Some(body) = hop.body {
            request = request.body(body);
        }
        let mut response = request.send().await.map_err(|error| failure(&peer, &error))?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        tracing::debug!(host = peer, status = status.as_u16(), "answered");
        let body = if is_head {
            Bytes::new()
        } else if status.is_success() {
            whole(&mut response, &peer, hop.limit).await?
        } else {
            beginning(&mut response).await
        };
        Ok(Answer { status, headers, body })
    }

    /// What the resolver does not see: addresses in URLs, and names that a proxy will resolve.
    fn check(&self, url: &Url, rules: Rules, proxied: bool) -> Result<(), Failure> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(name)) => {
                // The proxy resolves it, out of our sight. What can only be a name of the inside is not asked for.
                return if proxied && rules == Rules::Public && is_inside(name) { Err(not_public(name)) } else { Ok(()) };
            }
            None => return Err(Failure::Misbehaved("a URL without a host".to_owned())),
        };
        if rules.permit(address, &self.cluster) {
            Ok(())
        } else if kind(address) == Kind::Never {
            Err(Failure::Misbehaved(format!("`{address}` is an address that no registry may have")))
        } else {
            Err(not_public(&address.to_string()))
        }
    }
}

fn not_public(host: &str) -> Failure {
    Failure::Misbehaved(tidy(&format!("`{host}` is at no public address, and only the hosts of a Registry object may be elsewhere"), 256))
}

/// Names that mean something only inside a cluster, a cloud or a machine.
fn is_inside(name: &str) -> bool {
    const INSIDE: [&str; 7] = ["local", "localhost", "internal", "svc", "home.arpa", "lan", "intranet"];
    let name = name.trim_end_matches('.');
    !name.contains('.') || INSIDE.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')))
}

/// Host, and the port where it is not the scheme's own.
pub(super) fn peer(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The body of an answer that counts: all of it or none.
async fn whole(response: &mut reqwest::Response, peer: &str, limit: usize) -> Result<Bytes, Failure> {
    let too_large = || Failure::Misbehaved(format!("{peer} sends more than {} MiB", limit >> 20));
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(peer, &error))? {
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// As much of an error's body as comes.
async fn beginning(response: &mut reqwest::Response) -> Bytes {
    let mut body = BytesMut::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = MOST_ERROR_BYTES - body.len();
            body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
            if body.len() == MOST_ERROR_BYTES {
                break;
            }
        }
    };
    let _in_time = tokio::time::timeout(ERROR_BODY_TIMEOUT, read).await;
    body.freeze()
}

/// What kind of outage an error of the HTTP client is.
fn failure(peer: &str, error: &reqwest::Error) -> Failure {
    if let Some(unresolved) = causes(error).find_map(|cause| cause.downcast_ref::<ResolveError>()) {
        return match unresolved {
            ResolveError::NotPermitted(name) => not_public(name),
            ResolveError::Unresolved(name) => outage(OutageKind::Resolve, &format!("the name `{name}` does not resolve")),
        };
    }
    if let Some(tls) = causes(error).find_map(tls_error) {
        return outage(OutageKind::Tls, &format!("no TLS with {peer}: {tls}"));
    }
    if error.is_connect() {
        let why = if error.is_timeout() { format!("not within {}s", CONNECT_TIMEOUT.as_secs()) } else { innermost(error) };
        return outage(OutageKind::Connect, &format!("no connection to {peer}: {why}"));
    }
    outage(OutageKind::Broken, &format!("the connection to {peer} broke off: {}", innermost(error)))
}

pub(super) fn outage(kind: OutageKind, message: &str) -> Failure {
    Failure::Outage(Outage { kind, message: tidy(message, 256) })
}

/// An error and what caused it, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// TLS errors stand inside I/O errors, often several deep, whose `source` passes over what they hold.
fn tls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    match cause.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().and_then(|inner| tls_error(inner)),
        None => cause.downcast_ref(),
    }
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misbehaved(transport: &Transport, url: &str, rules: Rules, proxied: bool) -> Option<String> {
        match transport.check(&url.parse().unwrap(), rules, proxied) {
            Ok(()) => None,
            Err(Failure::Misbehaved(why)) => Some(why),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn transport() -> Transport {
        let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Transport::new(ClientOptions { cluster_ranges: vec!["20.0.0.0/14".parse().unwrap()], proxies: Proxies::none() }).unwrap()
    }

    #[tokio::test]
    async fn addresses_in_urls_are_checked_before_anything_is_sent() {
        let transport = transport();
        let cases = [
            ("https://1.1.1.1/", Rules::Public, true),
            ("https://20.1.1.1/", Rules::Public, false),
            ("https://10.0.0.1/", Rules::Public, false),
            ("https://0x7f.1/", Rules::Public, false),
            ("https://[::1]/", Rules::Public, false),
            ("https://[::ffff:10.0.0.1]/", Rules::Public, false),
            ("https://127.0.0.1:5000/", Rules::Listed, true),
            ("http://169.254.169.254/latest", Rules::Listed, false),
            ("https://[fd00:ec2::254]/", Rules::Listed, false),
        ];
        for (url, rules, permitted) in cases {
            assert_eq!(misbehaved(&transport, url, rules, false).is_none(), permitted, "{url} under {rules:?}");
        }
        assert_eq!(
            misbehaved(&transport, "https://10.0.0.1/", Rules::Public, false).unwrap(),
            "`10.0.0.1` is at no public address, and only the hosts of a Registry object may be elsewhere"
        );
        assert_eq!(
            misbehaved(&transport, "https://169.254.1.1/", Rules::Listed, false).unwrap(),
            "`169.254.1.1` is an address that no registry may have"
        );
    }

    #[tokio::test]
    async fn names_of_the_inside_are_not_given_to_a_proxy_for_a_stranger() {
        let transport = transport();
        for name in [
            "kubernetes",
            "kubernetes.default.svc",
            "x.svc.cluster.local",
            "metadata.google.internal",
            "localhost",
            "a.localhost.",
            "nas.lan",
        ] {
            let url = format!("https://{name}/");
            assert!(misbehaved(&transport, &url, Rules::Public, true).is_some(), "{name}");
            assert_eq!(misbehaved(&transport, &url, Rules::Listed, true), None, "{name}");
        }
        for name in ["registry.example", "local.example", "notlocal"] {
            let inside = name == "notlocal";
            assert_eq!(misbehaved(&transport, &format!("https://{name}/"), Rules::Public, true).is_some(), inside, "{name}");
            assert_eq!(misbehaved(&transport, &format!("https://{name}/"), Rules::Public, false), None, "{name}: the resolver sees it");
        }
    }
}
