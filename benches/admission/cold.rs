//! A burst of a thousand reviews of one image that nobody has seen, by tag, at a registry that wants tokens and is 200 ms away.
//!
//! Each replica is the program's gate, look-ups, index and watch of ImageStatuses in this process; all of them share the ImageStatuses
//! through the laboratory's real API server, with the ServiceAccount's rights and under the guard. Connections are open before the burst,
//! and every review has one of its own, as HTTP/1.1 wants it; the API server's patience differs from review to review (2 s to 30 s).
//!
//! - `cold_single_ms`, `cold_single_upstream`: one review alone, and what the registry and its token server are asked for it: the tag, which
//!   is refused with a challenge; a token; the tag; the manifest. Each of the four takes 200 ms, so less than 800 ms cannot be;
//! - `cold_burst_upstream_*`: the same of a burst; the worst of five;
//! - `cold_burst_p99_ms`, `cold_burst_p99_3_replicas_ms`: of those reviews whose own deadline allows a look-up and 50 ms, which is what the burst
//!   may take; `cold_burst_over_single_ms`: by how much the first of them is above the single one; `cold_burst_echo_over_single_ms`: the same
//!   of an echo server that reads each review and then answers all of them at one moment: what it takes here to answer a burst at all;
//! - `cold_burst_differing_answers`: answers to these that are not the most common one, word by word, in all bursts;
//! - `cold_burst_late`: answers that came when the API server had given up, of all reviews.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, time::Duration};

use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use lazaretto::{
    admin::Readiness,
    api::ImageStatus,
    lookups::Lives,
    metrics::Metrics,
    watch::{self, Images, SharedIndex},
    writer::{Caps, Writer},
};
use serde_json::Value;

use crate::{
    cluster::{self, ACCOUNT, NAMESPACE},
    figures::{Figures, count, median, milliseconds, quantile},
    load::PATH,
    registry::{Manner, Registry},
    stack::{self, Identity, Replica, Threads},
    volley::{self, Barrel, Shot},
    world::{self, Template},
};

/// Its figures.
pub const FIGURES: [&str; 10] = [
    "cold_single_ms",
    "cold_single_upstream",
    "cold_burst_upstream_1_replica",
    "cold_burst_upstream_3_replicas",
    "cold_burst_p99_ms",
    "cold_burst_p99_3_replicas_ms",
    "cold_burst_over_single_ms",
    "cold_burst_echo_over_single_ms",
    "cold_burst_differing_answers",
    "cold_burst_late",
];

/// Reviews of a burst.
const BURST: usize = 1_000;
/// Bursts at one number of replicas, each of another image, each after a review alone.
const ROUNDS: usize = 5;
/// How far the registry is away.
const DISTANCE: Duration = Duration::from_millis(200);
/// What a burst may take longer than a review alone.
const ALLOWANCE: Duration = Duration::from_millis(50);
/// The patience of API servers, in seconds, by turns.
const PATIENCE: [u32; 6] = [2, 3, 5, 10, 15, 30];
/// What the registry still asks or is asked after the last answer is counted for so long.
const AFTERMATH: Duration = Duration::from_millis(500);

/// One answer of a burst.
struct Answer {
    patience: Duration,
    took: Duration,
    said: String,
}

impl Answer {
    /// When the program has to answer, by its own rule.
    fn deadline(&self) -> Duration {
        self.patience.saturating_sub(Duration::from_millis(1_500)).max(self.patience / 2)
    }
}

/// What bursts and single reviews came to.
#[derive(Default)]
struct Found {
    singles: Vec<Duration>,
    single_upstream: usize,
    upstream: usize,
    bursts: Vec<Vec<Answer>>,
}

/// Measures with one replica, then with three.
pub async fn measure() -> Figures {
    let lab = cluster::lab().await;
    let threads = [Threads::new(stack::SERVER_THREAD, 2), Threads::new("registry", 1)];
    let registry = threads[1].run(Registry::start(Manner { delay: DISTANCE, tokens: true })).await;
    let templates: Vec<Template> = (0..BURST).map(Template::new).collect();
    let mut all = Vec::new();
    for replicas in [1, 3] {
        all.push(bursts(&threads[0], &registry, replicas, &templates).await);
    }
    // Whoever comes next finds the cluster as it was.
    let statuses: Api<ImageStatus> = Api::all(lab.client().await);
    statuses.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();

    let single = median(all.iter().flat_map(|found| &found.singles).map(|took| milliseconds(*took)));
    let enough = Duration::from_secs_f64(single / 1e3) + ALLOWANCE;
    let p99 = |found: &Found| {
        median(found.bursts.iter().map(|burst| {
            let mut times: Vec<Duration> = burst.iter().filter(|answer| answer.deadline() >= enough).map(|answer| answer.took).collect();
            times.sort_unstable();
            milliseconds(quantile(&times, 0.99))
        }))
    };
    let every = || all.iter().flat_map(|found| &found.bursts);
    let late = every().flatten().filter(|answer| answer.took > answer.patience).count();
    let mut figures = Figures::default();
    figures.add("cold_single_ms", single, "ms");
    figures.add("cold_single_upstream", count(all.iter().map(|found| found.single_upstream).max().unwrap()), "requests");
    figures.add("cold_burst_upstream_1_replica", count(all[0].upstream), "requests");
    figures.add("cold_burst_upstream_3_replicas", count(all[1].upstream), "requests");
    figures.add("cold_burst_p99_ms", p99(&all[0]), "ms");
    figures.add("cold_burst_p99_3_replicas_ms", p99(&all[1]), "ms");
    figures.add("cold_burst_over_single_ms", p99(&all[0]) - single, "ms");
    figures.add("cold_burst_echo_over_single_ms", echo(&threads[0], &templates).await, "ms");
    figures.add("cold_burst_differing_answers", count(every().map(|burst| differing(burst, enough)).sum()), "answers");
    figures.add("cold_burst_late", count(late), "answers");
    figures
}

/// Single reviews and bursts by turns.
async fn bursts(serving: &Threads, registry: &Registry, replicas: usize, templates: &[Template]) -> Found {
    let identity = Identity::new();
    let mut running = Vec::new();
    for _ in 0..replicas {
        let kubeconfig = cluster::lab().await.kubeconfig_of(NAMESPACE, ACCOUNT).await;
        running.push(serving.run(replica(identity.clone(), registry.address(), kubeconfig)).await);
    }
    let mut barrels = Vec::new();
    for replica in &running {
        barrels.push(Barrel::open(&replica.target, BURST.div_ceil(replicas)).await);
    }
    let settled = async || {
        tokio::time::sleep(AFTERMATH).await;
        assert!(running.iter().all(|replica| replica.lookups.aloft() == 0), "look-ups go on without anybody waiting");
        registry.requests()
    };
    let mut found = Found::default();
    // The first round only makes connections to registry and API server.
    for round in 0..=ROUNDS {
        let before = registry.requests();
        let image = world::unknown(0, &format!("single-{replicas}"), round);
        let took = barrels[0][0].load(&path(30), &templates[0].of(&image)).fire().await.took;
        let single = settled().await - before;

        let image = world::unknown(0, &format!("burst-{replicas}"), round);
        // One for each replica in turn.
        let lanes = (0..BURST.div_ceil(replicas)).flat_map(|lane| (0..replicas).map(move |replica| (replica, lane)));
        let mut all: Vec<Vec<Option<&mut Barrel>>> = barrels.iter_mut().map(|barrels| barrels.iter_mut().map(Some).collect()).collect();
        let loaded: Vec<_> = lanes
            .zip(templates)
            .zip(PATIENCE.iter().cycle())
            .map(|(((replica, lane), template), patience)| {
                let barrel = all[replica][lane].take().expect("each is loaded once");
                (*patience, barrel.load(&path(*patience), &template.of(&image)))
            })
            .collect();
        let before = registry.requests();
        let shots = volley::all(loaded.into_iter().map(async |(patience, loaded)| (patience, loaded.fire().await))).await;
        // Looked at when all are in: whoever looks at one keeps the next from being taken.
        let read = |(patience, shot): (u32, Shot)| Answer {
            patience: Duration::from_secs(patience.into()),
            took: shot.took,
            said: said(&shot.answer),
        };
        let burst: Vec<Answer> = shots.into_iter().map(read).collect();
        let upstream = settled().await - before;
        if round > 0 {
            found.singles.push(took);
            found.single_upstream = found.single_upstream.max(single);
            found.upstream = found.upstream.max(upstream);
            found.bursts.push(burst);
        }
    }
    found
}

/// By how much the same burst is above a single review at an echo server that answers everybody at once, after the time of a look-up.
async fn echo(serving: &Threads, templates: &[Template]) -> f64 {
    let identity = Identity::new();
    let target = serving.run(async move { identity.serve(stack::echo_at_once(4 * DISTANCE)).await }).await;
    let mut barrels = Barrel::open(&target, BURST).await;
    let mut over = Vec::new();
    for round in 0..=ROUNDS {
        let image = world::unknown(0, "echo", round);
        let single = barrels[0].load(PATH, &templates[0].of(&image)).fire().await.took;
        let loaded: Vec<_> = barrels.iter_mut().zip(templates).map(|(barrel, template)| barrel.load(PATH, &template.of(&image))).collect();
        let mut times: Vec<Duration> = volley::all(loaded.into_iter().map(async |loaded| loaded.fire().await.took)).await;
        times.sort_unstable();
        if round > 0 {
            over.push(milliseconds(quantile(&times, 0.99)) - milliseconds(single));
        }
    }
    median(over.into_iter())
}

fn path(patience: u32) -> String {
    format!("/validate/enforce?timeout={patience}s")
}

/// What a user reads, whoever's review it is.
fn said(answer: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(answer).unwrap();
    let (allowed, status) = (&answer["response"]["allowed"], &answer["response"]["status"]);
    format!("{allowed} {} {}", status["code"], status["message"])
}

/// How many answers are not the most common one, of those that were to be had in time.
fn differing(burst: &[Answer], enough: Duration) -> usize {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for answer in burst.iter().filter(|answer| answer.deadline() >= enough) {
        *counts.entry(&answer.said).or_default() += 1;
    }
    let (common, most) = counts.iter().max_by_key(|(_, count)| **count).unwrap();
    assert!(common.starts_with("false 403 "), "a new image is in quarantine: {common}");
    counts.values().sum::<usize>() - most
}

/// One replica with its own index, fed by its own watch.
async fn replica(identity: Identity, registry: SocketAddr, kubeconfig: PathBuf) -> Replica {
    let client = cluster::client(&kubeconfig).await;
    let index = SharedIndex::default();
    world::name_rules(&index);
    world::name_registries(&index, |_| registry);
    let caps = Caps { total: 50_000, per_namespace: 2_000 };
    let writer = Writer::new(client.clone(), index.clone(), caps, Metrics::new().0);
    let replica = Replica::start(&identity, &index, Some(writer), Lives::default()).await;
    let listed = Readiness::default().condition("images");
    let lookups = replica.lookups.clone();
    let wake = move |name: &str| lookups.heard(name);
    tokio::spawn(watch::run::<ImageStatus>(client, watch::config().page_size(500), Images::new(index, wake), listed.clone()));
    while !listed.holds() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    replica
}
