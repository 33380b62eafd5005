use super::*;
use crate::api::{Decision, DecisionState, ImageStatusSpec};
use crate::facts::Child;
use crate::image::Digest;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn object() -> ImageStatus {
    let subject = format!("registry.corp/team/app@sha256:{}", "a".repeat(64));
    ImageStatus::new("x", ImageStatusSpec { subject, quarantine: None })
}

fn seen(state: State, second: i64, explicit: bool) -> Observation {
    Observation {
        facts: Facts {
            state,
            since: at(second),
            by: "registry".into(),
            reason: "because".into(),
            details: String::new(),
            provider: Provider::AzureContainerRegistry,
            observed_at: at(second),
            manifest: Manifest::default(),
        },
        weight: if explicit { Weight::Explicit } else { Weight::Seen },
    }
}

fn apply(object: &mut ImageStatus, observation: &Observation) -> bool {
    match merge(object, observation, at(1_000)) {
        Merged::Changed(status) => {
            object.status = Some(*status);
            true
        }
        Merged::Unchanged | Merged::Full => false,
    }
}

fn states(object: &ImageStatus) -> Vec<(u64, State)> {
    object.status.iter().flat_map(|status| &status.history).map(|transition| (transition.number, transition.state)).collect()
}

#[test]
fn a_transition_is_numbered_only_when_the_state_changes() {
    let mut image = object();
    assert!(apply(&mut image, &seen(State::Quarantined, 1, false)));
    assert!(!apply(&mut image, &seen(State::Quarantined, 2, false)), "the same again is not written");
    assert!(apply(&mut image, &seen(State::Released, 3, true)));
    assert_eq!(states(&image), [(1, State::Quarantined), (2, State::Released)]);
    assert_eq!(image.status.as_ref().and_then(|status| status.since), Some(at(3)));
}

#[test]
fn an_older_observation_changes_nothing() {
    let mut image = object();
    apply(&mut image, &seen(State::Released, 5, true));
    assert!(!apply(&mut image, &seen(State::Quarantined, 4, true)));
    assert_eq!(states(&image), [(1, State::Released)]);
}

#[test]
fn bad_is_cleared_only_by_an_explicit_release() {
    for bad in [State::Quarantined, State::Failed] {
        for good in [State::Released, State::Unmanaged, State::Pending] {
            let mut image = object();
            apply(&mut image, &seen(bad, 1, false));
            assert!(!apply(&mut image, &seen(good, 2, false)), "{bad} -> {good} must be explicit");
            assert!(apply(&mut image, &seen(good, 3, true)));
        }
    }
}

#[test]
fn a_flag_that_nobody_keeps_any_more_releases_nothing() {
    let mut image = object();
    let mut kept = seen(State::Quarantined, 1, false);
    kept.facts.provider = Provider::Managed;
    apply(&mut image, &kept);
    let mut nobody = seen(State::Unmanaged, 2, false);
    nobody.facts.provider = Provider::None;
    assert!(!apply(&mut image, &nobody));
    assert_eq!(states(&image), [(1, State::Quarantined)]);
}

#[test]
fn what_is_not_emitted_is_never_forgotten() {
    let mut image = object();
    let states = [State::Quarantined, State::Released];
    let mut applied = 0;
    for step in 0..100 {
        applied += i64::from(apply(&mut image, &seen(states[usize::try_from(step % 2).unwrap()], step, true)));
    }
    assert_eq!(applied, i64::try_from(MAX_HISTORY).unwrap(), "the next one waits for the audit lines of the others");
    assert_eq!(merge(&image, &seen(State::Quarantined, 200, true), at(1_000)), Merged::Full);
    if let Some(status) = &mut image.status {
        status.emitted_through = 19;
    }
    assert!(apply(&mut image, &seen(State::Failed, 201, true)));
    let written = image.status.as_ref().unwrap();
    assert_eq!(written.history.last().map(|last| last.number), Some(21));
    assert!(written.history.iter().any(|transition| transition.number == 20), "number 20 is not out yet");
    let numbers: Vec<_> = written.history.iter().map(|transition| transition.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no gaps: {numbers:?}");
}

#[test]
fn the_object_stays_within_its_bytes() {
    let mut image = object();
    for step in 0..200 {
        let state = if step % 2 == 0 { State::Quarantined } else { State::Failed };
        let mut observation = seen(state, step, true);
        observation.facts.reason = "r".repeat(500);
        observation.facts.by = "b".repeat(500);
        observation.facts.details = "d".repeat(2_000);
        observation.facts.manifest.children =
            (0..40).map(|n| crate::facts::Child { digest: crate::image::Digest::of(&[n]), platform: format!("linux/arch{n}") }).collect();
        assert!(apply(&mut image, &observation), "step {step} was not applied");
        let status = image.status.as_mut().unwrap();
        assert!(!status.history.is_empty());
        status.emitted_through = status.history.last().unwrap().number;
        let bytes = serde_json::to_vec(&image).unwrap().len();
        assert!(bytes + 900 <= MAX_OBJECT_BYTES + 64, "{bytes} bytes at step {step}");
    }
}

#[test]
fn a_decision_counts_once_for_its_generation_and_never_loses_to_a_clock() {
    let mut image = object();
    apply(&mut image, &seen(State::Quarantined, 50, false));
    image.metadata.generation = Some(2);
    image.spec.quarantine =
        Some(Decision { state: DecisionState::Released, by: "ann".into(), reason: "scanned".into(), details: None, expects: None });
    let mut decision = decided(&image, at(10)).expect("not dealt with yet");
    assert_eq!(decision.facts.observed_at, at(50), "a clock that is behind must not lose the decision");
    decision.facts.provider = Provider::AzureContainerRegistry;
    assert!(apply(&mut image, &decision));
    let generation = image.clone();
    assert!(settle_generation(&generation, image.status.as_mut().unwrap()));
    assert_eq!(decided(&image, at(60)), None);
    assert_eq!(states(&image), [(1, State::Quarantined), (2, State::Released)]);
    assert_eq!(image.status.unwrap().by, "ann");
}

#[test]
fn the_condition_can_be_waited_for() {
    let mut image = object();
    apply(&mut image, &seen(State::Quarantined, 1, false));
    let released = |image: &ImageStatus| image.status.as_ref().unwrap().conditions[0].status.clone();
    assert_eq!(released(&image), "False");
    apply(&mut image, &seen(State::Released, 2, true));
    assert_eq!(released(&image), "True");
}

#[test]
fn of_an_index_that_is_too_large_it_is_written_that_more_was_there() {
    let mut image = object();
    let child = |at: usize| Child { digest: Digest::of(&at.to_le_bytes()), platform: "linux/amd64".into() };
    let mut index = seen(State::Released, 1, true);
    index.facts.manifest.children = (0..MAX_CHILDREN).map(child).collect();
    assert!(apply(&mut image, &index));
    assert!(!image.status.as_ref().unwrap().more_children, "all of them are listed");
    index.facts.manifest.children.push(child(MAX_CHILDREN));
    assert!(apply(&mut image, &index));
    let status = image.status.as_ref().unwrap();
    assert!(status.more_children && status.children.len() == MAX_CHILDREN, "{status:?}");
    let read = crate::index::Known::read(&image, at(2)).unwrap().1.facts.manifest.clone();
    assert!(read.cut && read.children.len() == MAX_CHILDREN);

    // What does not fit into the object's bytes is the same; and the next look, which sees all of it, writes nothing new.
    let mut image = object();
    image.metadata.annotations = Some([("filler".to_owned(), "x".repeat(1_500))].into());
    index.facts.manifest.children.truncate(MAX_CHILDREN);
    assert!(apply(&mut image, &index));
    let status = image.status.as_ref().unwrap();
    assert!(status.more_children && status.children.len() < MAX_CHILDREN, "{status:?}");
    index.facts.observed_at = at(9);
    assert!(!apply(&mut image, &index), "{:?}", image.status);
}

/// What a keeper without a record says of an image.
fn first(state: State, second: i64) -> Observation {
    let mut seen = seen(state, second, false);
    seen.facts.provider = Provider::Managed;
    Observation { weight: Weight::First, ..seen }
}

/// A replica that has not read the object yet looks the image up as if it were new.
#[test]
fn a_first_look_undoes_no_release() {
    let mut image = object();
    apply(&mut image, &first(State::Quarantined, 1));
    image.spec.quarantine =
        Some(Decision { state: DecisionState::Released, by: "jane".into(), reason: "scanned".into(), details: None, expects: None });
    let release = decided(&image, at(2)).unwrap();
    assert!(apply(&mut image, &release));
    let mut again = first(State::Quarantined, 3);
    assert!(!apply(&mut image, &again));
    again.facts.manifest.config = Some(Digest::of(b"config"));
    assert!(apply(&mut image, &again), "but what is inside is news");
    let status = image.status.as_ref().unwrap();
    assert_eq!((status.state, status.by.as_str(), status.config.is_some()), (State::Released, "jane", true));
    assert_eq!(states(&image), [(1, State::Quarantined), (2, State::Released)]);
}

#[test]
fn a_flag_that_is_kept_again_is_as_it_was_left() {
    let nobody = |second| {
        let mut seen = seen(State::Unmanaged, second, false);
        seen.facts.provider = Provider::None;
        seen
    };
    // Adopted once, and nobody decided.
    let mut adopted = object();
    apply(&mut adopted, &first(State::Released, 1));
    assert!(apply(&mut adopted, &nobody(2)));
    assert!(apply(&mut adopted, &first(State::Quarantined, 3)));
    assert_eq!(states(&adopted), [(1, State::Released), (2, State::Unmanaged), (3, State::Released)]);
    // Decided while nobody kept it.
    let mut failed = object();
    apply(&mut failed, &nobody(1));
    failed.spec.quarantine =
        Some(Decision { state: DecisionState::Failed, by: "jane".into(), reason: "a worm".into(), details: None, expects: None });
    assert!(apply(&mut failed, &first(State::Released, 2)));
    let last = failed.status.as_ref().unwrap().history.last().unwrap().clone();
    assert_eq!((last.state, last.by.as_str(), last.reason.as_str()), (State::Failed, "jane", "a worm"));
    // Never kept before: new.
    let mut unknown = object();
    apply(&mut unknown, &nobody(1));
    assert!(apply(&mut unknown, &first(State::Quarantined, 2)));
    assert_eq!(states(&unknown), [(1, State::Unmanaged), (2, State::Quarantined)]);
}

#[test]
fn a_clock_that_is_ahead_does_not_outweigh_a_bad_finding() {
    let mut image = object();
    apply(&mut image, &seen(State::Released, 2_000, true));
    let bad = seen(State::Failed, 1_000, true);
    let Merged::Changed(status) = merge(&image, &bad, at(1_001)) else { panic!("a release from the future hides nothing bad") };
    assert_eq!((status.state, status.observed_at), (State::Failed, Some(at(2_000))));
    assert_eq!(merge(&image, &seen(State::Unmanaged, 1_000, true), at(1_001)), Merged::Unchanged);
    assert_eq!(merge(&image, &bad, at(2_001)), Merged::Unchanged, "by then the release is simply newer");
}
