//! One way through all pods, with the index locked for moments only.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use super::{super::Term, make_up::Answers};
use crate::{
    api::{QuarantineProvider, State},
    debts::{Book, Inner, Page, Survey},
    facts::Outcome,
    image::{Reference, Subject},
    index::{self, Known, Rules},
    judgement::{Scope, Setting},
    lookups::Lookups,
    metrics::StateLabels,
    origin::Rival,
    wallet::Wallet,
    watch::SharedIndex,
    whatif::{Observed, Records, Seen},
};

/// Goes through all pods, one namespace at a time: what is owed to policies that enforce, and what those that observe would refuse.
pub(super) async fn survey(term: &Term, answers: &Answers, book: &Book) -> (Survey, Page, BTreeMap<Arc<str>, Seen>) {
    let operator = &term.operator;
    let rules = operator.index.read().rules();
    let now = Timestamp::now();
    let inner = inner(term);
    let (mut turn, mut observed) = (book.turn(), Observed::default());
    let written = Written { index: &operator.index, inner: &inner, lookups: &operator.lookups, wallet: &operator.wallet };
    for namespace in term.inventory.namespaces() {
        if operator.settings.excluded.contains(&*namespace) {
            continue;
        }
        let labels = operator.index.read().namespace(&namespace).unwrap_or_default();
        let pods = term.inventory.pods_in(&namespace);
        let setting = |scope| Setting::new(&rules, scope, &namespace, &labels, now);
        let found = |subject: &Subject| {
            let known = inner.written(&operator.index.read(), subject);
            let answer = answers.get(known.as_ref().map_or(subject, |(by, _)| by));
            (known, answer)
        };
        turn.namespace(&setting(Scope::Enforce), &rules, &namespace, &pods, found, |rival| written.held(rival));
        observed.namespace(&setting(Scope::Observe), &namespace, &pods, &written, now);
        // Reviews wait on these threads, too.
        tokio::task::yield_now().await;
    }
    gauges(term, &rules, now);
    let (survey, page) = turn.end();
    (survey, page, observed.end())
}

/// What is known of images inside which something runs of which nothing is written itself.
fn inner(term: &Term) -> Inner {
    let running = term.inventory.images();
    let mut inner = Inner::wanted(&term.operator.index.read(), running.iter().filter_map(|image| image.subject.as_ref()));
    if !inner.is_empty() {
        let images: Vec<(Subject, Arc<Known>)> = {
            let index = term.operator.index.read();
            index.images().map(|(subject, known)| (subject.clone(), known.clone())).collect()
        };
        for (subject, known) in &images {
            inner.learn(subject, known);
        }
    }
    inner
}

/// What is written, for policies that only observe.
struct Written<'a> {
    index: &'a SharedIndex,
    inner: &'a Inner,
    lookups: &'a Lookups,
    wallet: &'a Wallet,
}

impl Records for Written<'_> {
    fn known(&self, subject: &Subject) -> Option<Arc<Known>> {
        self.inner.written(&self.index.read(), subject).map(|(_, known)| known)
    }

    fn stands_for(&self, image: &Reference) -> Option<Subject> {
        self.index.read().tagged(image).map(|(subject, _)| subject)
    }

    fn held(&self, rival: &Rival) -> Option<Outcome<bool>> {
        self.lookups.refresh_held(rival, || self.wallet.own_at_hand(&rival.registry, rival.host()));
        self.lookups.last_held(rival)
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
