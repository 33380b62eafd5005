use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const HEX: &str = "09ade42fe3e69018a3360bb092265af902f9e7d6013146cf152c82ac3a944707";
const OTHER: &str = "c858f11a33569b994e7d898d2a8ef40d61218507dc3e2f2d827f8802682a7d1a";

fn subject() -> Digest {
    format!("sha256:{HEX}").parse().unwrap()
}

fn document(statements: &Value) -> Value {
    json!({
        "@context": "https://openvex.dev/ns/v0.2.0", "@id": "https://vex.example/7", "author": "Tide Sec",
        "timestamp": "2026-02-11T10:00:00Z", "version": 1, "statements": statements,
    })
}

fn statement(id: &str, status: &str) -> Value {
    let mut statement = json!({ "vulnerability": { "name": id }, "status": status });
    if status == "not_affected" {
        statement["justification"] = json!("vulnerable_code_not_in_execute_path");
    }
    statement
}

fn with(mut statement: Value, key: &str, value: Value) -> Value {
    statement[key] = value;
    statement
}

fn read_json(document: &Value) -> Result<Vex, VexError> {
    read(document.to_string().as_bytes(), &subject())
}

/// The ids that statements clear.
fn cleared(statements: &Value) -> Vec<String> {
    let vex = read_json(&document(statements)).unwrap();
    assert!(!vex.more);
    vex.not_affected.into_iter().map(|cleared| cleared.id).collect()
}

#[test]
fn not_affected_and_fixed_clear_the_name_and_its_aliases() {
    let mut first = statement("CVE-2026-0001", "not_affected");
    first["vulnerability"]["aliases"] = json!(["GHSA-jfh8-c2jp-5v3q", "CVE-2026-0001", "not an id", "x\u{7}"]);
    let mut third = statement("CVE-2026-0003", "not_affected");
    third["justification"] = Value::Null;
    third["impact_statement"] = json!(format!(" \u{1b}{}", "é".repeat(100)));
    let vex =
        read_json(&document(&json!([first, statement("CVE-2026-0002", "fixed"), third, statement("CVE-2026-0004", "affected")]))).unwrap();
    let cleared = |id: &str, why: &str| NotAffected { id: id.into(), justification: why.into() };
    assert_eq!(
        vex.not_affected,
        [
            cleared("CVE-2026-0001", "vulnerable_code_not_in_execute_path"),
            cleared("CVE-2026-0002", "fixed"),
            cleared("CVE-2026-0003", &"é".repeat(64)),
            cleared("GHSA-jfh8-c2jp-5v3q", "vulnerable_code_not_in_execute_path"),
        ]
    );
}

#[test]
fn a_statement_clears_only_what_names_the_digest_as_a_whole() {
    let upper = HEX.to_ascii_uppercase();
    for (products, clears) in [
        (Value::Null, true),
        (json!([{ "@id": format!("pkg:oci/gate@sha256%3A{HEX}") }]), true),
        (json!([{ "@id": format!("pkg:oci/gate@sha256%3a{HEX}?repository_url=ghcr.io/tide/gate&tag=1") }]), true),
        (json!([{ "@id": format!("pkg:oci/gate@sha256:{HEX}") }]), true),
        (json!([{ "@id": format!("sha256:{HEX}") }]), true),
        (json!([{ "@id": format!("ghcr.io/tide/gate:1@sha256:{HEX}") }]), true),
        (json!([{ "@id": "urn:gate", "identifiers": { "purl": format!("pkg:oci/gate@sha256%3A{HEX}") } }]), true),
        (json!([{ "@id": "urn:gate", "hashes": { "sha-256": upper, "sha-512": "00" } }]), true),
        (json!([{ "@id": "pkg:oci/other" }, { "@id": format!("sha256:{HEX}"), "subcomponents": [] }]), true),
        // A part of it, perhaps.
        (json!([{ "@id": format!("pkg:oci/gate@sha256%3A{HEX}?arch=arm64") }]), false),
        (json!([{ "@id": format!("pkg:oci/gate@sha256%3A{HEX}#usr/lib") }]), false),
        (json!([{ "@id": format!("pkg:oci/gate@sha256%3A{HEX}"), "subcomponents": [{ "@id": "pkg:apk/alpine/libfoo@1" }] }]), false),
        // Another, or nobody knows which.
        (json!([{ "@id": format!("pkg:oci/gate@sha256%3A{OTHER}") }]), false),
        (json!([{ "@id": format!("pkg:oci/gate@sha256%3A{HEX}"), "hashes": { "sha-256": OTHER } }]), false),
        (json!([{ "@id": "pkg:oci/gate" }]), false),
        (json!([{ "@id": "pkg:oci/gate@1.0" }]), false),
        (json!([{ "@id": HEX }]), false),
        (json!([{ "@id": format!("sha256:{HEX}x") }]), false),
        (json!([{ "hashes": { "md5": HEX } }]), false),
        (json!([{}]), false),
        (json!([]), false),
    ] {
        let one = with(statement("CVE-2026-0001", "not_affected"), "products", products.clone());
        assert_eq!(!cleared(&json!([one])).is_empty(), clears, "{products}");
    }
}

#[test]
fn of_one_vulnerability_the_newest_statement_counts() {
    let at = |statement: Value, time: &str| with(statement, "timestamp", json!(time));
    let clear = || statement("CVE-2026-0001", "not_affected");
    for against in ["affected", "under_investigation"] {
        let against = || statement("CVE-2026-0001", against);
        assert_eq!(cleared(&json!([at(clear(), "2026-01-01T00:00:00Z"), against()])), Vec::<String>::new());
        assert_eq!(cleared(&json!([at(against(), "2026-01-01T00:00:00Z"), clear()])), ["CVE-2026-0001"]);
        assert_eq!(cleared(&json!([at(clear(), "2026-03-01T00:00:00+02:00"), at(against(), "2026-02-28T21:59:59Z")])), ["CVE-2026-0001"]);
        // Equally old: the one that does not clear.
        assert_eq!(cleared(&json!([against(), clear()])), Vec::<String>::new());
        assert_eq!(cleared(&json!([clear(), against()])), Vec::<String>::new());
    }
}

#[test]
fn a_statement_against_any_name_of_a_vulnerability_counts_against_all() {
    let named = |id: &str, aliases: &[&str], status: &str, time: &str| {
        let mut statement = with(statement(id, status), "timestamp", json!(time));
        statement["vulnerability"]["aliases"] = json!(aliases);
        statement
    };
    let old = "2026-01-01T00:00:00Z";
    let new = "2026-02-01T00:00:00Z";
    let chain = json!([
        named("CVE-2026-0001", &["GHSA-1"], "not_affected", old),
        named("GHSA-1", &["SNYK-1"], "fixed", old),
        named("SNYK-1", &[], "affected", new),
        named("CVE-2026-0002", &[], "fixed", old),
    ]);
    assert_eq!(cleared(&chain), ["CVE-2026-0002"]);
    let later = json!([
        named("CVE-2026-0001", &["GHSA-1"], "not_affected", new),
        named("GHSA-1", &["SNYK-1"], "fixed", old),
        named("SNYK-1", &[], "affected", old),
    ]);
    assert_eq!(cleared(&later), ["CVE-2026-0001", "GHSA-1"]);
}

#[test]
fn what_speaks_of_another_digest_does_not_count_against_this_one() {
    let clear = with(statement("CVE-2026-0001", "not_affected"), "timestamp", json!("2026-01-01T00:00:00Z"));
    for (products, stays) in [
        (json!([{ "@id": format!("pkg:oci/gate@sha256%3A{OTHER}") }]), true),
        (json!([{ "@id": format!("pkg:oci/gate@sha256%3A{OTHER}") }, { "@id": "pkg:oci/gate" }]), false),
        (json!([{ "@id": format!("pkg:oci/gate@sha256%3A{HEX}"), "subcomponents": [{ "@id": "pkg:apk/alpine/libfoo@1" }] }]), false),
        (json!([{ "@id": format!("pkg:oci/gate@sha256%3A{HEX}?arch=arm64") }]), false),
        (json!([{ "@id": "pkg:oci/gate" }]), false),
        (json!([]), false),
    ] {
        let against = with(statement("CVE-2026-0001", "affected"), "products", products.clone());
        assert_eq!(!cleared(&json!([clear, against])).is_empty(), stays, "{products}");
    }
}

#[test]
fn what_openvex_does_not_allow_is_refused() {
    let refused = |statement: Value| read_json(&document(&json!([statement]))).unwrap_err();
    let bare = json!({ "vulnerability": { "name": "CVE-2026-0001" }, "status": "not_affected" });
    assert_eq!(refused(bare.clone()), VexError::NoJustification("CVE-2026-0001".into()));
    let blank = with(with(bare.clone(), "justification", json!("")), "impact_statement", json!(" "));
    assert_eq!(refused(blank), VexError::NoJustification("CVE-2026-0001".into()));
    assert_eq!(refused(with(bare, "justification", json!("trust_me"))), VexError::Justification("trust_me".into()));
    assert_eq!(refused(statement("CVE-2026-0001", "Not_Affected")), VexError::Status("Not_Affected".into()));
    assert_eq!(refused(statement("CVE-2026-0001", "\u{1b}[31m")), VexError::Status("\\u{1b}[31m".into()));
    assert_eq!(refused(with(statement("CVE-2026-0001", "fixed"), "timestamp", json!("soon"))), VexError::Time("CVE-2026-0001".into()));
    let mut timeless = document(&json!([statement("CVE-2026-0001", "fixed")]));
    timeless.as_object_mut().unwrap().remove("timestamp");
    assert_eq!(read_json(&timeless), Err(VexError::Time("CVE-2026-0001".into())));
    for context in ["https://openvex.dev/ns/v0.0.1", "https://openvex.dev/ns/v0.2.01", "https://openvex.dev/nsx", ""] {
        assert_eq!(read_json(&with(document(&json!([])), "@context", json!(context))), Err(VexError::Context(context.into())));
        assert!(!is_vex(context));
    }
    for json in [
        json!({}),
        json!([]),
        json!({ "@context": "https://openvex.dev/ns" }),
        document(&json!({})),
        document(&json!([{ "status": "fixed" }])),
        document(&json!([{ "vulnerability": "CVE-2026-0001", "status": "fixed" }])),
        document(&json!([{ "vulnerability": { "name": 7 }, "status": "fixed" }])),
        document(&json!([{ "vulnerability": { "name": "CVE-2026-0001" } }])),
        document(&json!([with(statement("CVE-2026-0001", "fixed"), "products", json!("all"))])),
    ] {
        assert!(matches!(read_json(&json), Err(VexError::Json(_))), "{json}");
    }
    assert!(matches!(read(b"\xff", &subject()), Err(VexError::Json(_))));
}

#[test]
fn at_most_64_ids_are_kept_and_more_is_said() {
    let statements = |count: usize| Value::Array((0..count).map(|number| statement(&format!("CVE-2026-{number:04}"), "fixed")).collect());
    let full = read_json(&document(&statements(MOST_CLEARED))).unwrap();
    assert_eq!((full.not_affected.len(), full.more), (MOST_CLEARED, false));
    let cut = read_json(&document(&statements(MOST_CLEARED + 1))).unwrap();
    assert_eq!((cut.not_affected.len(), cut.more), (MOST_CLEARED, true));
    assert_eq!(cut.not_affected[63].id, "CVE-2026-0063");
    assert_eq!(read_json(&document(&statements(MOST_STATEMENTS + 1))), Err(VexError::TooMany("statements")));
    let products = with(statement("CVE-2026-0001", "fixed"), "products", Value::Array(vec![json!({}); MOST_EACH + 1]));
    assert_eq!(read_json(&document(&json!([products]))), Err(VexError::TooMany("products")));
    let mut aliases = statement("CVE-2026-0001", "fixed");
    aliases["vulnerability"]["aliases"] = Value::Array(vec![json!("x"); MOST_EACH + 1]);
    assert_eq!(read_json(&document(&json!([aliases]))), Err(VexError::TooMany("aliases")));
}

#[test]
fn a_sha512_digest_is_named_in_the_same_ways() {
    let hex = "ab".repeat(64);
    let subject: Digest = format!("sha512:{hex}").parse().unwrap();
    for product in [json!({ "@id": format!("pkg:oci/gate@sha512%3A{hex}") }), json!({ "hashes": { "sha-512": hex, "sha-256": HEX } })] {
        let one = with(statement("CVE-2026-0001", "fixed"), "products", json!([product]));
        let vex = read(document(&json!([one])).to_string().as_bytes(), &subject).unwrap();
        assert_eq!(vex.not_affected.len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn never_panics_on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(&bytes, &subject()).is_err());
    }

    #[test]
    fn never_panics_on_a_document_with_bytes_changed(place in 0_usize..1_000, byte in any::<u8>()) {
        let one = with(statement("CVE-2026-0001", "not_affected"), "products", json!([{ "@id": format!("pkg:oci/gate@sha256%3A{HEX}?tag=1") }]));
        let mut bytes = document(&json!([one])).to_string().into_bytes();
        let place = place % bytes.len();
        bytes[place] = byte;
        let _ = read(&bytes, &subject());
    }

    /// Whatever else a document says, a newer statement against a vulnerability is never overruled.
    #[test]
    fn a_newer_statement_against_is_never_overruled(
        others in prop::collection::vec((0_u8..4, prop::collection::vec(0_u8..4, 0..3), 0_u8..9, any::<bool>()), 0..8),
        against in 0_u8..4,
    ) {
        let mut statements: Vec<Value> = others.iter().map(|(name, aliases, day, clears)| {
            let mut one = statement(&format!("CVE-{name}"), if *clears { "not_affected" } else { "affected" });
            one["vulnerability"]["aliases"] = aliases.iter().map(|alias| format!("CVE-{alias}")).collect();
            with(one, "timestamp", json!(format!("2026-01-0{}T00:00:00Z", day + 1)))
        }).collect();
        statements.push(with(statement(&format!("CVE-{against}"), "affected"), "timestamp", json!("2026-02-01T00:00:00Z")));
        let cleared = cleared(&Value::Array(statements));
        let against = format!("CVE-{against}");
        prop_assert!(!cleared.contains(&against));
    }
}
