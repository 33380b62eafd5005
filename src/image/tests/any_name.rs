//! Names of any kind, by chance.

use super::*;

/// Texts that look like image names, right and wrong.
fn names() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        4 => "[a-zA-Z0-9]{1,6}(\\.[a-zA-Z0-9-]{1,5}){0,3}(:[0-9]{1,5})?/",
        2 => proptest::sample::select(vec![
            "", "docker.io/", "index.docker.io/", "DOCKER.IO/", "localhost/", "LOCALHOST:5000/", "registry:443/", "a_b.c/", "127.1/",
            "10.0.0.5:443/", "[fd00::5]/", "[::1]:5000/", "registry-1.docker.io/", "r.corp:0443/", "r.corp./", "0x7f.1/",
        ]).prop_map(str::to_owned),
        1 => "\\[[0-9a-fA-F:]{0,12}\\](:[0-9]{1,3})?/",
    ];
    let path = "([a-z0-9]{1,4}([._-]{1,2}[a-z0-9]{1,3})?/){0,3}[a-zA-Z0-9._-]{0,8}";
    let tag = "(:[a-zA-Z0-9_.-]{0,10})?";
    let digest = prop_oneof![
        3 => Just(String::new()),
        2 => "@sha256:[0-9a-f]{64}",
        1 => "@sha512:[0-9a-f]{128}",
        1 => "@sha(256|384|512):[0-9a-fA-F]{60,130}",
    ];
    (host, path, tag, digest).prop_map(|(host, path, tag, digest)| [host, path, tag, digest].concat())
}

fn is_canonical_host(registry: &str) -> bool {
    !registry.bytes().any(|byte| byte.is_ascii_uppercase()) && !registry.ends_with(":443") && !registry.ends_with('.')
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_canonical_name_is_a_fixed_point(text in names()) {
        if let Ok(reference) = Reference::parse(&text) {
            let shown = reference.to_string();
            prop_assert_eq!(Reference::parse(&shown), Ok(reference.clone()));
            // What the node reads of the canonical name is what stands in it.
            let again = read(&shown).unwrap();
            prop_assert_eq!(again.domain, reference.registry());
            prop_assert_eq!(&again.path, reference.repository());
            prop_assert!(is_canonical_host(reference.registry()));
            prop_assert!(reference.name().len() <= NAME_LIMIT);
            if let Some(subject) = reference.subject() {
                prop_assert_eq!(subject.to_string().parse::<Subject>(), Ok(subject.clone()));
                prop_assert_eq!(subject.to_string(), shown);
                prop_assert!(subject.object_name().len() <= 63);
            }
        }
    }

    #[test]
    fn the_canonical_name_is_the_one_that_the_node_reads(text in names()) {
        if let Ok(reference) = Reference::parse(&text) {
            let reading = read(&text).unwrap();
            prop_assert_eq!(reference.repository(), &reading.path);
            prop_assert_eq!(reference.digest().map(ToString::to_string), reading.digest.map(str::to_owned));
            prop_assert_eq!(reference.tag(), reading.tag.filter(|_| reading.digest.is_none()));
            let folded = reading.domain.to_ascii_lowercase();
            prop_assert_eq!(reference.registry(), folded.strip_suffix(":443").unwrap_or(&folded));
        }
    }

    #[test]
    fn the_case_of_the_host_never_changes_the_name_that_is_judged(text in names(), mask in any::<u64>()) {
        let Some((host, rest)) = text.split_once('/') else { return Ok(()) };
        let turn = |(at, letter): (usize, char)| if mask >> (at % 64) & 1 == 1 { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
        let turned: String = host.chars().enumerate().map(turn).collect();
        let other = Reference::parse(&format!("{turned}/{rest}"));
        // Where one of the two is no host, they are two images to a node as well; Docker Hub by its own name is not in this game.
        if let (Ok(one), Ok(other)) = (Reference::parse(&text), other)
            && (host.contains(['.', ':']) || turned == host)
        {
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn a_host_in_another_case_is_never_taken_for_docker_hub(text in names()) {
        if let Ok(reading) = read(&text) && reading.domain != "docker.io" && let Ok(reference) = Reference::parse(&text) {
            prop_assert_ne!(reference.registry(), "docker.io");
        }
    }

    #[test]
    fn any_text_is_read_or_refused_in_a_short_sentence(text in ".{0,80}") {
        if let Err(error) = Reference::parse(&text) {
            let sentence = error.to_string();
            prop_assert!(sentence.len() <= 150, "{}", sentence);
            prop_assert!(sentence.chars().all(|character| (' '..='~').contains(&character)), "{}", sentence);
        }
        let _ = text.parse::<Subject>();
        let _ = text.parse::<Digest>();
    }

    #[test]
    fn names_are_refused_in_a_short_sentence(text in names(), pad in "[a-zA-Z0-9._:/@-]{0,300}") {
        for text in [format!("{text}{pad}"), format!("{pad}{text}"), text] {
            if let Err(error) = Reference::parse(&text) {
                prop_assert!(error.to_string().len() <= 150, "{}", error);
            }
        }
    }
}
