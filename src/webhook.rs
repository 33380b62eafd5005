//! The router that the API server calls.
