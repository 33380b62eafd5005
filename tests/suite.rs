//! Tests in process: no API server, no network beyond loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy allows these in #[test] functions; here the helpers around them fail the same way"
)]

#[path = "support/mod.rs"]
mod support;

#[path = "suite/acr.rs"]
mod acr;
#[path = "suite/bypass.rs"]
mod bypass;
#[path = "suite/cli.rs"]
mod cli;
#[path = "suite/crds.rs"]
mod crds;
#[path = "suite/evidence.rs"]
mod evidence;
#[path = "suite/force.rs"]
mod force;
#[path = "suite/fuzz.rs"]
mod fuzz;
#[path = "suite/indexes.rs"]
mod indexes;
#[path = "suite/meanwhile.rs"]
mod meanwhile;
#[path = "suite/origin.rs"]
mod origin;
#[path = "suite/quirks.rs"]
mod quirks;
#[path = "suite/race.rs"]
mod race;
#[path = "suite/reference.rs"]
mod reference;
#[path = "suite/registry.rs"]
mod registry;
#[path = "suite/rollout.rs"]
mod rollout;
#[path = "suite/sources.rs"]
mod sources;

#[path = "suite/lookups.rs"]
mod lookups;
