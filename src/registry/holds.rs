//! Whether a registry holds a repository, whatever its tags: the list of tags, of which one is enough to know.
//!
//! Form: OCI distribution specification 1.1, "listing tags", and its error codes. A page that says 404 is no registry's word for it: of a
//! wrong address, or of a proxy before the registry, "not there" would be said of everything.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Answer, Credentials, Endpoint, Failure, RegistryClient, pull, question::Ask, transport::MOST_BYTES, url_in_list};

/// A list of tags. Some registries say `null` for one without any.
#[derive(Debug, Deserialize)]
struct Tags {
    #[serde(rename = "tags")]
    _tags: Option<Vec<IgnoredAny>>,
    #[serde(rename = "name")]
    _name: String,
}

/// An error of the distribution API.
#[derive(Debug, Deserialize)]
struct Errors {
    errors: Vec<Code>,
}

#[derive(Debug, Deserialize)]
struct Code {
    code: String,
}

impl RegistryClient {
    /// Whether the registry holds a repository of this path.
    ///
    /// # Errors
    /// Every end that does not say so one way or the other.
    pub async fn holds(&self, endpoint: &Endpoint, credentials: &Credentials, repository: &str) -> Result<bool, Failure> {
        let url = url_in_list(endpoint, repository)?;
        let ask = Ask { method: Method::GET, url, accept: "application/json", body: None, limit: MOST_BYTES };
        let answer = self.ask(endpoint, credentials, &[pull(endpoint, repository)], async |question| question.answer(&ask).await).await?;
        read(&endpoint.host, &answer)
    }
}

fn read(host: &str, answer: &Answer) -> Result<bool, Failure> {
    match answer.status {
        StatusCode::OK => match serde_json::from_slice::<Tags>(&answer.body) {
            Ok(_) => Ok(true),
            Err(_) => Err(Failure::Misbehaved(format!("{host} answers a question for tags with something that is no list of them"))),
        },
        StatusCode::NOT_FOUND => match serde_json::from_slice::<Errors>(&answer.body) {
            Ok(Errors { errors }) if errors.iter().any(|error| !error.code.is_empty()) => Ok(false),
            _ => Err(Failure::Misbehaved(format!("{host} answers 404 to a question for tags, and not as a registry does"))),
        },
        _ => Err(answer.failure()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn said(status: u16, body: &str) -> Result<bool, Failure> {
        let answer =
            Answer { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body: body.as_bytes().to_vec().into() };
        read("registry.corp", &answer)
    }

    #[test]
    fn what_is_held_has_a_list_of_tags_though_it_be_empty() {
        for body in [r#"{"name":"a/b","tags":["1"]}"#, r#"{"name":"a/b","tags":[]}"#, r#"{"name":"a/b","tags":null}"#, r#"{"name":"a/b"}"#]
        {
            assert!(said(200, body).unwrap(), "{body}");
        }
    }

    #[test]
    fn only_a_registry_s_own_word_for_it_says_that_it_is_not_there() {
        let unknown = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry","detail":{}}]}"#;
        assert!(!said(404, unknown).unwrap());
        assert!(!said(404, r#"{"errors":[{"code":"NOT_FOUND","message":"repository a/b not found"}]}"#).unwrap());
        for (status, body) in
            [(404, ""), (404, "<html>not found</html>"), (404, "{}"), (404, r#"{"errors":[]}"#), (200, "<html>"), (200, "[]"), (200, "{}")]
        {
            assert!(matches!(said(status, body), Err(Failure::Misbehaved(_))), "{status} {body}: {:?}", said(status, body));
        }
        assert!(matches!(said(403, r#"{"errors":[{"code":"DENIED"}]}"#), Err(Failure::Forbidden(_))));
        assert!(matches!(said(503, ""), Err(Failure::Outage(_))));
    }
}
