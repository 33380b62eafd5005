use proptest::prelude::*;

use super::*;
use crate::image::Reference;

fn matches(pattern: &str, name: &str) -> bool {
    Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).matches(name)
}

fn path_matches(pattern: &str, name: &str) -> bool {
    Pattern::parse_path(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).matches(name)
}

fn refusal(pattern: &str) -> PatternError {
    Pattern::parse(pattern).expect_err(pattern)
}

#[test]
fn a_pattern_matches_the_whole_name() {
    assert!(matches("registry.corp/team/app", "registry.corp/team/app"));
    for other in ["registry.corp/team/app2", "registry.corp/team", "registry.corp/team/app/x", "xregistry.corp/team/app", ""] {
        assert!(!matches("registry.corp/team/app", other), "{other}");
    }
}

#[test]
fn one_star_stays_within_a_part() {
    assert!(matches("registry.corp/*", "registry.corp/app"));
    assert!(!matches("registry.corp/*", "registry.corp/team/app"));
    assert!(matches("registry.corp/team-*/app", "registry.corp/team-a/app"));
    assert!(!matches("registry.corp/team-*/app", "registry.corp/team-a/b/app"));
    assert!(matches("registry.corp/a*b*c", "registry.corp/aXbYbZc"));
    assert!(!matches("registry.corp/a*b*c", "registry.corp/acb"));
    assert!(matches("*.corp/app", "a.b.corp/app"));
    assert!(!matches("*.corp/app", "corp/app"));
    assert!(!matches("*.corp/app", "registry.corp:5000/app"));
    assert!(matches("*/app", "registry:5000/app"));
    assert!(matches("registry.corp:*/app", "registry.corp:5000/app"));
}

#[test]
fn two_stars_are_any_number_of_parts_and_at_the_end_one_or_more() {
    assert!(matches("docker.io/library/**", "docker.io/library/nginx"));
    assert!(matches("docker.io/library/**", "docker.io/library/a/b/c"));
    assert!(!matches("docker.io/library/**", "docker.io/library"));
    assert!(!matches("docker.io/library/**", "docker.io/library2/nginx"));
    assert!(matches("registry.corp/**/app", "registry.corp/app"));
    assert!(matches("registry.corp/**/app", "registry.corp/a/b/app"));
    assert!(!matches("registry.corp/**/app", "registry.corp/a/b/apple"));
    assert!(matches("registry.corp/**/b/**", "registry.corp/b/b"));
    assert!(!matches("registry.corp/**/b/**", "registry.corp/a/b"));
    assert!(matches("**/nginx", "docker.io/library/nginx"));
    for name in ["docker.io/library/nginx", "[fd00::1]:5000/x", "localhost/a/b/c"] {
        assert!(matches("**", name), "{name}");
    }
    assert!(matches("**/**", "docker.io/library/nginx"));
}

#[test]
fn a_path_pattern_speaks_of_repositories() {
    assert!(path_matches("team/**", "team/app"));
    assert!(!path_matches("team/**", "team"));
    assert!(path_matches("*", "app"));
    assert!(!path_matches("*", "team/app"));
    assert!(path_matches("**", "app"));
    assert!(path_matches("team-*/**", "team-a/b/c"));
    assert_eq!(Pattern::parse_path("registry:5000/team"), Err(PatternError::Tag("5000".into())));
    assert_eq!(Pattern::parse_path("[fd00::1]/team"), Err(PatternError::Character("[".into())));
    assert_eq!(Pattern::parse_path(""), Err(PatternError::Empty));
    assert_eq!(Pattern::parse_path("Team"), Err(PatternError::UpperCase));
}

#[test]
fn a_pattern_names_its_host() {
    assert_eq!(refusal("nginx"), PatternError::NoHost("docker.io/library/nginx".into()));
    assert_eq!(refusal("nginx-*"), PatternError::NoHost("docker.io/library/nginx-*".into()));
    assert_eq!(refusal("library/**"), PatternError::NoHost("docker.io/library/**".into()));
    assert_eq!(refusal("reg*/x"), PatternError::NoHost("docker.io/reg*/x".into()));
    assert_eq!(refusal("library/**").to_string(), "the pattern names no registry: write docker.io/library/**");
    assert_eq!(refusal("registry.corp"), PatternError::NoRepository("registry.corp".into()));
    assert_eq!(refusal("*"), PatternError::NoRepository("*".into()));
    assert_eq!(refusal("*.corp"), PatternError::NoRepository("*.corp".into()));
    assert_eq!(refusal("docker.io/nginx"), PatternError::DockerHub("docker.io/library/nginx".into()));
    assert_eq!(refusal("docker.io/*"), PatternError::DockerHub("docker.io/library/*".into()));
    for good in ["localhost/**", "localhost:5000/**", "registry:5000/**", "[fd00::1]/**", "[fd00::1]:5000/a", "10.0.0.5/**", "docker.io/**"]
    {
        assert!(Pattern::parse(good).is_ok(), "{good}");
    }
}

#[test]
fn a_pattern_that_no_canonical_name_matches_is_refused() {
    assert_eq!(refusal("registry.corp:443/**"), PatternError::Host("registry.corp".into()));
    assert_eq!(refusal("*.corp:443/**"), PatternError::Host("*.corp".into()));
    assert!(matches!(refusal("index.docker.io/**"), PatternError::RefusedHost(HostError::DockerHub(_))));
    assert!(matches!(refusal("registry.corp:05/**"), PatternError::RefusedHost(HostError::Port(_))));
    assert!(matches!(refusal("127.1/**"), PatternError::RefusedHost(HostError::Ipv4(_))));
    assert!(matches!(refusal("registry.corp./**"), PatternError::RefusedHost(HostError::TrailingDot(_))));
    assert!(matches!(refusal("a_b.corp/**"), PatternError::RefusedHost(HostError::Underscore(_))));
    assert_eq!(refusal("registry.corp/../x"), PatternError::Component("..".into()));
    assert_eq!(refusal("registry.corp/team-"), PatternError::Component("team-".into()));
    assert_eq!(refusal("registry.corp/[a]"), PatternError::Component("[a]".into()));
    assert_eq!(refusal("registry.corp/[a]*"), PatternError::Component("[a]*".into()));
    assert_eq!(refusal("Registry.corp/**"), PatternError::UpperCase);
}

#[test]
fn tags_and_digests_are_not_for_patterns() {
    assert_eq!(refusal("registry.corp/app:1"), PatternError::Tag("1".into()));
    assert_eq!(refusal("registry.corp/**:1"), PatternError::Tag("1".into()));
    assert_eq!(refusal("nginx:1.27"), PatternError::Tag("1.27".into()));
    assert_eq!(refusal("registry.corp:5000"), PatternError::Tag("5000".into()));
    assert_eq!(refusal("registry.corp/app@sha256:aa"), PatternError::Digest);
    assert_eq!(refusal("registry.corp/app:1").to_string(), "a pattern names repositories, not tags: leave out `:1`");
}

#[test]
fn what_is_no_pattern_is_refused() {
    assert_eq!(refusal(""), PatternError::Empty);
    assert_eq!(refusal(&"a".repeat(256)), PatternError::TooLong);
    assert!(Pattern::parse(&format!("r.io/{}", "a".repeat(250))).is_ok());
    for stranger in [" ", "\n", "?", "{", "!", "\\", "%", "\u{455}", "\0", "+", ",", "$"] {
        assert!(matches!(refusal(&format!("registry.corp/a{stranger}")), PatternError::Character(_)), "{stranger:?}");
    }
    for slashes in ["registry.corp/", "/registry.corp/a", "registry.corp//a", "/", "registry.corp/**/"] {
        assert_eq!(refusal(slashes), PatternError::EmptyPart, "{slashes}");
    }
    for stars in ["registry.corp/a**", "registry.corp/***", "**.corp/a", "registry.corp/**a/b"] {
        assert_eq!(refusal(stars), PatternError::Many, "{stars}");
    }
}

/// With backtracking into every star this would take longer than the universe has.
#[test]
fn stars_do_not_multiply() {
    let pattern = Pattern::parse(&format!("r.io/{}b", "*a".repeat(120))).unwrap();
    assert!(!pattern.matches(&format!("r.io/{}", "a".repeat(250))));
    assert!(pattern.matches(&format!("r.io/{}b", "a".repeat(249))));
    let pattern = Pattern::parse(&format!("r.io/{}b", "**/a/".repeat(49))).unwrap();
    assert!(!pattern.matches(&format!("r.io{}", "/a".repeat(125))));
    assert!(pattern.matches(&format!("r.io{}/b", "/a".repeat(124))));
    let pattern = Pattern::parse(&format!("r.io/{}b", "**/*a*a*a/".repeat(24))).unwrap();
    assert!(!pattern.matches(&format!("r.io{}", "/aaaaaaaaa".repeat(25))));
    assert!(pattern.matches(&format!("r.io{}/b", "/aaaaaaaaa".repeat(25))));
}

/// As the table in the module's documentation has it, one line a rule, in exponential time.
fn naive(pattern: &[&str], name: &[&str]) -> bool {
    fn part(glob: &[u8], text: &[u8]) -> bool {
        match (glob.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => part(rest, text) || text.split_first().is_some_and(|(_, shorter)| part(glob, shorter)),
            (Some((one, rest)), Some((other, shorter))) => one == other && part(rest, shorter),
            _ => false,
        }
    }
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((&"**", [])), _) => !name.is_empty(),
        (Some((&"**", rest)), _) => naive(rest, name) || name.split_first().is_some_and(|(_, shorter)| naive(pattern, shorter)),
        (Some((glob, rest)), Some((first, shorter))) => part(glob.as_bytes(), first.as_bytes()) && naive(rest, shorter),
        _ => false,
    }
}

/// Short parts of two letters, so that patterns and names often meet.
fn part() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["a", "b", "ab", "ba", "aab", "a-b"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_pattern_matches_what_the_rules_say(
        pattern in proptest::collection::vec(prop_oneof![
            4 => part(),
            4 => proptest::sample::select(vec!["**", "*", "a*", "*b", "a*b", "*a*", "*a*b*"]),
        ], 1..6),
        names in proptest::collection::vec(proptest::collection::vec(part(), 1..6), 8),
    ) {
        let parsed = Pattern::parse_path(&pattern.join("/")).unwrap();
        for name in names {
            prop_assert_eq!(parsed.matches(&name.join("/")), naive(&pattern, &name), "{:?} {:?}", pattern, name);
        }
    }

    #[test]
    fn any_text_is_a_pattern_or_refused(text in ".{0,60}", like in "[a-zA-Z.:/*@\\[\\]_-]{0,40}", name in ".{0,40}") {
        for text in [text, like] {
            for parsed in [Pattern::parse(&text), Pattern::parse_path(&text)].into_iter().flatten() {
                let _ = parsed.matches(&name);
            }
        }
    }

    #[test]
    fn a_canonical_name_is_a_pattern_for_itself(text in "[a-z]{1,4}\\.[a-z]{1,4}(:[1-9][0-9]{0,3})?(/[a-z]{1,4}([._-][a-z]{1,3})?){1,3}") {
        let reference = Reference::parse(&text).unwrap();
        let pattern = Pattern::parse(reference.name()).unwrap();
        prop_assert!(pattern.matches(reference.name()));
        let longer = [reference.name(), "/x"].concat();
        prop_assert!(!pattern.matches(&longer));
    }
}
