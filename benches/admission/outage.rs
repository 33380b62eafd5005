//! A registry that takes every request and never answers, for as long as it is measured.
//!
//! Two replicas of the program stand in this process, each with 20,000 ImageStatuses and the same reviews: the registry of one hangs, that of
//! the other is well. Both are asked about known good images (two by digest, one by tag) by turns, for four seconds each, five times; the
//! digests of tags are remembered for ten seconds, so the registry is asked again and again. Beside that, and all the time, the first is
//! asked about known bad images, by digest and by tag, and about images that nobody has seen. Its policies say `registryUnavailable: Allow`,
//! which must open nothing bad, and `lastKnownGoodFor: 24h`.
//!
//! - `outage_known_p99_ms`, `outage_known_p99_ratio`: the first replica's, and over the second's; the whole time counts, also before it is
//!   found out that the registry is out. `outage_known_max_ms` is from that time. `outage_known_throughput_ratio`, the same of reviews a second;
//! - `outage_known_refused`: known good images that were not admitted. `outage_known_bad_admitted`: known bad ones that were;
//! - `outage_unknown_max_ms`: the slowest answer about an image that nobody has seen. The API server waits for 10 s;
//! - `recovery_noticed_ms`: from the registry's first good moment until the program knows. `recovery_first_review_right`: whether the first
//!   review after that is right, about an image that was asked for during the outage and about one that was not;
//!   `recovery_at_once_right`: the same of a review in the very first good moment, when the program cannot know yet.

use std::{cell::Cell, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use lazaretto::{api::ImageStatus, lookups::Lives};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    figures::{Figures, count, median, milliseconds, quantile},
    load::{self, Connections, PATH, Protocol, Run},
    registry::{Manner, Registry},
    stack::{self, Identity, Replica, Threads},
    world::{self, Template, World},
};

/// Its figures.
pub const FIGURES: [&str; 10] = [
    "outage_known_p99_ms",
    "outage_known_p99_ratio",
    "outage_known_throughput_ratio",
    "outage_known_max_ms",
    "outage_known_refused",
    "outage_known_bad_admitted",
    "outage_unknown_max_ms",
    "recovery_noticed_ms",
    "recovery_first_review_right",
    "recovery_at_once_right",
];

const RUNS: usize = 5;
const RUN: Duration = Duration::from_secs(2);
const CONCURRENCY: usize = 64;
/// Known bad images, beyond the known good ones by number.
const BAD: usize = 16;
/// Reviews under way about images that nobody has seen.
const STRANGERS: usize = 8;
/// Between one review of a kind that is not the load and the next.
const PACE: Duration = Duration::from_millis(20);
/// By when it has to be noticed that a registry is well again.
const NOTICED: Duration = Duration::from_secs(20);

/// The program with a registry of its own.
struct Side {
    world: World,
    registry: Registry,
    replica: Replica,
    connections: Connections,
}

impl Side {
    async fn start(threads: &[Threads; 2], statuses: usize) -> Self {
        let world = World::new(statuses);
        for number in statuses..statuses + BAD {
            let status = world::read::<ImageStatus>(world::status(number, "Quarantined"));
            assert!(world.index.write().apply_image(&status, Timestamp::now()));
        }
        let registry = threads[1].run(Registry::start(Manner::default())).await;
        world.name_registries(|_| registry.address());
        let (identity, index) = (Identity::new(), world.index.clone());
        let starting = async move { Replica::start(&identity, &index, None, Lives::default()).await };
        let replica = threads[0].run(starting).await;
        let connections = Connections::open(&replica.target, Protocol::Http1, CONCURRENCY).await;
        Self { world, registry, replica, connections }
    }
}

/// Reviews of known bad images: each by digest, and by tag.
fn bad(statuses: usize) -> Vec<Bytes> {
    let image = |number: usize| {
        let by = if number.is_multiple_of(2) { world::by_digest } else { world::by_tag };
        by(statuses + number / 2)
    };
    let review = |number: usize| world::review(number, &[world::by_digest(number), image(number), world::by_digest(number + 1)]);
    (0..2 * BAD).map(review).collect()
}

/// A review of an image that nobody has seen.
fn stranger(template: &Template, number: usize) -> Bytes {
    template.of(&world::unknown(number, "outage", number))
}

/// What the reviews beside the load came to.
#[derive(Default)]
struct Beside {
    bad_admitted: Cell<usize>,
    slowest: Cell<Duration>,
    asked: Cell<usize>,
}

/// Measures.
pub async fn measure(statuses: usize) -> Figures {
    let threads = [Threads::new(stack::SERVER_THREAD, 1), Threads::new("registry", 1)];
    let (ill, well) = (Side::start(&threads, statuses).await, Side::start(&threads, statuses).await);
    let (bad, template) = (bad(statuses), Template::new(0));
    let others = Connections::open(&ill.replica.target, Protocol::Http1, 2 + STRANGERS).await;
    for side in [&ill, &well] {
        let ran = side.connections.run(&side.world.reviews, Run::of(2 * side.world.reviews.len())).await;
        assert_eq!(ran.unwanted, 0, "a known good image was not admitted");
    }
    for review in &bad {
        let (_, answer) = others.ask_on(0, PATH, review.clone()).await;
        assert!(load::holds(&answer, load::REFUSED), "{}", String::from_utf8_lossy(&answer));
    }

    // Nothing is at hand of what the tags stand for, only what they stood for: that is the harder case.
    tokio::time::sleep(Lives::default().tag).await;
    ill.registry.hang(true);
    let (beside, over) = (Beside::default(), Cell::new(false));
    let runs = async {
        let (mut of_ill, mut of_well) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            of_ill.push(ill.connections.run(&ill.world.reviews, Run::during(RUN)).await);
            of_well.push(well.connections.run(&well.world.reviews, Run::during(RUN)).await);
        }
        over.set(true);
        (of_ill, of_well)
    };
    let ((of_ill, of_well), ()) = tokio::join!(runs, watch_beside(&others, (&bad, &template), &beside, &over));
    assert!(of_well.iter().all(|ran| ran.unwanted == 0), "a known good image was not admitted");

    let mut figures = Figures::default();
    let mut latencies: Vec<Duration> = of_ill.iter().flat_map(|ran| ran.latencies.iter().copied()).collect();
    latencies.sort_unstable();
    let p99 = milliseconds(quantile(&latencies, 0.99));
    figures.add("outage_known_p99_ms", p99, "ms");
    figures.add("outage_known_p99_ratio", p99 / median(of_well.iter().map(|ran| milliseconds(ran.quantile(0.99)))), "ratio");
    let [throughput, healthy] = [&of_ill, &of_well].map(|runs| median(runs.iter().map(|ran| ran.throughput)));
    figures.add("outage_known_throughput_ratio", throughput / healthy, "ratio");
    figures.add("outage_known_max_ms", milliseconds(quantile(&latencies, 1.0)), "ms");
    figures.add("outage_known_refused", count(of_ill.iter().map(|ran| ran.unwanted).sum()), "reviews");
    figures.add("outage_known_bad_admitted", count(beside.bad_admitted.get()), "reviews");
    figures.add("outage_unknown_max_ms", milliseconds(beside.slowest.get()), "ms");
    recovery(&ill, (&others, &template), beside.asked.get(), &mut figures).await;
    figures
}

/// Known bad images and strangers, until it is over.
async fn watch_beside(connections: &Connections, (bad, template): (&[Bytes], &Template), beside: &Beside, over: &Cell<bool>) {
    let known = (0..2).map(async |lane| {
        for turn in (lane..).step_by(2) {
            if over.get() {
                break;
            }
            let (_, answer) = connections.ask_on(lane, PATH, bad[turn % bad.len()].clone()).await;
            if !load::holds(&answer, load::REFUSED) {
                beside.bad_admitted.set(beside.bad_admitted.get() + 1);
            }
            tokio::time::sleep(PACE).await;
        }
    });
    let strange = (0..STRANGERS).map(async |lane| {
        while !over.get() {
            let number = beside.asked.replace(beside.asked.get() + 1);
            let (took, _) = connections.ask_on(2 + lane, PATH, stranger(template, number)).await;
            beside.slowest.set(beside.slowest.get().max(took));
            tokio::time::sleep(PACE).await;
        }
    });
    tokio::join!(futures::future::join_all(known), futures::future::join_all(strange));
}

/// The registry answers again: a new image there is in quarantine, and that is the one right answer.
async fn recovery(ill: &Side, (connections, template): (&Connections, &Template), asked: usize, figures: &mut Figures) {
    let right = async |number: usize| {
        let (_, answer) = connections.ask_on(0, PATH, stranger(template, number)).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let response = &answer["response"];
        response["allowed"] == false && response["status"]["code"] == 403
    };
    let mut recovered = ill.replica.lookups.recovered();
    recovered.mark_unchanged();
    ill.registry.hang(false);
    let since = Instant::now();
    let at_once = right(asked).await;
    // Each Registry object has an outage of its own, though all are spoken to at one place.
    let all = async {
        while ill.replica.lookups.registries_out() > 0 {
            let _changed = recovered.changed().await;
        }
    };
    let noticed = tokio::time::timeout(NOTICED, all).await.is_ok();
    let took = since.elapsed();
    let first = noticed && right(asked - 1).await && right(asked + 1).await;
    figures.add("recovery_noticed_ms", milliseconds(took), "ms");
    figures.add("recovery_first_review_right", count(usize::from(first)), "1 or 0");
    figures.add("recovery_at_once_right", count(usize::from(at_once)), "1 or 0");
}
