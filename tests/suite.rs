//! Tests in process: no API server, no network beyond loopback.

#[path = "support/mod.rs"]
mod support;

#[path = "suite/registry.rs"]
mod registry;
