use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const COSIGN: &str = "https://cosign.sigstore.dev/attestation/vuln/v1";
const IN_TOTO: &str = "https://in-toto.io/attestation/vulns/v0.2";
const SARIF: &str = "application/sarif+json";

fn enveloped(result: &Value) -> Value {
    json!({
        "invocation": { "parameters": ["--format=json"], "uri": "https://ci.example/run/9", "event_id": "9", "builder.id": "ci.example" },
        "scanner": { "uri": "pkg:github/aquasecurity/trivy@0.60.0", "version": "0.60.0", "db": { "uri": "", "version": "2" }, "result": result },
        "metadata": { "scanStartedOn": "2026-02-11T09:00:00Z", "scanFinishedOn": "2026-02-11T09:00:20.75Z" },
    })
}

fn read_json(predicate_type: &str, predicate: &Value) -> Result<Report, ReportError> {
    read(predicate_type, predicate.to_string().as_bytes())
}

/// What a scanner's result comes to: the findings in text.
fn found(result: &Value) -> Result<Vec<String>, ReportError> {
    let report = read_json(COSIGN, &enveloped(result))?;
    assert_eq!(report.finished_at, "2026-02-11T09:00:20Z".parse().unwrap());
    Ok(report.findings.into_iter().map(String::from).collect())
}

fn trivy(results: &Value) -> Value {
    json!({ "SchemaVersion": 2, "ArtifactName": "tide/gate", "ArtifactType": "container_image", "Results": results })
}

fn trivy_of(vulnerabilities: &Value) -> Value {
    trivy(&json!([{ "Target": "tide/gate (alpine 3.21)", "Class": "os-pkgs", "Type": "alpine", "Vulnerabilities": vulnerabilities }]))
}

fn grype(matches: &Value) -> Value {
    json!({ "matches": matches, "source": { "type": "image" }, "descriptor": { "name": "grype", "version": "0.90.0" } })
}

#[test]
fn trivys_findings_are_read_from_every_target() {
    let result = trivy(&json!([
        { "Target": "os", "Class": "os-pkgs", "Vulnerabilities": [
            { "VulnerabilityID": "CVE-2026-0002", "PkgName": "libfoo", "FixedVersion": "1.1", "Severity": "MEDIUM" },
            { "VulnerabilityID": "CVE-2026-0001", "PkgName": "libbar", "Severity": "CRITICAL", "CVSS": { "nvd": { "V3Score": 9.8 } } },
        ] },
        { "Target": "app", "Class": "lang-pkgs", "Vulnerabilities": null },
        { "Target": "Dockerfile", "Class": "config", "Misconfigurations": [{ "ID": "DS002", "Severity": "HIGH" }] },
        { "Target": "go", "Class": "lang-pkgs", "Vulnerabilities": [
            { "VulnerabilityID": "GHSA-jfh8-c2jp-5v3q", "FixedVersion": " ", "Severity": "HIGH" },
            { "VulnerabilityID": "CVE-2026-0003", "FixedVersion": "2", "Severity": "peculiar" },
            { "VulnerabilityID": "CVE-2026-0004" },
        ] },
    ]));
    assert_eq!(
        found(&result).unwrap(),
        [
            "CVE-2026-0001 Critical",
            "GHSA-jfh8-c2jp-5v3q High",
            "CVE-2026-0003 Unknown fixable",
            "CVE-2026-0004 Unknown",
            "CVE-2026-0002 Medium fixable"
        ]
    );
}

#[test]
fn of_one_id_the_highest_severity_counts_and_any_fix() {
    let result = trivy_of(&json!([
        { "VulnerabilityID": "CVE-2026-0001", "Severity": "LOW", "FixedVersion": "2" },
        { "VulnerabilityID": "CVE-2026-0001", "Severity": "HIGH" },
        { "VulnerabilityID": "CVE-2026-0001", "Severity": "UNKNOWN" },
    ]));
    assert_eq!(found(&result).unwrap(), ["CVE-2026-0001 High fixable"]);
}

#[test]
fn a_clean_report_of_trivys_is_told_from_one_that_says_nothing() {
    let clean = [
        trivy(&json!([])),
        trivy(&json!([{ "Target": "os", "Class": "os-pkgs" }])),
        trivy(&json!([{ "Target": "os" }])),
        trivy_of(&json!([])),
        // An image in which there is nothing to look at.
        json!({ "SchemaVersion": 2, "ArtifactName": "tide/static", "ArtifactType": "container_image" }),
        json!({ "SchemaVersion": 2, "ArtifactName": "tide/static", "ArtifactType": "container_image", "Results": null }),
    ];
    for result in clean {
        assert_eq!(found(&result), Ok(Vec::new()), "{result}");
    }
    let nothing = [
        (json!({ "SchemaVersion": 2 }), ReportError::Missing("Results")),
        (json!({ "SchemaVersion": 2, "ArtifactName": "x", "ArtifactType": "filesystem" }), ReportError::Missing("Results")),
        (json!({ "SchemaVersion": 2, "ArtifactName": "", "ArtifactType": "container_image" }), ReportError::Missing("Results")),
        (trivy(&json!([{ "Target": "s", "Class": "secret" }, { "Target": "c", "Class": "config" }])), ReportError::OtherScan),
        (json!({ "SchemaVersion": 3, "Results": [] }), ReportError::Version { format: "Trivy's report", version: "3".into() }),
    ];
    for (result, error) in nothing {
        assert_eq!(found(&result), Err(error), "{result}");
    }
}

#[test]
fn grypes_matches_are_read() {
    let result = grype(&json!([
        { "vulnerability": { "id": "CVE-2026-0001", "severity": "High", "fix": { "versions": ["1.1"], "state": "fixed" } }, "artifact": {} },
        { "vulnerability": { "id": "CVE-2026-0002", "severity": "Negligible", "fix": { "versions": [], "state": "wont-fix" } } },
        { "vulnerability": { "id": "CVE-2026-0003", "severity": "Unknown", "fix": { "versions": [], "state": "unknown" } } },
        // Who says nothing of fixes may have one.
        { "vulnerability": { "id": "CVE-2026-0004", "severity": "Low" } },
        { "vulnerability": { "id": "CVE-2026-0005", "severity": "Low", "fix": { "versions": ["1", "2"], "state": "unknown" } } },
    ]));
    assert_eq!(
        found(&result).unwrap(),
        [
            "CVE-2026-0001 High fixable",
            "CVE-2026-0003 Unknown fixable",
            "CVE-2026-0004 Low fixable",
            "CVE-2026-0005 Low fixable",
            "CVE-2026-0002 Negligible"
        ]
    );
    assert_eq!(found(&grype(&json!([]))), Ok(Vec::new()));
    assert_eq!(found(&json!({ "matches": [], "descriptor": { "name": "other" } })), Err(ReportError::Shape));
    assert!(matches!(found(&json!({ "matches": [] })), Err(ReportError::Json(text)) if text.contains("descriptor")));
}

#[test]
fn in_totos_list_is_read_plain_and_wrapped() {
    let severities = json!([{ "method": "nvd", "score": "medium" }, { "method": "cvss_score", "score": "7.5" }]);
    let result = json!([
        { "id": "CVE-2026-0001", "severity": severities, "annotations": [{ "k": "v" }] },
        { "vulnerability": { "id": "CVE-2026-0002", "severity": { "method": "CVSSv3", "score": 9.1 } } },
        // Go's database has no severities.
        { "id": "GO-2026-0003" },
        { "id": "CVE-2026-0004", "severity": [{ "method": "epss", "score": "0.97" }, { "method": "ghsa", "score": "LOW" }] },
        { "id": "CVE-2026-0005", "severity": [{ "method": "epss", "score": "0.97" }] },
        { "id": "CVE-2026-0006", "severity": [{ "method": "cvss", "score": "CVSS:3.1/AV:N" }, {}] },
        { "id": "CVE-2026-0007", "severity": [] },
    ]);
    let expected = [
        "CVE-2026-0002 Critical fixable",
        "CVE-2026-0001 High fixable",
        "CVE-2026-0005 Unknown fixable",
        "CVE-2026-0006 Unknown fixable",
        "CVE-2026-0007 Unknown fixable",
        "GO-2026-0003 Unknown fixable",
        "CVE-2026-0004 Low fixable",
    ];
    assert_eq!(found(&result).unwrap(), expected);
    for predicate_type in [IN_TOTO, "https://in-toto.io/attestation/vulns/v0.1", "https://in-toto.io/attestation/vulns"] {
        assert_eq!(read_json(predicate_type, &enveloped(&result)).unwrap().findings.len(), 7, "{predicate_type}");
        // Trivy's form for cosign is also signed under in-toto's type.
        assert_eq!(read_json(predicate_type, &enveloped(&trivy_of(&json!([])))).unwrap().findings, []);
    }
    let both = json!([{ "id": "CVE-2026-0001", "vulnerability": { "id": "CVE-2026-0002" } }]);
    assert_eq!(found(&both), Err(ReportError::Shape));
    for none in [json!([{}]), json!([{ "vulnerability": {} }]), json!([{ "Target": "x", "Vulnerabilities": null }])] {
        assert_eq!(found(&none), Err(ReportError::Missing("id of a vulnerability")), "{none}");
    }
}

#[test]
fn a_result_of_no_known_shape_is_an_error() {
    for result in [
        json!({}),
        json!("clean"),
        json!(0),
        json!(true),
        json!({ "vulnerabilities": [] }),
        json!({ "SchemaVersion": 2, "Results": [], "matches": [], "descriptor": { "name": "grype" } }),
        json!({ "matches": null }),
    ] {
        assert_eq!(found(&result), Err(ReportError::Shape), "{result}");
    }
    assert_eq!(found(&Value::Null), Err(ReportError::Missing("scanner.result")));
    for result in [
        json!({ "Results": [] }),
        json!({ "SchemaVersion": "2", "Results": [] }),
        json!({ "SchemaVersion": 2, "Results": {} }),
        json!({ "matches": {}, "descriptor": { "name": "grype" } }),
        trivy_of(&json!([{ "Severity": "HIGH" }])),
        trivy_of(&json!([{ "VulnerabilityID": 7 }])),
        trivy_of(&json!({ "CVE-2026-0001": "HIGH" })),
        json!([7]),
        json!([{ "id": 7 }]),
    ] {
        assert!(matches!(found(&result), Err(ReportError::Json(_))), "{result}: {:?}", found(&result));
    }
}

#[test]
fn what_the_envelope_lacks_is_an_error() {
    let take = |path: &str| {
        let mut predicate = enveloped(&json!([]));
        let (parent, key) = path.rsplit_once('/').unwrap();
        predicate.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
        read_json(IN_TOTO, &predicate)
    };
    assert_eq!(take("/scanner"), Err(ReportError::Missing("scanner")));
    assert_eq!(take("/scanner/result"), Err(ReportError::Missing("scanner.result")));
    assert_eq!(take("/scanner/uri"), Err(ReportError::Missing("scanner.uri")));
    assert_eq!(take("/metadata"), Err(ReportError::Missing("metadata.scanFinishedOn")));
    assert_eq!(take("/metadata/scanFinishedOn"), Err(ReportError::Missing("metadata.scanFinishedOn")));
    assert!(take("/invocation").is_ok());
    assert!(take("/metadata/scanStartedOn").is_ok());
    for time in ["", "yesterday", "2026-02-11", "0001-01-01T00:00:00Z", "1999-12-31T23:59:59Z", "99999-01-01T00:00:00Z"] {
        let mut predicate = enveloped(&json!([]));
        predicate["metadata"]["scanFinishedOn"] = json!(time);
        assert_eq!(read_json(COSIGN, &predicate), Err(ReportError::Time("metadata.scanFinishedOn")), "{time}");
    }
    let mut predicate = enveloped(&trivy_of(&json!([])));
    predicate["scanner"]["uri"] = json!(" ");
    assert_eq!(read_json(COSIGN, &predicate).unwrap().scanner, "trivy");
    assert!(matches!(read(COSIGN, b"\xff\xfe{}"), Err(ReportError::Json(_))));
    assert!(matches!(read(COSIGN, b""), Err(ReportError::Json(_))));
    assert!(matches!(read(COSIGN, b"[]"), Err(ReportError::Json(_))));
}

#[test]
fn bytes_that_are_not_utf_8_are_an_error_where_they_are_read() {
    let good = enveloped(&trivy_of(&json!([{ "VulnerabilityID": "CVE-2026-0001" }]))).to_string();
    let place = good.find("CVE-").unwrap();
    let mut bytes = good.into_bytes();
    bytes[place] = 0xff;
    assert!(matches!(read(COSIGN, &bytes), Err(ReportError::Json(_))));
}

#[test]
fn predicate_types_match_as_a_whole() {
    for good in [
        COSIGN,
        IN_TOTO,
        SARIF,
        "https://docs.oasis-open.org/sarif/sarif/v2.1.0",
        "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "https://json.schemastore.org/sarif-2.1.0.json",
    ] {
        assert!(is_report(good), "{good}");
    }
    for other in [
        "",
        "https://cosign.sigstore.dev/attestation/vuln",
        "https://cosign.sigstore.dev/attestation/vuln/v10",
        "https://in-toto.io/attestation/vulns/v0.3",
        "https://in-toto.io/attestation/vulnsx",
        "https://docs.oasis-open.org/sarif/sarif/v2.1.01",
        "https://docs.oasis-open.org/sarif/sarif/v2.2",
        "https://cosign.sigstore.dev/attestation/v1",
    ] {
        assert!(!is_report(other), "{other}");
        assert!(matches!(read(other, b"{}"), Err(ReportError::Type(_))), "{other}");
    }
}

#[test]
fn ids_that_are_none_are_refused() {
    let long = "C".repeat(65);
    for id in ["", " ", "CVE 1", "CVE-\u{7}1", "CVE-\n1", "CVE-\"1", "CVE-\\1", "CVE-`1`", "-CVE", "CVÉ-1", "\u{202e}CVE", long.as_str()] {
        let result = trivy_of(&json!([{ "VulnerabilityID": id, "Severity": "LOW" }]));
        let error = found(&result).unwrap_err();
        assert!(matches!(error, ReportError::Id(_)), "{id:?}");
        assert!(error.to_string().chars().all(|character| !character.is_control()) && error.to_string().len() < 120, "{error}");
    }
    for id in ["C", "CVE-2026-0001", "RHSA-2026:0001", "TEMP-0290435-0B57B5", "temp/x@1+2", &"C".repeat(64)] {
        assert!(found(&trivy_of(&json!([{ "VulnerabilityID": id }]))).is_ok(), "{id}");
    }
}

#[test]
fn a_scanners_name_is_cut_and_plain() {
    let mut predicate = enveloped(&json!([]));
    predicate["scanner"]["uri"] = json!(format!("\u{1b}[31m\"{}\u{202e}é", "x".repeat(58)));
    let name = read_json(COSIGN, &predicate).unwrap().scanner;
    assert_eq!(name, format!("[31m?{}?", "x".repeat(58)));
}

#[test]
fn more_findings_than_are_read_are_an_error_that_says_so() {
    let many = |count: usize| Value::Array(vec![json!({ "VulnerabilityID": "CVE-2026-0001", "Severity": "LOW" }); count]);
    assert_eq!(found(&trivy_of(&many(MOST_FINDINGS))).unwrap(), ["CVE-2026-0001 Low"]);
    assert_eq!(found(&trivy_of(&many(MOST_FINDINGS + 1))), Err(TOO_MANY));
    let halves = trivy(&json!([{ "Vulnerabilities": many(MOST_FINDINGS / 2) }, { "Vulnerabilities": many(MOST_FINDINGS / 2 + 1) }]));
    assert_eq!(found(&halves), Err(TOO_MANY));
    let list = Value::Array(vec![json!({ "id": "CVE-2026-0001" }); MOST_FINDINGS + 1]);
    assert_eq!(found(&list), Err(TOO_MANY));
    let matches = Value::Array(vec![json!({ "vulnerability": { "id": "CVE-2026-0001" } }); MOST_FINDINGS + 1]);
    assert_eq!(found(&grype(&matches)), Err(TOO_MANY));
    assert_eq!(TOO_MANY.to_string(), "the report has more than 50000 findings");
}

#[test]
fn words_and_scores_become_severities() {
    for (word, severity) in [
        ("CRITICAL", Severity::Critical),
        ("High", Severity::High),
        ("important", Severity::High),
        ("Moderate", Severity::Medium),
        (" low ", Severity::Low),
        ("NEGLIGIBLE", Severity::Negligible),
        ("none", Severity::Negligible),
        ("UNKNOWN", Severity::Unknown),
        ("severe", Severity::Unknown),
        ("", Severity::Unknown),
    ] {
        assert_eq!(Severity::of_word(word), severity, "{word}");
    }
    for (score, severity) in [
        ("10.0", Some(Severity::Critical)),
        ("9", Some(Severity::Critical)),
        ("8.9", Some(Severity::High)),
        ("7.0", Some(Severity::High)),
        ("6.9", Some(Severity::Medium)),
        ("4.0", Some(Severity::Medium)),
        ("3.9", Some(Severity::Low)),
        ("0.1", Some(Severity::Low)),
        ("0.0", None),
        ("-1", None),
        ("10.1", None),
        ("NaN", None),
        ("inf", None),
        ("high", None),
    ] {
        assert_eq!(Severity::of_score(score), severity, "{score}");
    }
    assert!(Severity::Unknown < Severity::Negligible && Severity::High < Severity::Critical);
    assert_eq!(serde_json::to_value(Severity::Negligible).unwrap(), json!("Negligible"));
}

mod of_sarif;
mod of_summaries;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn never_panics_on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for predicate_type in [COSIGN, IN_TOTO, SARIF] {
            prop_assert!(read(predicate_type, &bytes).is_err());
        }
    }

    #[test]
    fn never_panics_on_a_report_with_bytes_changed(place in 0_usize..2_000, byte in any::<u8>(), sarif in any::<bool>()) {
        let (predicate_type, json) = if sarif {
            (SARIF, of_sarif::example().to_string())
        } else {
            let vulnerability = json!({ "VulnerabilityID": "CVE-2026-0001", "Severity": "HIGH", "FixedVersion": "2" });
            (COSIGN, enveloped(&trivy_of(&json!([vulnerability]))).to_string())
        };
        let mut bytes = json.into_bytes();
        let place = place % bytes.len();
        bytes[place] = byte;
        if let Ok(report) = read(predicate_type, &bytes) {
            let summary = Summary::of(&report);
            prop_assert!(serde_json::to_string(&summary).unwrap().len() <= 1_200);
        }
    }
}
