//! A registry that misbehaves on purpose, by hand: on loopback, in plain HTTP, until Ctrl-C.
//!
//! ```text
//! cargo run --example misbehave -- --quirk hang-mid-body --port 5001
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the registry is the tests'")]

use std::{
    io::{self, Write as _},
    time::Duration,
};

use clap::{Parser, builder::PossibleValuesParser};

#[allow(dead_code, unused_imports, reason = "the tests use all of it")]
#[path = "../tests/support/registry.rs"]
mod registry;

use registry::{FakeRegistry, Quirk, Recorded};

/// Serves a registry that has `team/app:1`, `team/app:multi` (an index) and `team/other:1`, and misbehaves about some of it.
#[derive(Parser)]
#[command(name = "misbehave", after_help = list())]
struct Arguments {
    /// How; without it, it behaves.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Quirk::ALL.map(Quirk::name)), hide_possible_values = true)]
    quirk: Option<String>,
    /// About what: a repository, `team/app:1`, `team/app@sha256:...`, or `*` for everything, `/v2/` included.
    #[arg(long, value_name = "PLACE", default_value = "team/app")]
    on: String,
    /// How long, where the quirk has a time.
    #[arg(long)]
    seconds: Option<u64>,
    /// Where on 127.0.0.1; 0 is any port that is free.
    #[arg(long, default_value_t = 5001)]
    port: u16,
}

fn list() -> String {
    let line = |quirk: Quirk| format!("  {:<31} {}\n", quirk.name(), quirk.about());
    format!("Quirks:\n{}", Quirk::ALL.map(line).concat())
}

/// Whoever reads along may leave.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn asked(request: &Recorded, quirk: Option<Quirk>) {
    let meets = quirk.map_or_else(String::new, |quirk| format!("  {}", quirk.name()));
    say(&format!("{} {}{meets}", request.method, request.uri));
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let registry = FakeRegistry::builder().port(arguments.port).tell(asked).open().await?;
    let digest = registry.push_image("team/app", "1", "one");
    let index = registry.push_index("team/app", Some("multi"), &[(&digest, "linux", "amd64")]);
    let other = registry.push_image("team/other", "1", "other");
    let quirk = arguments.quirk.and_then(|name| Quirk::ALL.into_iter().find(|quirk| quirk.name() == name));
    let quirk = quirk.map(|quirk| arguments.seconds.map_or(quirk, |seconds| quirk.lasting(Duration::from_secs(seconds))));
    for (image, digest) in [("team/app:1", digest), ("team/app:multi", index), ("team/other:1", other)] {
        say(&format!("{}/{image}  {digest}", registry.host()));
    }
    match quirk {
        Some(quirk) => {
            registry.quirk(arguments.on.as_str(), quirk);
            say(&format!("{}, on {}: {}", registry.url(), arguments.on, quirk.name()));
        }
        None => say(&format!("{}, and it behaves", registry.url())),
    }
    tokio::signal::ctrl_c().await
}
