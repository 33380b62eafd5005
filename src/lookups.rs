//! Freshness and flights over the registry client.
