//! An OCI registry with its token server that misbehaves on purpose.
//!
//! It listens on a loopback port, keeps what it is given, records every request, and does to the requests that a [`Fault`] names what the fault says. Whatever speaks
//! more than the distribution API (a stand-in ACR, say) is put before it with [`Builder::before`].

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, body::Bytes, extract::Request, http::Method, response::Response};
use lazaretto::{api::RegistrySpec, image::Digest, registry::Endpoint};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinHandle};

#[path = "registry/access.rs"]
mod access;
#[path = "registry/asked.rs"]
mod asked;
#[path = "registry/bodies.rs"]
mod bodies;
#[path = "registry/faults.rs"]
mod faults;
#[path = "registry/shelf.rs"]
mod shelf;

use self::{access::Door, bodies::certificates, faults::Traps, shelf::Shelf};
pub use self::{
    access::{Access, TokenServer},
    asked::Recorded,
    bodies::{error, errors, image, index, respond},
    faults::Fault,
};

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

type Before = Arc<dyn Fn(&Recorded) -> Option<Response> + Send + Sync>;

#[derive(Default)]
struct State {
    shelf: Shelf,
    door: Door,
    traps: Traps,
    requests: Vec<Recorded>,
}

/// The registry. It stops when it is dropped.
pub struct FakeRegistry {
    address: SocketAddr,
    scheme: &'static str,
    authority: Option<String>,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What a registry begins with.
#[derive(Default)]
pub struct Builder {
    access: Access,
    tls: bool,
    before: Option<Before>,
}

impl Builder {
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// A bearer token for everybody.
    #[must_use]
    pub fn tokens(self, server: TokenServer) -> Self {
        self.access(Access::Bearer(server))
    }

    /// TLS under an authority of its own, for `localhost` and 127.0.0.1.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// What answers first: none leaves the request to the registry. The request is recorded all the same, and faults come before it.
    #[must_use]
    pub fn before(mut self, before: impl Fn(&Recorded) -> Option<Response> + Send + Sync + 'static) -> Self {
        self.before = Some(Arc::new(before));
        self
    }

    pub async fn start(self) -> FakeRegistry {
        let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { door: Door::new(self.access), ..State::default() }));
        let scheme = if self.tls { "https" } else { "http" };
        let own = format!("{scheme}://{address}");
        let (shared, before) = (Arc::clone(&state), self.before);
        let router = Router::new().fallback(move |request: Request| answer(Arc::clone(&shared), before.clone(), own.clone(), request));
        let (server, authority) = if self.tls {
            let (authority, config) = certificates();
            let server =
                axum_server::from_tcp_rustls(listener.into_std().unwrap(), axum_server::tls_rustls::RustlsConfig::from_config(config))
                    .unwrap();
            (tokio::spawn(async move { server.serve(router.into_make_service()).await.unwrap() }), Some(authority))
        } else {
            (tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }), None)
        };
        FakeRegistry { address, scheme, authority, state, server }
    }
}

impl FakeRegistry {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// An open registry.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The PEM of the authority that signed its certificate.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// As a Registry object would name it.
    pub fn spec(&self) -> RegistrySpec {
        RegistrySpec {
            hosts: vec![self.host()],
            plain_http: self.authority.is_none(),
            ca_bundle: self.authority.clone(),
            ..RegistrySpec::default()
        }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::listed(&self.host(), &self.spec()).unwrap()
    }

    /// Keeps a manifest or index, and returns its digest.
    pub fn push(&self, repository: &str, tag: Option<&str>, media_type: &str, bytes: impl Into<Bytes>) -> Digest {
        self.state.lock().shelf.push(repository, tag, media_type, bytes.into())
    }

    /// Pushes an image of its own: what is in it follows from `seed`.
    pub fn push_image(&self, repository: &str, tag: &str, seed: &str) -> Digest {
        self.push(repository, Some(tag), OCI_MANIFEST, image(seed))
    }

    /// Pushes an index of digests with their platforms.
    pub fn push_index(&self, repository: &str, tag: Option<&str>, entries: &[(&Digest, &str, &str)]) -> Digest {
        self.push(repository, tag, OCI_INDEX, index(entries))
    }

    /// Moves a tag.
    pub fn tag(&self, repository: &str, tag: &str, digest: &Digest) {
        self.state.lock().shelf.tag(repository, tag, digest);
    }

    /// From now on, every request whose path holds the text.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.fault_times(None, path, usize::MAX, fault);
    }

    /// The next so many requests of a method whose path holds the text. Faults that came later go first.
    pub fn fault_times(&self, method: Option<Method>, path: &str, times: usize, fault: Fault) {
        self.state.lock().traps.set(method, path, times, fault);
    }

    pub fn clear_faults(&self) {
        self.state.lock().traps.clear();
    }

    pub fn set_access(&self, access: Access) {
        self.state.lock().door.access = access;
    }

    /// Makes every token that was handed out worthless.
    pub fn revoke_tokens(&self) {
        self.state.lock().door.tokens.clear();
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.state.lock().requests.clone()
    }

    pub fn forget_requests(&self) {
        self.state.lock().requests.clear();
    }

    /// `HEAD /v2/…` of each request, in order.
    pub fn log(&self) -> Vec<String> {
        self.requests().iter().map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    /// How many requests there were whose path holds the text.
    pub fn count(&self, path: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(path)).count()
    }
}

async fn answer(state: Arc<Mutex<State>>, before: Option<Before>, own: String, request: Request) -> Response {
    let request = Recorded::read(request).await;
    let fault = {
        let mut state = state.lock();
        state.requests.push(request.clone());
        state.traps.spring(&request)
    };
    let truth = || before.as_ref().and_then(|before| before(&request)).unwrap_or_else(|| state.lock().answer(&request, &own));
    match fault {
        None => truth(),
        Some(fault) => fault.answer(&request, truth).await,
    }
}

impl State {
    fn answer(&mut self, request: &Recorded, own: &str) -> Response {
        if request.path == "/token" {
            return self.door.token(request);
        }
        let manifest = request.manifest();
        if let Some(refusal) = self.door.refusal(request, manifest.map(|(repository, _)| repository), own) {
            return refusal;
        }
        match manifest {
            _ if request.path == "/v2/" => respond(200, &[], "{}"),
            Some((repository, reference)) => self.shelf.manifest(request, repository, reference),
            None => error(404, "NOT_FOUND", "no such page"),
        }
    }
}
