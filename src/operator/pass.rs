//! The leader's regular look at each registry: what is in use or held there, soonest due first, within the registry's limits.
//!
//! A pass ends in one write to the Registry's status: when it began, what it could not look at, and whether the registry is
//! reachable and takes our credentials. That one time carries the freshness of every image; an ImageStatus is written on change only.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{task::AbortHandle, time::Instant};

use super::{Term, adopt, release, statuses};
use crate::{
    api::{self, Adoption, Exception, QuarantineProvider, Registry, RegistryStatus},
    facts::{Facts, Outcome},
    history::clip,
    image::Subject,
    index::{self, Kind},
    lookups::{Access, NoAccess},
    policy::RegistryEntry,
    registry::Failure,
    writer::{WriteError, bounded},
};

/// Looks at one registry at once; the limiter has the last word.
const AT_ONCE: usize = 8;

/// Runs one task a Registry until the term ends.
pub(super) async fn run(term: Term) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut running: HashMap<String, (api::RegistrySpec, AbortHandle)> = HashMap::new();
    let mut changed = term.operator.rules_changed.clone();
    loop {
        changed.mark_unchanged();
        let rules = term.operator.index.read().rules();
        running.retain(|name, (spec, task)| {
            let same = rules.registries.get(name).is_some_and(|entry| entry.spec == *spec) && !task.is_finished();
            if !same {
                task.abort();
            }
            same
        });
        for (name, entry) in &rules.registries {
            if !running.contains_key(name) {
                let task = tasks.spawn(registry(term.clone(), name.clone()));
                running.insert(name.clone(), (entry.spec.clone(), task));
            }
        }
        tokio::select! {
            _ = changed.changed() => {}
            Some(_) = tasks.join_next() => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn registry(term: Term, name: String) {
    let reporter = Reporter { controller: "lazaretto".to_owned(), instance: Some(term.operator.settings.pod_name.clone()) };
    let recorder = Recorder::new(term.operator.client.clone(), reporter);
    let api = Api::<Registry>::all(term.operator.client.clone());
    let mut failing = false;
    let mut due = release::Due::default();
    loop {
        let begun = Instant::now();
        let Some(entry) = term.operator.index.read().rules().registries.get(&name).cloned() else { return };
        let interval = match pass(&term, &api, &entry, &mut due).await {
            Ok(status) => {
                let failed = status.exceptions_total > 0 || wrong(&status).is_some();
                if failed {
                    term.operator.metrics.failed_passes.inc();
                }
                if failed && !failing {
                    complain(&term, &recorder, &entry, &status).await;
                }
                failing = failed;
                entry.poll_interval
            }
            Err(error) => {
                tracing::warn!(registry = name, error, "a pass did not come to its end; trying again");
                term.operator.metrics.failed_passes.inc();
                Duration::from_secs(2)
            }
        };
        tokio::time::sleep_until(begun + interval).await;
    }
}

/// The condition that kept a pass from looking at anything.
fn wrong(status: &RegistryStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| {
        condition.type_ == "Reachable" && condition.status != "True" || condition.type_ == "Authorized" && condition.status == "False"
    })
}

/// A failed pass is logged and shown, once when it begins to fail.
async fn complain(term: &Term, recorder: &Recorder, entry: &RegistryEntry, status: &RegistryStatus) {
    let note = match (wrong(status), status.exceptions.first()) {
        (Some(condition), _) => condition.message.clone(),
        (None, Some(first)) => format!("{} images could not be looked at; {}: {}", status.exceptions_total, first.subject, first.reason),
        (None, None) => String::new(),
    };
    tracing::warn!(target: crate::audit::TARGET, event = "failed-pass", registry = entry.name, reason = note, "failed pass");
    let mut object = Registry::new(&entry.name, entry.spec.clone());
    if let Ok(there) = bounded(Api::<Registry>::all(term.operator.client.clone()).get_metadata(&entry.name)).await {
        object.metadata = there.metadata;
    }
    let event = Event {
        type_: EventType::Warning,
        reason: "PassFailed".to_owned(),
        note: Some(clip(&note, 1_000)),
        action: "Poll".to_owned(),
        secondary: None,
    };
    if let Err(error) = bounded(recorder.publish(&event, &object.object_ref(&()))).await {
        tracing::warn!(%error, "an Event was not written");
    }
}

async fn pass(term: &Term, api: &Api<Registry>, entry: &Arc<RegistryEntry>, due: &mut release::Due) -> Result<RegistryStatus, String> {
    let operator = &term.operator;
    let object = bounded(api.get(&entry.name)).await.map_err(|error| error.to_string())?;
    let began = Timestamp::now();
    let generation = object.metadata.generation;
    let mut status = object.status.clone().unwrap_or_default();
    let host = entry.hosts.first().cloned().unwrap_or_default();
    let access = match operator.wallet.own(entry, &host).await {
        Ok(access) => Ok(access),
        Err(NoAccess::Broken(why)) => Err(why),
        Err(NoAccess::Later(why)) => return Err(why),
    };
    let unreadable = operator.index.read().unreadable().get(&(Kind::Registry, entry.name.clone())).map(ToString::to_string);

    if entry.provider == QuarantineProvider::Managed && status.adoption.as_ref().is_none_or(|adoption| adoption.completed.is_none()) {
        // The instant is on record before anything is adopted, so that a new leader goes on from the same one.
        let adoption = match status.adoption.clone() {
            Some(adoption) => adoption,
            None => {
                let adoption = Adoption { instant: began, completed: None, adopted: 0, unconfirmed: Vec::new() };
                status.adoption = Some(adoption.clone());
                statuses::write_registry(term, api, &entry.name, &status).await?;
                adoption
            }
        };
        if let Ok(access) = &access {
            status.adoption = Some(adopt::go_on(term, entry, access, adoption).await?);
            statuses::write_registry(term, api, &entry.name, &status).await?;
        }
    }

    let mut conditions = std::mem::take(&mut status.conditions);
    let health = match &access {
        Ok(access) => operator.lookups.health(entry, access).await,
        Err(why) => Err(Failure::Unauthorized(why.clone())),
    };
    if matches!(health, Err(Failure::Unauthorized(_))) {
        operator.wallet.forget(entry);
    }
    let reachable = !matches!(health, Err(Failure::Outage(_)));
    let authorized = match &health {
        Ok(()) => Some(true),
        Err(Failure::Unauthorized(_)) => Some(false),
        Err(_) => None,
    };
    let told = health.as_ref().err().map_or_else(String::new, ToString::to_string);
    let (looked, exceptions) = match &access {
        Ok(access) if reachable => look(term, entry, access).await,
        _ => (0, Vec::new()),
    };
    let unproven = match &access {
        Ok(access) if reachable => release::look(term, entry, access, due).await,
        _ => Vec::new(),
    };
    let silent = if reachable {
        // It may have gone out meanwhile; such a pass vouches for nothing.
        operator.lookups.is_out(&entry.name).then_some("it stopped answering while its images were looked at")
    } else {
        Some(told.as_str())
    };
    let reachable = silent.is_none();
    let now = Timestamp::now();
    let mut say = |type_: &str, status: Option<bool>, reason: &str, message: &str| {
        api::set_condition(&mut conditions, api::condition(type_, status, reason, message, generation, now));
    };
    match &unreadable {
        None => say("Ready", Some(true), "Read", ""),
        Some(why) => say("Ready", Some(false), "NotInForce", &format!("{why}. {}", statuses::STAYS)),
    }
    say("Reachable", Some(reachable), if reachable { "Answers" } else { "Outage" }, silent.unwrap_or_default());
    say("Authorized", authorized, if authorized == Some(true) { "Accepted" } else { "NotAccepted" }, &told);
    let fault = entry.release.as_ref().and_then(|proof| operator.index.read().root_fault(proof));
    match (&entry.release, entry.release_error.as_ref().or(fault.as_ref()), unproven.first()) {
        (_, Some(why), _) => {
            say("Proving", Some(false), "NotRead", &format!("{why}. Nothing is released by its proof until that is mended"));
        }
        (Some(_), None, None) => say("Proving", Some(true), "Looked", ""),
        (Some(_), None, Some(first)) => {
            let message = format!("of {} images it could not be read what is signed; {}: {}", unproven.len(), first.subject, first.reason);
            say("Proving", Some(false), "NotAsked", &message);
        }
        (None, None, _) => {}
    }
    let behind = now.duration_since(began).as_secs() > i64::try_from(entry.poll_interval.as_secs()).unwrap_or(i64::MAX);
    let message = "one pass takes longer than spec.pollInterval: raise spec.limits or the interval";
    say("PollingBehind", Some(behind), if behind { "PassTooLong" } else { "OnTime" }, if behind { message } else { "" });
    status.conditions = conditions;
    status.observed_generation = generation;
    status.images = looked;
    if reachable && authorized == Some(true) {
        vouch(&mut status, began, exceptions);
    }
    statuses::write_registry(term, api, &entry.name, &status).await?;
    Ok(status)
}

/// A pass is complete: what is written was true when it began, but for these. A pass that was none says nothing, and takes nothing back.
fn vouch(status: &mut RegistryStatus, began: Timestamp, exceptions: Vec<Exception>) {
    status.last_complete_pass = Some(began);
    status.exceptions_total = u32::try_from(exceptions.len()).unwrap_or(u32::MAX);
    status.exceptions = exceptions.into_iter().take(20).collect();
}

/// Looks at every image of the registry whose flag the registry keeps, the longest unseen first.
async fn look(term: &Term, entry: &Arc<RegistryEntry>, access: &Access) -> (u32, Vec<Exception>) {
    let operator = &term.operator;
    if entry.provider != QuarantineProvider::AzureContainerRegistry {
        // We keep the flag, or nobody does: there is nothing to read.
        return (0, Vec::new());
    }
    // All of them, also those that nothing seems to name just now: a CronJob's next pod finds a pass that speaks for its image.
    let mut due: Vec<(Timestamp, Subject, bool)> = {
        let index = operator.index.read();
        let rules = index.rules();
        let ours =
            |subject: &Subject| rules.registry_for(subject.registry(), subject.repository()).is_some_and(|found| found.name == entry.name);
        let seen = |(subject, known): (&Subject, &Arc<index::Known>)| {
            ours(subject).then(|| (index::last_seen(known, subject, Some(entry)), subject.clone(), known.facts.state.is_bad()))
        };
        index.images().filter_map(seen).collect()
    };
    due.sort_unstable();
    let looked = u32::try_from(due.len()).unwrap_or(u32::MAX);
    let looks = stream::iter(due).map(|(_, subject, bad)| async move {
        if !term.may_write() {
            return Some(Exception { subject: subject.to_string(), reason: "no longer leading".to_owned() });
        }
        let reason = match look_at(term, entry, access, &subject).await {
            Ok(outcome) => reason(&outcome),
            Err(error) => Some(clip(&format!("what was seen could not be written: {error}"), 128)),
        };
        // What is bad stays bad without any look: only for what is good does the pass vouch.
        reason.filter(|_| !bad).map(|reason| Exception { subject: subject.to_string(), reason })
    });
    let exceptions = looks.buffer_unordered(AT_ONCE).filter_map(|exception| async { exception }).collect().await;
    (looked, exceptions)
}

/// One image, with the patience that the registry's limits ask for.
async fn look_at(term: &Term, entry: &Arc<RegistryEntry>, access: &Access, subject: &Subject) -> Result<Outcome<Arc<Facts>>, WriteError> {
    let mut outcome = term.operator.lookups.look_again(subject, entry, access, "").await?;
    for _ in 0..3 {
        let Outcome::Busy(busy) = &outcome else { break };
        tokio::time::sleep(busy.retry_after.clamp(Duration::from_millis(50), Duration::from_secs(60))).await;
        outcome = term.operator.lookups.look_again(subject, entry, access, "").await?;
    }
    Ok(outcome)
}

pub(super) fn reason<T>(outcome: &Outcome<T>) -> Option<String> {
    match outcome {
        Outcome::Found(_) => None,
        Outcome::Absent | Outcome::Hidden => Some("not found any more".to_owned()),
        Outcome::Refused => Some("not permitted".to_owned()),
        Outcome::Blocked(block) => Some(format!("blocked: {}", block.code)),
        Outcome::Pending(why) | Outcome::Unauthorized(why) | Outcome::Misbehaved(why) => Some(clip(why, 128)),
        Outcome::Unavailable(outage) => Some(clip(&outage.message, 128)),
        Outcome::Busy(_) => Some("the registry's request limit".to_owned()),
    }
}
