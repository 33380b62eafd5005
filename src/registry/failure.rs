//! How a question ends that was not answered.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use jiff::{Timestamp, fmt::rfc2822};
use serde::Deserialize;
use thiserror::Error;

use crate::facts::{Block, Busy, Outage, OutageKind};

/// Text from outside is cut to this many characters.
const MOST_CHARACTERS: usize = 256;
/// A registry's code is cut to this many characters.
const MOST_CODE_CHARACTERS: usize = 64;
/// Nobody is told to wait longer.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(600);
/// So much of the body of an error is searched.
const MOST_SEARCHED: usize = 64 << 10;

/// How a question ended without an answer: finished, typed, and safe to show. No secrets; text from the registry is cut to 256 characters and holds no
/// control characters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// 404 or 410.
    #[error("the registry does not have it")]
    NotFound,
    /// 401 after one renewed attempt, or the token server's 400, 401 or 403.
    #[error("not authorized: {0}")]
    Unauthorized(String),
    /// 403 without a known word of a policy.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// The registry's own policy blocks it.
    #[error("blocked by the registry: {}: {}", .0.code, .0.message)]
    Blocked(Block),
    /// The registry says that it is still analysing.
    #[error("the registry is still analysing it: {0}")]
    Pending(String),
    /// 429.
    #[error("the registry answers that there are too many requests (429)")]
    Throttled {
        /// What its `Retry-After` says, at most ten minutes.
        retry_after: Option<Duration>,
    },
    /// It was not asked: our own limits.
    #[error("it was not asked yet, for want of a turn")]
    Held(Busy),
    /// A typed outage, of the registry or of its token server.
    #[error("{}", .0.message)]
    Outage(Outage),
    /// An answer against the protocol, or one that leads where it must not.
    #[error("{0}")]
    Misbehaved(String),
}

/// The envelope of errors that Docker's registry made and all took over; every part may be missing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope {
    errors: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    code: Option<serde_json::Value>,
    message: Option<serde_json::Value>,
}

impl Failure {
    /// What a status other than success means, with what its headers and body say.
    ///
    /// `now` is for a `Retry-After` that is a date. Nothing here is read from a status alone that the body may say better: 403 is both "who are you" and "it is in
    /// quarantine".
    #[must_use]
    pub fn of(status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Self {
        let told = Told::read(body);
        let code = status.as_u16();
        match code {
            404 | 410 => return Self::NotFound,
            401 => return Self::Unauthorized(told.or(status)),
            429 => return Self::Throttled { retry_after: retry_after(headers, now) },
            _ => {}
        }
        // Sonatype's repository answers 503 to those who wait for another's analysis longer than it lets them.
        if told.mentions(&["cooperative wait timed out", "thread cooperation maxed"]) {
            return Self::Pending(told.or(status));
        }
        if status.is_client_error() && told.is_block() {
            let message = told.or(status);
            let block_code = if told.code.is_empty() { "QUARANTINED".to_owned() } else { told.code };
            return Self::Blocked(Block { code: block_code, message });
        }
        match code {
            402 | 403 | 405 | 409 | 412 | 423 | 451 => Self::Forbidden(told.or(status)),
            407 => {
                Self::Outage(Outage { kind: OutageKind::Connect, message: "the proxy wants a user name and a password (407)".to_owned() })
            }
            408 => {
                Self::Outage(Outage { kind: OutageKind::TimedOut, message: "the registry waited in vain for the request (408)".to_owned() })
            }
            500..=599 => Self::Outage(Outage {
                kind: OutageKind::ServerError,
                message: tidy(&format!("the registry answered {}", told.or(status)), MOST_CHARACTERS),
            }),
            _ => Self::Misbehaved(tidy(&format!("the registry answered {}", told.or(status)), MOST_CHARACTERS)),
        }
    }
}

/// What the body of an error says.
struct Told {
    /// The first error's code; may be empty.
    code: String,
    /// The first error's message; may be empty.
    message: String,
    /// Everything, in lower case.
    all: String,
}

impl Told {
    fn read(body: &[u8]) -> Self {
        let body = body.get(..MOST_SEARCHED).unwrap_or(body);
        let text = String::from_utf8_lossy(body);
        let envelope: Envelope = serde_json::from_slice(body).unwrap_or_default();
        let plain = |value: Option<serde_json::Value>| match value {
            Some(serde_json::Value::String(text)) => text,
            Some(other) if other.is_number() => other.to_string(),
            _ => String::new(),
        };
        let (code, message) = match envelope.errors.into_iter().next() {
            Some(first) => (plain(first.code), plain(first.message)),
            // A page for browsers, or JSON of another form.
            None if text.trim_start().starts_with(['<', '{', '[']) => (String::new(), String::new()),
            None => (String::new(), text.clone().into_owned()),
        };
        Self { code: tidy(&code, MOST_CODE_CHARACTERS), message: tidy(&message, MOST_CHARACTERS), all: text.to_lowercase() }
    }

    fn mentions(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.all.contains(word))
    }

    /// Whether the registry speaks of a policy of its own:
    ///
    /// * ACR: `IMAGE_QUARANTINED`; for locked images `REGISTRY_DISALLOWED_OPERATION`, earlier "The operation is disallowed";
    /// * Harbor: `PROJECTPOLICYVIOLATION`;
    /// * Sonatype Firewall: "requested item is quarantined", in plain text or an envelope;
    /// * Artifactory with Xray: `DENIED` and "download blocking policy configured in Xray", also when Xray is down; Curation by its name;
    /// * any other whose code or text says that something is quarantined; a repository called `quarantine/app` says nothing.
    fn is_block(&self) -> bool {
        matches!(self.code.as_str(), "IMAGE_QUARANTINED" | "PROJECTPOLICYVIOLATION" | "REGISTRY_DISALLOWED_OPERATION")
            || self.code.to_ascii_uppercase().contains("QUARANTIN")
            || self.mentions(&[
                "is quarantined",
                "is in quarantine",
                "been quarantined",
                "download blocking policy",
                "the operation is disallowed",
                "jfrog packages curation",
            ])
    }

    /// The message, else the code, and always the status where they are missing.
    fn or(&self, status: StatusCode) -> String {
        match (self.message.as_str(), self.code.as_str()) {
            ("", "") => status.to_string(),
            ("", code) => format!("{code} ({})", status.as_u16()),
            (message, _) => message.to_owned(),
        }
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), at most ten minutes; none when it cannot be read or is missing.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        // More digits than fit are a long time.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let date = rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(value).ok()?;
        Duration::try_from(date.duration_since(now)).unwrap_or_default()
    };
    Some(wait.min(MOST_RETRY_AFTER))
}

/// One line of at most so many characters, without control characters.
pub(super) fn tidy(text: &str, most: usize) -> String {
    let mut line = String::new();
    for word in text.split(|character: char| character.is_whitespace() || character.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if line.chars().count() > most {
        line = line.chars().take(most.saturating_sub(1)).collect();
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(784_111_777, 0); // Sun, 06 Nov 1994 08:49:37 GMT

    fn of(status: u16, body: &str) -> Failure {
        Failure::of(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes(), NOW)
    }

    fn envelope(code: &str, message: &str) -> String {
        serde_json::json!({"errors": [{"code": code, "message": message, "detail": {}}]}).to_string()
    }

    fn blocked(code: &str, message: &str) -> Failure {
        Failure::Blocked(Block { code: code.into(), message: message.into() })
    }

    fn outage(kind: OutageKind, message: &str) -> Failure {
        Failure::Outage(Outage { kind, message: message.into() })
    }

    #[test]
    fn a_policy_of_the_registry_is_told_from_other_refusals() {
        let xray = "Artifact download request rejected: team/app/1.2/manifest.json was not downloaded due to the download blocking policy configured in Xray for docker-local.";
        let firewall = "-------------------->>> REQUESTED ITEM IS QUARANTINED -------------------->>> FOR DETAILS SEE ------>>> https://iq.example/x <<<------";
        let harbor = "current image with 3 vulnerabilities cannot be pulled due to configured policy";
        let cases = [
            (403, envelope("IMAGE_QUARANTINED", "The image is quarantined."), blocked("IMAGE_QUARANTINED", "The image is quarantined.")),
            (403, r#"{"errors":[{"code":"IMAGE_QUARANTINED"}]}"#.into(), blocked("IMAGE_QUARANTINED", "IMAGE_QUARANTINED (403)")),
            (412, envelope("PROJECTPOLICYVIOLATION", harbor), blocked("PROJECTPOLICYVIOLATION", harbor)),
            (403, envelope("DENIED", xray), blocked("DENIED", xray)),
            (403, firewall.into(), blocked("QUARANTINED", firewall)),
            (403, envelope("UNAUTHORIZED", firewall), blocked("UNAUTHORIZED", firewall)),
            (403, "<html><p>Requested item is quarantined</p></html>".into(), blocked("QUARANTINED", "403 Forbidden")),
            (
                405,
                envelope("REGISTRY_DISALLOWED_OPERATION", "The operation is disallowed on this registry, repository or image."),
                blocked("REGISTRY_DISALLOWED_OPERATION", "The operation is disallowed on this registry, repository or image."),
            ),
            (409, envelope("CONFLICT", "artifact is quarantined"), blocked("CONFLICT", "artifact is quarantined")),
            (
                403,
                envelope("DENIED", "requested access to the resource is denied"),
                Failure::Forbidden("requested access to the resource is denied".into()),
            ),
            (403, String::new(), Failure::Forbidden("403 Forbidden".into())),
            (412, envelope("PRECONDITION", "stale"), Failure::Forbidden("stale".into())),
            (409, String::new(), Failure::Forbidden("409 Conflict".into())),
            (451, String::new(), Failure::Forbidden("451 Unavailable For Legal Reasons".into())),
        ];
        for (status, body, expected) in cases {
            assert_eq!(of(status, &body), expected, "{status} {body}");
        }
    }

    #[test]
    fn every_other_status_has_its_end() {
        let cases = [
            (404, envelope("MANIFEST_UNKNOWN", "manifest unknown"), Failure::NotFound),
            (404, "Requested item is quarantined".into(), Failure::NotFound),
            (410, String::new(), Failure::NotFound),
            (401, envelope("UNAUTHORIZED", "authentication required"), Failure::Unauthorized("authentication required".into())),
            (400, envelope("NAME_INVALID", "bad name"), Failure::Misbehaved("the registry answered bad name".into())),
            (304, String::new(), Failure::Misbehaved("the registry answered 304 Not Modified".into())),
            (
                503,
                envelope("UNKNOWN", "Cooperative wait timed out on firewall"),
                Failure::Pending("Cooperative wait timed out on firewall".into()),
            ),
            (503, "<html>quarantine</html>".into(), outage(OutageKind::ServerError, "the registry answered 503 Service Unavailable")),
            (500, envelope("UNKNOWN", ""), outage(OutageKind::ServerError, "the registry answered UNKNOWN (500)")),
            (520, String::new(), outage(OutageKind::ServerError, "the registry answered 520 <unknown status code>")),
            (407, String::new(), outage(OutageKind::Connect, "the proxy wants a user name and a password (407)")),
            (408, String::new(), outage(OutageKind::TimedOut, "the registry waited in vain for the request (408)")),
            (429, String::new(), Failure::Throttled { retry_after: None }),
        ];
        for (status, body, expected) in cases {
            assert_eq!(of(status, &body), expected, "{status} {body}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_longer_than_ten_minutes() {
        let cases = [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("86400", Some(600)),
            ("99999999999999999999999", Some(600)),
            ("Sun, 06 Nov 1994 08:49:40 GMT", Some(3)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("Sun, 06 Nov 2094 08:49:37 GMT", Some(600)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
            ("", None),
        ];
        for (value, seconds) in cases {
            let headers = [(RETRY_AFTER, value.parse().unwrap())].into_iter().collect();
            let found = Failure::of(StatusCode::TOO_MANY_REQUESTS, &headers, b"", NOW);
            assert_eq!(found, Failure::Throttled { retry_after: seconds.map(Duration::from_secs) }, "{value}");
        }
    }

    #[test]
    fn what_a_registry_says_is_bounded_and_one_line() {
        let Failure::Forbidden(text) = of(403, &envelope("DENIED", &format!("a\n\u{1b}[31mb\t c{}", "x".repeat(400)))) else { panic!() };
        assert!(text.starts_with("a [31mb cx") && text.ends_with('…'));
        assert_eq!(text.chars().count(), 256);
        let Failure::Blocked(block) = of(403, &envelope(&"Q".repeat(400), "it is quarantined")) else { panic!() };
        assert_eq!(block.code.chars().count(), 64);
        assert_eq!(of(403, "\u{0}\u{ff}"), Failure::Forbidden("\u{ff}".into()));
        assert_eq!(of(403, r#"{"errors":[{"code":17,"message":{"x":1}}]}"#), Failure::Forbidden("17 (403)".into()));
        assert_eq!(of(403, r#"{"errors":"no"}"#), Failure::Forbidden("403 Forbidden".into()));
    }
}
