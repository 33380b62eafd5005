//! The registry's host, spelt in all the ways that somebody may hope are another host.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use futures::future::join_all;
use http::StatusCode;
use kube::api::PostParams;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::{BY_ADDRESS, IN_QUARANTINE, NOT_FOUND, Refusal, Scene, pod, read, registry};
use crate::story;

/// Everything that a policy can open, and still wants released images.
fn every_knob() -> Value {
    json!({
        "require": { "released": "Deny", "unmanaged": "Allow" },
        "whenUnknown": { "pending": "Allow", "registryUnavailable": "Allow", "unauthorized": "Allow", "lastKnownGoodFor": "365d" },
    })
}

#[tokio::test]
async fn a_host_in_another_spelling_is_the_same_host() {
    let scene = Scene::new().await;
    let host = format!("{}.corp", scene.namespace);
    scene.register(&host, |_| {}).await;
    let (_, digest) = scene.push("app", "1").await;
    let path = scene.repository("app");
    let upper = host.to_uppercase();
    let spellings = [host.clone(), format!("{host}:443"), upper.clone(), format!("{upper}:443"), upper.replacen("TEST", "Test", 1)];
    for spelling in &spellings {
        let image = format!("{spelling}/{path}:1");
        scene.refused(&pod("p", &image)).await.says(&[
            &format!("spec.containers[c].image {image} ({digest}): {IN_QUARANTINE}"),
            // Whoever releases it reads the one name by which it is known.
            &format!("lazaretto quarantine release {host}/{path}@{digest} --reason TEXT"),
        ]);
        let pinned = format!("{spelling}/{path}@{digest}");
        scene.refused(&pod("p", &pinned)).await.says(&[&format!("spec.containers[c].image {pinned}: {IN_QUARANTINE}")]);
    }
    // One image, not five (image_status sees to that); and what lets it go by one name lets it go by all.
    story::image_status(scene.lab, &digest).await.expect("it is known");
    scene.release(&format!("{host}/{path}:1"), &digest).await;
    for (at, spelling) in spellings.iter().enumerate() {
        scene.known(&format!("{spelling}/{path}:1"), true).await;
        scene.create(&pod(&format!("p{at}"), &format!("{spelling}/{path}:1"))).await.unwrap();
    }
}

#[tokio::test]
async fn a_spelling_that_readers_differ_on_is_refused_whatever_the_policy_speaks_of() {
    let (scene, elsewhere) = (Scene::new().await, Scene::bare().await);
    let host = format!("{}.corp", scene.namespace);
    scene.register(&host, |_| {}).await;
    // What cannot be read could be any image, also one of those.
    elsewhere.policy(json!({ "match": { "images": ["elsewhere.corp/**"] } })).await;
    let (_, digest) = scene.push("app", "1").await;
    let (path, port) = (scene.repository("app"), registry().await.port());
    let cases = [
        (format!("{host}./{path}:1"), format!("the host `{host}.` ends in a dot: leave the dot out")),
        (format!("{host}.:443/{path}:1"), format!("the host `{host}.:443` ends in a dot: leave the dot out")),
        (format!("{host}./{path}@{digest}"), format!("the host `{host}.` ends in a dot: leave the dot out")),
        (format!("{host}:0443/{path}:1"), format!("the port of `{host}:0443` is not a number from 1 to 65535 without leading zeros")),
        (
            format!("registry:443/{path}:1"),
            "`registry:443` is a host only as it is spelt here, and a path at docker.io otherwise: write its full domain name".into(),
        ),
        (format!("localhost:443/{path}:1"), "`localhost:443` is not the registry that nodes reach at `localhost`".into()),
        (format!("LocalHost:{port}/{path}:1"), format!("`LocalHost:{port}` is not the registry that nodes reach at `localhost`")),
        (format!("127.1:{port}/{path}:1"), format!("the host `127.1:{port}` may be read as an IPv4 address")),
        (format!("0x7f.1:{port}/{path}:1"), format!("the host `0x7f.1:{port}` may be read as an IPv4 address")),
        (format!("2130706433:{port}/{path}:1"), format!("the host `2130706433:{port}` may be read as an IPv4 address")),
        (format!("[0::1]:{port}/{path}:1"), format!("the host `[0::1]:{port}` is no IPv6 address in its shortest form")),
        (format!("https://{host}/{path}:1"), "an image name has no scheme: leave out `https://`".into()),
        (format!("{host}/App:1"), "the repository `App` has upper-case letters: write it in lower case".into()),
        (format!("{host}/x/../{path}:1"), "there is `..` in the image name: write the whole path out".into()),
        (format!("{host}//{path}:1"), "there is a slash too many in the image name".into()),
        (digest.trim_start_matches("sha256:").into(), "64 hex digits are the id of an image, not its name".into()),
    ];
    for (image, sentence) in cases {
        let sentence = format!("the image reference is refused: {sentence}");
        scene.refused(&pod("p", &image)).await.says(&[&format!("spec.containers[c].image {image}: "), &sentence]);
        elsewhere.refused(&pod("p", &image)).await.says(&[&sentence, &format!("[policy {}]", elsewhere.namespace)]);
    }
    // The other policy does speak of nothing else.
    elsewhere.create(&pod("p", &format!("{host}/{path}:1"))).await.unwrap();
}

#[tokio::test]
async fn an_address_is_no_name_of_a_registry() {
    let (scene, narrow, open) = (Scene::new().await, Scene::bare().await, Scene::bare().await);
    let registry = registry().await;
    narrow.policy(json!({ "match": { "images": [format!("{}/**", registry.host())] } })).await;
    open.policy(every_knob()).await;
    let (image, digest) = scene.push("app", "1").await;
    narrow.refused(&pod("p", &image)).await.says(&[IN_QUARANTINE]);
    let path = scene.repository("app");
    for address in ["127.0.0.1", "[::1]", "127.0.0.2"] {
        for version in [":1".to_owned(), format!("@{digest}")] {
            let image = format!("{address}:{}/{path}{version}", registry.port());
            for (scene, what) in [(&scene, "the plainest policy"), (&narrow, "one for the name only"), (&open, "one that opens")] {
                let refusal = scene.refused(&pod("p", &image)).await;
                assert!(refusal.message.contains(BY_ADDRESS), "{what}: {refusal:?}");
                refusal.says(&[&image, "write its host name, or let a Registry object name the address"]);
            }
        }
    }
}

/// A registry of the pod's author that accepts connections and says nothing, under every knob that opens.
#[tokio::test]
async fn a_registry_of_the_authors_own_opens_nothing_by_its_silence() {
    let scene = Scene::bare().await;
    scene.policy(every_knob()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            silent.push(connection);
        }
    });
    let digest = format!("sha256:{}", "5".repeat(64));
    let listed = registry().await.host();
    let silent = "its registry does not answer. It has no Registry object, so no policy can admit its images while it is silent";
    let inside = "is at no public address, and only the hosts of a Registry object may be elsewhere";
    // Names that look like the listed one, names that resolve to loopback, and names that nobody can resolve.
    let cases = [
        (format!("localhost:{port}/app:1"), vec![inside]),
        (format!("localhost:{port}/app@{digest}"), vec![inside]),
        (format!("localhost:{port}/{}/app:1", listed.replace(':', "/")), vec![inside]),
        (format!("127.0.0.1:{port}/app:1"), vec![BY_ADDRESS]),
        (format!("{}.invalid:{port}/app:1", listed.replace(':', "-")), vec![silent, inside]),
        (format!("localhost.localdomain:{port}/app:1"), vec![silent, inside]),
    ];
    let answers = cases.into_iter().map(|(image, sentences)| {
        let scene = &scene;
        async move {
            // Twice: what the first has found out must not serve the second better.
            for _ in 0..2 {
                let begun = Instant::now();
                let answer = scene.pods().create(&PostParams::default(), &read(&pod("p", &image))).await;
                let refusal = Refusal::of(answer);
                assert!(begun.elapsed() < Duration::from_secs(10), "{image}: {:?}: {refusal:?}", begun.elapsed());
                assert!(matches!(refusal.code, 403 | 504), "{image}: {refusal:?}");
                assert!(sentences.iter().any(|sentence| refusal.message.contains(sentence)), "{image}: {refusal:?}");
                refusal.silent("deadline exceeded");
            }
        }
    });
    join_all(answers).await;
    assert_eq!(connections.load(Ordering::Relaxed), 0, "nobody is asked at an address of the inside");
}

/// A listed registry that is well, but at which some paths hang and others are forbidden: paths are chosen by the pod's author.
#[tokio::test]
async fn a_path_that_hangs_or_is_forbidden_is_no_outage_of_its_registry() {
    let scene = Scene::bare().await;
    let mut policy = every_knob();
    policy["whenUnknown"]["pending"] = json!("Deny");
    scene.policy(policy).await;
    let answer = async |request: Request| {
        let path = request.uri().path();
        if path.contains("/hangs/") {
            std::future::pending::<()>().await;
        }
        let status = if path.contains("/forbidden/") { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        ([("www-authenticate", "Basic realm=\"r\"")], status).into_response()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    let host = format!("{}.corp", scene.namespace);
    scene
        .register(&host, |spec| {
            spec["endpoint"] = json!(endpoint);
            spec["limits"]["timeoutSeconds"] = json!(2);
        })
        .await;
    let ask = async |path: &str| {
        let pod = pod("p", &format!("{host}/{path}"));
        Refusal::of(scene.pods().create(&PostParams::default(), &read(&pod)).await)
    };
    let (hangs, forbidden) = tokio::join!(ask("hangs/app:1"), ask("forbidden/app:1"));
    assert_eq!(hangs.code, 504, "{hangs:?}");
    assert!(hangs.message.contains("not known yet: the registry is well, but did not answer about this image"), "{hangs:?}");
    forbidden.says(&[NOT_FOUND]);
}
