//! Doubles and builders that several suites share.

#![allow(dead_code, reason = "each suite uses its part")]

pub mod acr;
pub mod random;
pub mod registry;
pub mod signer;
pub mod world;
