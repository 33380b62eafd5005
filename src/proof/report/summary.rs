//! What is kept of a report in an object of 4 KB.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Finding, Report, Severity};

/// Findings that a summary names at the most.
pub const MOST_NAMED: usize = 20;
/// Bytes of JSON that the named findings may take together.
const MOST_NAMED_BYTES: usize = 780;

/// What is kept of a report: how many findings there are, and the worst by name. At most 1,200 bytes of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Who looked: a package URL or a name.
    #[schemars(length(max = 64))]
    pub scanner: String,
    /// When the scan was over.
    #[schemars(with = "k8s_openapi::apimachinery::pkg::apis::meta::v1::Time")]
    pub finished_at: Timestamp,
    /// How many vulnerabilities were found, by severity. What is not there is 0.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub counts: Counts,
    /// The worst of them, such as `CVE-2026-0001 High fixable`: at most 20, and fewer where ids are long. Only what is named can be
    /// excepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub named: Vec<Finding>,
}

/// How many vulnerabilities a report has, by severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "each is the Severity of the same name")]
pub struct Counts {
    #[serde(skip_serializing_if = "Count::is_zero")]
    pub critical: Count,
    #[serde(skip_serializing_if = "Count::is_zero")]
    pub high: Count,
    #[serde(skip_serializing_if = "Count::is_zero")]
    pub medium: Count,
    #[serde(skip_serializing_if = "Count::is_zero")]
    pub low: Count,
    #[serde(skip_serializing_if = "Count::is_zero")]
    pub negligible: Count,
    #[serde(skip_serializing_if = "Count::is_zero")]
    pub unknown: Count,
}

/// How many vulnerabilities of one severity a report has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Count {
    /// All of them.
    pub all: u32,
    /// Those that have a fix, or of which the report cannot say that they have none.
    #[serde(skip_serializing_if = "is_zero")]
    pub fixable: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Count {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    const fn is_zero(&self) -> bool {
        self.all == 0 && self.fixable == 0
    }
}

impl Counts {
    /// Nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Those of one severity.
    #[must_use]
    pub const fn get(&self, severity: Severity) -> Count {
        match severity {
            Severity::Unknown => self.unknown,
            Severity::Negligible => self.negligible,
            Severity::Low => self.low,
            Severity::Medium => self.medium,
            Severity::High => self.high,
            Severity::Critical => self.critical,
        }
    }

    fn add(&mut self, finding: &Finding) {
        let count = match finding.severity {
            Severity::Unknown => &mut self.unknown,
            Severity::Negligible => &mut self.negligible,
            Severity::Low => &mut self.low,
            Severity::Medium => &mut self.medium,
            Severity::High => &mut self.high,
            Severity::Critical => &mut self.critical,
        };
        count.all = count.all.saturating_add(1);
        count.fixable = count.fixable.saturating_add(u32::from(finding.fixable));
    }
}

impl Summary {
    /// The summary of a report.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        let mut counts = Counts::default();
        for finding in &report.findings {
            counts.add(finding);
        }
        let mut bytes = 0;
        let named = report.findings.iter().take(MOST_NAMED).take_while(|finding| {
            // With its quotes and a comma.
            bytes += finding.to_string().len() + 3;
            bytes <= MOST_NAMED_BYTES
        });
        let named = named.cloned().collect();
        Self { scanner: report.scanner.clone(), finished_at: report.finished_at, counts, named }
    }
}
