//! What a registry says of an image.

use lazaretto::{
    facts::Child,
    registry::{Credentials, Failure, Request, TagOrDigest},
};

use super::*;
use crate::support::registry::{Fault, OCI_INDEX, OCI_MANIFEST, errors, image, index, respond};

fn header(name: &'static str, value: &str) -> Fault {
    Fault::Header(name, value.to_owned())
}

fn status(status: u16, body: String) -> Fault {
    Fault::Answer(status, vec![("content-type", "application/json".into())], body)
}

#[tokio::test]
async fn a_tag_is_resolved_by_one_head_that_accepts_all_four_types() {
    let (registry, digest) = with_image().await;
    assert_eq!(resolved(&registry).await, Ok(digest));
    assert_eq!(registry.log(), ["HEAD /v2/team/app/manifests/1"]);
    let request = registry.requests().remove(0);
    assert_eq!(request.header("accept").unwrap().split(", ").count(), 4);
    assert_eq!(request.authorization(), None);
    // Harbor waves `cosign` and `notation` through.
    assert!(request.header("user-agent").unwrap().starts_with("lazaretto/"));
}

#[tokio::test]
async fn a_tag_that_moves_is_another_digest_the_next_time() {
    let (registry, first) = with_image().await;
    let client = client();
    assert_eq!(resolve(&client, &registry.endpoint(), &Credentials::Anonymous).await, Ok(first));
    let second = registry.push_image("team/app", "1", "two");
    assert_eq!(resolve(&client, &registry.endpoint(), &Credentials::Anonymous).await, Ok(second));
}

#[tokio::test]
async fn without_a_digest_in_the_answer_the_bytes_are_hashed() {
    for useless in ["", "sha256:tooshort", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        let (registry, digest) = with_image().await;
        registry.fault("/manifests/", header("docker-content-digest", useless));
        assert_eq!(resolved(&registry).await, Ok(digest), "{useless}");
        assert_eq!(registry.log(), ["HEAD /v2/team/app/manifests/1", "GET /v2/team/app/manifests/1"]);
    }
}

#[tokio::test]
async fn a_registry_that_answers_no_head_is_asked_by_get() {
    for code in [400, 405, 501] {
        let (registry, digest) = with_image().await;
        registry.fault_times(Some(http::Method::HEAD), "/manifests/", 1, status(code, String::new()));
        assert_eq!(resolved(&registry).await, Ok(digest), "{code}");
    }
}

#[tokio::test]
async fn the_digest_that_was_asked_for_must_come_back() {
    let (registry, digest) = with_image().await;
    let other = registry.push_image("team/app", "2", "two");
    let by_digest =
        async || client().resolve(&registry.endpoint(), &Credentials::Anonymous, "team/app", TagOrDigest::Digest(&digest)).await;
    assert_eq!(by_digest().await, Ok(digest.clone()));
    registry.fault("/manifests/", header("docker-content-digest", &other.to_string()));
    assert_eq!(misbehaved(by_digest().await), format!("the registry answered for {digest} with {other}"));
    // Of another algorithm it says nothing, and the bytes do.
    registry.fault("/manifests/", header("docker-content-digest", &format!("sha512:{}", "0".repeat(128))));
    assert_eq!(by_digest().await, Ok(digest.clone()));
    registry.fault("/manifests/", Fault::Body(image("two")));
    registry.fault_times(Some(http::Method::HEAD), "/manifests/", 1, header("docker-content-digest", ""));
    assert_eq!(misbehaved(by_digest().await), format!("the registry answered for {digest} with {other}"));
}

#[tokio::test]
async fn a_tags_bytes_must_have_the_digest_that_goes_with_them() {
    let (registry, digest) = with_image().await;
    registry.fault_times(Some(http::Method::HEAD), "/manifests/", 1, header("docker-content-digest", ""));
    registry.fault_times(Some(http::Method::GET), "/manifests/", 1, Fault::Body(image("two")));
    let other = Digest::of(&image("two"));
    assert_eq!(misbehaved(resolved(&registry).await), format!("the registry answered for {digest} with {other}"));
}

#[tokio::test]
async fn a_manifest_is_read_and_its_bytes_are_the_digests() {
    let (registry, digest) = with_image().await;
    let answer = client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", &digest).await.unwrap();
    assert_eq!((&answer.digest, answer.media_type.as_str(), &answer.bytes), (&digest, OCI_MANIFEST, &image("one")));
    assert_eq!(answer.manifest.config, Some(Digest::of(b"one")));
    assert_eq!(answer.manifest.children, []);

    registry.fault("/manifests/", Fault::Body(image("two")));
    let lie = client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", &digest).await;
    assert_eq!(misbehaved(lie), format!("the registry answered for {digest} with {}", Digest::of(&image("two"))));
}

#[tokio::test]
async fn a_digest_of_sha512_is_checked_by_its_own_algorithm() {
    let registry = FakeRegistry::start().await;
    // printf '' | sha512sum
    let empty = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
    let asked: Digest = empty.parse().unwrap();
    let ask = async || client().resolve(&registry.endpoint(), &Credentials::Anonymous, "team/app", TagOrDigest::Digest(&asked)).await;
    registry.fault("/manifests/", Fault::Answer(200, vec![], String::new()));
    assert_eq!(ask().await, Ok(asked.clone()));
    registry.fault("/manifests/", Fault::Answer(200, vec![], "x".into()));
    assert!(misbehaved(ask().await).starts_with("the registry answered for sha512:cf83"));
}

#[tokio::test]
async fn what_was_served_must_be_what_it_was_served_as() {
    let (registry, digest) = with_image().await;
    let read = async || client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", &digest).await;
    registry.fault("/manifests/", header("content-type", "application/vnd.oci.image.manifest.v1+json; charset=utf-8"));
    assert!(read().await.is_ok());
    registry.fault("/manifests/", header("content-type", OCI_INDEX));
    assert_eq!(misbehaved(read().await), format!("the registry served a manifest as `{OCI_INDEX}` that says of itself `{OCI_MANIFEST}`"));
    let old = registry.push(
        "team/app",
        None,
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        r#"{"schemaVersion":1,"fsLayers":[]}"#,
    );
    let old = client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", &old).await;
    assert!(misbehaved(old).contains("old manifest (schema 1)"));
}

#[tokio::test]
async fn an_index_gives_its_images_and_those_of_indexes_in_it() {
    let registry = FakeRegistry::start().await;
    let (amd, arm) = (registry.push_image("team/app", "amd", "amd"), registry.push_image("team/app", "arm", "arm"));
    let nested = |digests: &[&Digest]| {
        let entries: Vec<_> =
            digests.iter().map(|digest| format!(r#"{{"mediaType":"{OCI_INDEX}","digest":"{digest}","size":1}}"#)).collect();
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, entries.join(","))
    };
    let push = |text: String| registry.push("team/app", None, OCI_INDEX, text);
    let ask = async |digest: &Digest| client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", digest).await;

    let inner = registry.push_index("team/app", None, &[(&amd, "linux", "amd64"), (&arm, "linux", "arm64")]);
    let child = |digest: &Digest, platform: &str| Child { digest: digest.clone(), platform: platform.into() };
    assert_eq!(ask(&inner).await.unwrap().manifest.children, [child(&amd, "linux/amd64"), child(&arm, "linux/arm64")]);

    // Twice the same is fetched once.
    let outer = push(nested(&[&inner, &inner]));
    registry.forget_requests();
    let answer = ask(&outer).await.unwrap();
    assert_eq!((answer.digest, answer.manifest.children.len()), (outer.clone(), 2));
    assert_eq!(registry.requests().len(), 2);

    let third = push(nested(&[&outer]));
    assert_eq!(ask(&third).await.unwrap().manifest.children.len(), 2);
    let fourth = push(nested(&[&third]));
    assert_eq!(misbehaved(ask(&fourth).await), "the registry served an index nested more than 2 deep");

    let missing = Digest::of(b"missing");
    let holed = push(nested(&[&missing]));
    assert_eq!(misbehaved(ask(&holed).await), format!("the registry served an index that names {missing}, and does not have it"));

    let many: Vec<_> = (0..9).map(|at| registry.push("team/app", None, OCI_INDEX, index(&[(&amd, "linux", &format!("a{at}"))]))).collect();
    let wide = push(nested(&many.iter().collect::<Vec<_>>()));
    assert_eq!(misbehaved(ask(&wide).await), "the registry served an index with more than 8 indexes in it");
}

#[tokio::test]
async fn a_body_without_end_is_given_up() {
    let (registry, digest) = with_image().await;
    let sentence = format!("{} sends more than 4 MiB", registry.host());
    for fault in [Fault::EndlessBody, Fault::HugeLength] {
        registry.fault_times(Some(http::Method::GET), "/manifests/", 1, fault);
        let end = client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", &digest).await;
        assert_eq!(misbehaved(end), sentence);
    }
}

#[tokio::test]
async fn what_is_not_there_and_what_is_hidden_look_the_same() {
    let (registry, _) = with_image().await;
    let missing = client().resolve(&registry.endpoint(), &Credentials::Anonymous, "team/app", TagOrDigest::Tag("9")).await;
    assert_eq!(missing, Err(Failure::NotFound));
    // Artifactory's virtual repositories hide what Xray blocks; ACR hides tags in quarantine.
    registry.fault("/manifests/1", status(404, errors("MANIFEST_UNKNOWN", "manifest unknown")));
    assert_eq!(resolved(&registry).await, Err(Failure::NotFound));
}

#[tokio::test]
async fn a_refused_head_is_followed_by_one_get_that_tells_why() {
    let firewall = "-------------------->>> REQUESTED ITEM IS QUARANTINED -------------------->>> FOR DETAILS SEE ------>>> https://iq.example/q <<<------";
    let xray =
        "Artifact download request rejected: x was not downloaded due to the download blocking policy configured in Xray for docker-local.";
    let cases = [
        (403, errors("IMAGE_QUARANTINED", "The image is quarantined."), blocked("IMAGE_QUARANTINED", "The image is quarantined.")),
        (403, firewall.to_owned(), blocked("QUARANTINED", firewall)),
        (403, errors("DENIED", xray), blocked("DENIED", xray)),
        (403, String::new(), Failure::Forbidden("403 Forbidden".into())),
        (403, errors("DENIED", "access is denied"), Failure::Forbidden("access is denied".into())),
        (
            412,
            errors("PROJECTPOLICYVIOLATION", "The image is not signed by cosign."),
            blocked("PROJECTPOLICYVIOLATION", "The image is not signed by cosign."),
        ),
        (409, errors("CONFLICT", "the artifact is quarantined"), blocked("CONFLICT", "the artifact is quarantined")),
        (
            405,
            errors("REGISTRY_DISALLOWED_OPERATION", "The operation is disallowed on this registry, repository or image."),
            blocked("REGISTRY_DISALLOWED_OPERATION", "The operation is disallowed on this registry, repository or image."),
        ),
    ];
    for (code, body, expected) in cases {
        let (registry, _) = with_image().await;
        registry.fault("/manifests/", status(code, body.clone()));
        assert_eq!(resolved(&registry).await, Err(expected), "{code} {body}");
        assert_eq!(registry.log(), ["HEAD /v2/team/app/manifests/1", "GET /v2/team/app/manifests/1"]);
    }
}

#[tokio::test]
async fn a_policy_that_only_a_get_meets_is_met_by_the_manifest() {
    let (registry, digest) = with_image().await;
    registry.fault_times(
        Some(http::Method::GET),
        "/manifests/",
        usize::MAX,
        status(403, errors("DENIED", "download blocking policy configured in Xray")),
    );
    assert_eq!(resolved(&registry).await, Ok(digest.clone()));
    let end = client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", &digest).await;
    assert_eq!(end, Err(blocked("DENIED", "download blocking policy configured in Xray")));
}

#[tokio::test]
async fn an_index_may_be_let_through_and_its_image_blocked() {
    let registry = FakeRegistry::start().await;
    let image = registry.push_image("team/app", "amd", "amd");
    let index = registry.push_index("team/app", Some("1"), &[(&image, "linux", "amd64")]);
    registry.fault(&image.to_string(), status(412, errors("PROJECTPOLICYVIOLATION", "3 vulnerabilities")));
    let ask = async |digest: &Digest| client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", digest).await;
    assert!(ask(&index).await.is_ok());
    assert_eq!(ask(&image).await, Err(blocked("PROJECTPOLICYVIOLATION", "3 vulnerabilities")));
}

#[tokio::test]
async fn too_many_requests_tell_how_long_to_wait() {
    for (value, expected) in [(Some("7"), Some(7)), (Some("86400"), Some(600)), (None, None)] {
        let (registry, _) = with_image().await;
        let headers = value.map(|value| ("retry-after", value.to_owned())).into_iter().collect();
        registry.fault("/manifests/", Fault::Answer(429, headers, errors("TOOMANYREQUESTS", "slow down")));
        assert_eq!(resolved(&registry).await, Err(Failure::Throttled { retry_after: expected.map(Duration::from_secs) }));
        assert_eq!(registry.requests().len(), 1, "nothing is asked again");
    }
}

#[tokio::test]
async fn still_analysing_is_neither_an_outage_nor_an_answer() {
    let (registry, digest) = with_image().await;
    registry.fault("/manifests/", Fault::Answer(503, vec![], "Cooperative wait timed out on firewall (2 threads cooperating)".into()));
    let end = client().manifest(&registry.endpoint(), &Credentials::Anonymous, "team/app", &digest).await;
    assert_eq!(end, Err(Failure::Pending("Cooperative wait timed out on firewall (2 threads cooperating)".into())));
}

#[tokio::test]
async fn an_api_beside_is_asked_with_the_same_care() {
    let registry = FakeRegistry::builder()
        .before(|request| match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/acr/v1/team/app/_manifests/x") => Some(respond(200, &[], r#"{"manifest":{"digest":"x"}}"#)),
            ("PATCH", "/acr/v1/team/app/_manifests/x") => Some(respond(204, &[], request.body.clone())),
            ("GET", "/page") => Some(respond(200, &[], "<html>")),
            _ => None,
        })
        .start()
        .await;
    let (client, endpoint, nobody) = (client(), registry.endpoint(), Credentials::Anonymous);
    let json: serde_json::Value = client.get_json(&endpoint, &nobody, "/acr/v1/team/app/_manifests/x?api-version=1", &[]).await.unwrap();
    assert_eq!(json["manifest"]["digest"], "x");
    assert_eq!(registry.requests()[0].values("api-version"), ["1"]);
    let missing = client.get_json::<serde_json::Value>(&endpoint, &nobody, "/acr/v1/other", &[]).await;
    assert_eq!(missing, Err(Failure::NotFound));
    let page = client.get_json::<serde_json::Value>(&endpoint, &nobody, "/page", &[]).await;
    assert_eq!(misbehaved(page), format!("{} answers with something that is not the JSON expected (line 1, column 1)", registry.host()));

    let body = Some(bytes::Bytes::from_static(br#"{"quarantineState":"Passed"}"#));
    let patch = Request { method: http::Method::PATCH, path: "/acr/v1/team/app/_manifests/x", scopes: &[], body: body.clone() };
    assert_eq!(client.request(&endpoint, &nobody, patch).await.unwrap().status, 204);
    let sent = registry.requests().pop().unwrap();
    assert_eq!((Some(sent.body.clone()), sent.header("content-type")), (body, Some("application/json")));

    for path in ["//evil.example/x", "acr", ""] {
        let end = client.request(&endpoint, &nobody, Request { method: http::Method::GET, path, scopes: &[], body: None }).await;
        assert_eq!(misbehaved(end), "the path of a request is not one", "{path}");
    }
}

#[tokio::test]
async fn what_is_no_name_becomes_no_path() {
    let (registry, _) = with_image().await;
    let ask = async |repository: &str, tag: &str| {
        client().resolve(&registry.endpoint(), &Credentials::Anonymous, repository, TagOrDigest::Tag(tag)).await
    };
    for (repository, tag) in
        [("team/../x", "1"), ("", "1"), ("team//app", "1"), ("team/app?x", "1"), ("team/app", ".."), ("team/app", "a/b"), ("team/app", "")]
    {
        assert!(misbehaved(ask(repository, tag).await).contains("of a request is not one"), "{repository}:{tag}");
    }
    assert_eq!(registry.requests().len(), 0);
}

#[tokio::test]
async fn a_registry_is_alive_that_answers_so() {
    let (registry, _) = with_image().await;
    for code in [200, 401, 403] {
        registry.fault("/v2/", status(code, String::new()));
        assert_eq!(client().ping(&registry.endpoint()).await, Ok(()), "{code}");
    }
    registry.fault("/v2/", status(429, String::new()));
    assert_eq!(client().ping(&registry.endpoint()).await, Err(Failure::Throttled { retry_after: None }));
    registry.fault("/v2/", status(502, String::new()));
    assert_eq!(outage(client().ping(&registry.endpoint()).await).0, OutageKind::ServerError);
    registry.fault("/v2/", status(404, String::new()));
    assert_eq!(
        misbehaved(client().ping(&registry.endpoint()).await),
        format!("{} speaks no registry protocol: /v2/ is not found", registry.host())
    );
}
