//! Grype's JSON report (`grype --output json`; Grype's `presenter/models`). Matches that Grype was told to ignore are no findings here
//! either.

use serde::Deserialize;

use super::{Few, Found, MOST_FINDINGS, ReportError, Severity, TOO_MANY, unreadable};

#[derive(Deserialize)]
struct Wire {
    /// Always there, and empty where nothing matches.
    matches: Few<Match, MOST_FINDINGS>,
    descriptor: Descriptor,
}

#[derive(Deserialize)]
struct Descriptor {
    name: String,
}

#[derive(Deserialize)]
struct Match {
    vulnerability: Vulnerability,
}

#[derive(Deserialize)]
struct Vulnerability {
    id: String,
    severity: Option<String>,
    fix: Option<Fix>,
}

#[derive(Deserialize)]
struct Fix {
    versions: Option<Few<serde::de::IgnoredAny, 0>>,
    /// `fixed`, `not-fixed`, `wont-fix` or `unknown`.
    state: Option<String>,
}

impl Fix {
    /// Not as `grype --only-fixed` has it, which also leaves out what Grype knows nothing of: that may have a fix.
    fn is_there(&self) -> bool {
        self.versions.as_ref().is_some_and(|versions| !versions.is_empty())
            || self.state.as_deref().is_none_or(|state| !matches!(state, "not-fixed" | "wont-fix"))
    }
}

pub(super) fn read(json: &str) -> Result<Found, ReportError> {
    let wire: Wire = serde_json::from_str(json).map_err(|error| ReportError::Json(unreadable(&error)))?;
    if !wire.descriptor.name.eq_ignore_ascii_case("grype") {
        return Err(ReportError::Shape);
    }
    let mut found = Found::default();
    for Match { vulnerability } in wire.matches.all().ok_or(TOO_MANY)? {
        let severity = vulnerability.severity.as_deref().map_or(Severity::Unknown, Severity::of_word);
        found.push(&vulnerability.id, severity, vulnerability.fix.as_ref().is_none_or(Fix::is_there))?;
    }
    Ok(found)
}
