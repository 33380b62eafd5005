//! The certificate in use, and the listeners.
//!
//! [`CurrentCertificate`] is a swapped pointer that each handshake reads: a rotation reaches the next connection, and the open ones go on
//! with what they were opened with. Nothing is read from a file: a mounted Secret is a symbolic link that is swapped whole, which a watch
//! on the file does not see, and it lags by a minute. [`crate::authority`] watches the Secret itself and feeds the pointer.
//!
//! A [`Listener`] bounds what a client may hold: a number of connections, a handshake, a silence. Three choices need a reason:
//!
//! - The API server speaks HTTP/1.1 to webhooks behind a Service (it pins ALPN, kubernetes#75791; to a loopback URL it speaks HTTP/2), one
//!   connection per request in flight, and closes idle ones after 90 s. hyper's header timeout runs *between* requests too. With the usual five seconds we would close the connection that the API
//!   server is about to use, and the call fails with EOF. So the client must be the one that closes: our limits are longer than its own.
//! - hyper waits for a connection's first bytes (HTTP/2 preface or not) without any limit: a client that shakes hands and says nothing
//!   would stay for ever. [`Guarded`] ends a connection on which neither side got a byte through for [`Limits::idle`].
//! - Too many connections are refused, not queued: a queued one holds its socket all the same, and the API server's patience runs.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use axum::Router;
use axum_server::{Handle, Server, accept::Accept, tls_rustls::RustlsAcceptor, tls_rustls::RustlsConfig};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto::Builder,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::{
    CertificateError, RootCertStore, ServerConfig,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

use crate::counts::Counts;

/// Why a pair was not taken. No variant carries text of what was read: it may be part of a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PairError {
    /// Not PEM, no certificate in it, or its first certificate is not X.509 version 3.
    #[error("the certificate chain cannot be read")]
    Chain,
    /// Not PEM, or not a PKCS#8, PKCS#1 or SEC1 key of a kind we can sign with.
    #[error("the private key cannot be read")]
    Key,
    /// The first certificate was made for another key.
    #[error("the certificate and the private key do not belong together")]
    Mismatch,
}

/// The certificate that the next handshake presents. Empty until the first [`set_pem`](Self::set_pem).
#[derive(Default)]
pub struct CurrentCertificate(ArcSwapOption<Loaded>);

struct Loaded {
    key: Arc<CertifiedKey>,
    not_after: Timestamp,
}

/// What a [`Listener`] grants its clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections, those in their handshake included; the next one is closed at once.
    pub connections: usize,
    /// Of these, from one address.
    pub from_one: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the end of a response (or the start) to the end of the next request's headers, HTTP/1.1 only. See the module's doc.
    pub headers: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// Requests at once on an HTTP/2 connection.
    pub streams: u32,
    /// For open requests to finish once `stop` is cancelled.
    pub grace: Duration,
}

/// A bound socket, not yet served.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    certificate: Option<Arc<CurrentCertificate>>,
    limits: Limits,
}

// === impl CurrentCertificate ===

impl CurrentCertificate {
    /// Takes a PEM chain (leaf first) and its PEM key. On an error the pair in use stays.
    pub fn set_pem(&self, chain: &[u8], key: &[u8]) -> Result<(), PairError> {
        let key = certified_key(chain, key)?;
        let (_, not_after) = key.cert.first().and_then(validity).ok_or(PairError::Chain)?;
        self.0.store(Some(Arc::new(Loaded { key: Arc::new(key), not_after })));
        Ok(())
    }

    /// When the certificate in use ends; none while nothing is loaded.
    pub fn not_after(&self) -> Option<Timestamp> {
        self.0.load().as_ref().map(|loaded| loaded.not_after)
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|loaded| loaded.key.clone())
    }
}

impl fmt::Debug for CurrentCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurrentCertificate").field("not_after", &self.not_after()).finish_non_exhaustive()
    }
}

/// Named here, not taken from the process: what it means does not hang on who was first to install one.
pub(crate) fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// Reads a PEM pair and proves that it is one.
pub(crate) fn certified_key(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, PairError> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(|_| PairError::Chain)?;
    if chain.is_empty() {
        return Err(PairError::Chain);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PairError::Key)?;
    let key = provider().key_provider.load_private_key(key).map_err(|_| PairError::Key)?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Ok(()) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => Err(PairError::Mismatch),
        Err(_) => Err(PairError::Chain),
    }
}

/// The first and the last instant of a certificate; none if it cannot be read.
///
/// rustls tells them to whoever verifies too early and too late, before it asks for an issuer. That is its documented, typed answer, and it
/// spares an X.509 reader of our own.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    let algorithms = provider().signature_verification_algorithms.all;
    let verify = |seconds| {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        match verify_server_cert_signed_by_trust_anchor(&certificate, &RootCertStore::empty(), &[], at, algorithms) {
            Err(rustls::Error::InvalidCertificate(reason)) => Some(reason),
            _ => None,
        }
    };
    let timestamp = |at: UnixTime| Timestamp::from_second(i64::try_from(at.as_secs()).ok()?).ok();
    match (verify(0)?, verify(u64::MAX)?) {
        (CertificateError::NotValidYetContext { not_before, .. }, CertificateError::ExpiredContext { not_after, .. }) => {
            Some((timestamp(not_before)?, timestamp(not_after)?))
        }
        _ => None,
    }
}

// === impl Limits ===

impl Default for Limits {
    /// For the API server as a client: room for several API servers' requests in flight (600 each), and more patience than its 90 s.
    fn default() -> Self {
        Self {
            connections: 2048,
            from_one: 1024,
            handshake: Duration::from_secs(5),
            headers: Duration::from_secs(120),
            idle: Duration::from_secs(180),
            streams: 64,
            grace: Duration::from_secs(30),
        }
    }
}

// === impl Listener ===

impl Listener {
    /// Binds a TLS listener. Fails without a certificate: who could not shake hands should not be connected to.
    pub async fn tls(address: SocketAddr, certificate: Arc<CurrentCertificate>, limits: Limits) -> io::Result<Self> {
        if certificate.not_after().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no certificate is loaded"));
        }
        Ok(Self { certificate: Some(certificate), ..Self::plain(address, limits).await? })
    }

    /// Binds a listener that speaks plain HTTP.
    pub async fn plain(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address, certificate: None, limits })
    }

    /// The address bound, with the port that the system chose if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled and what is open has finished, or [`Limits::grace`] is over.
    ///
    /// Dropping the future stops accepting; connections already open then live on until the runtime ends.
    pub async fn serve(self, router: Router, stop: CancellationToken) -> io::Result<()> {
        let Self { socket, certificate, limits, .. } = self;
        let handle = Handle::new();
        let permits = Arc::new(Semaphore::new(limits.connections));
        let guard = Guard { permits, peers: Arc::default(), from_one: limits.from_one, idle: limits.idle };
        let mut server = Server::from_listener(socket).handle(handle.clone());
        configure(server.http_builder(), &limits);
        let service = router.into_make_service();
        match certificate {
            None => drain(server.acceptor(guard).serve(service), &handle, &limits, &stop).await,
            Some(certificate) => {
                let tls = RustlsConfig::from_config(Arc::new(server_config(certificate)?));
                let acceptor = RustlsAcceptor::new(tls).handshake_timeout(limits.handshake).acceptor(guard);
                drain(server.acceptor(acceptor).serve(service), &handle, &limits, &stop).await
            }
        }
    }
}

fn server_config(certificate: Arc<CurrentCertificate>) -> io::Result<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn configure(builder: &mut Builder<TokioExecutor>, limits: &Limits) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.headers).max_buf_size(64 << 10);
    // What a client may send before it is read: a stream a review's usual size, a connection sixteen of them.
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).max_concurrent_streams(limits.streams).max_header_list_size(16 << 10);
    http2.initial_stream_window_size(64 << 10).initial_connection_window_size(1 << 20);
}

async fn drain(
    serving: impl Future<Output = io::Result<()>>,
    handle: &Handle<SocketAddr>,
    limits: &Limits,
    stop: &CancellationToken,
) -> io::Result<()> {
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = stop.cancelled() => handle.graceful_shutdown(Some(limits.grace)),
    }
    serving.await
}

/// Admits connections while there are permits, and wraps them.
#[derive(Clone)]
struct Guard {
    permits: Arc<Semaphore>,
    peers: Arc<Mutex<Counts<IpAddr>>>,
    from_one: usize,
    idle: Duration,
}

/// One connection of an address. It is counted until this is dropped.
struct Peer {
    address: IpAddr,
    peers: Arc<Mutex<Counts<IpAddr>>>,
}

impl Peer {
    /// None where the address has as many as it may have.
    fn count(address: IpAddr, peers: &Arc<Mutex<Counts<IpAddr>>>, most: usize) -> Option<Self> {
        let mut counts = peers.lock();
        // Whoever has none may have one.
        if counts.of(&address) >= most.max(1) {
            return None;
        }
        counts.add(address);
        Some(Self { address, peers: peers.clone() })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.peers.lock().take(&self.address);
    }
}

impl<S> Accept<TcpStream, S> for Guard {
    type Stream = Guarded;
    type Service = S;
    type Future = std::future::Ready<io::Result<(Guarded, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        std::future::ready(self.admit(stream).map(|stream| (stream, service)))
    }
}

impl Guard {
    fn admit(&self, stream: TcpStream) -> io::Result<Guarded> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| {
            tracing::debug!("too many open connections: one refused");
            io::Error::other("too many open connections")
        })?;
        let peer = Peer::count(stream.peer_addr()?.ip(), &self.peers, self.from_one).ok_or_else(|| {
            tracing::debug!("too many open connections from one address: one refused");
            io::Error::other("too many open connections from one address")
        })?;
        // An answer is one small write: Nagle's algorithm would hold it back for a delayed acknowledgement, 40 ms.
        stream.set_nodelay(true)?;
        let heard = Instant::now();
        Ok(Guarded { stream, idle: self.idle, heard, alarm: Box::pin(tokio::time::sleep(self.idle)), _permit: permit, _peer: peer })
    }
}

/// A connection that holds its permit and ends when it was idle for too long.
struct Guarded {
    stream: TcpStream,
    idle: Duration,
    heard: Instant,
    alarm: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
    _peer: Peer,
}

impl Guarded {
    /// Notes progress, or ends the wait. The alarm is moved only when it rings: progress costs a clock reading, not a timer.
    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.heard = Instant::now();
            return polled;
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            let end = self.heard + self.idle;
            if end <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.alarm.as_mut().reset(end);
        }
        Poll::Pending
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.watch(cx, polled)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
