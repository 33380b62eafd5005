//! Where the client lets itself be led, and where not.

use super::*;
use crate::support::registry::{Access, Fault, TokenServer};
use lazaretto::api::RegistrySpec;

fn to(location: &str) -> Fault {
    Fault::Answer(307, vec![("location", location.to_owned())], String::new())
}

#[tokio::test]
async fn a_redirect_within_the_registry_keeps_the_authorization() {
    let registry = FakeRegistry::builder().tokens(TokenServer::default()).start().await;
    let digest = registry.push_image("team/app", "1", "one");
    registry.tag("team/app", "moved", &digest);
    registry.fault("/manifests/1", to("/v2/team/app/manifests/moved"));
    assert_eq!(resolved(&registry).await, Ok(digest));
    assert!(registry.requests().last().unwrap().authorization().unwrap().starts_with("Bearer "));
}

#[tokio::test]
async fn a_redirect_to_another_port_goes_without_authorization() {
    let registry = FakeRegistry::builder().access(Access::Basic { user: "u".into(), password: "p".into() }).start().await;
    registry.push_image("team/app", "1", "one");
    let (other, digest) = with_image().await;
    registry.set_access(Access::Open);
    registry.fault("/manifests/1", to(&format!("{}/v2/team/app/manifests/1", other.url())));
    registry.fault_times(
        None,
        "/manifests/1",
        1,
        Fault::Answer(401, vec![("www-authenticate", "Basic realm=\"x\"".into())], String::new()),
    );
    let end = resolve(&client(), &registry.endpoint(), &Credentials::basic("u", "p")).await;
    assert_eq!(end, Ok(digest));
    assert!(registry.requests().last().unwrap().authorization().is_some());
    assert_eq!(other.requests().iter().map(|request| request.authorization()).collect::<Vec<_>>(), [None]);
}

#[tokio::test]
async fn whoever_wants_credentials_after_a_redirect_gets_none() {
    let (registry, _) = with_image().await;
    let other = FakeRegistry::builder().tokens(TokenServer::default()).start().await;
    registry.fault("/manifests/1", to(&format!("{}/v2/team/app/manifests/1", other.url())));
    let end = resolve(&client(), &registry.endpoint(), &Credentials::basic("u", "p")).await;
    assert_eq!(misbehaved(end), format!("the registry redirects to {}, which wants credentials; they are not sent there", other.host()));
    assert_eq!(other.count("/token"), 0);
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_not_followed() {
    let cases = [
        ("http://10.0.0.1/v2/", "`10.0.0.1` is at no public address, and only the hosts of a Registry object may be elsewhere"),
        ("https://[::1]:9/v2/", "`::1` is at no public address, and only the hosts of a Registry object may be elsewhere"),
        ("https://localhost:9/v2/", "`localhost` is at no public address, and only the hosts of a Registry object may be elsewhere"),
        ("http://169.254.169.254/latest/meta-data/", "`169.254.169.254` is an address that no registry may have"),
        ("http://[::ffff:169.254.169.254]/latest/", "`::ffff:169.254.169.254` is an address that no registry may have"),
    ];
    for (location, sentence) in cases {
        let (registry, _) = with_image().await;
        registry.fault("/manifests/1", to(location));
        assert_eq!(misbehaved(resolved(&registry).await), sentence, "{location}");
    }
}

#[tokio::test]
async fn tls_once_is_tls_ever_after() {
    let registry = FakeRegistry::builder().tls().start().await;
    let (plain, _) = with_image().await;
    let mut endpoint = registry.endpoint();
    // Not even where the Registry permits plain HTTP.
    endpoint.plain_http = true;
    for location in [format!("{}/v2/team/app/manifests/1", plain.url()), "http://registry.example/".to_owned()] {
        registry.fault("/manifests/1", to(&location));
        let end = resolve(&client(), &endpoint, &Credentials::Anonymous).await;
        assert!(misbehaved(end).ends_with(", which has no TLS"), "{location}");
    }
    assert_eq!(plain.requests().len(), 0);
}

#[tokio::test]
async fn redirects_end() {
    let (registry, digest) = with_image().await;
    registry.fault("/manifests/1", to("/v2/team/app/manifests/1"));
    assert_eq!(misbehaved(resolved(&registry).await), "the registry redirects more than 5 times");
    assert_eq!(registry.requests().len(), 6);
    registry.clear_faults();
    registry.fault_times(None, "/manifests/1", 5, to("/v2/team/app/manifests/1"));
    assert_eq!(resolved(&registry).await, Ok(digest));
}

#[tokio::test]
async fn a_redirect_that_leads_nowhere_or_is_no_redirect_is_told() {
    for location in [vec![], vec![("location", "http://".to_owned())], vec![("location", "https://u:p@registry.example/".to_owned())]] {
        let (registry, _) = with_image().await;
        registry.fault("/manifests/1", Fault::Answer(302, location, String::new()));
        assert_eq!(misbehaved(resolved(&registry).await), "the registry redirects to nowhere");
    }
    for location in ["ftp://registry.example/x", "file:///etc/passwd"] {
        let (registry, _) = with_image().await;
        registry.fault("/manifests/1", to(location));
        let sentence = misbehaved(resolved(&registry).await);
        assert!(sentence.ends_with("has no TLS") || sentence.ends_with("to nowhere"), "{sentence}");
    }
    let (registry, _) = with_image().await;
    registry.fault("/manifests/1", Fault::Answer(304, vec![], String::new()));
    assert_eq!(misbehaved(resolved(&registry).await), "the registry answered 304 Not Modified");
}

#[tokio::test]
async fn a_change_is_not_sent_on() {
    let (registry, _) = with_image().await;
    registry.fault("/acr/", to("/acr/elsewhere"));
    let patch = lazaretto::registry::Request { method: http::Method::PATCH, path: "/acr/v1/x", scopes: &[], body: None };
    let end = client().request(&registry.endpoint(), &Credentials::Anonymous, patch).await;
    assert_eq!(misbehaved(end), format!("the registry redirects a PATCH to {}, which is not followed", registry.host()));
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn a_host_without_a_registry_object_is_reached_at_public_addresses_only() {
    let registry = FakeRegistry::builder().tls().start().await;
    registry.push_image("team/app", "1", "one");
    let by_name = registry.host().replace("127.0.0.1", "localhost");
    for host in [registry.host(), by_name] {
        let end = resolve(&client(), &Endpoint::unlisted(&host).unwrap(), &Credentials::Anonymous).await;
        assert!(misbehaved(end).contains("is at no public address"), "{host}");
    }
    assert_eq!(registry.requests().len(), 0);
}

#[tokio::test]
async fn a_proxy_is_asked_where_there_is_one() {
    let (proxy, digest) = with_image().await;
    let spec = RegistrySpec { plain_http: true, ..RegistrySpec::default() };
    let through = |no: &str| {
        let proxies = Proxies::new(Some(format!("http://user:secret@{}", proxy.host())), None, no);
        RegistryClient::new(ClientOptions { cluster_ranges: Vec::new(), proxies }).unwrap()
    };
    let endpoint = Endpoint::listed("registry.invalid", &spec).unwrap();
    assert_eq!(resolve(&through(""), &endpoint, &Credentials::Anonymous).await, Ok(digest));
    let asked = proxy.requests().remove(0);
    assert_eq!(asked.uri, "http://registry.invalid/v2/team/app/manifests/1");
    assert!(asked.header("proxy-authorization").unwrap().starts_with("Basic "));
    // Except where not.
    let end = resolve(&through("invalid"), &endpoint, &Credentials::Anonymous).await;
    assert_eq!(outage(end).0, OutageKind::Resolve);
    assert_eq!(proxy.requests().len(), 1);
}
