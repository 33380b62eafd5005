//! Asks the registries about what is owed, before they are asked about anything that nobody waits for.
//!
//! What is found is written down, and the index tells. That an image is not there, or not to be seen, is written nowhere; it ends a debt all
//! the same, so it is held here as long as the image runs. That one is as it was when the registry could not be asked the next pass tells.
//!
//! Whose turn it is goes by how little is under way at each host: one that is slow about all that is owed there delays others by a place at most.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::super::Term;
use crate::{
    counts::Counts,
    debts::{Bearer, Wanted},
    facts::{Busy, Facts, Outcome},
    image::Subject,
    line::Class,
    lookups::Asker,
};

/// Look-ups at once.
const AT_ONCE: usize = 32;
/// Those of one registry.
const AT_ONE: usize = 8;
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
    pub(super) fn get(&self, subject: &Subject) -> Option<Outcome<Arc<Facts>>> {
        self.held.lock().get(subject).cloned()
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
    let mut asking = FuturesUnordered::new();
    let mut under_way = UnderWay::default();
    loop {
        let wanted = owed.borrow_and_update().clone();
        let subjects: HashSet<&Subject> = wanted.iter().map(|wanted| &wanted.subject).collect();
        due.retain(|subject, _| subjects.contains(subject));
        let now = Instant::now();
        let ready = |wanted: &&Wanted| due.get(&wanted.subject).is_none_or(|(at, _)| *at <= now) && !under_way.has(&wanted.subject);
        let mut ready: Vec<&Wanted> = wanted.iter().filter(ready).collect();
        // What was never asked about comes first, and then what has waited for longest.
        ready.sort_by_key(|wanted| due.get(&wanted.subject).map(|(at, _)| *at));
        while let Some(at) = under_way.next(&ready) {
            let wanted = ready.remove(at);
            under_way.begin(&wanted.subject);
            asking.push(one(term.clone(), answers.clone(), wanted.clone()));
        }
        let next = due.iter().filter(|(subject, _)| !under_way.has(subject)).map(|(_, (at, _))| *at).filter(|at| *at > now).min();
        let next = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((subject, outcome)) = asking.next() => {
                if !term.may_write() {
                    return;
                }
                under_way.end(&subject);
                let last = due.get(&subject).map(|(_, wait)| *wait);
                let wait = match outcome {
                    Outcome::Found(_) | Outcome::Absent | Outcome::Hidden | Outcome::Refused | Outcome::Blocked(_) => LATER,
                    _ => last.map_or(SOON, |last| (2 * last).clamp(SOON, LATE)),
                };
                answers.learn(&subject, outcome);
                due.insert(subject, (Instant::now() + wait, wait));
            }
            changed = owed.changed() => if changed.is_err() { return },
            _ = recovered.changed() => due.clear(),
            () = next => {}
        }
    }
}

/// What is being asked about, and how much of it at each host.
#[derive(Debug, Default)]
struct UnderWay {
    subjects: HashSet<Subject>,
    at: Counts<String>,
}

impl UnderWay {
    /// Which of these may be asked about next, if any may: the first at the host with the least under way.
    fn next(&self, ready: &[&Wanted]) -> Option<usize> {
        if self.subjects.len() >= AT_ONCE {
            return None;
        }
        let hosts = ready.iter().enumerate().map(|(at, wanted)| (self.at.of(wanted.subject.registry()), at));
        hosts.filter(|(there, _)| *there < AT_ONE).min().map(|(_, at)| at)
    }

    fn begin(&mut self, subject: &Subject) {
        if self.subjects.insert(subject.clone()) {
            self.at.add(subject.registry().to_owned());
        }
    }

    fn has(&self, subject: &Subject) -> bool {
        self.subjects.contains(subject)
    }

    /// Gives its place back.
    fn end(&mut self, subject: &Subject) {
        if self.subjects.remove(subject) {
            self.at.take(subject.registry());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{image::Digest, running};

    fn wanted(host: &str, number: usize) -> Wanted {
        let subject: Subject = format!("{host}/app-{number}@{}", Digest::of(&number.to_le_bytes())).parse().unwrap();
        let image = running::Image { text: "".into(), named: None, digest: None, subject: None };
        Wanted { subject, image: Arc::new(image), bearers: Vec::new() }
    }

    #[test]
    fn hosts_that_are_slow_about_everything_leave_places_to_others() {
        let mut under_way = UnderWay::default();
        let all: Vec<Wanted> = ["a.corp", "b.corp", "c.corp", "d.corp", "e.corp", "f.corp"]
            .iter()
            .flat_map(|host| (0..64).map(|number| wanted(host, number)))
            .collect();
        let fill = |under_way: &mut UnderWay, hosts: &[&str]| {
            let of = |wanted: &&Wanted| hosts.contains(&wanted.subject.registry()) && !under_way.has(&wanted.subject);
            let mut ready: Vec<&Wanted> = all.iter().filter(of).collect();
            while let Some(at) = under_way.next(&ready) {
                under_way.begin(&ready.swap_remove(at).subject);
            }
        };
        fill(&mut under_way, &["a.corp"]);
        assert_eq!(under_way.at.of("a.corp"), AT_ONE, "one host has no more");
        fill(&mut under_way, &["a.corp", "b.corp", "c.corp", "d.corp"]);
        assert_eq!(under_way.at.of("d.corp"), AT_ONE, "all places are taken by four");
        fill(&mut under_way, &["e.corp"]);
        assert_eq!(under_way.at.of("e.corp"), 0);
        let done = under_way.subjects.iter().find(|subject| subject.registry() == "b.corp").unwrap().clone();
        under_way.end(&done);
        fill(&mut under_way, &["a.corp", "b.corp", "c.corp", "d.corp", "e.corp"]);
        assert_eq!((under_way.at.of("b.corp"), under_way.at.of("e.corp")), (AT_ONE - 1, 1), "the next goes to who has none");
    }
}
