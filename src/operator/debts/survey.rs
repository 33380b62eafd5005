//! One way through all pods, with the index locked for moments only.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;

use super::{super::Term, make_up::Answers};
use crate::{
    api::{QuarantineProvider, State},
    debts::{Book, Finding, Page, Survey},
    image::{Digest, Subject},
    index::{self, Known, Rules},
    judgement::{Scope, Setting},
    metrics::StateLabels,
    origin::Rival,
};

/// Goes through all pods, one namespace at a time.
pub(super) async fn survey(term: &Term, answers: &Answers, book: &Book) -> (Survey, Page) {
    let operator = &term.operator;
    let rules = operator.index.read().rules();
    let now = Timestamp::now();
    let inner = Inner::read(term);
    let mut turn = book.turn();
    for namespace in term.inventory.namespaces() {
        if operator.settings.excluded.contains(&*namespace) {
            continue;
        }
        let labels = operator.index.read().namespace(&namespace).unwrap_or_default();
        let setting = Setting::new(&rules, Scope::Enforce, &namespace, &labels, now);
        let known = |subject: &Subject| {
            let known = operator.index.read().image(subject).or_else(|| inner.outer(subject));
            known.map_or_else(|| answers.get(subject), |known| Some(Finding::Known(known)))
        };
        let held = |rival: &Rival| operator.lookups.last_held(rival);
        turn.namespace(&setting, &rules, &namespace, &term.inventory.pods_in(&namespace), known, held);
        // Reviews wait on these threads, too.
        tokio::task::yield_now().await;
    }
    gauges(term, &rules, now);
    turn.end()
}

/// Digests that run and are not subjects themselves, with what is known of the indexes inside which they are: some container runtimes report
/// the image for their platform, or its configuration.
#[derive(Debug, Default)]
struct Inner(HashMap<Digest, Vec<(Subject, Arc<Known>)>>);

impl Inner {
    fn read(term: &Term) -> Self {
        let mut unknown: HashMap<Digest, Vec<(Subject, Arc<Known>)>> = HashMap::new();
        let running = term.inventory.images();
        {
            let index = term.operator.index.read();
            let subjects = running.iter().filter_map(|image| image.subject.as_ref());
            unknown.extend(subjects.filter(|subject| index.image(subject).is_none()).map(|subject| (subject.digest().clone(), Vec::new())));
        }
        if unknown.is_empty() {
            return Self::default();
        }
        let images: Vec<(Subject, Arc<Known>)> = {
            let index = term.operator.index.read();
            index.images().map(|(subject, known)| (subject.clone(), known.clone())).collect()
        };
        for (subject, known) in images {
            let manifest = &known.facts.manifest;
            for digest in manifest.config.iter().chain(manifest.children.iter().map(|child| &child.digest)) {
                if let Some(outer) = unknown.get_mut(digest) {
                    outer.push((subject.clone(), known.clone()));
                }
            }
        }
        Self(unknown)
    }

    /// The strictest of what is known of the indexes that hold an image.
    fn outer(&self, subject: &Subject) -> Option<Arc<Known>> {
        let same_repository =
            |(outer, _): &&(Subject, Arc<Known>)| outer.registry() == subject.registry() && outer.repository() == subject.repository();
        let all = self.0.get(subject.digest())?.iter().filter(same_repository).map(|(_, known)| known);
        all.filter(|known| !known.blank || known.held).max_by_key(|known| known.facts.state).cloned()
    }
}

fn gauges(term: &Term, rules: &Rules, now: Timestamp) {
    let metrics = &term.operator.metrics;
    let index = term.operator.index.read();
    let mut by_state: HashMap<State, i64> = HashMap::new();
    let mut oldest = 0;
    let kept_elsewhere = rules.registries.values().any(|registry| registry.provider == QuarantineProvider::AzureContainerRegistry);
    for (subject, known) in index.images() {
        *by_state.entry(known.facts.state).or_default() += 1;
        if !kept_elsewhere || known.unused_since.is_some() {
            continue;
        }
        let registry = rules.registry_for(subject.registry(), subject.repository());
        if registry.is_some_and(|registry| registry.provider == QuarantineProvider::AzureContainerRegistry) {
            oldest = oldest.max(now.duration_since(index::last_seen(known, subject, registry.map(AsRef::as_ref))).as_secs());
        }
    }
    for state in [State::Released, State::Unmanaged, State::Pending, State::Quarantined, State::Failed] {
        metrics.images.get_or_create(&StateLabels { state }).set(by_state.get(&state).copied().unwrap_or_default());
    }
    metrics.oldest_fact.set(oldest);
    metrics.policies.set(i64::try_from(rules.policies.len()).unwrap_or(i64::MAX));
    metrics.unreadable_objects.set(i64::try_from(index.unreadable().len()).unwrap_or(i64::MAX));
}
