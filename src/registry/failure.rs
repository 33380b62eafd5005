//! How a question ends that was not answered.

use std::time::Duration;

use thiserror::Error;

use crate::facts::{Block, Outage};

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
    #[error("the registry answers too many requests (429)")]
    Throttled {
        /// What its `Retry-After` says, at most ten minutes.
        retry_after: Option<Duration>,
    },
    /// A typed outage, of the registry or of its token server.
    #[error("{}", .0.message)]
    Outage(Outage),
    /// An answer against the protocol, or one that leads where it must not.
    #[error("{0}")]
    Misbehaved(String),
}

impl Failure {
    /// What a status other than success means, with what its headers and body say.
    #[must_use]
    pub fn of(_status: http::StatusCode, _headers: &http::HeaderMap, _body: &[u8]) -> Self {
        Self::NotFound
    }
}
