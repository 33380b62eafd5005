//! What kube-proxy does for the webhook's Service: its cluster IP, shared out among the replicas that are ready.
//!
//! Like kube-proxy it forwards connections, not requests, and does not try another endpoint when one fails: a replica that
//! died since its last probe costs its callers an error, as it does in a cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::process::background;
use super::wait::MOMENT;

const PROBE_PERIOD: Duration = Duration::from_millis(200);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
struct Endpoint {
    id: usize,
    address: SocketAddr,
    ready: bool,
}

/// The Service's listener and its endpoints.
pub struct Forwarder {
    endpoints: Arc<watch::Sender<Vec<Endpoint>>>,
    next: AtomicUsize,
    listener: AbortHandle,
}

impl Forwarder {
    /// Listens on the Service's cluster IP and port. With no ready endpoint, connections are closed at once.
    pub async fn start(service: SocketAddr) -> Self {
        let endpoints = Arc::new(watch::Sender::new(Vec::<Endpoint>::new()));
        let shared = endpoints.clone();
        // Bound on the runtime that drives it.
        let bound = background().spawn(TcpListener::bind(service)).await.unwrap();
        let listener = bound.unwrap_or_else(|error| panic!("cannot be the Service {service}: {error}"));
        let accept = async move {
            let mut connections = JoinSet::new();
            for turn in 0.. {
                let Ok((mut client, _)) = listener.accept().await else { continue };
                while connections.try_join_next().is_some() {}
                let ready: Vec<_> = shared.borrow().iter().filter(|endpoint| endpoint.ready).cloned().collect();
                if ready.is_empty() {
                    continue;
                }
                let address = ready[turn % ready.len()].address;
                connections.spawn(async move {
                    let mut server = TcpStream::connect(address).await?;
                    client.set_nodelay(true)?;
                    server.set_nodelay(true)?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        };
        Self { endpoints, next: AtomicUsize::new(0), listener: background().spawn(accept).abort_handle() }
    }

    /// Adds an endpoint that takes part while `http://<admin>/readyz` answers 200; it leaves when the guard is dropped.
    pub fn join(&self, address: SocketAddr, admin: SocketAddr) -> Membership {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.endpoints.send_modify(|all| all.push(Endpoint { id, address, ready: false }));
        let endpoints = self.endpoints.clone();
        let probe = background().spawn(async move {
            let mut ticks = interval(PROBE_PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(PROBE_TIMEOUT).build().unwrap();
            loop {
                ticks.tick().await;
                let answer = http.get(format!("http://{admin}/readyz")).send().await;
                let now = answer.is_ok_and(|answer| answer.status().is_success());
                endpoints.send_if_modified(|all| match all.iter_mut().find(|endpoint| endpoint.id == id) {
                    Some(endpoint) => std::mem::replace(&mut endpoint.ready, now) != now,
                    None => false,
                });
            }
        });
        Membership { id, endpoints: self.endpoints.clone(), probe: probe.abort_handle() }
    }

    /// Waits until exactly `count` replicas are ready, as their probes see it.
    pub async fn wait_for_ready(&self, count: usize) {
        let mut endpoints = self.endpoints.subscribe();
        let reached = endpoints.wait_for(|all| all.iter().filter(|endpoint| endpoint.ready).count() == count);
        let reached = timeout(MOMENT, reached).await.is_ok();
        assert!(reached, "not {count} ready within {MOMENT:?}: {:?}", *self.endpoints.borrow());
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// A replica's place behind the Service.
pub struct Membership {
    id: usize,
    endpoints: Arc<watch::Sender<Vec<Endpoint>>>,
    probe: AbortHandle,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.probe.abort();
        self.endpoints.send_modify(|all| all.retain(|endpoint| endpoint.id != self.id));
    }
}
