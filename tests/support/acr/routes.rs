//! From a request to the part that answers it.

use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
    response::Response,
};
use http::{Method, StatusCode};

use super::{Asked, MOST_KEPT, Shared, answers, attributes, distribution, faults, tokens};

/// The longest request body: a layer of a test's image.
const MOST_BYTES: usize = 32 << 20;

pub fn router(shared: Shared) -> Router {
    Router::new().fallback(answer).with_state(shared)
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = percent_decoded(head.uri.path());
    let fault = {
        let mut inner = shared.inner.lock();
        let user = inner.caller(&head.headers).ok().map(|caller| caller.user);
        if inner.asked.len() == MOST_KEPT {
            inner.asked.pop_front();
        }
        inner.asked.push_back(Asked { method: head.method.to_string(), path: head.uri.to_string(), user });
        inner.faults.strike(&path)
    };
    let fault = match fault {
        None => None,
        Some(fault) => match faults::instead(fault, &shared.host).await {
            Ok(answer) => return answer,
            Err(spoils) => Some(spoils),
        },
    };
    let Ok(body) = to_bytes(body, MOST_BYTES).await else { return answers::empty(StatusCode::PAYLOAD_TOO_LARGE) };
    let read = |text: &[u8]| url::form_urlencoded::parse(text).into_owned().collect::<Vec<(String, String)>>();
    let query = read(head.uri.query().unwrap_or_default().as_bytes());
    let right = match (path.as_str(), &head.method) {
        ("/oauth2/exchange", &Method::POST) => tokens::exchange(&shared, &read(&body)),
        ("/oauth2/token", &Method::POST) => tokens::token(&shared, &head.method, &head.headers, &read(&body)),
        ("/oauth2/token", &Method::GET) => tokens::token(&shared, &head.method, &head.headers, &query),
        (path, method) if path.starts_with("/acr/v1/") => attributes::answer(&shared, method, &head.headers, path, &query, &body),
        (path, method) if path == "/v2" || path.starts_with("/v2/") => {
            distribution::answer(&shared, method, &head.headers, path, &query, body)
        }
        _ => answers::empty(StatusCode::NOT_FOUND),
    };
    match fault {
        Some(fault) => faults::spoil(&fault, right).await,
        None => right,
    }
}

/// Azure's own clients write the slashes of a repository as `%2F`.
fn percent_decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = path.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (value, width) = hex.filter(|_| byte == b'%').map_or((byte, 1), |value| (value, 3));
        decoded.push(value);
        at += width;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
