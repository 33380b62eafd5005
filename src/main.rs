//! See the library's documentation.

use std::process::ExitCode;

use clap::Parser as _;
use lazaretto::cli::{Arguments, Command};

fn main() -> ExitCode {
    // Before anything else: TLS is set up in several places, and the first to need a provider must find it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("lazaretto: {error}");
            return ExitCode::FAILURE;
        }
    };
    let Command::Serve(serve) = arguments.command;
    match runtime.block_on(lazaretto::serve::run(serve)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lazaretto: {error:#}");
            ExitCode::FAILURE
        }
    }
}
