//! End-to-end tests against a real kube-apiserver, etcd, controller-manager, registry and helm; see e2e/README.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy allows these in #[test] functions; here the helpers around them fail the same way"
)]

mod access;
mod bypass;
mod chart;
mod debts;
mod kept_elsewhere;
#[allow(dead_code, reason = "a laboratory has tools for the experiments to come")]
mod lab;
mod pipeline;
mod proven;
mod schema;
mod settings;
mod shadow;
mod smoke;
mod story;
#[path = "../tests/support/mod.rs"]
mod support;
mod whatif;
