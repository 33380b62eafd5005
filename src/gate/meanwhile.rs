//! What changes while a review waits for an answer: the rules, and what is known of its images.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Bearer, Labels, spoken};
use crate::{
    access::Demand,
    facts::Outcome,
    image::Reference,
    index::{Index, Known, Rules},
    judgement::{Considered, Setting, Spoken},
    pod::Named,
    verdict::Sight,
};

/// What judging goes by when something was waited for.
pub(super) struct ByNow {
    pub(super) rules: Arc<Rules>,
    /// Of the namespace, if they are held.
    pub(super) labels: Option<Labels>,
    pub(super) now: Timestamp,
}

/// What is at hand of an image, and what was asked to find it out.
pub(super) struct Looked {
    pub(super) image: Reference,
    pub(super) demand: Demand,
    pub(super) sight: Sight,
}

/// What is asked of a registry takes a while, in which somebody may have held an image, denied it, or changed who is to be asked. What
/// has become known to be bad is put into the sights.
pub(super) fn meanwhile(index: &Index, namespace: &str, begun: Timestamp, looked: &mut [Looked]) -> ByNow {
    let now = Timestamp::now();
    for Looked { image, sight, .. } in looked {
        // That was by the rules as they were.
        sight.proven = false;
        let known = sight.subject.as_ref().and_then(|subject| index.image(subject));
        // What is the same may have been found bad by another name.
        let bad = known.as_ref().is_some_and(|known| known.facts.state.is_bad());
        if !bad && !matches!(sight.outcome, Outcome::Found(_)) {
            let last = sight.subject.as_ref().and_then(|subject| index.last(subject, now));
            let elsewhere = || index.bad_at_another_host(image, Some(begun), now).filter(|_| !sight.certain).map(|(_, known)| known);
            if let Some(bad) = last.filter(|last| last.facts.state.is_bad()).or_else(elsewhere) {
                sight.last = Some((bad.facts.clone(), bad.facts.observed_at));
            }
        }
        // What was known already when the registry was asked is older than its answer. No clock tells, which others set.
        let news = |known: &Known| sight.last.as_ref().is_none_or(|(last, _)| *last != known.facts);
        match known.filter(|known| known.facts.state.is_bad() && news(known)) {
            Some(known) if sight.certain => sight.outcome = Outcome::Found(known.facts.clone()),
            // What its tag stood for at the last look.
            Some(known) => sight.last = Some((known.facts.clone(), known.facts.observed_at)),
            None => {}
        }
    }
    ByNow { rules: index.rules(), labels: index.namespace(namespace), now }
}

/// Considers by other rules than those by which it was found out what is at hand. None where that does not suffice any more.
pub(super) fn consider_anew<'a>(
    before: &Rules,
    (rules, setting): (&Rules, &Setting<'a>),
    bearer: &Bearer<'_>,
    named: &[Named<'a>],
    looked: &[Looked],
) -> Option<Vec<Considered<'a>>> {
    let spoken = spoken(setting, named);
    let place = |rules: &Rules, image: &Reference| {
        let registry = rules.registry_of(image);
        (registry.map(|registry| registry.place), rules.rivals(image, registry))
    };
    let suffices = |spoken: &Spoken<'_>| {
        spoken.wants().is_none_or(|image| {
            let asked = |looked: &Looked| {
                let alike = (looked.demand, looked.sight.processor) == (spoken.demand(), bearer.is_processor(spoken.registry));
                looked.image == *image && alike
            };
            place(before, image) == place(rules, image) && looked.iter().any(asked)
        })
    };
    spoken.iter().all(suffices).then(|| setting.consider_all(spoken, sight_in(looked)))
}

pub(super) fn sight_in<'a>(looked: &'a [Looked]) -> impl Fn(&Reference) -> Option<&'a Sight> {
    move |image| looked.iter().find(|looked| looked.image == *image).map(|looked| &looked.sight)
}
