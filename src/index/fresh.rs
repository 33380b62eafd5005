//! How old what is written may be to be gone by.

use jiff::Timestamp;

use super::Known;
use crate::{
    api::{Provider, QuarantineProvider, State},
    image::Subject,
    policy::RegistryEntry,
};

/// Whether what is written of a subject can be relied on for a judgement now, without asking.
///
/// - Where Lazaretto keeps the flag, or nobody does, the object is the truth.
/// - Where the registry keeps it, a good state is as fresh as the last complete pass that did not except it, and may be two
///   intervals old. A bad one is asked again after [`BAD_IS_FRESH`]: somebody may just have released it and be waiting.
#[must_use]
pub fn is_fresh(known: &Known, subject: &Subject, registry: Option<&RegistryEntry>, now: Timestamp) -> bool {
    let provider = registry.map_or(QuarantineProvider::None, |registry| registry.provider);
    if known.blank || known.facts.provider != Provider::from(provider) {
        return false;
    }
    match provider {
        QuarantineProvider::Managed | QuarantineProvider::None => true,
        QuarantineProvider::AzureContainerRegistry => {
            let seen = last_seen(known, subject, registry);
            let age = now.duration_since(seen);
            let bound = match known.facts.state {
                State::Released | State::Unmanaged => registry.map_or(0, |registry| 2 * registry.poll_interval.as_secs()),
                State::Quarantined | State::Failed | State::Pending => BAD_IS_FRESH,
            };
            age.as_secs() <= i64::try_from(bound).unwrap_or(i64::MAX)
        }
    }
}

/// Whether what is written of a subject is gone by where nobody is asked: what is bad at any age, anything else while it is fresh.
#[must_use]
pub fn is_believed(known: &Known, subject: &Subject, registry: Option<&RegistryEntry>, now: Timestamp) -> bool {
    known.facts.state.is_bad() || is_fresh(known, subject, registry, now)
}

/// From when on what is written of a subject, if it is good, did not say any more how it is: whoever came later was judged by asking, or let in
/// unjudged. None where there is no such time.
#[must_use]
pub fn unseen_from(known: &Known, subject: &Subject, registry: &RegistryEntry) -> Option<Timestamp> {
    if known.blank || known.facts.state.is_bad() {
        return None;
    }
    let kept = known.facts.provider == Provider::from(registry.provider);
    match registry.provider {
        QuarantineProvider::None => None,
        QuarantineProvider::Managed => registry.adopted.filter(|_| !kept),
        QuarantineProvider::AzureContainerRegistry => {
            let seen = if kept { last_seen(known, subject, Some(registry)) } else { known.facts.observed_at };
            seen.checked_add(2 * registry.poll_interval).ok()
        }
    }
}

/// Seconds for which a bad state that a registry keeps is believed without asking again.
pub const BAD_IS_FRESH: u64 = 5;

/// When what is written was last seen to be so: at its own observation, or at the registry's last complete pass that did not except it.
#[must_use]
pub fn last_seen(known: &Known, subject: &Subject, registry: Option<&RegistryEntry>) -> Timestamp {
    let own = known.facts.observed_at;
    let Some(registry) = registry else { return own };
    match registry.last_complete_pass {
        Some(pass)
            if !registry.exceptions_cut && (registry.exceptions.is_empty() || !registry.exceptions.contains(&subject.to_string())) =>
        {
            own.max(pass)
        }
        _ => own,
    }
}
