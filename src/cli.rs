//! The command line: arguments in, an [`Exit`] out.
//!
//! What a command has to say goes to standard output, as a table for people or as JSON for programs; everything else goes to
//! standard error, and begins with the program's name.

mod check;
mod cluster;
mod crds;
mod debts;
mod image;
mod input;
mod output;
mod quarantine;
pub mod serve;
mod verify;
mod whatif;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

pub use self::crds::{file_name, yaml};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; what was judged is admitted.
    Done,
    /// The answer is no.
    Refused,
    /// Wrong usage, input that cannot be read, a cluster that does not answer.
    Failed,
    /// Not known, or not done, yet.
    NotYet,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Refused => Self::from(1),
            Exit::Failed => Self::from(2),
            Exit::NotYet => Self::from(3),
        }
    }
}

/// An error that is somebody's no, and not a failure to ask: it ends the program with [`Exit::Refused`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// Keeps pods from starting while their container images are in quarantine, and says why.
#[derive(Debug, Parser)]
#[command(name = "lazaretto", version, propagate_version = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answers admission reviews; one of the replicas operates as well
    Serve(Box<serve::ServeArguments>),
    /// Prints the resource definitions, or writes them to files
    Crds(crds::CrdsArguments),
    /// Judges manifests or images: offline, against registries, or against a cluster
    Check(Box<check::CheckArguments>),
    /// Shows how image references are read, one JSON object a line
    Image(image::ImageArguments),
    /// Shows what is in quarantine; holds, releases or fails an image
    Quarantine(quarantine::QuarantineArguments),
    /// Shows what a signature or an attestation proves, check by check
    Verify(Box<verify::VerifyArguments>),
    /// Lists what a policy or a registry would refuse of what runs, before it is applied
    #[command(name = "whatif")]
    WhatIf(whatif::WhatIfArguments),
    /// Lists running containers whose images were not judged
    Debts(debts::DebtsArguments),
    /// Prints a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Reads the arguments of the process. Help, versions and complaints are printed here.
///
/// # Errors
/// How the program ends at once.
pub fn read() -> Result<Arguments, Exit> {
    Arguments::try_parse().map_err(|error| {
        // Nobody is left to be told that nobody reads.
        let _printed = error.print();
        if error.use_stderr() { Exit::Failed } else { Exit::Done }
    })
}

/// Runs the command.
///
/// # Errors
/// What [`fail`] prints.
pub async fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    match arguments.command {
        Command::Serve(arguments) => crate::serve::run(*arguments).await.map(|()| Exit::Done),
        Command::Crds(arguments) => crds::run(&arguments),
        Command::Check(arguments) => check::run(*arguments).await,
        Command::Image(arguments) => image::run(&arguments),
        Command::Quarantine(arguments) => quarantine::run(arguments).await,
        Command::Verify(arguments) => verify::run(&arguments).await,
        Command::WhatIf(arguments) => whatif::run(arguments).await,
        Command::Debts(arguments) => debts::run(arguments).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "lazaretto", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Done)
        }
    }
}

/// Prints an error, and says how it ends the program.
pub fn fail(error: &anyhow::Error) -> Exit {
    output::note(&format!("{error:#}"));
    if error.is::<Refusal>() { Exit::Refused } else { Exit::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
