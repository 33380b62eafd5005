//! The published race: two ask for a new image whose analysis is slow, and the one who waits less is let in.
//!
//! In the published case a registry fails open when a wait times out, and so does whoever asks it. Here no time-out of anybody's is a
//! finding about the image or about the registry; so whoever leaves early leaves with nothing, and whoever stays learns what there is to
//! learn. Each round has an image of its own, two clients whose second is the less patient, and a retry of each, as kubectl makes them. Both
//! ask one replica; or each another; or whoever asked first, and so started the look-up, hangs up in the midst of it.
//!
//! `LAZARETTO_FUZZ_ROUNDS` rounds, 10,000 by default; `LAZARETTO_FUZZ_SEED` repeats a run.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use lazaretto::api::{Allowance, WhenUnknown};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    random::{Random, rounds},
    registry::{FakeRegistry, Fault, Quirk, quirks::Analysed},
    world::{Answer, Listed, PATIENCE, World, open, open_for_outages, shut},
};

/// Rounds at once: each may hold a few connections.
const AT_ONCE: usize = 100;
/// A question is given up after this long, and what came of it is a finding.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// A timer's grain, twice.
const GRAIN: Duration = Duration::from_millis(2);
/// An outage that is over is noticed within one look, its probe, and the life of what was found before.
const NOTICED: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Client {
    starts: Duration,
    patience: Duration,
    /// After this long it hangs up, and then asks anew.
    hangs_up: Option<Duration>,
}

/// Two who ask, the second with less patience.
fn clients(random: &mut Random) -> [Client; 2] {
    let first = Client {
        starts: random.time(Duration::from_secs(2)),
        patience: Duration::from_millis(50) + random.time(PATIENCE * 2),
        hangs_up: None,
    };
    let starts = first.starts + random.time(Duration::from_secs(8));
    [first, Client { starts, patience: Duration::from_millis(10) + random.time(first.patience), hangs_up: None }]
}

/// Asks, and once more with all patience when told to. `judged` looks at each answer, and at when it was asked for.
async fn insist(world: &World, image: &str, client: Client, judged: impl Fn(Instant, &Answer)) -> Answer {
    let ask = async |patience| {
        let asked = Instant::now();
        let answer = world.ask_from("team", image, patience).await;
        assert!(answer.took <= patience + GRAIN, "answered too late: {answer:?}");
        judged(asked, &answer);
        answer
    };
    sleep(client.starts).await;
    if let Some(time) = client.hangs_up {
        let answer = timeout(time, world.ask_from("team", image, client.patience)).await;
        assert!(answer.is_err() || time >= GRAIN, "nobody can have answered so soon: {answer:?}");
    }
    let answer = ask(client.patience).await;
    let Some(seconds) = answer.retry_after else { return answer };
    assert!((1..=30).contains(&seconds), "{answer:?}");
    sleep(Duration::from_secs(seconds)).await;
    ask(PATIENCE).await
}

/// How often there was which answer, so that a run in which nothing happens is no success.
#[derive(Default)]
struct Tally(Mutex<BTreeMap<String, usize>>);

impl Tally {
    fn count(&self, knobs: &WhenUnknown, answer: &Answer) {
        let code = answer.status.as_ref().map_or(200, |(code, _)| *code);
        let knobs = format!("pending {:?}, unavailable {:?}", knobs.pending, knobs.registry_unavailable);
        *self.0.lock().entry(format!("{code} {} ({knobs})", answer.basis)).or_default() += 1;
    }

    /// Of each of these there was one.
    fn has(&self, all: &[&str]) {
        let counts = self.0.lock();
        eprintln!("{counts:#?}");
        for wanted in all {
            assert!(counts.keys().any(|key| key.starts_with(wanted)), "no {wanted} in {counts:?}");
        }
    }
}

/// An image that is analysed for so long.
#[derive(Clone, Debug)]
struct Analysis {
    takes: Duration,
    ends: Analysed,
    by_tag: bool,
    clients: [Client; 2],
}

impl Analysis {
    fn random(random: &mut Random) -> Self {
        const ENDS: [Analysed; 6] =
            [Analysed::Quarantined, Analysed::Hidden, Analysed::Released, Analysed::Broken, Analysed::TooLong, Analysed::Never];
        // Every other one ends about when a question is given up, or a review.
        let about = [GIVEN_UP, PATIENCE][random.below(2)];
        let takes = if random.one_in(2) {
            random.time(Duration::from_secs(25))
        } else {
            about.saturating_sub(GRAIN * 50) + random.time(GRAIN * 100)
        };
        Self { takes, ends: ENDS[random.below(ENDS.len())], by_tag: random.one_in(2), clients: clients(random) }
    }

    /// What may be said of the image at a time, under these knobs.
    fn judge(&self, knobs: &WhenUnknown, begun: Instant, answer: &Answer) {
        let now = Instant::now();
        let over = begun + self.takes;
        // The registry itself has said that it does not know.
        let told = matches!(self.ends, Analysed::Broken | Analysed::TooLong).then_some(over);
        let code = answer.status.as_ref().map_or(200, |(code, _)| *code);
        match (code, answer.basis.as_str()) {
            (200, "Registry" | "KnownFacts") => {
                assert!(self.ends == Analysed::Released && now >= over, "admitted before it was analysed, or in spite of it");
            }
            (200, "OpenPending") => {
                assert_eq!(knobs.pending, Allowance::Allow);
                let finding = told.map_or(begun + GIVEN_UP, |told| told.min(begun + GIVEN_UP));
                assert!(now >= finding, "nobody had found out yet that it is slow");
            }
            (403, "Registry") => {
                assert!(matches!(self.ends, Analysed::Quarantined | Analysed::Hidden) && now >= over, "refused for good too early");
                let sentence = if self.ends == Analysed::Hidden { "was not found" } else { "the registry blocks it: QUARANTINED" };
                answer.refuses(sentence);
            }
            (504, "Registry") => {
                assert_eq!(knobs.pending, Allowance::Deny);
                answer.waits(5, "Registry", "not known yet: ");
            }
            (504, "Deadline") => answer.waits(1, "Deadline", "the registry has not answered yet; the look-up goes on"),
            _ => panic!("no answer to this question"),
        }
    }
}

/// Says which round it was, should it end in a panic.
struct Named<'a, T: std::fmt::Debug>(&'a T);

impl<T: std::fmt::Debug> Drop for Named<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in this round: {:?}", self.0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_less_is_never_let_in_for_it() {
    let mut random = Random::seeded("race");
    let registry = FakeRegistry::start().await;
    let replicas = [(); 2].map(|()| World::new(shut()).with(&Listed::new(&registry).shown("robot", "gull").within(10_000, 1_000)));
    let tally = Tally::default();
    let (mut played, wanted) = (0, rounds(10_000));
    while played < wanted {
        let knobs = [shut(), open_for_outages(), open()][played / AT_ONCE % 3].clone();
        let (two, hangs_up) = [(false, false), (true, false), (false, true), (true, true)][played / AT_ONCE % 4];
        for world in &replicas {
            world.set_knobs(knobs.clone());
        }
        let batch: Vec<(String, Analysis)> = (played..played + AT_ONCE)
            .map(|number| {
                let (repository, mut analysis) = (format!("race/{number}"), Analysis::random(&mut random));
                analysis.clients[0].hangs_up = hangs_up.then(|| random.time(Duration::from_secs(4)));
                let digest = registry.push_image(&repository, "1", &number.to_string());
                registry.quirk(repository.as_str(), Quirk::SlowAnalysis(analysis.takes, analysis.ends));
                let reference = if analysis.by_tag { ":1".to_owned() } else { format!("@{digest}") };
                (format!("{}/{repository}{reference}", registry.host()), analysis)
            })
            .collect();
        let (one, other, knobs, tally) = (&replicas[0], &replicas[usize::from(two)], &knobs, &tally);
        join_all(batch.iter().map(|(image, analysis)| async move {
            // The first question begins the analysis.
            let begun = Instant::now() + analysis.clients[0].starts;
            let judged = |_, answer: &Answer| {
                let _round = Named(&(image, analysis, begun, answer));
                tally.count(knobs, answer);
                analysis.judge(knobs, begun, answer);
            };
            let [first, second] = analysis.clients;
            let last = tokio::join!(insist(one, image, first, judged), insist(other, image, second, judged));
            // Whoever comes when all is over hears the same, who had the time.
            let _round = Named(&(image, analysis, &last));
            if analysis.takes < Duration::from_secs(1) && analysis.ends == Analysed::Released {
                assert!(last.0.allowed && last.1.allowed, "it was released all the while");
            }
        }))
        .await;
        played += AT_ONCE;
        registry.clear_quirks();
        registry.forget_requests();
    }
    tally.has(&["200 Registry", "200 OpenPending", "403 Registry", "504 Deadline", "504 Registry (pending Deny, unavailable Allow)"]);
}

/// How a registry is down, and until when.
#[derive(Clone, Debug)]
struct Down {
    fault: Option<Fault>,
    recovers: Option<Duration>,
    clients: [Client; 2],
}

/// A registry that is truly down lets in both or neither, as the policy says; and nobody any more soon after it is well, though its one
/// image be as slow as ever.
#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_admits_both_or_neither_as_the_policy_says() {
    let mut random = Random::seeded("down");
    let tally = Tally::default();
    let (mut played, wanted) = (0, rounds(5_000) / 5);
    while played < wanted {
        let knobs = [shut(), open_for_outages(), open()][played / AT_ONCE % 3].clone();
        let mut replicas = [(); 2].map(|()| World::new(knobs.clone()));
        let two = played / AT_ONCE % 2 == 1;
        let mut batch = Vec::new();
        for _ in 0..AT_ONCE {
            let unavailable = Fault::Answer(503, Vec::new(), String::new());
            let down = Down {
                fault: [Some(Fault::Hang), Some(unavailable), None][random.below(3)].clone(),
                recovers: random.one_in(3).then(|| random.time(Duration::from_secs(20))),
                clients: clients(&mut random),
            };
            let mut registry = FakeRegistry::start().await;
            replicas = replicas.map(|replica| replica.with(&Listed::new(&registry)));
            registry.push_image("team/app", "1", "one");
            registry.quirk("team/app", Quirk::SlowAnalysis(Duration::ZERO, Analysed::Never));
            match &down.fault {
                Some(fault) => registry.fault("/", fault.clone()),
                None => registry.close().await,
            }
            batch.push((registry, down));
        }
        let (world, other, knobs, tally) = (&replicas[0], &replicas[usize::from(two)], &knobs, &tally);
        join_all(batch.into_iter().map(|(registry, down)| async move {
            let image = format!("{}/team/app:1", registry.host());
            let begun = Instant::now();
            let recovers = down.recovers.filter(|_| down.fault.is_some());
            let judged = |asked: Instant, answer: &Answer| {
                let _round = Named(&(&image, &down, begun, asked, answer));
                tally.count(knobs, answer);
                let well = recovers.is_some_and(|time| Instant::now() + GRAIN >= begun + time);
                let noticed = recovers.is_some_and(|time| asked >= begun + time + NOTICED);
                match answer.basis.as_str() {
                    "OpenUnavailable" => {
                        assert!(answer.allowed && knobs.registry_unavailable == Allowance::Allow);
                        assert!(!noticed, "it has been well for long");
                    }
                    "OpenPending" => assert!(answer.allowed && knobs.pending == Allowance::Allow && well, "it was down altogether"),
                    "Registry" if well && answer.message.contains("not known yet: ") => answer.waits(5, "Registry", "not known yet: "),
                    "Registry" => {
                        assert_eq!(knobs.registry_unavailable, Allowance::Deny);
                        answer.waits(5, "Registry", "its registry is unavailable (");
                    }
                    _ => answer.waits(1, "Deadline", "the registry has not answered yet; the look-up goes on"),
                }
            };
            let [first, second] = down.clients;
            let heal = async {
                if let Some(time) = recovers {
                    sleep(time).await;
                    registry.clear_faults();
                }
            };
            let (one, two, ()) = tokio::join!(insist(world, &image, first, judged), insist(other, &image, second, judged), heal);
            let _round = Named(&(&image, &down, &one, &two));
            if recovers.is_none() {
                // Whoever waits for the finding in the end.
                let (one, other) = tokio::join!(world.ask(&image), other.ask(&image));
                for answer in [&one, &other] {
                    match knobs.registry_unavailable {
                        Allowance::Allow => answer.admits("OpenUnavailable"),
                        Allowance::Deny => answer.waits(5, "Registry", "its registry is unavailable ("),
                    }
                }
            }
        }))
        .await;
        played += AT_ONCE;
    }
    tally.has(&["200 OpenUnavailable", "200 OpenPending", "504 Registry (pending Deny, unavailable Deny)", "504 Deadline"]);
}
