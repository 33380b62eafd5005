//! An OCI registry with its token server that misbehaves on purpose.
//!
//! It listens on a loopback port, keeps what it is given, records every request, and does to the requests that a [`Fault`] names what the fault says. Whatever speaks
//! more than the distribution API (a stand-in ACR, say) is put before it with [`Builder::before`].

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{HeaderMap, Method, header},
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::{StreamExt as _, stream};
use lazaretto::{api::RegistrySpec, image::Digest, registry::Endpoint};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

use bodies::certificates;
pub use bodies::{error, errors, image, index, respond};

mod bodies;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub method: Method,
    /// As sent: a proxy sees whole URLs.
    pub uri: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Recorded {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    /// The user and password of `Authorization: Basic`.
    pub fn basic(&self) -> Option<(String, String)> {
        let text = BASE64_STANDARD.decode(self.authorization()?.strip_prefix("Basic ")?).unwrap();
        let (user, password) = std::str::from_utf8(&text).unwrap().split_once(':').unwrap();
        Some((user.to_owned(), password.to_owned()))
    }

    /// The same, where there may be a token instead.
    pub fn basic_if_any(&self) -> Option<(String, String)> {
        self.authorization().filter(|value| value.starts_with("Basic ")).and_then(|_| self.basic())
    }

    /// A form's or the query's values of one name.
    pub fn values(&self, name: &str) -> Vec<String> {
        let form = url::form_urlencoded::parse(&self.body).into_owned();
        self.query.iter().cloned().chain(form).filter(|(key, _)| key == name).map(|(_, value)| value).collect()
    }
}

/// What to do instead of, before or to the true answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Waits, then answers as ever.
    Delay(Duration),
    /// Takes the request and never answers.
    Hang,
    /// Sends the head of the true answer and the first byte of its body, and then nothing.
    HangInBody,
    /// Sends the head and half of the body, and closes the connection.
    BreakInBody,
    /// Another status, with headers and a body (none of it goes with a HEAD).
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The true answer with a header set, or removed when the value is empty.
    Header(&'static str, String),
    /// The true answer's head with other bytes.
    Body(Bytes),
    /// A success whose body never ends.
    EndlessBody,
    /// A body that a header announces to be larger than anybody would read.
    HugeLength,
}

/// A fault, for requests whose method is this (any when none) and whose path holds the text, so many times.
#[derive(Clone, Debug)]
struct Trap {
    method: Option<Method>,
    path: String,
    times: usize,
    fault: Fault,
}

/// How the registry wants to be shown who asks.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Not at all.
    #[default]
    Open,
    /// User and password with each request.
    Basic { user: String, password: String },
    /// A token, for anybody or for the users listed.
    Bearer(TokenServer),
}

/// What the token server does.
#[derive(Clone, Debug)]
pub struct TokenServer {
    /// The realm of the challenge; its own `/token` when none.
    pub realm: Option<String>,
    /// Users and passwords; without any, everybody gets a token.
    pub users: HashMap<String, String>,
    /// A refresh token that is taken by POST.
    pub refresh_token: Option<String>,
    /// Whether POST is known at all.
    pub knows_post: bool,
    /// Whether tokens carry the right that was asked for.
    pub grants: bool,
    /// `expires_in` of the answer.
    pub expires_in: Option<u64>,
    /// The scope of the challenge when it is not the true one.
    pub challenged_scope: Option<String>,
    /// The challenge for one who shows a bad token is `Basic`, as with Harbor.
    pub basic_for_bad_tokens: bool,
}

impl Default for TokenServer {
    fn default() -> Self {
        Self {
            realm: None,
            users: HashMap::new(),
            refresh_token: None,
            knows_post: true,
            grants: true,
            expires_in: Some(300),
            challenged_scope: None,
            basic_for_bad_tokens: false,
        }
    }
}

impl TokenServer {
    pub fn for_user(user: &str, password: &str) -> Self {
        Self { users: HashMap::from([(user.to_owned(), password.to_owned())]), ..Self::default() }
    }
}

type Before = Arc<dyn Fn(&Recorded) -> Option<Response> + Send + Sync>;

#[derive(Default)]
struct State {
    /// Manifests by repository and digest: media type and bytes.
    manifests: BTreeMap<(String, String), (String, Bytes)>,
    tags: BTreeMap<(String, String), String>,
    access: Access,
    /// Tokens handed out and their scopes.
    tokens: HashMap<String, Vec<String>>,
    traps: Vec<Trap>,
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
        let state = Arc::new(Mutex::new(State { access: self.access, ..State::default() }));
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
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let mut state = self.state.lock();
        state.manifests.insert((repository.to_owned(), digest.to_string()), (media_type.to_owned(), bytes));
        if let Some(tag) = tag {
            state.tags.insert((repository.to_owned(), tag.to_owned()), digest.to_string());
        }
        digest
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
        self.state.lock().tags.insert((repository.to_owned(), tag.to_owned()), digest.to_string());
    }

    /// From now on, every request whose path holds the text.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.fault_times(None, path, usize::MAX, fault);
    }

    /// The next so many requests of a method whose path holds the text. Faults that came later go first.
    pub fn fault_times(&self, method: Option<Method>, path: &str, times: usize, fault: Fault) {
        self.state.lock().traps.insert(0, Trap { method, path: path.to_owned(), times, fault });
    }

    pub fn clear_faults(&self) {
        self.state.lock().traps.clear();
    }

    pub fn set_access(&self, access: Access) {
        self.state.lock().access = access;
    }

    /// Makes every token that was handed out worthless.
    pub fn revoke_tokens(&self) {
        self.state.lock().tokens.clear();
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
    let (parts, body) = request.into_parts();
    let request = Recorded {
        method: parts.method,
        uri: parts.uri.to_string(),
        path: parts.uri.path().to_owned(),
        query: url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect(),
        headers: parts.headers,
        body: to_bytes(body, 1 << 20).await.unwrap(),
    };
    let fault = {
        let mut state = state.lock();
        state.requests.push(request.clone());
        let trap = state.traps.iter_mut().find(|trap| {
            trap.times > 0 && trap.method.as_ref().is_none_or(|method| *method == request.method) && request.path.contains(&trap.path)
        });
        trap.map(|trap| {
            trap.times -= 1;
            trap.fault.clone()
        })
    };
    let truth = || before.as_ref().and_then(|before| before(&request)).unwrap_or_else(|| state.lock().answer(&request, &own));
    match fault {
        None => truth(),
        Some(Fault::Delay(time)) => {
            tokio::time::sleep(time).await;
            truth()
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Answer(status, headers, body)) => {
            respond(status, &headers, if request.method == Method::HEAD { String::new() } else { body })
        }
        Some(Fault::Header(name, value)) => {
            let mut response = truth();
            response.headers_mut().remove(name);
            if !value.is_empty() {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Some(Fault::Body(bytes)) => {
            let mut response = truth();
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.body_mut() = Body::from(bytes);
            response
        }
        Some(Fault::HangInBody) => {
            let first = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"{")) });
            streamed(truth(), Body::from_stream(first.chain(stream::pending())))
        }
        Some(Fault::BreakInBody) => {
            let broken = [Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("broken on purpose"))];
            streamed(truth(), Body::from_stream(stream::iter(broken)))
        }
        Some(Fault::EndlessBody) => {
            let endless = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b' '; 16 << 10])));
            streamed(truth(), Body::from_stream(endless))
        }
        Some(Fault::HugeLength) => {
            let mut response = streamed(truth(), Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()));
            response.headers_mut().insert(header::CONTENT_LENGTH, (1_u64 << 40).to_string().parse().unwrap());
            response
        }
    }
}

fn streamed(mut response: Response, body: Body) -> Response {
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = body;
    response
}

impl State {
    fn answer(&mut self, request: &Recorded, own: &str) -> Response {
        if request.path == "/token" {
            return self.token(request);
        }
        let manifest = request.path.strip_prefix("/v2/").and_then(|rest| rest.split_once("/manifests/"));
        if let Some(refusal) = self.refusal(request, manifest.map(|(repository, _)| repository), own) {
            return refusal;
        }
        match manifest {
            _ if request.path == "/v2/" => respond(200, &[], "{}"),
            Some((repository, reference)) => self.manifest(request, repository, reference),
            None => error(404, "NOT_FOUND", "no such page"),
        }
    }

    fn manifest(&self, request: &Recorded, repository: &str, reference: &str) -> Response {
        if ["oci.image.index.v1", "oci.image.manifest.v1", "manifest.list.v2", "distribution.manifest.v2"]
            .iter()
            .any(|kind| !request.header("accept").unwrap_or_default().contains(kind))
        {
            return respond(
                200,
                &[("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws".into())],
                r#"{"schemaVersion":1,"fsLayers":[]}"#,
            );
        }
        let digest = self.tags.get(&(repository.to_owned(), reference.to_owned())).map_or(reference, String::as_str);
        let Some((media_type, bytes)) = self.manifests.get(&(repository.to_owned(), digest.to_owned())) else {
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        respond(200, &[("content-type", media_type.clone()), ("docker-content-digest", digest.to_owned())], bytes.clone())
    }

    /// 401 with its challenge, unless the request shows what is wanted.
    fn refusal(&self, request: &Recorded, repository: Option<&str>, own: &str) -> Option<Response> {
        let needed = repository.map(|repository| format!("repository:{repository}:pull"));
        let challenge = match &self.access {
            Access::Open => return None,
            Access::Basic { user, password } => {
                if request.basic() == Some((user.clone(), password.clone())) {
                    return None;
                }
                "Basic realm=\"Registry Realm\"".to_owned()
            }
            Access::Bearer(server) => {
                let shown = request.authorization().and_then(|value| value.strip_prefix("Bearer "));
                let scopes = shown.and_then(|token| self.tokens.get(token));
                if scopes.is_some_and(|scopes| needed.as_ref().is_none_or(|needed| scopes.contains(needed))) {
                    return None;
                }
                if request.authorization().is_some() && scopes.is_none() && server.basic_for_bad_tokens {
                    "Basic realm=\"harbor\"".to_owned()
                } else {
                    let realm = server.realm.clone().unwrap_or_else(|| format!("{own}/token"));
                    let scope = server.challenged_scope.clone().or(needed).map_or_else(String::new, |scope| format!(",scope=\"{scope}\""));
                    format!("Bearer realm=\"{realm}\",service=\"fake\"{scope}")
                }
            }
        };
        let headers = [("www-authenticate", challenge), ("content-type", "application/json".to_owned())];
        Some(respond(401, &headers, errors("UNAUTHORIZED", "authentication required")))
    }

    fn token(&mut self, request: &Recorded) -> Response {
        let Access::Bearer(server) = &self.access else { return error(404, "NOT_FOUND", "no token server") };
        let scopes: Vec<String> = request.values("scope").iter().flat_map(|scope| scope.split(' ')).map(str::to_owned).collect();
        let known = if request.method == Method::POST {
            if !server.knows_post {
                return error(405, "UNSUPPORTED", "only GET");
            }
            server.refresh_token.is_some()
                && request.values("refresh_token").first() == server.refresh_token.as_ref()
                && !request.values("client_id").is_empty()
        } else {
            let shown = request.basic();
            let as_password = shown.as_ref().is_some_and(|(_, password)| Some(password) == server.refresh_token.as_ref());
            (server.users.is_empty() && server.refresh_token.is_none())
                || as_password
                || shown.is_some_and(|(user, password)| server.users.get(&user) == Some(&password))
        };
        if !known || request.values("service") != ["fake"] {
            return respond(if request.method == Method::POST { 400 } else { 401 }, &[], errors("UNAUTHORIZED", "bad credentials"));
        }
        let token = format!("token-{}", self.tokens.len() + self.requests.len());
        let mut body = json!({"token": token, "access_token": token});
        if let Some(seconds) = server.expires_in {
            body["expires_in"] = seconds.into();
        }
        let granted = if server.grants { scopes } else { Vec::new() };
        self.tokens.insert(token, granted);
        respond(200, &[("content-type", "application/json".to_owned())], body.to_string())
    }
}
