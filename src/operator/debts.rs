//! Debts: running containers whose image their policy has not judged, whatever let them in.
//!
//! Derived from pods and facts alone, each time anew: a pod that was admitted while we were away, or unjudged because a registry was
//! down, is found here, and so is a tag that moved between admission and pull. What is not known is looked up, as for admission, and
//! the debt is settled when the facts are in.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Term, inventory, inventory::Held, statuses};
use crate::{
    api::{Debt, Debts, State},
    facts::Outcome,
    history::clip,
    image::{Digest, Reference, Subject},
    index::{self, Index, Known, Rules},
    judgement::{Scope, Setting},
    lookups::Asker,
    metrics::StateLabels,
    verdict::{Opinion, Settled, Sight, Source},
};

/// How often all is gone through when nothing seems to change.
const EVERY: Duration = Duration::from_secs(60);
/// Changes that come close together are taken together.
const GATHER: Duration = Duration::from_millis(500);
/// Look-ups at once.
const AT_ONCE: usize = 8;
/// Debts that a policy lists.
const LISTED: usize = 20;

/// Goes through all pods until the term ends.
pub(super) async fn run(term: Term) {
    term.inventory.listed().await;
    let mut pods = term.inventory.changed();
    let mut rules = term.operator.rules_changed.clone();
    let mut images = term.operator.images_changed.clone();
    loop {
        pods.mark_unchanged();
        rules.mark_unchanged();
        images.mark_unchanged();
        let survey = survey(&term);
        term.operator.metrics.debts.set(i64::try_from(survey.owing.len()).unwrap_or(i64::MAX));
        term.operator.metrics.running_refused.set(survey.refused);
        if let Err(error) = statuses::write_all(&term, Some(&survey.debts)).await {
            tracing::warn!(error, "statuses were not written; trying again");
        }
        look_up(&term, survey.owing).await;
        tokio::select! {
            _ = pods.changed() => {}
            _ = rules.changed() => {}
            _ = images.changed() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// What going through all pods comes to.
#[derive(Debug, Default)]
struct Survey {
    debts: BTreeMap<String, Debts>,
    owing: HashSet<(Reference, Arc<str>)>,
    refused: i64,
}

fn survey(term: &Term) -> Survey {
    let operator = &term.operator;
    let pods = term.inventory.snapshot();
    let index = operator.index.read();
    let rules = index.rules();
    let inner = inner_digests(&index, &pods);
    let mut survey = Survey::default();
    let now = Timestamp::now();
    // Pods come in the order of their namespaces, and all of one namespace are judged in one setting.
    for pods in pods.chunk_by(|one, next| one.namespace == next.namespace) {
        let Some(namespace) = pods.first().map(|pod| &pod.namespace).filter(|name| !operator.settings.excluded.contains(name.as_ref()))
        else {
            continue;
        };
        let labels = index.namespace(namespace).unwrap_or_default();
        let setting = Setting::new(&rules, Scope::Enforce, namespace, &labels, now);
        for pod in pods {
            for running in pod.containers.iter().filter(|running| !running.image_id.is_empty()) {
                consider(&mut survey, &index, &rules, &setting, &inner, pod, running);
            }
        }
    }
    for debts in survey.debts.values_mut() {
        debts.items.sort_unstable();
        debts.items.truncate(LISTED);
    }
    gauges(term, &index, &rules, now);
    survey
}

fn consider(
    survey: &mut Survey,
    index: &Index,
    rules: &Rules,
    setting: &Setting<'_>,
    inner: &HashMap<Digest, Vec<Subject>>,
    pod: &Held,
    running: &inventory::Running,
) {
    let Some((image, Some(subject))) = inventory::running_subject(running) else { return };
    let registry = rules.registry_of(&image);
    let image = Ok(image);
    let policies = setting.policies_for(&image);
    if policies.is_empty() {
        return;
    }
    let running_image = exact(&subject);
    let known = find(index, inner, &subject);
    let sight = known.map(|known| Sight {
        subject: Some(subject.clone()),
        certain: true,
        outcome: Outcome::Found(known.facts.clone()),
        last: None,
        source: Source::Known,
        listed: registry.is_some(),
        processor: registry.is_some_and(|registry| registry.is_processor(&pod.namespace, &pod.service_account)),
    });
    let mut refused = false;
    for policy in policies {
        let case = setting.case(policy, &running_image);
        let opinion = match &sight {
            Some(sight) => Some(Opinion::of(&case, sight)),
            None => Opinion::by_name(&case, registry.is_some()),
        };
        match opinion.map(|opinion| opinion.settled) {
            Some(Settled::Admit(_)) => {}
            Some(Settled::Refuse(_)) => refused = true,
            Some(Settled::Later(..)) | None => {
                let debts = survey.debts.entry(policy.name.clone()).or_default();
                debts.total += 1;
                debts.items.push(Debt {
                    pod: format!("{}/{}", pod.namespace, pod.name),
                    container: running.container.to_string(),
                    image: clip(&subject.to_string(), 400),
                });
                survey.owing.insert((running_image.clone(), pod.namespace.clone()));
            }
        }
    }
    survey.refused += i64::from(refused);
}

/// The image that runs, by digest.
fn exact(subject: &Subject) -> Reference {
    Reference::from(subject)
}

/// What is known of what runs: of the digest itself, or of the index whose image or configuration it is.
fn find(index: &Index, inner: &HashMap<Digest, Vec<Subject>>, subject: &Subject) -> Option<Arc<Known>> {
    let same_repository = |other: &&Subject| other.registry() == subject.registry() && other.repository() == subject.repository();
    let outer = || {
        inner
            .get(subject.digest())?
            .iter()
            .filter(same_repository)
            .filter_map(|outer| index.image(outer))
            .max_by_key(|known| known.facts.state)
    };
    index.image(subject).or_else(outer)
}

/// Digests that run and are not subjects themselves, with the subjects inside which they are.
fn inner_digests(index: &Index, pods: &[Held]) -> HashMap<Digest, Vec<Subject>> {
    let mut wanted: HashMap<Digest, Vec<Subject>> = HashMap::new();
    for running in pods.iter().flat_map(|pod| &pod.containers) {
        if let Some((_, Some(subject))) = inventory::running_subject(running)
            && index.image(&subject).is_none()
        {
            wanted.insert(subject.digest().clone(), Vec::new());
        }
    }
    if wanted.is_empty() {
        return wanted;
    }
    for (subject, known) in index.images() {
        let manifest = &known.facts.manifest;
        for digest in manifest.config.iter().chain(manifest.children.iter().map(|child| &child.digest)) {
            if let Some(outer) = wanted.get_mut(digest) {
                outer.push(subject.clone());
            }
        }
    }
    wanted
}

/// Looks up what is owed, within the registries' limits. What is found is written down and wakes this loop again.
async fn look_up(term: &Term, owing: HashSet<(Reference, Arc<str>)>) {
    let rules = term.operator.index.read().rules();
    stream::iter(owing)
        .for_each_concurrent(AT_ONCE, |(image, namespace)| {
            let rules = rules.clone();
            async move {
                if !term.may_write() {
                    return;
                }
                let registry = rules.registry_of(&image);
                let access = match registry {
                    Some(registry) => term.operator.wallet.own(registry, image.registry()).await,
                    None => Ok(crate::wallet::anonymous()),
                };
                let deadline = Instant::now() + Duration::from_secs(10);
                let asker = Asker { namespace: &namespace, access, deadline, record: true, processor: false, inside: true };
                let _ = term.operator.lookups.see(&image, registry, &asker).await;
            }
        })
        .await;
}

fn gauges(term: &Term, index: &Index, rules: &Rules, now: Timestamp) {
    let metrics = &term.operator.metrics;
    let mut by_state: HashMap<State, i64> = HashMap::new();
    let mut oldest = 0;
    for (subject, known) in index.images() {
        *by_state.entry(known.facts.state).or_default() += 1;
        let registry = rules.registry_for(subject.registry(), subject.repository());
        let kept_elsewhere = registry.is_some_and(|registry| registry.provider == crate::api::QuarantineProvider::AzureContainerRegistry);
        if known.unused_since.is_none() && kept_elsewhere {
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
