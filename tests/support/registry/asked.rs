//! What was asked.

use axum::{
    body::{Bytes, to_bytes},
    extract::Request,
    http::{HeaderMap, Method},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub method: Method,
    /// As sent: a proxy sees whole URLs.
    pub uri: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Recorded {
    pub(super) async fn read(request: Request) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            method: parts.method,
            uri: parts.uri.to_string(),
            path: parts.uri.path().to_owned(),
            query: url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect(),
            headers: parts.headers,
            body: to_bytes(body, 1 << 20).await.unwrap(),
        }
    }

    /// Repository and tag or digest, where it is about a manifest.
    pub fn manifest(&self) -> Option<(&str, &str)> {
        self.path.strip_prefix("/v2/")?.split_once("/manifests/")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    /// The user and password of `Authorization: Basic`.
    pub fn basic(&self) -> Option<(String, String)> {
        let text = BASE64_STANDARD.decode(self.authorization()?.strip_prefix("Basic ")?).unwrap();
        let (user, password) = std::str::from_utf8(&text).unwrap().split_once(':').unwrap();
        Some((user.to_owned(), password.to_owned()))
    }

    /// The same, where there may be a token instead.
    pub fn basic_if_any(&self) -> Option<(String, String)> {
        self.authorization().filter(|value| value.starts_with("Basic ")).and_then(|_| self.basic())
    }

    /// A form's or the query's values of one name.
    pub fn values(&self, name: &str) -> Vec<String> {
        let form = url::form_urlencoded::parse(&self.body).into_owned();
        self.query.iter().cloned().chain(form).filter(|(key, _)| key == name).map(|(_, value)| value).collect()
    }
}
