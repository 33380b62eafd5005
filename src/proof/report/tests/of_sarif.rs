use super::*;

fn help(id: &str, severity: &str, fixed: &str) -> Value {
    json!({ "text": format!("Vulnerability {id}\nSeverity: {severity}\nPackage: libfoo\nFixed Version: {fixed}\nLink: [{id}]()\nSeverity: LOW\nFixed Version: 9") })
}

fn sarif(rules: &Value, results: &Value) -> Value {
    json!({ "version": "2.1.0", "runs": [{
        "tool": { "driver": { "name": "Trivy", "version": "0.60.0", "rules": rules } },
        "invocations": [{ "executionSuccessful": true, "endTimeUtc": "2026-02-11T09:00:20Z" }],
        "results": results,
    }] })
}

pub(super) fn example() -> Value {
    sarif(
        &json!([{ "id": "CVE-2026-0001", "help": help("CVE-2026-0001", "CRITICAL", ""), "properties": { "security-severity": "7.5" } }]),
        &json!([{ "ruleId": "CVE-2026-0001", "ruleIndex": 0, "message": { "text": "Package: libfoo\nSeverity: CRITICAL\nFixed Version: 2" } }]),
    )
}

fn alone(document: &Value) -> Result<Vec<String>, ReportError> {
    read_json(SARIF, document).map(|report| report.findings.into_iter().map(String::from).collect())
}

#[test]
fn severity_and_fix_are_taken_from_the_rule_or_else_from_texts() {
    let rules = json!([
        { "id": "CVE-2026-0001", "help": help("CVE-2026-0001", "LOW", "2"), "properties": { "security-severity": "9.8" } },
        { "id": "CVE-2026-0002", "help": help("CVE-2026-0002", "HIGH", ""), "properties": { "security-severity": "0.0" } },
        { "id": "CVE-2026-0003", "properties": { "security-severity": 4.4 } },
        { "id": "CVE-2026-0004" },
        { "id": "CVE-2026-0005" },
        { "id": "CVE-2026-0006-lib-foo", "help": { "text": "Vulnerability CVE-2026-0006\nSeverity: Medium\nFix Version: \nType: apk" } },
        { "id": "CVE-2026-0007", "help": { "text": "Vulnerability CVE-1999-0001" } },
    ]);
    let results = json!([
        { "ruleId": "CVE-2026-0001" },
        { "rule": { "id": "CVE-2026-0002" } },
        { "ruleIndex": 2 },
        { "ruleId": "CVE-2026-0004", "message": { "text": "Severity: HIGH\nFixed Version: " } },
        { "ruleId": "CVE-2026-0005", "suppressions": [{ "kind": "external" }], "baselineState": "absent", "level": "none" },
        { "ruleId": "CVE-2026-0006-lib-foo" },
        { "ruleId": "CVE-2026-0007", "kind": "pass" },
    ]);
    let expected = [
        "CVE-2026-0001 Critical fixable",
        "CVE-2026-0002 High",
        "CVE-2026-0004 High",
        "CVE-2026-0005 Unknown fixable",
        "CVE-2026-0003 Medium fixable",
        "CVE-2026-0006 Medium",
    ];
    assert_eq!(alone(&sarif(&rules, &results)).unwrap(), expected);
    // The same in cosign's envelope, where the time is the envelope's.
    let mut untimed = sarif(&rules, &results);
    untimed["runs"][0].as_object_mut().unwrap().remove("invocations");
    assert_eq!(found(&untimed).unwrap(), expected);
    assert_eq!(alone(&untimed), Err(ReportError::Missing("invocations[].endTimeUtc")));
}

#[test]
fn the_message_says_which_package_has_a_fix() {
    assert_eq!(alone(&example()).unwrap(), ["CVE-2026-0001 High fixable"]);
}

#[test]
fn every_run_is_read_and_the_first_to_end_gives_the_time() {
    let mut document = example();
    let mut second = document["runs"][0].clone();
    second["tool"]["driver"] = json!({ "name": "Grype", "version": "1", "rules": [] });
    second["tool"]["extensions"] =
        json!([{ "name": "more", "rules": [{ "id": "CVE-2026-0009", "properties": { "security-severity": "9.0" } }] }]);
    second["results"] = json!([{ "ruleId": "CVE-2026-0009" }]);
    second["invocations"] = json!([{ "endTimeUtc": "2026-02-12T00:00:00Z" }, { "endTimeUtc": "2026-02-10T00:00:00Z" }, {}]);
    document["runs"].as_array_mut().unwrap().push(second);
    let report = read_json(SARIF, &document).unwrap();
    assert_eq!(report.findings.len(), 2);
    assert_eq!(report.findings[0].id(), "CVE-2026-0009");
    assert_eq!(report.finished_at, "2026-02-10T00:00:00Z".parse().unwrap());
    assert_eq!(report.scanner, "Trivy 0.60.0");
    document["runs"][1]["invocations"] = json!([]);
    assert_eq!(alone(&document), Err(ReportError::Missing("invocations[].endTimeUtc")));
}

#[test]
fn what_says_nothing_of_vulnerabilities_is_an_error() {
    let change = |pointer: &str, value: Value| {
        let mut document = sarif(&json!([]), &json!([]));
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[key] = value;
        alone(&document)
    };
    assert_eq!(alone(&sarif(&json!([]), &json!([]))), Ok(Vec::new()));
    assert_eq!(change("/version", json!("2.0.0")), Err(ReportError::Version { format: "SARIF", version: "2.0.0".into() }));
    assert_eq!(change("/runs", json!([])), Err(ReportError::Missing("runs")));
    let many = ReportError::TooMany { most: 64, what: "runs" };
    assert_eq!(change("/runs", Value::Array(vec![example()["runs"][0].clone(); 65])), Err(many));
    assert_eq!(change("/runs/0/results", Value::Null), Err(ReportError::Missing("results of a run")));
    assert_eq!(change("/runs/0/tool/driver/name", json!("CodeQL")), Err(ReportError::Tool("CodeQL".into())));
    assert_eq!(change("/runs/0/externalPropertyFileReferences", json!({ "results": [] })), Err(ReportError::Elsewhere));
    assert_eq!(change("/inlineExternalProperties", json!([])), Err(ReportError::Elsewhere));
    assert_eq!(change("/runs/0/invocations/0/executionSuccessful", json!(false)), Err(ReportError::Unfinished));
    assert_eq!(change("/runs/0/invocations/0/endTimeUtc", json!("soon")), Err(ReportError::Time("invocations[].endTimeUtc")));
    assert_eq!(change("/runs/0/results", json!([{}])), Err(ReportError::Missing("rule of a result")));
    assert_eq!(change("/runs/0/results", json!([{ "ruleIndex": -1 }])), Err(ReportError::Missing("rule of a result")));
    assert_eq!(change("/runs/0/results", json!([{ "ruleIndex": 7 }])), Err(ReportError::Missing("rule of a result")));
    assert_eq!(change("/runs/0/results", json!([{ "ruleId": "CVE-1" }])), Err(ReportError::Rule("CVE-1".into())));
    for document in [json!({}), json!({ "version": "2.1.0" }), json!({ "version": "2.1.0", "runs": [{ "results": [] }] }), json!([])] {
        assert!(matches!(alone(&document), Err(ReportError::Json(_))), "{document}");
    }
}

#[test]
fn of_two_rules_with_one_id_the_worse_counts() {
    let rules = json!([
        { "id": "CVE-2026-0001", "properties": { "security-severity": "9.8" }, "help": { "text": "Fixed Version: 2" } },
        { "id": "CVE-2026-0001", "properties": { "security-severity": "1.0" }, "help": { "text": "Fixed Version:" } },
    ]);
    assert_eq!(alone(&sarif(&rules, &json!([{ "ruleId": "CVE-2026-0001" }]))).unwrap(), ["CVE-2026-0001 Critical fixable"]);
}
