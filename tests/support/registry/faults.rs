//! What is done to the requests that a fault names.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{Method, header},
    response::Response,
};
use futures::{StreamExt as _, stream};

use super::{Recorded, respond};

/// What to do instead of, before or to the true answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Waits, then answers as ever.
    Delay(Duration),
    /// Takes the request and never answers.
    Hang,
    /// Sends the head of the true answer and the first byte of its body, and then nothing.
    HangInBody,
    /// Sends the head and half of the body, and closes the connection.
    BreakInBody,
    /// Another status, with headers and a body (none of it goes with a HEAD).
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The true answer with a header set, or removed when the value is empty.
    Header(&'static str, String),
    /// The true answer's head with other bytes.
    Body(Bytes),
    /// A success whose body never ends.
    EndlessBody,
    /// A body that a header announces to be larger than anybody would read.
    HugeLength,
}

impl Fault {
    /// The answer, given the true one.
    pub(super) async fn answer(self, request: &Recorded, truth: impl FnOnce() -> Response) -> Response {
        match self {
            Self::Delay(time) => {
                tokio::time::sleep(time).await;
                truth()
            }
            Self::Hang => std::future::pending().await,
            Self::Answer(status, headers, body) => {
                respond(status, &headers, if request.method == Method::HEAD { String::new() } else { body })
            }
            Self::Header(name, value) => {
                let mut response = truth();
                response.headers_mut().remove(name);
                if !value.is_empty() {
                    response.headers_mut().insert(name, value.parse().unwrap());
                }
                response
            }
            Self::Body(bytes) => {
                let mut response = truth();
                response.headers_mut().remove(header::CONTENT_LENGTH);
                *response.body_mut() = Body::from(bytes);
                response
            }
            Self::HangInBody => {
                let first = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"{")) });
                streamed(truth(), Body::from_stream(first.chain(stream::pending())))
            }
            Self::BreakInBody => {
                let broken = [Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("broken on purpose"))];
                streamed(truth(), Body::from_stream(stream::iter(broken)))
            }
            Self::EndlessBody => {
                let endless = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b' '; 16 << 10])));
                streamed(truth(), Body::from_stream(endless))
            }
            Self::HugeLength => {
                let mut response = streamed(truth(), Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()));
                response.headers_mut().insert(header::CONTENT_LENGTH, (1_u64 << 40).to_string().parse().unwrap());
                response
            }
        }
    }
}

/// A fault, for requests whose method is this (any when none) and whose path holds the text, so many times.
#[derive(Clone, Debug)]
struct Trap {
    method: Option<Method>,
    path: String,
    times: usize,
    fault: Fault,
}

/// Where faults wait for requests.
#[derive(Default)]
pub(super) struct Traps(Vec<Trap>);

impl Traps {
    /// Those that came later go first.
    pub(super) fn set(&mut self, method: Option<Method>, path: &str, times: usize, fault: Fault) {
        self.0.insert(0, Trap { method, path: path.to_owned(), times, fault });
    }

    /// The fault for a request, if it meets one.
    pub(super) fn spring(&mut self, request: &Recorded) -> Option<Fault> {
        let trap = self.0.iter_mut().find(|trap| {
            trap.times > 0 && trap.method.as_ref().is_none_or(|method| *method == request.method) && request.path.contains(&trap.path)
        })?;
        trap.times -= 1;
        Some(trap.fault.clone())
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn streamed(mut response: Response, body: Body) -> Response {
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = body;
    response
}
