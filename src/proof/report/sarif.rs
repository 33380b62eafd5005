//! SARIF 2.1.0 as scanners of vulnerabilities write it.
//!
//! Every run is read, and every run must be by a scanner that is known to look for vulnerabilities: a linter's empty SARIF says nothing of
//! them. A result's severity is its
//! rule's `security-severity` (a CVSS score) or else the `Severity: WORD` of the rule's help text or of its own message, as Ratify reads
//! it. Suppressions and baselines
//! clear nothing: Grype used to mark everything as suppressed.
//!
//! As a predicate of its own, SARIF has to say when the scan was over (`invocations[].endTimeUtc`), which Trivy and Grype do not write:
//! theirs goes into cosign's envelope.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};

use super::{Few, Found, MOST_FINDINGS, Report, ReportError, Severity, TOO_MANY, time, unreadable};

/// Runs of one document.
const MOST_RUNS: usize = 64;
/// The beginnings of the names by which scanners of vulnerabilities call themselves, without regard to case.
const SCANNERS: [&str; 6] = ["trivy", "grype", "anchore container vulnerability", "snyk container", "docker scout", "osv-scanner"];
/// The field that says when a scan was over.
const END: &str = "invocations[].endTimeUtc";

#[derive(Deserialize)]
struct Wire {
    version: String,
    runs: Few<Run, MOST_RUNS>,
    #[serde(rename = "inlineExternalProperties")]
    inline: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    tool: Tool,
    /// Empty where nothing was found; absent or null where nobody looked.
    results: Option<Few<Outcome, MOST_FINDINGS>>,
    #[serde(default)]
    invocations: Option<Few<Invocation, MOST_RUNS>>,
    external_property_file_references: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Tool {
    driver: Component,
    extensions: Option<Few<Component, MOST_RUNS>>,
}

#[derive(Deserialize)]
struct Component {
    name: String,
    version: Option<String>,
    rules: Option<Few<Rule, MOST_FINDINGS>>,
}

#[derive(Deserialize)]
struct Rule {
    id: String,
    help: Option<Text>,
    properties: Option<Properties>,
}

#[derive(Deserialize)]
struct Text {
    text: Option<String>,
}

#[derive(Deserialize)]
struct Properties {
    #[serde(rename = "security-severity")]
    security_severity: Option<Score>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Score {
    Text(String),
    Number(f64),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    end_time_utc: Option<String>,
    execution_successful: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    rule_id: Option<String>,
    rule_index: Option<i64>,
    rule: Option<Named>,
    kind: Option<String>,
    message: Option<Text>,
}

#[derive(Deserialize)]
struct Named {
    id: Option<String>,
}

/// What was read.
pub(super) struct Sarif {
    pub(super) found: Found,
    pub(super) scanner: String,
    /// When the first of the runs was over; none where one of them does not say.
    ended: Option<Timestamp>,
}

/// What a rule, or a result's message, says of its vulnerability.
#[derive(Clone, Default)]
struct Said {
    id: Option<String>,
    severity: Option<Severity>,
    fixable: Option<bool>,
}

pub(super) fn read_alone(predicate: &[u8]) -> Result<Report, ReportError> {
    let sarif = read(predicate)?;
    let finished_at = sarif.ended.ok_or(ReportError::Missing(END))?;
    Ok(Report { scanner: super::scanner(&sarif.scanner), finished_at, findings: sarif.found.into_findings() })
}

pub(super) fn read(json: &[u8]) -> Result<Sarif, ReportError> {
    let wire: Wire = serde_json::from_slice(json).map_err(|error| ReportError::Json(unreadable(&error)))?;
    if wire.version != "2.1.0" {
        return Err(ReportError::Version { format: "SARIF", version: crate::history::clip(&wire.version, 64) });
    }
    if wire.inline.is_some() {
        return Err(ReportError::Elsewhere);
    }
    let mut sarif = Sarif { found: Found::default(), scanner: String::new(), ended: None };
    let mut ends = Vec::new();
    for run in wire.runs.all().ok_or(too_many("runs"))? {
        let (scanner, end) = add(run, &mut sarif.found)?;
        if sarif.scanner.is_empty() {
            sarif.scanner = scanner;
        }
        ends.push(end);
    }
    if ends.is_empty() {
        return Err(ReportError::Missing("runs"));
    }
    let ends: Option<Vec<Timestamp>> = ends.into_iter().collect();
    sarif.ended = ends.and_then(|ends| ends.into_iter().min());
    Ok(sarif)
}

const fn too_many(what: &'static str) -> ReportError {
    ReportError::TooMany { most: MOST_RUNS, what }
}

/// The elements of a list that may be absent.
fn listed<T, const MOST: usize>(list: Option<Few<T, MOST>>, error: ReportError) -> Result<Vec<T>, ReportError> {
    list.map_or_else(|| Ok(Vec::new()), |list| list.all().ok_or(error))
}

/// Adds what a run found. Returns the scanner's name and when the run was over.
fn add(run: Run, found: &mut Found) -> Result<(String, Option<Timestamp>), ReportError> {
    if run.external_property_file_references.is_some() {
        return Err(ReportError::Elsewhere);
    }
    let driver = run.tool.driver;
    let name = driver.name.trim().to_ascii_lowercase();
    if !SCANNERS.iter().any(|scanner| name.starts_with(scanner)) {
        return Err(ReportError::Tool(crate::image::clip(&driver.name)));
    }
    let end = ended(run.invocations)?;
    let scanner = match driver.version.as_deref().map(str::trim) {
        None | Some("") => driver.name,
        Some(version) => format!("{} {version}", driver.name.trim()),
    };
    let mut rules: HashMap<String, Said> = HashMap::new();
    let mut in_order = Vec::new();
    for rule in listed(driver.rules, TOO_MANY)? {
        in_order.push(rule.id.clone());
        remember(rule, &mut rules);
    }
    for extension in listed(run.tool.extensions, too_many("extensions"))? {
        for rule in listed(extension.rules, TOO_MANY)? {
            remember(rule, &mut rules);
        }
    }
    let results = run.results.ok_or(ReportError::Missing("results of a run"))?;
    for result in results.all().ok_or(TOO_MANY)? {
        // Of a check that found nothing. What has no kind is a finding.
        if matches!(result.kind.as_deref(), Some("pass" | "notApplicable")) {
            continue;
        }
        let by_index = |index: i64| in_order.get(usize::try_from(index).ok()?).cloned();
        let id = result.rule_id.or_else(|| result.rule.and_then(|rule| rule.id)).or_else(|| result.rule_index.and_then(by_index));
        let id = id.ok_or(ReportError::Missing("rule of a result"))?;
        let rule = rules.get(&id).ok_or_else(|| ReportError::Rule(crate::image::clip(&id)))?;
        let message = said(result.message.and_then(|message| message.text).as_deref().unwrap_or_default());
        // One rule may stand for several packages, and only the message says which of them has a fix. Who says nothing of fixes may have
        // one.
        let fixable = message.fixable.or(rule.fixable).unwrap_or(true);
        let severity = rule.severity.or(message.severity).unwrap_or(Severity::Unknown);
        found.push(rule.id.as_deref().unwrap_or(&id), severity, fixable)?;
    }
    Ok((scanner, end))
}

/// When a run was over: the earliest end that it names.
fn ended(invocations: Option<Few<Invocation, MOST_RUNS>>) -> Result<Option<Timestamp>, ReportError> {
    let mut first: Option<Timestamp> = None;
    for invocation in listed(invocations, too_many("invocations"))? {
        if invocation.execution_successful == Some(false) {
            return Err(ReportError::Unfinished);
        }
        if let Some(end) = &invocation.end_time_utc {
            let end = time(END, Some(end))?;
            first = Some(first.map_or(end, |first| first.min(end)));
        }
    }
    Ok(first)
}

/// Takes a rule down. Of two with one id the worse counts.
fn remember(rule: Rule, rules: &mut HashMap<String, Said>) {
    let help = said(rule.help.and_then(|help| help.text).as_deref().unwrap_or_default());
    let score = rule.properties.and_then(|properties| properties.security_severity).and_then(|score| match score {
        Score::Text(text) => Severity::of_score(&text),
        Score::Number(number) => Severity::of_score(&number.to_string()),
    });
    // Grype's rules are named by vulnerability and package.
    let id = help.id.filter(|id| rule.id.contains(id.as_str()));
    let new = Said { id, severity: score.or(help.severity), fixable: help.fixable };
    match rules.get_mut(&rule.id) {
        None => {
            rules.insert(rule.id, new);
        }
        Some(old) => {
            old.severity = old.severity.max(new.severity);
            old.fixable = old.fixable.max(new.fixable);
        }
    }
}

/// What the lines of a text say, each the first time.
fn said(text: &str) -> Said {
    let mut said = Said::default();
    for line in text.lines().take(32).map(str::trim) {
        if let Some(id) = line.strip_prefix("Vulnerability ").map(str::trim) {
            if said.id.is_none() && super::is_id(id) {
                said.id = Some(id.to_owned());
            }
        } else if let Some(word) = line.strip_prefix("Severity:") {
            said.severity = said.severity.or_else(|| Some(Severity::of_word(word)));
        } else if let Some(version) = line.strip_prefix("Fixed Version:").or_else(|| line.strip_prefix("Fix Version:")) {
            said.fixable = said.fixable.or_else(|| Some(!version.trim().is_empty()));
        }
    }
    said
}
