use std::sync::LazyLock;

use http::{Method, Request, Response, StatusCode};
use jiff::SignedDuration;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower_test::mock::{Handle, SendResponse};

use super::{plan::verifies, *};

mod travel;

const DAY: SignedDuration = SignedDuration::from_hours(24);

static START: LazyLock<Timestamp> = LazyLock::new(|| "2026-01-01T00:00:00Z".parse().unwrap());

fn names() -> Names {
    Names::new("lazaretto", "quarantine", &["127.0.0.1".to_owned()]).unwrap()
}

fn step(contents: &Contents, confirmed: &[u8], now: Timestamp) -> Step {
    plan(contents, &names().0, confirmed, now)
}

fn after(step: Step, contents: &Contents, now: Timestamp) -> Contents {
    carry_out(step, contents.clone(), &names().0, now).unwrap()
}

fn created(now: Timestamp) -> Contents {
    after(Step::Create, &Contents::default(), now)
}

fn served(contents: &Contents, bundle: &[u8], now: Timestamp) -> bool {
    verifies(&contents.leaf.as_ref().unwrap().certificate.der, &names().0, bundle, now)
}

// === the plan ===

#[test]
fn nothing_or_nothing_readable_is_created() {
    assert_eq!(step(&Contents::default(), &[], *START), Step::Create);
    let garbage = ["ca.crt", "ca.key", "tls.crt", "tls.key"].map(|key| (key.to_owned(), ByteString(b"garbage".to_vec())));
    assert_eq!(Contents::read(&garbage.into()), Contents::default());
}

#[test]
fn what_was_created_is_kept_until_two_thirds_of_the_leaf() {
    let contents = created(*START);
    assert_eq!(step(&contents, &[], *START), Step::Keep);
    assert_eq!(step(&contents, &[], *START + DAY * 59), Step::Keep);
    assert_eq!(step(&contents, &[], *START + DAY * 60), Step::RenewLeaf);
}

#[test]
fn content_survives_the_secret() {
    let contents = after(Step::AnnounceAuthority, &created(*START), *START);
    let mut data = BTreeMap::new();
    contents.write(&mut data);
    assert_eq!(Contents::read(&data), contents);
}

#[test]
fn a_key_of_another_certificate_is_no_pair() {
    let mut data = BTreeMap::new();
    created(*START).write(&mut data);
    let other = created(*START).leaf.unwrap().key;
    data.insert("tls.key".to_owned(), ByteString(other));
    let contents = Contents::read(&data);
    assert_eq!((contents.leaf.is_none(), contents.authority.is_some()), (true, true));
    assert_eq!(step(&contents, &[], *START), Step::RenewLeaf);
}

#[test]
fn a_leaf_is_no_authority() {
    let mut data = BTreeMap::new();
    let contents = created(*START);
    let leaf = contents.leaf.clone();
    Contents { authority: leaf.clone(), next: leaf, ..contents }.write(&mut data);
    let contents = Contents::read(&data);
    assert_eq!((&contents.authority, &contents.next), (&None, &None));
    assert_eq!(step(&contents, &[], *START), Step::Create);
}

#[test]
fn a_leaf_of_another_authority_is_renewed() {
    let contents = Contents { leaf: created(*START).leaf, ..created(*START) };
    assert_eq!(step(&contents, &[], *START), Step::RenewLeaf);
}

#[test]
fn a_leaf_without_a_wanted_name_is_renewed() {
    let more = Names::new("lazaretto", "quarantine", &["webhook.example.org".to_owned()]).unwrap();
    assert_eq!(plan(&created(*START), &more.0, &[], *START), Step::RenewLeaf);
}

#[test]
fn an_authority_that_is_over_is_created_anew_and_leaves_room_for_its_last_leaf() {
    let contents = created(*START);
    let late = *START + DAY * 730;
    assert_eq!(step(&contents, &[], late - DAY), Step::RenewLeaf);
    assert_eq!(step(&contents, &[], late), Step::Create);
    let anew = after(Step::Create, &contents, late);
    assert_eq!(step(&anew, &[], late), Step::Keep);
    assert_eq!(anew.previous, contents.authority.map(|authority| authority.certificate));
}

#[test]
fn an_authority_from_the_future_is_created_anew() {
    assert_eq!(step(&created(*START + DAY), &[], *START), Step::Create);
}

#[test]
fn a_new_authority_signs_only_when_it_is_trusted_everywhere_and_an_hour_old() {
    let due = *START + DAY * 487;
    let old = after(Step::RenewLeaf, &created(*START), due);
    assert_eq!(step(&old, &[], due), Step::AnnounceAuthority);
    let announced = after(Step::AnnounceAuthority, &old, due);
    assert_eq!(announced.leaf, old.leaf);

    let hour = SignedDuration::from_hours(1);
    assert_eq!(step(&announced, &announced.bundle(), due + hour - SignedDuration::from_secs(1)), Step::Keep);
    assert_eq!(step(&announced, &old.bundle(), due + hour), Step::Keep);
    assert_eq!(step(&announced, &announced.bundle(), due + hour), Step::PromoteAuthority);

    let promoted = after(Step::PromoteAuthority, &announced, due + hour);
    assert!(served(&promoted, &announced.bundle(), due + hour));
    assert!(served(&old, &promoted.bundle(), due + hour));
    // Why there is an announcement at all:
    assert!(!served(&promoted, &old.bundle(), due + hour));
}

#[test]
fn without_a_confirmation_the_new_authority_signs_at_five_sixths() {
    let due = *START + DAY * 487;
    let announced = after(Step::AnnounceAuthority, &created(*START), due);
    let fresh = |now| after(Step::RenewLeaf, &announced, now);
    assert_eq!(step(&fresh(*START + DAY * 608), &[], *START + DAY * 608), Step::Keep);
    assert_eq!(step(&fresh(*START + DAY * 609), &[], *START + DAY * 609), Step::PromoteAuthority);
}

#[test]
fn an_announced_authority_takes_over_from_one_that_is_lost() {
    let announced = after(Step::AnnounceAuthority, &created(*START), *START);
    let lost = Contents { authority: None, ..announced };
    assert_eq!(step(&lost, &[], *START), Step::PromoteAuthority);
}

#[test]
fn the_key_of_a_previous_authority_is_gone() {
    let announced = after(Step::AnnounceAuthority, &created(*START), *START);
    let old = announced.authority.clone().unwrap().key;
    let mut data = BTreeMap::new();
    announced.write(&mut data);
    after(Step::PromoteAuthority, &announced, *START).write(&mut data);
    assert!(!data.values().any(|value| value.0 == old));
    assert!(!data.contains_key("next-ca.key"));
}

#[test]
fn debug_shows_no_key() {
    let contents = after(Step::AnnounceAuthority, &created(*START), *START);
    let text = format!("{contents:?}");
    for pair in [&contents.leaf, &contents.authority, &contents.next] {
        assert!(!text.contains(&format!("{:?}", pair.as_ref().unwrap().key)));
    }
    assert!(text.contains("leaf: Some(Pair { not_after: 2026-04-01T00:00:00Z, .. })"), "{text}");
}

#[test]
fn names_are_those_of_the_service_and_the_extra_ones() {
    let names = names().0;
    let expected = ["lazaretto.quarantine.svc", "lazaretto.quarantine.svc.cluster.local", "lazaretto.quarantine", "127.0.0.1"]
        .map(|name| ServerName::try_from(name).unwrap());
    assert_eq!(names, expected);
    assert_eq!(
        Names::new("a", "b", &["not a name".to_owned()]).unwrap_err().to_string(),
        "\"not a name\" is neither a DNS name nor an IP address"
    );
}

// === the turn, against a scripted API server ===

const ONE: &str = "/api/v1/namespaces/quarantine/secrets/lazaretto-tls";
const ALL: &str = "/api/v1/namespaces/quarantine/secrets";

type Api = Handle<Request<Body>, Response<Body>>;

fn settings() -> Settings {
    Settings { namespace: "quarantine".to_owned(), secret: "lazaretto-tls".to_owned(), names: names(), owners: Vec::new() }
}

fn authority(client: Client) -> (Authority, Trust, Arc<CurrentCertificate>) {
    let certificate = Arc::new(CurrentCertificate::default());
    let (authority, trust) = Authority::new(client, settings(), certificate.clone());
    (authority, trust, certificate)
}

fn scripted() -> (Authority, Trust, Arc<CurrentCertificate>, Api) {
    let (service, api) = tower_test::mock::pair();
    let (authority, trust, certificate) = authority(Client::new(service, "quarantine"));
    (authority, trust, certificate, api)
}

async fn expect(api: &mut Api, method: Method, path: &str) -> (Value, SendResponse<Response<Body>>) {
    let (request, send) = api.next_request().await.expect("a call");
    assert_eq!((request.method(), request.uri().path()), (&method, path));
    let body = request.into_body().collect_bytes().await.unwrap();
    (serde_json::from_slice(&body).unwrap_or_default(), send)
}

fn answer(code: StatusCode, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap()
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16()}),
    )
}

fn secret(contents: &Contents, version: &str) -> Value {
    let mut data = BTreeMap::new();
    contents.write(&mut data);
    json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": "lazaretto-tls", "resourceVersion": version}, "data": data})
}

fn contents_of(secret: &Value) -> Contents {
    Contents::read(&serde_json::from_value(secret["data"].clone()).unwrap())
}

fn text(pem: Vec<u8>) -> String {
    String::from_utf8(pem).unwrap()
}

fn in_use(trust: &Trust, certificate: &CurrentCertificate) -> (Option<String>, Option<Timestamp>) {
    (trust.bundle().borrow().clone().map(text), certificate.not_after())
}

fn of(contents: &Contents) -> (Option<String>, Option<Timestamp>) {
    (Some(text(contents.bundle())), Some(contents.leaf.as_ref().unwrap().certificate.not_after))
}

#[tokio::test]
async fn a_missing_secret_is_created_and_used_as_it_is_read_back() {
    let (mut authority, trust, certificate, mut api) = scripted();
    let server = async {
        expect(&mut api, Method::GET, ONE).await.1.send_response(status(StatusCode::NOT_FOUND, "NotFound"));
        let (mut made, send) = expect(&mut api, Method::POST, ALL).await;
        assert_eq!((&made["type"], &made["metadata"]["name"]), (&json!("Opaque"), &json!("lazaretto-tls")));
        made["metadata"]["resourceVersion"] = json!("1");
        send.send_response(answer(StatusCode::CREATED, &made));
        expect(&mut api, Method::GET, ONE).await.1.send_response(answer(StatusCode::OK, &made));
        contents_of(&made)
    };
    let (turn, made) = tokio::join!(authority.turn(*START), server);
    turn.unwrap();
    assert_eq!(in_use(&trust, &certificate), of(&made));
}

#[tokio::test]
async fn the_loser_of_a_creation_takes_what_the_winner_made() {
    let (mut authority, trust, certificate, mut api) = scripted();
    let theirs = created(*START);
    let server = async {
        expect(&mut api, Method::GET, ONE).await.1.send_response(status(StatusCode::NOT_FOUND, "NotFound"));
        expect(&mut api, Method::POST, ALL).await.1.send_response(status(StatusCode::CONFLICT, "AlreadyExists"));
        expect(&mut api, Method::GET, ONE).await.1.send_response(answer(StatusCode::OK, &secret(&theirs, "1")));
    };
    let (turn, ()) = tokio::join!(authority.turn(*START), server);
    turn.unwrap();
    assert_eq!(in_use(&trust, &certificate), of(&theirs));
}

#[tokio::test]
async fn the_loser_of_a_renewal_reads_again() {
    let (mut authority, trust, certificate, mut api) = scripted();
    let now = *START + DAY * 60;
    let old = created(*START);
    let theirs = after(Step::RenewLeaf, &old, now);
    let server = async {
        expect(&mut api, Method::GET, ONE).await.1.send_response(answer(StatusCode::OK, &secret(&old, "7")));
        let (ours, send) = expect(&mut api, Method::PUT, ONE).await;
        assert_eq!(ours["metadata"]["resourceVersion"], "7");
        assert_eq!(contents_of(&ours).authority, old.authority);
        send.send_response(status(StatusCode::CONFLICT, "Conflict"));
        expect(&mut api, Method::GET, ONE).await.1.send_response(answer(StatusCode::OK, &secret(&theirs, "8")));
    };
    let (turn, ()) = tokio::join!(authority.turn(now), server);
    turn.unwrap();
    assert_eq!(in_use(&trust, &certificate), of(&theirs));
}

#[tokio::test]
async fn an_unreadable_secret_is_written_anew_and_keeps_what_is_not_ours() {
    let (mut authority, trust, certificate, mut api) = scripted();
    let server = async {
        let unreadable = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "lazaretto-tls", "resourceVersion": "3", "labels": {"team": "security"}},
            "data": {"tls.crt": "Z2FyYmFnZQ==", "tls.key": "", "note": "a2VlcA=="}});
        expect(&mut api, Method::GET, ONE).await.1.send_response(answer(StatusCode::OK, &unreadable));
        let (mut ours, send) = expect(&mut api, Method::PUT, ONE).await;
        assert_eq!((&ours["type"], &ours["data"]["note"]), (&json!("kubernetes.io/tls"), &json!("a2VlcA==")));
        assert_eq!(ours["metadata"], unreadable["metadata"]);
        ours["metadata"]["resourceVersion"] = json!("4");
        send.send_response(answer(StatusCode::OK, &ours));
        expect(&mut api, Method::GET, ONE).await.1.send_response(answer(StatusCode::OK, &ours));
        contents_of(&ours)
    };
    let (turn, ours) = tokio::join!(authority.turn(*START), server);
    turn.unwrap();
    assert_eq!(in_use(&trust, &certificate), of(&ours));
}

#[tokio::test]
async fn what_cannot_be_renewed_is_used_while_it_lasts() {
    let (mut authority, trust, certificate, mut api) = scripted();
    let now = *START + DAY * 70;
    let old = created(*START);
    let server = async {
        expect(&mut api, Method::GET, ONE).await.1.send_response(answer(StatusCode::OK, &secret(&old, "7")));
        expect(&mut api, Method::PUT, ONE).await.1.send_response(status(StatusCode::FORBIDDEN, "Forbidden"));
    };
    let (turn, ()) = tokio::join!(authority.turn(now), server);
    assert!(matches!(turn, Err(Error::Kube(kube::Error::Api(status))) if status.is_forbidden()));
    assert_eq!(in_use(&trust, &certificate), of(&old));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_not_waited_for() {
    let (mut authority, _trust, _certificate, _api) = scripted();
    let begun = Instant::now();
    assert!(matches!(authority.turn(*START).await, Err(Error::Slow)));
    assert_eq!(begun.elapsed(), CALL);
}

// === running, against an API server that stores and watches ===

/// One Secret with compare-and-swap, and watches that report its changes.
#[derive(Clone)]
struct Store(Arc<Mutex<(u64, Option<Value>)>>, watch::Sender<u64>);

impl Store {
    fn new() -> Self {
        Self(Arc::default(), watch::channel(0).0)
    }

    fn put(&self, mut object: Value) -> Value {
        let mut stored = self.0.lock();
        stored.0 += 1;
        object["metadata"]["resourceVersion"] = json!(stored.0.to_string());
        stored.1 = Some(object.clone());
        self.1.send_replace(stored.0);
        object
    }

    fn client(&self) -> Client {
        let store = self.clone();
        Client::new(tower::service_fn(move |request| store.clone().handle(request)), "quarantine")
    }

    async fn handle(self, request: Request<Body>) -> Result<Response<axum::body::Body>, std::convert::Infallible> {
        let (parts, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let (_, stored) = self.0.lock().clone();
        let query = parts.uri.query().unwrap_or_default();
        let plain = |response: Response<Body>| Ok(response.map(axum::body::Body::new));
        plain(match (parts.method, parts.uri.path(), stored) {
            (Method::GET, ONE, Some(object)) => answer(StatusCode::OK, &object),
            (Method::GET, ONE, None) => status(StatusCode::NOT_FOUND, "NotFound"),
            (Method::POST, ALL, None) => answer(StatusCode::CREATED, &self.put(body)),
            (Method::POST, ALL, Some(_)) => status(StatusCode::CONFLICT, "AlreadyExists"),
            (Method::PUT, ONE, Some(old)) if old["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"] => {
                answer(StatusCode::OK, &self.put(body))
            }
            (Method::PUT, ONE, _) => status(StatusCode::CONFLICT, "Conflict"),
            (Method::GET, ALL, stored) => {
                assert!(query.contains("fieldSelector=metadata.name%3Dlazaretto-tls"), "not allowed by name: {query}");
                if query.contains("watch=true") {
                    return Ok(Response::new(self.changes()));
                }
                let items: Vec<_> = stored.into_iter().collect();
                answer(
                    StatusCode::OK,
                    &json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {"resourceVersion": "1"}, "items": items}),
                )
            }
            (method, path, _) => panic!("unexpected {method} {path}"),
        })
    }

    fn changes(&self) -> axum::body::Body {
        let start = (self.clone(), self.1.subscribe());
        axum::body::Body::from_stream(futures::stream::unfold(start, async |(store, mut versions)| {
            versions.changed().await.ok()?;
            let line = format!("{}\n", json!({"type": "MODIFIED", "object": store.0.lock().1}));
            Some((Ok::<_, std::convert::Infallible>(line), (store, versions)))
        }))
    }
}

async fn until(bundle: &mut watch::Receiver<Option<Vec<u8>>>, expected: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let wait = bundle.wait_for(|bundle| bundle.as_deref().is_some_and(&expected));
    tokio::time::timeout(Duration::from_secs(3600), wait).await.expect("a bundle").unwrap().clone().unwrap()
}

#[tokio::test(start_paused = true)]
async fn two_replicas_serve_one_certificate_and_follow_the_secret() {
    let store = Store::new();
    let stop = CancellationToken::new();
    let replicas = [authority(store.client()), authority(store.client())].map(|(authority, trust, certificate)| {
        let task = tokio::spawn(authority.run(stop.clone()));
        (trust, certificate, task)
    });
    let mut bundles = Vec::new();
    for (trust, ..) in &replicas {
        bundles.push(until(&mut trust.bundle(), |_| true).await);
    }
    assert_eq!(bundles[0], bundles[1]);

    // Another hand renews: seen through the watch, well before the next tick.
    let begun = Instant::now();
    let now = Timestamp::now();
    let announced = after(Step::AnnounceAuthority, &contents_of(&store.0.lock().1.clone().unwrap()), now);
    let announced = after(Step::RenewLeaf, &announced, now - SignedDuration::from_mins(3));
    store.put(secret(&announced, ""));
    for (trust, certificate, _) in &replicas {
        until(&mut trust.bundle(), |bundle| bundle == announced.bundle()).await;
        assert_eq!(in_use(trust, certificate), of(&announced));
    }
    assert!(begun.elapsed() < TICK / 2, "{:?}", begun.elapsed());

    stop.cancel();
    for (.., task) in replicas {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_promotes() {
    let store = Store::new();
    let long_ago = Timestamp::now() - SignedDuration::from_hours(2);
    let announced = after(Step::AnnounceAuthority, &created(long_ago), long_ago);
    store.put(secret(&announced, ""));
    let (authority, trust, certificate) = authority(store.client());
    let stop = CancellationToken::new();
    tokio::spawn(authority.run(stop.clone()));
    let mut bundle = trust.bundle();
    let standing = until(&mut bundle, |_| true).await;
    assert_eq!(in_use(&trust, &certificate), of(&announced));

    trust.confirm(standing.clone());
    until(&mut bundle, |bundle| bundle != standing).await;
    let promoted = contents_of(&store.0.lock().1.clone().unwrap());
    assert_eq!(promoted.authority, announced.next);
    assert_eq!(in_use(&trust, &certificate), of(&promoted));
    stop.cancel();
}
