//! One question to one registry.
