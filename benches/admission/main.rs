//! How fast, how much, and what happens when a registry does not answer. See benches/README.md for the figures that were found.
//!
//! ```text
//! make bench                                  everything, less than ten minutes
//! make bench NAME=warm_p99_ratio_c64          the part that has this figure
//! cargo bench --bench admission -- --statuses 50000
//! cargo bench --bench admission -- --url https://127.0.0.1:8443/validate --ca ca.pem [--server-name NAME]
//! ```
//!
//! One module a part, and its doc says what its figures mean. A part has what it needs in this process, on loopback, and ends after a
//! time of its own at the latest. Two parts need a real API server: [`cold`] and [`scale`] take the end-to-end tests' laboratory, whose
//! processes the kernel ends with this one.
//!
//! The load generator is this process' main thread: HTTP over TLS, on connections that stay open. The program's audit lines are written, to
//! /dev/null, as in an installation to a pipe.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what goes wrong here ends the measurement, and its output is the point"
)]

mod cluster;
mod cold;
mod figures;
mod load;
mod million;
mod other;
mod outage;
mod proof;
mod registry;
mod remote;
mod rules;
mod scale;
mod stack;
mod volley;
mod warm;
mod world;

/// A folder, so that the laboratory finds its own files.
#[path = "../../e2e"]
mod e2e {
    #[allow(dead_code, reason = "a laboratory has tools for other experiments, too")]
    pub mod lab;
}

use std::{fs::File, path::PathBuf, process::ExitCode, time::Duration};

use mimalloc::MiMalloc;
use tokio::time::timeout;
use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{load::Protocol, remote::Remote, warm::Stack};

/// The program's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// One measurement with all its figures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Million,
    Warm,
    Proof,
    Rules,
    Outage,
    Other,
    Cold,
    Scale,
}

/// In this order: first what a process must be young for, last what has a control plane beside it.
const PARTS: [Part; 8] = [Part::Million, Part::Warm, Part::Proof, Part::Rules, Part::Outage, Part::Other, Part::Cold, Part::Scale];

/// What the warm part is measured at, beside its figures without HTTP.
const WARM: [(Protocol, usize); 4] = [(Protocol::Http1, 64), (Protocol::Http1, 1), (Protocol::Http2, 64), (Protocol::Http2, 1)];
const MICRO: [&str; 2] = ["review_parse_ns", "judge_ns"];

impl Part {
    fn figures(self) -> Vec<String> {
        let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        match self {
            Self::Warm => {
                let of_http = WARM.iter().flat_map(|(protocol, concurrency)| warm::figures(*protocol, *concurrency));
                of_http.chain(texts(&MICRO)).collect()
            }
            Self::Million => texts(&million::FIGURES),
            Self::Proof => texts(&proof::FIGURES),
            Self::Rules => texts(&rules::FIGURES),
            Self::Outage => texts(&outage::FIGURES),
            Self::Other => texts(&other::FIGURES),
            Self::Cold => texts(&cold::FIGURES),
            Self::Scale => texts(&scale::FIGURES),
        }
    }

    /// It has come to its end by then, or the bench fails.
    const fn within(self) -> Duration {
        Duration::from_secs(match self {
            Self::Warm | Self::Million => 200,
            Self::Outage | Self::Cold | Self::Proof => 120,
            Self::Other | Self::Rules => 180,
            Self::Scale => 300,
        })
    }

    async fn measure(self, arguments: &Arguments) {
        let wanted = |names: &[String]| arguments.name.as_ref().is_none_or(|name| names.contains(name));
        if !wanted(&self.figures()) {
            return;
        }
        match self {
            Self::Warm => {
                let stack = Stack::start(arguments.statuses).await;
                for (protocol, concurrency) in WARM {
                    if wanted(&warm::figures(protocol, concurrency)) {
                        stack.compare(protocol, concurrency).await.print();
                    }
                }
                if wanted(&MICRO.map(str::to_owned)) {
                    stack.micro().await.print();
                }
            }
            Self::Million => million::measure().await.print(),
            Self::Proof => proof::measure(arguments.statuses).await.print(),
            Self::Rules => rules::measure(arguments.statuses).await.print(),
            Self::Outage => outage::measure(arguments.statuses).await.print(),
            Self::Other => other::measure(arguments.statuses).await.print(),
            Self::Cold => cold::measure().await.print(),
            Self::Scale => scale::measure(arguments.statuses).await.print(),
        }
    }
}

struct Arguments {
    name: Option<String>,
    statuses: usize,
    remote: Option<Remote>,
}

fn arguments() -> Result<Arguments, String> {
    let (mut name, mut statuses) = (None, 20_000);
    let (mut url, mut authorities, mut server) = (None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--statuses" => {
                let number = value()?.parse().ok().filter(|number| (1_000..=100_000).contains(number));
                statuses = number.ok_or("--statuses needs a number from 1000 to 100000")?;
            }
            "--url" => url = Some(value()?),
            "--ca" => authorities = Some(PathBuf::from(value()?)),
            "--server-name" => server = Some(value()?),
            figure if PARTS.iter().any(|part| part.figures().iter().any(|name| name == figure)) => name = Some(word),
            _ => {
                let all = PARTS.map(|part| part.figures().join("\n")).join("\n");
                return Err(format!("no figure has the name {word}; there are\n{all}"));
            }
        }
    }
    let remote = match (url, authorities) {
        (Some(url), Some(authorities)) => Some(Remote::read(&url, &authorities, server.as_deref())?),
        (None, None) => None,
        _ => return Err("--url and --ca go together".to_owned()),
    };
    Ok(Arguments { name, statuses, remote })
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::from(2);
        }
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    log();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    eprintln!("bench: {cores} cores; one thread makes the load; {} ImageStatuses", arguments.statuses);
    let load = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Some(remote) = &arguments.remote {
        load.block_on(remote.measure()).print();
        return ExitCode::SUCCESS;
    }
    for part in PARTS {
        let measured = load.block_on(async { timeout(part.within(), part.measure(&arguments)).await });
        assert!(measured.is_ok(), "{}: not at its end after {:?}", part.figures()[0], part.within());
    }
    ExitCode::SUCCESS
}

/// As an installation logs.
fn log() {
    let nowhere = File::options().write(true).open("/dev/null").expect("/dev/null");
    let filter = tracing_subscriber::filter::Targets::new()
        .with_target("lazaretto", tracing::Level::INFO)
        .with_target(lazaretto::audit::TARGET, tracing::Level::TRACE)
        .with_default(tracing::Level::WARN);
    let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(nowhere).with_filter(filter);
    tracing_subscriber::registry().with(layer).init();
}
