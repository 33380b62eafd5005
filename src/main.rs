//! The program `lazaretto`: [`lazaretto::cli`] does the work.

use std::process::ExitCode;

use lazaretto::cli;
use mimalloc::MiMalloc;

/// A review is read on one thread and dropped on another, over which the C library's allocator takes turns: in a burst that is a quarter
/// of all work.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // Before anything can ask for TLS. It fails only when a provider is installed already, and nothing came before.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = match cli::read() {
        Ok(arguments) => arguments,
        Err(exit) => return exit.into(),
    };
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| anyhow::anyhow!("cannot start: {error}"))
        .and_then(|runtime| runtime.block_on(cli::run(arguments)));
    ended.unwrap_or_else(|error| cli::fail(&error)).into()
}
