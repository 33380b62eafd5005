//! The router that the API server calls.
//!
//! | path | judges | how the API server's entry fails |
//! |---|---|---|
//! | `/validate/enforce` | policies in mode Enforce | closed |
//! | `/validate/observe` | policies in modes Warn and Audit: never refuses, whatever it cannot judge | open |
//! | `/validate` | every policy, for calls by hand | – |
//! | `/warn` | workload templates, by known facts | open |
//!
//! Every answer is an AdmissionReview with the request's uid and status 200: any other is a failed call to the API server, and
//! `failurePolicy` would decide. So nothing here may be refused by an extractor, and a panic is caught.

use std::{ops::Deref, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response as HttpResponse},
    routing::post,
};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::{
    gate::Gate,
    judgement::Scope,
    review::{self, Response},
};

/// Bytes that a review may have.
pub const MOST_BYTES: usize = 8 << 20;
/// Reviews that are worked on at once; further ones wait their turn. A review takes its place when its body is in: whoever sends none holds
/// a connection and nothing else.
const MOST_AT_ONCE: usize = 1_024;
/// What the bodies of all reviews may have together, in units of [`UNIT`]: 128 MiB. It is taken as they come, not as they are announced.
const ROOM: usize = 32_768;
/// Bytes.
const UNIT: usize = 4 << 10;
/// A body has to be in by then, whatever patience its sender claims: an API server sends it with the headers.
const BODY_PATIENCE: Duration = Duration::from_secs(2);
/// How long before the API server's patience ends an answer leaves.
const MARGIN: Duration = Duration::from_millis(1_500);
/// The patience of an API server that names none.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);

/// The query that the API server appends: `?timeout=10s`.
#[derive(Debug, Default, Deserialize)]
pub struct Patience {
    timeout: Option<String>,
}

impl Patience {
    /// When the answer must leave: the API server's patience (which it rounds up to whole seconds) less a margin, and never less
    /// than half of it.
    fn deadline(&self, now: Instant) -> Instant {
        let patience = self.timeout.as_deref().and_then(read_seconds).unwrap_or(DEFAULT_PATIENCE);
        now + patience.saturating_sub(MARGIN).max(patience / 2)
    }
}

/// Go's way of writing a duration, as far as the API server uses it: `10s`, `1m30s`, `2.5s`, `500ms`. At most 30 s.
fn read_seconds(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let (unit, length) = [("ms", 0.001), ("m", 60.0), ("s", 1.0)].into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total += number * length;
        rest = &rest[unit.len()..];
    }
    (total > 0.0).then(|| Duration::from_secs_f64(total.min(30.0)))
}

/// The routes.
pub fn router(gate: Arc<Gate>) -> Router {
    Router::new()
        .route("/validate", post(|state, query, body| validate(state, query, body, Scope::All)))
        .route("/validate/enforce", post(|state, query, body| validate(state, query, body, Scope::Enforce)))
        .route("/validate/observe", post(|state, query, body| validate(state, query, body, Scope::Observe)))
        .route("/warn", post(warn))
        .with_state(Arc::new(Door { gate, places: Semaphore::new(MOST_AT_ONCE), room: Semaphore::new(ROOM) }))
}

/// The gate, and what reviews may take of the machine.
struct Door {
    gate: Arc<Gate>,
    places: Semaphore,
    room: Semaphore,
}

type MaybePatience = Result<Query<Patience>, axum::extract::rejection::QueryRejection>;

async fn validate(State(door): State<Arc<Door>>, patience: MaybePatience, body: Body, scope: Scope) -> HttpResponse {
    let deadline = patience.map(|Query(patience)| patience).unwrap_or_default().deadline(Instant::now());
    let response = judge(&door, body, scope, deadline).await;
    answer(if scope == Scope::Observe { response.observed() } else { response })
}

async fn judge(door: &Door, body: Body, scope: Scope, deadline: Instant) -> Response {
    let (body, _room) = match collect(body, &door.room, deadline.min(Instant::now() + BODY_PATIENCE)).await {
        Ok(collected) => collected,
        Err(response) => return *response,
    };
    let Ok(_place) = tokio::time::timeout_at(deadline, door.places.acquire()).await else {
        let why = "too many reviews are being worked on: try again shortly";
        return Response::later(review::uid_of(&body).unwrap_or_default(), why.to_owned(), 2);
    };
    match review::read_pods(&body) {
        Err(error) => {
            door.gate.metrics.unreadable_requests.inc();
            Response::refuse(review::uid_of(&body).unwrap_or_default(), error.to_string())
        }
        Ok(request) => match AssertUnwindSafe(door.gate.review(&request, scope, deadline)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                tracing::error!(uid = %request.uid, "a review ended in a panic");
                Response::refuse(
                    request.uid.as_ref(),
                    "Lazaretto made an error of its own while judging this pod; its log has more".to_owned(),
                )
            }
        },
    }
}

async fn warn(State(door): State<Arc<Door>>, body: Body) -> HttpResponse {
    let (body, _room) = match collect(body, &door.room, Instant::now() + Duration::from_secs(1)).await {
        Ok(collected) => collected,
        Err(response) => return answer(Response::allow(response.uid)),
    };
    let response = match review::read(&body) {
        Err(_) => Response::allow(review::uid_of(&body).unwrap_or_default()),
        Ok(request) => std::panic::catch_unwind(AssertUnwindSafe(|| door.gate.warn(&request)))
            .unwrap_or_else(|_| Response::allow(request.uid.as_ref())),
    };
    answer(response)
}

/// Reads a body of at most [`MOST_BYTES`] before the deadline, or makes the refusal, with the uid where that much came.
async fn collect<'a>(body: Body, room: &'a Semaphore, deadline: Instant) -> Result<(Bytes, Option<SemaphorePermit<'a>>), Box<Response>> {
    let mut taken: Option<SemaphorePermit<'a>> = None;
    let mut stream = body.into_data_stream();
    let mut bytes = Gathered::default();
    let refuse = |bytes: &[u8], why: String| Err(Box::new(Response::refuse(review::uid_of(bytes).unwrap_or_default(), why)));
    loop {
        let chunk = match tokio::time::timeout_at(deadline, stream.next()).await {
            Ok(None) => return Ok((bytes.whole(), taken)),
            Ok(Some(Ok(chunk))) if bytes.len() + chunk.len() <= MOST_BYTES => chunk,
            Ok(Some(Ok(_))) => return refuse(&bytes, format!("the AdmissionReview is larger than {} MiB", MOST_BYTES >> 20)),
            Ok(Some(Err(_))) => return refuse(&bytes, "the AdmissionReview broke off".to_owned()),
            Err(_) => {
                let why = "the AdmissionReview did not arrive in time: try again shortly";
                return Err(Box::new(Response::later(review::uid_of(&bytes).unwrap_or_default(), why.to_owned(), 2)));
            }
        };
        bytes.add(chunk);
        let more = bytes.len().div_ceil(UNIT) - taken.as_ref().map_or(0, SemaphorePermit::num_permits);
        match tokio::time::timeout_at(deadline, room.acquire_many(u32::try_from(more).unwrap_or(u32::MAX))).await {
            Ok(Ok(permit)) => match &mut taken {
                Some(taken) => taken.merge(permit),
                None => taken = Some(permit),
            },
            Ok(Err(_)) | Err(_) => {
                let why = "too many reviews are being worked on: try again shortly";
                return Err(Box::new(Response::later(review::uid_of(&bytes).unwrap_or_default(), why.to_owned(), 2)));
            }
        }
    }
}

/// A body as it comes. One that comes in a single piece, as most do, is not copied.
#[derive(Default)]
enum Gathered {
    #[default]
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Gathered {
    fn add(&mut self, chunk: Bytes) {
        *self = match std::mem::take(self) {
            Self::Nothing => Self::One(chunk),
            Self::One(first) => {
                let mut many = BytesMut::with_capacity(2 * (first.len() + chunk.len()));
                many.extend_from_slice(&first);
                many.extend_from_slice(&chunk);
                Self::Many(many)
            }
            Self::Many(mut many) => {
                many.extend_from_slice(&chunk);
                Self::Many(many)
            }
        };
    }

    fn whole(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(one) => one,
            Self::Many(many) => many.freeze(),
        }
    }
}

impl Deref for Gathered {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}

fn answer(response: Response) -> HttpResponse {
    ([(CONTENT_TYPE, "application/json")], response.into_json()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_servers_patience_is_read_as_go_writes_it() {
        for (text, millis) in [("10s", 10_000), ("1m30s", 30_000), ("2.5s", 2_500), ("500ms", 500), ("1s", 1_000)] {
            assert_eq!(read_seconds(text).map(|patience| patience.as_millis()), Some(millis), "{text}");
        }
        for text in ["", "s", "10", "10h", "-1s", "0s", "1e9s", "nans"] {
            assert_eq!(read_seconds(text), None, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_leaves_before_the_patience_ends() {
        let now = Instant::now();
        let leaves = |timeout: Option<&str>| (Patience { timeout: timeout.map(str::to_owned) }.deadline(now) - now).as_millis();
        assert_eq!(leaves(Some("10s")), 8_500);
        assert_eq!(leaves(Some("2s")), 1_000, "half of a short one");
        assert_eq!(leaves(Some("rubbish")), 8_500);
        assert_eq!(leaves(None), 8_500);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_for_room_is_told_to_come_back() {
        let body = format!(r#"{{"request":{{"uid":"u-1","object":"{}"}}}}"#, "x".repeat(UNIT));
        let deadline = Instant::now() + Duration::from_secs(1);
        let (one, two) = (Semaphore::new(1), Semaphore::new(2));
        let response = collect(Body::from(body.clone()), &one, deadline).await.unwrap_err();
        let status = response.status.unwrap();
        assert_eq!((response.uid.as_str(), response.allowed, status.code), ("u-1", false, 504));
        assert_eq!(status.message, "too many reviews are being worked on: try again shortly");
        let (whole, room) = collect(Body::from(body.clone()), &two, deadline).await.unwrap();
        assert_eq!((whole, two.available_permits()), (body.into_bytes().into(), 0));
        drop(room);
        assert_eq!(two.available_permits(), 2);
    }

    /// Whoever sends no body holds nothing that others need, and is answered soon.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let room = Semaphore::new(1);
        let begun = Instant::now();
        let response = collect(never, &room, begun + BODY_PATIENCE).await.unwrap_err();
        assert_eq!(response.status.unwrap().message, "the AdmissionReview did not arrive in time: try again shortly");
        assert_eq!((begun.elapsed(), room.available_permits()), (BODY_PATIENCE, 1));
    }
}
