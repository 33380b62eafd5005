//! Plain HTTP for the kubelet and for Prometheus: /livez, /readyz, /metrics.
//!
//! No TLS, since the kubelet's probes verify none and a probe must not depend on the certificate it is to report on. Nothing here reads a
//! body or waits: what a client can hold is bounded by the [`Listener`](crate::tls::Listener) alone. Nothing said here is secret: names of conditions, numbers.
//!
//! Alive means that the runtime answers. What is broken outside (API server, registries) turns a replica unready, never dead: restarting it
//! would mend nothing and lose what it knows.

use std::{fmt::Write, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use parking_lot::Mutex;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::time::Instant;

use crate::tls::Limits;

/// What this replica waits for before it is ready. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Vec<Condition>>>);

/// One named thing that must hold. Pending until [`set`](Self::set). Clones share it.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    /// None: it may be silent for ever.
    silence: Option<Duration>,
    state: Arc<Mutex<Sign>>,
}

#[derive(Clone, Copy, Debug)]
struct Sign {
    holds: bool,
    last: Instant,
}

// === impl Readiness ===

impl Readiness {
    /// A condition that holds or does not.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.add(name, None)
    }

    /// A condition that also stops holding when there was no [`beat`](Condition::beat) for `silence`: a watch that may have gone deaf.
    pub fn heartbeat(&self, name: &'static str, silence: Duration) -> Condition {
        self.add(name, Some(silence))
    }

    /// Whether every condition holds now; true while there is none.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// The names of the conditions that do not hold, in the order in which they were made.
    pub fn missing(&self) -> Vec<&'static str> {
        self.0.lock().iter().filter(|condition| !condition.holds()).map(|condition| condition.name).collect()
    }

    fn add(&self, name: &'static str, silence: Option<Duration>) -> Condition {
        let state = Arc::new(Mutex::new(Sign { holds: false, last: Instant::now() }));
        let condition = Condition { name, silence, state };
        self.0.lock().push(condition.clone());
        condition
    }
}

// === impl Condition ===

impl Condition {
    /// Says whether it holds; a sign of life as well.
    pub fn set(&self, holds: bool) {
        *self.state.lock() = Sign { holds, last: Instant::now() };
    }

    /// A sign of life: the silence starts anew. What is pending stays pending.
    pub fn beat(&self) {
        self.state.lock().last = Instant::now();
    }

    /// Whether it holds now.
    pub fn holds(&self) -> bool {
        let Sign { holds, last } = *self.state.lock();
        holds && self.silence.is_none_or(|silence| last.elapsed() < silence)
    }
}

// === the routes ===

/// What the admin listener grants: a kubelet, a few scrapers, and a person.
pub fn limits() -> Limits {
    Limits {
        connections: 64,
        from_one: 48,
        headers: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        grace: Duration::from_secs(2),
        ..Limits::default()
    }
}

/// The three routes. `/readyz?verbose` lists every condition as Kubernetes' own components do.
pub fn router(readiness: Readiness, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(metrics).with_state(registry))
}

async fn readyz(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> Response {
    let conditions: Vec<_> = readiness.0.lock().iter().map(|condition| (condition.name, condition.holds())).collect();
    let ready = conditions.iter().all(|(_, holds)| *holds);
    let verbose = query.is_some_and(|query| query.split('&').any(|key| key == "verbose" || key.starts_with("verbose=")));
    let mut text = String::new();
    for (name, holds) in conditions {
        if !holds || verbose {
            let (sign, word) = if holds { ('+', "ok") } else { ('-', "not yet, or no longer") };
            _ = writeln!(text, "[{sign}]{name} {word}");
        }
    }
    let (code, end) = if ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    (code, text + end + "\n").into_response()
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt;

    use super::*;

    async fn ask(readiness: &Readiness, path: &str) -> (u16, String) {
        let response = router(readiness.clone(), Arc::default()).oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_when_every_condition_holds_and_no_longer_when_one_fails() {
        let readiness = Readiness::default();
        let [first, second] = ["first lists", "certificate"].map(|name| readiness.condition(name));
        assert_eq!((readiness.is_ready(), readiness.missing()), (false, vec!["first lists", "certificate"]));
        first.set(true);
        assert_eq!(readiness.missing(), ["certificate"]);
        second.set(true);
        assert!(readiness.is_ready());
        first.set(false);
        assert_eq!(readiness.missing(), ["first lists"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_heartbeat_turns_unready_until_it_beats_again() {
        let readiness = Readiness::default();
        let watch = readiness.heartbeat("policy watch", Duration::from_secs(60));
        watch.beat();
        assert!(!readiness.is_ready(), "a beat alone settles nothing");
        watch.set(true);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(readiness.is_ready());
        watch.beat();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(readiness.is_ready());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(readiness.missing(), ["policy watch"]);
        watch.beat();
        assert!(readiness.is_ready());
    }

    #[tokio::test]
    async fn readyz_says_what_is_missing_and_verbose_lists_all() {
        let readiness = Readiness::default();
        let [lists, certificate] = ["first lists", "certificate"].map(|name| readiness.condition(name));
        lists.set(true);
        assert_eq!(ask(&readiness, "/readyz").await, (503, "[-]certificate not yet, or no longer\nnot ready\n".to_owned()));
        let all = "[+]first lists ok\n[-]certificate not yet, or no longer\nnot ready\n";
        assert_eq!(ask(&readiness, "/readyz?verbose").await, (503, all.to_owned()));
        certificate.set(true);
        assert_eq!(ask(&readiness, "/readyz").await, (200, "ok\n".to_owned()));
        assert_eq!(ask(&readiness, "/readyz?verbose").await, (200, "[+]first lists ok\n[+]certificate ok\nok\n".to_owned()));
    }

    #[tokio::test]
    async fn livez_does_not_ask_for_conditions() {
        let readiness = Readiness::default();
        readiness.condition("first lists");
        assert_eq!(ask(&readiness, "/livez").await, (200, "ok".to_owned()));
        assert_eq!(ask(&readiness, "/").await.0, 404);
    }

    #[tokio::test]
    async fn metrics_are_openmetrics() {
        let mut registry = Registry::with_prefix("lazaretto");
        let reviews = Counter::<u64>::default();
        registry.register("reviews", "Reviews answered", reviews.clone());
        reviews.inc();
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let response = router(Readiness::default(), Arc::new(registry)).oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let expected = "# HELP lazaretto_reviews Reviews answered.\n# TYPE lazaretto_reviews counter\nlazaretto_reviews_total 1\n# EOF\n";
        assert_eq!(str::from_utf8(&body).unwrap(), expected);
    }

    #[tokio::test]
    async fn the_listener_answers_a_probe() {
        let listener = crate::tls::Listener::plain(([127, 0, 0, 1], 0).into(), limits()).await.unwrap();
        let url = format!("http://{}/livez", listener.address());
        let stop = tokio_util::sync::CancellationToken::new();
        let serving = tokio::spawn(listener.serve(router(Readiness::default(), Arc::default()), stop.clone()));
        _ = crate::tls::provider().install_default();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        assert_eq!(client.get(url).send().await.unwrap().text().await.unwrap(), "ok");
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), serving).await.unwrap().unwrap().unwrap();
    }
}
