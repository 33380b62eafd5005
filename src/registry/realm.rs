//! Whether to ask the token server that a registry names.
//!
//! See the module [`registry`](super) for why.

use url::Url;

use super::{Endpoint, address::Rules};

/// Registries whose token server is known to stand at another name, and those names.
const KNOWN: [(&str, &str); 3] =
    [("docker.io", "auth.docker.io"), ("registry-1.docker.io", "auth.docker.io"), ("registry.gitlab.com", "gitlab.com")];

/// The rules under which a token server may be asked.
///
/// # Errors
/// A sentence that names the token server and says what to do.
pub(super) fn permit(endpoint: &Endpoint, realm: &str, with_secrets: bool) -> Result<(Url, Rules), String> {
    let shown: String = realm.chars().filter(|character| !character.is_control()).take(120).collect();
    let url = Url::parse(realm).map_err(|_| format!("the registry names a token server that is no URL: `{shown}`"))?;
    let Some(host) = url.host_str() else {
        return Err(format!("the registry names a token server without a host: `{shown}`"));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the registry names a token server with a user name or password in its URL".to_owned());
    }
    let near = is_own(endpoint, host) || (endpoint.listed && is_relative(endpoint, host));
    match url.scheme() {
        "https" => {}
        "http" if endpoint.plain_http && near => {}
        "http" => {
            return Err(format!(
                "the registry names the token server `{shown}`, which has no TLS; the registry's own address must be set to https://"
            ));
        }
        _ => return Err(format!("the registry names the token server `{shown}`, which is not https://")),
    }
    let rules = if near && endpoint.listed { Rules::Listed } else { Rules::Public };
    let known = KNOWN.iter().any(|(registry, server)| (endpoint.host == *registry || is_own(endpoint, registry)) && host == *server);
    if with_secrets && !near && !known {
        let remedy = if endpoint.listed {
            "it shares no domain with the registry"
        } else {
            "name the registry in a Registry object if the two belong together"
        };
        return Err(format!("the registry names the token server `{shown}`; credentials are not sent there: {remedy}"));
    }
    Ok((url, rules))
}

/// Whether a host is the registry's own: the one that is spoken to, or the one that references name. The port does not matter.
pub(super) fn is_own(endpoint: &Endpoint, host: &str) -> bool {
    let named = match endpoint.host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => endpoint.host.as_str(),
    };
    endpoint.base.host_str() == Some(host) || named == host
}

/// Whether a host is the domain above the registry's own, or within it. That domain has at least two labels, and no address has one.
pub(super) fn is_relative(endpoint: &Endpoint, host: &str) -> bool {
    let Some(url::Host::Domain(own)) = endpoint.base.host() else { return false };
    let Some((_, parent)) = own.split_once('.') else { return false };
    parent.contains('.') && (host == parent || host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RegistrySpec;

    fn listed(host: &str) -> Endpoint {
        Endpoint::listed(host, &RegistrySpec::default()).unwrap()
    }

    fn plain(host: &str) -> Endpoint {
        Endpoint::listed(host, &RegistrySpec { plain_http: true, ..RegistrySpec::default() }).unwrap()
    }

    fn unlisted(host: &str) -> Endpoint {
        Endpoint::unlisted(host).unwrap()
    }

    #[test]
    fn credentials_go_to_the_registrys_own_token_server_only() {
        use Rules::{Listed, Public};
        let inside = Endpoint::listed(
            "harbor.corp.example",
            &RegistrySpec { endpoint: Some("https://harbor.harbor.svc:8443".into()), ..RegistrySpec::default() },
        );
        let cases = [
            (unlisted("reg.example"), "https://reg.example/token", Some(Public)),
            (unlisted("reg.example:5000"), "https://reg.example:5001/token", Some(Public)),
            (unlisted("docker.io"), "https://auth.docker.io/token", Some(Public)),
            (unlisted("registry.gitlab.com"), "https://gitlab.com/jwt/auth", Some(Public)),
            (unlisted("gitlab.com"), "https://registry.gitlab.com/jwt/auth", None),
            (unlisted("evil.example"), "https://auth.docker.io/token", None),
            (unlisted("a.jfrog.io"), "https://b.jfrog.io/token", None),
            (unlisted("reg.example"), "https://reg.example.evil/token", None),
            (unlisted("reg.example"), "https://169.254.169.254/token", None),
            (unlisted("reg.example"), "http://reg.example/token", None),
            (listed("reg.corp.example"), "https://auth.corp.example/token", Some(Listed)),
            (listed("reg.corp.example"), "https://corp.example/token", Some(Listed)),
            (listed("reg.corp.example"), "https://a.b.corp.example/token", Some(Listed)),
            (listed("reg.corp.example"), "https://evilcorp.example/token", None),
            (listed("corp.example"), "https://other.example/token", None),
            (listed("10.0.0.1:5000"), "https://10.0.0.1:5001/token", Some(Listed)),
            (listed("10.0.0.1:5000"), "https://11.0.0.1/token", None),
            (listed("docker.io"), "https://auth.docker.io/token", Some(Listed)),
            (listed("reg.corp.example"), "http://reg.corp.example/token", None),
            (plain("reg.corp.example"), "http://reg.corp.example/token", Some(Listed)),
            (plain("reg.corp.example"), "http://auth.corp.example/token", Some(Listed)),
            (plain("reg.corp.example"), "http://elsewhere.example/token", None),
            (inside.unwrap(), "https://harbor.corp.example/service/token", Some(Listed)),
            (unlisted("reg.example"), "https://user@reg.example/token", None),
            (unlisted("reg.example"), "ftp://reg.example/token", None),
            (unlisted("reg.example"), "/token", None),
            (unlisted("reg.example"), "", None),
        ];
        for (endpoint, realm, expected) in cases {
            let found = permit(&endpoint, realm, true);
            assert_eq!(found.as_ref().map(|(_, rules)| *rules).ok(), expected, "{} -> {realm}: {found:?}", endpoint.host);
        }
    }

    #[test]
    fn anonymous_tokens_may_come_from_anywhere_public_under_tls() {
        use Rules::{Listed, Public};
        let cases = [
            (unlisted("reg.example"), "https://elsewhere.example/token", Some(Public)),
            (listed("reg.corp.example"), "https://elsewhere.example/token", Some(Public)),
            (listed("reg.corp.example"), "https://auth.corp.example/token", Some(Listed)),
            (unlisted("reg.example"), "http://elsewhere.example/token", None),
            (plain("reg.corp.example"), "http://elsewhere.example/token", None),
        ];
        for (endpoint, realm, expected) in cases {
            assert_eq!(permit(&endpoint, realm, false).map(|(_, rules)| rules).ok(), expected, "{} -> {realm}", endpoint.host);
        }
    }

    #[test]
    fn the_refusal_names_the_server_and_the_remedy() {
        assert_eq!(
            permit(&unlisted("reg.example"), "https://auth.other.example/token", true).unwrap_err(),
            "the registry names the token server `https://auth.other.example/token`; credentials are not sent there: name the registry in a Registry object if the \
             two belong together"
        );
    }
}
