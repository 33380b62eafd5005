mod any_name;

use proptest::prelude::*;

use super::*;

const HEX: &str = "4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1";

fn digest() -> String {
    format!("sha256:{HEX}")
}

/// `domain path tag digest` as containerd has them, with `-` for none.
fn reading(text: &str) -> String {
    let Reading { domain, path, tag, digest } = read(text).unwrap();
    format!("{domain} {path} {} {}", tag.unwrap_or("-"), digest.unwrap_or("-"))
}

fn canonical(text: &str) -> String {
    Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
}

/// Why a text is refused.
fn refusal(text: &str) -> String {
    Reference::parse(text).expect_err(text).to_string()
}

fn host_fault(text: &str) -> HostError {
    match Reference::parse(text) {
        Err(ReferenceError::Host(fault) | ReferenceError::Unreadable(ReadingError::Host(fault))) => fault,
        other => panic!("{text}: {other:?}"),
    }
}

fn fault(text: &str) -> ReadingError {
    read(text).expect_err(text)
}

// === what containerd reads ===

#[test]
fn bare_names_are_docker_hubs() {
    assert_eq!(reading("nginx"), "docker.io library/nginx latest -");
    assert_eq!(reading("nginx:1.27"), "docker.io library/nginx 1.27 -");
    assert_eq!(reading("acme/gate"), "docker.io acme/gate latest -");
    assert_eq!(reading("docker.io/nginx"), "docker.io library/nginx latest -");
    assert_eq!(reading("index.docker.io/nginx"), "docker.io library/nginx latest -");
    assert_eq!(reading("index.docker.io/acme/gate"), "docker.io acme/gate latest -");
    assert_eq!(reading("registry/gate"), "docker.io registry/gate latest -");
    // Without a slash there is no host, whatever it looks like.
    assert_eq!(reading("registry.corp:5000"), "docker.io library/registry.corp 5000 -");
    assert_eq!(reading("localhost"), "docker.io library/localhost latest -");
}

#[test]
fn a_host_has_a_dot_a_colon_an_upper_case_letter_or_is_localhost() {
    assert_eq!(reading("localhost/gate"), "localhost gate latest -");
    assert_eq!(reading("localhost:5000/gate:1"), "localhost:5000 gate 1 -");
    assert_eq!(reading("registry:5000/gate"), "registry:5000 gate latest -");
    assert_eq!(reading("LAZ/gate"), "LAZ gate latest -");
    assert_eq!(reading("[fd00::1]:5000/gate:1"), "[fd00::1]:5000 gate 1 -");
    assert_eq!(reading("[::1]/gate"), "[::1] gate latest -");
    // Docker Hub only by its very name: no `library/`.
    assert_eq!(reading("DOCKER.IO/nginx"), "DOCKER.IO nginx latest -");
    assert_eq!(reading("INDEX.docker.io/nginx"), "INDEX.docker.io nginx latest -");
    assert_eq!(reading("docker.io:443/nginx"), "docker.io:443 nginx latest -");
}

#[test]
fn a_host_that_is_none_may_be_a_part_of_the_path() {
    assert_eq!(reading("a_b.c/gate"), " a_b.c/gate latest -");
    assert_eq!(host_fault("a_b.c/gate"), HostError::Underscore("a_b.c".into()));
}

#[test]
fn the_digest_decides_and_the_tag_is_for_show() {
    assert_eq!(reading(&format!("gate:1@{}", digest())), format!("docker.io library/gate 1 {}", digest()));
    assert_eq!(reading(&format!("gate@{}", digest())), format!("docker.io library/gate - {}", digest()));
    let reference = Reference::parse(&format!("gate:1@{}", digest())).unwrap();
    assert_eq!((reference.tag(), reference.digest().map(ToString::to_string)), (None, Some(digest())));
    assert_eq!(reference, Reference::parse(&format!("gate@{}", digest())).unwrap());
}

#[test]
fn digests_are_of_three_algorithms_and_exact() {
    let read_as = |text: &str| read(&format!("gate@{text}")).map(|reading| reading.digest.unwrap().to_owned());
    for (algorithm, digits) in [("sha256", 64), ("sha384", 96), ("sha512", 128)] {
        let exact = format!("{algorithm}:{}", "a".repeat(digits));
        assert_eq!(read_as(&exact), Ok(exact.clone()));
        for wrong in [digits - 1, digits + 1] {
            assert!(matches!(read_as(&format!("{algorithm}:{}", "a".repeat(wrong))), Err(ReadingError::Digest(_))), "{algorithm} {wrong}");
        }
        assert!(matches!(read_as(&exact.replace(":aa", ":aA")), Err(ReadingError::Digest(_))));
        assert!(matches!(read_as(&exact.replace("sha", "SHA")), Err(ReadingError::Digest(_))));
    }
    assert!(matches!(read_as("sha256:abcd"), Err(ReadingError::Digest(DigestError::Length { wanted: 64, found: 4, .. }))));
    assert!(matches!(read_as(&format!("md5:{}", "a".repeat(32))), Err(ReadingError::Digest(DigestError::Algorithm(_)))));
}

#[test]
fn an_image_id_is_no_name() {
    assert_eq!(fault(HEX), ReadingError::Identifier);
    assert_eq!(reading(&HEX[1..]), format!("docker.io library/{} latest -", &HEX[1..]));
    assert_eq!(reading(&format!("{HEX}:1")), format!("docker.io library/{HEX} 1 -"));
    assert_eq!(reading(&format!("acme/{HEX}")), format!("docker.io acme/{HEX} latest -"));
}

#[test]
fn path_components_have_single_separators() {
    for good in ["a", "0", "a.b", "a_b", "a__b", "a-b", "a---b", "a.b_c__d-e"] {
        assert!(is_path_component(good), "{good}");
        assert_eq!(reading(&format!("h.io/{good}")), format!("h.io {good} latest -"));
    }
    for bad in ["", ".", "a.", ".a", "a..b", "a___b", "a_", "_a", "-a", "a-", "a._b", "a-_b", "a.-b", "A", "é"] {
        assert!(!is_path_component(bad), "{bad}");
        assert!(read(&format!("h.io/{bad}")).is_err(), "{bad}");
    }
}

#[test]
fn the_path_has_255_bytes_and_the_host_does_not_count() {
    let path = "a".repeat(255);
    assert_eq!(read(&format!("registry.corp/{path}")).unwrap().path, path);
    assert_eq!(fault(&format!("registry.corp/{path}a")), ReadingError::TooLong);
    // `library/` counts, and so does a host that is taken for a part of the path.
    assert_eq!(fault(&"a".repeat(248)), ReadingError::TooLong);
    assert!(read(&"a".repeat(247)).is_ok());
    assert_eq!(fault(&format!("a_b.c/{}", "a".repeat(250))), ReadingError::TooLong);
    // Canonical names are shorter, since other readers count the host.
    assert_eq!(Reference::parse(&format!("registry.corp/{path}")), Err(ReferenceError::TooLong));
    assert!(Reference::parse(&format!("r.corp/{}", "a".repeat(NAME_LIMIT - 7))).is_ok());
    assert_eq!(Reference::parse(&format!("r.corp/{}", "a".repeat(NAME_LIMIT - 6))), Err(ReferenceError::TooLong));
}

#[test]
fn a_tag_has_128_characters() {
    assert_eq!(read(&format!("a:{}", "T".repeat(128))).unwrap().tag, Some(&*"T".repeat(128)));
    for bad in ["", "-a", ".a", "a/b", "a:b", "é", "a b"] {
        assert!(read(&format!("r.io/a:{bad}")).is_err(), "{bad}");
    }
    assert!(matches!(fault(&format!("a:{}", "T".repeat(129))), ReadingError::Tag(_)));
    assert_eq!(reading("a:_.-"), "docker.io library/a _.- -");
}

// === the fault that is named ===

#[test]
fn the_fault_that_an_author_sees_is_the_one_named() {
    assert_eq!(fault(""), ReadingError::Empty);
    assert_eq!(fault(" nginx"), ReadingError::WhiteSpace);
    assert_eq!(fault("nginx\u{a0}"), ReadingError::WhiteSpace);
    assert_eq!(fault("nginx\0"), ReadingError::Control);
    assert_eq!(fault("nginx\u{85}"), ReadingError::WhiteSpace);
    assert_eq!(fault("nginx\n"), ReadingError::WhiteSpace);
    assert_eq!(fault("registry.corp/team%2fapp"), ReadingError::Percent);
    assert_eq!(fault("https://registry.corp/app"), ReadingError::Scheme("https".into()));
    assert_eq!(fault("docker://nginx"), ReadingError::Scheme("docker".into()));
    assert_eq!(fault("nginx\\app"), ReadingError::Character("\\\\".into()));
    assert_eq!(fault("nginx?"), ReadingError::Character("?".into()));
    // A Cyrillic letter is not echoed as if it were Latin.
    assert_eq!(fault("regi\u{455}try.corp/app"), ReadingError::Character("?".into()));
    assert_eq!(fault("registry.corp//app"), ReadingError::EmptySegment);
    assert_eq!(fault("/app"), ReadingError::EmptySegment);
    assert_eq!(fault("registry.corp/"), ReadingError::EmptySegment);
    assert_eq!(fault("registry.corp/../app"), ReadingError::DotDot);
    assert_eq!(fault("Nginx"), ReadingError::UpperCase("library/Nginx".into()));
    assert_eq!(fault("registry.corp/./app"), ReadingError::Component(".".into()));
    assert_eq!(fault("registry.corp/app:"), ReadingError::Tag(String::new()));
    assert_eq!(fault("registry.corp/app:1/2"), ReadingError::Component("app:1".into()));
    assert_eq!(fault("user:secret@registry.corp/app"), ReadingError::UserInformation);
}

#[test]
fn a_host_that_the_grammar_refuses_is_told_why() {
    assert_eq!(host_fault("registry.corp./app"), HostError::TrailingDot("registry.corp.".into()));
    assert_eq!(host_fault("registry.corp.:5000/app"), HostError::TrailingDot("registry.corp.:5000".into()));
    assert_eq!(host_fault(".registry.corp/app"), HostError::EmptyLabel(".registry.corp".into()));
    assert_eq!(host_fault("-registry.corp/app"), HostError::Hyphen("-registry.corp".into()));
    assert_eq!(host_fault("registry-.corp/app"), HostError::Hyphen("registry-.corp".into()));
    assert_eq!(host_fault("registry_one:5000/app"), HostError::Underscore("registry_one:5000".into()));
    assert_eq!(host_fault("registry.corp:/app"), HostError::Port("registry.corp:".into()));
    assert_eq!(host_fault("registry.corp:+80/app"), HostError::Port("registry.corp:+80".into()));
    assert_eq!(host_fault("registry.corp:80a/app"), HostError::Port("registry.corp:80a".into()));
    assert_eq!(host_fault("[fd00::1/app"), HostError::Ipv6("[fd00::1".into()));
    assert_eq!(host_fault("[fd00::1]5000/app"), HostError::Ipv6("[fd00::1]5000".into()));
    assert_eq!(host_fault("a:1:2/app"), HostError::Malformed("a:1:2".into()));
    assert_eq!(fault("registry..corp/app"), ReadingError::DotDot);
}

#[test]
fn a_sentence_is_short_however_long_the_name() {
    let long = "x".repeat(300);
    for text in [
        format!("{long}://a"),
        format!("r.corp/{long}A"),
        format!("r.corp/{long}-"),
        format!("r.corp/{long}"),
        format!("a:{long}"),
        format!("a@{long}"),
        format!("a@sha256:{long}"),
        format!("a@sha256:{}", &long[..64]),
        format!("{long}.corp./a"),
        format!(".{long}.corp/a"),
        format!("-{long}.corp/a"),
        format!("{long}_.corp/a"),
        format!("{long}.corp:{long}/a"),
        format!("{long}:1:2/a"),
        format!("[{long}]:1/a"),
        format!("[::{}]/a", "A".repeat(300)),
        format!("{long}.1/a"),
        format!("{long}.docker.io/a"),
        format!("{long}:443/a"),
        format!("L{long}/a"),
        "127.255.255.255:443/a".to_owned(),
        "\u{7f}".repeat(300),
    ] {
        assert!(refusal(&text).len() <= 150, "{}", refusal(&text));
    }
}

// === one spelling for each image ===

#[test]
fn canonical_names_are_spelt_out() {
    assert_eq!(canonical("nginx"), "docker.io/library/nginx:latest");
    assert_eq!(canonical("index.docker.io/nginx:1"), "docker.io/library/nginx:1");
    assert_eq!(canonical("docker.io/acme/gate"), "docker.io/acme/gate:latest");
    assert_eq!(canonical("Registry.CORP/team/app:V1"), "registry.corp/team/app:V1");
    assert_eq!(canonical("registry.corp:443/app:1"), "registry.corp/app:1");
    assert_eq!(canonical("REGISTRY:5000/app:1"), "registry:5000/app:1");
    assert_eq!(canonical("localhost/app"), "localhost/app:latest");
    assert_eq!(canonical("localhost:5000/app"), "localhost:5000/app:latest");
    assert_eq!(canonical("10.0.0.5:5000/app"), "10.0.0.5:5000/app:latest");
    assert_eq!(canonical("[fd00::5]:443/app"), "[fd00::5]/app:latest");
    assert_eq!(canonical(&format!("h.io/app:1@{}", digest())), format!("h.io/app@{}", digest()));
    assert_eq!(canonical("registry.corp:65535/app"), "registry.corp:65535/app:latest");
    assert_eq!(canonical("registry.corp:1/app"), "registry.corp:1/app:latest");
}

#[test]
fn docker_hub_has_one_name() {
    for text in [
        "DOCKER.IO/nginx",
        "Docker.io/library/nginx",
        "docker.io:443/library/nginx",
        "docker.io:80/library/nginx",
        "INDEX.docker.io/nginx",
        "index.docker.io:443/nginx",
        "registry-1.docker.io/library/nginx",
        "registry-1.docker.io:443/library/nginx",
        "registry.hub.docker.com/library/nginx",
    ] {
        assert!(matches!(host_fault(text), HostError::DockerHub(_)), "{text}");
    }
    assert_eq!(canonical("mydocker.io/nginx"), "mydocker.io/nginx:latest");
    assert_eq!(
        refusal("DOCKER.IO/nginx"),
        "`DOCKER.IO` is another name of Docker Hub: write docker.io, with library/ before the official images"
    );
}

#[test]
fn a_host_is_a_host_in_its_canonical_spelling_too() {
    for text in ["LAZ/gate", "registry:443/x", "LAZ:443/gate"] {
        assert!(matches!(host_fault(text), HostError::Dotless(_)), "{text}");
    }
    assert_eq!(
        refusal("LAZ/gate"),
        "`LAZ` is a host only as it is spelt here, and a path at docker.io otherwise: write its full domain name"
    );
}

#[test]
fn the_loopback_host_is_spelt_as_nodes_know_it() {
    for text in ["LOCALHOST/x", "Localhost:5000/x", "localhost:443/x", "127.0.0.1:443/x", "127.8.8.8:443/x", "[::1]:443/x"] {
        assert!(matches!(host_fault(text), HostError::Loopback(..)), "{text}");
    }
    assert_eq!(canonical("127.0.0.1/x"), "127.0.0.1/x:latest");
    assert_eq!(canonical("[::1]:5000/x"), "[::1]:5000/x:latest");
}

#[test]
fn odd_ports_are_refused() {
    for text in ["r.io:0443/x", "r.io:0/x", "r.io:00/x", "r.io:65536/x", "r.io:05000/x", "r.io:99999999999999999999/x", "[fd00::5]:0/x"] {
        assert!(matches!(host_fault(text), HostError::Port(_)), "{text}");
    }
}

#[test]
fn addresses_have_one_spelling() {
    for text in [
        "127.1/x",
        "0x7f.1/x",
        "0X7F.1/x",
        "2130706433:5000/x",
        "0x7f000001:5000/x",
        "010.0.0.1/x",
        "10.0.0.01/x",
        "10.0.0/x",
        "10.0.0.0.1/x",
        "256.0.0.1/x",
        "registry.0x/x",
        "registry.1/x",
        "1.2.3.4.0x5/x",
    ] {
        assert!(matches!(host_fault(text), HostError::Ipv4(_)), "{text}");
    }
    for text in [
        "[FD00::5]/x",
        "[fd00:0::5]/x",
        "[fd00:0:0:0:0:0:0:5]/x",
        "[fd00::05]/x",
        "[::ffff:a00:5]/x",
        "[:]/x",
        "[fd00::5::]/x",
        "[1:2:3:4:5:6:7:8:9]/x",
    ] {
        assert!(matches!(host_fault(text), HostError::Ipv6(_)), "{text}");
    }
    for (text, address) in [
        ("10.0.0.5/x", true),
        ("10.0.0.5:5000/x", true),
        ("[fd00::5]/x", true),
        ("[fd00::5]:5000/x", true),
        ("registry.corp/x", false),
        ("0xcafe.corp/x", false),
        ("localhost/x", false),
        ("1.2.3.4.corp:5000/x", false),
    ] {
        assert_eq!(Reference::parse(text).unwrap().host_is_ip(), address, "{text}");
    }
}

#[test]
fn digests_that_nobody_here_computes_are_refused() {
    let text = format!("h.io/app@sha384:{}", "a".repeat(96));
    assert!(read(&text).is_ok());
    assert!(matches!(Reference::parse(&text), Err(ReferenceError::Digest(DigestError::Algorithm(_)))));
    let long = format!("h.io/app@sha512:{}", "a".repeat(128));
    assert_eq!(canonical(&long), long);
}

#[test]
fn the_id_of_an_image_that_a_node_holds_is_no_name() {
    for (text, algorithm) in [
        (digest(), "sha256"),
        ("sha256:4bcf".to_owned(), "sha256"),
        ("sha256:latest".to_owned(), "sha256"),
        (format!("sha256:4bcf@{}", digest()), "sha256"),
        (format!("sha384:{}", &HEX[..12]), "sha384"),
        (format!("sha512:{HEX}{HEX}"), "sha512"),
    ] {
        assert_eq!(Reference::parse(&text), Err(ReferenceError::LocalId(algorithm)), "{text}");
    }
    assert_eq!(
        refusal(&digest()),
        "`sha256:` and digits name whatever image a node holds by that id: write registry/repository@sha256:DIGITS"
    );
    // The node's store finds none of these by id.
    assert_eq!(canonical("sha256"), "docker.io/library/sha256:latest");
    assert_eq!(canonical("docker.io/library/sha256:4bcf"), "docker.io/library/sha256:4bcf");
    assert_eq!(canonical(&format!("sha256@{}", digest())), format!("docker.io/library/sha256@{}", digest()));
    assert_eq!(canonical("sha256:5000/app"), "sha256:5000/app:latest");
}

// === digests and subjects ===

#[test]
fn a_digest_is_read_strictly() {
    let known = Digest::of(b"abc");
    assert_eq!(known.to_string(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!((known.algorithm(), known.hex().len()), ("sha256", 64));
    assert_eq!(known.to_string().parse(), Ok(known));
    for bad in ["", "sha256", "sha256:", HEX, &format!(" {}", digest()), &format!("{} ", digest()), &digest().to_uppercase()] {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
    }
    assert!(matches!("é".repeat(64).parse::<Digest>(), Err(DigestError::Algorithm(_))));
    assert!(matches!(format!("sha256:{}", "é".repeat(32)).parse::<Digest>(), Err(DigestError::NotHex(_))));
}

#[test]
fn digests_and_subjects_are_strings_on_the_wire() {
    let subject: Subject = format!("h.io/team/app@{}", digest()).parse().unwrap();
    let text = serde_json::to_string(&(&subject, subject.digest())).unwrap();
    assert_eq!(text, format!(r#"["h.io/team/app@{0}","{0}"]"#, digest()));
    assert_eq!(serde_json::from_str::<(Subject, Digest)>(&text).unwrap(), (subject.clone(), subject.digest().clone()));
    assert!(serde_json::from_str::<Subject>(r#""h.io/team/app:1""#).is_err());
    assert!(serde_json::from_str::<Digest>(r#""sha256:AB""#).is_err());
}

#[test]
fn a_subject_has_one_spelling() {
    let text = format!("docker.io/library/nginx@{}", digest());
    let subject: Subject = text.parse().unwrap();
    assert_eq!(subject.to_string(), text);
    assert_eq!((subject.registry(), subject.repository()), ("docker.io", "library/nginx"));
    for other in ["nginx", "index.docker.io/nginx", "docker.io/nginx", "nginx:1", "docker.io/library/nginx:1"] {
        let other = format!("{other}@{}", digest());
        assert_eq!(other.parse::<Subject>(), Err(SubjectError::NotCanonical(Box::new(subject.clone()))), "{other}");
    }
    assert!(matches!(format!("H.io/x@{}", digest()).parse::<Subject>(), Err(SubjectError::NotCanonical(_))));
    assert_eq!("h.io/x:1".parse::<Subject>(), Err(SubjectError::NoDigest));
    assert!(matches!("h.io/X".parse::<Subject>(), Err(SubjectError::Reference(_))));
    assert_eq!(Reference::from(&subject), Reference::parse(&text).unwrap());
    assert_eq!(Reference::from(&subject).subject(), Some(subject));
}

fn object_name(repository: &str) -> String {
    let name = format!("h.io/{repository}@{}", digest()).parse::<Subject>().unwrap().object_name();
    assert!(name.len() <= 63, "{name}");
    assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'), "{name}");
    assert!(!name.ends_with('-'), "{name}");
    name
}

#[test]
fn an_object_name_is_a_hash_and_the_end_of_the_repository() {
    let hash = Digest::of(format!("h.io/team/my.app__two@{}", digest()).as_bytes());
    assert_eq!(object_name("team/my.app__two"), format!("{}-team-my-app-two", &hash.hex()[..16]));
    assert_ne!(object_name("team/my-app")[..16], object_name("team/my.app")[..16]);
    assert_eq!(object_name("team/my-app")[16..], object_name("team/my.app")[16..]);
    // Whole parts while they fit; the last part is cut.
    assert_eq!(&object_name(&format!("dropped/{}/app", "k".repeat(42)))[16..], format!("-{}-app", "k".repeat(42)));
    assert_eq!(&object_name(&format!("dropped/{}/app", "k".repeat(43)))[16..], "-app");
    assert_eq!(&object_name(&format!("dropped/{}", "k".repeat(90)))[16..], format!("-{}", "k".repeat(46)));
    assert_eq!(&object_name(&format!("{}.{}", "k".repeat(45), "l".repeat(9)))[16..], format!("-{}", "k".repeat(45)));
}

// === properties ===
