//! Makes the parts of a replica and joins them.
