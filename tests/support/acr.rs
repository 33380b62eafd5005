//! A stand-in for Azure Container Registry with its quarantine, on loopback.
//!
//! It answers as the ACR team's quarantine documents, the data-plane API and recorded exchanges say. Where these are silent there is a
//! [`Switch`](Switches), so that what is built on it can be tested in every position. It speaks HTTP as clients expect it (pushes by
//! `crane` included) and is also told what to do by the methods of [`StandIn`].
//!
//! ```text
//! push --> stored, unjudged; the tag waits --PATCH Passed--> the tag names it, event `push`
//!          event `quarantine`              --PATCH Failed--> blocked; the tag stays where it was
//! ```
#![allow(dead_code, unused_imports, reason = "included by two test trees; neither uses all of it")]

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum_server::Handle;
use bytes::Bytes;
use parking_lot::Mutex;

#[path = "acr/answers.rs"]
mod answers;
#[path = "acr/attributes.rs"]
mod attributes;
#[path = "acr/distribution.rs"]
mod distribution;
#[path = "acr/faults.rs"]
mod faults;
#[path = "acr/routes.rs"]
mod routes;
#[path = "acr/shelf.rs"]
mod shelf;
#[path = "acr/tokens.rs"]
mod tokens;

use self::{faults::Faults, shelf::Shelf, tokens::Mint};
pub use self::{
    faults::{Area, Fault},
    shelf::{Event, Judgement, digest_of},
};

/// May pull what is released: AcrPull.
pub const PULLER: (&str, &str) = ("puller", "p:ull");
/// May push and pull what is released: AcrPush.
pub const PUSHER: (&str, &str) = ("pusher", "pu:sh");
/// May pull what is in quarantine, by digest: AcrPull and AcrQuarantineReader. What Lazaretto polls with.
pub const READER: (&str, &str) = ("reader", "re:ad");
/// May release: AcrPush and AcrQuarantineWriter. What Lazaretto carries decisions out with.
pub const WRITER: (&str, &str) = ("writer", "wri:te");
/// May do nothing: AcrQuarantineReader alone, which is not enough to pull.
pub const ONLOOKER: (&str, &str) = ("onlooker", "lo:ok");

/// The last so many requests and events are kept.
const MOST_KEPT: usize = 10_000;

/// A built-in role of Azure, over the whole registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// AcrPull.
    Pull,
    /// AcrPush: pull and push.
    Push,
    /// AcrQuarantineReader.
    QuarantineReader,
    /// AcrQuarantineWriter.
    QuarantineWriter,
}

/// What an identity without a quarantine role gets for the attributes of an image in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unentitled {
    /// 200.
    Shown,
    /// 403 `DENIED`.
    Denied,
    /// 403 `IMAGE_QUARANTINED`.
    Quarantined,
    /// 404 `MANIFEST_UNKNOWN`.
    Missing,
}

/// What nobody could read up, and what a registry's owner sets.
#[derive(Clone, Debug)]
pub struct Switches {
    /// The quarantine policy: off by default at Azure, on here.
    pub policy: bool,
    /// The `quarantineState` of an image that nobody has judged: a word, or the field is missing.
    pub unjudged: Option<&'static str>,
    /// Judged states are written in lower case.
    pub lower_case: bool,
    /// Attributes have the digest, the state and nothing else.
    pub sparse: bool,
    /// `?api-version=2021-07-01` hides the quarantine fields.
    pub api_version_strips: bool,
    /// Attributes need the scopes `metadata_read` and `metadata_write`; `pull` and `push` do not do.
    pub metadata_scopes: bool,
    /// See [`Unentitled`].
    pub unentitled: Unentitled,
    /// A PATCH is answered 204 without a body.
    pub patch_204: bool,
    /// A PATCH moves `lastUpdateTime`.
    pub patch_moves_time: bool,
    /// Details that break the published schema are answered 400.
    pub strict_details: bool,
    /// HEAD by digest of an image in quarantine: 403, else 404.
    pub head_403: bool,
    /// A judgement of an index is one of its children, too.
    pub cascade: bool,
    /// AcrPush may pull by digest what is in quarantine.
    pub push_reads_quarantine: bool,
    /// A tag goes on naming an image that was released and failed later.
    pub failed_keeps_tag: bool,
    /// Anonymous pull.
    pub anonymous_pull: bool,
    /// How long access tokens are good for.
    pub token_life: Duration,
    /// Entries on one page of a list, whatever `n` asks for.
    pub page: Option<usize>,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            policy: true,
            unjudged: Some("Quarantined"),
            lower_case: false,
            sparse: false,
            api_version_strips: false,
            metadata_scopes: false,
            unentitled: Unentitled::Denied,
            patch_204: false,
            patch_moves_time: false,
            strict_details: true,
            head_403: true,
            cascade: false,
            push_reads_quarantine: false,
            failed_keeps_tag: false,
            anonymous_pull: false,
            token_life: Duration::from_secs(75 * 60),
            page: None,
        }
    }
}

/// A request that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET`, `PATCH`, ...
    pub method: String,
    /// Path and query as they came.
    pub path: String,
    /// Whoever the token or password says it was.
    pub user: Option<String>,
}

struct Identity {
    password: String,
    roles: HashSet<Role>,
}

struct Inner {
    switches: Switches,
    shelf: Shelf,
    identities: BTreeMap<String, Identity>,
    mint: Mint,
    faults: Faults,
    asked: VecDeque<Asked>,
}

#[derive(Clone)]
struct Shared {
    /// The login server: `localhost:<port>`.
    host: Arc<str>,
    inner: Arc<Mutex<Inner>>,
}

/// The registry. It stops when it is dropped.
pub struct StandIn {
    address: SocketAddr,
    shared: Shared,
    server: Option<Handle<SocketAddr>>,
}

impl StandIn {
    /// Starts an empty registry that keeps its quarantine, with the five identities of this module.
    ///
    /// Call it inside a tokio runtime, which it dies with.
    pub fn start() -> Self {
        Self::with(Switches::default())
    }

    /// The same in other positions.
    pub fn with(switches: Switches) -> Self {
        let (listener, address) = listen(0);
        let mut identities = BTreeMap::new();
        let known: [((&str, &str), &[Role]); 5] = [
            (PULLER, &[Role::Pull]),
            (PUSHER, &[Role::Push]),
            (READER, &[Role::Pull, Role::QuarantineReader]),
            (WRITER, &[Role::Push, Role::QuarantineWriter]),
            (ONLOOKER, &[Role::QuarantineReader]),
        ];
        for ((user, password), roles) in known {
            identities.insert(user.to_owned(), Identity { password: password.to_owned(), roles: roles.iter().copied().collect() });
        }
        let inner =
            Inner { switches, shelf: Shelf::default(), identities, mint: Mint::new(), faults: Faults::default(), asked: VecDeque::new() };
        let shared = Shared { host: format!("localhost:{}", address.port()).into(), inner: Arc::new(Mutex::new(inner)) };
        let mut this = Self { address, shared, server: None };
        this.serve(listener);
        this
    }

    fn serve(&mut self, listener: TcpListener) {
        let handle = Handle::new();
        let server = axum_server::from_tcp(listener).expect("a listener of tokio's").handle(handle.clone());
        tokio::spawn(server.serve(routes::router(self.shared.clone()).into_make_service()));
        self.server = Some(handle);
    }

    /// Its login server and its name in image references: `localhost:<port>`. Policies do not take an address for a name.
    pub fn host(&self) -> String {
        self.shared.host.to_string()
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `http://127.0.0.1:<port>` and a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// `localhost:<port>/repository:tag`.
    pub fn tagged(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.shared.host)
    }

    /// `localhost:<port>/repository@digest`.
    pub fn pinned(&self, repository: &str, digest: &str) -> String {
        format!("{}/{repository}@{digest}", self.shared.host)
    }

    /// Closes every connection; from then on its port refuses them.
    pub fn stop(&mut self) {
        self.server.take().expect("the registry is stopped already").shutdown();
    }

    /// Starts it again after [`Self::stop`], on the same port, with all that it held.
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "the registry runs");
        let (listener, _) = listen(self.address.port());
        self.serve(listener);
    }

    /// Turns switches.
    pub fn switch(&self, turn: impl FnOnce(&mut Switches)) {
        turn(&mut self.shared.inner.lock().switches);
    }

    /// Gives an identity these roles and no others.
    pub fn grant(&self, user: &str, roles: &[Role]) {
        let mut inner = self.shared.inner.lock();
        inner.identities.get_mut(user).expect("a known user").roles = roles.iter().copied().collect();
    }

    /// Changes an identity's password.
    pub fn change_password(&self, user: &str, password: &str) {
        let mut inner = self.shared.inner.lock();
        password.clone_into(&mut inner.identities.get_mut(user).expect("a known user").password);
    }

    /// Stores a manifest or index under a tag (or its own digest), as a push does. Its media type is the one it states. Returns its digest.
    pub fn push(&self, repository: &str, reference: &str, bytes: impl Into<Bytes>) -> String {
        let mut inner = self.shared.inner.lock();
        let bytes = bytes.into();
        let media_type = shelf::stated_media_type(&bytes).expect("a manifest that states its media type");
        let Inner { shelf, switches, .. } = &mut *inner;
        shelf.put(repository, reference, &media_type, bytes, switches)
    }

    /// Releases an image wherever it is held, as a PATCH does.
    pub fn pass(&self, digest: &str) {
        self.judge(digest, Judgement::Passed, None);
    }

    /// Fails an image wherever it is held, as a PATCH does.
    pub fn fail(&self, digest: &str) {
        self.judge(digest, Judgement::Failed, None);
    }

    /// Judges an image wherever it is held, with any text for details.
    pub fn judge(&self, digest: &str, judgement: Judgement, details: Option<&str>) {
        let mut inner = self.shared.inner.lock();
        let Inner { shelf, switches, .. } = &mut *inner;
        let holders = shelf.holders(digest);
        assert!(!holders.is_empty(), "no repository holds {digest}");
        for repository in holders {
            shelf.judge(&repository, digest, judgement, details.map(ToOwned::to_owned), switches);
        }
    }

    /// What is written of an image: the judgement and the details.
    pub fn judgement(&self, repository: &str, digest: &str) -> Option<(Judgement, Option<String>)> {
        let inner = self.shared.inner.lock();
        inner.shelf.manifest(repository, digest).map(|manifest| (manifest.judgement, manifest.details.clone()))
    }

    /// When the image was pushed, as the attributes say.
    pub fn created(&self, repository: &str, digest: &str) -> jiff::Timestamp {
        self.shared.inner.lock().shelf.manifest(repository, digest).expect("a manifest that is held").created
    }

    /// Deletes a manifest and the tags that name it.
    pub fn delete(&self, repository: &str, digest: &str) {
        self.shared.inner.lock().shelf.delete(repository, digest);
    }

    /// The log of events; their numbers grow.
    pub fn events(&self) -> Vec<Event> {
        self.shared.inner.lock().shelf.events().cloned().collect()
    }

    /// The requests that came in, oldest first.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.inner.lock().asked.iter().cloned().collect()
    }

    /// How many requests came in whose path begins so.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.shared.inner.lock().asked.iter().filter(|asked| asked.method == method && asked.path.starts_with(path)).count()
    }

    /// Forgets the requests that came in.
    pub fn forget_asked(&self) {
        self.shared.inner.lock().asked.clear();
    }

    /// From now on requests of an area go wrong, until [`Self::heal`].
    pub fn break_down(&self, area: Area, fault: Fault) {
        self.break_after(area, fault, 0);
    }

    /// So many requests of an area go right, then they go wrong until [`Self::heal`].
    pub fn break_after(&self, area: Area, fault: Fault, requests: usize) {
        self.shared.inner.lock().faults.add(area, fault, requests);
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.shared.inner.lock().faults = Faults::default();
    }

    /// Tokens that were handed out are good for nothing from now on.
    pub fn void_tokens(&self) {
        self.shared.inner.lock().mint = Mint::new();
    }

    /// A token of Azure's identity service, to be exchanged at `/oauth2/exchange`.
    pub fn entra_token(&self, user: &str) -> String {
        self.shared.inner.lock().mint.entra(user, &self.shared.host)
    }

    /// A refresh token, such as the exchange hands out.
    pub fn refresh_token(&self, user: &str) -> String {
        self.shared.inner.lock().mint.refresh(user, &self.shared.host)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown();
        }
    }
}

fn listen(port: u16) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port on loopback");
    listener.set_nonblocking(true).expect("a listener of tokio's");
    let address = listener.local_addr().expect("a bound listener");
    (listener, address)
}
