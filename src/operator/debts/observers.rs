//! What policies that only observe would refuse, told by the workloads that people wrote.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::Term,
    tell::{MOST_WORKLOADS, Workloads, workload},
};
use crate::{
    api::{WouldRefuse, WouldRefuseItem},
    history::clip,
    memory::Memory,
    whatif::{Found, Seen},
};

/// Remembers whose pods are whose.
#[derive(Debug)]
pub(super) struct Observers(Workloads);

impl Default for Observers {
    fn default() -> Self {
        Self(Memory::new(MOST_WORKLOADS))
    }
}

impl Observers {
    /// What goes into the statuses. Only of the few that are listed it is asked who made them.
    pub(super) async fn read(&mut self, term: &Term, seen: BTreeMap<Arc<str>, Seen>) -> BTreeMap<Arc<str>, WouldRefuse> {
        let mut all = BTreeMap::new();
        for (policy, Seen { pods, owners, not_known, first }) in seen {
            let mut items: Vec<WouldRefuseItem> = Vec::new();
            for found in first {
                add(&mut items, self.item(term, found).await);
            }
            all.insert(policy, WouldRefuse { pods, owners, not_known, items });
        }
        all
    }

    async fn item(&mut self, term: &Term, found: Found) -> WouldRefuseItem {
        let Found { namespace, owner, pod, container, image, reason, pods } = found;
        let owner = match owner {
            Some(owner) => {
                let workload = workload(&term.operator.client, &namespace, &owner, &mut self.0).await;
                format!("{}/{}", workload.kind, workload.name)
            }
            None => format!("Pod/{pod}"),
        };
        WouldRefuseItem {
            namespace: namespace.to_string(),
            owner: clip(&owner, 320),
            container: container.to_string(),
            image,
            pods,
            reason: reason.to_string(),
        }
    }
}

/// While a Deployment rolls out, pods of two ReplicaSets are its own.
fn add(items: &mut Vec<WouldRefuseItem>, item: WouldRefuseItem) {
    let key = |item: &WouldRefuseItem| WouldRefuseItem { pods: 0, ..item.clone() };
    match items.iter_mut().find(|held| key(held) == key(&item)) {
        Some(held) => held.pods += item.pods,
        None => items.push(item),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_workload_has_in_two_replica_sets_is_one_line() {
        let item =
            |owner: &str, pods| WouldRefuseItem { owner: owner.into(), image: "r.corp/a:1".into(), pods, ..WouldRefuseItem::default() };
        let mut items = Vec::new();
        for item in [item("Deployment/web", 2), item("Deployment/api", 1), item("Deployment/web", 3)] {
            add(&mut items, item);
        }
        assert_eq!(items, [item("Deployment/web", 5), item("Deployment/api", 1)]);
    }
}
