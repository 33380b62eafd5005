//! Audit lines and Kubernetes Events, from the numbered history, at least once.
//!
//! What is out is written down in `emittedThrough` only after it is out. A leader that ends in between leaves the next one to emit
//! the same number again: a line may come twice, and never not at all.

use kube::{
    Resource as _,
    runtime::events::{Event, EventType, Recorder},
};

use super::Term;
use crate::{
    api::{ImageStatus, State, Transition},
    audit, history,
    image::Subject,
    metrics::{StateLabels, WriteEnd, Written},
    writer::{WriteError, bounded},
};

/// Emits what waits of one image.
pub(super) async fn run(term: &Term, recorder: &Recorder, name: &str) -> Result<(), WriteError> {
    let operator = &term.operator;
    let Some(object) = operator.writer.get(name).await? else { return Ok(()) };
    let Some(status) = &object.status else { return Ok(()) };
    if history::waiting(status) == 0 {
        return Ok(());
    }
    if !term.may_write() {
        return Ok(());
    }
    let Ok(subject) = object.spec.subject.parse::<Subject>() else { return Ok(()) };
    let mut through = status.emitted_through;
    for (at, transition) in status.history.iter().enumerate() {
        if transition.number <= status.emitted_through {
            continue;
        }
        let previous = at.checked_sub(1).and_then(|before| status.history.get(before));
        audit::transition(&subject, previous, transition);
        operator.metrics.transitions.get_or_create(&StateLabels { state: transition.state }).inc();
        for event in events(&subject, previous, transition) {
            publish(term, recorder, &object, event).await;
        }
        through = transition.number;
    }
    let written = operator.writer.change(name, |object| {
        let mut status = object.status.clone()?;
        (status.emitted_through < through).then(|| {
            status.emitted_through = through;
            status
        })
    });
    written.await.map(drop)
}

/// An Event that cannot be written is no reason to hold an audit line back: it is counted and logged.
async fn publish(term: &Term, recorder: &Recorder, object: &ImageStatus, event: Event) {
    let reference = object.object_ref(&());
    let end = match bounded(recorder.publish(&event, &reference)).await {
        Ok(()) => WriteEnd::Done,
        Err(error) => {
            tracing::warn!(reason = event.reason, %error, "an Event was not written");
            WriteEnd::Failed
        }
    };
    term.operator.metrics.wrote(Written::Event, end);
}

/// The Events of a transition. `Quarantined` never for an image that nobody quarantines; `Available` is what a deployment may wait for.
#[must_use]
pub fn events(subject: &Subject, previous: Option<&Transition>, transition: &Transition) -> Vec<Event> {
    let was_good = previous.is_some_and(|previous| matches!(previous.state, State::Released | State::Unmanaged));
    let kinds: &[(EventType, &str, &str)] = match (transition.state, was_good) {
        (State::Quarantined | State::Failed, true) => &[(EventType::Warning, "Revoked", "Quarantine")],
        (State::Quarantined, false) => &[(EventType::Normal, "Quarantined", "Quarantine")],
        (State::Failed, false) => &[(EventType::Warning, "Failed", "Judge")],
        (State::Released, false) => &[(EventType::Normal, "Released", "Release"), (EventType::Normal, "Available", "Release")],
        (State::Unmanaged, false) => &[(EventType::Normal, "Available", "Observe")],
        (State::Released | State::Unmanaged, true) | (State::Pending, _) => &[],
    };
    let note = format!("{subject}: {} by {}: {}", transition.state, transition.by, transition.reason);
    kinds
        .iter()
        .map(|(type_, reason, action)| Event {
            type_: *type_,
            reason: (*reason).to_owned(),
            note: Some(history::clip(&note, 1_000)),
            action: (*action).to_owned(),
            secondary: None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(path: &[State]) -> Vec<Vec<String>> {
        let subject: Subject = format!("registry.corp/app@sha256:{}", "a".repeat(64)).parse().unwrap();
        let history: Vec<Transition> = path
            .iter()
            .zip(1..)
            .map(|(&state, number)| Transition { number, at: jiff::Timestamp::UNIX_EPOCH, state, by: "b".into(), reason: "r".into() })
            .collect();
        (0..history.len())
            .map(|at| {
                events(&subject, at.checked_sub(1).map(|before| &history[before]), &history[at])
                    .into_iter()
                    .map(|event| event.reason)
                    .collect()
            })
            .collect()
    }

    #[test]
    fn the_ordinary_event_comes_only_after_the_release() {
        assert_eq!(reasons(&[State::Quarantined, State::Released]), [vec!["Quarantined"], vec!["Released", "Available"]]);
        assert_eq!(reasons(&[State::Unmanaged]), [["Available"]]);
        assert_eq!(reasons(&[State::Quarantined, State::Failed]), [["Quarantined"], ["Failed"]]);
        assert_eq!(reasons(&[State::Released, State::Quarantined]), [vec!["Released", "Available"], vec!["Revoked"]]);
        assert_eq!(reasons(&[State::Unmanaged, State::Released]), [vec!["Available"], vec![]]);
    }
}
