//! Policies, registries, waivers, namespaces and image statuses by name: what the watches feed and reviews read.
//!
//! Pure: no client, no clock, no await. Two kinds of content live apart because they change at different speeds. The few
//! resources that people write make a [`Rules`] value that is built anew on change and handed out as an `Arc`, so that a review
//! sees one consistent set and holds no lock. Image statuses and namespaces are maps; an owned answer comes out of each look.
//!
//! An object that cannot be read keeps its last readable form, and the index says so ([`Index::unreadable`]): a policy that
//! somebody breaks must not open anything.

mod another;
mod fresh;
mod known;
mod nodes;
mod rules;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use jiff::Timestamp;
use smallvec::SmallVec;

use crate::{
    api::{self, ImageStatus, TrustRootSource},
    counts::Counts,
    facts::Facts,
    image::{Digest, Reference, Subject},
    policy::{Policy, RegistryEntry, Unreadable, Waiver},
    proof::{Proof, Roots, TrustRoot},
};

use self::nodes::Nodes;
pub use self::{
    fresh::{BAD_IS_FRESH, Unseen, is_believed, is_fresh, last_seen},
    known::Known,
    rules::Rules,
};

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
    /// The trusted roots that policies and Registries name, as far as they were read.
    roots: Roots,
    /// Why one of them cannot be read just now.
    root_faults: BTreeMap<TrustRootSource, String>,
    nodes: Nodes,
    unreadable: BTreeMap<(Kind, String), Unreadable>,
    images: HashMap<Subject, SmallVec<[Arc<Known>; 1]>, ahash::RandomState>,
    names: HashMap<String, Stamp>,
    /// The uids of objects that are gone, the latest last: what was written of one of them may come after its end.
    gone: VecDeque<Box<str>>,
    first_seen_in: Counts<Arc<str>>,
    namespaces: HashMap<String, Arc<BTreeMap<String, String>>>,
    /// What tags were last seen to stand for.
    tags: HashMap<Reference, SmallVec<[(Timestamp, Subject); 1]>, ahash::RandomState>,
    /// Names of the objects in which an image is bad, by its digest and by those of what is inside it.
    bad: HashMap<Digest, SmallVec<[Box<str>; 1]>>,
    /// Bad findings that could not be written, newer than what is: nothing good that is written may hide them.
    unwritten: HashMap<Subject, Arc<Facts>>,
}

/// Which form of an object is held.
#[derive(Debug)]
struct Stamp {
    subject: Subject,
    uid: Box<str>,
    /// Its resourceVersion, which grows with each change of an object (Kubernetes API concepts, "resource versions"); 0 where it is no number.
    version: u64,
    /// The watch has brought it, and not only whoever wrote it.
    watched: bool,
}

impl Stamp {
    fn of(object: &ImageStatus, subject: Subject, watched: bool) -> Self {
        let version = object.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default();
        Self { subject, uid: object.metadata.uid.as_deref().unwrap_or_default().into(), version, watched }
    }

    /// Whether it is an earlier form of the same object.
    fn is_older_than(&self, held: &Self) -> bool {
        !self.uid.is_empty() && self.uid == held.uid && self.version < held.version
    }
}

/// Uids of objects that are gone, at the most.
const MOST_GONE: usize = 1_024;
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

    /// Takes in a trusted root. Says whether anything changed.
    pub fn apply_root(&mut self, source: &TrustRootSource, root: &Arc<TrustRoot>) -> bool {
        let mended = self.root_faults.remove(source).is_some();
        if self.roots.get(source).is_some_and(|held| held.fingerprint() == root.fingerprint()) {
            return mended;
        }
        self.roots.insert(source.clone(), root.clone());
        Arc::make_mut(&mut self.rules).bind(&self.roots, |proof| proof.sources().next().is_some());
        true
    }

    /// A trusted root could not be read, and stays as it was read last. Says whether that is news.
    pub fn note_root_fault(&mut self, source: &TrustRootSource, why: &str) -> bool {
        if self.root_faults.get(source).is_some_and(|held| held == why) {
            return false;
        }
        self.root_faults.insert(source.clone(), why.to_owned());
        true
    }

    /// What keeps a proof from going by every trusted root that it needs, in words. `None` where nothing does.
    #[must_use]
    pub fn root_fault(&self, proof: &Proof) -> Option<String> {
        let (source, why) = proof.sources().find_map(|source| Some((source, self.root_faults.get(source)?)))?;
        let stands = if self.roots.contains_key(source) {
            "As it was read last it stays in force"
        } else {
            "Until it can be read, nobody is told that something is not signed: such images wait"
        };
        Some(format!("the trusted root in {source}, in Lazaretto's own namespace, cannot be read: {why}. {stands}"))
    }

    /// Takes in a policy. Says whether anything changed.
    pub fn apply_policy(&mut self, object: &api::QuarantinePolicy) -> bool {
        let name = object.metadata.name.clone().unwrap_or_default();
        let mut read = Policy::try_from(object);
        if let Ok(policy) = &mut read {
            policy.proof = self.rules.shared(policy.proof.bound(&self.roots, &self.rules.platforms));
        }
        self.hold(Kind::Policy, name, read, |rules, name, policy| {
            rules.policies.insert(name, Arc::new(policy));
            rules.collect_denied();
        })
    }

    /// Takes in a registry. Says whether anything changed.
    pub fn apply_registry(&mut self, object: &api::Registry) -> bool {
        let name = object.metadata.name.clone().unwrap_or_default();
        let mut read = RegistryEntry::try_from(object);
        if let Ok(entry) = &mut read {
            entry.release = entry.release.as_ref().map(|proof| proof.bound(&self.roots, &self.rules.platforms));
        }
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

    /// Takes in an image status from the watch. Says whether anything changed, or is heard of by the watch for the first time.
    pub fn apply_image(&mut self, object: &ImageStatus, now: Timestamp) -> bool {
        self.take_image(object, now, true)
    }

    /// Takes in an image status that was just written, in a race with the watch: neither brings back what is older, and what is gone stays
    /// gone. Says whether anything changed.
    pub fn apply_written(&mut self, object: &ImageStatus, now: Timestamp) -> bool {
        self.take_image(object, now, false)
    }

    fn take_image(&mut self, object: &ImageStatus, now: Timestamp, watched: bool) -> bool {
        let name = object.metadata.name.clone().unwrap_or_default();
        let Some((subject, known)) = Known::read(object, now) else { return watched && self.delete_image(&name) };
        let mut stamp = Stamp::of(object, subject.clone(), watched);
        if !watched && self.gone.contains(&stamp.uid) {
            return false;
        }
        if let Some(held) = self.names.get(&name) {
            if stamp.is_older_than(held) {
                return false;
            }
            let news = watched && !held.watched;
            stamp.watched |= held.watched && stamp.uid == held.uid && stamp.version == held.version;
            if held.subject == subject && self.image_named(&name).is_some_and(|held| *held == known) {
                self.names.insert(name, stamp);
                return news;
            }
        }
        self.take_out(&name);
        if self.unwritten.get(&subject).is_some_and(|facts| facts.observed_at <= known.facts.observed_at) {
            self.unwritten.remove(&subject);
        }
        if let Some(namespace) = &known.first_seen_in {
            self.first_seen_in.add(namespace.clone());
        }
        for (reference, at) in &known.tags {
            self.tags.entry(reference.clone()).or_default().push((*at, subject.clone()));
        }
        for digest in bad_digests(&subject, &known) {
            self.bad.entry(digest.clone()).or_default().push(name.as_str().into());
        }
        self.names.insert(name, stamp);
        self.images.entry(subject).or_default().push(Arc::new(known));
        true
    }

    /// An image status is gone. Says whether it was there.
    pub fn delete_image(&mut self, name: &str) -> bool {
        let Some(Stamp { uid, .. }) = self.take_out(name) else { return false };
        if !uid.is_empty() {
            if self.gone.len() >= MOST_GONE {
                self.gone.pop_front();
            }
            self.gone.push_back(uid);
        }
        true
    }

    fn take_out(&mut self, name: &str) -> Option<Stamp> {
        let stamp = self.names.remove(name)?;
        let subject = stamp.subject.clone();
        if let Some(namespace) =
            self.images.get(&subject).and_then(|all| all.iter().find(|known| known.name == name)?.first_seen_in.clone())
        {
            self.first_seen_in.take(&namespace);
        }
        if let Some(all) = self.images.get_mut(&subject) {
            for known in all.iter().filter(|known| known.name == name) {
                for digest in bad_digests(&subject, known) {
                    if let Some(held) = self.bad.get_mut(digest) {
                        held.retain(|held| **held != *name);
                        if held.is_empty() {
                            self.bad.remove(digest);
                        }
                    }
                }
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
        Some(stamp)
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

    /// The images known to be bad that have this digest, or have it inside.
    pub fn bad(&self, digest: &Digest) -> impl Iterator<Item = (&Subject, &Arc<Known>)> {
        let names = self.bad.get(digest).into_iter().flatten();
        names.filter_map(|name| {
            let subject = &self.names.get(&**name)?.subject;
            let known = self.images.get(subject)?.iter().find(|known| *known.name == **name)?;
            (!known.blank || known.held).then_some((subject, known))
        })
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
        self.images.get(&self.names.get(name)?.subject)?.iter().find(|known| known.name == name).cloned()
    }

    /// The subject of an image status.
    #[must_use]
    pub fn subject_named(&self, name: &str) -> Option<Subject> {
        self.names.get(name).map(|stamp| stamp.subject.clone())
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
        self.names.len()
    }

    /// How many image statuses were first asked for in a namespace.
    #[must_use]
    pub fn first_seen_in(&self, namespace: &str) -> usize {
        self.first_seen_in.of(namespace)
    }

    /// Names of all image statuses.
    #[must_use]
    pub fn image_names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
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

fn bad_digests<'a>(subject: &'a Subject, known: &'a Known) -> impl Iterator<Item = &'a Digest> {
    let facts = known.facts.state.is_bad().then_some(&known.facts);
    facts.into_iter().flat_map(|facts| std::iter::once(subject.digest()).chain(facts.manifest.digests()))
}

#[cfg(test)]
mod tests;
