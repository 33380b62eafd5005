//! Bills of materials: only that there is one, of which format and version, and how it calls itself.
//!
//! Read are SPDX 2 and 3 under `https://spdx.dev/Document`, and CycloneDX 1 under `https://cyclonedx.org/bom`, each with `/v...` behind it
//! or without. The document stands in
//! the predicate as itself or as text in a JSON string, and either of the two within cosign's wrapper `{"Data": ...}`. SPDX 2 in text may
//! be tag-value instead of JSON.
//!
//! What follows the header is passed over without being kept, so a large document costs little.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    report::{Few, unreadable},
    statement::is_version_of,
};
use crate::{api::SbomFormat as Format, history::clip};

/// Characters that are kept of a name.
const MOST_NAME: usize = 64;
/// Characters that a version may have.
const MOST_VERSION: usize = 16;
/// Contexts that a JSON-LD document may list.
const MOST_CONTEXTS: usize = 16;
/// Lines of a tag-value document among which its header is looked for.
const HEADER_LINES: usize = 64;

/// A bill of materials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sbom {
    /// Its format.
    pub format: Format,
    /// The version of the format, such as `2.3` or `1.6`; at most 16 characters of digits and dots.
    pub version: String,
    /// How it calls itself, or what it describes; at most 64 characters. Empty where its header does not say, as in SPDX 3.
    pub name: String,
}

/// Why a predicate is no bill of materials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SbomError {
    /// Another predicate type.
    #[error("`{0}` is no type of SBOM that is read here")]
    Type(String),
    /// No JSON, or a field of another type than the format gives it.
    #[error("the SBOM cannot be read: {0}")]
    Json(String),
    /// The predicate type promises another format.
    #[error("the predicate is no {0} document")]
    Other(Format),
    /// A field that the format requires is not there.
    #[error("the {format} document has no {field}")]
    Missing {
        /// The format.
        format: Format,
        /// The field.
        field: &'static str,
    },
    /// A version that is not read.
    #[error("{format} of version `{version}` is not read here")]
    Version {
        /// The format.
        format: Format,
        /// What the document says, shortened.
        version: String,
    },
}

/// The format that a predicate type promises.
#[must_use]
pub fn format(predicate_type: &str) -> Option<Format> {
    let is = |base: &str| is_version_of(predicate_type, base);
    if is("https://spdx.dev/Document") {
        Some(Format::Spdx)
    } else if is("https://cyclonedx.org/bom") {
        Some(Format::CycloneDX)
    } else {
        None
    }
}

/// Whether a predicate of this type is a bill of materials that [`read`] reads.
#[must_use]
pub fn is_sbom(predicate_type: &str) -> bool {
    format(predicate_type).is_some()
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(rename = "Data", borrow)]
    data: Option<&'a RawValue>,
    #[serde(rename = "spdxVersion")]
    spdx_version: Option<String>,
    #[serde(rename = "SPDXID")]
    spdx_id: Option<String>,
    name: Option<String>,
    #[serde(rename = "@context")]
    context: Option<Contexts>,
    #[serde(rename = "@graph")]
    graph: Option<Few<IgnoredAny, 0>>,
    #[serde(rename = "bomFormat")]
    bom_format: Option<String>,
    #[serde(rename = "specVersion")]
    spec_version: Option<String>,
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Contexts {
    One(String),
    Several(Few<String, MOST_CONTEXTS>),
}

#[derive(Deserialize)]
struct Metadata {
    component: Option<Component>,
}

#[derive(Deserialize)]
struct Component {
    name: Option<String>,
}

/// Reads the header of a predicate. Whoever calls bounds its size and refuses duplicate keys.
pub fn read(predicate_type: &str, predicate: &[u8]) -> Result<Sbom, SbomError> {
    let format = format(predicate_type).ok_or_else(|| SbomError::Type(clip(predicate_type, 64)))?;
    let text = std::str::from_utf8(predicate).map_err(|_| SbomError::Json("it is not UTF-8".to_owned()))?.trim();
    if text.starts_with('"') {
        return in_string(format, text);
    }
    let wire = parse(text)?;
    match wire.data.map(RawValue::get) {
        None => header(format, wire),
        Some(_) if wire.is_document() => Err(SbomError::Other(format)),
        Some(text) if text.starts_with('"') => in_string(format, text),
        Some(text) => header(format, parse(text)?),
    }
}

fn parse(json: &str) -> Result<Wire<'_>, SbomError> {
    serde_json::from_str(json).map_err(|error| SbomError::Json(unreadable(&error)))
}

/// A document that stands in a JSON string.
fn in_string(format: Format, json: &str) -> Result<Sbom, SbomError> {
    let text: Cow<'_, str> = serde_json::from_str(json).map_err(|error| SbomError::Json(unreadable(&error)))?;
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with("SPDXVersion:") { tag_value(format, text) } else { header(format, parse(text)?) }
}

impl Wire<'_> {
    /// It has the mark of a format of its own.
    const fn is_document(&self) -> bool {
        self.spdx_version.is_some() || self.bom_format.is_some() || self.context.is_some()
    }
}

fn header(format: Format, wire: Wire<'_>) -> Result<Sbom, SbomError> {
    let name = match format {
        // What says that it is both is neither.
        Format::Spdx if wire.bom_format.is_some() => return Err(SbomError::Other(format)),
        Format::CycloneDX if wire.spdx_version.is_some() || wire.bom_format.as_deref() != Some("CycloneDX") => {
            return Err(SbomError::Other(format));
        }
        Format::Spdx => wire.name,
        Format::CycloneDX => wire.metadata.and_then(|metadata| metadata.component).and_then(|component| component.name),
    };
    let version = match (format, wire.spdx_version, wire.context) {
        (Format::Spdx, Some(version), None) => {
            if wire.spdx_id.as_deref() != Some("SPDXRef-DOCUMENT") {
                return Err(SbomError::Missing { format, field: "SPDXID" });
            }
            spdx_2(&version)?
        }
        (Format::Spdx, None, Some(contexts)) => {
            let version = contexts.spdx_3().ok_or(SbomError::Other(format))?;
            if wire.graph.is_none_or(|graph| graph.is_empty()) {
                return Err(SbomError::Missing { format, field: "@graph" });
            }
            return Ok(Sbom { format, version, name: String::new() });
        }
        (Format::Spdx, _, _) => return Err(SbomError::Other(format)),
        (Format::CycloneDX, _, _) => {
            let version = wire.spec_version.ok_or(SbomError::Missing { format, field: "specVersion" })?;
            checked(format, 1, &version)?
        }
    };
    Ok(Sbom { format, version, name: clip(name.unwrap_or_default().trim(), MOST_NAME) })
}

/// A document of SPDX 2 in tag-value form, from its first line on.
fn tag_value(format: Format, text: &str) -> Result<Sbom, SbomError> {
    if format != Format::Spdx {
        return Err(SbomError::Other(format));
    }
    let tag = |tag: &str| text.lines().take(HEADER_LINES).find_map(|line| line.strip_prefix(tag)).map(str::trim);
    let version = spdx_2(tag("SPDXVersion:").unwrap_or_default())?;
    Ok(Sbom { format, version, name: clip(tag("DocumentName:").unwrap_or_default(), MOST_NAME) })
}

fn spdx_2(version: &str) -> Result<String, SbomError> {
    let format = Format::Spdx;
    let number = version.strip_prefix("SPDX-").ok_or_else(|| SbomError::Version { format, version: crate::image::clip(version) })?;
    checked(format, 2, number)
}

/// A version that is read: `major` and further numbers behind dots.
fn checked(format: Format, major: u8, version: &str) -> Result<String, SbomError> {
    let minor = version.strip_prefix(&format!("{major}.")).unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if version.len() <= MOST_VERSION && minor.split('.').all(is_number) {
        Ok(version.to_owned())
    } else {
        Err(SbomError::Version { format, version: crate::image::clip(version) })
    }
}

impl Contexts {
    /// The version of SPDX 3 whose context is among these, such as `3.0.1`.
    fn spdx_3(self) -> Option<String> {
        let contexts = match self {
            Self::One(one) => vec![one],
            Self::Several(several) => several.all()?,
        };
        let version = |context: &String| {
            let rest = context.strip_prefix("https://spdx.org/rdf/")?;
            let (version, _) = rest.split_once('/')?;
            checked(Format::Spdx, 3, version).ok()
        };
        contexts.iter().find_map(version)
    }
}

#[cfg(test)]
mod tests;
