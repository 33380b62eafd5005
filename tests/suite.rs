//! Tests in process: no API server, no network beyond loopback.

#[path = "support/mod.rs"]
mod support;

#[path = "suite/fuzz.rs"]
mod fuzz;
#[path = "suite/reference.rs"]
mod reference;
#[path = "suite/registry.rs"]
mod registry;
