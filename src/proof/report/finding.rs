//! One finding, and how bad it is.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Bytes that the id of a vulnerability may have.
pub const MOST_ID_BYTES: usize = 64;

/// How bad a vulnerability is, as its scanner says. In this order; `Unknown` is the lowest, and [`super::judge`] does not trust it to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    /// The scanner does not know, or says a word that is not known here. It counts as High.
    Unknown,
    /// Nobody needs to care.
    Negligible,
    /// Of little consequence; a CVSS score above 0.
    Low,
    /// A CVSS score of 4 or more.
    Medium,
    /// A CVSS score of 7 or more.
    High,
    /// A CVSS score of 9 or more.
    Critical,
}

impl Severity {
    /// All of them, the worst first; Unknown stands where it weighs.
    pub const ALL: [Self; 6] = [Self::Critical, Self::High, Self::Unknown, Self::Medium, Self::Low, Self::Negligible];

    /// The word for people and for CRDs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Negligible => "Negligible",
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
            Self::Critical => "Critical",
        }
    }

    /// A scanner's or a vendor's word, in upper or lower case. A word that is not known is Unknown.
    #[must_use]
    pub fn of_word(word: &str) -> Self {
        let words = [
            ("critical", Self::Critical),
            ("high", Self::High),
            ("important", Self::High),
            ("medium", Self::Medium),
            ("moderate", Self::Medium),
            ("low", Self::Low),
            ("negligible", Self::Negligible),
            ("unimportant", Self::Negligible),
            ("none", Self::Negligible),
        ];
        let word = word.trim();
        words.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map_or(Self::Unknown, |(_, severity)| *severity)
    }

    /// A CVSS base score from 0 to 10, by the bands of CVSS 3. None for 0, by which scanners mean that they have no score, and for what is
    /// no score.
    #[must_use]
    pub fn of_score(text: &str) -> Option<Self> {
        let score: f64 = text.trim().parse().ok()?;
        if !(score > 0.0 && score <= 10.0) {
            return None;
        }
        Some(match score {
            9.0.. => Self::Critical,
            7.0.. => Self::High,
            4.0.. => Self::Medium,
            _ => Self::Low,
        })
    }

    /// What it counts as: Unknown is High.
    #[must_use]
    pub const fn judged(self) -> Self {
        match self {
            Self::Unknown => Self::High,
            known => known,
        }
    }

    /// For what is listed the worst first: Unknown comes after High and before Medium.
    pub(super) fn weight(self) -> (Self, bool) {
        (self.judged(), self != Self::Unknown)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One vulnerability that a scanner found. In text `CVE-2026-0001 High fixable`, or without the last word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Finding {
    id: String,
    /// How bad it is.
    pub severity: Severity,
    /// There is a version without it, or the report cannot say that there is none.
    pub fixable: bool,
}

/// Why a text is no [`Finding`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no finding: write it like CVE-2026-0001 High, or CVE-2026-0001 High fixable")]
pub struct FindingError(String);

/// Whether a text may be the id of a vulnerability: 1 to 64 bytes of ASCII, from a letter or digit on, without spaces, quotes and
/// backslashes.
pub(in crate::proof) fn is_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= MOST_ID_BYTES
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\' | b'`'))
}

impl Finding {
    /// A finding, unless its id cannot be one: it has 1 to 64 bytes of ASCII, from a letter or digit on, without spaces, quotes and
    /// backslashes.
    #[must_use]
    pub fn new(id: &str, severity: Severity, fixable: bool) -> Option<Self> {
        is_id(id).then(|| Self { id: id.to_owned(), severity, fixable })
    }

    /// The id, such as `CVE-2026-0001` or `GHSA-jfh8-c2jp-5v3q`; 1 to 64 bytes of ASCII.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.id, self.severity, if self.fixable { " fixable" } else { "" })
    }
}

impl From<Finding> for String {
    fn from(finding: Finding) -> Self {
        finding.to_string()
    }
}

impl TryFrom<String> for Finding {
    type Error = FindingError;

    fn try_from(text: String) -> Result<Self, FindingError> {
        let read = || {
            let (id, rest) = text.split_once(' ')?;
            let (word, fixable) = rest.strip_suffix(" fixable").map_or((rest, false), |word| (word, true));
            let severity = Severity::ALL.into_iter().find(|severity| severity.as_str() == word)?;
            Self::new(id, severity, fixable)
        };
        read().ok_or_else(|| FindingError(crate::image::clip(&text)))
    }
}

impl JsonSchema for Finding {
    fn schema_name() -> Cow<'static, str> {
        "Finding".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 5, "maxLength": 83 })
    }
}
