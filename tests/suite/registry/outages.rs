//! What is no answer at all. Where a test waits for a deadline, time is paused: it passes when nobody has anything to do.

use super::*;
use crate::support::registry::{Fault, errors};
use lazaretto::api::RegistrySpec;
use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::Instant};

#[tokio::test(start_paused = true)]
async fn a_registry_that_never_answers_is_an_outage_when_the_time_is_up() {
    let (registry, _) = with_image().await;
    registry.fault("/manifests/", Fault::Hang);
    let mut endpoint = registry.endpoint();
    endpoint.timeout = Duration::from_secs(20);
    let begun = Instant::now();
    let sentence = format!("no answer from {} within 20s", registry.host());
    assert_eq!(outage(resolve(&client(), &endpoint, &Credentials::Anonymous).await), (OutageKind::TimedOut, sentence));
    assert_eq!(begun.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn so_is_one_that_stops_in_the_middle() {
    let (registry, digest) = with_image().await;
    registry.fault("/manifests/", Fault::HangInBody);
    let end = client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", &digest).await;
    assert_eq!(outage(end).0, OutageKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_whose_body_never_comes_is_a_refusal() {
    let refusing = FakeRegistry::builder().before(|_| Some(crate::support::registry::respond(403, &[], ""))).start().await;
    refusing.fault("/manifests/", Fault::HangInBody);
    let begun = Instant::now();
    let end = client().manifest(&refusing.endpoint(), &Credentials::Anonymous, "team/app", &Digest::of(b"")).await;
    assert_eq!(end, Err(Failure::Forbidden("403 Forbidden".into())));
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_an_outage_and_not_an_absence() {
    let (registry, digest) = with_image().await;
    registry.fault("/manifests/", Fault::BreakInBody);
    let end = client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", &digest).await;
    let (kind, sentence) = outage(end);
    assert_eq!(kind, OutageKind::Broken);
    assert!(sentence.starts_with(&format!("the connection to {} broke off: ", registry.host())), "{sentence}");
}

/// A host of a Registry object.
fn listed(host: &str, plain_http: bool) -> Endpoint {
    Endpoint::listed(host, &RegistrySpec { plain_http, ..RegistrySpec::default() }).unwrap()
}

#[tokio::test]
async fn hanging_up_before_the_answer_is_an_outage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listed(&listener.local_addr().unwrap().to_string(), true);
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            connection.readable().await.unwrap();
        }
    });
    assert_eq!(outage(resolve(&client(), &endpoint, &Credentials::Anonymous).await).0, OutageKind::Broken);
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_an_outage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listed(&listener.local_addr().unwrap().to_string(), true);
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        connection.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    assert_eq!(outage(resolve(&client(), &endpoint, &Credentials::Anonymous).await).0, OutageKind::Broken);
}

#[tokio::test]
async fn nobody_there_is_an_outage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (kind, sentence) = outage(resolve(&client(), &listed(&host, true), &Credentials::Anonymous).await);
    assert_eq!((kind, sentence), (OutageKind::Connect, format!("no connection to {host}: Connection refused (os error 111)")));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_nobody_answers_is_given_up_before_the_question_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let begun = Instant::now();
    let (kind, sentence) = outage(resolve(&client(), &listed(&host, false), &Credentials::Anonymous).await);
    assert_eq!((kind, sentence), (OutageKind::Connect, format!("no connection to {host}: not within 4s")));
    assert_eq!(begun.elapsed().as_secs(), 4);
    drop(listener);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_an_outage_of_its_own_kind() {
    // RFC 6761: nobody is asked for it.
    for endpoint in [listed("registry.invalid", false), Endpoint::unlisted("registry.invalid").unwrap()] {
        let end = resolve(&client(), &endpoint, &Credentials::Anonymous).await;
        assert_eq!(outage(end), (OutageKind::Resolve, "the name `registry.invalid` does not resolve".into()));
    }
}

#[tokio::test]
async fn what_the_server_says_of_itself_is_an_outage() {
    for code in [500, 502, 503, 504, 520] {
        let (registry, _) = with_image().await;
        registry.fault("/manifests/", Fault::Answer(code, vec![], errors("UNKNOWN", "down for repairs")));
        let end = client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", &Digest::of(b"")).await;
        assert_eq!(outage(end), (OutageKind::ServerError, "the registry answered down for repairs".into()), "{code}");
        assert_eq!(registry.requests().len(), 1);
    }
}

#[tokio::test]
async fn tls_is_checked_against_the_registrys_own_authority() {
    let registry = FakeRegistry::builder().tls().start().await;
    let digest = registry.push_image("team/app", "1", "one");
    assert_eq!(resolved(&registry).await, Ok(digest.clone()));

    let mut by_name = registry.spec();
    let host = registry.host().replace("127.0.0.1", "localhost");
    let endpoint = Endpoint::listed(&host, &by_name).unwrap();
    assert_eq!(
        resolve(&client(), &endpoint, &Credentials::Anonymous).await,
        Ok(digest),
        "a name of /etc/hosts, a private address, a Registry object"
    );

    by_name.ca_bundle = None;
    let stranger = Endpoint::listed(&host, &by_name).unwrap();
    let (kind, sentence) = outage(resolve(&client(), &stranger, &Credentials::Anonymous).await);
    assert_eq!((kind, sentence), (OutageKind::Tls, format!("no TLS with {host}: invalid peer certificate: UnknownIssuer")));

    let other = FakeRegistry::builder().tls().start().await;
    let mut wrong = registry.spec();
    wrong.ca_bundle = other.authority().map(str::to_owned);
    let end = resolve(&client(), &Endpoint::listed(&registry.host(), &wrong).unwrap(), &Credentials::Anonymous).await;
    assert_eq!(outage(end).0, OutageKind::Tls);
}

#[tokio::test]
async fn no_tls_where_tls_should_be_is_an_outage_of_its_kind() {
    let (registry, _) = with_image().await;
    let end = resolve(&client(), &listed(&registry.host(), false), &Credentials::Anonymous).await;
    assert_eq!(outage(end).0, OutageKind::Tls);
}

#[tokio::test(start_paused = true)]
async fn a_first_analysis_that_is_slow_times_out_and_the_next_question_finds_it_done() {
    let (registry, digest) = with_image().await;
    // Artifactory holds the connection until the scan is through, 60 s by default, and then refuses.
    let denied = errors("DENIED", "not downloaded due to the download blocking policy configured in Xray for docker-local.");
    registry.fault("/manifests/", Fault::Answer(403, vec![], denied));
    registry.fault_times(None, "/manifests/", 1, Fault::Delay(Duration::from_secs(60)));
    let (client, endpoint) = (client(), registry.endpoint());
    let first = client.manifest(&endpoint, &Credentials::Anonymous, "team/app", &digest).await;
    assert_eq!(outage(first).0, OutageKind::TimedOut);
    let second = client.manifest(&endpoint, &Credentials::Anonymous, "team/app", &digest).await;
    assert!(matches!(second, Err(Failure::Blocked(block)) if block.code == "DENIED"));
}

#[tokio::test(start_paused = true)]
async fn one_slow_image_slows_no_other() {
    let (registry, digest) = with_image().await;
    registry.push_image("team/slow", "1", "slow");
    registry.fault("/team/slow/", Fault::Hang);
    let (client, endpoint) = (client(), registry.endpoint());
    let slow = client.resolve(&endpoint, &Credentials::Anonymous, "team/slow", TagOrDigest::Tag("1"));
    let others = async {
        for _ in 0..20 {
            assert_eq!(resolve(&client, &endpoint, &Credentials::Anonymous).await, Ok(digest.clone()));
        }
        client.ping(&endpoint).await
    };
    let begun = Instant::now();
    let (slow, alive) = tokio::join!(slow, async {
        let alive = others.await;
        (alive, begun.elapsed())
    });
    assert_eq!(outage(slow).0, OutageKind::TimedOut);
    assert_eq!(alive.0, Ok(()));
    assert!(alive.1 < Duration::from_secs(1), "{:?}", alive.1);
}

#[tokio::test]
async fn http_2_is_spoken_where_it_is_offered() {
    let registry = FakeRegistry::builder().tls().before(|request| {
        assert_eq!(request.header("host"), None, "HTTP/2 has no Host");
        None
    });
    let registry = registry.start().await;
    let digest = registry.push_image("team/app", "1", "one");
    assert_eq!(resolved(&registry).await, Ok(digest));
    assert!(registry.requests()[0].uri.starts_with("https://"), "{:?}", registry.requests()[0].uri);
}
