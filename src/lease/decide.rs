//! Whether a Lease may be taken: values in, values out.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

use super::TERM;

/// The longest term that another holder is believed to have asked for.
const LONGEST: Duration = Duration::from_secs(600);

/// A Lease as we last saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    version: Option<String>,
    holder: Option<String>,
    term: Duration,
    /// When *we* first saw this version.
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// There is no Lease.
    Create,
    /// It is ours, free, or run out.
    Take,
    /// Another holds it.
    Leave,
}

/// Compares what is stored with what was seen before. Any write by anybody counts as a sign of life, whatever times it bears.
pub(super) fn observe(before: Option<Observed>, stored: Option<&Lease>, now: Instant) -> Option<Observed> {
    let stored = stored?;
    let version = stored.metadata.resource_version.clone();
    if let Some(before) = before
        && before.version == version
    {
        return Some(before);
    }
    let spec = stored.spec.clone().unwrap_or_default();
    let term = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(TERM, Duration::from_secs);
    let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
    Some(Observed { version, holder, term: term.min(LONGEST), since: now })
}

/// Decides for `me`. No clock but our own monotonic one takes part, so clocks that differ between nodes do no harm.
///
/// A Lease that bears our name without our leading is a write of ours whose answer was lost; an identity belongs to one process, so taking it
/// at once meets nobody else.
pub(super) fn decide(seen: Option<&Observed>, me: &str, now: Instant) -> Action {
    match seen {
        None => Action::Create,
        Some(Observed { holder: None, .. }) => Action::Take,
        Some(Observed { holder: Some(holder), .. }) if holder == me => Action::Take,
        Some(Observed { term, since, .. }) if now >= *since + *term => Action::Take,
        Some(_) => Action::Leave,
    }
}
