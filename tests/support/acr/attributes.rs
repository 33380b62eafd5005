//! ACR's own API, `/acr/v1`: attributes, and the quarantine state among them.

use axum::response::Response;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    Inner, Shared, Switches, Unentitled, answers,
    shelf::{Judgement, Manifest, children_of, seven_digits},
};

/// `/acr/v1/<name>/_manifests[/<digest>]` and `_tags[/<tag>]`.
pub fn answer(shared: &Shared, method: &Method, headers: &HeaderMap, path: &str, query: &[(String, String)], body: &[u8]) -> Response {
    let Some(rest) = path.strip_prefix("/acr/v1/") else { return answers::unknown("NAME_UNKNOWN") };
    let parts = ["/_manifests", "/_tags"].iter().find_map(|kind| {
        let (name, rest) = rest.split_once(kind)?;
        let entry = if rest.is_empty() { None } else { Some(rest.strip_prefix('/')?) };
        Some((*kind, name, entry))
    });
    let Some((kind, name, entry)) = parts else { return answers::unknown("NAME_UNKNOWN") };
    let mut inner = shared.inner.lock();
    let action = match (method, inner.switches.metadata_scopes) {
        (&Method::PATCH, false) => "push",
        (&Method::PATCH, true) => "metadata_write",
        (_, false) => "pull",
        (_, true) => "metadata_read",
    };
    // Whoever may not write at all is refused; whoever merely asked for too little is told what to ask for.
    let caller = match inner.authorize(&shared.host, headers, name, action) {
        Ok(caller) => caller,
        Err(challenge) => {
            let known = inner.caller(headers).ok();
            let never = *method == Method::PATCH && known.is_some_and(|caller| !inner.permits(&caller.user, action));
            return if never { answers::denied() } else { *challenge };
        }
    };
    let strips = inner.switches.api_version_strips && query.iter().any(|(name, value)| name == "api-version" && value == "2021-07-01");
    match (method, kind, entry) {
        (&Method::GET, "/_manifests", None) => manifests(shared, &inner, name, query, strips),
        (&Method::GET, "/_manifests", Some(digest)) => match entitled(&inner, &caller.user, name, digest) {
            Ok(manifest) => answers::json_answer(StatusCode::OK, &one(shared, &inner, name, digest, manifest, strips)),
            Err(refusal) => *refusal,
        },
        (&Method::PATCH, "/_manifests", Some(digest)) => patch(shared, &mut inner, &caller.user, name, digest, body),
        (&Method::GET, "/_tags", None) => tags(shared, &inner, name, query),
        (&Method::GET, "/_tags", Some(tag)) => match inner.shelf.named(name, tag, &inner.switches) {
            Some(digest) => {
                let tag = tag_attributes(&inner, name, tag, digest);
                answers::json_answer(StatusCode::OK, &json!({ "registry": &*shared.host, "imageName": name, "tag": tag }))
            }
            None => answers::unknown("TAG_UNKNOWN"),
        },
        _ => answers::empty(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// The manifest, if the caller may see its attributes.
fn entitled<'a>(inner: &'a Inner, user: &str, name: &str, digest: &str) -> Result<&'a Manifest, Box<Response>> {
    if !digest.contains(':') {
        return Err(Box::new(answers::bad("DIGEST_INVALID", "a digest is wanted")));
    }
    let missing = || Box::new(answers::manifest_unknown(digest));
    let manifest = inner.shelf.manifest(name, digest).ok_or_else(missing)?;
    let hidden = inner.switches.policy && manifest.judgement != Judgement::Passed && !inner.reads_quarantine(user);
    match inner.switches.unentitled {
        Unentitled::Denied if hidden => Err(Box::new(answers::denied())),
        Unentitled::Quarantined if hidden => Err(Box::new(answers::image_quarantined())),
        Unentitled::Missing if hidden => Err(missing()),
        _ => Ok(manifest),
    }
}

fn one(shared: &Shared, inner: &Inner, name: &str, digest: &str, manifest: &Manifest, strips: bool) -> Value {
    let manifest = attributes(inner, name, digest, manifest, strips);
    if inner.switches.sparse {
        return json!({ "manifest": manifest });
    }
    json!({ "registry": &*shared.host, "imageName": name, "manifest": manifest })
}

fn attributes(inner: &Inner, name: &str, digest: &str, manifest: &Manifest, strips: bool) -> Value {
    let mut changeable = Map::new();
    if !inner.switches.sparse {
        let locks = manifest.locks;
        for (name, value) in
            [("deleteEnabled", locks.delete), ("writeEnabled", locks.write), ("readEnabled", locks.read), ("listEnabled", locks.list)]
        {
            changeable.insert(name.to_owned(), value.into());
        }
    }
    if !strips {
        if let (Some(details), false) = (&manifest.details, inner.switches.sparse) {
            changeable.insert("quarantineDetails".to_owned(), details.as_str().into());
        }
        if let Some(state) = state_word(manifest.judgement, &inner.switches) {
            changeable.insert("quarantineState".to_owned(), state.into());
        }
    }
    let mut all = json!({ "digest": digest, "changeableAttributes": changeable });
    if inner.switches.sparse {
        return all;
    }
    all["imageSize"] = manifest.bytes.len().into();
    all["createdTime"] = seven_digits(manifest.created).into();
    all["lastUpdateTime"] = seven_digits(manifest.updated).into();
    all["mediaType"] = manifest.media_type.as_str().into();
    let tags = inner.shelf.tags_of(name, digest, &inner.switches);
    if !tags.is_empty() {
        all["tags"] = tags.into();
    }
    let children = children_of(&manifest.bytes);
    if children.is_empty() {
        all["architecture"] = "amd64".into();
        all["os"] = "linux".into();
    } else {
        let references: Vec<_> = children.iter().map(|child| json!({ "digest": child, "architecture": "amd64", "os": "linux" })).collect();
        all["references"] = references.into();
    }
    all
}

/// With the policy off, an image that nobody has judged has no state (as recorded in 2021).
fn state_word(judgement: Judgement, switches: &Switches) -> Option<String> {
    let word = match judgement {
        Judgement::Unjudged => switches.unjudged.filter(|_| switches.policy)?,
        Judgement::Passed => "Passed",
        Judgement::Failed => "Failed",
    };
    Some(if switches.lower_case { word.to_lowercase() } else { word.to_owned() })
}

fn manifests(shared: &Shared, inner: &Inner, name: &str, query: &[(String, String)], strips: bool) -> Response {
    let Some(digests) = inner.shelf.digests(name) else { return answers::unknown("NAME_UNKNOWN") };
    let path = format!("/acr/v1/{name}/_manifests");
    let (digests, link) = answers::page(digests, String::as_str, &path, query, inner.switches.page);
    let listed: Vec<_> =
        digests.iter().filter_map(|digest| Some(attributes(inner, name, digest, inner.shelf.manifest(name, digest)?, strips))).collect();
    answers::listed(&json!({ "registry": &*shared.host, "imageName": name, "manifests": listed }), link)
}

fn tags(shared: &Shared, inner: &Inner, name: &str, query: &[(String, String)]) -> Response {
    let Some(tags) = inner.shelf.tags(name, &inner.switches) else { return answers::unknown("NAME_UNKNOWN") };
    let path = format!("/acr/v1/{name}/_tags");
    let (tags, link) = answers::page(tags, String::as_str, &path, query, inner.switches.page);
    let listed: Vec<_> =
        tags.iter().filter_map(|tag| Some(tag_attributes(inner, name, tag, inner.shelf.named(name, tag, &inner.switches)?))).collect();
    answers::listed(&json!({ "registry": &*shared.host, "imageName": name, "tags": listed }), link)
}

fn tag_attributes(inner: &Inner, name: &str, tag: &str, digest: &str) -> Value {
    let manifest = inner.shelf.manifest(name, digest);
    json!({
        "name": tag, "digest": digest, "signed": false,
        "createdTime": manifest.map(|manifest| seven_digits(manifest.created)),
        "lastUpdateTime": manifest.map(|manifest| seven_digits(manifest.updated)),
        "changeableAttributes": { "deleteEnabled": true, "writeEnabled": true, "readEnabled": true, "listEnabled": true },
    })
}

fn patch(shared: &Shared, inner: &mut Inner, user: &str, name: &str, digest: &str, body: &[u8]) -> Response {
    let Ok(Value::Object(change)) = serde_json::from_slice::<Value>(body) else {
        return answers::bad("MANIFEST_INVALID", "a flat JSON object is wanted");
    };
    if inner.shelf.manifest(name, digest).is_none() {
        return answers::manifest_unknown(digest);
    }
    let judges = change.contains_key("quarantineState") || change.contains_key("quarantineDetails");
    if judges && inner.switches.policy && !inner.writes_quarantine(user) {
        return answers::denied();
    }
    let details = match change.get("quarantineDetails") {
        None => None,
        Some(Value::String(text)) if !inner.switches.strict_details || fits_schema(text) => Some(text.clone()),
        Some(_) => return answers::bad("MANIFEST_INVALID", "quarantineDetails do not follow their schema"),
    };
    let judgement = match change.get("quarantineState").map(|state| state.as_str().unwrap_or_default()) {
        None => None,
        Some("Passed") => Some(Judgement::Passed),
        Some("Failed") => Some(Judgement::Failed),
        Some(_) => return answers::bad("MANIFEST_INVALID", "quarantineState is Passed or Failed"),
    };
    if let Some(judgement) = judgement {
        let Inner { shelf, switches, .. } = inner;
        shelf.judge(name, digest, judgement, details, switches);
    }
    if let Some(manifest) = inner.shelf.manifest_mut(name, digest) {
        let locks = &mut manifest.locks;
        for (field, lock) in [
            ("deleteEnabled", &mut locks.delete),
            ("writeEnabled", &mut locks.write),
            ("readEnabled", &mut locks.read),
            ("listEnabled", &mut locks.list),
        ] {
            if let Some(value) = change.get(field).and_then(Value::as_bool) {
                *lock = value;
            }
        }
    }
    if inner.switches.patch_204 {
        return answers::empty(StatusCode::NO_CONTENT);
    }
    match inner.shelf.manifest(name, digest) {
        Some(manifest) => answers::json_answer(StatusCode::OK, &one(shared, inner, name, digest, manifest, false)),
        None => answers::manifest_unknown(digest),
    }
}

/// Whether details follow the schema that Azure/acr publishes for them.
pub fn fits_schema(text: &str) -> bool {
    let Ok(Value::Object(details)) = serde_json::from_str::<Value>(text) else { return false };
    let known = |object: &Map<String, Value>, names: &[&str]| object.keys().all(|name| names.contains(&name.as_str()));
    let strings = ["scanner", "state", "link"].iter().all(|name| details.get(*name).is_none_or(Value::is_string));
    let result = details.get("result").is_none_or(|result| {
        let Value::Object(result) = result else { return false };
        let summary = result.get("summary").and_then(Value::as_array).is_some_and(|rows| {
            rows.len() <= 5
                && rows.iter().all(|row| {
                    let severity = row["severity"].as_str().unwrap_or_default();
                    ["Critical", "High", "Medium", "Low", "None"].contains(&severity) && row["count"].is_i64()
                })
        });
        let description = result.get("description").is_none_or(|text| text.as_str().is_some_and(|text| text.chars().count() <= 1024));
        result.get("version").is_some_and(Value::is_string) && summary && description
    });
    known(&details, &["scanner", "state", "link", "result"]) && strings && result
}
