//! The distribution API, `/v2`: enough to push and to pull.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::json;

use super::{
    Inner, Shared, answers,
    shelf::{Judgement, digest_of, stated_media_type},
};

const MOST_MANIFEST: usize = 4 << 20;

/// Everything below `/v2/`.
pub fn answer(shared: &Shared, method: &Method, headers: &HeaderMap, path: &str, query: &[(String, String)], body: Bytes) -> Response {
    let rest = path.strip_prefix("/v2/").unwrap_or_default();
    let mut inner = shared.inner.lock();
    if rest.is_empty() {
        return match inner.caller(headers) {
            Ok(_) => answers::json_answer(StatusCode::OK, &json!({})),
            Err(_) => answers::challenge(&shared.host, None, None),
        };
    }
    if rest == "_catalog" {
        return match inner.caller(headers) {
            Ok(caller) if inner.permits(&caller.user, "pull") => {
                let (names, link) = answers::page(inner.shelf.repositories(), String::as_str, path, query, inner.switches.page);
                answers::listed(&json!({ "repositories": names }), link)
            }
            _ => answers::challenge(&shared.host, None, None),
        };
    }
    let split = |kind: &str| rest.rsplit_once(kind).map(|(name, rest)| (name.to_owned(), rest.to_owned()));
    let writes = !matches!(*method, Method::GET | Method::HEAD);
    let action = if writes { "push" } else { "pull" };
    let may = |inner: &Inner, name: &str| inner.authorize(&shared.host, headers, name, action);
    if let Some((name, reference)) = split("/manifests/") {
        let caller = match may(&inner, &name) {
            Ok(caller) => caller,
            Err(challenge) => return *challenge,
        };
        return match *method {
            Method::PUT => put_manifest(&mut inner, headers, &name, &reference, body),
            Method::GET | Method::HEAD => manifest(&inner, &caller.user, &name, &reference, *method == Method::HEAD),
            _ => answers::empty(StatusCode::METHOD_NOT_ALLOWED),
        };
    }
    if let Some((name, upload)) = split("/blobs/uploads/") {
        return match may(&inner, &name) {
            Ok(_) => upload_part(&mut inner, method, &name, &upload, query, &body),
            Err(challenge) => *challenge,
        };
    }
    if let Some((name, digest)) = split("/blobs/") {
        return match may(&inner, &name) {
            Ok(_) => match inner.shelf.blob(&name, &digest) {
                Some(blob) => content(blob.clone(), "application/octet-stream", &digest),
                None => answers::unknown("BLOB_UNKNOWN"),
            },
            Err(challenge) => *challenge,
        };
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return match may(&inner, name) {
            Ok(_) => match inner.shelf.tags(name, &inner.switches) {
                Some(tags) => {
                    let (tags, link) = answers::page(tags, String::as_str, path, query, inner.switches.page);
                    answers::listed(&json!({ "name": name, "tags": tags }), link)
                }
                None => answers::unknown("NAME_UNKNOWN"),
            },
            Err(challenge) => *challenge,
        };
    }
    answers::empty(StatusCode::NOT_FOUND)
}

fn content(bytes: Bytes, media_type: &str, digest: &str) -> Response {
    Response::builder()
        .header(header::CONTENT_TYPE, media_type)
        .header(header::CONTENT_LENGTH, bytes.len())
        .header("docker-content-digest", digest)
        .header("docker-distribution-api-version", "registry/2.0")
        .body(Body::from(bytes))
        .expect("a response of plain characters")
}

/// A tag is hidden from everybody until what it names is released; a digest is refused to all but the quarantine roles.
fn manifest(inner: &Inner, user: &str, name: &str, reference: &str, head: bool) -> Response {
    let switches = &inner.switches;
    let digest = if reference.contains(':') { Some(reference) } else { inner.shelf.named(name, reference, switches) };
    let Some((digest, manifest)) = digest.and_then(|digest| Some((digest, inner.shelf.manifest(name, digest)?))) else {
        return answers::manifest_unknown(reference);
    };
    let by_tag = digest != reference;
    let blocked = switches.policy && manifest.judgement != Judgement::Passed && !by_tag;
    let entitled = inner.reads_quarantine(user) || (switches.push_reads_quarantine && inner.permits(user, "push"));
    if blocked && !entitled {
        return if head && !switches.head_403 { answers::manifest_unknown(reference) } else { answers::image_quarantined() };
    }
    if !manifest.locks.read {
        return answers::disallowed();
    }
    content(manifest.bytes.clone(), &manifest.media_type, digest)
}

fn put_manifest(inner: &mut Inner, headers: &HeaderMap, name: &str, reference: &str, body: Bytes) -> Response {
    if body.len() > MOST_MANIFEST {
        return answers::empty(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let valid = serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|manifest| manifest.is_object());
    if !valid || stated_media_type(&body).is_some_and(|stated| stated != media_type) {
        return answers::bad("MANIFEST_INVALID", "manifest invalid");
    }
    let digest = digest_of(&body);
    if reference.contains(':') && reference != digest {
        return answers::bad("DIGEST_INVALID", "the digest is another");
    }
    let media_type = media_type.to_owned();
    let Inner { shelf, switches, .. } = inner;
    shelf.put(name, reference, &media_type, body, switches);
    created(&format!("/v2/{name}/manifests/{digest}"), &digest)
}

fn upload_part(inner: &mut Inner, method: &Method, name: &str, upload: &str, query: &[(String, String)], body: &[u8]) -> Response {
    let digest = query.iter().find(|(field, _)| field == "digest").map(|(_, value)| value.as_str());
    let upload = if *method == Method::POST && upload.is_empty() { Some(inner.shelf.begin()) } else { upload.parse().ok() };
    let Some((upload, size)) = upload.and_then(|upload| Some((upload, inner.shelf.add(upload, body)?))) else {
        return answers::unknown("BLOB_UPLOAD_UNKNOWN");
    };
    if let Some(digest) = digest {
        return match inner.shelf.end(name, upload, digest) {
            Some(true) => created(&format!("/v2/{name}/blobs/{digest}"), digest),
            _ => answers::bad("DIGEST_INVALID", "the digest is another"),
        };
    }
    let mut answer = answers::empty(StatusCode::ACCEPTED);
    let location = format!("/v2/{name}/blobs/uploads/{upload}");
    answer.headers_mut().insert(header::LOCATION, location.parse().expect("a path of plain characters"));
    answer.headers_mut().insert("docker-upload-uuid", upload.into());
    let range = format!("0-{}", size.saturating_sub(1));
    answer.headers_mut().insert(header::RANGE, range.parse().expect("digits"));
    answer
}

fn created(location: &str, digest: &str) -> Response {
    let mut answer = answers::empty(StatusCode::CREATED);
    answer.headers_mut().insert(header::LOCATION, location.parse().expect("a path of plain characters"));
    answer.headers_mut().insert("docker-content-digest", digest.parse().expect("hexadecimal"));
    answer
}
