//! How a judgement may end, and on what that rests.

use std::{sync::Arc, time::Duration};

use crate::{
    facts::{Block, Busy, Facts, Outage},
    proof::Unproven,
};

/// On what an admission or refusal rests, for metrics, audit annotations and audit lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the documentation; docs/operations.md has a table of them")]
pub enum Basis {
    NoPolicy,
    NothingNew,
    MirrorPod,
    NothingRequired,
    KnownFacts,
    Registry,
    LastKnownGood,
    Waiver,
    Processor,
    OpenPending,
    OpenUnavailable,
    OpenUnauthorized,
    Unreadable,
    Deadline,
}

impl Basis {
    /// The word for annotations.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPolicy => "NoPolicy",
            Self::NothingNew => "NothingNew",
            Self::MirrorPod => "MirrorPod",
            Self::NothingRequired => "NothingRequired",
            Self::KnownFacts => "KnownFacts",
            Self::Registry => "Registry",
            Self::LastKnownGood => "LastKnownGood",
            Self::Waiver => "Waiver",
            Self::Processor => "Processor",
            Self::OpenPending => "OpenPending",
            Self::OpenUnavailable => "OpenUnavailable",
            Self::OpenUnauthorized => "OpenUnauthorized",
            Self::Unreadable => "Unreadable",
            Self::Deadline => "Deadline",
        }
    }

    /// Whether this lets in what was not judged: a debt.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::OpenPending | Self::OpenUnavailable | Self::OpenUnauthorized)
    }
}

/// Why not, or not yet. [`crate::sentence`] puts it into words.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// A `deny` rule, with its reason.
    Denied(String),
    /// The policy denies digests, and the index has more images than are held: a denied one may be among the others.
    IndexTooLarge,
    /// The policy wants a digest, and the pod names none.
    NoDigest,
    /// Its Registry excludes the repository.
    Excluded,
    /// It comes from elsewhere than the policy allows, which is this.
    SourceNotAllowed(Arc<str>),
    /// It is named without its registry; its whole name.
    Unqualified(String),
    /// The image is in quarantine, or failed.
    Held(Arc<Facts>),
    /// Something has to be signed, and is not.
    Unproven(Unproven),
    /// Nobody keeps a flag for it, and the policy does not allow that.
    Unmanaged {
        /// A Registry object names its host.
        listed: bool,
    },
    /// The host is an address that no Registry object names: it could be any registry.
    AddressLiteral,
    /// A registry that goes before this one holds the repository: the reference to use instead.
    Shadowed(Arc<str>),
    /// A registry that goes before this one does not show whether it holds the repository.
    OriginNotShown,
    /// A registry that goes before this one has not said whether it holds the repository, for this reason.
    OriginOpen(Box<Self>),
    /// Not there, or not permitted: nobody is told which.
    NotFoundOrNotPermitted,
    /// Not found at a registry that answers so for what it has in quarantine, too.
    Hidden,
    /// The registry's own policy blocks it.
    Blocked(Block),
    /// The registry answered against its protocol.
    Misbehaved(String),
    /// Nobody knows.
    Unknown(Unknown),
    /// Not known yet.
    Busy(Busy),
    /// The reference cannot be read, or two readers would read it differently.
    Reference(String),
}

impl Why {
    /// Nobody knows yet, and no knob opens that.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Busy(_) => true,
            Self::OriginOpen(why) => why.is_busy(),
            _ => false,
        }
    }
}

/// Why nobody knows, by a finished finding about the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It is still being analysed, or this one question is slow.
    Pending(String),
    /// The registry is down.
    Unavailable(Outage),
    /// The Registry object's own credentials are refused.
    Unauthorized(String),
}

/// What one policy makes of one image.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Yes.
    Admit(Basis),
    /// No.
    Refuse(Why),
    /// It depends on the policy's `whenUnknown`.
    Unknown(Unknown),
    /// Not yet; no knob opens it.
    Busy(Busy),
}

/// A verdict after `whenUnknown`.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// Yes.
    Admit(Basis),
    /// No: 403.
    Refuse(Why),
    /// Not yet: 504 and the time to wait.
    Later(Why, Duration),
}

impl Settled {
    /// Of two answers about one image the stricter, or this one; of two that admit the one that rests on less.
    pub(super) fn stricter(self, other: Self) -> Self {
        let rank = |settled: &Self| match settled {
            Self::Refuse(_) => 4,
            Self::Later(..) => 3,
            Self::Admit(basis) if basis.is_open() => 2,
            Self::Admit(Basis::LastKnownGood) => 1,
            Self::Admit(_) => 0,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }
}
