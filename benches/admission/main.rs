//! A warm admission beside an echo server on the same stack.
//!
//! ```text
//! make bench                                  everything, some two minutes
//! make bench NAME=warm_p99_ratio_c64          the part that has this figure
//! cargo bench --bench admission -- --statuses 50000
//! ```
//!
//! Both servers stand on axum and [`lazaretto::tls::Listener`], with one certificate and one runtime of one thread, and answer the
//! same AdmissionReviews: a pod of 12 KB with 3 images (two by digest, one by tag), judged by 20 policies that all speak of all
//! three, with 20,000 ImageStatuses loaded. The echo server reads them with the program's own `review::read` and `pod::read` and
//! answers `allowed`. These two leave out what is not judged, so they are the fastest honest reading that we know of: the ratio
//! shows what judging costs, not what another parser would.
//!
//! *Warm* means that everything is at hand: facts, the digests of tags, the Registry's credentials. That no registry is asked while
//! it is measured is checked.
//!
//! The load generator is this process' main thread: one thread as well, HTTP over TLS, a fixed number of requests on connections that
//! stay open, the next one as soon as the last is answered. So on two cores each side has one. Runs alternate (program, echo,
//! program, echo, ...), five each; a figure is the median of its five, a ratio the quotient of two medians. `*_busy` says how much of
//! its core the server used: below about 0.9 the server was not the one to wait for, and the ratio of throughputs says less than it seems to.
//! `*_cpu` is the server thread's own time on a core for each review, which other programs on the machine disturb least.
//!
//! The API server speaks HTTP/1.1 to a webhook behind a Service, so that is what the plain names are about; `_h2` is HTTP/2.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what goes wrong here ends the measurement, and its output is the point"
)]

mod figures;
mod load;
mod stack;
mod world;

use std::{process::ExitCode, time::Duration};

use lazaretto::{judgement::Scope, pod, review};
use tokio::time::Instant;

use crate::{
    figures::{Figures, median},
    load::{Connections, Protocol, Run},
    stack::Stack,
    world::World,
};

/// Runs of each side.
const RUNS: usize = 5;

/// One measurement with all its figures.
#[derive(Clone, Copy)]
enum Part {
    Warm(Protocol, usize),
    Micro,
}

const PARTS: [Part; 5] = [
    Part::Warm(Protocol::Http1, 64),
    Part::Warm(Protocol::Http1, 1),
    Part::Warm(Protocol::Http2, 64),
    Part::Warm(Protocol::Http2, 1),
    Part::Micro,
];

impl Part {
    fn figures(self) -> Vec<String> {
        match self {
            Self::Warm(protocol, concurrency) => {
                let suffix = suffix(protocol, concurrency);
                ["throughput", "p50", "p99", "cpu", "busy"]
                    .iter()
                    .flat_map(|what| ["warm_{}", "echo_{}", "warm_{}_ratio"].map(|form| format!("{}_{suffix}", form.replace("{}", what))))
                    .filter(|name| !name.contains("busy_ratio"))
                    .collect()
            }
            Self::Micro => ["review_parse_ns", "judge_ns"].map(str::to_owned).into(),
        }
    }
}

fn suffix(protocol: Protocol, concurrency: usize) -> String {
    match protocol {
        Protocol::Http1 => format!("c{concurrency}"),
        Protocol::Http2 => format!("c{concurrency}_h2"),
    }
}

struct Arguments {
    name: Option<String>,
    statuses: usize,
}

fn arguments() -> Result<Arguments, String> {
    let mut read = Arguments { name: None, statuses: 20_000 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--statuses" => {
                let number = words.next().and_then(|number| number.parse().ok()).filter(|number| *number >= 3);
                read.statuses = number.ok_or("--statuses needs a number, 3 or more")?;
            }
            name if PARTS.iter().any(|part| part.figures().iter().any(|figure| figure == name)) => read.name = Some(word),
            _ => {
                return Err(format!(
                    "no figure has the name {word}; there are\n{}",
                    PARTS.map(|part| part.figures().join("\n")).join("\n")
                ));
            }
        }
    }
    Ok(read)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::from(2);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    eprintln!("bench: {cores} cores; one thread serves, one makes the load; {} ImageStatuses", arguments.statuses);
    let world = World::new(arguments.statuses);
    let stack = Stack::start(&world);
    let load = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    load.block_on(stack.warm_up(&world));
    let questions = stack.questions();
    for part in PARTS {
        if arguments.name.as_ref().is_some_and(|name| !part.figures().contains(name)) {
            continue;
        }
        let figures = match part {
            Part::Warm(protocol, concurrency) => load.block_on(warm(&stack, &world, protocol, concurrency)),
            Part::Micro => load.block_on(micro(&stack, &world)),
        };
        figures.print();
    }
    assert_eq!(stack.questions(), questions, "a registry was asked: this was no warm path");
    ExitCode::SUCCESS
}

async fn warm(stack: &Stack, world: &World, protocol: Protocol, concurrency: usize) -> Figures {
    let requests = if concurrency == 1 { 4_000 } else { 20_000 };
    let warm = Connections::open(&stack.warm, protocol, concurrency).await;
    let echo = Connections::open(&stack.echo, protocol, concurrency).await;
    for connections in [&warm, &echo] {
        connections.run(world, requests / 4).await;
    }
    let (mut of_warm, mut of_echo) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        of_warm.push(warm.run(world, requests).await);
        of_echo.push(echo.run(world, requests).await);
    }
    let suffix = suffix(protocol, concurrency);
    let mut figures = Figures::default();
    let mut pair = |what: &str, unit: &'static str, of: fn(&Run) -> f64| {
        let [warm, echo] = [&of_warm, &of_echo].map(|runs| median(runs.iter().map(of)));
        figures.add(format!("warm_{what}_{suffix}"), warm, unit);
        figures.add(format!("echo_{what}_{suffix}"), echo, unit);
        if what != "busy" {
            figures.add(format!("warm_{what}_ratio_{suffix}"), warm / echo, "ratio");
        }
    };
    pair("throughput", "reviews/s", |run| run.throughput);
    pair("p50", "us", |run| run.p50.as_secs_f64() * 1e6);
    pair("p99", "us", |run| run.p99.as_secs_f64() * 1e6);
    pair("cpu", "us/review", |run| run.cpu.as_secs_f64() * 1e6);
    pair("busy", "cores", |run| run.busy);
    figures
}

/// The parts of a review without HTTP: reading it, and everything between that and the answer.
async fn micro(stack: &Stack, world: &World) -> Figures {
    let deadline = Instant::now() + Duration::from_secs(3_600);
    let rounds = 10;
    let reviews = u32::try_from(rounds * world.reviews.len()).unwrap();
    let (mut parse, mut read_pod, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let begun = Instant::now();
        for body in (0..rounds).flat_map(|_| &world.reviews) {
            let request = review::read(body).unwrap();
            std::hint::black_box(pod::read(request.object.unwrap().get()).unwrap());
        }
        parse.push(begun.elapsed() / reviews);
        let requests: Vec<_> = world.reviews.iter().map(|body| review::read(body).unwrap()).collect();
        let begun = Instant::now();
        for request in (0..rounds).flat_map(|_| &requests) {
            std::hint::black_box(pod::read(request.object.unwrap().get()).unwrap());
        }
        read_pod.push(begun.elapsed() / reviews);
        let begun = Instant::now();
        for request in (0..rounds).flat_map(|_| &requests) {
            let response = stack.gate.review(request, Scope::Enforce, deadline).await;
            assert!(response.allowed);
            std::hint::black_box(response.into_json());
        }
        whole.push(begun.elapsed() / reviews);
    }
    let nanoseconds = |all: Vec<Duration>| median(all.into_iter().map(|time| time.as_secs_f64() * 1e9));
    let mut figures = Figures::default();
    figures.add("review_parse_ns".to_owned(), nanoseconds(parse), "ns");
    figures.add("judge_ns".to_owned(), nanoseconds(whole) - nanoseconds(read_pod), "ns");
    figures
}
