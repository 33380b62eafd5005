//! Goes through what runs, level-triggered, and sees to it that what owes a judgement gets one, in public ([`crate::debts`]).
//!
//! Three loops: one goes through all pods whenever something changed, writes down what it comes to and tells what changed; one asks the
//! registries about what is owed ([`make_up`]); one tells the owners of pods ([`tell`]).

mod make_up;
mod observers;
mod survey;
mod tell;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::{Api, api::ListParams};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use self::make_up::Answers;
use super::{Term, statuses};
use crate::{
    api::{Debts, Registry, RegistryDebts, WouldRefuse},
    audit,
    debts::{Book, MOST_TOLD, Survey, Told, Wanted},
    metrics::ChangeLabels,
    unread::Unread,
    writer::bounded,
};

/// How often all is gone through when nothing seems to change.
const EVERY: Duration = Duration::from_secs(60);
/// Changes that come close together are taken together.
const GATHER: Duration = Duration::from_millis(500);
/// What going through all pods takes is at most this part of the time.
const SHARE: u32 = 5;
/// Which running pods a policy would refuse is written no more often than this, in a cluster whose pods come and go.
const CALM: Duration = Duration::from_secs(10);
/// How soon what failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Works until the term ends.
pub(super) async fn run(term: Term) {
    term.inventory.listed().await;
    let (wanted, to_ask) = watch::channel(Arc::default());
    let (told, to_tell) = mpsc::channel(MOST_TOLD);
    let answers = Arc::new(Answers::default());
    tokio::join!(
        go_through(term.clone(), answers.clone(), wanted, told),
        make_up::run(term.clone(), answers, to_ask),
        tell::run(term.clone(), to_tell)
    );
}

async fn go_through(term: Term, answers: Arc<Answers>, wanted: watch::Sender<Arc<[Wanted]>>, told: mpsc::Sender<Told>) {
    let mut pods = term.inventory.changed();
    let mut rules = term.operator.rules_changed.clone();
    let mut images = term.operator.images_changed.clone();
    let mut learnt = answers.changed();
    let mut written = loop {
        match Written::read(&term).await {
            Ok(written) => break written,
            Err(error) => tracing::warn!(error, "what is written of debts cannot be read; trying again"),
        }
        tokio::time::sleep(AGAIN).await;
    };
    let mut book = Book::open(written.registries.values());
    let mut observers = observers::Observers::default();
    let mut news = true;
    loop {
        pods.mark_unchanged();
        news |= rules.has_changed().unwrap_or_default();
        rules.mark_unchanged();
        images.mark_unchanged();
        learnt.mark_unchanged();
        let begun = Instant::now();
        let (survey, page, observed) = survey::survey(&term, &answers, &book).await;
        let took = begun.elapsed();
        let observed = observers.read(&term, observed).await;
        book.close(page);
        say(&term, &survey, &told);
        answers.keep(&survey.wanted);
        wanted.send_if_modified(|held| {
            let other = **held != *survey.wanted;
            *held = survey.wanted.as_slice().into();
            other
        });
        let of_policies = OfPolicies { debts: survey.policies, would_refuse: observed };
        // Whether the statuses say so already.
        let age = begun.duration_since(written.at);
        news |= written.policies.as_ref().is_none_or(|held| held.debts != of_policies.debts) || age >= EVERY;
        let other = written.policies.as_ref().is_some_and(|held| held.would_refuse != of_policies.would_refuse);
        news |= other && age >= CALM;
        let (mut failed, later) = (false, other && !news);
        if news {
            written.at = begun;
            match statuses::write_all(&term, &of_policies).await {
                Ok(()) => (written.policies, news) = (Some(of_policies), false),
                Err(error) => {
                    tracing::warn!(error, "statuses were not written; trying again");
                    failed = true;
                }
            }
        }
        if let Err(error) = statuses::write_debts(&term, &survey.registries, &mut written.registries).await {
            tracing::warn!(error, "debts were not written; trying again");
            failed = true;
        }
        if failed {
            written.policies = None;
        }
        tokio::select! {
            _ = pods.changed() => {}
            // To wait for a change is to have seen it.
            _ = rules.changed() => news = true,
            _ = images.changed() => {}
            _ = learnt.changed() => {}
            () = tokio::time::sleep(if failed { AGAIN } else if later { CALM } else { EVERY }) => {}
        }
        tokio::time::sleep(GATHER.max(took * SHARE)).await;
    }
}

/// What stands in the statuses, as far as it was written or read by this term.
struct Written {
    policies: Option<OfPolicies>,
    registries: BTreeMap<String, RegistryDebts>,
    at: Instant,
}

/// What the pods come to for each policy.
#[derive(Debug, Default)]
pub(super) struct OfPolicies {
    /// What is owed to those that enforce.
    pub(super) debts: BTreeMap<Arc<str>, Debts>,
    /// What those that observe would refuse.
    pub(super) would_refuse: BTreeMap<Arc<str>, WouldRefuse>,
}

impl Written {
    async fn read(term: &Term) -> Result<Self, String> {
        let api = Api::<Unread<Registry>>::all(term.operator.client.clone());
        let list = bounded(api.list(&ListParams::default())).await.map_err(|error| error.to_string())?;
        let readable = list.into_iter().filter_map(|object| object.read().ok());
        let registries = readable.filter_map(|object| Some((object.metadata.name?, object.status?.debts?))).collect();
        Ok(Self { policies: None, registries, at: Instant::now() })
    }
}

/// Counts, audit lines, and what is left for the owners of pods.
fn say(term: &Term, survey: &Survey, owners: &mpsc::Sender<Told>) {
    let metrics = &term.operator.metrics;
    metrics.debts.set(i64::try_from(survey.owing).unwrap_or(i64::MAX));
    metrics.running_refused.set(i64::try_from(survey.refused).unwrap_or(i64::MAX));
    let oldest = survey.oldest.map_or(0, |since| jiff::Timestamp::now().duration_since(since).as_secs().max(0));
    metrics.oldest_debt.set(oldest);
    for (change, count) in &survey.changes {
        metrics.debt_changes.get_or_create(&ChangeLabels { change: *change }).inc_by(*count);
    }
    for told in &survey.told {
        audit::debt(told);
        // A full line of them means that many were told already; the audit lines are complete.
        if told.is_for_owners() && owners.try_send(told.clone()).is_err() {
            metrics.wrote(crate::metrics::Written::Event, crate::metrics::WriteEnd::Capped);
        }
    }
    let lines: u64 = survey.told.iter().map(|told| u64::from(told.containers)).sum();
    let all: u64 = survey.changes.values().sum();
    if all > lines {
        audit::more_debts(all - lines);
    }
}
