//! Years in a moment: no leaf is ever served that somebody does not yet, or no longer, trust.

use super::*;

/// Visits once every `every`, carries out what is due, and asserts at each instant that every leaf which a replica may serve is trusted by every
/// bundle which an API server may hold, when both may be an hour old. Returns how often each step was taken.
fn travel(mut now: Timestamp, until: Timestamp, every: SignedDuration, confirms: bool, mut contents: Contents) -> BTreeMap<String, usize> {
    let mut taken = BTreeMap::new();
    let mut confirmed = Vec::new();
    let mut replaced: Vec<(Timestamp, Contents)> = Vec::new();
    while now < until {
        for _ in 0..STEPS {
            let step = step(&contents, &confirmed, now);
            if step == Step::Keep {
                break;
            }
            *taken.entry(format!("{step:?}")).or_default() += 1;
            let next = after(step, &contents, now);
            replaced.push((now, std::mem::replace(&mut contents, next)));
        }
        assert_eq!(step(&contents, &confirmed, now), Step::Keep);
        if confirms {
            confirmed = contents.bundle();
        }
        replaced.retain(|(at, _)| *at > now - SignedDuration::from_hours(1));
        let seen = || replaced.iter().map(|(_, old)| old).chain([&contents]);
        for serving in seen() {
            for trusting in seen() {
                assert!(served(serving, &trusting.bundle(), now), "at {now}: {serving:?} is not trusted by {trusting:?}");
            }
        }
        now += every;
    }
    taken
}

#[test]
fn ten_years_pass_without_a_gap() {
    let taken = travel(*START, *START + DAY * 3650, DAY, true, created(*START));
    // Every 488 days a rotation, with a renewal every 60 in between: 7 * 8, and 3 after the last.
    let expected = [("AnnounceAuthority", 7), ("PromoteAuthority", 7), ("RenewLeaf", 59)];
    assert_eq!(taken, expected.map(|(step, times)| (step.to_owned(), times)).into());
}

#[test]
fn ten_years_pass_without_a_gap_when_nobody_confirms() {
    let taken = travel(*START, *START + DAY * 3650, DAY, false, created(*START));
    assert_eq!((taken["AnnounceAuthority"], taken["PromoteAuthority"], taken.get("Create")), (7, 7, None));
}

#[test]
fn a_rotation_watched_by_the_minute_has_no_gap() {
    let begin = *START + DAY * 486;
    let contents = after(Step::RenewLeaf, &created(*START), begin);
    let taken = travel(begin, begin + DAY * 2, SignedDuration::from_mins(7), true, contents);
    assert_eq!((taken["AnnounceAuthority"], taken["PromoteAuthority"]), (1, 1));
}

#[test]
fn whenever_it_comes_back_one_turn_makes_it_whole() {
    for days in (0..900).step_by(15) {
        let (now, mut contents, mut taken) = (*START + DAY * days, created(*START), Vec::new());
        for _ in 0..STEPS {
            let step = step(&contents, &[], now);
            contents = after(step, &contents, now);
            taken.push(step);
        }
        assert_eq!(taken.last(), Some(&Step::Keep));
        assert_eq!(taken.contains(&Step::Create), days >= 730, "after {days} days: {taken:?}");
        assert!(served(&contents, &contents.bundle(), now), "after {days} days");
    }
}
