//! Registry credentials out of Secrets.
