//! Who keeps the quarantine flag.
