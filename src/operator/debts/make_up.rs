//! Asks the registries about what is owed, before they are asked about anything that nobody waits for.
//!
//! What is found is written down, and the index tells. That an image is not there, or not to be seen, is written nowhere; it ends a debt all
//! the same, so it is held here as long as the image runs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::super::Term;
use crate::{
    debts::{Bearer, Finding, Wanted},
    facts::{Busy, Facts, Outcome},
    image::Subject,
    line::Class,
    lookups::Asker,
};

/// Look-ups at once.
const AT_ONCE: usize = 8;
/// Images that are asked about before it is seen what is owed by then.
const ROUND: usize = 64;
/// How long one look-up may wait for its turn and its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon it is asked again when nothing came of it; twice as long each time, up to the longest.
const SOON: Duration = Duration::from_secs(5);
const LATE: Duration = Duration::from_secs(60);
/// How soon it is asked again about what is not there.
const LATER: Duration = Duration::from_secs(600);
/// A registry that goes before the image's own has not said whether it holds its repository.
const NOT_YET: Outcome<Arc<Facts>> = Outcome::Busy(Busy::late(SOON));

/// Ends of look-ups that are refusals and that nothing written tells.
#[derive(Debug)]
pub(super) struct Answers {
    held: Mutex<HashMap<Subject, Outcome<Arc<Facts>>>>,
    changed: watch::Sender<u64>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { held: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Answers {
    /// Changes with each change.
    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How the last look-up of an image ended, if that is a refusal.
    pub(super) fn get(&self, subject: &Subject) -> Option<Finding> {
        self.held.lock().get(subject).cloned().map(Finding::Ended)
    }

    /// Forgets what nobody wants to know any more.
    pub(super) fn keep(&self, wanted: &[Wanted]) {
        let mut held = self.held.lock();
        if !held.is_empty() {
            let wanted: HashSet<&Subject> = wanted.iter().map(|wanted| &wanted.subject).collect();
            held.retain(|subject, _| wanted.contains(subject));
        }
    }

    fn learn(&self, subject: &Subject, outcome: Outcome<Arc<Facts>>) {
        let mut held = self.held.lock();
        let news = match outcome {
            // It is written.
            Outcome::Found(_) => held.remove(subject).is_some(),
            Outcome::Absent | Outcome::Hidden | Outcome::Refused | Outcome::Blocked(_) | Outcome::Misbehaved(_) => {
                held.insert(subject.clone(), outcome.clone()) != Some(outcome)
            }
            // Nobody knows better now than before.
            Outcome::Pending(_) | Outcome::Unavailable(_) | Outcome::Unauthorized(_) | Outcome::Busy(_) => false,
        };
        drop(held);
        if news {
            self.changed.send_modify(|count| *count += 1);
        }
    }
}

/// Asks until the term ends.
pub(super) async fn run(term: Term, answers: Arc<Answers>, mut owed: watch::Receiver<Arc<[Wanted]>>) {
    let mut recovered = term.operator.lookups.recovered();
    let mut due: HashMap<Subject, (Instant, Duration)> = HashMap::new();
    loop {
        let wanted = owed.borrow_and_update().clone();
        let subjects: HashSet<&Subject> = wanted.iter().map(|wanted| &wanted.subject).collect();
        due.retain(|subject, _| subjects.contains(subject));
        let now = Instant::now();
        let ready = |wanted: &&Wanted| due.get(&wanted.subject).is_none_or(|(at, _)| *at <= now);
        let round: Vec<Wanted> = wanted.iter().filter(ready).take(ROUND).cloned().collect();
        if !round.is_empty() {
            let ask = round.into_iter().map(|wanted| one(term.clone(), answers.clone(), wanted));
            let ends: Vec<_> = stream::iter(ask).buffer_unordered(AT_ONCE).collect().await;
            if !term.may_write() {
                return;
            }
            for (subject, outcome) in ends {
                let last = due.get(&subject).map(|(_, wait)| *wait);
                let wait = match outcome {
                    Outcome::Found(_) | Outcome::Absent | Outcome::Hidden | Outcome::Refused | Outcome::Blocked(_) => LATER,
                    _ => last.map_or(SOON, |last| (2 * last).clamp(SOON, LATE)),
                };
                answers.learn(&subject, outcome);
                due.insert(subject, (Instant::now() + wait, wait));
            }
            continue;
        }
        let next = due.values().map(|(at, _)| *at).min();
        let next = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = owed.changed() => if changed.is_err() { return },
            _ = recovered.changed() => due.clear(),
            () = next => {}
        }
    }
}

/// Asks about one image with what its pods may show: the first end that says more than "not there, or not permitted".
async fn one(term: Term, answers: Arc<Answers>, wanted: Wanted) -> (Subject, Outcome<Arc<Facts>>) {
    let operator = &term.operator;
    let rules = operator.index.read().rules();
    let Some(image) = &wanted.image.named else { return (wanted.subject, Outcome::Absent) };
    let registry = rules.registry_of(image);
    let proofs = rules.proofs_for(image.name());
    let mut open = false;
    for rival in rules.rivals(image, registry).iter().filter(|rival| operator.lookups.last_held(rival).is_none()) {
        let access = operator.wallet.own(&rival.registry, rival.host()).await;
        let _said = operator.lookups.held(rival, access, "", Instant::now() + PATIENCE, Class::Retry).await;
        match operator.lookups.last_held(rival) {
            Some(_) => answers.changed.send_modify(|count| *count += 1),
            None => open = true,
        }
    }
    let mut end = Outcome::Absent;
    for Bearer { namespace, pull_secrets } in &wanted.bearers {
        let secrets: Vec<&str> = pull_secrets.iter().map(AsRef::as_ref).collect();
        let access = operator.wallet.access(registry.map(AsRef::as_ref), image, namespace, &secrets).await;
        let deadline = Instant::now() + PATIENCE;
        let asker = Asker { namespace, access, deadline, record: true, processor: false, inside: true, proofs: &proofs };
        end = operator.lookups.make_up(&wanted.subject, registry, &asker).await;
        if !matches!(end, Outcome::Absent | Outcome::Hidden | Outcome::Refused) {
            break;
        }
    }
    // Until then it is owed, and asked for again soon.
    let end = if open && matches!(end, Outcome::Found(_)) { NOT_YET } else { end };
    (wanted.subject, end)
}
