//! What is denied by digest.

use super::*;

/// An emergency stop of what has this content.
fn stop(content: &[u8]) -> Vec<DenyRule> {
    vec![DenyRule { image: None, digest: Some(Digest::of(content).to_string()), reason: "stop".into() }]
}

/// The emergency stop is about what is inside. What is good from a time when nobody looked inside waits until somebody did.
#[test]
fn an_outage_opens_nothing_that_nobody_has_looked_into() {
    let policy = policy(|spec| {
        spec.deny = stop(b"inside");
        spec.when_unknown.registry_unavailable = Allowance::Allow;
    });
    let mut silent = sight(Outcome::Unavailable(outage()));
    silent.last = Some((Arc::new(facts(State::Released)), now()));
    assert!(matches!(settled(&policy, &silent), Settled::Later(Why::Busy(Busy { cause: BusyCause::Unread, .. }), _)));
    let mut read = facts(State::Released);
    read.manifest.config = Some(Digest::of(b"config"));
    silent.last = Some((Arc::new(read), now()));
    assert_eq!(settled(&policy, &silent), Settled::Admit(Basis::LastKnownGood));
}

/// Level Warn admits what is not released; it does not admit what nobody could look at yet, where an emergency stop may be about it.
#[test]
fn a_denied_image_does_not_hide_behind_a_warning() {
    let with = |deny: bool| {
        policy(|spec| {
            spec.require.released = Level::Warn;
            if deny {
                spec.deny = stop(b"evil");
            }
        })
    };
    let busy = || Outcome::Busy(Busy { cause: BusyCause::Deadline, retry_after: Duration::from_secs(1) });
    for outcome in [busy(), Outcome::Pending("slow".into()), Outcome::Unavailable(outage())] {
        let unknown = Sight { subject: None, certain: false, ..sight(outcome.clone()) };
        assert!(matches!(settled(&with(true), &unknown), Settled::Later(..)), "{outcome:?}");
        assert!(matches!(settled(&with(false), &unknown), Settled::Admit(_)), "{outcome:?}");
        let mut inside = facts(State::Quarantined);
        inside.manifest.config = Some(Digest::of(b"config"));
        let known = Sight { last: Some((Arc::new(inside), now())), ..sight(outcome.clone()) };
        assert!(matches!(settled(&with(true), &known), Settled::Admit(_)), "{outcome:?}");
    }
}

/// Whoever does not have to be released may still be denied by digest: a tag that has moved since the last look may stand for that one by now.
#[test]
fn what_a_tag_stood_for_opens_nothing_that_may_be_denied() {
    let ends = [
        Outcome::Busy(Busy::UNANSWERED),
        Outcome::Pending("slow".into()),
        Outcome::Unavailable(outage()),
        Outcome::Unauthorized("401".into()),
    ];
    for level in [Level::Off, Level::Warn, Level::Deny] {
        let policy = policy(|spec| {
            spec.require.released = level;
            spec.when_unknown.last_known_good_for = ShortDuration::from_secs(0);
            spec.deny = stop(b"evil");
        });
        for state in [State::Quarantined, State::Released, State::Unmanaged, State::Failed] {
            for end in &ends {
                let mut before = facts(state);
                before.manifest.config = Some(Digest::of(b"config"));
                let moved = Sight { certain: false, last: Some((Arc::new(before), now())), ..sight(end.clone()) };
                let settled = Opinion::of(&case(&policy, &tagged(), &[]), &moved).settled;
                assert!(!matches!(settled, Settled::Admit(_)), "{level:?} {state:?} {end:?}: {settled:?}");
            }
        }
    }
}

/// Not even where it was just answered: what is inside was not read.
#[test]
fn what_is_denied_by_digest_is_looked_for_inside_whoever_answered() {
    for (level, state) in [(Level::Deny, State::Released), (Level::Warn, State::Released), (Level::Off, State::Quarantined)] {
        let policy = policy(|spec| {
            spec.require.released = level;
            spec.deny = stop(b"inside");
        });
        let settled = settled(&policy, &sight(Outcome::Found(facts(state))));
        assert_eq!(settled, Settled::Later(Why::Busy(Busy::UNREAD), Busy::UNREAD.retry_after), "{level:?} {state:?}");
    }
}

/// A waiver is for a release and lifts no `deny`; the processor sees what nobody has looked into, but not what nobody has identified.
#[test]
fn neither_waiver_nor_processor_passes_what_may_be_denied() {
    let policy = policy(|spec| {
        spec.when_unknown.pending = Allowance::Allow;
        spec.deny = stop(b"inside");
    });
    let waiver = Waiver::try_from(&crate::api::Waiver::new(
        "w",
        WaiverSpec {
            images: Vec::new(),
            requirements: vec![Requirement::Released],
            vulnerabilities: Vec::new(),
            digests: vec![subject().digest().to_string()],
            namespaces: vec!["team".into()],
            reason: "r".into(),
            by: "ann".into(),
            expires: now() + jiff::SignedDuration::from_secs(60),
        },
    ))
    .unwrap();
    let unread = sight(Outcome::Found(facts(State::Quarantined)));
    let image = tagged();
    let waived = Opinion::of(&case(&policy, &image, &[&waiver]), &unread).settled;
    assert_eq!(waived, Settled::Later(Why::Busy(Busy::UNREAD), Busy::UNREAD.retry_after));
    let processor = Sight { processor: true, ..unread };
    assert_eq!(Opinion::of(&case(&policy, &image, &[]), &processor).settled, Settled::Admit(Basis::Processor));
    let last = Some((Arc::new(facts(State::Quarantined)), now()));
    let moved = Sight { processor: true, certain: false, last, ..sight(Outcome::Busy(Busy::UNANSWERED)) };
    let settled = Opinion::of(&case(&policy, &image, &[]), &moved).settled;
    assert_eq!(settled, Settled::Later(Why::Busy(Busy::UNANSWERED), Busy::UNANSWERED.retry_after));
}

/// Where nothing but a digest is denied, and what is inside is known, an outage leaves nothing open.
#[test]
fn what_is_known_not_to_be_denied_starts_in_an_outage() {
    for level in [Level::Off, Level::Warn] {
        let policy = policy(|spec| {
            spec.require.released = level;
            spec.when_unknown.last_known_good_for = ShortDuration::from_secs(0);
            spec.deny = stop(b"evil");
        });
        for state in [State::Released, State::Quarantined] {
            let mut read = facts(state);
            read.manifest.config = Some(Digest::of(b"config"));
            let known = Sight { last: Some((Arc::new(read), now())), ..sight(Outcome::Unavailable(outage())) };
            assert!(matches!(settled(&policy, &known), Settled::Admit(_)), "{level:?} {state:?}");
        }
    }
}
