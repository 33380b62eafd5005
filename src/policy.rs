//! A policy made ready.
