//! The two servers, on one runtime of one thread, and the registry that has the tags.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response as HttpResponse},
    routing::{get, post},
};
use k8s_openapi::api::core::v1::Secret;
use lazaretto::{
    gate::Gate,
    lookups::{Lives, Lookups},
    metrics::Metrics,
    pod,
    registry::{ClientOptions, RegistryClient},
    review::{self, Response},
    tls::{CurrentCertificate, Limits, Listener},
    wallet::Wallet,
    webhook,
};
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::{
    load::{Connections, Protocol},
    world::{self, World},
};

/// The name of the thread that serves.
pub const SERVER_THREAD: &str = "server";

/// Where a server is, and how it is believed.
pub struct Target {
    /// Its address.
    pub address: SocketAddr,
    /// Trusts its certificate.
    pub trust: Arc<ClientConfig>,
}

/// Everything that serves.
pub struct Stack {
    /// The program.
    pub warm: Target,
    /// What only reads and answers.
    pub echo: Target,
    /// The program's, for the parts without HTTP.
    pub gate: Arc<Gate>,
    questions: Arc<AtomicUsize>,
    _runtimes: [Runtime; 2],
}

impl Stack {
    /// Starts it.
    pub fn start(world: &World) -> Self {
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = |name: &str| {
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build().expect("a runtime")
        };
        let (serving, registry) = (runtime(SERVER_THREAD), runtime("registry"));
        let questions = Arc::new(AtomicUsize::new(0));
        let endpoint = registry.block_on(serve_registry(questions.clone()));
        world.name_registries(endpoint);

        let (certificate, trust) = certificate();
        let gate = serving.block_on(async { Arc::new(gate(world)) });
        let [warm, echo] = [webhook::router(gate.clone()), echo()].map(|router| {
            let address = serving.block_on(async {
                let listener = Listener::tls(([127, 0, 0, 1], 0).into(), certificate.clone(), Limits::default()).await.unwrap();
                let address = listener.address();
                tokio::spawn(listener.serve(router, CancellationToken::new()));
                address
            });
            Target { address, trust: trust.clone() }
        });
        Self { warm, echo, gate, questions, _runtimes: [serving, registry] }
    }

    /// Asks for each review, and reads the answers whole: the program's second one must rest on known facts.
    pub async fn warm_up(&self, world: &World) {
        let warm = Connections::open(&self.warm, Protocol::Http1, 1).await;
        let echo = Connections::open(&self.echo, Protocol::Http1, 1).await;
        for body in &world.reviews {
            let uid = review::read(body).unwrap().uid;
            warm.ask(body.clone()).await;
            for (connection, basis) in [(&warm, Some("KnownFacts")), (&echo, None)] {
                let answer: serde_json::Value = serde_json::from_slice(&connection.ask(body.clone()).await).unwrap();
                let response = &answer["response"];
                assert_eq!(response["uid"].as_str(), Some(uid.as_ref()), "{answer}");
                assert_eq!(response["allowed"], true, "{answer}");
                assert_eq!(response["auditAnnotations"]["basis"].as_str(), basis, "{answer}");
            }
        }
    }

    /// What the registry was asked so far.
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }
}

/// Reads with the program's own readers and says yes.
fn echo() -> Router {
    async fn answer(body: Bytes) -> HttpResponse {
        let Ok(request) = review::read(&body) else { return StatusCode::BAD_REQUEST.into_response() };
        let pod = request.object.map(|object| pod::read(object.get()));
        if !matches!(&pod, Some(Ok(pod)) if pod.images().next().is_some()) {
            return StatusCode::BAD_REQUEST.into_response();
        }
        ([(CONTENT_TYPE, "application/json")], Response::allow(request.uid).into_json()).into_response()
    }
    Router::new().route("/validate/enforce", post(answer))
}

fn gate(world: &World) -> Gate {
    let (metrics, _) = Metrics::new();
    let client = kube::Client::new(tower::service_fn(secret), "lazaretto-system");
    let registries = Arc::new(RegistryClient::new(ClientOptions::default()).expect("a registry client"));
    // Longer than a bench takes: what a tag's next look-up costs is no part of the warm path.
    let lives = Lives { tag: std::time::Duration::from_secs(3_600), ..Lives::default() };
    let lookups = Lookups::new(registries, world.index.clone(), None, metrics.clone(), lives);
    Gate {
        index: world.index.clone(),
        lookups: Arc::new(lookups),
        wallet: Arc::new(Wallet::new(client, "lazaretto-system", false)),
        client: None,
        excluded: ["kube-system", "lazaretto-system"].map(str::to_owned).into(),
        metrics,
    }
}

/// The API server, as far as a wallet asks it: the Secret with the Registries' credentials.
async fn secret(_: http::Request<kube::client::Body>) -> Result<http::Response<kube::client::Body>, std::convert::Infallible> {
    let secret: Secret = serde_json::from_value(world::secret()).unwrap();
    Ok(http::Response::new(serde_json::to_vec(&secret).unwrap().into()))
}

/// A registry that has every tag: plain HTTP, as the Registry objects say.
async fn serve_registry(questions: Arc<AtomicUsize>) -> SocketAddr {
    async fn manifest(State(questions): State<Arc<AtomicUsize>>, Path(path): Path<String>) -> HttpResponse {
        questions.fetch_add(1, Ordering::Relaxed);
        let repository = path.split("/manifests/").next().unwrap_or_default();
        let mut headers = HeaderMap::new();
        headers.insert("docker-content-digest", world::digest_of(repository).to_string().parse().unwrap());
        headers.into_response()
    }
    let router = Router::new().route("/v2/{*path}", get(manifest)).with_state(questions);
    let listener = Listener::plain(([127, 0, 0, 1], 0).into(), Limits::default()).await.unwrap();
    let address = listener.address();
    tokio::spawn(listener.serve(router, CancellationToken::new()));
    address
}

fn certificate() -> (Arc<CurrentCertificate>, Arc<ClientConfig>) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let current = CurrentCertificate::default();
    current.set_pem(issued.cert.pem().as_bytes(), issued.signing_key.serialize_pem().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let trust = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(current), Arc::new(trust))
}
