//! Audit lines.
