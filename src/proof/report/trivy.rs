//! Trivy's JSON report (`trivy image --format json`, `SchemaVersion` 2; Trivy's `pkg/types/report.go`).
//!
//! What Trivy itself was told to leave out (an ignore file, a VEX document of its own) is no finding here either: whoever signed the report
//! answers for that.

use serde::Deserialize;

use super::{Few, Found, MOST_FINDINGS, ReportError, Severity, TOO_MANY, unreadable};

/// Targets within one image: packages of the system, and every lock file and binary.
const MOST_RESULTS: usize = 20_000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    schema_version: u64,
    artifact_name: Option<String>,
    artifact_type: Option<String>,
    results: Option<Few<Target, MOST_RESULTS>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Target {
    class: Option<String>,
    vulnerabilities: Option<Few<Vulnerability, MOST_FINDINGS>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Vulnerability {
    #[serde(rename = "VulnerabilityID")]
    id: String,
    severity: Option<String>,
    fixed_version: Option<String>,
}

impl Target {
    /// Whether this is about packages. Old reports have no class; those of configuration, secrets and licences have theirs.
    fn is_of_packages(&self) -> bool {
        self.vulnerabilities.is_some() || self.class.as_deref().is_none_or(|class| matches!(class, "" | "os-pkgs" | "lang-pkgs"))
    }
}

pub(super) fn read(json: &str) -> Result<Found, ReportError> {
    let wire: Wire = serde_json::from_str(json).map_err(|error| ReportError::Json(unreadable(&error)))?;
    if wire.schema_version != 2 {
        return Err(ReportError::Version { format: "Trivy's report", version: wire.schema_version.to_string() });
    }
    let mut found = Found::default();
    let Some(targets) = wire.results else {
        // Trivy marks the list `omitempty` and never writes an empty one: an image in which there is nothing to look at, such as one static
        // binary, has none. That much
        // is believed of a report that says which image was scanned.
        let named = wire.artifact_name.is_some_and(|name| !name.is_empty());
        return if named && wire.artifact_type.as_deref() == Some("container_image") {
            Ok(found)
        } else {
            Err(ReportError::Missing("Results"))
        };
    };
    let targets = targets.all().ok_or(ReportError::TooMany { most: MOST_RESULTS, what: "targets" })?;
    if !targets.is_empty() && !targets.iter().any(Target::is_of_packages) {
        return Err(ReportError::OtherScan);
    }
    // Absent or null where a target is clean: this list is `omitempty`, too.
    for vulnerabilities in targets.into_iter().filter_map(|target| target.vulnerabilities) {
        for vulnerability in vulnerabilities.all().ok_or(TOO_MANY)? {
            let severity = vulnerability.severity.as_deref().map_or(Severity::Unknown, Severity::of_word);
            let fixable = vulnerability.fixed_version.is_some_and(|version| !version.trim().is_empty());
            found.push(&vulnerability.id, severity, fixable)?;
        }
    }
    Ok(found)
}
