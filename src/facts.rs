//! What is known of an image, and what a look-up may end in.
//!
//! Facts are intrinsic to a digest and carry their time and source. An [`Outcome`] is the end of one question. Neither says
//! yes or no: that is [`crate::verdict`]'s, from facts, a policy and the time.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{Provider, State},
    image::Digest,
};

/// What is known of one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its quarantine state.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// Who brought it there.
    pub by: String,
    /// Why it is there.
    pub reason: String,
    /// What else the decider left, for people: a link, a scanner's counts.
    pub details: String,
    /// Who keeps the flag.
    pub provider: Provider,
    /// When this was seen to be so.
    pub observed_at: Timestamp,
    /// What the manifest says. Empty where it was not read.
    pub manifest: Manifest,
}

/// What matters of a manifest or index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration's digest; none for an index.
    pub config: Option<Digest>,
    /// The images of an index, attestations left out.
    pub children: Vec<Child>,
    /// It has more images than are held here.
    pub cut: bool,
}

impl Manifest {
    /// What is inside: its configuration, and the images of an index.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.config.iter().chain(self.children.iter().map(|child| &child.digest))
    }

    /// Nothing of it was read: a manifest that was has a configuration, and an index images.
    #[must_use]
    pub const fn is_unread(&self) -> bool {
        self.config.is_none() && self.children.is_empty() && !self.cut
    }
}

/// One image of an index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Child {
    /// Its digest.
    pub digest: Digest,
    /// `os/architecture` or `os/architecture/variant`.
    pub platform: String,
}

/// How one question to a registry ended. Every way is listed, and none of them is a guess at another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It answered.
    Found(T),
    /// It is not there.
    Absent,
    /// 404 from a registry that answers so for what it hides, too.
    Hidden,
    /// 401 or 403 with the pod's credentials, or without any.
    Refused,
    /// The registry's own policy blocks it.
    Blocked(Block),
    /// The registry says that it is still analysing, or it is well and this one question is slow.
    Pending(String),
    /// A typed outage *and* evidence about the registry itself, which has a Registry object.
    Unavailable(Outage),
    /// The Registry object's own credentials are refused.
    Unauthorized(String),
    /// Nobody knows yet: our limits, 429, the waiter's own deadline, an outage of a host that has no Registry object.
    Busy(Busy),
    /// The registry answered against its own protocol: another digest, an endless body, a realm or redirect that leads elsewhere.
    Misbehaved(String),
}

/// A registry's own policy blocks an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The registry's code, such as `IMAGE_QUARANTINED`; at most 64 characters.
    pub code: String,
    /// Its message, at most 256 characters.
    pub message: String,
}

/// Seconds by which the clocks of two machines may differ.
pub const CLOCKS_DIFFER: i64 = 300;

/// Whether something was seen no longer ago than so many seconds. What lies in the future by more than clocks differ says nothing about its
/// age.
#[must_use]
pub fn is_within(seen: Timestamp, seconds: u64, now: Timestamp) -> bool {
    (-CLOCKS_DIFFER..=i64::try_from(seconds).unwrap_or(i64::MAX)).contains(&now.duration_since(seen).as_secs())
}

/// Why a registry did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutageKind {
    /// The name did not resolve.
    Resolve,
    /// No connection.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The time was up.
    TimedOut,
    /// The connection broke off in mid-answer.
    Broken,
    /// It answered 5xx.
    ServerError,
}

/// A typed outage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// What kind.
    pub kind: OutageKind,
    /// For people; no secrets, at most 256 characters.
    pub message: String,
}

/// Why there is no answer yet though nothing is known to be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// What held it up.
    pub cause: BusyCause,
    /// After how long it is worth asking again.
    pub retry_after: Duration,
}

impl Busy {
    /// There is no answer to go by: nobody was asked, or another answered than whom the rules name by now.
    pub const UNANSWERED: Self = Self { cause: BusyCause::Deadline, retry_after: Duration::from_secs(1) };
    /// A host without a Registry object gave no answer. Its author may own it: nothing that is found out about it opens anything.
    pub const UNLISTED: Self = Self { cause: BusyCause::Unlisted, retry_after: Duration::from_secs(5) };
    /// What is signed about it is yet to be fetched.
    pub const UNPROVEN: Self = Self { cause: BusyCause::Unproven, retry_after: Duration::from_secs(2) };
    /// What is inside it is yet to be read.
    pub const UNREAD: Self = Self { cause: BusyCause::Unread, retry_after: Duration::from_secs(5) };

    /// Something took too long, of which nothing more is said.
    #[must_use]
    pub const fn late(retry_after: Duration) -> Self {
        Self { cause: BusyCause::Deadline, retry_after }
    }
}

/// What held an answer up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BusyCause {
    /// The waiter's own time ran out; the look-up goes on.
    Deadline,
    /// The registry answered 429.
    Throttled,
    /// Our own limit for this registry.
    Limit,
    /// Too many look-ups at once.
    QueueFull,
    /// This namespace has more look-ups under way than its share.
    Share,
    /// A host without a Registry object did not answer.
    Unlisted,
    /// What Lazaretto itself shows the registry cannot be read from the API server.
    Credentials,
    /// A policy denies images by digest, and what is inside this one was not read yet.
    Unread,
    /// What is signed about it was not fetched yet.
    Unproven,
}

impl<T> Outcome<T> {
    /// The same end of another question.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Found(value) => Outcome::Found(change(value)),
            Self::Absent => Outcome::Absent,
            Self::Hidden => Outcome::Hidden,
            Self::Refused => Outcome::Refused,
            Self::Blocked(block) => Outcome::Blocked(block),
            Self::Pending(why) => Outcome::Pending(why),
            Self::Unavailable(outage) => Outcome::Unavailable(outage),
            Self::Unauthorized(why) => Outcome::Unauthorized(why),
            Self::Busy(busy) => Outcome::Busy(busy),
            Self::Misbehaved(why) => Outcome::Misbehaved(why),
        }
    }

    /// What was found, or the other end with any type of finding.
    ///
    /// # Errors
    /// Every end but `Found`.
    pub fn found<U>(self) -> Result<T, Outcome<U>> {
        match self {
            Self::Found(value) => Ok(value),
            Self::Absent => Err(Outcome::Absent),
            Self::Hidden => Err(Outcome::Hidden),
            Self::Refused => Err(Outcome::Refused),
            Self::Blocked(block) => Err(Outcome::Blocked(block)),
            Self::Pending(why) => Err(Outcome::Pending(why)),
            Self::Unavailable(outage) => Err(Outcome::Unavailable(outage)),
            Self::Unauthorized(why) => Err(Outcome::Unauthorized(why)),
            Self::Busy(busy) => Err(Outcome::Busy(busy)),
            Self::Misbehaved(why) => Err(Outcome::Misbehaved(why)),
        }
    }

    /// The name of this end, for metrics.
    #[must_use]
    pub const fn kind(&self) -> OutcomeKind {
        match self {
            Self::Found(_) => OutcomeKind::Found,
            Self::Absent => OutcomeKind::Absent,
            Self::Hidden => OutcomeKind::Hidden,
            Self::Refused => OutcomeKind::Refused,
            Self::Blocked(_) => OutcomeKind::Blocked,
            Self::Pending(_) => OutcomeKind::Pending,
            Self::Unavailable(_) => OutcomeKind::Unavailable,
            Self::Unauthorized(_) => OutcomeKind::Unauthorized,
            Self::Busy(_) => OutcomeKind::Busy,
            Self::Misbehaved(_) => OutcomeKind::Misbehaved,
        }
    }
}

/// The name of an [`Outcome`] without what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the Outcome of the same name")]
pub enum OutcomeKind {
    Found,
    Absent,
    Hidden,
    Refused,
    Blocked,
    Pending,
    Unavailable,
    Unauthorized,
    Busy,
    Misbehaved,
}
