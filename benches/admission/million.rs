//! What a million distinct references leave behind.
//!
//! Half by tag and half by digest, at a registry on loopback that has none of them, asked through the program's own look-ups as fast as
//! they go. An author of pods could ask so, one typo after the other. It is two of the six kinds of questions whose answers are kept.
//!
//! - `entries_after_million`, `bytes_after_million`: what the look-ups keep right after the last ([`Lookups::kept`]); both are bounded.
//!   `entries_after_million_swept`: the same when those have gone stale and the five-secondly sweep has come by;
//! - `rss_growth_million_mib`: by how much this process has grown meanwhile; its own registry and load included, and what the first
//!   20,000 took left out.

use std::{sync::Arc, time::Duration};

use lazaretto::{
    facts::Outcome,
    image::{Digest, Reference},
    lookups::{Asker, Lives, Lookups, MOST_KEPT},
    metrics::Metrics,
    wallet,
    watch::SharedIndex,
};
use tokio::time::Instant;

use crate::{
    figures::{Figures, count, resident},
    registry::{ABSENT, Manner, Registry},
    stack::{self, Threads},
    world,
};

/// Its figures.
pub const FIGURES: [&str; 5] =
    ["entries_after_million", "bytes_after_million", "entries_after_million_swept", "rss_growth_million_mib", "million_lookups_per_s"];

const MILLION: usize = 1_000_000;
/// Before the growth is measured: connections, buffers, tables.
const FIRST: usize = 20_000;
/// Look-ups under way.
const AT_ONCE: usize = 64;

/// Measures.
pub async fn measure() -> Figures {
    let threads = [Threads::new("lookups", 1), Threads::new("registry", 1)];
    let registry = threads[1].run(Registry::start(Manner::default())).await;
    let index = SharedIndex::default();
    let mut object = world::registry(0, registry.address());
    // Its line is not what is measured.
    object["spec"]["limits"] = serde_json::json!({ "requestsPerSecond": 1_000_000, "concurrentRequests": AT_ONCE });
    assert!(index.write().apply_registry(&world::read(object)));
    let lookups = Arc::new(stack::lookups(&index, None, &Metrics::new().0, Lives::default()));

    let on = |from: usize, to: usize| threads[0].run(ask(lookups.clone(), index.clone(), from, to));
    on(0, FIRST).await;
    let (before, begun) = (resident("VmRSS"), Instant::now());
    on(FIRST, FIRST + MILLION).await;
    let (after, took) = (resident("VmRSS"), begun.elapsed());
    let (entries, bytes) = lookups.kept();
    assert!(entries <= MOST_KEPT.0 && bytes <= MOST_KEPT.1, "{entries} answers, {bytes} bytes: more than the stated {MOST_KEPT:?}");
    tokio::time::sleep(Lives::default().no + Duration::from_millis(500)).await;
    lookups.sweep();
    assert!(registry.requests() >= MILLION, "the registry was asked {} times", registry.requests());
    let mut figures = Figures::default();
    figures.add("entries_after_million", count(entries), "answers");
    figures.add("bytes_after_million", count(bytes), "bytes");
    figures.add("entries_after_million_swept", count(lookups.kept().0), "answers");
    figures.add("rss_growth_million_mib", after - before, "MiB");
    figures.add("million_lookups_per_s", f64::from(u32::try_from(MILLION).unwrap()) / took.as_secs_f64(), "look-ups/s");
    figures
}

/// Looks up what is not there, each reference once.
async fn ask(lookups: Arc<Lookups>, index: SharedIndex, from: usize, to: usize) {
    let rules = index.read().rules();
    let lanes = (0..AT_ONCE).map(|lane| {
        let (lookups, rules) = (&lookups, &rules);
        async move {
            for number in (from + lane..to).step_by(AT_ONCE) {
                let image = world::unknown(0, "x", number).replace("/new/", &format!("/{ABSENT}"));
                let image = match number % 2 {
                    0 => image,
                    _ => format!("{}@{}", image.trim_end_matches(":1"), Digest::of(&number.to_le_bytes())),
                };
                let image = Reference::parse(&image).unwrap();
                let deadline = Instant::now() + Duration::from_secs(10);
                let asker = Asker {
                    namespace: "team-0",
                    access: Ok(wallet::anonymous()),
                    deadline,
                    record: true,
                    processor: false,
                    inside: false,
                    proofs: &[],
                };
                let sight = lookups.see(&image, rules.registry_of(&image), &asker).await;
                assert_eq!(sight.outcome, Outcome::Absent, "{image}");
            }
        }
    });
    futures::future::join_all(lanes).await;
}
