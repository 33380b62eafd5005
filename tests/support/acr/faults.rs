//! What may go wrong on the way.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, to_bytes},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{StatusCode, header};
use serde_json::json;

use super::answers;

/// Which requests go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// All of them.
    Everything,
    /// `/oauth2/`.
    Tokens,
    /// `/acr/v1/`.
    Attributes,
    /// `/v2/<name>/manifests/`.
    Manifests,
}

impl Area {
    fn holds(self, path: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Tokens => path.starts_with("/oauth2/"),
            Self::Attributes => path.starts_with("/acr/v1/"),
            Self::Manifests => path.starts_with("/v2/") && path.contains("/manifests/"),
        }
    }
}

/// How they go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status in the usual envelope.
    Status(u16),
    /// 429, with a `Retry-After` or without.
    Throttled(Option<&'static str>),
    /// A page for browsers with this status.
    Page(u16),
    /// 403 of the registry's firewall, in its words.
    Firewall,
    /// 403 `IMAGE_QUARANTINED`, whatever is written.
    Quarantined,
    /// 401 for a good token.
    InvalidToken,
    /// The answer's first half, given out as the whole.
    Truncated,
    /// The answer's first half, then the connection breaks.
    BrokenOff,
    /// The answer's first half, then nothing more.
    Stalled,
    /// Nothing.
    Silent,
    /// The right answer, so much later.
    Late(Duration),
    /// The answer says that its digest is another.
    WrongDigest,
    /// The answer has other bytes than its digest says.
    OtherBytes,
}

#[derive(Default)]
pub struct Faults(Vec<(Area, Fault, usize)>);

impl Faults {
    /// A fault after so many requests of its area.
    pub fn add(&mut self, area: Area, fault: Fault, after: usize) {
        self.0.push((area, fault, after));
    }

    /// The fault of a request, counting it.
    pub fn strike(&mut self, path: &str) -> Option<Fault> {
        let (_, fault, after) = self.0.iter_mut().find(|(area, ..)| area.holds(path))?;
        if let Some(left) = after.checked_sub(1) {
            *after = left;
            return None;
        }
        Some(fault.clone())
    }
}

/// The answer that comes instead of any other, or the fault that spoils the right one.
pub async fn instead(fault: Fault, host: &str) -> Result<Response, Fault> {
    let status = |code| StatusCode::from_u16(code).expect("a status");
    let envelope = |code, word: &str| answers::json_answer(status(code), &json!({ "errors": [{ "code": word, "message": "not now" }] }));
    Ok(match fault {
        Fault::Status(code) => envelope(code, "UNKNOWN"),
        Fault::Throttled(after) => {
            let mut answer = envelope(429, "TOOMANYREQUESTS");
            if let Some(after) = after {
                answer.headers_mut().insert(header::RETRY_AFTER, after.parse().expect("a header"));
            }
            answer
        }
        Fault::Page(code) => {
            let page = "<!DOCTYPE html><html><head><title>Gateway</title></head><body><h1>Our services aren't available right now</h1></body></html>";
            Response::builder()
                .status(status(code))
                .header(header::CONTENT_TYPE, "text/html")
                .header(header::CONTENT_LENGTH, page.len())
                .body(Body::from(page))
                .expect("a response of constants")
        }
        Fault::Firewall => {
            let message = "client with IP '192.0.2.7' is not allowed access, refer https://aka.ms/acr/firewall to grant access.";
            answers::json_answer(StatusCode::FORBIDDEN, &json!({ "errors": [{ "code": "DENIED", "message": message, "detail": {} }] }))
        }
        Fault::InvalidToken => answers::challenge(host, Some(("any", "pull")), Some("invalid_token")),
        Fault::Quarantined => answers::image_quarantined(),
        Fault::Silent => std::future::pending().await,
        Fault::Late(wait) => {
            tokio::time::sleep(wait).await;
            return Err(fault);
        }
        spoils => return Err(spoils),
    })
}

/// Spoils the right answer.
pub async fn spoil(fault: &Fault, answer: Response) -> Response {
    let (mut head, body) = answer.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.expect("a body of ours");
    let half = bytes.slice(..bytes.len() / 2);
    match fault {
        Fault::Truncated => {
            head.headers.insert(header::CONTENT_LENGTH, half.len().into());
            Response::from_parts(head, Body::from(half))
        }
        Fault::BrokenOff => {
            let broken = stream::iter([Ok(half), Err(std::io::Error::other("broken off"))]);
            Response::from_parts(head, Body::from_stream(broken))
        }
        Fault::Stalled => {
            let stalled = stream::iter([Ok::<_, Infallible>(half)]).chain(stream::pending());
            Response::from_parts(head, Body::from_stream(stalled))
        }
        Fault::WrongDigest => {
            if head.headers.contains_key("docker-content-digest") {
                let other = format!("sha256:{}", "0".repeat(64));
                head.headers.insert("docker-content-digest", other.parse().expect("a header"));
            }
            // The attributes name the digest in their body.
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let changed = match text.find("\"digest\":\"sha256:") {
                Some(at) if text.contains("imageName") => {
                    Bytes::from(format!("{}{}{}", &text[..at + 17], "0".repeat(64), &text[at + 17 + 64..]))
                }
                _ => bytes,
            };
            Response::from_parts(head, Body::from(changed))
        }
        Fault::OtherBytes => {
            let mut other = bytes.to_vec();
            other.push(b'\n');
            head.headers.insert(header::CONTENT_LENGTH, other.len().into());
            Response::from_parts(head, Body::from(other))
        }
        _ => Response::from_parts(head, Body::from(bytes)),
    }
}
