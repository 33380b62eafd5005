//! Whether a registry itself is well, as far as there is evidence: a circuit breaker that nobody's image can trip.
//!
//! A question that ends without an answer says something about one image, which an author chose. It takes more to say something about the
//! registry: that it answers nothing at all, or nothing about images that other namespaces asked for and that it answered about before: an
//! author may have several repositories, and make all of them slow. Once that is found out the registry counts as out, and whoever asks is
//! told at once instead of waiting for one more time-out. One task looks for the end of it, soon and then every few seconds, whether anybody
//! asks or not; so the first question after the recovery is asked again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{facts::Outage, image::Digest};

/// Namespaces whose last answer is remembered, to ask for it again when another's does not come.
const MOST_CANARIES: usize = 8;
/// Of these so many are asked for, each of another namespace and another repository than the one in question.
pub(super) const ASKED_CANARIES: usize = 2;
/// When to look again whether it is well: this, doubled each time.
pub(super) const FIRST_LOOK: Duration = Duration::from_millis(500);
/// And at the most. What is said meanwhile rests on evidence that is no older than this and one probe.
pub(super) const LAST_LOOK: Duration = Duration::from_secs(5);

/// The health of one registry, by where it is spoken to.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    out: Option<Outage>,
    /// The latest last, each of another namespace and another repository.
    canaries: VecDeque<Canary>,
}

/// An image that the registry answered about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Canary {
    /// Who asked; nobody where it was the leader.
    namespace: Arc<str>,
    pub(super) repository: Arc<str>,
    pub(super) digest: Digest,
}

impl Health {
    /// The outage, while it is out.
    pub(super) fn out(&self) -> Option<Outage> {
        self.0.lock().out.clone()
    }

    /// There is evidence that it is out. Says whether that is news, and somebody has to look for the end of it.
    pub(super) fn found_out(&self, outage: &Outage) -> bool {
        let mut state = self.0.lock();
        let news = state.out.is_none();
        state.out = Some(outage.clone());
        news
    }

    /// It answers again. Says whether that is news.
    pub(super) fn found_well(&self) -> bool {
        self.0.lock().out.take().is_some()
    }

    /// It answered a namespace about an image, with the Registry's own credentials.
    pub(super) fn answered(&self, namespace: &str, repository: &str, digest: &Digest) {
        let canaries = &mut self.0.lock().canaries;
        let same = |held: &Canary| *held.namespace == *namespace && *held.repository == *repository && held.digest == *digest;
        if canaries.back().is_some_and(same) {
            return;
        }
        canaries.retain(|held| *held.namespace != *namespace && *held.repository != *repository);
        if canaries.len() >= MOST_CANARIES {
            canaries.pop_front();
        }
        canaries.push_back(Canary { namespace: namespace.into(), repository: repository.into(), digest: digest.clone() });
    }

    /// What to ask about when a namespace's question about a repository is not answered: the latest of other namespaces and other
    /// repositories. None where there are too few of them to say anything.
    pub(super) fn canaries(&self, besides: Option<(&str, &str)>) -> Option<Vec<Canary>> {
        let state = self.0.lock();
        let other =
            |held: &&Canary| besides.is_none_or(|(namespace, repository)| *held.namespace != *namespace && *held.repository != *repository);
        let others: Vec<_> = state.canaries.iter().rev().filter(other).take(ASKED_CANARIES).cloned().collect();
        (others.len() == ASKED_CANARIES).then_some(others)
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
        assert!(health.found_out(&outage) && !health.found_out(&outage));
        assert_eq!(health.out(), Some(outage));
        assert!(health.found_well() && !health.found_well());
    }

    #[test]
    fn canaries_are_the_latest_of_other_namespaces_and_repositories() {
        let health = Health::default();
        let ask = |besides| health.canaries(besides).map(|found| found.into_iter().map(|canary| canary.repository).collect::<Vec<_>>());
        assert_eq!(ask(Some(("x", "a"))), None);
        health.answered("x", "a", &digest(1));
        health.answered("y", "b", &digest(2));
        assert_eq!(ask(Some(("x", "a"))), None, "one other says too little");
        health.answered("z", "c", &digest(3));
        health.answered("y", "b", &digest(4));
        assert_eq!(health.canaries(Some(("x", "a"))).map(|found| found[0].digest.clone()), Some(digest(4)));
        assert_eq!(ask(Some(("x", "a"))), Some(vec!["b".into(), "c".into()]));
        assert_eq!(ask(Some(("x", "b"))), None, "it is in question itself, whoever asked for it");
        assert_eq!(ask(Some(("w", "d"))), Some(vec!["b".into(), "c".into()]));
        assert_eq!(ask(None), Some(vec!["b".into(), "c".into()]));
        health.answered("z", "b", &digest(4));
        assert_eq!(ask(None), Some(vec!["b".into(), "a".into()]), "the same image twice says nothing twice");
        for number in 0..100 {
            health.answered(&format!("n{number}"), &format!("r{number}"), &digest(number));
        }
        assert_eq!(health.0.lock().canaries.len(), MOST_CANARIES);
    }

    #[test]
    fn a_namespace_with_many_repositories_has_one_canary_and_takes_nobody_elses_away() {
        let health = Health::default();
        health.answered("x", "a", &digest(1));
        health.answered("y", "b", &digest(2));
        for number in 0..100 {
            health.answered("greedy", &format!("r{number}"), &digest(number));
        }
        let found = health.canaries(Some(("greedy", "another"))).unwrap();
        assert_eq!(found.iter().map(|canary| &*canary.namespace).collect::<Vec<_>>(), ["y", "x"]);
    }
}
