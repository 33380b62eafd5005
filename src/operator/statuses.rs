//! The statuses of what people write: one server-side apply each, and only when something changed.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt as _, api::ListParams, core::ClusterResourceScope};
use serde_json::json;

use super::{Term, debts::OfPolicies};
use crate::{
    api::{
        self, Conditions, Mode, QuarantinePolicy, QuarantinePolicyStatus, Registry, RegistryDebts, RegistryStatus, Waiver, WaiverStatus,
    },
    policy::{self, Policy, RegistryEntry, Unreadable},
    unread::Unread,
    writer::{FIELD_MANAGER, apply_status, bounded},
};

/// What becomes of an object that cannot be read.
pub(super) const STAYS: &str = "Its last readable form, if there was one, stays in force";

/// Whether every trusted root that a policy goes by can be read.
const AUTHORITIES: &str = "AuthoritiesReady";

/// Whose the debts on a Registry object are: the passes write the rest of its status, at other times.
const DEBTS_MANAGER: &str = "lazaretto-debts";

/// Writes a Registry's status, but for the debts.
pub(super) async fn write_registry(term: &Term, api: &Api<Registry>, name: &str, status: &RegistryStatus) -> Result<(), String> {
    // Debts are another manager's: whoever applies what is written there would own it, and keep it.
    let status = RegistryStatus { debts: None, ..status.clone() };
    write(term, api, name, json!(status)).await
}

/// Writes what changed of the debts on the Registry objects; `written` is what stands there.
pub(super) async fn write_debts(
    term: &Term,
    debts: &BTreeMap<String, RegistryDebts>,
    written: &mut BTreeMap<String, RegistryDebts>,
) -> Result<(), String> {
    let api = Api::<Registry>::all(term.operator.client.clone());
    let mut names: Vec<String> = debts.keys().chain(written.keys()).cloned().collect();
    names.dedup();
    for name in names {
        let mut new = debts.get(&name).cloned().unwrap_or_default();
        let old = written.get(&name);
        new.as_of = old.and_then(|old| old.as_of);
        if old.map_or(new.total == 0, |old| *old == new) {
            continue;
        }
        new.as_of = Some(Timestamp::now());
        if !term.may_write() {
            return Err("no longer leading".to_owned());
        }
        let applied = apply_status(&api, &name, json!({ "debts": new }), DEBTS_MANAGER, &term.operator.metrics).await;
        applied.map_err(|error| error.to_string())?;
        written.insert(name, new);
    }
    Ok(())
}

/// Brings the statuses of policies and waivers, and the `Ready` condition of registries that cannot be read, up to date.
pub(super) async fn write_all(term: &Term, found: &OfPolicies) -> Result<(), String> {
    let client = term.operator.client.clone();
    let (rules, faults) = {
        let index = term.operator.index.read();
        let rules = index.rules();
        // None of the policies that need none.
        let asking = rules.policies.iter().filter(|(_, policy)| policy.proof.sources().next().is_some());
        let faults: HashMap<String, Option<String>> =
            asking.map(|(name, policy)| (name.clone(), index.root_fault(&policy.proof))).collect();
        (rules, faults)
    };
    let now = Timestamp::now();
    // By the object at hand: the index may hold an earlier form of it than the generation that the status speaks of.
    let no = |error: Unreadable| error.to_string();

    let policies = Api::<QuarantinePolicy>::all(client.clone());
    for object in readable::<QuarantinePolicy>(&client).await? {
        let name = object.name_any();
        let old = object.status.clone().unwrap_or_default();
        let mut new = QuarantinePolicyStatus { observed_generation: object.metadata.generation, ..old.clone() };
        ready(&mut new.conditions, "Ready", Policy::try_from(&object).err().map(no).as_deref(), object.metadata.generation, now);
        match faults.get(&name) {
            Some(fault) => {
                let (reason, message) = fault.as_deref().map_or(("Read", ""), |why| ("TrustRootNotRead", why));
                let generation = object.metadata.generation;
                api::set_condition(
                    &mut new.conditions,
                    api::condition(AUTHORITIES, Some(fault.is_none()), reason, message, generation, now),
                );
            }
            None => new.conditions.retain(|condition| condition.type_ != AUTHORITIES),
        }
        new.debts = found.debts.get(name.as_str()).cloned().unwrap_or_default();
        let observes = object.spec.mode != Mode::Enforce;
        new.would_refuse = observes.then(|| found.would_refuse.get(name.as_str()).cloned().unwrap_or_default());
        if new != old {
            write(term, &policies, &name, json!(new)).await?;
        }
    }

    let waivers = Api::<Waiver>::all(client.clone());
    for object in readable::<Waiver>(&client).await? {
        let name = object.name_any();
        let old = object.status.clone().unwrap_or_default();
        let mut new = WaiverStatus { observed_generation: object.metadata.generation, ..old.clone() };
        let ended = (object.spec.expires <= now).then(|| format!("it expired at {}", object.spec.expires));
        ready(
            &mut new.conditions,
            "Active",
            policy::Waiver::try_from(&object).err().map(no).or(ended).as_deref(),
            object.metadata.generation,
            now,
        );
        if new != old {
            write(term, &waivers, &name, json!(new)).await?;
        }
    }

    let registries = Api::<Registry>::all(client.clone());
    for object in readable::<Registry>(&client).await? {
        let name = object.name_any();
        // Where there is a readable form the passes go on, and they write the status.
        let unreadable = RegistryEntry::try_from(&object).err().map(no);
        let Some(why) = unreadable.filter(|_| !rules.registries.contains_key(&name)) else { continue };
        let old = object.status.clone().unwrap_or_default();
        let mut new = RegistryStatus { observed_generation: object.metadata.generation, ..old.clone() };
        ready(&mut new.conditions, "Ready", Some(&why), object.metadata.generation, now);
        if new != old {
            write_registry(term, &registries, &name, &new).await?;
        }
    }
    Ok(())
}

/// Every object of a kind but those that cannot be read at all, which say so in the log and in a metric: one of them must not keep the
/// others from their statuses.
async fn readable<K>(client: &Client) -> Result<Vec<K>, String>
where
    K: kube::Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let api = Api::<Unread<K>>::all(client.clone());
    let list = bounded(api.list(&ListParams::default())).await.map_err(|error| error.to_string())?;
    Ok(list.into_iter().filter_map(|object| object.read().ok()).collect())
}

async fn write<K>(term: &Term, api: &Api<K>, name: &str, status: serde_json::Value) -> Result<(), String>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    if !term.may_write() {
        return Err("no longer leading".to_owned());
    }
    apply_status(api, name, status, FIELD_MANAGER, &term.operator.metrics).await.map_err(|error| error.to_string())
}

fn ready(conditions: &mut Conditions, type_: &str, why_not: Option<&str>, generation: Option<i64>, now: Timestamp) {
    let (status, reason, message) = match why_not {
        None => (true, "Read", ""),
        Some(why) => (false, "NotInForce", why),
    };
    let message = if type_ == "Ready" && !status { format!("{message}. {STAYS}") } else { message.to_owned() };
    api::set_condition(conditions, api::condition(type_, Some(status), reason, &message, generation, now));
}
