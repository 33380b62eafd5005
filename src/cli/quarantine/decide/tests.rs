use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};
use tower_test::mock::Handle;

use super::*;
use crate::api::{ImageStatusStatus, Transition};

const ONE: &str = "/apis/lazaretto.dev/v1alpha1/imagestatuses/0123-app";
const ALL: &str = "/apis/lazaretto.dev/v1alpha1/imagestatuses";

fn subject() -> String {
    format!("registry.corp/app@sha256:{}", "a".repeat(64))
}

/// An object of the second generation, dealt with.
fn object(state: State) -> ImageStatus {
    let mut object = ImageStatus::new("0123-app", ImageStatusSpec { subject: subject(), quarantine: None });
    object.metadata.generation = Some(2);
    object.metadata.resource_version = Some("7".into());
    let at = Timestamp::UNIX_EPOCH;
    object.status = Some(ImageStatusStatus {
        observed_generation: Some(2),
        state,
        provider: Provider::Managed,
        history: vec![Transition { number: 1, at, state, by: "lazaretto".into(), reason: "new".into() }],
        ..ImageStatusStatus::default()
    });
    object
}

fn decision(state: DecisionState, by: &str, expects: State) -> Decision {
    Decision { state, by: by.into(), reason: "scanned".into(), details: None, expects: Some(expects) }
}

fn order(state: DecisionState) -> Order {
    Order { state, by: "alice".into(), reason: "scanned".into(), details: None }
}

#[test]
fn a_decision_is_written_once() {
    let release = order(DecisionState::Released);
    let held = object(State::Quarantined);
    let written = decision(DecisionState::Released, "alice", State::Quarantined);
    assert_eq!(step(&held, &release), Step::Write(written.clone()));
    assert_eq!(step(&object(State::Released), &release), Step::There);

    let mut waits = held.clone();
    waits.metadata.generation = Some(3);
    waits.spec.quarantine = Some(Decision { by: "bob".into(), ..written.clone() });
    assert_eq!(step(&waits, &release), Step::Decided("bob".into()));
    let taken_back = Decision { expects: Some(State::Quarantined), ..decision(DecisionState::Quarantined, "alice", State::Quarantined) };
    assert_eq!(step(&waits, &order(DecisionState::Quarantined)), Step::Write(taken_back), "a release that is under way is taken back");

    let mut vain = held;
    vain.spec.quarantine = Some(written);
    assert_eq!(step(&vain, &release), Step::InVain(Some(State::Quarantined)));
}

/// Answers the calls of `work` by the script: method, path, status, body. Gives back what was sent.
async fn play<T>(script: Vec<(Method, &str, u16, Value)>, work: impl AsyncFnOnce(Client) -> T) -> (T, Vec<Value>) {
    let (service, handle): (_, Handle<Request<Body>, Response<Body>>) = tower_test::mock::pair();
    let server = async move {
        let mut handle = std::pin::pin!(handle);
        let mut bodies = Vec::new();
        for (method, path, status, body) in script {
            let (request, send) = handle.next_request().await.expect("one more call");
            assert_eq!((request.method(), request.uri().path()), (&method, path));
            bodies.push(serde_json::from_slice(&request.into_body().collect_bytes().await.unwrap()).unwrap_or_default());
            let body = serde_json::to_vec(&body).unwrap();
            send.send_response(Response::builder().status(StatusCode::from_u16(status).unwrap()).body(Body::from(body)).unwrap());
        }
        assert!(handle.next_request().await.is_none(), "no call but those of the script");
        bodies
    };
    tokio::join!(work(Client::new(service, "default")), server)
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn value(object: &ImageStatus) -> Value {
    serde_json::to_value(object).unwrap()
}

async fn release(client: Client, found: Found) -> anyhow::Result<Done> {
    decide(&Api::all(client), found, &order(DecisionState::Released)).await
}

#[tokio::test]
async fn a_release_is_one_replace_with_what_it_was_decided_on() {
    let mut written = object(State::Quarantined);
    written.metadata.generation = Some(3);
    let found = Found::Object(Box::new(object(State::Quarantined)));
    let (done, sent) = play(vec![(Method::PUT, ONE, 200, value(&written))], async |client| release(client, found).await.unwrap()).await;
    assert_eq!(done.said, format!("{}: Quarantined -> Released by alice", subject()));
    assert_eq!(done.wait_for, Some(3));
    assert_eq!(sent[0]["metadata"]["resourceVersion"], "7");
    assert_eq!(sent[0]["spec"]["quarantine"], json!({"state": "Released", "by": "alice", "reason": "scanned", "expects": "Quarantined"}));
}

#[tokio::test]
async fn what_others_wrote_meanwhile_is_not_overwritten() {
    let conflict = || failure(409, "Conflict", "the object has been modified");
    let mut labelled = object(State::Quarantined);
    labelled.metadata.resource_version = Some("8".into());
    let script =
        vec![(Method::PUT, ONE, 409, conflict()), (Method::GET, ONE, 200, value(&labelled)), (Method::PUT, ONE, 200, value(&labelled))];
    let found = Found::Object(Box::new(object(State::Quarantined)));
    let (done, sent) = play(script, async |client| release(client, found).await).await;
    assert_eq!(done.unwrap().name, "0123-app");
    assert_eq!(sent[2]["metadata"]["resourceVersion"], "8");

    let script = vec![(Method::PUT, ONE, 409, conflict()), (Method::GET, ONE, 200, value(&object(State::Failed)))];
    let found = Found::Object(Box::new(object(State::Quarantined)));
    let (done, _) = play(script, async |client| release(client, found).await).await;
    let error = done.unwrap_err();
    assert!(error.is::<Refusal>());
    assert!(error.to_string().contains("is Failed by now, and was Quarantined when this was decided"), "{error}");
}

#[tokio::test]
async fn the_servers_no_is_shown_as_it_comes() {
    let said = "imagestatuses.lazaretto.dev \"0123-app\" is forbidden: mallory may not release it";
    let script = vec![(Method::PUT, ONE, 403, failure(403, "Forbidden", said))];
    let found = Found::Object(Box::new(object(State::Quarantined)));
    let (done, _) = play(script, async |client| release(client, found).await).await;
    let error = done.unwrap_err();
    assert!(error.is::<Refusal>());
    assert_eq!(error.to_string(), format!("cannot release {}: {said}", subject()));
}

#[tokio::test]
async fn nothing_is_released_in_advance_but_may_be_held() {
    let unknown: Subject = subject().parse().unwrap();
    let (done, _) = play(vec![], async |client| release(client, Found::Nothing(unknown.clone())).await).await;
    assert!(done.unwrap_err().to_string().starts_with(&format!("nothing is known of {unknown}, so there is nothing to release")));

    let name = unknown.object_name();
    let mut made = ImageStatus::new(&name, ImageStatusSpec { subject: subject(), quarantine: None });
    made.metadata.generation = Some(1);
    let hold = order(DecisionState::Quarantined);
    let script = vec![(Method::POST, ALL, 201, value(&made))];
    let (done, sent) = play(script, async |client| decide(&Api::all(client), Found::Nothing(unknown), &hold).await.unwrap()).await;
    assert_eq!((done.name, done.wait_for), (name.clone(), Some(1)));
    assert_eq!(sent[0]["metadata"]["name"], name);
    assert_eq!(sent[0]["spec"], json!({"subject": subject(), "quarantine": {"state": "Quarantined", "by": "alice", "reason": "scanned"}}));
}

#[tokio::test]
async fn the_name_of_the_decider_is_the_servers_to_say() {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer =
        json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "status": {"userInfo": {"username": "alice"}}});
    let (name, _) = play(vec![(Method::POST, path, 201, answer)], async |client| own_name(&client).await).await;
    assert_eq!(name.unwrap(), "alice");
}

/// A list as a watch begins with.
fn listed(object: &ImageStatus) -> Value {
    json!({"kind": "ImageStatusList", "apiVersion": "lazaretto.dev/v1alpha1", "metadata": {"resourceVersion": "9"}, "items": [value(object)]})
}

#[tokio::test]
async fn the_wait_ends_with_what_the_status_says() {
    for (state, exit) in [(State::Released, Exit::Done), (State::Quarantined, Exit::Refused)] {
        let script = vec![(Method::GET, ALL, 200, listed(&object(state)))];
        let patience = Duration::from_secs(10);
        let waited = async |client| wait(&Api::all(client), "0123-app", DecisionState::Released, 2, patience).await;
        let (ended, _) = play(script, waited).await;
        assert_eq!(ended.unwrap(), exit, "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_does_not_come_is_not_done_yet() {
    let (service, _handle): (_, Handle<Request<Body>, Response<Body>>) = tower_test::mock::pair();
    let api = Api::all(Client::new(service, "default"));
    let ended = wait(&api, "0123-app", DecisionState::Released, 2, Duration::from_secs(10)).await;
    assert_eq!(ended.unwrap(), Exit::NotYet);
    let ended = wait(&api, "0123-app", DecisionState::Released, 2, Duration::ZERO).await;
    assert_eq!(ended.unwrap(), Exit::Done, "who does not wait is not told");
}
