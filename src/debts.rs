//! Debts: running containers whose image their policies have not judged, whatever let them in, and how they end.
//!
//! Derived from pods and facts alone, each time anew ([`Turn`]): a pod that was admitted while we were away, or unjudged because a registry
//! was down, is found here, and so is a tag that moved between admission and pull. The [`Book`] remembers nothing but what the last turn
//! came to, so that what changed can be told: a debt that is settled or breached, an image that fell back into quarantine while it ran. A
//! leader that begins opens it with what the last one wrote on the Registry objects ([`Book::open`]), and tells again what is refused and
//! runs: a line may come twice. Not told is the end of a debt that comes while nobody leads, of an image that is on no Registry's list: one of
//! a host without a Registry object, or beyond the longest that a list may be.

mod inner;
mod standing;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use jiff::Timestamp;

pub use self::inner::Inner;
use self::standing::Standing;
use crate::{
    api::{Debt, Debts, MAX_OWED_IMAGES, MAX_POLICY_DEBTS, OwedImage, RegistryDebts},
    facts::{Busy, Facts, Outcome},
    history::clip,
    image::{Reference, Subject},
    index::{Known, Rules, Unseen},
    judgement::Setting,
    origin::Rival,
    running::{Container, Image, Owner, Pod},
};

/// Groups of containers about which something is told after one turn; what lies beyond is only counted.
pub const MOST_TOLD: usize = 1_000;
/// Images that are asked about after one turn; the others at the next.
const MOST_WANTED: usize = 4_096;
/// Pods of one image that may be asked for: each has credentials of its own.
const MOST_BEARERS: usize = 4;

/// What became of a running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// It runs an image that was not judged.
    Owing,
    /// It was, and every policy admits it.
    Settled,
    /// Its image is judged now and refused.
    Breached,
    /// Its image was good when it began and is no more.
    Revoked,
    /// It ended before that, or runs another image, or no policy asks any more.
    Lapsed,
}

impl Change {
    /// The word for audit lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owing => "Owing",
            Self::Settled => "Settled",
            Self::Breached => "Breached",
            Self::Revoked => "Revoked",
            Self::Lapsed => "Lapsed",
        }
    }
}

/// Containers of one owner that run one image and to which the same happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What happened.
    pub change: Change,
    /// The namespace.
    pub namespace: Arc<str>,
    /// Who made the pods; none for a pod that somebody made by hand.
    pub owner: Option<Arc<Owner>>,
    /// One of the pods.
    pub pod: Arc<str>,
    /// Its uid.
    pub uid: Box<str>,
    /// Its container.
    pub container: Arc<str>,
    /// What runs.
    pub subject: Subject,
    /// The policies that are owed a judgement, or refuse; none after an end that no policy made.
    pub policies: Vec<Arc<str>>,
    /// Why it is refused.
    pub why: String,
    /// No policy wants it to be told to the owner.
    pub quiet: bool,
    /// Since when the image is bad that was good before.
    pub at: Option<Timestamp>,
    /// How many containers there are.
    pub containers: u32,
}

impl Told {
    /// Whether the owner of the pods is told.
    #[must_use]
    pub const fn is_for_owners(&self) -> bool {
        match self.change {
            Change::Settled | Change::Breached => true,
            Change::Revoked => !self.quiet,
            Change::Owing | Change::Lapsed => false,
        }
    }
}

/// What is written of what runs, and by which name; and how the last look-up of it ended, where that is a refusal.
pub type Found = (Option<(Subject, Arc<Known>)>, Option<Outcome<Arc<Facts>>>);

/// What is known of what runs.
#[derive(Clone, Debug)]
struct Finding {
    /// What is written of it, and by which name.
    written: Option<(Subject, Arc<Known>)>,
    /// How the question for it ended, by what is written or by asking.
    outcome: Outcome<Arc<Facts>>,
    /// It was asked for, and refused; nothing written says so.
    asked: bool,
}

impl Finding {
    /// `unseen`: what is written was too old to be gone by when the container began, and nobody has seen since that it is still so.
    fn of((written, ended): Found, unseen: bool) -> Option<Self> {
        let (outcome, asked) = match (&written, ended) {
            (Some((_, known)), _) if !unseen => (Outcome::Found(known.facts.clone()), false),
            (_, Some(outcome)) => (outcome, true),
            (Some(_), None) => (Outcome::Busy(Busy::UNANSWERED), false),
            (None, None) => return None,
        };
        Some(Self { written, outcome, asked })
    }
}

/// An image to ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The image.
    pub subject: Subject,
    /// As a pod names it.
    pub image: Arc<Image>,
    /// Some of the pods that run it.
    pub bearers: Vec<Bearer>,
}

/// A pod that may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The names of its pull secrets.
    pub pull_secrets: Box<[Arc<str>]>,
}

/// What a turn came to.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Debts by policy.
    pub policies: BTreeMap<Arc<str>, Debts>,
    /// Debts by Registry.
    pub registries: BTreeMap<String, RegistryDebts>,
    /// Containers that owe a judgement.
    pub owing: u64,
    /// Containers that run although a policy refuses their image.
    pub refused: u64,
    /// Since when the container runs that has owed for longest.
    pub oldest: Option<Timestamp>,
    /// What to ask about.
    pub wanted: Vec<Wanted>,
    /// What changed.
    pub told: Vec<Told>,
    /// How many containers changed, of each kind.
    pub changes: BTreeMap<Change, u64>,
}

/// What the last turn came to, as far as it is needed to see what changes.
#[derive(Debug, Default)]
pub struct Book {
    owed: HashMap<u64, Owed>,
    refused: HashSet<u64>,
    /// What a former leader wrote down as owed, and when.
    open: HashMap<Subject, Timestamp>,
    hasher: RandomState,
}

#[derive(Clone, Debug)]
struct Owed {
    place: Place,
    policies: Arc<[Arc<str>]>,
}

/// A container and what it runs.
#[derive(Clone, Debug)]
struct Place {
    namespace: Arc<str>,
    name: Arc<str>,
    pod: Arc<Pod>,
    container: Arc<str>,
    subject: Subject,
}

/// By whom and why.
#[derive(Debug, Default)]
struct Reason<'a> {
    policies: &'a [Arc<str>],
    why: &'a str,
    quiet: bool,
    at: Option<Timestamp>,
}

impl Book {
    /// A book that begins with what a former leader wrote down.
    pub fn open<'a>(debts: impl IntoIterator<Item = &'a RegistryDebts>) -> Self {
        let images = debts.into_iter().flat_map(|debts| debts.images.iter().map(|image| (image, debts.as_of)));
        let open = images.filter_map(|(image, at)| Some((image.subject.parse().ok()?, at?))).collect();
        Self { open, ..Self::default() }
    }

    /// Begins to go through all pods. Nothing is changed until the [end](Turn::end).
    pub fn turn(&self) -> Turn<'_> {
        Turn {
            book: self,
            survey: Survey::default(),
            owed: HashMap::new(),
            refused: HashSet::new(),
            met: HashSet::new(),
            groups: HashMap::new(),
            wanted: HashMap::new(),
        }
    }

    /// Takes a turn's end in.
    pub fn close(&mut self, page: Page) {
        self.owed = page.owed;
        self.refused = page.refused;
        self.open.clear();
    }
}

/// What a [`Book`] becomes after a turn.
#[derive(Debug)]
pub struct Page {
    owed: HashMap<u64, Owed>,
    refused: HashSet<u64>,
}

/// One way through all pods.
#[derive(Debug)]
pub struct Turn<'b> {
    book: &'b Book,
    survey: Survey,
    owed: HashMap<u64, Owed>,
    refused: HashSet<u64>,
    /// Debts of the last turn whose container still runs the same and owes no more.
    met: HashSet<u64>,
    groups: HashMap<u64, usize>,
    wanted: HashMap<Subject, Wanted>,
}

impl Turn<'_> {
    /// Goes through the pods of one namespace. `found` tells what is known of what runs, `held` whether a registry was last found to hold a
    /// repository.
    pub fn namespace(
        &mut self,
        setting: &Setting<'_>,
        rules: &Rules,
        namespace: &Arc<str>,
        pods: &[(Arc<str>, Arc<Pod>)],
        found: impl Fn(&Subject) -> Found,
        held: impl Fn(&Rival) -> Option<Outcome<bool>>,
    ) {
        // Most pods of a namespace have few images and accounts among them.
        let mut images: HashMap<*const Image, (Found, Unseen)> = HashMap::new();
        let mut standings: HashMap<(*const Image, *const u8, bool), Option<Arc<Standing>>> = HashMap::new();
        let look = |image: &Image, subject: &Subject| {
            let found = found(subject);
            let registry = image.named.as_ref().and_then(|named| rules.registry_of(named));
            let unseen = found.0.as_ref().zip(registry).map(|((by, known), registry)| Unseen::of(known, by, registry));
            (found, unseen.unwrap_or_default())
        };
        for (name, pod) in pods {
            for container in pod.make.containers.iter().chain(&pod.make.mounted) {
                let image = &container.image;
                let Some(subject) = &image.subject else { continue };
                let (found, of) = images.entry(Arc::as_ptr(image)).or_insert_with(|| look(image, subject));
                let since = |from: Option<Timestamp>| from.is_some_and(|from| pod.since.is_none_or(|since| since > from));
                let unseen = since(of.begins) || (since(of.lasts) && self.was_owed(pod, container, subject));
                let key = (Arc::as_ptr(image), pod.make.service_account.as_ptr(), unseen);
                let standing = standings.entry(key).or_insert_with(|| {
                    let finding = Finding::of(found.clone(), unseen);
                    Standing::of(setting, rules, namespace, &pod.make.service_account, image, finding, &held).map(Arc::new)
                });
                let Some(standing) = standing else { continue };
                if standing.is_clear() && self.book.owed.is_empty() && self.book.open.is_empty() {
                    continue;
                }
                let standing = standing.clone();
                self.container(&standing, namespace, name, pod, container, subject);
            }
        }
    }

    fn id(&self, pod: &Pod, container: &Container, subject: &Subject) -> u64 {
        self.book.hasher.hash_one((&pod.uid, &container.name, subject))
    }

    fn was_owed(&self, pod: &Pod, container: &Container, subject: &Subject) -> bool {
        let opened = || self.book.open.get(subject).is_some_and(|at| pod.since.is_none_or(|since| since <= *at));
        self.book.owed.contains_key(&self.id(pod, container, subject)) || opened()
    }

    fn container(
        &mut self,
        standing: &Standing,
        namespace: &Arc<str>,
        name: &Arc<str>,
        pod: &Arc<Pod>,
        container: &Container,
        subject: &Subject,
    ) {
        let id = self.id(pod, container, subject);
        let place = || Place {
            namespace: namespace.clone(),
            name: name.clone(),
            pod: pod.clone(),
            container: container.name.clone(),
            subject: subject.clone(),
        };
        let was_owed = self.was_owed(pod, container, subject);
        if !standing.refused.is_empty() {
            self.survey.refused += 1;
            self.refused.insert(id);
            let fell = standing.fell.filter(|_| !was_owed).is_some_and(|at| pod.since.is_some_and(|since| since <= at));
            if !self.book.refused.contains(&id) || (was_owed && standing.owing.is_empty()) {
                let reason = Reason { policies: &standing.refused, why: &standing.why, quiet: standing.quiet, at: standing.fell };
                self.tell(if fell { Change::Revoked } else { Change::Breached }, &place(), &reason);
            }
            self.met.insert(id);
            if standing.asked {
                // What is not there may come.
                self.want(&place(), standing, &container.image);
            }
        }
        if !standing.owing.is_empty() {
            self.owes(id, place(), standing, &container.image);
        } else if was_owed && self.met.insert(id) {
            let change = if standing.judged { Change::Settled } else { Change::Lapsed };
            self.tell(change, &place(), &Reason::default());
        }
    }

    fn owes(&mut self, id: u64, place: Place, standing: &Standing, image: &Arc<Image>) {
        let survey = &mut self.survey;
        survey.owing += 1;
        survey.oldest = survey.oldest.into_iter().chain(place.pod.since).min();
        for policy in &*standing.owing {
            let debts = survey.policies.entry(policy.clone()).or_default();
            debts.total += 1;
            if debts.items.len() < MAX_POLICY_DEBTS {
                debts.items.push(Debt {
                    pod: format!("{}/{}", place.namespace, place.name),
                    container: place.container.to_string(),
                    image: clip(&place.subject.to_string(), 400),
                });
            }
        }
        if let Some(registry) = &standing.registry {
            let debts = survey.registries.entry(registry.clone()).or_default();
            debts.total += 1;
            let subject = place.subject.to_string();
            if let Some(image) = debts.images.iter_mut().find(|image| image.subject == subject) {
                image.containers += 1;
            } else if debts.images.len() < MAX_OWED_IMAGES {
                debts.images.push(OwedImage { subject, containers: 1 });
            }
        }
        if !self.book.owed.contains_key(&id) {
            self.tell(Change::Owing, &place, &Reason { policies: &standing.owing, ..Reason::default() });
        }
        self.want(&place, standing, image);
        self.owed.insert(id, Owed { place, policies: standing.owing.clone() });
    }

    fn want(&mut self, place: &Place, standing: &Standing, image: &Arc<Image>) {
        // Who keeps the flag keeps it of what is written of.
        let subject = standing.by.as_ref().unwrap_or(&place.subject);
        if self.wanted.len() >= MOST_WANTED && !self.wanted.contains_key(subject) {
            return;
        }
        let new = || Wanted { subject: subject.clone(), image: image.clone(), bearers: Vec::new() };
        let wanted = self.wanted.entry(subject.clone()).or_insert_with(new);
        if wanted.bearers.len() < MOST_BEARERS {
            let bearer = Bearer { namespace: place.namespace.clone(), pull_secrets: place.pod.make.pull_secrets.clone() };
            if !wanted.bearers.contains(&bearer) {
                wanted.bearers.push(bearer);
            }
        }
    }

    fn tell(&mut self, change: Change, place: &Place, reason: &Reason<'_>) {
        *self.survey.changes.entry(change).or_default() += 1;
        let owner = place.pod.owner.as_ref().map_or(&*place.pod.uid, |owner| owner.uid.as_str());
        let group = self.book.hasher.hash_one((change, &place.namespace, owner, &place.subject, reason.policies));
        let told = &mut self.survey.told;
        if let Some(same) = self.groups.get(&group).and_then(|at| told.get_mut(*at)) {
            same.containers += 1;
            return;
        }
        if told.len() >= MOST_TOLD {
            return;
        }
        self.groups.insert(group, told.len());
        told.push(Told {
            change,
            namespace: place.namespace.clone(),
            owner: place.pod.owner.clone(),
            pod: place.name.clone(),
            uid: place.pod.uid.clone(),
            container: place.container.clone(),
            subject: place.subject.clone(),
            policies: reason.policies.to_vec(),
            why: reason.why.to_owned(),
            quiet: reason.quiet,
            at: reason.at.filter(|_| change == Change::Revoked),
            containers: 1,
        });
    }

    /// All pods were gone through: what came of it, and the page for the book.
    #[must_use]
    pub fn end(mut self) -> (Survey, Page) {
        let gone: Vec<Owed> = self
            .book
            .owed
            .iter()
            .filter(|(id, _)| !self.owed.contains_key(id) && !self.met.contains(id))
            .map(|(_, owed)| owed.clone())
            .collect();
        for owed in gone {
            self.tell(Change::Lapsed, &owed.place, &Reason { policies: &owed.policies, ..Reason::default() });
        }
        self.survey.wanted = self.wanted.into_values().collect();
        // So that what is written does not change with the order of a hash.
        self.survey.wanted.sort_unstable_by(|a, b| a.subject.cmp(&b.subject));
        for debts in self.survey.registries.values_mut() {
            debts.images.sort_unstable_by(|a, b| a.subject.cmp(&b.subject));
        }
        (self.survey, Page { owed: self.owed, refused: self.refused })
    }
}

/// The image that runs, by digest, wherever it is named.
fn exact(subject: &Subject) -> Reference {
    Reference::from(subject)
}

#[cfg(test)]
mod tests;
