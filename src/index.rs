//! Policies, registries, waivers, namespaces and image statuses by name: what the watches feed and reviews read.
//!
//! Pure: no client, no clock, no await. Two kinds of content live apart because they change at different speeds. The few
//! resources that people write make a [`Rules`] value that is built anew on change and handed out as an `Arc`, so that a review
//! sees one consistent set and holds no lock. Image statuses and namespaces are maps; an owned answer comes out of each look.
//!
//! An object that cannot be read keeps its last readable form, and the index says so ([`Index::unreadable`]): a policy that
//! somebody breaks must not open anything.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use smallvec::SmallVec;

use crate::{
    api::{self, ImageStatus, Provider, QuarantineProvider, State},
    facts::{Child, Facts, Manifest},
    image::{Digest, Reference, Subject},
    policy::{Policy, RegistryEntry, Unreadable, Waiver},
    verdict::Sight,
};

/// What people wrote, made ready.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Policies by name.
    pub policies: BTreeMap<String, Arc<Policy>>,
    /// Registries by name.
    pub registries: BTreeMap<String, Arc<RegistryEntry>>,
    /// Waivers by name.
    pub waivers: BTreeMap<String, Arc<Waiver>>,
    by_host: HashMap<String, Vec<Arc<RegistryEntry>>>,
    /// By any policy.
    denied: HashSet<Digest>,
}

impl Rules {
    /// Whether some policy denies the digest of an image, that of one inside it, or that of its configuration.
    #[must_use]
    pub fn denies(&self, sight: &Sight) -> bool {
        let denied = |digest: &Digest| self.denied.contains(digest);
        let inside = |manifest: &Manifest| {
            manifest.config.as_ref().is_some_and(denied) || manifest.children.iter().any(|child| denied(&child.digest))
        };
        !self.denied.is_empty()
            && (sight.subject.as_ref().is_some_and(|subject| denied(subject.digest()))
                || sight.facts().is_some_and(|facts| inside(&facts.manifest)))
    }

    fn collect_denied(&mut self) {
        self.denied = self.policies.values().flat_map(|policy| policy.denied_digests()).cloned().collect();
    }

    /// The Registry that speaks of this image; the first by name where several do.
    #[must_use]
    pub fn registry_of(&self, image: &Reference) -> Option<&Arc<RegistryEntry>> {
        self.registry_for(image.registry(), image.repository())
    }

    /// The Registry that speaks of this host and repository; the first by name where several do.
    #[must_use]
    pub fn registry_for(&self, host: &str, repository: &str) -> Option<&Arc<RegistryEntry>> {
        self.by_host.get(host)?.iter().find(|entry| entry.covers(repository))
    }

    /// Whether some Registry names this host.
    #[must_use]
    pub fn names_host(&self, host: &str) -> bool {
        self.by_host.contains_key(host)
    }

    fn rehost(&mut self) {
        self.by_host.clear();
        for entry in self.registries.values() {
            for host in &entry.hosts {
                self.by_host.entry(host.clone()).or_default().push(entry.clone());
            }
        }
    }
}

/// One image status, as the index holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// The object's name.
    pub name: String,
    /// What is known.
    pub facts: Arc<Facts>,
    /// Numbers of transitions whose audit lines are not out.
    pub waiting: usize,
    /// A person decided something that no write of ours has answered yet.
    pub undecided: bool,
    /// Whether a person's decision stands in the spec.
    pub decided: bool,
    /// Since when nothing names it.
    pub unused_since: Option<Timestamp>,
    /// The history is empty: somebody made the object, and nothing was seen yet.
    pub blank: bool,
    /// A person holds or fails it, and that is yet to be written into its status. It counts at once, whoever made the object and by whatever name.
    pub held: bool,
    /// Since when it is bad, where it was good before.
    pub fell: Option<Timestamp>,
    /// The namespace in which it was first asked for, as its label says.
    pub first_seen_in: Option<Arc<str>>,
    /// The tags that were last seen to stand for it, as references, and when.
    pub tags: Box<[(Reference, Timestamp)]>,
}

impl Known {
    /// Reads an object. `None` when its subject is no canonical name: nothing is ever looked up by it.
    #[must_use]
    pub fn read(object: &ImageStatus, now: Timestamp) -> Option<(Subject, Self)> {
        let subject: Subject = object.spec.subject.parse().ok()?;
        let status = object.status.clone().unwrap_or_default();
        let tagged = |seen: &api::TagSeen| Some((subject.tagged(&seen.tag)?, seen.at));
        let tags = status.tags.iter().filter_map(tagged).collect();
        let pending = crate::history::decided(object, now);
        let mut facts = Facts {
            state: status.state,
            since: status.since.unwrap_or(Timestamp::UNIX_EPOCH),
            by: status.by,
            reason: status.reason,
            details: status.details,
            provider: status.provider,
            observed_at: status.observed_at.unwrap_or(Timestamp::UNIX_EPOCH),
            manifest: Manifest {
                config: status.config.and_then(|config| config.parse().ok()),
                children: status
                    .children
                    .iter()
                    .filter_map(|child| {
                        let (platform, digest) = child.rsplit_once('=')?;
                        Some(Child { digest: digest.parse().ok()?, platform: platform.to_owned() })
                    })
                    .collect(),
                cut: status.more_children,
            },
        };
        let undecided = pending.is_some();
        let blank = status.history.is_empty();
        let held = pending.as_ref().is_some_and(|decision| decision.facts.state.is_bad());
        // A decision acts at once in every replica, not only when the leader has written it down.
        // Where the registry keeps the flag a release waits until the registry has taken it; what is held is held from now on.
        // Where nobody keeps one there is nothing to decide.
        let counts = match facts.provider {
            _ if blank => held,
            Provider::Managed => true,
            Provider::AzureContainerRegistry => held,
            Provider::None => false,
        };
        if let Some(decision) = pending.filter(|_| counts) {
            let since = if decision.facts.state == facts.state { facts.since } else { decision.facts.since };
            let provider = if blank { Provider::Managed } else { facts.provider };
            facts = Facts { since, manifest: facts.manifest, provider, ..decision.facts };
        }
        // A decision that is not written yet comes after the last transition that is.
        let last = (facts.state.is_bad() && !status.state.is_bad()).then_some((facts.state, facts.since));
        let fell = crate::history::fell(&status.history, last);
        let waiting = status.history.iter().filter(|transition| transition.number > status.emitted_through).count();
        let known = Self {
            name: object.metadata.name.clone().unwrap_or_default(),
            facts: Arc::new(facts),
            waiting,
            undecided,
            decided: object.spec.quarantine.is_some(),
            unused_since: status.unused_since,
            blank,
            held,
            fell,
            first_seen_in: object.metadata.labels.as_ref().and_then(|labels| labels.get(FIRST_SEEN_IN)).map(|name| name.as_str().into()),
            tags,
        };
        Some((subject, known))
    }
}

/// The label that says in which namespace an image was first asked for; the cap per namespace counts by it.
pub const FIRST_SEEN_IN: &str = "lazaretto.dev/first-seen-in";

/// The kinds of objects that can be unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the resource of the same name")]
pub enum Kind {
    Policy,
    Registry,
    Waiver,
}

/// Everything that is known by watching.
#[derive(Debug, Default)]
pub struct Index {
    rules: Arc<Rules>,
    unreadable: BTreeMap<(Kind, String), Unreadable>,
    images: HashMap<Subject, SmallVec<[Arc<Known>; 1]>, ahash::RandomState>,
    subjects: HashMap<String, Subject>,
    first_seen_in: HashMap<Arc<str>, usize>,
    namespaces: HashMap<String, Arc<BTreeMap<String, String>>>,
    /// What tags were last seen to stand for.
    tags: HashMap<Reference, SmallVec<[(Timestamp, Subject); 1]>, ahash::RandomState>,
    /// Bad findings that could not be written, newer than what is: nothing good that is written may hide them.
    unwritten: HashMap<Subject, Arc<Facts>>,
}

/// Bad findings that are held unwritten at the most; beyond them the oldest is forgotten.
const MOST_UNWRITTEN: usize = 4_096;

impl Index {
    /// What people wrote, made ready.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.clone()
    }

    /// Objects that cannot be read, with the reason.
    #[must_use]
    pub const fn unreadable(&self) -> &BTreeMap<(Kind, String), Unreadable> {
        &self.unreadable
    }

    /// Takes in a policy. Says whether anything changed.
    pub fn apply_policy(&mut self, object: &api::QuarantinePolicy) -> bool {
        let name = object.metadata.name.clone().unwrap_or_default();
        let read = Policy::try_from(object);
        self.hold(Kind::Policy, name, read, |rules, name, policy| {
            rules.policies.insert(name, Arc::new(policy));
            rules.collect_denied();
        })
    }

    /// Takes in a registry. Says whether anything changed.
    pub fn apply_registry(&mut self, object: &api::Registry) -> bool {
        let name = object.metadata.name.clone().unwrap_or_default();
        let read = RegistryEntry::try_from(object);
        self.hold(Kind::Registry, name, read, |rules, name, entry| {
            rules.registries.insert(name, Arc::new(entry));
            rules.rehost();
        })
    }

    /// Takes in a waiver. Says whether anything changed.
    pub fn apply_waiver(&mut self, object: &api::Waiver) -> bool {
        let name = object.metadata.name.clone().unwrap_or_default();
        let read = Waiver::try_from(object);
        self.hold(Kind::Waiver, name, read, |rules, name, waiver| {
            rules.waivers.insert(name, Arc::new(waiver));
        })
    }

    fn hold<T>(&mut self, kind: Kind, name: String, read: Result<T, Unreadable>, put: impl FnOnce(&mut Rules, String, T)) -> bool {
        match read {
            Ok(value) => {
                self.unreadable.remove(&(kind, name.clone()));
                put(Arc::make_mut(&mut self.rules), name, value);
                true
            }
            Err(error) => self.unreadable.insert((kind, name), error.clone()) != Some(error),
        }
    }

    /// An object of a kind that people write is there and cannot be read at all: it keeps its last readable form. Says whether that is news.
    pub fn hold_unreadable(&mut self, kind: Kind, name: &str, error: &str) -> bool {
        let error = Unreadable::Object(error.to_owned());
        self.unreadable.insert((kind, name.to_owned()), error.clone()) != Some(error)
    }

    /// An object of a kind that people write is gone.
    pub fn delete(&mut self, kind: Kind, name: &str) {
        self.unreadable.remove(&(kind, name.to_owned()));
        let rules = Arc::make_mut(&mut self.rules);
        match kind {
            Kind::Policy => {
                rules.policies.remove(name);
                rules.collect_denied();
            }
            Kind::Registry => {
                rules.registries.remove(name);
                rules.rehost();
            }
            Kind::Waiver => drop(rules.waivers.remove(name)),
        }
    }

    /// The names of a kind that are held, in a readable form or not: what a relist is compared with.
    #[must_use]
    pub fn names(&self, kind: Kind) -> Vec<String> {
        let mut names: Vec<String> = match kind {
            Kind::Policy => self.rules.policies.keys().cloned().collect(),
            Kind::Registry => self.rules.registries.keys().cloned().collect(),
            Kind::Waiver => self.rules.waivers.keys().cloned().collect(),
        };
        names.extend(self.unreadable.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Takes in an image status. Says whether anything changed.
    pub fn apply_image(&mut self, object: &ImageStatus, now: Timestamp) -> bool {
        let name = object.metadata.name.clone().unwrap_or_default();
        let Some((subject, known)) = Known::read(object, now) else { return self.delete_image(&name) };
        if let Some(held) = self.image_named(&name)
            && self.subjects.get(&name) == Some(&subject)
            && *held == known
        {
            return false;
        }
        self.delete_image(&name);
        if self.unwritten.get(&subject).is_some_and(|facts| facts.observed_at <= known.facts.observed_at) {
            self.unwritten.remove(&subject);
        }
        if let Some(namespace) = &known.first_seen_in {
            *self.first_seen_in.entry(namespace.clone()).or_default() += 1;
        }
        for (reference, at) in &known.tags {
            self.tags.entry(reference.clone()).or_default().push((*at, subject.clone()));
        }
        self.subjects.insert(name, subject.clone());
        self.images.entry(subject).or_default().push(Arc::new(known));
        true
    }

    /// An image status is gone. Says whether it was there.
    pub fn delete_image(&mut self, name: &str) -> bool {
        let Some(subject) = self.subjects.remove(name) else { return false };
        if let Some(namespace) =
            self.images.get(&subject).and_then(|all| all.iter().find(|known| known.name == name)?.first_seen_in.clone())
            && let Some(count) = self.first_seen_in.get_mut(&namespace)
        {
            *count -= 1;
            if *count == 0 {
                self.first_seen_in.remove(&namespace);
            }
        }
        if let Some(all) = self.images.get_mut(&subject) {
            for known in all.iter().filter(|known| known.name == name) {
                for (reference, at) in &known.tags {
                    if let Some(held) = self.tags.get_mut(reference) {
                        held.retain(|(seen, of)| (&*seen, &*of) != (at, &subject));
                        if held.is_empty() {
                            self.tags.remove(reference);
                        }
                    }
                }
            }
            all.retain(|known| known.name != name);
            if all.is_empty() {
                self.images.remove(&subject);
            }
        }
        true
    }

    /// What is known of a subject. Where two objects speak of one subject, the strictest wins: the name is only a handle. A bad finding
    /// that could not be written goes before anything good that is.
    #[must_use]
    pub fn image(&self, subject: &Subject) -> Option<Arc<Known>> {
        let speaks = |known: &&Arc<Known>| !known.blank || known.held;
        let known = match &**self.images.get(subject)? {
            // As it nearly always is.
            [known] => Some(known).filter(speaks),
            all => all.iter().filter(speaks).max_by_key(|known| (known.facts.state, known.facts.observed_at)),
        }?;
        if self.unwritten.is_empty() || known.facts.state.is_bad() {
            return Some(known.clone());
        }
        match self.unwritten.get(subject) {
            Some(facts) => Some(Arc::new(Known { facts: facts.clone(), ..Known::clone(known) })),
            None => Some(known.clone()),
        }
    }

    /// Holds a bad finding that could not be written, as long as something good and older is written. Without that nothing has to be held:
    /// who knows nothing asks.
    pub fn hold_unwritten(&mut self, subject: &Subject, facts: &Arc<Facts>) {
        let hides = self.image(subject).is_some_and(|known| !known.facts.state.is_bad() && known.facts.observed_at < facts.observed_at);
        if !facts.state.is_bad() || !hides {
            return;
        }
        if self.unwritten.len() >= MOST_UNWRITTEN {
            let oldest = self.unwritten.iter().min_by_key(|(_, facts)| facts.observed_at).map(|(subject, _)| subject.clone());
            drop(oldest.and_then(|oldest| self.unwritten.remove(&oldest)));
        }
        self.unwritten.insert(subject.clone(), facts.clone());
    }

    /// What a tag was last seen to stand for, and when.
    #[must_use]
    pub fn tagged(&self, image: &Reference) -> Option<(Subject, Timestamp)> {
        self.tags.get(image)?.iter().max().map(|(at, subject)| (subject.clone(), *at))
    }

    /// The names of all objects that speak of a subject.
    pub fn names_of(&self, subject: &Subject) -> impl Iterator<Item = &str> {
        self.images.get(subject).into_iter().flatten().map(|known| known.name.as_str())
    }

    /// Every object.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Known>> {
        self.images.values().flatten()
    }

    /// The image status with this name.
    #[must_use]
    pub fn image_named(&self, name: &str) -> Option<Arc<Known>> {
        self.images.get(self.subjects.get(name)?)?.iter().find(|known| known.name == name).cloned()
    }

    /// The subject of an image status.
    #[must_use]
    pub fn subject_named(&self, name: &str) -> Option<Subject> {
        self.subjects.get(name).cloned()
    }

    /// Every subject with what is written of it; the strictest where several objects speak of one. Anybody may make an object: one in
    /// which nothing is written yet hides none in which something is.
    pub fn images(&self) -> impl Iterator<Item = (&Subject, &Arc<Known>)> {
        self.images.iter().filter_map(|(subject, all)| {
            Some((subject, all.iter().max_by_key(|known| (!known.blank || known.held, known.facts.state, known.facts.observed_at))?))
        })
    }

    /// How many image statuses there are.
    #[must_use]
    pub fn image_count(&self) -> usize {
        self.subjects.len()
    }

    /// How many image statuses were first asked for in a namespace.
    #[must_use]
    pub fn first_seen_in(&self, namespace: &str) -> usize {
        self.first_seen_in.get(namespace).copied().unwrap_or_default()
    }

    /// Names of all image statuses.
    #[must_use]
    pub fn image_names(&self) -> Vec<String> {
        self.subjects.keys().cloned().collect()
    }

    /// Takes in a namespace's labels. Says whether anything changed.
    pub fn apply_namespace(&mut self, name: &str, labels: BTreeMap<String, String>) -> bool {
        if self.namespaces.get(name).is_some_and(|held| **held == labels) {
            return false;
        }
        self.namespaces.insert(name.to_owned(), Arc::new(labels));
        true
    }

    /// A namespace is gone.
    pub fn delete_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// The labels of a namespace; none when it is not held, which does not say that it does not exist.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<Arc<BTreeMap<String, String>>> {
        self.namespaces.get(name).cloned()
    }

    /// Names of all namespaces.
    #[must_use]
    pub fn namespace_names(&self) -> Vec<String> {
        self.namespaces.keys().cloned().collect()
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, status: &serde_json::Value) -> ImageStatus {
        let subject = format!("r.corp/app@sha256:{}", "a".repeat(64));
        serde_json::from_value(serde_json::json!({
            "apiVersion": "lazaretto.dev/v1alpha1", "kind": "ImageStatus", "metadata": { "name": name },
            "spec": { "subject": subject }, "status": status,
        }))
        .unwrap()
    }

    fn written(state: &str) -> serde_json::Value {
        serde_json::json!({
            "state": state, "provider": "Managed",
            "history": [{ "number": 1, "at": "2026-01-01T00:00:00Z", "state": state, "by": "lazaretto", "reason": "" }],
        })
    }

    #[test]
    fn of_two_objects_for_one_image_the_strictest_speaks_and_an_empty_one_never_does() {
        let (blank, real, other) =
            (object("blank", &serde_json::Value::Null), object("real", &written("Quarantined")), object("other", &written("Released")));
        for order in [[&blank, &real, &other], [&other, &real, &blank], [&real, &blank, &other]] {
            let mut index = Index::default();
            for object in order {
                index.apply_image(object, Timestamp::UNIX_EPOCH);
            }
            let (subject, work) = index.images().next().unwrap();
            assert_eq!((work.name.as_str(), index.image(subject).unwrap().name.as_str()), ("real", "real"));
            index.delete_image("real");
            assert_eq!(index.images().next().unwrap().1.name, "other");
        }
        let mut index = Index::default();
        index.apply_image(&blank, Timestamp::UNIX_EPOCH);
        let (subject, _) = index.images().next().unwrap();
        assert!(index.image(subject).is_none(), "nothing is written there");
    }

    fn facts(state: State, second: i64) -> Arc<Facts> {
        let at = Timestamp::from_second(1_800_000_000 + second).unwrap();
        let provider = Provider::AzureContainerRegistry;
        let (by, reason, details, manifest) = (String::new(), String::new(), String::new(), Manifest::default());
        Arc::new(Facts { state, since: at, by, reason, details, provider, observed_at: at, manifest })
    }

    #[test]
    fn a_bad_finding_that_could_not_be_written_hides_what_is_written_until_something_newer_is() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let seen = |state: &str, second| {
            let mut status = written(state);
            status["provider"] = "AzureContainerRegistry".into();
            status["observedAt"] = at(second).to_string().into();
            object("one", &status)
        };
        let mut index = Index::default();
        let subject: Subject = seen("Released", 0).spec.subject.parse().unwrap();
        index.hold_unwritten(&subject, &facts(State::Failed, 1));
        assert!(index.image(&subject).is_none(), "without anything written nothing is hidden, and whoever asks is told");
        index.apply_image(&seen("Released", 0), at(0));
        index.hold_unwritten(&subject, &facts(State::Failed, 1));
        assert_eq!(index.image(&subject).unwrap().facts.state, State::Failed);
        index.hold_unwritten(&subject, &facts(State::Released, 2));
        assert_eq!(index.image(&subject).unwrap().facts.state, State::Failed, "only what is written clears it");
        index.apply_image(&seen("Released", 3), at(3));
        assert_eq!(index.image(&subject).unwrap().facts.state, State::Released);
        index.hold_unwritten(&subject, &facts(State::Failed, 2));
        assert_eq!(index.image(&subject).unwrap().facts.state, State::Released, "older than what is written");
    }

    #[test]
    fn a_hold_counts_at_once_by_whatever_name_it_is_written() {
        let mut held = object("hold-x", &serde_json::Value::Null);
        held.spec.quarantine = Some(crate::api::Decision {
            state: crate::api::DecisionState::Failed,
            by: "jane".into(),
            reason: "a worm".into(),
            details: None,
            expects: None,
        });
        let released = object("real", &written("Released"));
        let subject: Subject = held.spec.subject.parse().unwrap();
        for order in [[&held, &released], [&released, &held]] {
            let mut index = Index::default();
            for object in order {
                index.apply_image(object, Timestamp::UNIX_EPOCH);
            }
            let known = index.image(&subject).unwrap();
            assert_eq!((known.facts.state, known.facts.by.as_str()), (State::Failed, "jane"));
            index.delete_image("real");
            assert_eq!(index.image(&subject).unwrap().name, "hold-x");
        }
        held.spec.quarantine.as_mut().unwrap().state = crate::api::DecisionState::Released;
        let mut index = Index::default();
        index.apply_image(&held, Timestamp::UNIX_EPOCH);
        assert!(index.image(&subject).is_none(), "nobody is let go before the registry has confirmed the image");
    }
}
