use std::{
    io::{Read, Write},
    net::TcpStream as Socket,
};

use axum::routing::get;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tokio::{sync::Notify, task::JoinHandle};

use super::*;

/// A self-signed certificate for localhost: (chain, key).
fn pair(not_after: i64) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_before = time::OffsetDateTime::from_unix_timestamp(1_000_000_000).unwrap();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(not_after).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn loaded((chain, key): &(String, String)) -> Arc<CurrentCertificate> {
    let current = Arc::new(CurrentCertificate::default());
    current.set_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    current
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<io::Result<()>>,
}

async fn serve(certificate: Arc<CurrentCertificate>, limits: Limits, router: Router) -> Running {
    let listener = Listener::tls(([127, 0, 0, 1], 0).into(), certificate, limits).await.unwrap();
    let (address, stop) = (listener.address(), CancellationToken::new());
    let task = tokio::spawn(listener.serve(router, stop.clone()));
    Running { address, stop, task }
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// A client that shows which certificate its connection was opened with. Blocking: call it in [`blocking`].
struct Client(StreamOwned<ClientConnection, Socket>);

impl Client {
    fn open(address: SocketAddr, roots: &[&str]) -> io::Result<Self> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().map(|pem| certificate(pem)));
        let config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        let tls = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let socket = Socket::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut stream = StreamOwned::new(tls, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self(stream))
    }

    fn ask(&mut self) -> io::Result<String> {
        self.0.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            let mut buffer = [0; 1024];
            match self.0.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => answer.extend_from_slice(&buffer[..read]),
            }
        }
        Ok(String::from_utf8(answer).unwrap())
    }

    fn peer(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// Waits for the server to close; an error is a close as well.
    fn wait_for_close(&mut self) {
        let mut rest = Vec::new();
        if let Err(error) = self.0.read_to_end(&mut rest) {
            assert!(!matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "the server did not close: {error}");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn a_rotation_reaches_new_connections_and_leaves_open_ones_alone() {
    let (old, new) = (pair(2_000_000_000), pair(2_100_000_000));
    let current = loaded(&old);
    let server = serve(current.clone(), Limits::default(), hello()).await;
    let address = server.address;

    let root = old.0.clone();
    let mut open = blocking(move || {
        let mut client = Client::open(address, &[&root]).unwrap();
        client.ask().unwrap();
        client
    })
    .await;
    current.set_pem(new.0.as_bytes(), new.1.as_bytes()).unwrap();

    blocking(move || {
        assert!(open.ask().unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(open.peer(), certificate(&old.0));
        let mut next = Client::open(address, &[&new.0]).unwrap();
        assert!(next.ask().unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(next.peer(), certificate(&new.0));
    })
    .await;
}

#[tokio::test]
async fn a_bad_pair_keeps_the_old() {
    let (old, other) = (pair(2_000_000_000), pair(2_100_000_000));
    let current = loaded(&old);
    let server = serve(current.clone(), Limits::default(), hello()).await;

    assert_eq!(current.set_pem(other.0.as_bytes(), old.1.as_bytes()), Err(PairError::Mismatch));
    assert_eq!(current.set_pem(other.0.as_bytes(), b"no key"), Err(PairError::Key));
    assert_eq!(current.set_pem(b"", other.1.as_bytes()), Err(PairError::Chain));
    let empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(current.set_pem(empty, other.1.as_bytes()), Err(PairError::Chain));

    assert_eq!(current.not_after(), Some(Timestamp::from_second(2_000_000_000).unwrap()));
    blocking(move || assert_eq!(Client::open(server.address, &[&old.0]).unwrap().peer(), certificate(&old.0))).await;
}

#[tokio::test]
async fn both_protocol_versions_answer() {
    let _ = provider().install_default();
    let pair = pair(2_000_000_000);
    let server = serve(loaded(&pair), Limits::default(), hello()).await;
    for (only_one, version) in [(true, http::Version::HTTP_11), (false, http::Version::HTTP_2)] {
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(pair.0.as_bytes()).unwrap()])
            .resolve("localhost", server.address);
        let client = if only_one { client.http1_only() } else { client }.build().unwrap();
        let response = client.get(format!("https://localhost:{}/", server.address.port())).send().await.unwrap();
        assert_eq!((response.version(), response.status().as_u16()), (version, 200));
        assert_eq!(response.text().await.unwrap(), "hello");
    }
}

#[tokio::test]
async fn a_listener_without_a_certificate_is_not_bound() {
    let error = Listener::tls(([127, 0, 0, 1], 0).into(), Arc::default(), Limits::default()).await.err().unwrap();
    assert_eq!(error.to_string(), "no certificate is loaded");
}

#[tokio::test]
async fn a_client_that_does_not_shake_hands_is_left() {
    let limits = Limits { handshake: Duration::from_millis(50), ..Limits::default() };
    let server = serve(loaded(&pair(2_000_000_000)), limits, hello()).await;
    blocking(move || {
        let mut socket = Socket::connect(server.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_says_nothing_after_the_handshake_is_left() {
    let limits = Limits { idle: Duration::from_millis(200), ..Limits::default() };
    let pair = pair(2_000_000_000);
    let server = serve(loaded(&pair), limits, hello()).await;
    blocking(move || Client::open(server.address, &[&pair.0]).unwrap().wait_for_close()).await;
}

#[tokio::test]
async fn connections_beyond_the_bound_are_refused_until_one_ends() {
    for limits in [Limits { connections: 1, ..Limits::default() }, Limits { from_one: 1, ..Limits::default() }] {
        bounded(limits).await;
    }
}

async fn bounded(limits: Limits) {
    let pair = pair(2_000_000_000);
    let server = serve(loaded(&pair), limits, hello()).await;
    let (address, roots) = (server.address, pair.0);
    blocking(move || {
        let mut first = Client::open(address, &[&roots]).unwrap();
        assert!(Client::open(address, &[&roots]).is_err());
        first.ask().unwrap();
        drop(first);
        let begin = Instant::now();
        while Client::open(address, &[&roots]).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "the permit did not come back");
        }
    })
    .await;
}

#[tokio::test]
async fn stopping_lets_open_requests_finish_and_takes_no_new_ones() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (inside, wait) = (entered.clone(), release.clone());
    let router = Router::new().route(
        "/",
        get(async move || {
            inside.notify_one();
            wait.notified().await;
            "hello"
        }),
    );
    let pair = pair(2_000_000_000);
    let server = serve(loaded(&pair), Limits::default(), router).await;
    let address = server.address;
    let root = pair.0.clone();
    let asking = tokio::spawn(blocking(move || Client::open(address, &[&root]).unwrap().ask()));
    entered.notified().await;

    server.stop.cancel();
    let root = pair.0.clone();
    blocking(move || {
        let begin = Instant::now();
        while Client::open(address, &[&root]).is_ok() {
            assert!(begin.elapsed() < Duration::from_secs(20), "still accepting");
        }
    })
    .await;
    release.notify_one();
    assert!(asking.await.unwrap().unwrap().starts_with("HTTP/1.1 200"));
    tokio::time::timeout(Duration::from_secs(20), server.task).await.unwrap().unwrap().unwrap();
}

#[test]
fn the_api_server_is_the_one_that_closes_an_idle_connection() {
    let its_own = Duration::from_secs(90);
    let limits = Limits::default();
    assert!(limits.headers > its_own && limits.idle > its_own);
}

#[test]
fn validity_is_what_the_certificate_says() {
    let read = validity(&certificate(&pair(2_000_000_000).0)).unwrap();
    assert_eq!((read.0.as_second(), read.1.as_second()), (1_000_000_000, 2_000_000_000));
    assert_eq!(validity(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])), None);
}

#[test]
fn debug_shows_no_key() {
    let current = loaded(&pair(2_000_000_000));
    assert_eq!(format!("{current:?}"), "CurrentCertificate { not_after: Some(2033-05-18T03:33:20Z), .. }");
}
