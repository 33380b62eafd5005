//! Writes ImageStatus objects.
