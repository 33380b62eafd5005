//! Watches that feed the index.
