//! `lazaretto debts`: running containers whose images were not judged, as the leader last wrote it on policies and registries.

use clap::Args;
use serde::Serialize;

use super::{
    Exit,
    cluster::{self, ClusterArguments},
    output::{self, Cell},
};
use crate::api::{Debts, QuarantinePolicy, Registry, RegistryDebts};

#[derive(Debug, Args)]
pub(super) struct DebtsArguments {
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: output::Format,
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// What is owed to a policy.
#[derive(Debug, Serialize)]
struct Policy {
    policy: String,
    #[serde(flatten)]
    debts: Debts,
}

/// What is owed about a registry's images.
#[derive(Debug, Serialize)]
struct Images {
    registry: String,
    #[serde(flatten)]
    debts: RegistryDebts,
}

/// Lists what is owed, in the order of the policies' names: `Exit::NotYet` when something is.
pub(super) async fn run(arguments: DebtsArguments) -> anyhow::Result<Exit> {
    let (client, _) = arguments.cluster.connect().await?;
    let policies = cluster::list_readable::<QuarantinePolicy>(&client).await?.into_iter();
    let mut policies: Vec<Policy> = policies
        .map(|object| Policy { policy: object.metadata.name.unwrap_or_default(), debts: object.status.unwrap_or_default().debts })
        .collect();
    let registries = cluster::list_readable::<Registry>(&client).await?.into_iter();
    let mut registries: Vec<Images> = registries
        .map(|object| Images {
            registry: object.metadata.name.unwrap_or_default(),
            debts: object.status.unwrap_or_default().debts.unwrap_or_default(),
        })
        .collect();
    policies.retain(|policy| policy.debts.total > 0);
    registries.retain(|registry| registry.debts.total > 0);
    policies.sort_unstable_by(|a, b| a.policy.cmp(&b.policy));
    registries.sort_unstable_by(|a, b| a.registry.cmp(&b.registry));
    let end = if policies.is_empty() && registries.is_empty() { Exit::Done } else { Exit::NotYet };
    match arguments.output {
        output::Format::Json => output::print_json(&serde_json::json!({ "policies": policies, "registries": registries }))?,
        output::Format::Table if end == Exit::Done => output::note("nothing is owed: every running container was judged by its policies"),
        output::Format::Table => {
            let header = ["POLICY", "POD", "CONTAINER", "IMAGE"];
            output::print(&output::table(&header, &rows(&policies), output::coloured()))?;
            for left in left_out(&policies) {
                output::note(&left);
            }
        }
    }
    Ok(end)
}

fn rows(policies: &[Policy]) -> Vec<Vec<Cell>> {
    let rows = |policy: &Policy| {
        let row = |debt: &crate::api::Debt| [policy.policy.as_str(), &debt.pod, &debt.container, &debt.image].map(Cell::from).to_vec();
        policy.debts.items.iter().map(row).collect::<Vec<_>>()
    };
    policies.iter().flat_map(rows).collect()
}

/// What a status has no room for is not kept from whoever reads it.
fn left_out(policies: &[Policy]) -> Vec<String> {
    let cut = policies.iter().filter(|policy| usize::try_from(policy.debts.total).is_ok_and(|total| total > policy.debts.items.len()));
    cut.map(|policy| format!("policy {}: {} of {} containers are listed", policy.policy, policy.debts.items.len(), policy.debts.total))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Debt;

    #[test]
    fn what_is_left_out_is_said() {
        let item = Debt { pod: "team/web-1".into(), container: "c".into(), image: "registry.corp/app@sha256:0".into() };
        let owed = |total| Policy { policy: "strict".into(), debts: Debts { total, items: vec![item.clone()] } };
        assert_eq!(left_out(&[owed(1)]), Vec::<String>::new());
        assert_eq!(left_out(&[owed(1), owed(30)]), ["policy strict: 1 of 30 containers are listed"]);
        let table = output::table(&[], &rows(&[owed(1)]), false);
        assert_eq!(table, "strict   team/web-1   c   registry.corp/app@sha256:0\n");
    }
}
