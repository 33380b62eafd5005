//! What the leader does.
