use super::*;
use crate::{
    api::{Provider, State},
    facts::Manifest,
    proof::platforms,
};

fn object(name: &str, status: &serde_json::Value) -> ImageStatus {
    let subject = format!("r.corp/app@sha256:{}", "a".repeat(64));
    serde_json::from_value(serde_json::json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "ImageStatus", "metadata": { "name": name },
        "spec": { "subject": subject }, "status": status,
    }))
    .unwrap()
}

fn written(state: &str) -> serde_json::Value {
    serde_json::json!({
        "state": state, "provider": "Managed",
        "history": [{ "number": 1, "at": "2026-01-01T00:00:00Z", "state": state, "by": "lazaretto", "reason": "" }],
    })
}

#[test]
fn of_two_objects_for_one_image_the_strictest_speaks_and_an_empty_one_never_does() {
    let (blank, real, other) =
        (object("blank", &serde_json::Value::Null), object("real", &written("Quarantined")), object("other", &written("Released")));
    for order in [[&blank, &real, &other], [&other, &real, &blank], [&real, &blank, &other]] {
        let mut index = Index::default();
        for object in order {
            index.apply_image(object, Timestamp::UNIX_EPOCH);
        }
        let (subject, work) = index.images().next().unwrap();
        assert_eq!((work.name.as_str(), index.image(subject).unwrap().name.as_str()), ("real", "real"));
        index.delete_image("real");
        assert_eq!(index.images().next().unwrap().1.name, "other");
    }
    let mut index = Index::default();
    index.apply_image(&blank, Timestamp::UNIX_EPOCH);
    let (subject, _) = index.images().next().unwrap();
    assert!(index.image(subject).is_none(), "nothing is written there");
}

fn facts(state: State, second: i64) -> Arc<Facts> {
    let at = Timestamp::from_second(1_800_000_000 + second).unwrap();
    let provider = Provider::AzureContainerRegistry;
    let (by, reason, details, manifest) = (String::new(), String::new(), String::new(), Manifest::default());
    Arc::new(Facts { state, since: at, by, reason, details, provider, observed_at: at, manifest })
}

#[test]
fn a_bad_finding_that_could_not_be_written_hides_what_is_written_until_something_newer_is() {
    let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
    let seen = |state: &str, second| {
        let mut status = written(state);
        status["provider"] = "AzureContainerRegistry".into();
        status["observedAt"] = at(second).to_string().into();
        object("one", &status)
    };
    let mut index = Index::default();
    let subject: Subject = seen("Released", 0).spec.subject.parse().unwrap();
    index.hold_unwritten(&subject, &facts(State::Failed, 1));
    assert!(index.image(&subject).is_none(), "without anything written nothing is hidden, and whoever asks is told");
    index.apply_image(&seen("Released", 0), at(0));
    index.hold_unwritten(&subject, &facts(State::Failed, 1));
    assert_eq!(index.image(&subject).unwrap().facts.state, State::Failed);
    index.hold_unwritten(&subject, &facts(State::Released, 2));
    assert_eq!(index.image(&subject).unwrap().facts.state, State::Failed, "only what is written clears it");
    index.apply_image(&seen("Released", 3), at(3));
    assert_eq!(index.image(&subject).unwrap().facts.state, State::Released);
    index.hold_unwritten(&subject, &facts(State::Failed, 2));
    assert_eq!(index.image(&subject).unwrap().facts.state, State::Released, "older than what is written");
}

#[test]
fn a_hold_counts_at_once_by_whatever_name_it_is_written() {
    let mut held = object("hold-x", &serde_json::Value::Null);
    held.spec.quarantine = Some(crate::api::Decision {
        state: crate::api::DecisionState::Failed,
        by: "jane".into(),
        reason: "a worm".into(),
        details: None,
        expects: None,
    });
    let released = object("real", &written("Released"));
    let subject: Subject = held.spec.subject.parse().unwrap();
    for order in [[&held, &released], [&released, &held]] {
        let mut index = Index::default();
        for object in order {
            index.apply_image(object, Timestamp::UNIX_EPOCH);
        }
        let known = index.image(&subject).unwrap();
        assert_eq!((known.facts.state, known.facts.by.as_str()), (State::Failed, "jane"));
        index.delete_image("real");
        assert_eq!(index.image(&subject).unwrap().name, "hold-x");
    }
    held.spec.quarantine.as_mut().unwrap().state = crate::api::DecisionState::Released;
    let mut index = Index::default();
    index.apply_image(&held, Timestamp::UNIX_EPOCH);
    assert!(index.image(&subject).is_none(), "nobody is let go before the registry has confirmed the image");
}

#[test]
fn what_was_just_written_brings_back_neither_what_is_older_nor_what_is_gone() {
    let version = |version: u32, state: &str| {
        let mut object = object("one", &written(state));
        object.metadata.uid = Some("u".to_owned());
        object.metadata.resource_version = Some(version.to_string());
        object
    };
    let now = Timestamp::UNIX_EPOCH;
    let subject: Subject = version(1, "Released").spec.subject.parse().unwrap();
    let state = |index: &Index| index.image(&subject).map(|known| known.facts.state);
    let mut index = Index::default();
    assert!(index.apply_image(&version(11, "Failed"), now));
    assert!(!index.apply_written(&version(10, "Released"), now), "whoever read it before the watch brought the next");
    assert!(!index.apply_image(&version(9, "Released"), now), "the watch comes late itself");
    assert_eq!(state(&index), Some(State::Failed));
    assert!(index.apply_written(&version(12, "Released"), now));
    assert!(index.apply_image(&version(12, "Released"), now), "the watch has heard of it: whoever waits for that is told");
    assert!(!index.apply_image(&version(12, "Released"), now));
    assert_eq!(state(&index), Some(State::Released));
    assert!(index.delete_image("one"));
    assert!(!index.apply_written(&version(13, "Released"), now), "it is gone");
    assert_eq!(state(&index), None);
    let mut again = version(20, "Quarantined");
    again.metadata.uid = Some("another".to_owned());
    assert!(index.apply_written(&again, now));
    assert_eq!((state(&index), index.bad(subject.digest()).count()), (Some(State::Quarantined), 1));
    assert!(index.apply_image(&version(21, "Released"), now), "another uid is another object");
    assert_eq!(index.bad(subject.digest()).count(), 0);
}

/// What must be proven of an index goes by the platforms of all nodes, and by none as long as some may be unknown.
#[test]
fn the_platforms_of_nodes_are_known_once_all_nodes_are() {
    let policy: api::QuarantinePolicy = serde_json::from_value(serde_json::json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": "p" },
        "spec": { "require": { "endOfLife": {} } },
    }))
    .unwrap();
    let evidence: api::Evidence =
        serde_json::from_value(serde_json::json!({ "lookedAt": "2026-01-01T00:00:00Z", "lookedInside": ["linux/amd64"] })).unwrap();
    let does = |index: &Index| {
        let rules = index.rules();
        rules.policies["p"].proof.judge(&evidence, &crate::proof::NoExceptions, Timestamp::UNIX_EPOCH).is_ok()
    };
    let (amd64, arm64) = (platforms::labels("linux/amd64"), platforms::labels("linux/arm64"));
    let mut index = Index::default();
    index.apply_policy(&policy);
    assert!(!index.apply_node("one", &amd64) && !does(&index), "there may be others");
    assert!(index.know_nodes(true) && does(&index));
    assert!(!index.apply_node("one", &amd64) && !index.apply_node("two", &amd64), "of the same platform");
    assert!(index.apply_node("three", &arm64) && !does(&index));
    index.apply_policy(&policy);
    assert!(!does(&index), "a policy that comes later goes by the same");
    assert!(index.delete_node("three") && does(&index));
    assert!(index.apply_node("two", &BTreeMap::new()) && !does(&index), "it does not say its platform");
    assert!(index.apply_node("two", &amd64) && does(&index));
    assert!(index.know_nodes(false) && !does(&index));
    assert_eq!(index.node_names().len(), 2);
}
