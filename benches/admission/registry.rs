//! A registry that has every image, with its token server; it counts what it is asked, and can be slow or hang.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, Response, StatusCode, header},
};
use lazaretto::tls::{Limits, Listener};
use tokio_util::sync::CancellationToken;

use crate::world;

/// Repositories under this are not there.
pub const ABSENT: &str = "absent/";

/// How it treats who asks.
#[derive(Clone, Copy, Default)]
pub struct Manner {
    /// Each answer comes so much later.
    pub delay: Duration,
    /// It wants to be shown a token of its own token server.
    pub tokens: bool,
}

/// The registry: plain HTTP, as the Registry objects say. Clones are the same one.
#[derive(Clone)]
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    manner: Manner,
    address: SocketAddr,
    hangs: AtomicBool,
    requests: AtomicUsize,
}

impl Registry {
    /// Starts it on the runtime that this is called on.
    pub async fn start(manner: Manner) -> Self {
        // Thousands of clients, and each may stay: it is not what is measured.
        let limits = Limits { connections: 65_536, from_one: 65_536, ..Limits::default() };
        let listener = Listener::plain(([127, 0, 0, 1], 0).into(), limits).await.unwrap();
        let address = listener.address();
        let (hangs, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
        let shared = Arc::new(Shared { manner, address, hangs, requests });
        let router = Router::new().fallback(answer).with_state(shared.clone());
        tokio::spawn(listener.serve(router, CancellationToken::new()));
        Self { address, shared }
    }

    /// Where it is.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it takes requests and never answers them; or it answers again. What hung hangs on.
    pub fn hang(&self, hangs: bool) {
        self.shared.hangs.store(hangs, Ordering::Relaxed);
    }

    /// What it was asked so far, whatever the answer, its token server included.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    if shared.hangs.load(Ordering::Relaxed) {
        return std::future::pending().await;
    }
    if !shared.manner.delay.is_zero() {
        tokio::time::sleep(shared.manner.delay).await;
    }
    let path = request.uri().path();
    if path == "/token" {
        return respond(StatusCode::OK, &[("content-type", "application/json")], token(request.uri().query().unwrap_or_default()));
    }
    let manifest = path.strip_prefix("/v2/").and_then(|rest| rest.split_once("/manifests/"));
    let repository = manifest.map(|(repository, _)| repository);
    if shared.manner.tokens && !is_shown(request.headers(), repository) {
        let scope = repository.map_or_else(String::new, |repository| format!(",scope=\"repository:{repository}:pull\""));
        let challenge = format!("Bearer realm=\"http://{}/token\",service=\"bench\"{scope}", shared.address);
        return respond(StatusCode::UNAUTHORIZED, &[("www-authenticate", &challenge)], String::new());
    }
    match repository {
        None if path == "/v2/" => respond(StatusCode::OK, &[], "{}".to_owned()),
        Some(repository) if !repository.starts_with(ABSENT) => {
            let digest = world::digest_of(repository).to_string();
            let body = if request.method() == Method::HEAD { String::new() } else { world::manifest_of(repository) };
            respond(StatusCode::OK, &[("content-type", world::MANIFEST), ("docker-content-digest", &digest)], body)
        }
        _ => respond(StatusCode::NOT_FOUND, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_owned()),
    }
}

/// A token tells its scope, so that nothing has to be remembered.
fn token(query: &str) -> String {
    let scope = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "scope").map(|(_, scope)| scope.into_owned());
    serde_json::json!({ "token": scope.unwrap_or_default().replace(['/', ':'], "."), "expires_in": 300 }).to_string()
}

fn is_shown(headers: &HeaderMap, repository: Option<&str>) -> bool {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let wanted = repository.map(|repository| format!("repository:{repository}:pull").replace(['/', ':'], "."));
    shown.is_some_and(|shown| wanted.is_none_or(|wanted| wanted == shown))
}

fn respond(status: StatusCode, headers: &[(&'static str, &str)], body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}
