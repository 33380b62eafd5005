//! Who wants to know, with what to show, and for how long an answer is kept.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    facts::{Busy, BusyCause, Outcome},
    proof::Proof,
    registry::{CredentialIdentity, Credentials},
};

/// What is shown to a registry, and whose it is.
#[derive(Clone, Debug)]
pub struct Access {
    /// What is shown.
    pub credentials: Arc<Credentials>,
    /// Tells it apart from others without knowing it.
    pub identity: CredentialIdentity,
    /// The Registry object names it: Lazaretto's own.
    pub own: bool,
}

/// Why the Registry's own credentials cannot be had. What is wrong with them is told where the Registry's administrators read it, and not
/// to authors of pods.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAccess {
    /// The API server does not show the Secret just now: nothing is known of the registry by that.
    #[error("{0}")]
    Later(String),
    /// There is no such Secret, or it makes no sense.
    #[error("{0}")]
    Broken(String),
}

impl NoAccess {
    /// How a question ends that could not be asked for want of them.
    pub(super) fn outcome<T>(&self) -> Outcome<T> {
        match self {
            Self::Later(_) => Outcome::Busy(Busy { cause: BusyCause::Credentials, retry_after: Duration::from_secs(2) }),
            Self::Broken(_) => Outcome::Unauthorized("Lazaretto's own credentials for this registry cannot be used".to_owned()),
        }
    }
}

/// Who wants to know about an image.
#[derive(Clone, Debug)]
pub struct Asker<'a> {
    /// The namespace whose share a new look-up takes.
    pub namespace: &'a str,
    /// What to show the registry; `Err` when the Registry's own credentials cannot be had.
    pub access: Result<Access, NoAccess>,
    /// Until when an answer is of use.
    pub deadline: Instant,
    /// Whether what is found may be written down; not in a dry run.
    pub record: bool,
    /// Whether the pod is the quarantine processor's.
    pub processor: bool,
    /// Whether it has to be known what is inside the image: a policy denies some by digest.
    pub inside: bool,
    /// What the policies that speak of the image want to have proven; empty where they want nothing.
    pub proofs: &'a [&'a Proof],
}

/// For how long answers are kept, before jitter.
#[derive(Clone, Copy, Debug)]
pub struct Lives {
    /// The digest of a tag.
    pub tag: Duration,
    /// Facts that were asked for.
    pub facts: Duration,
    /// That a registry holds a repository.
    pub held: Duration,
    /// That it does not.
    pub free: Duration,
    /// That an image is shown to whoever shows a pod's pull secrets: for so long it counts after the registry has another mind.
    pub permit: Duration,
    /// An end that will not soon be another: absent, refused, blocked.
    pub no: Duration,
    /// An end that may be another in a moment: pending, unavailable.
    pub not_yet: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Self {
            tag: Duration::from_secs(10),
            facts: Duration::from_secs(5),
            held: Duration::from_secs(600),
            free: Duration::from_secs(120),
            permit: Duration::from_secs(600),
            no: Duration::from_secs(5),
            not_yet: Duration::from_secs(2),
        }
    }
}
