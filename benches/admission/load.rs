//! The load: reviews over connections that stay open, the next one as soon as the last is answered, or all at once.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    figures::{quantile, time_on_core},
    stack::{SERVER_THREAD, Target},
};

/// Where the program answers, with the patience that an API server most often has.
pub const PATH: &str = "/validate/enforce?timeout=10s";
/// Whatever is wrong with the other side, no answer is waited for longer: twice an API server's longest patience.
pub const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// What is spoken over TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// One connection for each request in flight, as the API server does it.
    Http1,
    /// All requests on one connection.
    Http2,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Open connections, one a request in flight.
pub struct Connections {
    senders: Vec<Rc<tokio::sync::Mutex<Sender>>>,
    authority: Rc<str>,
    path: Rc<str>,
}

/// How long a run is, and what is a good answer in it.
#[derive(Clone, Copy)]
pub struct Run {
    /// Requests at the most.
    pub requests: usize,
    /// It ends after this long with what it has by then.
    pub longest: Duration,
    /// Good answers hold this.
    pub wanted: &'static [u8],
}

/// A yes.
pub const ALLOWED: &[u8] = br#""allowed":true"#;
/// A no, or a not yet.
pub const REFUSED: &[u8] = br#""allowed":false"#;
/// Either.
pub const ANSWERED: &[u8] = br#""allowed":"#;

impl Run {
    /// So many reviews that all are admitted.
    pub const fn of(requests: usize) -> Self {
        Self { requests, longest: Duration::from_secs(10), wanted: ALLOWED }
    }

    /// As many as there can be in this time.
    pub const fn during(longest: Duration) -> Self {
        Self { requests: usize::MAX, longest, wanted: ALLOWED }
    }
}

/// What came of a run.
pub struct Ran {
    /// Reviews a second.
    pub throughput: f64,
    /// From before a request is sent until its answer is read, sorted.
    pub latencies: Vec<Duration>,
    /// Answers that were not wanted.
    pub unwanted: usize,
    /// The server's time on a core, a review.
    pub cpu: Duration,
    /// The share of the time in which the server was on a core.
    pub busy: f64,
}

impl Ran {
    /// The latency that a share of all do not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        quantile(&self.latencies, share)
    }
}

impl Connections {
    /// Opens them.
    pub async fn open(target: &Target, protocol: Protocol, concurrency: usize) -> Self {
        Self::open_to(target, PATH, protocol, concurrency).await
    }

    /// Opens them, for another path.
    pub async fn open_to(target: &Target, path: &str, protocol: Protocol, concurrency: usize) -> Self {
        let connector = connector(target, protocol);
        let mut senders = Vec::new();
        for _ in 0..concurrency {
            if let Some(Sender::Http2(sender)) = senders.first() {
                senders.push(Sender::Http2(sender.clone()));
                continue;
            }
            let stream = TokioIo::new(connect(target, &connector).await);
            senders.push(match protocol {
                Protocol::Http1 => {
                    let (sender, connection) = http1::handshake(stream).await.unwrap();
                    tokio::spawn(connection);
                    Sender::Http1(sender)
                }
                Protocol::Http2 => {
                    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                    tokio::spawn(connection);
                    Sender::Http2(sender)
                }
            });
        }
        let senders = senders.into_iter().map(|sender| Rc::new(tokio::sync::Mutex::new(sender))).collect();
        Self { senders, authority: target.address.to_string().into(), path: path.into() }
    }

    /// Sends one review.
    pub async fn ask(&self, review: Bytes) -> Bytes {
        self.senders[0].lock().await.send(&self.authority, &self.path, review).await
    }

    /// Sends one review on a connection of its own, to a path of its own. Returns how long the answer took, too.
    pub async fn ask_on(&self, connection: usize, path: &str, review: Bytes) -> (Duration, Bytes) {
        let mut sender = self.senders[connection].lock().await;
        let sent = Instant::now();
        let answer = sender.send(&self.authority, path, review).await;
        (sent.elapsed(), answer)
    }

    /// Sends reviews, round and round.
    pub async fn run(&self, reviews: &[Bytes], run: Run) -> Ran {
        let (next, unwanted) = (Cell::new(0), Cell::new(0));
        let (before, begun) = (time_on_core(SERVER_THREAD), Instant::now());
        let lanes = self.senders.iter().map(async |sender| {
            let mut sender = sender.lock().await;
            let mut latencies = Vec::new();
            while next.get() < run.requests && begun.elapsed() < run.longest {
                let turn: usize = next.replace(next.get() + 1);
                let body = reviews[turn % reviews.len()].clone();
                let sent = Instant::now();
                let answer = sender.send(&self.authority, &self.path, body).await;
                latencies.push(sent.elapsed());
                if !holds(&answer, run.wanted) {
                    unwanted.set(unwanted.get() + 1);
                }
            }
            latencies
        });
        let mut latencies: Vec<Duration> = futures::future::join_all(lanes).await.into_iter().flatten().collect();
        let (took, on_core) = (begun.elapsed(), time_on_core(SERVER_THREAD).saturating_sub(before));
        latencies.sort_unstable();
        let done = u32::try_from(latencies.len()).unwrap();
        Ran {
            throughput: f64::from(done) / took.as_secs_f64(),
            latencies,
            unwanted: unwanted.get(),
            cpu: on_core / done.max(1),
            busy: on_core.as_secs_f64() / took.as_secs_f64(),
        }
    }
}

/// Speaks TLS as a target wants it.
pub fn connector(target: &Target, protocol: Protocol) -> TlsConnector {
    let mut tls = (*target.trust).clone();
    tls.alpn_protocols = vec![match protocol {
        Protocol::Http1 => b"http/1.1".to_vec(),
        Protocol::Http2 => b"h2".to_vec(),
    }];
    TlsConnector::from(Arc::new(tls))
}

/// One open connection.
pub async fn connect(target: &Target, connector: &TlsConnector) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(target.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from(target.name.clone()).unwrap();
    connector.connect(name, stream).await.unwrap()
}

/// Whether an answer holds a text.
pub fn holds(answer: &[u8], text: &[u8]) -> bool {
    answer.windows(text.len()).any(|window| window == text)
}

impl Sender {
    async fn send(&mut self, authority: &str, path: &str, body: Bytes) -> Bytes {
        let Ok(answer) = tokio::time::timeout(LONGEST_ANSWER, self.exchange(authority, path, body)).await else {
            panic!("{authority}{path}: no answer within {LONGEST_ANSWER:?}");
        };
        answer
    }

    async fn exchange(&mut self, authority: &str, path: &str, body: Bytes) -> Bytes {
        let request = |uri: String| {
            Request::post(uri)
                .header(header::HOST, authority)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, "application/json, */*")
                .header(header::USER_AGENT, "kube-apiserver-admission")
                .body(Full::new(body))
                .unwrap()
        };
        let answer = match self {
            Self::Http1(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request(path.to_owned())).await.unwrap()
            }
            Self::Http2(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request(format!("https://{authority}{path}"))).await.unwrap()
            }
        };
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap().to_bytes()
    }
}
