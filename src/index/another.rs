//! What is known of an image by other names: what cannot be asked about is not to open for how it is called.
//!
//! This is for what has to be asked about anew. What is written of an image by its own name, and fresh, is what it is judged by.

use std::sync::Arc;

use jiff::SignedDuration;

use super::{Index, Known};
use crate::{
    facts::{CLOCKS_DIFFER, Facts, Manifest},
    image::{Reference, Subject},
    policy::RegistryEntry,
};

impl Index {
    fn registry_of(&self, subject: &Subject) -> Option<&Arc<RegistryEntry>> {
        self.rules.registry_for(subject.registry(), subject.repository())
    }

    /// Those that are known to be bad and have the digest of this one, or have it inside, at the same Registry.
    fn bad_at_its_registry(&self, subject: &Subject) -> impl Iterator<Item = (&Subject, &Arc<Known>)> {
        let name = self.registry_of(subject).map(|registry| &registry.name);
        let same = move |other: &Subject| name.is_some() && self.registry_of(other).map(|registry| &registry.name) == name;
        self.bad(subject.digest()).filter(move |(other, _)| same(other))
    }

    /// The same digest under another name at the same Registry, if it is known to be bad there: what is the same may be called by another host,
    /// repository or index, and an outage must not open it for that. Of what is inside it only what is its own is said.
    #[must_use]
    pub fn bad_by_another_name(&self, subject: &Subject) -> Option<Arc<Known>> {
        let (other, known) = self.bad_at_its_registry(subject).next()?;
        if other.digest() == subject.digest() {
            return Some(known.clone());
        }
        let facts = Facts { manifest: Manifest::default(), ..Facts::clone(&known.facts) };
        Some(Arc::new(Known { facts: Arc::new(facts), ..Known::clone(known) }))
    }

    /// What was last known of an image that has to be asked about anew: by its own name, unless it was found bad at another host of its Registry
    /// since (as far as clocks tell); or, where nothing is known by its own, that it is bad by another.
    #[must_use]
    pub fn last(&self, subject: &Subject) -> Option<Arc<Known>> {
        let Some(known) = self.image(subject) else { return self.bad_by_another_name(subject) };
        if known.facts.state.is_bad() {
            return Some(known);
        }
        let since = known.facts.observed_at.saturating_sub(SignedDuration::from_secs(CLOCKS_DIFFER)).unwrap_or(known.facts.observed_at);
        let same = |other: &Subject| (other.repository(), other.digest()) == (subject.repository(), subject.digest());
        let bad = self.bad_at_its_registry(subject).filter(|(other, bad)| same(other) && bad.facts.observed_at >= since);
        let bad = bad.map(|(_, bad)| bad.clone()).max_by_key(|bad| (bad.facts.state, bad.facts.observed_at));
        Some(bad.unwrap_or(known))
    }

    /// The digest that a tag was last seen to stand for at another host of its Registry, and what is known of that, if it is bad.
    #[must_use]
    pub fn bad_at_another_host(&self, image: &Reference) -> Option<(Subject, Arc<Known>)> {
        let registry = self.rules.registry_of(image)?;
        let others = registry.hosts.iter().filter(|host| **host != image.registry());
        let tagged = others.filter_map(|host| self.tagged(&image.at(host)));
        let bad = tagged.filter_map(|(there, _)| {
            let subject = image.with_digest(there.digest().clone());
            self.last(&subject).filter(|known| known.facts.state.is_bad()).map(|known| (subject, known))
        });
        bad.max_by_key(|(_, known)| (known.facts.state, known.facts.observed_at))
    }
}
