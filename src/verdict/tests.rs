mod denied;

use super::*;
use crate::{
    api::{DenyRule, QuarantinePolicy, QuarantinePolicySpec, ShortDuration, WaiverSpec, WhenUnknown},
    facts::{Block, BusyCause, Manifest, Outage, OutageKind},
    image::Digest,
};

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn policy(change: impl FnOnce(&mut QuarantinePolicySpec)) -> Policy {
    let mut spec = QuarantinePolicySpec::default();
    change(&mut spec);
    Policy::try_from(&QuarantinePolicy::new("p", spec)).unwrap()
}

fn facts(state: State) -> Facts {
    Facts {
        state,
        since: now(),
        by: "someone".into(),
        reason: "because".into(),
        details: String::new(),
        provider: crate::api::Provider::Managed,
        observed_at: now(),
        manifest: Manifest::default(),
    }
}

fn tagged() -> Reference {
    Reference::parse("registry.corp/team/app:1").unwrap()
}

fn subject() -> Subject {
    tagged().with_digest(Digest::of(b"app"))
}

fn sight(outcome: Outcome<Facts>) -> Sight {
    Sight { subject: Some(subject()), certain: true, outcome: outcome.map(Arc::new), last: None, ..Sight::blind(None, true, false) }
}

fn case<'p, 'a>(policy: &'p Policy, image: &'a Reference, waivers: &'a [&'a Waiver]) -> Case<'p, 'a> {
    let (unqualified, demand, contested, told) = (false, Demand::Nothing, false, true);
    Case { policy, waivers, namespace: "team", image, unqualified, demand, now: now(), undenied: false, proven: None, contested, told }
}

fn settled(policy: &Policy, sight: &Sight) -> Settled {
    Opinion::of(&case(policy, &tagged(), &[]), sight).settled
}

fn outage() -> Outage {
    Outage { kind: OutageKind::Connect, message: "no connection".into() }
}

fn every_outcome() -> Vec<Outcome<Facts>> {
    let busy = |cause| Outcome::Busy(Busy { cause, retry_after: Duration::from_secs(1) });
    let mut all = vec![
        Outcome::Found(facts(State::Released)),
        Outcome::Found(facts(State::Unmanaged)),
        Outcome::Found(facts(State::Pending)),
        Outcome::Found(facts(State::Quarantined)),
        Outcome::Found(facts(State::Failed)),
        Outcome::Absent,
        Outcome::Hidden,
        Outcome::Refused,
        Outcome::Blocked(Block { code: "IMAGE_QUARANTINED".into(), message: "The image is quarantined.".into() }),
        Outcome::Misbehaved("another digest".into()),
        Outcome::Pending("slow".into()),
        Outcome::Unavailable(outage()),
        Outcome::Unauthorized("401".into()),
    ];
    all.extend(every_cause().map(busy));
    all
}

/// Does not compile once there is another.
fn every_cause() -> impl Iterator<Item = BusyCause> {
    let after = |cause: &BusyCause| match cause {
        BusyCause::Deadline => Some(BusyCause::Throttled),
        BusyCause::Throttled => Some(BusyCause::Limit),
        BusyCause::Limit => Some(BusyCause::QueueFull),
        BusyCause::QueueFull => Some(BusyCause::Share),
        BusyCause::Share => Some(BusyCause::Unlisted),
        BusyCause::Unlisted => Some(BusyCause::Credentials),
        BusyCause::Credentials => Some(BusyCause::Unproven),
        BusyCause::Unproven => Some(BusyCause::Unread),
        BusyCause::Unread => None,
    };
    std::iter::successors(Some(BusyCause::Deadline), after)
}

/// What was known before: nothing, good a minute ago, good long ago, that nobody keeps the flag, that nobody knew, bad.
fn every_last() -> Vec<Option<(Facts, Timestamp)>> {
    let ago = |seconds: i64| now() - jiff::SignedDuration::from_secs(seconds);
    vec![
        None,
        Some((facts(State::Released), ago(60))),
        Some((facts(State::Released), ago(7_200))),
        Some((facts(State::Unmanaged), ago(60))),
        Some((facts(State::Pending), ago(60))),
        Some((facts(State::Quarantined), ago(60))),
        Some((facts(State::Failed), ago(7_200))),
    ]
}

/// Every setting of the knobs, and of what becomes of images for which nobody keeps a flag.
fn every_knob() -> Vec<(WhenUnknown, Allowance)> {
    let both = [Allowance::Deny, Allowance::Allow];
    let mut all = Vec::new();
    for pending in both {
        for registry_unavailable in both {
            for unauthorized in both {
                for unmanaged in both {
                    for seconds in [0, 3_600] {
                        let last_known_good_for = ShortDuration::from_secs(seconds);
                        all.push((WhenUnknown { pending, registry_unavailable, unauthorized, last_known_good_for }, unmanaged));
                    }
                }
            }
        }
    }
    all
}

/// The table of the design, written down a second time in other words.
fn expected(seen: &Sight, knobs: &WhenUnknown, unmanaged: Allowance) -> &'static str {
    let opens = |knob: Allowance, basis| if knob == Allowance::Allow { basis } else { "later" };
    let last = seen.last.as_ref().map(|(facts, at)| (facts.state, now().duration_since(*at).as_secs()));
    let bad = last.is_some_and(|(state, _)| matches!(state, State::Quarantined | State::Failed));
    let good = last.is_some_and(|(state, age)| {
        let state = state == State::Released || (state == State::Unmanaged && unmanaged == Allowance::Allow);
        state && knobs.last_known_good_for.as_secs() == 3_600 && age <= 3_600
    });
    let slow = matches!(&seen.outcome, Outcome::Pending(_) | Outcome::Found(_));
    match (&seen.outcome, seen.listed) {
        // Nobody can keep a flag there.
        (_, false) if unmanaged == Allowance::Deny => "refuse",
        (Outcome::Found(facts), _) if facts.state == State::Released => "KnownFacts",
        (Outcome::Found(facts), _) if facts.state == State::Unmanaged && unmanaged == Allowance::Allow => "KnownFacts",
        (Outcome::Found(facts), _) if facts.state != State::Pending => "refuse",
        (Outcome::Absent | Outcome::Hidden | Outcome::Refused | Outcome::Blocked(_) | Outcome::Misbehaved(_), _) => "refuse",
        (Outcome::Unauthorized(_), false) => "refuse",
        _ if bad => "refuse",
        (Outcome::Busy(_), _) | (Outcome::Found(_) | Outcome::Pending(_) | Outcome::Unavailable(_), false) => "later",
        // The author of a tag may move it and be slow about that.
        _ if good && (seen.certain || !slow) => "LastKnownGood",
        (Outcome::Found(_) | Outcome::Pending(_), true) => opens(knobs.pending, "OpenPending"),
        (Outcome::Unavailable(_), true) => opens(knobs.registry_unavailable, "OpenUnavailable"),
        (Outcome::Unauthorized(_), true) => opens(knobs.unauthorized, "OpenUnauthorized"),
    }
}

#[test]
fn every_row_under_every_knob() {
    let mut walked = 0;
    for (knobs, unmanaged) in every_knob() {
        let policy = policy(|spec| {
            spec.require.unmanaged = unmanaged;
            spec.when_unknown = knobs.clone();
        });
        for outcome in every_outcome() {
            for last in every_last() {
                for (listed, certain) in [(false, false), (false, true), (true, false), (true, true)] {
                    let last = last.clone().map(|(facts, at)| (Arc::new(facts), at));
                    let seen = Sight { last, listed, certain, source: Source::Known, ..sight(outcome.clone()) };
                    let got = match settled(&policy, &seen) {
                        Settled::Admit(basis) => basis.as_str(),
                        Settled::Refuse(_) => "refuse",
                        Settled::Later(..) => "later",
                    };
                    assert_eq!(got, expected(&seen, &knobs, unmanaged), "{seen:?} {knobs:?} {unmanaged:?}");
                    walked += 1;
                }
            }
        }
    }
    assert_eq!(walked, 22 * 7 * 4 * 32);
}

#[test]
fn an_admission_that_was_not_judged_says_so() {
    let open = policy(|spec| {
        spec.when_unknown.pending = Allowance::Allow;
        spec.when_unknown.registry_unavailable = Allowance::Allow;
        spec.when_unknown.unauthorized = Allowance::Allow;
    });
    for (outcome, basis) in [
        (Outcome::Pending("slow".into()), Basis::OpenPending),
        (Outcome::Unavailable(outage()), Basis::OpenUnavailable),
        (Outcome::Unauthorized("401".into()), Basis::OpenUnauthorized),
    ] {
        assert_eq!(settled(&open, &sight(outcome)), Settled::Admit(basis));
        assert!(basis.is_open());
    }
}

#[test]
fn a_host_without_a_registry_opens_under_no_knob() {
    let open = policy(|spec| {
        spec.when_unknown.pending = Allowance::Allow;
        spec.when_unknown.registry_unavailable = Allowance::Allow;
        spec.when_unknown.unauthorized = Allowance::Allow;
        spec.require.unmanaged = Allowance::Allow;
    });
    let mut seen = sight(Outcome::Unavailable(outage()));
    seen.listed = false;
    assert!(matches!(settled(&open, &seen), Settled::Later(Why::Busy(Busy { cause: BusyCause::Unlisted, .. }), _)));
    let strict = policy(|_| {});
    assert_eq!(settled(&strict, &seen), Settled::Refuse(Why::Unmanaged { listed: false }), "and is not even asked");
}

#[test]
fn the_emergency_stop_stands_above_everything() {
    let child = Digest::of(b"child");
    let stops = [
        DenyRule { digest: Some(subject().digest().to_string()), image: None, reason: "stop".into() },
        DenyRule { digest: Some(child.to_string()), image: None, reason: "stop".into() },
        DenyRule { image: Some("registry.corp/team/**".into()), digest: None, reason: "stop".into() },
    ];
    for rule in stops {
        let policy = policy(|spec| {
            spec.deny = vec![rule];
            spec.require.released = Level::Off;
            spec.when_unknown.registry_unavailable = Allowance::Allow;
        });
        let mut found = facts(State::Released);
        found.manifest.children = vec![crate::facts::Child { digest: child.clone(), platform: "linux/amd64".into() }];
        let mut seen = sight(Outcome::Found(found.clone()));
        seen.processor = true;
        assert_eq!(settled(&policy, &seen), Settled::Refuse(Why::Denied("stop".into())));
        let mut silent = sight(Outcome::Unavailable(outage()));
        silent.last = Some((Arc::new(found), now()));
        assert_eq!(settled(&policy, &silent), Settled::Refuse(Why::Denied("stop".into())), "also while the registry is down");
    }
}

#[test]
fn the_processor_runs_what_others_may_not() {
    let policy = policy(|_| {});
    for outcome in [
        Outcome::Found(facts(State::Quarantined)),
        Outcome::Found(facts(State::Failed)),
        Outcome::Found(facts(State::Pending)),
        Outcome::Blocked(Block { code: "IMAGE_QUARANTINED".into(), message: String::new() }),
    ] {
        let mut seen = sight(outcome);
        assert!(!matches!(settled(&policy, &seen), Settled::Admit(_)));
        seen.processor = true;
        assert_eq!(settled(&policy, &seen), Settled::Admit(Basis::Processor));
    }
    let mut absent = sight(Outcome::Absent);
    absent.processor = true;
    assert_eq!(settled(&policy, &absent), Settled::Refuse(Why::NotFoundOrNotPermitted));
}

#[test]
fn a_waiver_frees_a_digest_until_its_day() {
    let waiver = |digest: &Digest, expires: Timestamp, namespaces: &[&str]| {
        let spec = WaiverSpec {
            vulnerabilities: Vec::new(),
            requirements: vec![Requirement::Released],
            digests: vec![digest.to_string()],
            images: vec![],
            namespaces: namespaces.iter().map(|&name| name.to_owned()).collect(),
            reason: "r".into(),
            by: "ann".into(),
            expires,
        };
        Waiver::try_from(&crate::api::Waiver::new("w", spec)).unwrap()
    };
    let later = now() + jiff::SignedDuration::from_secs(1);
    let policy = policy(|_| {});
    let image = tagged();
    let with = |waiver: &Waiver| Opinion::of(&case(&policy, &image, &[waiver]), &sight(Outcome::Found(facts(State::Quarantined)))).settled;
    assert_eq!(with(&waiver(subject().digest(), later, &[])), Settled::Admit(Basis::Waiver));
    assert_eq!(with(&waiver(subject().digest(), later, &["team"])), Settled::Admit(Basis::Waiver));
    for wrong in
        [waiver(subject().digest(), now(), &[]), waiver(subject().digest(), later, &["other"]), waiver(&Digest::of(b"other"), later, &[])]
    {
        assert!(matches!(with(&wrong), Settled::Refuse(Why::Held(_))));
    }
}

#[test]
fn an_address_that_no_registry_names_is_refused_by_name() {
    let image = Reference::parse("10.0.0.5:5000/team/app:1").unwrap();
    let open = policy(|spec| spec.require.released = Level::Off);
    let opinion = Opinion::by_name(&case(&open, &image, &[]), false).unwrap();
    assert_eq!(opinion.settled, Settled::Refuse(Why::AddressLiteral));
    assert_eq!(Opinion::by_name(&case(&open, &image, &[]), true).unwrap().settled, Settled::Admit(Basis::NothingRequired));
}

#[test]
fn levels_off_warn_and_deny() {
    let warn = policy(|spec| {
        spec.require.released = Level::Warn;
        spec.require.digest = Level::Warn;
    });
    let opinion = Opinion::of(&case(&warn, &tagged(), &[]), &sight(Outcome::Found(facts(State::Quarantined))));
    assert_eq!(opinion.settled, Settled::Admit(Basis::Registry));
    assert_eq!(opinion.warnings, [Why::NoDigest, Why::Held(Arc::new(facts(State::Quarantined)))]);

    let off = policy(|spec| spec.require.released = Level::Off);
    assert_eq!(Opinion::by_name(&case(&off, &tagged(), &[]), false).unwrap().settled, Settled::Admit(Basis::NothingRequired));

    let digest = policy(|spec| spec.require.digest = Level::Deny);
    assert_eq!(settled(&digest, &sight(Outcome::Found(facts(State::Released)))), Settled::Refuse(Why::NoDigest));
    let pinned = Reference::parse(&subject().to_string()).unwrap();
    let opinion = Opinion::of(&case(&digest, &pinned, &[]), &sight(Outcome::Found(facts(State::Released))));
    assert_eq!(opinion.settled, Settled::Admit(Basis::Registry));
}

/// An author may put a denied image behind so many others that it is not held: then nobody can tell, and the emergency stop stops.
#[test]
fn an_index_of_which_not_all_is_held_does_not_pass_a_denied_digest() {
    let image = tagged();
    let found = |cut| {
        let mut facts = facts(State::Released);
        facts.manifest.cut = cut;
        facts.manifest.config = Some(Digest::of(b"config"));
        sight(Outcome::Found(facts))
    };
    let deny = |image: Option<&str>, digest: Option<Digest>| {
        policy(|spec| {
            let digest = digest.map(|digest| digest.to_string());
            spec.deny = vec![DenyRule { image: image.map(str::to_owned), digest, reason: "bad".into() }];
        })
    };
    let (by_digest, by_name) = (deny(None, Some(Digest::of(b"denied"))), deny(Some("registry.corp/other"), None));
    let opinion = |policy: &Policy, cut| Opinion::of(&case(policy, &image, &[]), &found(cut)).settled;
    assert_eq!(opinion(&by_digest, true), Settled::Refuse(Why::IndexTooLarge));
    assert!(matches!(opinion(&by_digest, false), Settled::Admit(_)));
    assert!(matches!(opinion(&by_name, true), Settled::Admit(_)), "nothing is denied by digest");
}

/// A waiver for one namespace must not send the images of all the others to hosts that their authors chose.
#[test]
fn a_host_that_nobody_lists_is_asked_only_where_a_waiver_might_free_its_image() {
    let waiver = |requirement, namespace: &str, expires| {
        let spec = WaiverSpec {
            vulnerabilities: Vec::new(),
            requirements: vec![requirement],
            digests: vec![subject().digest().to_string()],
            images: vec![],
            namespaces: vec![namespace.to_owned()],
            reason: "r".into(),
            by: "ann".into(),
            expires,
        };
        Waiver::try_from(&crate::api::Waiver::new("w", spec)).unwrap()
    };
    let later = now() + jiff::SignedDuration::from_secs(1);
    let policy = policy(|_| {});
    let image = tagged();
    let by_name = |waivers: &[&Waiver]| Opinion::by_name(&case(&policy, &image, waivers), false).map(|opinion| opinion.settled);
    let refused = Some(Settled::Refuse(Why::Unmanaged { listed: false }));
    assert_eq!(by_name(&[]), refused);
    assert_eq!(by_name(&[&waiver(Requirement::Released, "other", later)]), refused);
    assert_eq!(by_name(&[&waiver(Requirement::Released, "team", now())]), refused);
    assert_eq!(by_name(&[&waiver(Requirement::Digest, "team", later)]), refused);
    assert_eq!(by_name(&[&waiver(Requirement::Released, "team", later)]), None, "its digest must be found out first");
}

/// The registry may block, hide or lose a tag that was waived: what it stood for once waives nothing.
#[test]
fn a_waiver_for_a_digest_does_not_free_a_tag_that_may_stand_for_another() {
    let spec = WaiverSpec {
        vulnerabilities: Vec::new(),
        requirements: vec![Requirement::Released],
        digests: vec![subject().digest().to_string()],
        images: vec![],
        namespaces: vec![],
        reason: "r".into(),
        by: "ann".into(),
        expires: now() + jiff::SignedDuration::from_secs(1),
    };
    let waiver = Waiver::try_from(&crate::api::Waiver::new("w", spec)).unwrap();
    let (policy, image) = (policy(|_| {}), tagged());
    let block = Outcome::Blocked(Block { code: "IMAGE_QUARANTINED".into(), message: "no".into() });
    for outcome in [block, Outcome::Pending("analysing".into()), Outcome::Unavailable(outage())] {
        for certain in [true, false] {
            let sight = Sight { certain, ..sight(outcome.clone()) };
            let settled = Opinion::of(&case(&policy, &image, &[&waiver]), &sight).settled;
            assert_eq!(settled == Settled::Admit(Basis::Waiver), certain, "{outcome:?}: {settled:?}");
        }
    }
}
