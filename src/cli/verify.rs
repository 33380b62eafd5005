//! `lazaretto verify`: what a signature or an attestation proves, check by check.

mod bundle;
mod image;

use clap::Args;

use super::{Exit, output};

const EXIT_CODES: &str = "Exit codes: 0 verified, 1 not verified, 2 usage or unreadable input, 3 not known yet.";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct VerifyArguments {
    #[command(flatten)]
    image: image::ImageArguments,
    #[command(flatten)]
    bundle: bundle::BundleArguments,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: output::Format,
}

pub(super) async fn run(arguments: &VerifyArguments) -> anyhow::Result<Exit> {
    match &arguments.image.image {
        Some(image) => image::run(image, &arguments.image, arguments.output).await,
        None => bundle::run(&arguments.bundle, arguments.output),
    }
}
