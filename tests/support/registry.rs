//! An OCI registry with its token server that misbehaves on purpose.
//!
//! It listens on a loopback port, keeps what it is given, records every request, and does to the requests that a [`Fault`] names what the fault says. A [`Quirk`] is a whole
//! way to misbehave, as a product does; `cargo run --example misbehave -- --help` lists them, and serves one of them by hand. Whatever speaks more than the distribution API (a stand-in ACR, say) is put before it with [`Builder::before`].

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, body::Bytes, extract::Request, http::Method, response::Response};
use axum_server::{
    accept::NoDelayAcceptor,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use lazaretto::{api::RegistrySpec, image::Digest, registry::Endpoint};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

#[path = "registry/access.rs"]
mod access;
#[path = "registry/asked.rs"]
mod asked;
#[path = "registry/bodies.rs"]
mod bodies;
#[path = "registry/faults.rs"]
mod faults;
#[path = "registry/quirks.rs"]
pub mod quirks;
#[path = "registry/shelf.rs"]
mod shelf;

use self::{access::Door, bodies::certificates, faults::Traps, quirks::Quirks, shelf::Shelf};
pub use self::{
    access::{Access, TokenServer},
    asked::Recorded,
    bodies::{error, errors, image, index, respond},
    faults::Fault,
    quirks::{Place, Quirk},
};

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

type Before = Arc<dyn Fn(&Recorded) -> Option<Response> + Send + Sync>;
type Listener = Arc<dyn Fn(&Recorded, Option<Quirk>) + Send + Sync>;

#[derive(Default)]
struct State {
    shelf: Shelf,
    door: Door,
    traps: Traps,
    quirks: Quirks,
    requests: Vec<Recorded>,
}

/// The registry. It stops when it is dropped.
pub struct FakeRegistry {
    address: SocketAddr,
    scheme: &'static str,
    authority: Option<String>,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
    /// Bound and not listening, once it is closed: so nobody else gets the port, who would answer in its stead.
    closed: Option<TcpSocket>,
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
    streams: Option<u32>,
    port: u16,
    before: Option<Before>,
    told: Option<Listener>,
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

    /// With TLS: so many requests at once on one HTTP/2 connection.
    #[must_use]
    pub fn streams(mut self, streams: u32) -> Self {
        self.streams = Some(streams);
        self
    }

    /// A port of one's own choice; any that is free otherwise.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Who is told of each request, and of the quirk that it meets.
    #[must_use]
    pub fn tell(mut self, told: impl Fn(&Recorded, Option<Quirk>) + Send + Sync + 'static) -> Self {
        self.told = Some(Arc::new(told));
        self
    }

    /// # Errors
    /// When the port cannot be had.
    pub async fn open(self) -> std::io::Result<FakeRegistry> {
        let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await?;
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { door: Door::new(self.access), ..State::default() }));
        let scheme = if self.tls { "https" } else { "http" };
        let own = format!("{scheme}://{address}");
        let desk = Arc::new(Desk { state: Arc::clone(&state), before: self.before, told: self.told, own });
        let router = Router::new().fallback(move |request: Request| answer(Arc::clone(&desk), request));
        let (server, authority) = if self.tls {
            let (authority, config) = certificates();
            // Held back by Nagle, an answer comes late by a clock that nobody can pause.
            let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(config)).acceptor(NoDelayAcceptor::new());
            let mut server = axum_server::from_tcp(listener.into_std().unwrap()).unwrap().acceptor(acceptor);
            server.http_builder().http2().max_concurrent_streams(self.streams);
            (tokio::spawn(async move { server.serve(router.into_make_service()).await.unwrap() }), Some(authority))
        } else {
            (tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }), None)
        };
        Ok(FakeRegistry { address, scheme, authority, state, server, closed: None })
    }

    pub async fn start(self) -> FakeRegistry {
        self.open().await.unwrap()
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

    /// Nobody is there any more, and connections are refused.
    pub async fn close(&mut self) {
        self.server.abort();
        let _cancelled = (&mut self.server).await;
        let held = TcpSocket::new_v4().unwrap();
        // Where connections still linger it cannot be held; where nobody ever came, as in most tests, it can.
        self.closed = held.bind(self.address).is_ok().then_some(held);
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

    /// Keeps a blob, and returns its digest.
    pub fn push_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        self.state.lock().shelf.push_blob(repository, bytes.into())
    }

    /// Keeps an artifact of layers with their media types and annotations, under a tag if one is given. Returns its digest.
    pub fn push_artifact(&self, repository: &str, tag: Option<&str>, kind: &str, layers: &[(&str, Bytes, Value)]) -> Digest {
        let layers: Vec<Value> = layers
            .iter()
            .map(|(media_type, bytes, annotations)| {
                let digest = self.push_blob(repository, bytes.clone());
                json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len(), "annotations": annotations })
            })
            .collect();
        let empty = Digest::of(b"{}").to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2 }, "layers": layers,
        });
        self.push(repository, tag, OCI_MANIFEST, manifest.to_string())
    }

    /// Lists something as a referrer of a digest.
    pub fn refer(&self, repository: &str, subject: &Digest, referrer: &Digest, kind: &str) {
        let entry = json!({ "mediaType": OCI_MANIFEST, "digest": referrer.to_string(), "size": 1, "artifactType": kind });
        self.state.lock().shelf.refer(repository, subject, entry);
    }

    /// Attaches a Sigstore bundle to a digest.
    pub fn attach(&self, repository: &str, subject: &Digest, bundle: impl Into<Bytes>) -> Digest {
        let artifact = self.push_artifact(repository, None, BUNDLE, &[(BUNDLE, bundle.into(), json!({}))]);
        self.refer(repository, subject, &artifact, BUNDLE);
        artifact
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

    /// From now on, about everything, a repository, a tag or a digest: see [`Place`]. Quirks that came later go first; faults go before quirks.
    pub fn quirk(&self, place: impl Into<Place>, quirk: Quirk) {
        self.state.lock().quirks.set(place.into(), quirk);
    }

    pub fn clear_quirks(&self) {
        self.state.lock().quirks.clear();
    }

    pub fn access(&self) -> Access {
        self.state.lock().door.access.clone()
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

/// Where requests are answered.
struct Desk {
    state: Arc<Mutex<State>>,
    before: Option<Before>,
    told: Option<Listener>,
    own: String,
}

async fn answer(desk: Arc<Desk>, request: Request) -> Response {
    let request = Recorded::read(request).await;
    let (fault, planned) = {
        let mut state = desk.state.lock();
        state.requests.push(request.clone());
        let State { traps, quirks, shelf, .. } = &mut *state;
        let fault = traps.spring(&request);
        let planned = if fault.is_none() { quirks.plan(&request, shelf) } else { None };
        (fault, planned)
    };
    if let Some(told) = &desk.told {
        told(&request, planned.as_ref().map(|(quirk, _)| *quirk));
    }
    let fault = match planned {
        Some((_, plan)) => {
            // Even no time at all takes a tick of the clock.
            if !plan.wait.is_zero() {
                tokio::time::sleep(plan.wait).await;
            }
            plan.fault
        }
        None => fault,
    };
    let before = || desk.before.as_ref().and_then(|before| before(&request));
    let truth = || before().unwrap_or_else(|| desk.state.lock().answer(&request, &desk.own));
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
            None => {
                let path = request.path.strip_prefix("/v2/").unwrap_or_default();
                if let Some((repository, digest)) = path.split_once("/blobs/") {
                    self.shelf.blob(repository, digest)
                } else if let Some((repository, digest)) = path.split_once("/referrers/") {
                    self.shelf.referrers(repository, digest)
                } else if let Some(repository) = path.strip_suffix("/tags/list") {
                    self.shelf.tags(repository)
                } else {
                    error(404, "NOT_FOUND", "no such page")
                }
            }
        }
    }
}
