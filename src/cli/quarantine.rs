//! `lazaretto quarantine`: what is in quarantine, and decisions about it, in the cluster of the kubeconfig.
//!
//! A decision is a change of `spec.quarantine`, written with the `resourceVersion` that was read and with the state that it was decided
//! on. Who may decide is the API server's to say; its sentence is shown as it comes.

mod decide;
mod find;
mod show;

use clap::{Args, Subcommand};
use kube::Api;

use self::decide::Order;
use super::{Exit, cluster::ClusterArguments, output};
use crate::api::{DecisionState, ImageStatus, ShortDuration};

#[derive(Debug, Args)]
pub(super) struct QuarantineArguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    cluster: ClusterArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the images that are held: quarantined, failed or being analysed
    List(show::ListArguments),
    /// Shows what is known of an image, how that came about, and what to do next
    Show(show::ShowArguments),
    /// Puts an image into quarantine
    Hold(DecideArguments),
    /// Lets an image go
    Release(DecideArguments),
    /// Declares an image unfit
    Fail(DecideArguments),
}

#[derive(Debug, Args)]
struct DecideArguments {
    /// An image by digest (`registry/repository@sha256:...`), the name of its ImageStatus, or at least 12 digits of its digest (`sha256:...`)
    image: String,
    /// Why, for people who read it later; at most 256 characters
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| bounded(text, 1, 256))]
    reason: String,
    /// More about it: a link to a report, a ticket; at most 512 characters
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| bounded(text, 1, 512))]
    details: Option<String>,
    /// How long to wait until the image's status shows it; 0s does not wait
    #[arg(long, value_name = "DURATION", default_value = "10s", default_missing_value = "30s", num_args = 0..=1, require_equals = true)]
    wait: ShortDuration,
}

fn bounded(text: &str, least: usize, most: usize) -> Result<String, String> {
    let length = text.trim().chars().count();
    if (least..=most).contains(&length) { Ok(text.trim().to_owned()) } else { Err(format!("give {least} to {most} characters")) }
}

pub(super) async fn run(arguments: QuarantineArguments) -> anyhow::Result<Exit> {
    let (client, _) = arguments.cluster.connect().await?;
    let (state, decided) = match arguments.command {
        Command::List(arguments) => return show::list(&client, &arguments).await,
        Command::Show(arguments) => return show::show(&client, &arguments).await,
        Command::Hold(arguments) => (DecisionState::Quarantined, arguments),
        Command::Release(arguments) => (DecisionState::Released, arguments),
        Command::Fail(arguments) => (DecisionState::Failed, arguments),
    };
    let by = decide::own_name(&client).await?;
    let order = Order { state, by, reason: decided.reason, details: decided.details };
    let api = Api::<ImageStatus>::all(client.clone());
    let found = find::find(&client, &decided.image).await?;
    let done = decide::decide(&api, found, &order).await?;
    output::print(&format!("{}\n", done.said))?;
    match done.wait_for {
        Some(generation) => decide::wait(&api, &done.name, order.state, generation, decided.wait.get()).await,
        None => Ok(Exit::Done),
    }
}
