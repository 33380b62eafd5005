//! Anchored patterns over canonical image names.
