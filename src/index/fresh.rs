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

/// From when on what is written of an image did not say any more how it is, if it says that it is good: whoever came later was let in unjudged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unseen {
    /// While its registry is out: for whoever came later than this.
    pub begins: Option<Timestamp>,
    /// It goes on for whoever came later than this, until somebody has seen that it is still so.
    pub lasts: Option<Timestamp>,
}

impl Unseen {
    /// That a registry which answers could not be asked about this one image makes nothing of what was judged before: [`begins`](Self::begins)
    /// knows no exceptions.
    #[must_use]
    pub fn of(known: &Known, subject: &Subject, registry: &RegistryEntry) -> Self {
        if known.blank || known.facts.state.is_bad() {
            return Self::default();
        }
        let kept = known.facts.provider == Provider::from(registry.provider);
        match registry.provider {
            QuarantineProvider::None => Self::default(),
            QuarantineProvider::Managed => {
                let from = registry.adopted.filter(|_| !kept);
                Self { begins: from, lasts: from }
            }
            QuarantineProvider::AzureContainerRegistry => {
                let own = known.facts.observed_at;
                let after = |seen: Timestamp| seen.checked_add(2 * registry.poll_interval).ok();
                let pass = registry.last_complete_pass.filter(|_| kept).map_or(own, |pass| own.max(pass));
                let seen = if kept { last_seen(known, subject, Some(registry)) } else { own };
                Self { begins: after(pass).filter(|_| registry.unreachable), lasts: after(seen) }
            }
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
