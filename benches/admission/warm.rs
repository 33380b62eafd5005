//! A warm admission beside an echo server on the same stack.
//!
//! Both servers stand on axum and [`lazaretto::tls::Listener`], with one certificate and one runtime of one thread, and answer the
//! same AdmissionReviews: a pod of 12 KB with 3 images (two by digest, one by tag), judged by 20 policies that all speak of all
//! three, with 20,000 ImageStatuses loaded. The echo server reads them into the types of the Kubernetes API, as webhooks on this stack do,
//! and answers `allowed`. A second one, of the figures with `lean`, reads with the program's own `review::read_pods`, which leaves out what
//! is not judged and is the fastest honest reading that we know of: its ratio shows what judging costs and nothing else.
//!
//! *Warm* means that everything is at hand: facts, the digests of tags, the Registry's credentials. That no registry is asked while
//! it is measured is checked.
//!
//! Runs alternate (program, echo, lean echo, program, ...), five each; a figure is the median of its five, a ratio the quotient of two medians.
//! `*_busy` says how much of its core the server used: below about 0.9 the server was not the one to wait for, and the ratio of throughputs
//! says less than it seems to. `*_cpu` is the server thread's own time on a core for each review, which other programs on the machine disturb
//! least.
//!
//! The API server speaks HTTP/1.1 to a webhook behind a Service, so that is what the plain names are about; `_h2` is HTTP/2.

use std::time::Duration;

use lazaretto::{judgement::Scope, lookups::Lives, review};
use tokio::time::Instant;

use crate::{
    figures::{Figures, median},
    load::{Connections, Protocol, Ran, Run},
    registry::{Manner, Registry},
    stack::{self, Identity, Replica, Target, Threads},
    world::World,
};

/// Runs of each side.
const RUNS: usize = 5;

/// The names of the figures at one concurrency.
pub fn figures(protocol: Protocol, concurrency: usize) -> Vec<String> {
    let suffix = suffix(protocol, concurrency);
    ["throughput", "p50", "p99", "cpu", "busy"]
        .iter()
        .flat_map(|what| {
            ["warm_{}", "echo_{}", "lean_{}", "warm_{}_ratio", "warm_{}_lean_ratio"]
                .map(|form| format!("{}_{suffix}", form.replace("{}", what)))
        })
        .filter(|name| !name.contains("busy_ratio") && !name.contains("busy_lean"))
        .collect()
}

fn suffix(protocol: Protocol, concurrency: usize) -> String {
    match protocol {
        Protocol::Http1 => format!("c{concurrency}"),
        Protocol::Http2 => format!("c{concurrency}_h2"),
    }
}

/// Everything that serves.
pub struct Stack {
    world: World,
    registry: Registry,
    program: Replica,
    echo: Target,
    lean: Target,
    _threads: [Threads; 2],
}

impl Stack {
    /// Starts it with this many ImageStatuses, and asks until everything is at hand.
    pub async fn start(statuses: usize) -> Self {
        let world = World::new(statuses);
        let threads = [Threads::new(stack::SERVER_THREAD, 1), Threads::new("registry", 1)];
        let registry = threads[1].run(Registry::start(Manner::default())).await;
        world.name_registries(|_| registry.address());
        let (identity, index) = (Identity::new(), world.index.clone());
        // Longer than a bench takes: what a tag's next look-up costs is no part of the warm path.
        let lives = Lives { tag: Duration::from_secs(3_600), ..Lives::default() };
        let serving = async move {
            let echoes = (identity.serve(stack::echo()).await, identity.serve(stack::lean_echo()).await);
            (Replica::start(&identity, &index, None, lives).await, echoes)
        };
        let (program, (echo, lean)) = threads[0].run(serving).await;
        let this = Self { world, registry, program, echo, lean, _threads: threads };
        this.warm_up().await;
        this
    }

    /// Asks for each review, and reads the answers whole: the program's second one must rest on known facts.
    async fn warm_up(&self) {
        let warm = Connections::open(&self.program.target, Protocol::Http1, 1).await;
        let echo = Connections::open(&self.echo, Protocol::Http1, 1).await;
        let lean = Connections::open(&self.lean, Protocol::Http1, 1).await;
        for body in &self.world.reviews {
            let uid = review::read(body).unwrap().uid;
            warm.ask(body.clone()).await;
            for (connection, basis) in [(&warm, Some("KnownFacts")), (&echo, None), (&lean, None)] {
                let answer: serde_json::Value = serde_json::from_slice(&connection.ask(body.clone()).await).unwrap();
                let response = &answer["response"];
                assert_eq!(response["uid"].as_str(), Some(uid.as_ref()), "{answer}");
                assert_eq!(response["allowed"], true, "{answer}");
                assert_eq!(response["auditAnnotations"]["basis"].as_str(), basis, "{answer}");
            }
        }
    }

    /// The program and the echo server by turns.
    pub async fn compare(&self, protocol: Protocol, concurrency: usize) -> Figures {
        let asked = self.registry.requests();
        let requests = if concurrency == 1 { 1_500 } else { 10_000 };
        let mut all = Vec::new();
        for target in [&self.program.target, &self.echo, &self.lean] {
            let connections = Connections::open(target, protocol, concurrency).await;
            connections.run(&self.world.reviews, Run::of(requests / 4)).await;
            all.push((connections, Vec::new()));
        }
        for _ in 0..RUNS {
            for (connections, ran) in &mut all {
                ran.push(connections.run(&self.world.reviews, Run::of(requests)).await);
            }
        }
        assert!(all.iter().flat_map(|(_, ran)| ran).all(|ran| ran.unwanted == 0), "a known good image was not admitted");
        assert_eq!(self.registry.requests(), asked, "a registry was asked: this was no warm path");
        let suffix = suffix(protocol, concurrency);
        let mut figures = Figures::default();
        let mut pair = |what: &str, unit: &'static str, of: fn(&Ran) -> f64| {
            let [warm, echo, lean] = [0, 1, 2].map(|side: usize| median(all[side].1.iter().map(of)));
            figures.add(format!("warm_{what}_{suffix}"), warm, unit);
            figures.add(format!("echo_{what}_{suffix}"), echo, unit);
            figures.add(format!("lean_{what}_{suffix}"), lean, unit);
            if what != "busy" {
                figures.add(format!("warm_{what}_ratio_{suffix}"), warm / echo, "ratio");
                figures.add(format!("warm_{what}_lean_ratio_{suffix}"), warm / lean, "ratio");
            }
        };
        pair("throughput", "reviews/s", |ran| ran.throughput);
        pair("p50", "us", |ran| ran.quantile(0.5).as_secs_f64() * 1e6);
        pair("p99", "us", |ran| ran.quantile(0.99).as_secs_f64() * 1e6);
        pair("cpu", "us/review", |ran| ran.cpu.as_secs_f64() * 1e6);
        pair("busy", "cores", |ran| ran.busy);
        figures
    }

    /// The parts of a review without HTTP: reading it, and everything between that and the answer.
    pub async fn micro(&self) -> Figures {
        let deadline = Instant::now() + Duration::from_secs(3_600);
        let reviews = &self.world.reviews;
        let rounds = 10;
        let count = u32::try_from(rounds * reviews.len()).unwrap();
        let (mut parse, mut judge) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let begun = Instant::now();
            for body in (0..rounds).flat_map(|_| reviews) {
                std::hint::black_box(review::read_pods(body).unwrap());
            }
            parse.push(begun.elapsed() / count);
            let requests: Vec<_> = reviews.iter().map(|body| review::read_pods(body).unwrap()).collect();
            let begun = Instant::now();
            for request in (0..rounds).flat_map(|_| &requests) {
                let response = self.program.gate.review(request, Scope::Enforce, deadline).await;
                assert!(response.allowed);
                std::hint::black_box(response.into_json());
            }
            judge.push(begun.elapsed() / count);
        }
        let nanoseconds = |all: Vec<Duration>| median(all.into_iter().map(|time| time.as_secs_f64() * 1e9));
        let mut figures = Figures::default();
        figures.add("review_parse_ns", nanoseconds(parse), "ns");
        figures.add("judge_ns", nanoseconds(judge), "ns");
        figures
    }
}
