use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn report(findings: &[&str]) -> Report {
    let mut found = Found::default();
    for finding in findings {
        let finding = Finding::try_from((*finding).to_owned()).unwrap();
        found.push(finding.id(), finding.severity, finding.fixable).unwrap();
    }
    Report { scanner: "trivy".into(), finished_at: at("2026-02-11T09:00:20Z"), findings: found.into_findings() }
}

fn summary(findings: &[&str]) -> Summary {
    Summary::of(&report(findings))
}

fn rule(max_severity: Severity) -> Rule {
    Rule { max_severity, only_fixable: false, max_age: None, counts: BTreeMap::new() }
}

fn judged(summary: &Summary, rule: &Rule, excepted: &[&str]) -> Result<(), Failing> {
    judge(summary, rule, &|id| excepted.contains(&id), at("2026-02-11T10:00:20Z"))
}

#[test]
fn a_summary_is_compact_and_comes_back_as_it_was() {
    let summary = summary(&["CVE-2026-0002 High", "CVE-2026-0001 Critical fixable", "CVE-2026-0003 High fixable"]);
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(
        json,
        json!({
            "scanner": "trivy",
            "finishedAt": "2026-02-11T09:00:20Z",
            "counts": { "critical": { "all": 1, "fixable": 1 }, "high": { "all": 2, "fixable": 1 } },
            "named": ["CVE-2026-0001 Critical fixable", "CVE-2026-0002 High", "CVE-2026-0003 High fixable"],
        })
    );
    assert_eq!(serde_json::from_value::<Summary>(json).unwrap(), summary);
    let clean = Summary::of(&report(&[]));
    let json = serde_json::to_string(&clean).unwrap();
    assert_eq!(json, r#"{"scanner":"trivy","finishedAt":"2026-02-11T09:00:20Z"}"#);
    assert_eq!(serde_json::from_str::<Summary>(&json).unwrap(), clean);
}

#[test]
fn findings_come_back_from_their_text_and_nothing_else_does() {
    for text in ["CVE-2026-0001 High", "CVE-2026-0001 Negligible fixable", "x Unknown"] {
        assert_eq!(Finding::try_from(text.to_owned()).unwrap().to_string(), text);
    }
    for text in ["", "CVE-2026-0001", "CVE-2026-0001 high", "CVE-2026-0001 High fixable fixable", " High", "CVE-1  High", "CVE-1 High "] {
        assert!(Finding::try_from(text.to_owned()).is_err(), "{text:?}");
    }
}

#[test]
fn the_largest_summary_stays_within_1200_bytes() {
    let mut found = Found::default();
    for (step, severity) in Severity::ALL.into_iter().enumerate() {
        for number in 0..8_333 {
            found.push(&format!("{:x<59}{step}{number:04}", "C"), severity, true).unwrap();
        }
    }
    let long = Report { scanner: scanner(&"\"é".repeat(64)), finished_at: at("9999-12-30T22:00:00Z"), findings: found.into_findings() };
    let json = serde_json::to_string(&Summary::of(&long)).unwrap();
    assert!(json.len() <= 1_200, "{}", json.len());
    // And so does one with as many names as there may be.
    let names: Vec<String> = (0..50).map(|number| format!("CVE-2026-{number:05} Critical fixable")).collect();
    let many = summary(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(many.named.len(), MOST_NAMED);
    assert!(serde_json::to_string(&many).unwrap().len() <= 1_200);
}

#[test]
fn the_schema_bounds_what_it_can() {
    let schema = serde_json::to_value(schemars::schema_for!(Summary)).unwrap();
    assert_eq!(schema["properties"]["scanner"]["maxLength"], json!(64));
    assert_eq!(schema["properties"]["named"]["maxItems"], json!(MOST_NAMED));
    let longest = Finding::new(&"C".repeat(MOST_ID_BYTES), Severity::Negligible, true).unwrap().to_string().len();
    assert_eq!(schema["properties"]["named"]["items"]["maxLength"], json!(longest));
}

#[test]
fn what_is_worse_than_the_rule_allows_fails_by_name() {
    let summary = summary(&["CVE-2026-0001 Critical", "CVE-2026-0002 High fixable", "CVE-2026-0003 Medium fixable"]);
    assert_eq!(judged(&summary, &rule(Severity::Critical), &[]), Ok(()));
    let failing = judged(&summary, &rule(Severity::High), &[]).unwrap_err();
    assert_eq!(failing.to_string(), "1 of severity Critical, 0 allowed: CVE-2026-0001");
    assert_eq!(judged(&summary, &rule(Severity::High), &["CVE-2026-0001"]), Ok(()));
    let failing = judged(&summary, &rule(Severity::Medium), &["CVE-2026-0001"]).unwrap_err();
    let ids = vec!["CVE-2026-0002".to_owned()];
    assert_eq!(failing, Failing::Findings { severity: Severity::High, count: 1, allowed: 0, ids, more: false });
    let fixable = Rule { only_fixable: true, ..rule(Severity::High) };
    assert_eq!(judged(&summary, &fixable, &[]), Ok(()));
    assert!(judged(&summary, &Rule { only_fixable: true, ..rule(Severity::Low) }, &["CVE-2026-0002"]).is_err());
    // Unknown as a rule allows nothing at all.
    assert!(judged(&self::summary(&["CVE-2026-0004 Negligible"]), &rule(Severity::Unknown), &[]).is_err());
}

#[test]
fn an_unknown_severity_counts_as_high() {
    let summary = summary(&["CVE-2026-0001 Unknown"]);
    for (max, good) in [(Severity::Medium, false), (Severity::Negligible, false), (Severity::High, true), (Severity::Critical, true)] {
        assert_eq!(judged(&summary, &rule(max), &[]).is_ok(), good, "{max}");
    }
    let counted = Rule { counts: BTreeMap::from([(Severity::Unknown, 0)]), ..rule(Severity::High) };
    assert!(judged(&summary, &counted, &[]).is_err());
    let high = Rule { counts: BTreeMap::from([(Severity::High, 0)]), ..rule(Severity::High) };
    assert_eq!(judged(&summary, &high, &[]), Ok(()));
}

#[test]
fn a_number_bounds_what_is_allowed_and_allows_nothing_worse() {
    let summary = summary(&["CVE-2026-0001 Medium", "CVE-2026-0002 Medium", "CVE-2026-0003 Medium", "CVE-2026-0004 Medium"]);
    let two = Rule { counts: BTreeMap::from([(Severity::Medium, 2)]), ..rule(Severity::High) };
    let failing = judged(&summary, &two, &["CVE-2026-0002"]).unwrap_err();
    assert_eq!(failing.to_string(), "3 of severity Medium, 2 allowed: CVE-2026-0001, CVE-2026-0003, CVE-2026-0004");
    assert_eq!(judged(&summary, &two, &["CVE-2026-0002", "CVE-2026-0004"]), Ok(()));
    let failing = judged(&summary, &two, &[]).unwrap_err();
    assert_eq!(failing.to_string(), "4 of severity Medium, 2 allowed: CVE-2026-0001, CVE-2026-0002, CVE-2026-0003 and others");
    let low = Rule { counts: BTreeMap::from([(Severity::Medium, 9)]), ..rule(Severity::Low) };
    assert!(matches!(judged(&summary, &low, &[]), Err(Failing::Findings { allowed: 0, count: 4, .. })));
}

#[test]
fn what_is_not_named_cannot_be_excepted() {
    let names: Vec<String> = (0..25).map(|number| format!("CVE-2026-{number:04} High")).collect();
    let summary = summary(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let failing = judge(&summary, &rule(Severity::Medium), &|_| true, at("2026-02-11T10:00:20Z")).unwrap_err();
    assert_eq!(failing, Failing::Findings { severity: Severity::High, count: 5, allowed: 0, ids: vec![], more: true });
    assert_eq!(failing.to_string(), "5 of severity High, 0 allowed");
}

#[test]
fn a_report_is_neither_too_old_nor_from_the_future() {
    let summary = summary(&[]);
    let hour = Rule { max_age: Some(Duration::from_secs(3_600)), ..rule(Severity::High) };
    let judged = |rule: &Rule, now: &str| judge(&summary, rule, &|_| false, at(now));
    assert_eq!(judged(&hour, "2026-02-11T10:00:20Z"), Ok(()));
    let failing = judged(&hour, "2026-02-11T10:00:21Z").unwrap_err();
    assert_eq!(failing.to_string(), "the scan of 2026-02-11T09:00:20Z is older than 1h");
    assert_eq!(judged(&rule(Severity::High), "9999-01-01T00:00:00Z"), Ok(()));
    assert_eq!(judged(&hour, "2026-02-11T08:55:20Z"), Ok(()));
    assert_eq!(judged(&rule(Severity::High), "2026-02-11T08:55:19Z"), Err(Failing::FromTheFuture { finished_at: summary.finished_at }));
    let ever = Rule { max_age: Some(Duration::MAX), ..rule(Severity::High) };
    assert_eq!(judged(&ever, "9999-01-01T00:00:00Z"), Ok(()));
}
