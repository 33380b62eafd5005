//! Who is shown what, and how often a token server is asked.

use super::*;
use crate::support::registry::{Access, Fault, Recorded, TokenServer, respond};
use futures::future::join_all;
use lazaretto::registry::Request;

async fn with_tokens(server: TokenServer) -> (FakeRegistry, Digest) {
    let registry = FakeRegistry::builder().tokens(server).start().await;
    let digest = registry.push_image("team/app", "1", "one");
    (registry, digest)
}

fn robot() -> Credentials {
    Credentials::basic("robot", "s3a:gull")
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_and_shown_ever_after() {
    let (registry, digest) = with_tokens(TokenServer::default()).await;
    let client = client();
    for _ in 0..3 {
        assert_eq!(resolve(&client, &registry.endpoint(), &Credentials::Anonymous).await, Ok(digest.clone()));
    }
    let head = "HEAD /v2/team/app/manifests/1";
    assert_eq!(registry.log(), [head, "GET /token", head, head, head]);
    let request = registry.requests().remove(1);
    assert_eq!((request.values("service"), request.values("scope")), (vec!["fake".into()], vec!["repository:team/app:pull".into()]));
    assert_eq!(request.authorization(), None);
}

#[tokio::test]
async fn a_user_is_shown_to_the_token_server_and_not_to_the_registry() {
    let (registry, digest) = with_tokens(TokenServer::for_user("robot", "s3a:gull")).await;
    assert_eq!(resolve(&client(), &registry.endpoint(), &robot()).await, Ok(digest));
    for request in registry.requests() {
        let shown = request.basic_if_any();
        assert_eq!(shown.is_some(), request.path == "/token", "{}", request.path);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_it_ends() {
    let (registry, digest) = with_tokens(TokenServer { expires_in: Some(100), ..TokenServer::default() }).await;
    let client = client();
    let ask = async || resolve(&client, &registry.endpoint(), &Credentials::Anonymous).await;
    assert_eq!(ask().await, Ok(digest.clone()));
    tokio::time::advance(Duration::from_secs(75)).await;
    assert_eq!(ask().await, Ok(digest.clone()));
    assert_eq!(registry.count("/token"), 1);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(ask().await, Ok(digest));
    assert_eq!(registry.count("/token"), 2);
}

#[tokio::test]
async fn a_token_that_the_registry_no_longer_takes_is_renewed_once() {
    for basic_for_bad_tokens in [false, true] {
        let (registry, digest) = with_tokens(TokenServer { basic_for_bad_tokens, ..TokenServer::default() }).await;
        let client = client();
        assert_eq!(resolve(&client, &registry.endpoint(), &Credentials::Anonymous).await, Ok(digest.clone()));
        registry.revoke_tokens();
        registry.forget_requests();
        assert_eq!(resolve(&client, &registry.endpoint(), &Credentials::Anonymous).await, Ok(digest));
        let head = "HEAD /v2/team/app/manifests/1";
        assert_eq!(registry.log(), [head, head, "GET /token", head]);
    }
}

#[tokio::test]
async fn a_token_without_the_right_is_tried_once() {
    let granting_nothing = |users: bool| TokenServer {
        grants: false,
        ..if users { TokenServer::for_user("robot", "s3a:gull") } else { TokenServer::default() }
    };
    let told = "401 Unauthorized".to_owned();
    // The credentials are good, and the right is missing; whoever shows none is simply nobody.
    for (credentials, expected) in
        [(robot(), Failure::Forbidden(told.clone())), (Credentials::Anonymous, Failure::Unauthorized(told.clone()))]
    {
        let (registry, _) = with_tokens(granting_nothing(!credentials.is_anonymous())).await;
        assert_eq!(resolve(&client(), &registry.endpoint(), &credentials).await, Err(expected));
        assert_eq!((registry.count("/manifests/"), registry.count("/token")), (2, 1));
    }
    let (registry, digest) = with_tokens(granting_nothing(false)).await;
    let end = client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", &digest).await;
    assert_eq!(end, Err(Failure::Unauthorized("authentication required".into())), "a GET brings the registry's own words");
}

#[tokio::test]
async fn a_token_server_that_refuses_is_not_one_that_is_down() {
    let (registry, _) = with_tokens(TokenServer::for_user("robot", "other")).await;
    let ask = async || resolve(&client(), &registry.endpoint(), &robot()).await;
    let refuses = |code: u16| Failure::Unauthorized(format!("the token server {} refuses ({code})", registry.host()));
    assert_eq!(ask().await, Err(refuses(401)));
    for code in [400, 403] {
        registry.fault("/token", Fault::Answer(code, vec![], String::new()));
        assert_eq!(ask().await, Err(refuses(code)));
    }
    for code in [500, 502, 503] {
        registry.fault("/token", Fault::Answer(code, vec![], String::new()));
        let (kind, sentence) = outage(ask().await);
        assert_eq!(kind, OutageKind::ServerError);
        assert!(sentence.starts_with(&format!("the token server {} answered {code}", registry.host())), "{sentence}");
    }
    registry.fault("/token", Fault::Answer(429, vec![("retry-after", "9".into())], String::new()));
    assert_eq!(ask().await, Err(Failure::Throttled { retry_after: Some(Duration::from_secs(9)) }));
    registry.fault("/token", Fault::Answer(404, vec![], String::new()));
    assert_eq!(misbehaved(ask().await), format!("the token server {} answers 404 Not Found", registry.host()));
    registry.fault("/token", Fault::Answer(200, vec![], "<html>".into()));
    assert_eq!(misbehaved(ask().await), format!("the token server {} answers with something other than a token", registry.host()));
    registry.fault("/token", Fault::Answer(307, vec![("location", "https://elsewhere.example/".into())], String::new()));
    assert_eq!(misbehaved(ask().await), format!("the token server {} redirects, which is not followed", registry.host()));
    registry.fault("/token", Fault::BreakInBody);
    registry.set_access(Access::Bearer(TokenServer::default()));
    assert_eq!(outage(ask().await).0, OutageKind::Broken);
}

#[tokio::test(start_paused = true)]
async fn a_token_server_that_never_answers_is_named() {
    let tokens = FakeRegistry::start().await;
    tokens.fault("/token", Fault::Hang);
    let (registry, _) = with_tokens(TokenServer { realm: Some(format!("{}/token", tokens.url())), ..TokenServer::default() }).await;
    let end = resolve(&client(), &registry.endpoint(), &robot()).await;
    assert_eq!(outage(end), (OutageKind::TimedOut, format!("no answer from {} within 5s", tokens.host())));
}

#[tokio::test]
async fn credentials_are_not_sent_to_a_token_server_elsewhere() {
    let elsewhere = FakeRegistry::builder().tokens(TokenServer::default()).tls().start().await;
    let realm = format!("{}/token", elsewhere.url()).replace("127.0.0.1", "localhost");
    let (registry, _) = with_tokens(TokenServer { realm: Some(realm.clone()), ..TokenServer::default() }).await;
    let end = resolve(&client(), &registry.endpoint(), &robot()).await;
    assert_eq!(
        misbehaved(end),
        format!("the registry names the token server `{realm}`; credentials are not sent there: it shares no domain with the registry")
    );
    // Without credentials the token server could be asked, were its address public.
    assert_eq!(
        misbehaved(resolved(&registry).await),
        "`localhost` is at no public address, and only the hosts of a Registry object may be elsewhere"
    );
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn a_token_server_without_tls_is_asked_only_where_the_registry_said_so() {
    let plain = FakeRegistry::builder().tokens(TokenServer::default()).start().await;
    let registry = FakeRegistry::builder()
        .tls()
        .tokens(TokenServer { realm: Some(format!("{}/token", plain.url())), ..TokenServer::default() })
        .start()
        .await;
    for credentials in [Credentials::Anonymous, robot()] {
        let end = resolve(&client(), &registry.endpoint(), &credentials).await;
        assert!(misbehaved(end).contains("which has no TLS"));
    }
    assert_eq!(plain.requests().len(), 0);
}

#[tokio::test]
async fn a_refresh_token_is_sent_by_post() {
    let server = TokenServer { refresh_token: Some("jwt+/".into()), ..TokenServer::default() };
    let (registry, digest) = with_tokens(server.clone()).await;
    // Also when it is a password in disguise.
    for credentials in
        [Credentials::RefreshToken { token: "jwt+/".into() }, Credentials::basic("00000000-0000-0000-0000-000000000000", "jwt+/")]
    {
        registry.forget_requests();
        assert_eq!(resolve(&client(), &registry.endpoint(), &credentials).await, Ok(digest.clone()));
        let request = registry.requests().remove(1);
        assert_eq!((request.method.as_str(), request.path.as_str(), request.authorization()), ("POST", "/token", None));
        assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
        assert_eq!(request.values("grant_type"), ["refresh_token"]);
    }
    let wrong = resolve(&client(), &registry.endpoint(), &Credentials::RefreshToken { token: "old".into() }).await;
    assert_eq!(wrong, Err(Failure::Unauthorized(format!("the token server {} refuses (400)", registry.host()))));
}

#[tokio::test]
async fn a_token_server_that_knows_no_post_is_asked_by_get() {
    for fault in [None, Some(Fault::Answer(404, vec![], String::new()))] {
        let (registry, digest) =
            with_tokens(TokenServer { refresh_token: Some("jwt".into()), knows_post: false, ..TokenServer::default() }).await;
        if let Some(fault) = fault {
            registry.fault_times(Some(http::Method::POST), "/token", 1, fault);
        }
        let end = resolve(&client(), &registry.endpoint(), &Credentials::RefreshToken { token: "jwt".into() }).await;
        assert_eq!(end, Ok(digest));
        assert_eq!(registry.requests()[2].basic(), Some(("00000000-0000-0000-0000-000000000000".into(), "jwt".into())));
    }
}

#[tokio::test]
async fn basic_is_shown_when_it_is_asked_for_and_remembered() {
    let registry = FakeRegistry::builder().access(Access::Basic { user: "robot".into(), password: "s3a:gull".into() }).start().await;
    let digest = registry.push_image("team/app", "1", "one");
    let client = client();
    for _ in 0..2 {
        assert_eq!(resolve(&client, &registry.endpoint(), &robot()).await, Ok(digest.clone()));
    }
    let shown: Vec<_> = registry.requests().iter().map(Recorded::basic_if_any).collect();
    let robot = Some(("robot".to_owned(), "s3a:gull".to_owned()));
    assert_eq!(shown, [None, robot.clone(), robot]);

    let wrong = resolve(&client, &registry.endpoint(), &Credentials::basic("robot", "wrong")).await;
    assert_eq!(wrong, Err(Failure::Unauthorized("401 Unauthorized".into())));
    let nobody = resolve(&client, &registry.endpoint(), &Credentials::Anonymous).await;
    assert_eq!(nobody, Err(Failure::Unauthorized("the registry wants a user name and a password, and there are none".into())));
}

#[tokio::test]
async fn a_401_that_asks_for_nothing_known_is_the_end() {
    for headers in [vec![], vec![("www-authenticate", "Negotiate".to_owned())]] {
        let (registry, _) = with_image().await;
        registry.fault("/manifests/", Fault::Answer(401, headers, String::new()));
        let end = resolve(&client(), &registry.endpoint(), &robot()).await;
        assert_eq!(end, Err(Failure::Unauthorized("the registry answers 401 and does not say what it wants".into())));
        assert_eq!(registry.requests().len(), 1);
    }
}

#[tokio::test]
async fn many_questions_at_once_ask_the_token_server_once() {
    let (registry, digest) = with_tokens(TokenServer::default()).await;
    let (client, endpoint) = (client(), registry.endpoint());
    let ends = join_all((0..20).map(|_| resolve(&client, &endpoint, &Credentials::Anonymous))).await;
    assert!(ends.iter().all(|end| *end == Ok(digest.clone())));
    assert_eq!(registry.count("/token"), 1);
}

#[tokio::test]
async fn nobody_profits_from_anothers_token() {
    let (registry, digest) = with_tokens(TokenServer::for_user("robot", "s3a:gull")).await;
    let client = client();
    assert_eq!(resolve(&client, &registry.endpoint(), &robot()).await, Ok(digest));
    for other in [Credentials::Anonymous, Credentials::basic("robot", "guess"), Credentials::RefreshToken { token: "s3a:gull".into() }] {
        let end = resolve(&client, &registry.endpoint(), &other).await;
        assert!(matches!(end, Err(Failure::Unauthorized(_))), "{end:?}");
    }
    // Nor one repository from another's.
    registry.push_image("team/other", "1", "one");
    registry.forget_requests();
    let end = client.resolve(&registry.endpoint(), &robot(), "team/other", TagOrDigest::Tag("1")).await;
    assert!(end.is_ok());
    assert_eq!(registry.count("/token"), 1);
}

#[tokio::test]
async fn the_scope_of_the_challenge_is_asked_for_when_it_only_reads() {
    let challenged = |scope: &str| TokenServer { challenged_scope: Some(scope.into()), ..TokenServer::default() };
    let (registry, digest) = with_tokens(challenged("repository:docker-local/team/app:pull")).await;
    assert_eq!(resolved(&registry).await, Ok(digest));
    assert_eq!(registry.requests()[1].values("scope"), ["repository:team/app:pull", "repository:docker-local/team/app:pull"]);
    let (registry, digest) = with_tokens(challenged("registry:catalog:*")).await;
    assert_eq!(resolved(&registry).await, Ok(digest));
    assert_eq!(registry.requests()[1].values("scope"), ["repository:team/app:pull"]);
}

#[tokio::test]
async fn an_api_beside_takes_its_scope_from_the_challenge() {
    let server = TokenServer { challenged_scope: Some("repository:team/app:metadata_read".into()), ..TokenServer::default() };
    let registry = FakeRegistry::builder().tokens(server).before(|request| match request.authorization() {
        Some(_) if request.path == "/acr/v1/team/app" => Some(respond(200, &[], "{}")),
        _ => None,
    });
    let registry = registry.start().await;
    let scopes = ["repository:team/app:pull".to_owned()];
    let request = Request { method: http::Method::GET, path: "/acr/v1/team/app", scopes: &scopes, body: None };
    let answer = client().request(&registry.endpoint(), &Credentials::Anonymous, request).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(registry.requests()[1].values("scope"), ["repository:team/app:pull", "repository:team/app:metadata_read"]);
}

#[tokio::test]
async fn no_end_shows_a_secret() {
    let (registry, _) = with_tokens(TokenServer::for_user("robot", "other")).await;
    let client = client();
    let secrets = ["s3a:gull", "czNhOmd1bGw", "hunter2"];
    for credentials in [robot(), Credentials::RefreshToken { token: "hunter2".into() }] {
        let end = resolve(&client, &registry.endpoint(), &credentials).await;
        let shown = format!("{end:?} {} {client:?} {credentials:?}", end.clone().unwrap_err());
        assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
    }
}
