//! Stands before the API server: has the pods, passes on the rest, and counts what is written.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Query, Request, State},
    http::{Method, Response, StatusCode, header},
};
use futures::{StreamExt as _, stream};
use lazaretto::tls::{CurrentCertificate, Limits, Listener};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::pods::Pods;
use crate::{cluster::Reach, e2e::lab::control_plane::Authority};

/// No request to the API server has a larger body.
const MOST_BYTES: usize = 4 << 20;
/// A watch of pods that names no end.
const LONGEST_WATCH: u64 = 300;

/// The proxy.
pub struct Proxy {
    /// Where it listens, by TLS.
    pub address: SocketAddr,
    /// Signs its certificate.
    pub authority: String,
    shared: Arc<Shared>,
}

struct Shared {
    api: Reach,
    pods: Arc<Pods>,
    /// Method and path of each request that is no reading.
    writes: Mutex<Vec<String>>,
}

impl Proxy {
    /// Listens on the runtime that this is called on.
    pub async fn start(api: Reach, pods: Arc<Pods>) -> Self {
        let authority = Authority::new("bench");
        let serving = authority.server(&["127.0.0.1".to_owned()]);
        let certificate = CurrentCertificate::default();
        certificate.set_pem(serving.certificate.as_bytes(), serving.key.as_bytes()).unwrap();
        let listener = Listener::tls(([127, 0, 0, 1], 0).into(), Arc::new(certificate), Limits::default()).await.unwrap();
        let address = listener.address();
        let shared = Arc::new(Shared { api, pods, writes: Mutex::default() });
        let router = Router::new().fallback(answer).with_state(shared.clone());
        tokio::spawn(listener.serve(router, CancellationToken::new()));
        Self { address, authority: authority.pem(), shared }
    }

    /// What was written so far.
    pub fn writes(&self) -> Vec<String> {
        self.shared.writes.lock().clone()
    }

    /// Counts anew.
    pub fn forget_writes(&self) {
        self.shared.writes.lock().clear();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, Query(query): Query<HashMap<String, String>>, request: Request) -> Response<Body> {
    let reads = request.method() == Method::GET;
    if !reads {
        shared.writes.lock().push(format!("{} {}", request.method(), request.uri().path()));
    }
    if reads && request.uri().path() == "/api/v1/pods" {
        return pods(&shared.pods, &query);
    }
    pass_on(&shared.api, request).await.unwrap_or_else(|error| {
        let mut response = Response::new(Body::from(error.to_string()));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    })
}

fn pods(pods: &Arc<Pods>, query: &HashMap<String, String>) -> Response<Body> {
    let number = |name: &str| query.get(name).and_then(|text| text.parse().ok());
    let body = if query.get("watch").is_some_and(|watch| watch != "false" && watch != "0") {
        let end = Duration::from_secs(number("timeoutSeconds").unwrap_or(LONGEST_WATCH));
        let silence = stream::once(tokio::time::sleep(end)).map(|()| Ok::<_, std::convert::Infallible>(Bytes::new()));
        Body::from_stream(silence)
    } else {
        let from = number("continue").and_then(|from| usize::try_from(from).ok()).unwrap_or(0);
        let limit = number("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        Body::from(pods.page(from, limit))
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// As it came, and back as it comes: a watch's events one by one.
async fn pass_on(api: &Reach, request: Request) -> anyhow::Result<Response<Body>> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    for name in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION] {
        parts.headers.remove(name);
    }
    let body = to_bytes(body, MOST_BYTES).await?;
    let asked = api.http.request(parts.method, api.server.join(path)?).headers(parts.headers).body(body).send().await?;
    let mut response = Response::builder().status(asked.status());
    for (name, value) in asked.headers() {
        if !matches!(*name, header::TRANSFER_ENCODING | header::CONTENT_LENGTH | header::CONNECTION) {
            response = response.header(name, value);
        }
    }
    Ok(response.body(Body::from_stream(asked.bytes_stream()))?)
}
