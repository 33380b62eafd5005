//! The load: a fixed number of reviews over connections that stay open, the next one as soon as the last is answered.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::TlsConnector;

use crate::{
    figures::{quantile, time_on_core},
    stack::{SERVER_THREAD, Target},
    world::World,
};

/// A run ends after this long with what it has by then.
const LONGEST: Duration = Duration::from_secs(10);

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
    authority: Arc<str>,
}

/// What came of a run.
pub struct Run {
    /// Reviews a second.
    pub throughput: f64,
    /// From before a request is sent until its answer is read.
    pub p50: Duration,
    /// The same.
    pub p99: Duration,
    /// The server's time on a core, a review.
    pub cpu: Duration,
    /// The share of the time in which the server was on a core.
    pub busy: f64,
}

impl Connections {
    /// Opens them.
    pub async fn open(target: &Target, protocol: Protocol, concurrency: usize) -> Self {
        let mut tls = (*target.trust).clone();
        tls.alpn_protocols = vec![match protocol {
            Protocol::Http1 => b"http/1.1".to_vec(),
            Protocol::Http2 => b"h2".to_vec(),
        }];
        let connector = TlsConnector::from(Arc::new(tls));
        let mut senders = Vec::new();
        for _ in 0..concurrency {
            if let Some(Sender::Http2(sender)) = senders.first() {
                senders.push(Sender::Http2(sender.clone()));
                continue;
            }
            let stream = TcpStream::connect(target.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TokioIo::new(connector.connect(name, stream).await.unwrap());
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
        Self { senders, authority: target.address.to_string().into() }
    }

    /// Sends one review.
    pub async fn ask(&self, review: Bytes) -> Bytes {
        self.senders[0].lock().await.send(&self.authority, review).await
    }

    /// Sends this many reviews, and checks that each is answered with yes.
    pub async fn run(&self, world: &World, requests: usize) -> Run {
        let next = Rc::new(Cell::new(0));
        let (before, begun) = (time_on_core(SERVER_THREAD), Instant::now());
        let lanes = self.senders.iter().map(|sender| lane(sender.clone(), self.authority.clone(), world, next.clone(), requests, begun));
        let mut latencies: Vec<Duration> = futures::future::join_all(lanes).await.into_iter().flatten().collect();
        let (took, on_core) = (begun.elapsed(), time_on_core(SERVER_THREAD).saturating_sub(before));
        latencies.sort_unstable();
        let done = u32::try_from(latencies.len()).unwrap();
        Run {
            throughput: f64::from(done) / took.as_secs_f64(),
            p50: quantile(&latencies, 0.5),
            p99: quantile(&latencies, 0.99),
            cpu: on_core / done,
            busy: on_core.as_secs_f64() / took.as_secs_f64(),
        }
    }
}

/// One request after another.
async fn lane(
    sender: Rc<tokio::sync::Mutex<Sender>>,
    authority: Arc<str>,
    world: &World,
    next: Rc<Cell<usize>>,
    requests: usize,
    begun: Instant,
) -> Vec<Duration> {
    let mut sender = sender.lock().await;
    let mut latencies = Vec::with_capacity(requests);
    while next.get() < requests && begun.elapsed() < LONGEST {
        let turn = next.replace(next.get() + 1);
        let body = world.reviews[turn % world.reviews.len()].clone();
        let sent = Instant::now();
        let answer = sender.send(&authority, body).await;
        latencies.push(sent.elapsed());
        assert!(answer.windows(14).any(|window| window == br#""allowed":true"#), "{}", String::from_utf8_lossy(&answer));
    }
    latencies
}

impl Sender {
    async fn send(&mut self, authority: &str, body: Bytes) -> Bytes {
        const PATH: &str = "/validate/enforce?timeout=10s";
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
                sender.send_request(request(PATH.to_owned())).await.unwrap()
            }
            Self::Http2(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request(format!("https://{authority}{PATH}"))).await.unwrap()
            }
        };
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap().to_bytes()
    }
}
