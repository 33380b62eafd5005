//! Names to addresses, under the address rules.
//!
//! The check stands where the connection is made: what the resolver hands out is what is connected to, so a name that answers otherwise the second time gains
//! nothing. Names of `/etc/hosts` work. Hosts without a Registry object are asked for as absolute names, so that the search list of the cluster (`svc.cluster.local`)
//! does not lend itself to strangers.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use hickory_resolver::{TokioResolver, config::LookupIpStrategy};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

use super::{
    BuildError,
    address::{AddressRange, Rules},
};

/// One look-up, all name servers and the search list included; less than the time to connect, so that the two can be told apart.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// More addresses of one name are not tried.
const MOST_ADDRESSES: usize = 16;

/// No address for a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum ResolveError {
    /// It has none, or nobody could say.
    #[error("the name `{0}` does not resolve")]
    Unresolved(String),
    /// It has some, none of them permitted.
    #[error("the name `{0}` has no address that may be reached")]
    NotPermitted(String),
}

/// Resolves for hosts of one kind.
#[derive(Clone)]
pub(super) struct CheckedResolver {
    shared: Arc<Shared>,
    rules: Rules,
}

struct Shared {
    resolver: TokioResolver,
    cluster: Arc<[AddressRange]>,
}

impl CheckedResolver {
    /// Reads `/etc/resolv.conf` and `/etc/hosts`, once.
    pub(super) fn new(cluster: Arc<[AddressRange]>) -> Result<Self, BuildError> {
        let failed = |error: &dyn fmt::Display| BuildError::Resolver(error.to_string());
        let mut builder = TokioResolver::builder_tokio().map_err(|error| failed(&error))?;
        let options = builder.options_mut();
        options.timeout = Duration::from_millis(1200);
        options.attempts = 2;
        options.cache_size = 1024;
        // Registries move; a name that just came to be should be found.
        options.positive_max_ttl = Some(Duration::from_secs(300));
        options.negative_max_ttl = Some(Duration::from_secs(10));
        options.max_active_requests = 1024;
        options.try_tcp_on_error = true;
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        let resolver = builder.build().map_err(|error| failed(&error))?;
        Ok(Self { shared: Arc::new(Shared { resolver, cluster }), rules: Rules::Public })
    }

    /// The same, under other rules.
    pub(super) fn under(&self, rules: Rules) -> Self {
        Self { shared: Arc::clone(&self.shared), rules }
    }

    /// The permitted addresses of a name, at least one.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let asked = match self.rules {
            Rules::Public if !name.ends_with('.') => format!("{name}."),
            _ => name.to_owned(),
        };
        let found = match tokio::time::timeout(LOOKUP_TIMEOUT, self.shared.resolver.lookup_ip(asked)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "does not resolve");
                return Err(ResolveError::Unresolved(name.to_owned()));
            }
            Err(_) => return Err(ResolveError::Unresolved(name.to_owned())),
        };
        let mut none = true;
        let permitted: Vec<_> = found
            .iter()
            .inspect(|_| none = false)
            .filter(|address| self.rules.permit(*address, &self.shared.cluster))
            .take(MOST_ADDRESSES)
            .map(|address| SocketAddr::new(address, 0))
            .collect();
        match (permitted.is_empty(), none) {
            (false, _) => Ok(permitted),
            (true, true) => Err(ResolveError::Unresolved(name.to_owned())),
            (true, false) => Err(ResolveError::NotPermitted(name.to_owned())),
        }
    }
}

impl fmt::Debug for CheckedResolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CheckedResolver({:?})", self.rules)
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.addresses(name.as_str()).await?;
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_of_the_hosts_file_resolves_where_its_address_is_permitted() {
        let public = CheckedResolver::new(Arc::from([])).unwrap();
        let found = public.under(Rules::Listed).addresses("localhost").await.unwrap();
        assert!(found.contains(&"127.0.0.1:0".parse().unwrap()), "{found:?}");
        for name in ["localhost", "localhost."] {
            assert_eq!(public.addresses(name).await, Err(ResolveError::NotPermitted(name.into())));
        }
    }
}
