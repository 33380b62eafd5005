//! Vulnerability reports: the predicates of attestations whose signature and subject were checked before.
//!
//! Read are
//!
//! - `https://cosign.sigstore.dev/attestation/vuln/v1` (cosign's COSIGN_VULN_ATTESTATION_SPEC) and `https://in-toto.io/attestation/vulns`,
//!   with `/v0.1`, `/v0.2` or without
//!   a version (in-toto's vulns predicate). Both have one envelope, and scanners write either; so `scanner.result` may be Trivy's JSON,
//!   Grype's JSON, SARIF, or the list
//!   that in-toto defines, under any of these types;
//! - SARIF 2.1.0 as the whole predicate. No type is standardised for that: `application/sarif+json` (the media type),
//!   `https://docs.oasis-open.org/sarif/sarif/v2.1.0` and
//!   what lies below it, and `https://json.schemastore.org/sarif-2.1.0.json` are taken.
//!
//! What cannot be understood is an error and never "no findings". Where a format cannot say whether there is a fix, a finding counts as
//! fixable: to be unfixable excuses it.

mod finding;
mod grype;
mod json;
mod rule;
mod sarif;
mod summary;
mod trivy;
mod vulns;

use jiff::Timestamp;

pub(in crate::proof) use self::{
    finding::is_id,
    json::{Few, unreadable},
};
pub use self::{
    finding::{Finding, MOST_ID_BYTES, Severity},
    rule::{Failing, Rule, judge},
    summary::{Count, Counts, MOST_NAMED, Summary},
};

/// Entries that one report may have, before those of one id are taken together.
pub const MOST_FINDINGS: usize = 50_000;
/// The error of a report with more.
const TOO_MANY: ReportError = ReportError::TooMany { most: MOST_FINDINGS, what: "findings" };
/// Characters of a scanner's name that are kept.
const MOST_SCANNER: usize = 64;
/// The first second of the year 2000. No report is older: what says so is a clock that was never set, or Go's zero time for "not given".
const FIRST_SECOND: i64 = 946_684_800;

/// What a scanner found in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who looked, as the report says: a package URL or a name. At most 64 characters of printable ASCII.
    pub scanner: String,
    /// When the scan was over. Never before the year 2000; whether it lies in the future is for [`judge`].
    pub finished_at: Timestamp,
    /// What was found: one entry an id, the worst first and then by id; at most 50,000.
    pub findings: Vec<Finding>,
}

/// Why a predicate is no report that says what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Another predicate type.
    #[error("`{0}` is no type of vulnerability report that is read here")]
    Type(String),
    /// No JSON, or a field of another type than the format gives it.
    #[error("the report cannot be read: {0}")]
    Json(String),
    /// Something that the format requires is not there.
    #[error("the report has no {0}")]
    Missing(&'static str),
    /// The scanner's result is in none of the formats that are read, or in two at once.
    #[error("the scanner's result is neither Trivy's, Grype's, SARIF nor in-toto's list")]
    Shape,
    /// A version of a format that is not read.
    #[error("{format} of version `{version}` is not read here")]
    Version {
        /// The name of the format.
        format: &'static str,
        /// What the report says, at most 64 characters.
        version: String,
    },
    /// No time, or one that cannot be: the report's age is unknown.
    #[error("the report's {0} is no time since 2000")]
    Time(&'static str),
    /// An id that is no vulnerability's.
    #[error("`{0}` is no id of a vulnerability")]
    Id(String),
    /// More entries than are read.
    #[error("the report has more than {most} {what}")]
    TooMany {
        /// So many are read.
        most: usize,
        /// Of what.
        what: &'static str,
    },
    /// The scan did not look for vulnerabilities.
    #[error("the scan did not look for vulnerabilities")]
    OtherScan,
    /// SARIF by a tool that is not known to look for vulnerabilities of packages.
    #[error("`{0}` is no scanner whose SARIF is read here")]
    Tool(String),
    /// SARIF whose result names a rule that the report does not have.
    #[error("a result names the rule `{0}`, which the report does not have")]
    Rule(String),
    /// The scan failed, as the report itself says.
    #[error("the scan did not end well")]
    Unfinished,
    /// SARIF that keeps a part of itself in other files.
    #[error("a part of the report lies in other files")]
    Elsewhere,
}

/// The envelope of a predicate type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Envelope {
    Vulns,
    Sarif,
}

fn envelope(predicate_type: &str) -> Option<Envelope> {
    match predicate_type {
        "https://cosign.sigstore.dev/attestation/vuln/v1"
        | "https://in-toto.io/attestation/vulns"
        | "https://in-toto.io/attestation/vulns/v0.1"
        | "https://in-toto.io/attestation/vulns/v0.2" => Some(Envelope::Vulns),
        "application/sarif+json" | "https://json.schemastore.org/sarif-2.1.0.json" => Some(Envelope::Sarif),
        other => {
            let rest = other.strip_prefix("https://docs.oasis-open.org/sarif/sarif/v2.1.0")?;
            (rest.is_empty() || rest.starts_with('/')).then_some(Envelope::Sarif)
        }
    }
}

/// Whether a predicate of this type is a vulnerability report that [`read`] reads. The module says which are.
#[must_use]
pub fn is_report(predicate_type: &str) -> bool {
    envelope(predicate_type).is_some()
}

/// Reads a predicate. Whoever calls bounds its size and refuses duplicate keys.
pub fn read(predicate_type: &str, predicate: &[u8]) -> Result<Report, ReportError> {
    match envelope(predicate_type) {
        Some(Envelope::Vulns) => vulns::read(predicate),
        Some(Envelope::Sarif) => sarif::read_alone(predicate),
        None => Err(ReportError::Type(crate::history::clip(predicate_type, 64))),
    }
}

/// What is being collected from a report.
#[derive(Default)]
struct Found(Vec<Finding>);

impl Found {
    fn push(&mut self, id: &str, severity: Severity, fixable: bool) -> Result<(), ReportError> {
        if self.0.len() >= MOST_FINDINGS {
            return Err(TOO_MANY);
        }
        let finding = Finding::new(id, severity, fixable).ok_or_else(|| ReportError::Id(crate::image::clip(id)))?;
        self.0.push(finding);
        Ok(())
    }

    /// One entry an id, with the highest severity that any of its entries knows, and fixable if any is; the worst first.
    fn into_findings(self) -> Vec<Finding> {
        let mut findings = self.0;
        findings.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        findings.dedup_by(|later, kept| {
            let same = later.id() == kept.id();
            if same {
                kept.severity = kept.severity.max(later.severity);
                kept.fixable |= later.fixable;
            }
            same
        });
        // Stable, so that the ids stay in order.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity.weight()));
        findings
    }
}

/// A scanner's name: at most 64 characters of printable ASCII without what JSON would escape.
fn scanner(name: &str) -> String {
    let plain = |character: char| match character {
        '"' | '\\' | '`' => '?',
        ' '..='~' => character,
        _ => '?',
    };
    name.trim().chars().filter(|character| !character.is_control()).take(MOST_SCANNER).map(plain).collect()
}

/// A time of the report in RFC 3339, cut to whole seconds.
fn time(field: &'static str, text: Option<&str>) -> Result<Timestamp, ReportError> {
    let text = text.ok_or(ReportError::Missing(field))?;
    let time: Timestamp = text.parse().map_err(|_| ReportError::Time(field))?;
    let seconds = time.as_second();
    if seconds < FIRST_SECOND {
        return Err(ReportError::Time(field));
    }
    Timestamp::from_second(seconds).map_err(|_| ReportError::Time(field))
}

#[cfg(test)]
mod tests;
