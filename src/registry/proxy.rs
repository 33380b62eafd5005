//! Proxies on the way out.

use std::{fmt, sync::Arc};

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

/// Which requests go through which proxy: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, read as curl reads them.
#[derive(Clone, Default)]
pub struct Proxies(Option<Arc<Rules>>);

struct Rules {
    matcher: Matcher,
    http: Option<String>,
    https: Option<String>,
}

impl Proxies {
    /// None.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// As the process's environment says.
    #[must_use]
    pub fn from_environment() -> Self {
        let first = |names: [&str; 2]| names.into_iter().find_map(|name| std::env::var(name).ok()).filter(|value| !value.is_empty());
        let all = first(["ALL_PROXY", "all_proxy"]);
        let https = first(["HTTPS_PROXY", "https_proxy"]).or_else(|| all.clone());
        let http = first(["HTTP_PROXY", "http_proxy"]).or(all);
        Self::new(http, https, &first(["NO_PROXY", "no_proxy"]).unwrap_or_default())
    }

    /// `http` and `https`: the proxies for URLs of these schemes, with or without a scheme and user information of their own. `no`: hosts, domains, addresses and
    /// networks that are reached without one, separated by commas.
    #[must_use]
    pub fn new(http: Option<String>, https: Option<String>, no: &str) -> Self {
        if http.is_none() && https.is_none() {
            return Self::none();
        }
        let matcher =
            Matcher::builder().http(http.clone().unwrap_or_default()).https(https.clone().unwrap_or_default()).no(no.to_owned()).build();
        Self(Some(Arc::new(Rules { matcher, http, https })))
    }

    /// The proxy for a URL, as it was written.
    pub(super) fn of(&self, url: &Url) -> Option<&str> {
        let rules = self.0.as_deref()?;
        rules.matcher.intercept(&url.as_str().parse().ok()?)?;
        if url.scheme() == "https" { rules.https.as_deref() } else { rules.http.as_deref() }
    }
}

/// Proxy URLs may hold passwords.
impl fmt::Debug for Proxies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "Proxies(configured)" } else { "Proxies(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.of(&url.parse().unwrap()).map(str::to_owned)
    }

    #[test]
    fn schemes_have_their_own_proxies_and_exceptions_have_none() {
        let proxies = Proxies::new(
            Some("http://plain.proxy:3128".into()),
            Some("http://user:pass@tls.proxy:3128".into()),
            "corp.example,10.0.0.0/8,.svc,[fd00::1]",
        );
        let cases = [
            ("https://registry.example/v2/", Some("http://user:pass@tls.proxy:3128")),
            ("http://registry.example/v2/", Some("http://plain.proxy:3128")),
            ("https://corp.example/v2/", None),
            ("https://registry.corp.example:8443/v2/", None),
            ("https://notcorp.example/v2/", Some("http://user:pass@tls.proxy:3128")),
            ("https://10.1.2.3/v2/", None),
            ("https://11.1.2.3/v2/", Some("http://user:pass@tls.proxy:3128")),
            ("http://registry.harbor.svc:5000/v2/", None),
        ];
        for (url, proxy) in cases {
            assert_eq!(through(&proxies, url).as_deref(), proxy, "{url}");
        }
    }

    #[test]
    fn without_any_nothing_is_proxied_and_debug_keeps_the_password() {
        assert_eq!(through(&Proxies::none(), "https://registry.example/"), None);
        let only_tls = Proxies::new(None, Some("http://user:pass@tls.proxy:3128".into()), "");
        assert_eq!(through(&only_tls, "http://registry.example/"), None);
        assert_eq!(format!("{only_tls:?}"), "Proxies(configured)");
    }
}
