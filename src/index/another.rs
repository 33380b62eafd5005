//! What is known of an image by other names: what cannot be asked about is not to open for how it is called.
//!
//! This is for what has to be asked about anew. What is written of an image by its own name, and fresh, is what it is judged by.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Index, Known, is_believed};
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
    fn bad_by_another_name(&self, subject: &Subject) -> Option<Arc<Known>> {
        let (other, known) = self.bad_at_its_registry(subject).next()?;
        if other.digest() == subject.digest() {
            return Some(known.clone());
        }
        let facts = Facts { manifest: Manifest::default(), ..Facts::clone(&known.facts) };
        Some(Arc::new(Known { facts: Arc::new(facts), ..Known::clone(known) }))
    }

    /// What was last known of an image that has to be asked about anew: by its own name, unless that is stale and it was found bad at another
    /// host of its Registry since (as far as clocks tell); or, where nothing is known by its own, that it is bad by another.
    #[must_use]
    pub fn last(&self, subject: &Subject, now: Timestamp) -> Option<Arc<Known>> {
        let Some(known) = self.image(subject) else { return self.bad_by_another_name(subject) };
        if is_believed(&known, subject, self.registry_of(subject).map(AsRef::as_ref), now) {
            return Some(known);
        }
        let same = |other: &Subject| (other.repository(), other.digest()) == (subject.repository(), subject.digest());
        let since = |bad: &Known| is_since(bad.facts.observed_at, known.facts.observed_at);
        let bad = self.bad_at_its_registry(subject).filter(|(other, bad)| same(other) && since(bad)).map(|(_, bad)| bad);
        let Some(bad) = bad.max_by_key(|bad| (bad.facts.state, bad.facts.observed_at)) else { return Some(known) };
        if !bad.facts.manifest.is_unread() {
            return Some(bad.clone());
        }
        // The same digest has the same inside.
        let facts = Facts { manifest: known.facts.manifest.clone(), ..Facts::clone(&bad.facts) };
        Some(Arc::new(Known { facts: Arc::new(facts), ..Known::clone(bad) }))
    }

    /// What a tag was last seen to stand for at another host of its Registry, if that is bad at either, and not seen before `own`, when it was last seen
    /// at its own.
    #[must_use]
    pub fn bad_at_another_host(&self, image: &Reference, own: Option<Timestamp>, now: Timestamp) -> Option<(Subject, Arc<Known>)> {
        let registry = self.rules.registry_of(image)?;
        let others = registry.hosts.iter().filter(|host| **host != image.registry());
        let tagged = others.filter_map(|host| self.tagged(&image.at(host)));
        let bad = tagged.filter_map(|(there, at)| {
            let (subject, bad) = (image.with_digest(there.digest().clone()), |known: &Arc<Known>| known.facts.state.is_bad());
            let its = self.registry_of(&there).is_some_and(|its| its.name == registry.name);
            let counts = its && own.is_none_or(|own| is_since(at, own));
            let known = || self.image(&subject).filter(bad).or_else(|| self.last(&there, now).filter(bad));
            counts.then(known)?.map(|known| (subject, known))
        });
        bad.max_by_key(|(_, known)| (known.facts.state, known.facts.observed_at))
    }
}

/// Not before it, as far as the clocks of two machines tell.
fn is_since(at: Timestamp, since: Timestamp) -> bool {
    at.duration_since(since).as_secs() >= -CLOCKS_DIFFER
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{api, image::Digest};

    /// An index with two Registries, and what is known of one digest by its names: a state, and when it was seen, in seconds. What is good is
    /// from a time when nobody kept the flag.
    fn known(names: &[(&str, &str, i64)]) -> Index {
        let mut index = Index::default();
        for (name, hosts) in [("corp", json!(["a.corp", "b.corp"])), ("other", json!(["c.other"]))] {
            let registry: api::Registry = serde_json::from_value(json!({
                "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": name },
                "spec": { "hosts": hosts, "quarantine": { "provider": "Managed" } },
            }))
            .unwrap();
            assert!(index.apply_registry(&registry));
        }
        for (number, (name, state, seconds)) in names.iter().enumerate() {
            let object: api::ImageStatus = serde_json::from_value(json!({
                "apiVersion": "lazaretto.dev/v1alpha1", "kind": "ImageStatus", "metadata": { "name": format!("image-{number}") },
                "spec": { "subject": subject(name).to_string() },
                "status": {
                    "state": state, "provider": if *state == "Released" { "None" } else { "Managed" }, "observedAt": at(*seconds),
                    "tags": [{ "tag": "1", "at": at(*seconds) }],
                    "history": [{ "number": 1, "at": at(*seconds), "state": state, "by": "jane", "reason": "r" }],
                },
            }))
            .unwrap();
            assert!(index.apply_image(&object, at(0)));
        }
        index
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn subject(name: &str) -> Subject {
        format!("{name}@{}", Digest::of(b"app")).parse().unwrap()
    }

    #[test]
    fn what_is_good_by_its_own_name_is_bad_once_it_is_at_another_host_and_by_no_other_name() {
        let good = ("a.corp/app", "Released", 10_000);
        for (bad, is_bad) in [
            (("b.corp/app", "Failed", 10_001), true),
            (("b.corp/app", "Quarantined", 10_000), true),
            // As far as clocks tell.
            (("b.corp/app", "Failed", 9_701), true),
            (("b.corp/app", "Failed", 9_699), false),
            (("b.corp/app", "Released", 10_001), false),
            (("b.corp/copy", "Failed", 10_001), false),
            (("c.other/app", "Failed", 10_001), false),
        ] {
            let last = known(&[good, bad]).last(&subject("a.corp/app"), at(20_000)).unwrap();
            assert_eq!(last.facts.state.is_bad(), is_bad, "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_known_by_its_own_name_is_bad_by_any_other_of_its_registry() {
        for (bad, is_bad) in [("b.corp/app", true), ("b.corp/copy", true), ("c.other/app", false)] {
            assert_eq!(known(&[(bad, "Failed", 0)]).last(&subject("a.corp/app"), at(20_000)).is_some(), is_bad, "{bad}");
        }
    }

    #[test]
    fn a_tag_is_looked_for_at_the_other_hosts_of_its_registry() {
        let image = |name: &str| Reference::parse(&format!("{name}:1")).unwrap();
        for (bad, is_bad) in [("b.corp/app", true), ("b.corp/copy", false), ("c.other/app", false)] {
            let found = known(&[(bad, "Failed", 0)]).bad_at_another_host(&image("a.corp/app"), None, at(20_000));
            assert_eq!(found.map(|(found, _)| found), is_bad.then(|| subject("a.corp/app")), "{bad}");
        }
        let good = known(&[("b.corp/app", "Released", 0), ("b.corp/copy", "Failed", 0)]);
        assert!(good.bad_at_another_host(&image("a.corp/app"), None, at(20_000)).is_none(), "its copy is another image");
        for (own, is_bad) in [(10_299, true), (10_301, false)] {
            let found = known(&[("b.corp/app", "Failed", 10_000)]).bad_at_another_host(&image("a.corp/app"), Some(at(own)), at(20_000));
            assert_eq!(found.is_some(), is_bad, "{own}");
        }
    }
}
