//! The AdmissionReview as it is on the wire (`admission.k8s.io/v1`).
//!
//! Types of our own and not `kube::core::admission`'s, for three reasons: the answer must carry the request's uid even when the
//! rest cannot be read (another uid is a failed call to the API server, and `failurePolicy` would decide); the object stays raw
//! until somebody needs it; and only what is judged is parsed, which is most of what a warm review costs.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::pod::{self, Pod};

/// A review as the API server sends it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "O: Deserialize<'de>"))]
pub struct Review<'a, O = &'a RawValue> {
    /// `admission.k8s.io/v1`.
    #[serde(borrow)]
    pub api_version: Cow<'a, str>,
    /// `AdmissionReview`.
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    /// What is asked. Without it the review is no request.
    pub request: Option<Request<'a, O>>,
}

/// What the API server asks. Its objects are raw, or read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "O: Deserialize<'de>"))]
pub struct Request<'a, O = &'a RawValue> {
    /// Must come back in the answer.
    #[serde(borrow)]
    pub uid: Cow<'a, str>,
    /// The object's kind.
    #[serde(borrow)]
    pub kind: Kind<'a>,
    /// The subresource, if any: `ephemeralcontainers`.
    #[serde(borrow, default)]
    pub sub_resource: Option<Cow<'a, str>>,
    /// The object's name; empty while the API server is yet to make one from `generateName`.
    #[serde(borrow, default)]
    pub name: Option<Cow<'a, str>>,
    /// The namespace of the request; the object's own may be empty.
    #[serde(borrow, default)]
    pub namespace: Option<Cow<'a, str>>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(borrow)]
    pub operation: Cow<'a, str>,
    /// Who asks.
    #[serde(borrow)]
    pub user_info: UserInfo<'a>,
    /// The object as it would be.
    #[serde(default)]
    pub object: Option<O>,
    /// The object as it is.
    #[serde(default)]
    pub old_object: Option<O>,
    /// Nothing is to be written.
    #[serde(default)]
    pub dry_run: Option<bool>,
}

/// Group, version and kind.
#[derive(Debug, Deserialize)]
pub struct Kind<'a> {
    /// Empty for the core group.
    #[serde(borrow, default)]
    pub group: Cow<'a, str>,
    /// Such as `v1`.
    #[serde(borrow, default)]
    pub version: Cow<'a, str>,
    /// Such as `Pod`.
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
}

/// Who asks, as the API server authenticated them.
#[derive(Debug, Default, Deserialize)]
pub struct UserInfo<'a> {
    /// The user name.
    #[serde(borrow, default)]
    pub username: Cow<'a, str>,
    /// The groups.
    #[serde(borrow, default)]
    pub groups: Vec<Cow<'a, str>>,
}

/// Reads a review.
///
/// # Errors
/// When the bytes are not an `admission.k8s.io/v1` AdmissionReview with a request.
pub fn read(body: &[u8]) -> Result<Request<'_>, ReadError> {
    read_with(body)
}

/// Reads a review of pods. What is wrong with a pod is no error here: whether anybody has to read it is not known yet.
///
/// # Errors
/// As [`read`].
pub fn read_pods(body: &[u8]) -> Result<Request<'_, Result<Pod<'_>, String>>, ReadError> {
    // In one go if that is possible: it is half of what a warm review costs. What is wrong otherwise is found out piece by piece.
    match read_with::<Pod<'_>>(body) {
        Ok(request) => Ok(request.with(Ok)),
        Err(_) => Ok(read(body)?.with(|object| pod::read(object.get()))),
    }
}

fn read_with<'a, O: Deserialize<'a>>(body: &'a [u8]) -> Result<Request<'a, O>, ReadError> {
    let review: Review<'a, O> = serde_json::from_slice(body).map_err(|error| ReadError::Json(brief(&error)))?;
    if review.kind != "AdmissionReview" || review.api_version != "admission.k8s.io/v1" {
        return Err(ReadError::Kind(format!("{}, {}", clip(&review.api_version), clip(&review.kind))));
    }
    review.request.ok_or(ReadError::NoRequest)
}

impl<'a, O> Request<'a, O> {
    fn with<T>(self, read: impl Fn(O) -> T) -> Request<'a, T> {
        let Self { uid, kind, sub_resource, name, namespace, operation, user_info, object, old_object, dry_run } = self;
        let (object, old_object) = (object.map(&read), old_object.map(read));
        Request { uid, kind, sub_resource, name, namespace, operation, user_info, object, old_object, dry_run }
    }
}

/// Why a review cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not JSON of the right form.
    #[error("cannot read the AdmissionReview: {0}")]
    Json(String),
    /// Another kind or version.
    #[error("this is no AdmissionReview of admission.k8s.io/v1 but {0}")]
    Kind(String),
    /// No request inside.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

/// serde's own words without an excerpt of the body, which may hold secrets: position and kind only.
#[must_use]
pub fn brief(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let kind = match error.classify() {
        serde_json::error::Category::Io | serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax => "it is not JSON",
        serde_json::error::Category::Data => {
            // "missing field `image` at line 1 column 5": field names are ours, values are not shown by these two.
            if text.starts_with("missing field") || text.starts_with("duplicate field") {
                return text.chars().take(120).collect();
            }
            "a field has another type than Kubernetes gives it"
        }
    };
    format!("{kind} (line {}, column {})", error.line(), error.column())
}

/// The uid of a review that cannot be read as a whole, when at least that much of it can.
#[must_use]
pub fn uid_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct OnlyReview {
        request: OnlyRequest,
    }
    #[derive(Deserialize)]
    struct OnlyRequest {
        uid: String,
    }
    if let Ok(review) = serde_json::from_slice::<OnlyReview>(body) {
        return Some(review.request.uid);
    }
    // Broken off or malformed further on: the API server writes the uid first in the request, so look for it as text.
    let text = String::from_utf8_lossy(body.get(..body.len().min(4096))?);
    let (_, rest) = text.split_once("\"uid\":")?;
    let rest = rest.trim_start().strip_prefix('"')?;
    let uid = rest.split('"').next()?;
    (!uid.is_empty() && uid.len() <= 64 && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')).then(|| uid.to_owned())
}

/// The answer to a review.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// The request's.
    pub uid: String,
    /// Yes or no.
    pub allowed: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Shown to the user by kubectl; each at most 256 characters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Kept in the API server's audit log under the webhook's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub audit_annotations: BTreeMap<&'static str, Cow<'static, str>>,
}

/// The part of a `metav1.Status` that a webhook may set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The HTTP status that the client gets.
    pub code: u16,
    /// `Forbidden` or `Timeout`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

/// When to try again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// In seconds; becomes the header `Retry-After`, which kubectl and the controllers follow.
    pub retry_after_seconds: u32,
}

impl Response {
    /// Yes.
    #[must_use]
    pub fn allow(uid: impl Into<String>) -> Self {
        Self { uid: uid.into(), allowed: true, status: None, warnings: Vec::new(), audit_annotations: BTreeMap::new() }
    }

    /// No: 403.
    #[must_use]
    pub fn refuse(uid: impl Into<String>, message: String) -> Self {
        let status = Status { code: 403, reason: "Forbidden", message, details: None };
        Self { allowed: false, status: Some(status), ..Self::allow(uid) }
    }

    /// Not yet: 504 with the time after which to ask again. kubectl and the controllers then retry by themselves.
    #[must_use]
    pub fn later(uid: impl Into<String>, message: String, retry_after_seconds: u32) -> Self {
        let details = Some(Details { retry_after_seconds });
        let status = Status { code: 504, reason: "Timeout", message, details };
        Self { allowed: false, status: Some(status), ..Self::allow(uid) }
    }

    /// For policies that only observe, which block nobody: what could not be judged is admitted, and the API server's audit log says why
    /// it was not judged.
    #[must_use]
    pub fn observed(mut self) -> Self {
        if let Some(status) = self.status.take() {
            self.audit_annotations.insert("unjudged", status.message.into());
        }
        self.allowed = true;
        self
    }

    /// The review to send back, in JSON.
    #[must_use]
    pub fn into_json(self) -> Vec<u8> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            api_version: &'static str,
            kind: &'static str,
            response: Response,
        }
        let answer = Answer { api_version: "admission.k8s.io/v1", kind: "AdmissionReview", response: self };
        let mut json = Vec::with_capacity(2 << 10);
        // Strings, numbers and maps with string keys, into memory: this serialisation has no way to fail.
        let _infallible = serde_json::to_writer(&mut json, &answer);
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uid_survives_what_cannot_be_read() {
        for body in [
            r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"7f0b-1","kind":5}}"#,
            r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"7f0b-1","kind":{"#,
        ] {
            assert!(read(body.as_bytes()).is_err());
            assert_eq!(uid_of(body.as_bytes()).as_deref(), Some("7f0b-1"));
        }
        assert_eq!(uid_of(b"\xff\xfe"), None);
        assert_eq!(uid_of(b""), None);
    }

    #[test]
    fn a_pod_that_cannot_be_read_does_not_make_the_review_unreadable() {
        let body = |pod: &str| {
            let request = r#""uid":"u","kind":{"kind":"Pod"},"operation":"CREATE","userInfo":{}"#;
            format!(
                r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{{{request},"object":{pod},"oldObject":null}}}}"#
            )
        };
        let good = body(r#"{"spec":{"containers":[{"name":"a","image":"x"}]}}"#);
        let request = read_pods(good.as_bytes()).unwrap();
        assert_eq!(request.object.unwrap().unwrap().images().count(), 1);
        assert!(request.old_object.is_none());
        let bad = body(r#"{"spec":{"containers":5}}"#);
        let request = read_pods(bad.as_bytes()).unwrap();
        assert_eq!(request.uid, "u");
        assert_eq!(request.object.unwrap().unwrap_err(), "a field has another type than Kubernetes gives it (line 1, column 23)");
        assert_eq!(read_pods(b"{}").unwrap_err(), read(b"{}").unwrap_err());
    }

    #[test]
    fn errors_show_no_excerpt_of_the_body() {
        let body = br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":{"password":"s3cret"}}}"#;
        let message = read(body).unwrap_err().to_string();
        assert_eq!(message, "cannot read the AdmissionReview: a field has another type than Kubernetes gives it (line 1, column 78)");
        assert_eq!(read(b"{}").unwrap_err().to_string(), "cannot read the AdmissionReview: missing field `apiVersion` at line 1 column 2");
        let body = br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1"}"#;
        assert_eq!(read(body).unwrap_err(), ReadError::Kind("admission.k8s.io/v1beta1, AdmissionReview".into()));
    }

    #[test]
    fn a_no_for_now_says_when_to_come_back() {
        let json = String::from_utf8(Response::later("u", "not known yet".into(), 2).into_json()).unwrap();
        assert_eq!(
            json,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u","allowed":false,"status":{"code":504,"reason":"Timeout","message":"not known yet","details":{"retryAfterSeconds":2}}}}"#
        );
    }
}
