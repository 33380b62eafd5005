//! The one place where not knowing becomes yes or no.
