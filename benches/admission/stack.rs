//! What serves: the program's gate behind its own listener, as often as wanted, and the echo server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response as HttpResponse},
    routing::post,
};
use k8s_openapi::api::core::v1::{Pod, Secret};
use lazaretto::{
    audit::Desk,
    gate::Gate,
    lookups::{Lives, Lookups},
    metrics::Metrics,
    registry::{ClientOptions, RegistryClient},
    review::{self, Response, Review},
    tls::{CurrentCertificate, Limits, Listener},
    wallet::Wallet,
    watch::SharedIndex,
    webhook,
    writer::Writer,
};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use tokio::{runtime::Runtime, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::world;

/// The name of the threads that serve.
pub const SERVER_THREAD: &str = "server";

/// Where a server is, and how it is believed.
#[derive(Clone)]
pub struct Target {
    /// Its address.
    pub address: SocketAddr,
    /// The name in its certificate.
    pub name: String,
    /// Trusts its certificate.
    pub trust: Arc<ClientConfig>,
}

/// What all servers show.
#[derive(Clone)]
pub struct Identity {
    certificate: Arc<CurrentCertificate>,
    trust: Arc<ClientConfig>,
}

impl Identity {
    /// Signed by itself, for `localhost`.
    pub fn new() -> Self {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = CurrentCertificate::default();
        certificate.set_pem(issued.cert.pem().as_bytes(), issued.signing_key.serialize_pem().as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone()).unwrap();
        let trust = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { certificate: Arc::new(certificate), trust: Arc::new(trust) }
    }

    /// Serves on a port of its own, on the runtime that this is called on.
    pub async fn serve(&self, router: Router) -> Target {
        let listener = Listener::tls(([127, 0, 0, 1], 0).into(), self.certificate.clone(), Limits::default()).await.unwrap();
        let address = listener.address();
        tokio::spawn(listener.serve(router, CancellationToken::new()));
        Target { address, name: "localhost".to_owned(), trust: self.trust.clone() }
    }
}

/// Threads of one name that run what is spawned here; what still runs when this is dropped is left behind.
pub struct Threads(Option<Runtime>);

impl Threads {
    /// So many.
    pub fn new(name: &str, count: usize) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Self(Some(builder.worker_threads(count).thread_name(name).enable_all().build().expect("a runtime")))
    }

    /// Runs something on them, and waits for its end.
    pub async fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        self.0.as_ref().expect("a runtime until it is dropped").spawn(task).await.expect("the end of a task")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// One replica, but for its watches.
pub struct Replica {
    /// Where it answers.
    pub target: Target,
    /// What judges.
    pub gate: Arc<Gate>,
    /// What asks.
    pub lookups: Arc<Lookups>,
}

impl Replica {
    /// Serves on the runtime that this is called on. Without a writer nothing is written down.
    pub async fn start(identity: &Identity, index: &SharedIndex, writer: Option<Writer>, lives: Lives) -> Self {
        let (metrics, _) = Metrics::new();
        let lookups = Arc::new(lookups(index, writer, &metrics, lives));
        let client = kube::Client::new(tower::service_fn(secret), "lazaretto-system");
        let (audit, writing) = Desk::new();
        tokio::spawn(writing);
        let gate = Arc::new(Gate {
            index: index.clone(),
            lookups: lookups.clone(),
            wallet: Arc::new(Wallet::new(client, "lazaretto-system", false)),
            client: None,
            excluded: ["kube-system", "lazaretto-system"].map(str::to_owned).into(),
            audit,
            metrics,
        });
        Self { target: identity.serve(webhook::router(gate.clone())).await, gate, lookups }
    }
}

/// Look-ups over an index.
pub fn lookups(index: &SharedIndex, writer: Option<Writer>, metrics: &Metrics, lives: Lives) -> Lookups {
    let registries = Arc::new(RegistryClient::new(ClientOptions::default()).expect("a registry client"));
    Lookups::new(registries, index.clone(), writer, metrics.clone(), lives)
}

/// The API server, as far as a wallet asks it: the Secret with the Registries' credentials.
async fn secret(_: http::Request<kube::client::Body>) -> Result<http::Response<kube::client::Body>, std::convert::Infallible> {
    let secret: Secret = serde_json::from_value(world::secret()).unwrap();
    Ok(http::Response::new(serde_json::to_vec(&secret).unwrap().into()))
}

/// Reads with the types of the Kubernetes API, as webhooks on this stack do, and says yes.
pub fn echo() -> Router {
    Router::new().route("/validate/enforce", post(async |body: Bytes| typed(&body)))
}

/// The same, to all who ask within that time of the first at once: as if they waited for one and the same thing.
pub fn echo_at_once(wait: Duration) -> Router {
    let moment = Arc::new(Mutex::new(Instant::now()));
    let answer = async move |body: Bytes| {
        let answer = typed(&body);
        let then = {
            let (now, mut moment) = (Instant::now(), moment.lock());
            if *moment <= now {
                *moment = now + wait;
            }
            *moment
        };
        tokio::time::sleep_until(then).await;
        answer
    };
    Router::new().route("/validate/enforce", post(answer))
}

fn typed(body: &[u8]) -> HttpResponse {
    let Ok(review) = serde_json::from_slice::<Review<'_, Pod>>(body) else { return StatusCode::BAD_REQUEST.into_response() };
    let Some(request) = review.request else { return StatusCode::BAD_REQUEST.into_response() };
    if request.object.is_none_or(|pod| pod.spec.is_none_or(|spec| spec.containers.is_empty())) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    ([(CONTENT_TYPE, "application/json")], Response::allow(request.uid).into_json()).into_response()
}

/// Reads with the program's own reader and says yes.
pub fn lean_echo() -> Router {
    async fn answer(body: Bytes) -> HttpResponse {
        let Ok(request) = review::read_pods(&body) else { return StatusCode::BAD_REQUEST.into_response() };
        if !matches!(&request.object, Some(Ok(pod)) if pod.images().next().is_some()) {
            return StatusCode::BAD_REQUEST.into_response();
        }
        ([(CONTENT_TYPE, "application/json")], Response::allow(request.uid).into_json()).into_response()
    }
    Router::new().route("/validate/enforce", post(answer))
}
