//! Answers in the envelope that Docker's registry made, with ACR's words.

use axum::{body::Body, response::Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

pub fn json_answer(status: StatusCode, body: &Value) -> Response {
    let bytes = body.to_string();
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
        .header(header::CONTENT_LENGTH, bytes.len())
        .header("docker-distribution-api-version", "registry/2.0")
        .body(Body::from(bytes))
        .expect("a response of constants")
}

pub fn empty(status: StatusCode) -> Response {
    Response::builder().status(status).header(header::CONTENT_LENGTH, 0).body(Body::empty()).expect("a response of constants")
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    json_answer(status, &json!({ "errors": [{ "code": code, "message": message, "detail": {} }] }))
}

pub fn image_quarantined() -> Response {
    error(StatusCode::FORBIDDEN, "IMAGE_QUARANTINED", "The image is quarantined.")
}

pub fn denied() -> Response {
    error(StatusCode::FORBIDDEN, "DENIED", "requested access to the resource is denied")
}

pub fn disallowed() -> Response {
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        "REGISTRY_DISALLOWED_OPERATION",
        "The operation is disallowed on this registry, repository or image.",
    )
}

pub fn manifest_unknown(reference: &str) -> Response {
    let message = if reference.contains(':') {
        format!("manifest {reference} is not found")
    } else {
        format!("manifest tagged by \"{reference}\" is not found")
    };
    error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", &message)
}

pub fn unknown(code: &str) -> Response {
    error(StatusCode::NOT_FOUND, code, "it is not found")
}

pub fn bad(code: &str, message: &str) -> Response {
    error(StatusCode::BAD_REQUEST, code, message)
}

/// 401 with what to ask the token server for. `fault` is `invalid_token` or `insufficient_scope`, when a token was shown.
pub fn challenge(host: &str, scope: Option<(&str, &str)>, fault: Option<&str>) -> Response {
    let mut header = format!("Bearer realm=\"http://{host}/oauth2/token\",service=\"{host}\"");
    let mut detail = json!({});
    if let Some((repository, action)) = scope {
        header = format!("{header},scope=\"repository:{repository}:{action}\"");
        let last = action.rsplit(',').next().unwrap_or(action);
        detail = json!([{ "Type": "repository", "Name": repository, "Action": last }]);
    }
    if let Some(fault) = fault {
        header = format!("{header},error=\"{fault}\"");
    }
    let message = "authentication required, visit https://aka.ms/acr/authorization for more information.";
    let mut answer =
        json_answer(StatusCode::UNAUTHORIZED, &json!({ "errors": [{ "code": "UNAUTHORIZED", "message": message, "detail": detail }] }));
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, header.parse().expect("a header of plain characters"));
    answer
}

/// One page of a sorted list after `last`, and the `Link` to the next one.
pub fn page<T>(
    entries: Vec<T>,
    key: impl Fn(&T) -> &str,
    path: &str,
    query: &[(String, String)],
    most: Option<usize>,
) -> (Vec<T>, Option<String>) {
    let asked =
        |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty());
    let n = asked("n").and_then(|n| n.parse().ok()).unwrap_or(100).min(most.unwrap_or(100)).max(1);
    let mut rest: Vec<T> = entries.into_iter().filter(|entry| asked("last").is_none_or(|last| key(entry) > last)).collect();
    let more = rest.len() > n;
    rest.truncate(n);
    let link = rest.last().filter(|_| more).map(|last| {
        let next: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("last", key(last))
            .append_pair("n", &n.to_string())
            .append_pair("orderby", asked("orderby").unwrap_or_default())
            .finish();
        format!("<{path}?{next}>; rel=\"next\"")
    });
    (rest, link)
}

pub fn listed(body: &Value, link: Option<String>) -> Response {
    let mut answer = json_answer(StatusCode::OK, body);
    if let Some(link) = link {
        answer.headers_mut().insert(header::LINK, link.parse().expect("a header of plain characters"));
    }
    answer
}
