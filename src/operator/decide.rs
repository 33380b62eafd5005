//! Carries people's decisions out, and emits what became of images.
//!
//! Work is found by looking through the index after each change: images with a decision that no write has answered, and images with
//! transitions whose audit lines are not out. So nothing is queued that a change of leader could lose.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};

use super::{Term, emit};
use crate::{
    api::{ImageStatus, ImageStatusStatus, Provider, QuarantineProvider, State},
    history::{self, Merged},
    image::Subject,
    index::Known,
    policy::RegistryEntry,
    writer::WriteError,
};

/// Images that are worked on at once.
const AT_ONCE: usize = 16;
/// How soon work that failed is tried again, if nothing changes meanwhile.
const AGAIN: Duration = Duration::from_secs(5);

/// Works until the term ends.
pub(super) async fn run(term: Term) {
    let operator = term.operator.clone();
    let reporter = Reporter { controller: "lazaretto".to_owned(), instance: Some(operator.settings.pod_name.clone()) };
    let recorder = Recorder::new(operator.client.clone(), reporter);
    let mut changed = operator.images_changed.clone();
    let mut rules = operator.rules_changed.clone();
    loop {
        changed.mark_unchanged();
        rules.mark_unchanged();
        let work: Vec<String> = {
            let index = operator.index.read();
            let due = |known: &&Arc<Known>| known.waiting > 0 || (known.undecided && (!known.blank || known.held));
            index.objects().filter(due).map(|known| known.name.clone()).collect()
        };
        let failed = stream::iter(work)
            .map(|name| one(&term, &recorder, name))
            .buffer_unordered(AT_ONCE)
            .fold(false, |failed, done| async move { failed || !done })
            .await;
        let pause = if failed { AGAIN } else { Duration::from_secs(60) };
        tokio::select! {
            _ = changed.changed() => {}
            _ = rules.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One image: its decision, then its audit lines. Says whether it came to its end.
async fn one(term: &Term, recorder: &Recorder, name: String) -> bool {
    let decided = decide(term, &name).await;
    if let Err(error) = &decided {
        tracing::warn!(name, %error, "a decision was not carried out; trying again");
    }
    match emit::run(term, recorder, &name).await {
        Ok(()) => decided.is_ok(),
        Err(error) => {
            tracing::warn!(name, %error, "transitions were not emitted; trying again");
            false
        }
    }
}

async fn decide(term: &Term, name: &str) -> Result<(), WriteError> {
    let operator = &term.operator;
    let Some((subject, known)) = ({
        let index = operator.index.read();
        index.subject_named(name).zip(index.image_named(name))
    }) else {
        return Ok(());
    };
    // Nobody is let go before the registry has confirmed the image: such a decision waits in the object for the first look.
    if !known.undecided || (known.blank && !known.held) || !term.may_write() {
        return Ok(());
    }
    let rules = operator.index.read().rules();
    let registry = rules.registry_for(subject.registry(), subject.repository());
    let provider = registry.map_or(QuarantineProvider::None, |registry| registry.provider);
    match provider {
        // What was held while somebody kept the flag stays held when nobody does any more, until a person releases it.
        QuarantineProvider::None if !known.blank && (known.facts.provider == Provider::Managed || known.facts.state.is_bad()) => {
            operator.writer.change(name, |object| managed(object, Timestamp::now())).await.map(drop)
        }
        QuarantineProvider::Managed => operator.writer.change(name, |object| managed(object, Timestamp::now())).await.map(drop),
        QuarantineProvider::None => {
            // Nobody keeps a flag, so there is nothing to decide: who begins to keep one decides anew.
            operator.writer.change(name, settled).await.map(drop)
        }
        QuarantineProvider::AzureContainerRegistry => {
            let Some(registry) = registry else { return Ok(()) };
            at_the_registry(term, name, &subject, registry).await
        }
    }
}

fn managed(object: &ImageStatus, now: Timestamp) -> Option<ImageStatusStatus> {
    let decision = history::decided(object, now)?;
    let mut status = match history::merge(object, &decision, now) {
        Merged::Changed(status) => *status,
        Merged::Unchanged => object.status.clone().unwrap_or_default(),
        // The audit lines of the others come first; this one is found again after them.
        Merged::Full => return None,
    };
    history::settle_generation(object, &mut status).then_some(status)
}

fn settled(object: &ImageStatus) -> Option<ImageStatusStatus> {
    let mut status = object.status.clone().unwrap_or_default();
    history::settle_generation(object, &mut status).then_some(status)
}

/// A request that is carried out at the registry and read back.
async fn at_the_registry(term: &Term, name: &str, subject: &Subject, registry: &Arc<RegistryEntry>) -> Result<(), WriteError> {
    let operator = &term.operator;
    let access = operator.wallet.own(registry, subject.registry()).await.map_err(|error| WriteError::Api(error.to_string()))?;
    // Another leader may have carried it out, and the registry's own processor may have judged since: what was decided on must still be so.
    operator.lookups.look_again(subject, registry, &access, "").await?;
    let Some(object) = operator.writer.get(name).await? else { return Ok(()) };
    let Some(decision) = object.spec.quarantine.clone().filter(|_| history::decided(&object, Timestamp::now()).is_some()) else {
        return Ok(());
    };
    let state = object.status.as_ref().map(|status| status.state);
    let overtaken = decision.expects.is_some_and(|expected| state != Some(expected) && State::from(decision.state) != State::Failed);
    if overtaken || state == Some(decision.state.into()) {
        tracing::info!(%subject, by = decision.by, ?state, "a decision found nothing to do at the registry");
    } else if let Err(failure) = operator.lookups.carry_out(subject, registry, &access, &decision).await {
        tracing::error!(%subject, by = decision.by, error = %failure, "the registry did not carry a decision out");
        if !matches!(failure, crate::registry::Failure::Forbidden(_) | crate::registry::Failure::NotFound) {
            return Err(WriteError::Api(failure.to_string()));
        }
    } else {
        operator.lookups.look_again(subject, registry, &access, "").await?;
    }
    operator
        .writer
        .change(name, |now| {
            let mut status = now.status.clone().unwrap_or_default();
            status.provider = Provider::AzureContainerRegistry;
            history::settle(&mut status, object.metadata.generation).then_some(status)
        })
        .await
        .map(drop)
}
