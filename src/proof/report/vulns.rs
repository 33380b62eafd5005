//! The envelope of cosign's and in-toto's vulnerability predicates, and in-toto's own list within.
//!
//! in-toto's version 0.1 shows its elements plain and describes them within `vulnerability`; both are read, and so is a single severity in
//! place of a list. An element
//! without a severity is there for databases that have none (Go's): it is Unknown. The list does not say what can be fixed, so all of it
//! counts as fixable.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Few, Found, MOST_FINDINGS, Report, ReportError, Severity, TOO_MANY, grype, sarif, time, trivy, unreadable};

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    scanner: Option<Scanner<'a>>,
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Scanner<'a> {
    uri: Option<String>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    scan_finished_on: Option<String>,
}

/// By what the shapes of results are told apart.
#[derive(Deserialize)]
struct Marks<'a> {
    #[serde(rename = "SchemaVersion", borrow)]
    schema_version: Option<&'a RawValue>,
    #[serde(rename = "Results", borrow)]
    results: Option<&'a RawValue>,
    #[serde(borrow)]
    matches: Option<&'a RawValue>,
    #[serde(borrow)]
    runs: Option<&'a RawValue>,
}

pub(super) fn read(predicate: &[u8]) -> Result<Report, ReportError> {
    let wire: Wire<'_> = serde_json::from_slice(predicate).map_err(|error| ReportError::Json(unreadable(&error)))?;
    let scanner = wire.scanner.ok_or(ReportError::Missing("scanner"))?;
    let result = scanner.result.ok_or(ReportError::Missing("scanner.result"))?.get();
    let finished = wire.metadata.and_then(|metadata| metadata.scan_finished_on);
    let finished_at = time("metadata.scanFinishedOn", finished.as_deref())?;
    let (found, name) = match result.as_bytes().first() {
        Some(b'[') => (list(result)?, String::new()),
        Some(b'{') => shaped(result)?,
        _ => return Err(ReportError::Shape),
    };
    let name = scanner.uri.filter(|uri| !uri.trim().is_empty()).unwrap_or(name);
    if name.is_empty() {
        return Err(ReportError::Missing("scanner.uri"));
    }
    Ok(Report { scanner: super::scanner(&name), finished_at, findings: found.into_findings() })
}

/// What a scanner's own report says, and the scanner's name.
fn shaped(result: &str) -> Result<(Found, String), ReportError> {
    let marks: Marks<'_> = serde_json::from_str(result).map_err(|error| ReportError::Json(unreadable(&error)))?;
    let trivy = marks.schema_version.is_some() || marks.results.is_some();
    match (trivy, marks.matches.is_some(), marks.runs.is_some()) {
        (true, false, false) => Ok((trivy::read(result)?, "trivy".to_owned())),
        (false, true, false) => Ok((grype::read(result)?, "grype".to_owned())),
        (false, false, true) => sarif::read(result.as_bytes()).map(|sarif| (sarif.found, sarif.scanner)),
        _ => Err(ReportError::Shape),
    }
}

#[derive(Deserialize)]
struct Element {
    id: Option<String>,
    severity: Option<Severities>,
    vulnerability: Option<Wrapped>,
}

#[derive(Deserialize)]
struct Wrapped {
    id: Option<String>,
    severity: Option<Severities>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Severities {
    Several(Vec<Scored>),
    One(Scored),
}

#[derive(Deserialize)]
struct Scored {
    method: Option<String>,
    score: Option<Score>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Score {
    Text(String),
    Number(f64),
}

fn list(result: &str) -> Result<Found, ReportError> {
    let elements: Few<Element, MOST_FINDINGS> = serde_json::from_str(result).map_err(|error| ReportError::Json(unreadable(&error)))?;
    let mut found = Found::default();
    for element in elements.all().ok_or(TOO_MANY)? {
        let (id, severities) = match element {
            Element { id, severity, vulnerability: None } => (id, severity),
            Element { id: None, severity: None, vulnerability: Some(wrapped) } => (wrapped.id, wrapped.severity),
            // Two places could say two things.
            _ => return Err(ReportError::Shape),
        };
        let id = id.ok_or(ReportError::Missing("id of a vulnerability"))?;
        found.push(&id, severity(severities), true)?;
    }
    Ok(found)
}

/// The highest of what the methods say.
fn severity(severities: Option<Severities>) -> Severity {
    let scored = match severities {
        None => Vec::new(),
        Some(Severities::One(one)) => vec![one],
        Some(Severities::Several(several)) => several,
    };
    scored.iter().map(Scored::severity).max().unwrap_or(Severity::Unknown)
}

impl Scored {
    /// A word, or else a number by a method that is CVSS: the numbers of others (EPSS, a vendor's risk) are on other scales.
    fn severity(&self) -> Severity {
        let text = match &self.score {
            None => return Severity::Unknown,
            Some(Score::Text(text)) => text.clone(),
            Some(Score::Number(number)) => number.to_string(),
        };
        let method = self.method.as_deref().unwrap_or_default().to_ascii_lowercase();
        let is_cvss = method.contains("cvss") || method == "nvd";
        match Severity::of_score(&text) {
            Some(severity) if is_cvss => severity,
            _ => Severity::of_word(&text),
        }
    }
}
