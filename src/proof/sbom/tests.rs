use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SPDX: &str = "https://spdx.dev/Document";
const CYCLONEDX: &str = "https://cyclonedx.org/bom";

fn spdx() -> Value {
    json!({ "spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "tide/gate", "packages": [{ "name": "libfoo", "SPDXID": "SPDXRef-1" }] })
}

fn cyclonedx() -> Value {
    let component = json!({ "type": "container", "name": "tide/gate", "version": "1" });
    json!({ "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": { "component": component }, "components": [] })
}

fn read_json(predicate_type: &str, predicate: &Value) -> Result<String, SbomError> {
    read(predicate_type, predicate.to_string().as_bytes()).map(|sbom| format!("{} {} {}", sbom.format, sbom.version, sbom.name))
}

#[test]
fn both_formats_are_read_as_they_stand_and_within_wrappers() {
    let tag_value = "SPDXVersion: SPDX-2.2\nDataLicense: CC0-1.0\nSPDXID: SPDXRef-DOCUMENT\nDocumentName: tide gate\n\nPackageName: x\n";
    for (predicate_type, predicate, expected) in [
        (SPDX, spdx(), "SPDX 2.3 tide/gate"),
        ("https://spdx.dev/Document/v2.3", spdx(), "SPDX 2.3 tide/gate"),
        (SPDX, json!(spdx().to_string()), "SPDX 2.3 tide/gate"),
        (SPDX, json!({ "Data": spdx(), "Timestamp": "2026-02-11T09:00:00Z" }), "SPDX 2.3 tide/gate"),
        (SPDX, json!({ "Data": spdx().to_string() }), "SPDX 2.3 tide/gate"),
        (SPDX, json!(tag_value), "SPDX 2.2 tide gate"),
        (SPDX, json!({ "Data": format!("\u{feff}\r\n{tag_value}") }), "SPDX 2.2 tide gate"),
        (CYCLONEDX, cyclonedx(), "CycloneDX 1.6 tide/gate"),
        ("https://cyclonedx.org/bom/v1.6", json!({ "Data": cyclonedx() }), "CycloneDX 1.6 tide/gate"),
        (CYCLONEDX, json!({ "bomFormat": "CycloneDX", "specVersion": "1.4" }), "CycloneDX 1.4 "),
        (
            "https://spdx.dev/Document/v3",
            json!({ "@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld", "@graph": [{ "type": "SpdxDocument" }] }),
            "SPDX 3.0.1 ",
        ),
        (SPDX, json!({ "@context": ["https://x.example/", "https://spdx.org/rdf/3.0/spdx-context.jsonld"], "@graph": [{}] }), "SPDX 3.0 "),
    ] {
        assert_eq!(read_json(predicate_type, &predicate).as_deref(), Ok(expected), "{predicate}");
    }
}

#[test]
fn what_the_type_does_not_promise_is_an_error() {
    for (predicate_type, predicate) in [
        (SPDX, cyclonedx()),
        (CYCLONEDX, spdx()),
        (SPDX, json!({})),
        (CYCLONEDX, json!({})),
        (SPDX, json!({ "Data": {} })),
        (SPDX, json!({ "Data": null })),
        (SPDX, json!({ "Data": { "Data": spdx() } })),
        (SPDX, json!({ "Data": cyclonedx(), "spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT" })),
        (SPDX, json!({ "spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "bomFormat": "CycloneDX" })),
        (SPDX, json!({ "spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "@context": "https://spdx.org/rdf/3.0/x" })),
        (CYCLONEDX, json!({ "bomFormat": "CycloneDX", "specVersion": "1.6", "spdxVersion": "SPDX-2.3" })),
        (CYCLONEDX, json!({ "bomFormat": "cyclonedx", "specVersion": "1.6" })),
        (CYCLONEDX, json!("SPDXVersion: SPDX-2.3\n")),
        (SPDX, json!({ "@context": "https://spdx.org/rdf/4.0/x", "@graph": [{}] })),
        (SPDX, json!({ "@context": "https://openvex.dev/ns", "@graph": [{}] })),
        (SPDX, json!({ "@context": [], "@graph": [{}] })),
    ] {
        assert!(
            matches!(read_json(predicate_type, &predicate), Err(SbomError::Other(_))),
            "{predicate}: {:?}",
            read_json(predicate_type, &predicate)
        );
    }
}

#[test]
fn what_the_header_lacks_or_misstates_is_an_error() {
    let missing = |format, field| Err(SbomError::Missing { format, field });
    assert_eq!(read_json(SPDX, &json!({ "spdxVersion": "SPDX-2.3" })), missing(Format::Spdx, "SPDXID"));
    assert_eq!(read_json(SPDX, &json!({ "spdxVersion": "SPDX-2.3", "SPDXID": "x" })), missing(Format::Spdx, "SPDXID"));
    assert_eq!(read_json(CYCLONEDX, &json!({ "bomFormat": "CycloneDX" })), missing(Format::CycloneDX, "specVersion"));
    for graph in [Value::Null, json!([])] {
        let document = json!({ "@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld", "@graph": graph });
        assert_eq!(read_json(SPDX, &document), missing(Format::Spdx, "@graph"));
    }
    for version in ["", "2.3", "SPDX-1.2", "SPDX-2", "SPDX-2.", "SPDX-2.x", "SPDX-2.3\u{7}", "SPDX-3.0", "SPDX-2.33333333333333333"] {
        let error = read_json(SPDX, &json!({ "spdxVersion": version, "SPDXID": "SPDXRef-DOCUMENT" })).unwrap_err();
        assert!(matches!(error, SbomError::Version { .. }), "{version:?}");
        assert!(!error.to_string().chars().any(char::is_control), "{error}");
    }
    for version in ["", "1", "2.0", "1.", "1.6-beta", "v1.6"] {
        let error = read_json(CYCLONEDX, &json!({ "bomFormat": "CycloneDX", "specVersion": version })).unwrap_err();
        assert!(matches!(error, SbomError::Version { .. }), "{version:?}");
    }
    assert!(matches!(read_json(SPDX, &json!("SPDXVersion: SPDX-1.2\n")), Err(SbomError::Version { .. })));
    for predicate in [json!([]), json!(1), json!("text"), json!(""), json!({ "spdxVersion": 2 }), json!({ "Data": [1] })] {
        assert!(matches!(read_json(SPDX, &predicate), Err(SbomError::Json(_))), "{predicate}");
    }
    for bytes in [&b""[..], b"{", b"\xff", b"{\"name\":\"\xff\"}", b"{\"spdxVersion\":\"SPDX-2.3\"} x"] {
        assert!(matches!(read(SPDX, bytes), Err(SbomError::Json(_))), "{bytes:?}");
    }
}

#[test]
fn a_name_is_cut_and_plain() {
    let mut document = spdx();
    document["name"] = json!(format!("\u{1b}\n{}", "é".repeat(100)));
    let name = read(SPDX, document.to_string().as_bytes()).unwrap().name;
    assert_eq!(name, "é".repeat(64));
}

#[test]
fn a_large_document_is_passed_over() {
    let mut document = spdx();
    document["packages"] = Value::Array(vec![json!({ "name": "libfoo", "files": [[[[]]]] }); 50_000]);
    assert_eq!(read_json(SPDX, &document).as_deref(), Ok("SPDX 2.3 tide/gate"));
    // However deep: what is not read is passed over without recursion, and what is read has serde_json's limit.
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let unread = format!("{{\"spdxVersion\":\"SPDX-2.3\",\"SPDXID\":\"SPDXRef-DOCUMENT\",\"packages\":{deep}}}");
    assert!(read(SPDX, unread.as_bytes()).is_ok());
    assert!(matches!(read(SPDX, format!("{{\"@context\":{deep}}}").as_bytes()), Err(SbomError::Json(_))));
}

#[test]
fn predicate_types_match_at_a_boundary() {
    for (predicate_type, expected) in [
        (SPDX, Some(Format::Spdx)),
        ("https://spdx.dev/Document/v2.3", Some(Format::Spdx)),
        (CYCLONEDX, Some(Format::CycloneDX)),
        ("https://cyclonedx.org/bom/v1.4", Some(Format::CycloneDX)),
        ("https://spdx.dev/Documents", None),
        ("https://spdx.dev/Document/other", None),
        ("https://cyclonedx.org/bomb", None),
        ("", None),
    ] {
        assert_eq!(format(predicate_type), expected, "{predicate_type}");
    }
    assert!(matches!(read("text/spdx", b"{}"), Err(SbomError::Type(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn never_panics_on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(SPDX, &bytes).is_err());
        prop_assert!(read(CYCLONEDX, &bytes).is_err());
    }

    #[test]
    fn never_panics_on_text_in_a_string(text in "(SPDXVersion: SPDX-2\\.[0-9])?\\PC{0,80}") {
        let _ = read_json(SPDX, &json!(text));
        let _ = read_json(SPDX, &json!({ "Data": text }));
    }

    #[test]
    fn never_panics_on_a_document_with_bytes_changed(place in 0_usize..1_000, byte in any::<u8>()) {
        for (predicate_type, document) in [(SPDX, spdx()), (CYCLONEDX, cyclonedx())] {
            let mut bytes = document.to_string().into_bytes();
            let place = place % bytes.len();
            bytes[place] = byte;
            if let Ok(sbom) = read(predicate_type, &bytes) {
                prop_assert!(sbom.name.chars().count() <= MOST_NAME && sbom.version.len() <= MOST_VERSION);
            }
        }
    }
}
