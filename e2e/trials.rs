//! Long trials against the same laboratory: replicas killed and frozen, installations half gone, adoption, the operator's passes. `make trials`
//! runs them; they take minutes, so they stand apart from the tests of every change.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy allows these in #[test] functions; here the helpers around them fail the same way"
)]

mod adoption;
mod agreement;
mod healing;
#[allow(dead_code, reason = "a laboratory has tools for the experiments to come")]
mod lab;
mod operator;
#[allow(dead_code, reason = "the story's own tests use the rest")]
mod story;
mod transitions;
