//! Whether a registry itself is well, as far as there is evidence: a circuit breaker that nobody's image can trip.
//!
//! A question that ends without an answer says something about one image, which an author chose. It takes more to say something about the
//! registry: that it answers nothing at all, or nothing about images of other repositories that it answered about before. Once that is
//! found out the registry counts as out, and whoever asks is told at once instead of waiting for one more time-out. One task looks for
//! the end of it, soon and then every few seconds, whether anybody asks or not; so the first question after the recovery is asked again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{facts::Outage, image::Digest};

/// Repositories whose last answer is remembered, to ask about again when another does not answer.
const MOST_CANARIES: usize = 8;
/// Of these so many are asked about, each of another repository than the one in question.
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
    /// What it answered about, the latest last, each of another repository.
    canaries: VecDeque<(Arc<str>, Digest)>,
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

    /// It answered about an image with the Registry's own credentials.
    pub(super) fn answered(&self, repository: &str, digest: &Digest) {
        let mut state = self.0.lock();
        if let Some(at) = state.canaries.iter().position(|(held, _)| **held == *repository) {
            if at + 1 == state.canaries.len() && state.canaries[at].1 == *digest {
                return;
            }
            state.canaries.remove(at);
        }
        if state.canaries.len() >= MOST_CANARIES {
            state.canaries.pop_front();
        }
        state.canaries.push_back((repository.into(), digest.clone()));
    }

    /// What to ask about when a question about this repository is not answered: the latest of others. None where there are too few of them
    /// to say anything.
    pub(super) fn canaries(&self, besides: &str) -> Option<Vec<(Arc<str>, Digest)>> {
        let state = self.0.lock();
        let others: Vec<_> =
            state.canaries.iter().rev().filter(|(repository, _)| **repository != *besides).take(ASKED_CANARIES).cloned().collect();
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
    fn canaries_are_the_latest_of_other_repositories() {
        let health = Health::default();
        assert_eq!(health.canaries("a"), None);
        health.answered("a", &digest(1));
        health.answered("b", &digest(2));
        assert_eq!(health.canaries("a"), None, "one other says too little");
        health.answered("c", &digest(3));
        health.answered("b", &digest(4));
        assert_eq!(health.canaries("a"), Some(vec![("b".into(), digest(4)), ("c".into(), digest(3))]));
        assert_eq!(health.canaries("b"), Some(vec![("c".into(), digest(3)), ("a".into(), digest(1))]));
        for number in 0..100 {
            health.answered(&format!("r{number}"), &digest(number));
        }
        assert_eq!(health.0.lock().canaries.len(), MOST_CANARIES);
    }
}
