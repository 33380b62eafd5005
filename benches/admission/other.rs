//! Reviews of images at a healthy registry while another one hangs.
//!
//! One replica knows four registries: two are reached at an address that hangs in every second phase, two at one that is well and 20 ms
//! away. In each phase of five and a half seconds, at the same pace, images that nobody has seen are asked for at the first two. Measured are
//! reviews of images at the other two: known ones (two by digest, one by tag; 64 under way) for `other_registry_p99_ratio`, and beside them
//! ones that nobody has seen, which have to be looked up (8 under way), for `other_registry_lookup_p99_ratio`. Five phases of each kind by turns;
//! a ratio is the quotient of the two medians. Between them it is waited until the end of the outage is noticed.

use std::{cell::Cell, time::Duration};

use bytes::Bytes;
use lazaretto::lookups::Lives;
use tokio::time::Instant;

use crate::{
    figures::{Figures, median, milliseconds, quantile},
    load::{Connections, PATH, Protocol, Run},
    registry::{Manner, Registry},
    stack::{self, Identity, Replica, Threads},
    world::{self, REGISTRIES, Template, World},
};

/// Its figures.
pub const FIGURES: [&str; 4] =
    ["other_registry_p99_ms", "other_registry_p99_ratio", "other_registry_lookup_p99_ms", "other_registry_lookup_p99_ratio"];

const RUNS: usize = 5;
/// Longer than one question may take, so that it holds the time before it is found out that the registry is out, and some of that after.
const PHASE: Duration = Duration::from_millis(5_500);
const CONCURRENCY: usize = 64;
/// Look-ups under way at the healthy registry.
const NEW: usize = 8;
/// Look-ups in a phase at the one that may hang, and the time from one to the next.
const AT_THE_OTHER: usize = 300;
const PACE: Duration = Duration::from_millis(20);
/// How far the healthy registry is away.
const DISTANCE: Duration = Duration::from_millis(20);
/// By when it has to be noticed that a registry is well again.
const NOTICED: Duration = Duration::from_secs(20);

/// What a phase came to: two values of p99.
struct Phase {
    known: Duration,
    new: Duration,
}

/// Measures.
pub async fn measure(statuses: usize) -> Figures {
    let threads = [Threads::new(stack::SERVER_THREAD, 1), Threads::new("registry", 1)];
    let world = World::new(statuses);
    let starting = async { (Registry::start(Manner::default()).await, Registry::start(Manner { delay: DISTANCE, tokens: false }).await) };
    let (first, healthy) = threads[1].run(starting).await;
    world.name_registries(|number| if number < REGISTRIES / 2 { first.address() } else { healthy.address() });
    let (identity, index) = (Identity::new(), world.index.clone());
    // What has to be asked for is measured beside: here tags stay at hand, whichever phase they would have expired in.
    let lives = Lives { tag: Duration::from_secs(3_600), ..Lives::default() };
    let replica = threads[0].run(async move { Replica::start(&identity, &index, None, lives).await }).await;
    let known = Connections::open(&replica.target, Protocol::Http1, CONCURRENCY).await;
    let beside = Connections::open(&replica.target, Protocol::Http1, NEW + AT_THE_OTHER).await;
    let reviews = reviews(statuses);
    known.run(&reviews, Run::of(2 * reviews.len())).await;

    let (template, asked) = (Template::new(0), Cell::new(0));
    let (mut calm, mut hung) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        calm.push(phase([&known, &beside], &reviews, &template, &asked).await);
        first.hang(true);
        hung.push(phase([&known, &beside], &reviews, &template, &asked).await);
        let mut recovered = replica.lookups.recovered();
        first.hang(false);
        assert!(tokio::time::timeout(NOTICED, recovered.changed()).await.is_ok(), "nobody notices that the registry is well again");
    }
    let mut figures = Figures::default();
    let mut tell = |name: &str, of: fn(&Phase) -> Duration| {
        let [hung, calm] = [&hung, &calm].map(|phases| median(phases.iter().map(|phase| milliseconds(of(phase)))));
        figures.add(format!("{name}_ms"), hung, "ms");
        figures.add(format!("{name}_ratio"), hung / calm, "ratio");
    };
    tell("other_registry_p99", |phase| phase.known);
    tell("other_registry_lookup_p99", |phase| phase.new);
    figures
}

/// Known images at the healthy registries.
fn reviews(statuses: usize) -> Vec<Bytes> {
    let image = |number: usize| ((number * 7_919 + 13) % (statuses / REGISTRIES)) * REGISTRIES + REGISTRIES / 2 + number % 2;
    let review = |number: usize| {
        let [one, two, three] = [0, 1, 2].map(|nth| image(3 * number + nth));
        world::review(number, &[world::by_digest(one), world::by_digest(two), world::by_tag(three)])
    };
    (0..512).map(review).collect()
}

/// A review of an image that nobody has seen, at a registry of this half.
fn new(template: &Template, half: usize, number: usize) -> Bytes {
    template.of(&world::unknown(half * REGISTRIES / 2 + number % 2, "other", number))
}

async fn phase([known, beside]: [&Connections; 2], reviews: &[Bytes], template: &Template, asked: &Cell<usize>) -> Phase {
    let next = || asked.replace(asked.get() + 1);
    let begun = Instant::now();
    let lookups = (0..NEW).map(async |lane| {
        let mut latencies = Vec::new();
        while begun.elapsed() < PHASE {
            latencies.push(beside.ask_on(lane, PATH, new(template, 1, next())).await.0);
        }
        latencies
    });
    let others = (0..AT_THE_OTHER).map(async |number| {
        tokio::time::sleep_until(begun + PACE * u32::try_from(number).unwrap()).await;
        beside.ask_on(NEW + number, PATH, new(template, 0, next())).await;
    });
    let (ran, lookups, _) =
        tokio::join!(known.run(reviews, Run::during(PHASE)), futures::future::join_all(lookups), futures::future::join_all(others));
    assert_eq!(ran.unwanted, 0, "a known good image at a healthy registry was not admitted");
    let mut new: Vec<Duration> = lookups.into_iter().flatten().collect();
    new.sort_unstable();
    Phase { known: ran.quantile(0.99), new: quantile(&new, 0.99) }
}
