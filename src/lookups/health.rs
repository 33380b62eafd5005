//! Whether a registry itself is well, as far as there is evidence: a circuit breaker that nobody's image can trip.
//!
//! A question that ends without an answer says something about one image, which an author chose. It takes more to say something about the
//! registry: that it answers nothing at all, or about none of the images that others asked for and that it answered about before. Their
//! authors may be one and the same, with many namespaces and repositories, and make all of those slow. So of each namespace one image is
//! remembered, however often it asks; which namespaces those are is left to chance, and no asking changes it; and a single answer about any
//! of them is enough to know that the registry is well. What the leader asks by itself is always among them, and so is what is written, so
//! that a replica which began a moment ago has more to go by than what was asked of it since.
//!
//! Once it is found out, whoever waits in line is told at once instead of waiting for one more time-out. One task looks for the end of
//! it, soon and then every few seconds, whether anybody asks or not; and who asks meanwhile waits a moment for one short look that all of them share,
//! so that the first question after a recovery is answered by the registry.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{facts::Outage, image::Digest};

/// Namespaces of which one image is remembered.
pub(super) const MOST_CANARIES: usize = 16;
/// With fewer repositories than this among those of others there is no evidence.
const FEWEST_CANARIES: usize = 2;
/// For how long it is not read again what is written.
const WRITTEN: Duration = Duration::from_secs(60);
/// When to look again whether it is well: this, doubled each time.
pub(super) const FIRST_LOOK: Duration = Duration::from_millis(500);
/// And at the most. What is said meanwhile rests on evidence that is no older than this and one probe.
pub(super) const LAST_LOOK: Duration = Duration::from_secs(5);

/// The health of one registry, by where it is spoken to.
#[derive(Debug)]
pub(super) struct Health {
    out: watch::Sender<Option<Outage>>,
    episodes: AtomicU64,
    /// When the last short look at it began.
    looked: Mutex<Option<Instant>>,
    /// Each of another namespace. The least ranks stay.
    canaries: Mutex<Vec<Ranked>>,
    /// The same out of what is written, and when that was read.
    written: Mutex<(Option<Instant>, Vec<Ranked>)>,
    ranks: RandomState,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            out: watch::channel(None).0,
            episodes: AtomicU64::new(0),
            looked: Mutex::default(),
            canaries: Mutex::default(),
            written: Mutex::default(),
            ranks: RandomState::new(),
        }
    }
}

/// An outage from its beginning to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Episode(u64);

/// An image that the registry answered about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Canary {
    /// Who asked; nobody where it was the leader.
    namespace: Arc<str>,
    pub(super) repository: Arc<str>,
    pub(super) digest: Digest,
}

/// With the rank of its namespace.
type Ranked = (u64, Canary);

impl Health {
    /// The outage, while it is out.
    pub(super) fn out(&self) -> Option<Outage> {
        self.out.borrow().clone()
    }

    /// Tells when it is found to be out.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Outage>> {
        self.out.subscribe()
    }

    /// There is evidence that it is out. Where that is news, somebody has to look for the end of this episode.
    pub(super) fn found_out(&self, outage: &Outage) -> Option<Episode> {
        let news = self.out.send_replace(Some(outage.clone())).is_none();
        news.then(|| Episode(self.episodes.fetch_add(1, Ordering::Relaxed) + 1))
    }

    /// Whether it is still the same outage: of those who look for the end of each only the last goes on.
    pub(super) fn lasts(&self, episode: Episode) -> bool {
        self.out.borrow().is_some() && self.episodes.load(Ordering::Relaxed) == episode.0
    }

    /// A short look at it begins.
    pub(super) fn note_look(&self) {
        *self.looked.lock() = Some(Instant::now());
    }

    /// When the last short look at it began.
    pub(super) fn last_look(&self) -> Option<Instant> {
        *self.looked.lock()
    }

    /// It answers again. Says whether that is news.
    pub(super) fn found_well(&self) -> bool {
        self.out.send_if_modified(|out| out.take().is_some())
    }

    /// It answered a namespace about an image, with the Registry's own credentials.
    pub(super) fn answered(&self, namespace: &str, repository: &str, digest: &Digest) {
        let mut canaries = self.canaries.lock();
        if let Some((_, held)) = canaries.iter_mut().find(|(_, held)| *held.namespace == *namespace) {
            if *held.repository != *repository || held.digest != *digest {
                (held.repository, held.digest) = (repository.into(), digest.clone());
            }
            return;
        }
        let rank = if namespace.is_empty() { 0 } else { self.ranks.hash_one(namespace) };
        let canary = || Canary { namespace: namespace.into(), repository: repository.into(), digest: digest.clone() };
        if canaries.len() < MOST_CANARIES {
            canaries.push((rank, canary()));
        } else if let Some(last) = canaries.iter_mut().max_by_key(|(rank, _)| *rank).filter(|(last, _)| rank < *last) {
            *last = (rank, canary());
        }
    }

    /// Reads what is written that it answered about (namespace, repository, digest), unless that was done a moment ago. Who comes meanwhile waits.
    pub(super) fn read_written(&self, read: impl FnOnce(&mut dyn FnMut(&str, &str, &Digest))) {
        let mut written = self.written.lock();
        let now = Instant::now();
        if written.0.is_some_and(|read| now.duration_since(read) < WRITTEN) {
            return;
        }
        let mut least = BTreeMap::new();
        read(&mut |namespace, repository, digest| {
            let rank = self.ranks.hash_one(namespace);
            if least.len() < MOST_CANARIES || least.last_key_value().is_some_and(|(last, _)| rank < *last) {
                let canary = || Canary { namespace: namespace.into(), repository: repository.into(), digest: digest.clone() };
                least.entry(rank).or_insert_with(canary);
                if least.len() > MOST_CANARIES {
                    least.pop_last();
                }
            }
        });
        *written = (Some(now), least.into_iter().collect());
    }

    /// What to ask about when a namespace's question about a repository is not answered: images of other namespaces, each of another
    /// repository. None where there are too few of them to say anything.
    pub(super) fn canaries(&self, besides: Option<(&str, &str)>) -> Option<Vec<Canary>> {
        let ranked = |mut canaries: Vec<Ranked>| {
            canaries.sort_by_key(|(rank, _)| *rank);
            canaries.into_iter().map(|(_, canary)| canary)
        };
        let asked = ranked(self.canaries.lock().clone());
        let written: Vec<Canary> = ranked(self.written.lock().1.clone()).collect();
        let mut others: Vec<Canary> = Vec::new();
        let mut add = |held: Canary, most: usize| {
            let other = besides.is_none_or(|(namespace, repository)| *held.namespace != *namespace && *held.repository != *repository);
            let like = |other: &Canary| other.namespace == held.namespace || other.repository == held.repository;
            if other && others.len() < most && !others.iter().any(like) {
                others.push(held);
            }
        };
        // Neither crowds the other out: who asks here now may be one author, and so may who asked elsewhere before.
        let most_asked = MOST_CANARIES - written.len().min(MOST_CANARIES / 2);
        for (canary, most) in asked.map(|canary| (canary, most_asked)).chain(written.into_iter().map(|canary| (canary, MOST_CANARIES))) {
            add(canary, most);
        }
        (others.len() >= FEWEST_CANARIES).then_some(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::OutageKind;

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    #[test]
    fn an_outage_is_news_once_and_so_is_its_end() {
        let health = Health::default();
        let outage = Outage { kind: OutageKind::Connect, message: "refused".into() };
        assert_eq!((health.out(), health.found_well()), (None, false));
        let first = health.found_out(&outage).expect("news");
        assert_eq!((health.found_out(&outage), health.out(), health.lasts(first)), (None, Some(outage.clone()), true));
        assert!(health.found_well() && !health.found_well() && !health.lasts(first));
        let second = health.found_out(&outage).expect("news");
        assert_eq!(
            (health.lasts(first), health.lasts(second)),
            (false, true),
            "whoever looked for the end of the first does not for the second's"
        );
    }

    fn repositories(health: &Health, besides: Option<(&str, &str)>) -> Option<Vec<String>> {
        let mut found: Vec<_> = health.canaries(besides)?.into_iter().map(|canary| canary.repository.to_string()).collect();
        found.sort_unstable();
        Some(found)
    }

    #[test]
    fn canaries_are_of_other_namespaces_and_repositories() {
        let health = Health::default();
        let ask = |besides| repositories(&health, besides);
        assert_eq!(ask(Some(("x", "a"))), None);
        health.answered("x", "a", &digest(1));
        health.answered("y", "b", &digest(2));
        assert_eq!(ask(Some(("x", "a"))), None, "one other says too little");
        health.answered("z", "c", &digest(3));
        health.answered("y", "b", &digest(4));
        assert_eq!(ask(Some(("x", "a"))), Some(vec!["b".into(), "c".into()]));
        assert_eq!(ask(Some(("x", "b"))), None, "it is in question itself, whoever asked for it");
        assert_eq!(ask(None), Some(vec!["a".into(), "b".into(), "c".into()]));
        health.answered("z", "b", &digest(4));
        assert_eq!(ask(None), Some(vec!["a".into(), "b".into()]), "the same repository twice says nothing twice");
    }

    #[test]
    fn who_asks_often_or_late_pushes_nobody_out() {
        let health = Health::default();
        health.answered("", "polled", &digest(1));
        for number in 0..200 {
            health.answered(&format!("n{number}"), &format!("r{number}"), &digest(number));
        }
        let before = repositories(&health, None).unwrap();
        assert_eq!(before.len(), MOST_CANARIES);
        assert!(before.contains(&"polled".to_owned()), "what the leader asks stays: {before:?}");
        for turn in 0..1_000_usize {
            let number = turn % 200;
            health.answered(&format!("n{number}"), &format!("r{number}"), &digest(0));
        }
        assert_eq!(repositories(&health, None).unwrap(), before);
    }

    #[test]
    fn what_is_written_counts_like_what_was_asked() {
        let health = Health::default();
        let write = |images: &[(&str, &str)]| {
            *health.written.lock() = (None, Vec::new());
            health.read_written(|add| images.iter().for_each(|(namespace, repository)| add(namespace, repository, &digest(0))));
        };
        write(&[("x", "a"), ("x", "b"), ("y", "c")]);
        health.read_written(|_| panic!("it was read a moment ago"));
        assert_eq!(repositories(&health, None), Some(vec!["a".into(), "c".into()]), "one image a namespace");
        assert_eq!(repositories(&health, Some(("x", "z"))), None, "one other says too little");
        health.answered("z", "d", &digest(4));
        assert_eq!(repositories(&health, Some(("x", "z"))), Some(vec!["c".into(), "d".into()]));
        let many = |author: &str| (0..1_000).map(|number| format!("{author}{number}")).collect::<Vec<_>>();
        for (asking, writing) in [("greedy", "modest"), ("modest", "greedy")] {
            let health = Health::default();
            for name in many(asking) {
                health.answered(&name, &name, &digest(0));
            }
            health.read_written(|add| many(writing).iter().for_each(|name| add(name, name, &digest(0))));
            let picked = repositories(&health, None).unwrap();
            let modest = picked.iter().filter(|name| name.starts_with("modest")).count();
            assert_eq!((picked.len(), modest), (MOST_CANARIES, MOST_CANARIES / 2), "neither crowds the other out: {picked:?}");
        }
    }
}
