//! `lazaretto verify`: what a signature or an attestation proves, check by check.

mod bundle;

use clap::Args;

use super::{Exit, output};

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    #[command(flatten)]
    bundle: bundle::BundleArguments,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: output::Format,
}

pub(super) fn run(arguments: &VerifyArguments) -> anyhow::Result<Exit> {
    bundle::run(&arguments.bundle, arguments.output)
}
