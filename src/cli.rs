//! The command line.

pub mod serve;

use clap::{Parser, Subcommand};

/// Keeps pods from starting while their images are quarantined.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answers admission, and operates while it holds the Lease.
    Serve(serve::ServeArguments),
}
