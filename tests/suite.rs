//! Tests in process: no API server, no network beyond loopback.

#[path = "support/mod.rs"]
mod support;

#[path = "suite/cli.rs"]
mod cli;
#[path = "suite/crds.rs"]
mod crds;
#[path = "suite/registry.rs"]
mod registry;
