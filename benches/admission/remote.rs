//! The load on any webhook of this machine, to see what an installation bears.
//!
//! The reviews are those of the warm part, so what is answered depends on the policies there: each answer counts, and the share of those
//! that admit is told. Only loopback is spoken to: this is no tool to try other people's clusters with.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use url::{Host, Url};

use crate::{
    figures::{Figures, count, median, milliseconds},
    load::{ALLOWED, ANSWERED, Connections, Protocol, Ran, Run},
    stack::Target,
    world::World,
};

const RUNS: usize = 5;
const REQUESTS: usize = 20_000;
const CONCURRENCY: usize = 64;

/// A webhook on loopback.
pub struct Remote {
    target: Target,
    path: String,
}

impl Remote {
    /// Reads a URL and the certificates that sign the webhook's. The name in its certificate is the URL's host, unless it is given.
    ///
    /// # Errors
    /// What is wrong with them, in a sentence; any host but loopback's is.
    pub fn read(url: &str, authorities: &Path, name: Option<&str>) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| format!("--url {url}: {error}"))?;
        if url.scheme() != "https" {
            return Err("--url: webhooks speak HTTPS".to_owned());
        }
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            // Not asked of a resolver, who may say anything.
            Some(Host::Domain("localhost")) => [127, 0, 0, 1].into(),
            _ => return Err("--url: only an address of loopback, or localhost, is spoken to".to_owned()),
        };
        if !address.is_loopback() {
            return Err(format!("--url: {address} is not on loopback, and nothing else is spoken to"));
        }
        let pem = std::fs::read(authorities).map_err(|error| format!("--ca {}: {error}", authorities.display()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let added = certificate.map_err(|error| error.to_string()).and_then(|der| roots.add(der).map_err(|error| error.to_string()));
            added.map_err(|error| format!("--ca {}: {error}", authorities.display()))?;
        }
        if roots.is_empty() {
            return Err(format!("--ca {}: there is no certificate in it", authorities.display()));
        }
        let trust = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let mut path = url.path().to_owned();
        path.push('?');
        path.push_str(url.query().unwrap_or("timeout=10s"));
        let address = SocketAddr::new(address, url.port_or_known_default().unwrap_or(443));
        Ok(Self { target: Target { address, name: name.unwrap_or(host).to_owned(), trust: Arc::new(trust) }, path })
    }

    /// 64 reviews under way, over HTTP/1.1.
    pub async fn measure(&self) -> Figures {
        let reviews = World::new(3_000).reviews;
        let connections = Connections::open_to(&self.target, &self.path, Protocol::Http1, CONCURRENCY).await;
        let run = |wanted| Run { wanted, ..Run::of(REQUESTS) };
        // The first round may have to ask registries.
        connections.run(&reviews, Run { requests: 2 * reviews.len(), ..run(ANSWERED) }).await;
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(connections.run(&reviews, run(ALLOWED)).await);
        }
        let mut figures = Figures::default();
        let mut tell = |name: &str, unit: &'static str, of: &dyn Fn(&Ran) -> f64| {
            figures.add(format!("url_{name}_c{CONCURRENCY}"), median(runs.iter().map(of)), unit);
        };
        tell("throughput", "reviews/s", &|ran| ran.throughput);
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
            tell(name, "ms", &|ran| milliseconds(ran.quantile(share)));
        }
        tell("admitted", "share", &|ran| 1.0 - count(ran.unwanted) / count(ran.latencies.len()));
        figures
    }
}
