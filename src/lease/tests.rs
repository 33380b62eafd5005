use std::{collections::BTreeMap, convert::Infallible, task::Poll};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

const ONE: &str = "/apis/coordination.k8s.io/v1/namespaces/quarantine/leases/lazaretto";
const ALL: &str = "/apis/coordination.k8s.io/v1/namespaces/quarantine/leases";

// === the decision ===

fn stored(version: &str, holder: Option<&str>, seconds: Option<i32>) -> Stored {
    let metadata = ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() };
    let spec = LeaseSpec { holder_identity: holder.map(str::to_owned), lease_duration_seconds: seconds, ..LeaseSpec::default() };
    Stored { metadata, spec: Some(spec) }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_taken_when_it_is_missing_free_ours_or_run_out() {
    let begun = Instant::now();
    let after = |seconds| begun + Duration::from_secs(seconds);
    let table = [
        (None, 0, Action::Create),
        (Some(stored("1", None, None)), 0, Action::Take),
        (Some(stored("1", Some(""), Some(15))), 0, Action::Take),
        (Some(stored("1", Some("me"), Some(15))), 0, Action::Take),
        (Some(stored("1", Some("you"), Some(15))), 14, Action::Leave),
        (Some(stored("1", Some("you"), Some(15))), 15, Action::Take),
        (Some(stored("1", Some("you"), Some(40))), 39, Action::Leave),
        (Some(stored("1", Some("you"), Some(40))), 40, Action::Take),
        (Some(stored("1", Some("you"), None)), 14, Action::Leave),
        (Some(stored("1", Some("you"), Some(-1))), 15, Action::Take),
        (Some(stored("1", Some("you"), Some(i32::MAX))), 599, Action::Leave),
        (Some(stored("1", Some("you"), Some(i32::MAX))), 600, Action::Take),
        (Some(Stored { spec: None, ..stored("1", None, None) }), 0, Action::Take),
    ];
    for (lease, seconds, expected) in table {
        let seen = observe(None, lease.as_ref(), begun);
        assert_eq!(decide(seen.as_ref(), "me", after(seconds)), expected, "{lease:?} after {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_change_starts_the_term_anew() {
    let begun = Instant::now();
    let later = begun + Duration::from_secs(10);
    let seen = observe(None, Some(&stored("1", Some("you"), Some(15))), begun);
    let same = observe(seen.clone(), Some(&stored("1", Some("you"), Some(15))), later);
    assert_eq!(same, seen);
    let renewed = observe(seen, Some(&stored("2", Some("you"), Some(15))), later);
    assert_eq!(decide(renewed.as_ref(), "me", begun + Duration::from_secs(24)), Action::Leave);
    assert_eq!(decide(renewed.as_ref(), "me", begun + Duration::from_secs(25)), Action::Take);
    assert_eq!(observe(renewed, None, later), None);
}

#[test]
fn a_leader_stops_before_anybody_can_follow() {
    assert!(GOOD_FOR + MARGIN <= TERM && RENEW_EVERY + TRY <= GOOD_FOR && TRY * 3 <= TERM);
}

// === an API server with one Lease, which may fail for some of its clients ===

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mode {
    Works,
    /// Answers nothing.
    Hangs,
    /// Answers 503.
    Fails,
    /// Answers a second and a half later.
    Lags,
}

#[derive(Default)]
struct Object {
    version: u64,
    stored: Option<Value>,
}

#[derive(Clone)]
struct Server {
    object: Arc<Mutex<Object>>,
    modes: Arc<Mutex<BTreeMap<&'static str, Mode>>>,
    /// Holders as they were written, in order.
    writes: watch::Sender<Vec<String>>,
}

impl Server {
    fn new() -> Self {
        Self { object: Arc::default(), modes: Arc::default(), writes: watch::channel(Vec::new()).0 }
    }

    fn becomes(&self, mode: Mode, replica: &'static str) {
        self.modes.lock().insert(replica, mode);
    }

    fn contender(&self, replica: &'static str) -> (Lease, Leadership) {
        let server = self.clone();
        let service = tower::service_fn(move |request| server.clone().handle(replica, request));
        Lease::new(Client::new(service, "quarantine"), "quarantine", "lazaretto", replica)
    }

    async fn handle(self, replica: &'static str, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let mode = self.modes.lock().get(replica).copied().unwrap_or(Mode::Works);
        let (parts, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        Ok(match mode {
            Mode::Hangs => std::future::pending().await,
            Mode::Fails => failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            Mode::Works | Mode::Lags => {
                let response = self.store(&parts.method, parts.uri.path(), body);
                // The caller polls this: let it stop here, with the write stored and the answer on its way.
                tokio::task::yield_now().await;
                if mode == Mode::Lags {
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                }
                response
            }
        })
    }

    fn store(&self, method: &Method, path: &str, body: Value) -> Response<Body> {
        let mut object = self.object.lock();
        match (method, path, &object.stored) {
            (&Method::GET, ONE, Some(lease)) => answer(StatusCode::OK, lease),
            (&Method::GET, ONE, None) => failure(StatusCode::NOT_FOUND, "NotFound"),
            (&Method::POST, ALL, None) => answer(StatusCode::CREATED, &self.put(&mut object, body)),
            (&Method::POST, ALL, Some(_)) => failure(StatusCode::CONFLICT, "AlreadyExists"),
            (&Method::PUT, ONE, Some(old)) if old["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"] => {
                answer(StatusCode::OK, &self.put(&mut object, body))
            }
            (&Method::PUT, ONE, _) => failure(StatusCode::CONFLICT, "Conflict"),
            (method, path, _) => panic!("unexpected {method} {path}"),
        }
    }

    fn put(&self, object: &mut Object, mut lease: Value) -> Value {
        object.version += 1;
        lease["metadata"]["resourceVersion"] = json!(object.version.to_string());
        object.stored = Some(lease.clone());
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or("nobody").split('_').next().unwrap().to_owned();
        self.writes.send_modify(|writes| writes.push(holder));
        lease
    }

    /// Changes the Lease as a person would.
    fn edit(&self, edit: impl FnOnce(&mut Value)) {
        let mut object = self.object.lock();
        let mut lease = object.stored.clone().unwrap();
        edit(&mut lease);
        self.put(&mut object, lease);
    }
}

fn answer(code: StatusCode, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap()
}

fn failure(code: StatusCode, reason: &str) -> Response<Body> {
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16()}),
    )
}

async fn claimed(leadership: &mut Leadership) -> Claim {
    let wait = leadership.wait_for(Option::is_some);
    tokio::time::timeout(Duration::from_secs(600), wait).await.expect("to lead").unwrap().clone().unwrap()
}

async fn lost(leadership: &mut Leadership) {
    let wait = leadership.wait_for(Option::is_none);
    tokio::time::timeout(Duration::from_secs(600), wait).await.expect("to stop leading").unwrap();
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_one_leads_and_keeps_leading() {
    let server = Server::new();
    let stop = CancellationToken::new();
    let [first, second] = ["one", "two"].map(|name| {
        let (lease, leadership) = server.contender(name);
        tokio::spawn(lease.run(stop.clone()));
        leadership
    });
    pass(600).await;
    let claims: Vec<_> = [first, second].iter().filter_map(|leadership| leadership.borrow().clone()).collect();
    let [claim] = claims.as_slice() else { panic!("{claims:?}") };
    assert_eq!((claim.term(), claim.is_current()), (1, true));
    let writes = server.writes.borrow().clone();
    assert!(writes.iter().all(|holder| *holder == writes[0]), "{writes:?}");
    assert_eq!(writes.len(), 120, "one write per renewal");
}

#[tokio::test(start_paused = true)]
async fn the_one_that_meets_a_conflict_does_not_lead() {
    let (service, mut api) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let (lease, leadership) = Lease::new(Client::new(service, "quarantine"), "quarantine", "lazaretto", "me");
    tokio::spawn(lease.run(CancellationToken::new()));
    let mut script = async |method: Method, path: &str, response: Response<Body>| {
        let (request, send) = api.next_request().await.unwrap();
        assert_eq!((request.method(), request.uri().path()), (&method, path));
        send.send_response(response);
        serde_json::from_slice::<Value>(&request.into_body().collect_bytes().await.unwrap()).unwrap_or_default()
    };
    let theirs = |version: &str| answer(StatusCode::OK, &serde_json::to_value(stored(version, Some("you"), Some(15))).unwrap());

    // Both create, they are first.
    script(Method::GET, ONE, failure(StatusCode::NOT_FOUND, "NotFound")).await;
    let made = script(Method::POST, ALL, failure(StatusCode::CONFLICT, "AlreadyExists")).await;
    assert_eq!((&made["metadata"]["name"], &made["spec"]["leaseDurationSeconds"]), (&json!("lazaretto"), &json!(15)));
    // They go silent, both take over, another is first.
    script(Method::GET, ONE, theirs("4")).await;
    let seen = Instant::now();
    let mut looks = 0;
    while seen.elapsed() < Duration::from_secs(15) {
        script(Method::GET, ONE, theirs("4")).await;
        looks += 1;
    }
    let taken = script(Method::PUT, ONE, failure(StatusCode::CONFLICT, "Conflict")).await;
    assert_eq!((&taken["metadata"]["resourceVersion"], &taken["spec"]["leaseTransitions"]), (&json!("4"), &json!(1)));
    script(Method::GET, ONE, theirs("5")).await;
    assert_eq!(looks, 8, "one every two seconds");
    assert!(leadership.borrow().is_none());
    assert!(!leadership.has_changed().unwrap(), "it never led");
}

#[tokio::test(start_paused = true)]
async fn a_follower_takes_over_when_the_leader_is_gone_whatever_its_clock_said() {
    for renewed in ["1999-01-01T00:00:00.000000Z", "2199-01-01T00:00:00.000000Z"] {
        let server = Server::new();
        let (lease, mut leadership) = server.contender("dead");
        let task = tokio::spawn(lease.run(CancellationToken::new()));
        claimed(&mut leadership).await;
        task.abort();
        server.edit(|lease| lease["spec"]["renewTime"] = json!(renewed));

        let begun = Instant::now();
        let (lease, mut leadership) = server.contender("heir");
        tokio::spawn(lease.run(CancellationToken::new()));
        assert_eq!(claimed(&mut leadership).await.term(), 2);
        assert!((TERM..TERM + LOOK_EVERY).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_reach_the_api_server_stops_before_another_leads() {
    for mode in [Mode::Hangs, Mode::Fails] {
        let server = Server::new();
        let (lease, mut cut_off) = server.contender("one");
        tokio::spawn(lease.run(CancellationToken::new()));
        let claim = claimed(&mut cut_off).await;
        let (lease, mut heir) = server.contender("two");
        tokio::spawn(lease.run(CancellationToken::new()));
        pass(60).await;
        assert!(claim.is_current() && heir.borrow().is_none());

        server.becomes(mode, "one");
        let begun = Instant::now();
        lost(&mut cut_off).await;
        let stopped = begun.elapsed();
        assert!(!claim.is_current() && heir.borrow().is_none());
        assert!(stopped <= GOOD_FOR, "{mode:?}: {stopped:?}");
        assert_eq!(claimed(&mut heir).await.term(), 2);
        assert!(begun.elapsed() >= stopped + MARGIN, "{mode:?}: {stopped:?}, {:?}", begun.elapsed());

        // And follows when it comes back.
        server.becomes(Mode::Works, "one");
        pass(60).await;
        assert!(cut_off.borrow().is_none() && heir.borrow().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_counts_from_before_its_request() {
    let server = Server::new();
    server.becomes(Mode::Lags, "one");
    let begun = Instant::now();
    let (lease, mut leadership) = server.contender("one");
    tokio::spawn(lease.run(CancellationToken::new()));
    let claim = claimed(&mut leadership).await;
    assert_eq!((begun.elapsed(), claim.ends()), (Duration::from_secs(3), Some(begun + GOOD_FOR)));
    pass(6).await;
    assert_eq!(claim.ends(), Some(begun + RENEW_EVERY + GOOD_FOR));
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_over_when_its_answer_comes_is_not_announced() {
    let server = Server::new();
    let (lease, leadership) = server.contender("one");
    let mut leader = Box::pin(lease.run(CancellationToken::new()));
    let mut writes = server.writes.subscribe();
    freeze_after(&mut leader, async { writes.wait_for(|writes| writes.len() == 1).await.map(drop) }).await.unwrap();
    pass(60).await;
    // It thaws for as long as it takes to read the answer.
    assert!(std::future::poll_fn(|cx| Poll::Ready(leader.as_mut().poll(cx).is_pending())).await);
    assert!(!leadership.has_changed().unwrap());
    freeze_after(&mut leader, pass(5)).await;
    assert_eq!(leadership.borrow().as_ref().map(Claim::term), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_costs_no_leadership() {
    let server = Server::new();
    let (lease, mut leadership) = server.contender("one");
    tokio::spawn(lease.run(CancellationToken::new()));
    let claim = claimed(&mut leadership).await;
    pass(1).await;
    server.becomes(Mode::Fails, "one");
    pass(8).await;
    server.becomes(Mode::Works, "one");
    pass(60).await;
    assert!(claim.is_current());
    assert_eq!(leadership.borrow().as_ref().map(Claim::term), Some(1));
}

/// Polls the leader only until `event`: what follows happens while it is frozen.
async fn freeze_after<T>(leader: &mut (impl Future<Output = ()> + Unpin), event: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        happened = event => happened,
        () = leader => panic!("it ended"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_leader_knows_at_its_next_check_that_its_time_is_over() {
    let server = Server::new();
    let (lease, mut frozen) = server.contender("one");
    let mut leader = Box::pin(lease.run(CancellationToken::new()));
    let claim = freeze_after(&mut leader, claimed(&mut frozen)).await;
    let (lease, mut heir) = server.contender("two");
    tokio::spawn(lease.run(CancellationToken::new()));
    assert_eq!(claimed(&mut heir).await.term(), 2);

    // Nobody told it: the task that would say so has not run.
    assert!(frozen.borrow().is_some());
    assert!(!claim.is_current());

    freeze_after(&mut leader, pass(60)).await;
    assert!(frozen.borrow().is_none() && heir.borrow().as_ref().is_some_and(Claim::is_current));
    let writes = server.writes.borrow().clone();
    assert_eq!(writes.iter().rposition(|holder| holder == "one"), Some(0), "{writes:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_a_frozen_leader_finds_when_it_thaws_prolongs_nothing() {
    let server = Server::new();
    let (lease, mut frozen) = server.contender("one");
    let mut leader = Box::pin(lease.run(CancellationToken::new()));
    let claim = freeze_after(&mut leader, claimed(&mut frozen)).await;
    // Stopped with the renewal stored and its answer unread.
    let mut writes = server.writes.subscribe();
    freeze_after(&mut leader, async { writes.wait_for(|writes| writes.len() == 2).await.map(drop) }).await.unwrap();
    let (lease, mut heir) = server.contender("two");
    tokio::spawn(lease.run(CancellationToken::new()));
    claimed(&mut heir).await;
    assert!(!claim.is_current());

    freeze_after(&mut leader, pass(60)).await;
    assert!(!claim.is_current() && frozen.borrow().is_none());
    assert!(heir.borrow().as_ref().is_some_and(Claim::is_current));
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_ended_never_comes_back() {
    let server = Server::new();
    let (lease, mut leadership) = server.contender("one");
    tokio::spawn(lease.run(CancellationToken::new()));
    let first = claimed(&mut leadership).await;
    server.becomes(Mode::Hangs, "one");
    lost(&mut leadership).await;
    server.becomes(Mode::Works, "one");
    let second = claimed(&mut leadership).await;
    assert_eq!((first.term(), first.is_current(), second.term(), second.is_current()), (1, false, 2, true));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_a_short_freeze_made_late_is_a_new_claim() {
    let server = Server::new();
    let (lease, mut leadership) = server.contender("one");
    let mut leader = Box::pin(lease.run(CancellationToken::new()));
    let claim = freeze_after(&mut leader, claimed(&mut leadership)).await;
    freeze_after(&mut leader, pass(1)).await;
    server.becomes(Mode::Fails, "one");
    freeze_after(&mut leader, pass(7)).await;
    server.becomes(Mode::Works, "one");
    let mut writes = server.writes.subscribe();
    freeze_after(&mut leader, async { writes.wait_for(|writes| writes.len() == 2).await.map(drop) }).await.unwrap();
    pass(3).await;
    assert!(!claim.is_current(), "it was seen to end");

    freeze_after(&mut leader, pass(5)).await;
    assert!(!claim.is_current());
    assert_eq!(leadership.borrow().as_ref().map(Claim::term), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_claim_ends_by_the_wall_clock_when_the_machine_was_suspended() {
    let until = Until::beginning_now();
    let woken = Until { wall: Timestamp::now() - SignedDuration::from_secs(1), ..until };
    let claim = |until| Claim { term: 1, until: Arc::new(Mutex::new(Some(until))) };
    assert!(claim(until).is_current());
    assert!(!claim(woken).is_current() && !claim(woken).prolong(until));
}

#[tokio::test(start_paused = true)]
async fn a_label_set_by_a_person_costs_no_leadership_and_stays() {
    let server = Server::new();
    let (lease, mut leadership) = server.contender("one");
    tokio::spawn(lease.run(CancellationToken::new()));
    let claim = claimed(&mut leadership).await;
    server.edit(|lease| lease["metadata"]["labels"] = json!({"team": "security"}));
    pass(60).await;
    assert!(claim.is_current());
    assert_eq!(server.object.lock().stored.as_ref().unwrap()["metadata"]["labels"], json!({"team": "security"}));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_leaves_lets_another_lead_at_once() {
    let server = Server::new();
    let stop = CancellationToken::new();
    let (lease, mut leadership) = server.contender("one");
    let task = tokio::spawn(lease.run(stop.clone()));
    let claim = claimed(&mut leadership).await;
    let (lease, mut heir) = server.contender("two");
    tokio::spawn(lease.run(CancellationToken::new()));
    pass(20).await;

    stop.cancel();
    task.await.unwrap();
    assert!(!claim.is_current() && leadership.borrow().is_none());
    let begun = Instant::now();
    assert_eq!(claimed(&mut heir).await.term(), 2);
    assert!(begun.elapsed() <= LOOK_EVERY, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_leaves_frees_nothing() {
    let server = Server::new();
    let (lease, mut leadership) = server.contender("one");
    tokio::spawn(lease.run(CancellationToken::new()));
    claimed(&mut leadership).await;
    let stop = CancellationToken::new();
    let (lease, _) = server.contender("two");
    let task = tokio::spawn(lease.run(stop.clone()));
    pass(20).await;
    stop.cancel();
    task.await.unwrap();
    assert!(!server.writes.borrow().contains(&"nobody".to_owned()));
}

#[tokio::test]
async fn two_processes_never_bear_one_identity() {
    let server = Server::new();
    let [one, two] = ["pod", "pod"].map(|name| server.contender(name).0);
    assert!(one.identity().starts_with("pod_") && one.identity() != two.identity());
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_made_with_its_owners() {
    let server = Server::new();
    let (lease, mut leadership) = server.contender("one");
    let account =
        OwnerReference { api_version: "v1".into(), kind: "ServiceAccount".into(), name: "a".into(), uid: "u".into(), ..<_>::default() };
    tokio::spawn(lease.owned_by(vec![account]).run(CancellationToken::new()));
    claimed(&mut leadership).await;
    let owners = || server.object.lock().stored.clone().unwrap()["metadata"]["ownerReferences"].clone();
    assert_eq!(owners(), json!([{"apiVersion": "v1", "kind": "ServiceAccount", "name": "a", "uid": "u"}]));
    server.edit(|lease| drop(lease["metadata"].as_object_mut().unwrap().remove("ownerReferences")));
    pass(20).await;
    assert_eq!(owners(), Value::Null, "set when it is made, never later");
}
