//! Leadership by compare-and-swap on a Lease.
