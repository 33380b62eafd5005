//! OpenVEX 0.2.0: which vulnerabilities do not concern an image, by somebody whose signature was checked before.
//!
//! The predicate is of type `https://openvex.dev/ns`, with `/v0.2.0` or without. What is unclear never clears:
//!
//! - a statement clears only where it inherits the image from the attestation or where one of its products names the image's digest, by
//!   `@id`, by an identifier or by a hash.
//!   A package URL with qualifiers other than `repository_url` and `tag` (an architecture, say) may mean a part of the image, and does not
//!   name it;
//! - a statement about subcomponents clears nothing: a report is kept by ids, and another component of the image may have the same
//!   vulnerability;
//! - of the statements about one vulnerability the newest counts, and of equally old ones the one that does not clear. Statements that
//!   share a name or an alias are about one
//!   vulnerability. `affected` and `under_investigation` count against an image also when they name no digest at all, but not when they
//!   name another one.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::report::{Few, is_id, unreadable};
use crate::{history::clip, image::Digest};

/// Ids that are kept of one document.
pub const MOST_CLEARED: usize = 64;
/// Statements that are read of one document.
pub const MOST_STATEMENTS: usize = 10_000;
/// Products of one statement, and aliases of one vulnerability.
const MOST_EACH: usize = 1_000;
/// Characters of a justification that are kept.
const MOST_JUSTIFICATION: usize = 64;
/// Why something does not concern a product, as the VEX Working Group has it.
const JUSTIFICATIONS: [&str; 5] = [
    "component_not_present",
    "vulnerable_code_not_present",
    "vulnerable_code_not_in_execute_path",
    "vulnerable_code_cannot_be_controlled_by_adversary",
    "inline_mitigations_already_exist",
];

/// What a document clears of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vex {
    /// The vulnerabilities that do not concern it, by id, each once; at most 64.
    pub not_affected: Vec<NotAffected>,
    /// There are more than are kept here.
    pub more: bool,
    /// When the document was written.
    pub at: Option<Timestamp>,
}

/// A vulnerability that does not concern an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAffected {
    /// The name of the vulnerability or an alias of it; 1 to 64 bytes of ASCII.
    pub id: String,
    /// One of OpenVEX's labels, `fixed`, or the beginning of the impact statement; at most 64 characters.
    pub justification: String,
}

/// Why a predicate is no OpenVEX document that can be gone by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VexError {
    /// No JSON, or a field of another type than the format gives it.
    #[error("the VEX document cannot be read: {0}")]
    Json(String),
    /// Another format, or a version that is not read.
    #[error("`{0}` is no version of OpenVEX that is read here")]
    Context(String),
    /// A status that OpenVEX does not have.
    #[error("a VEX statement has the status `{0}`, which OpenVEX does not have")]
    Status(String),
    /// Neither the statement nor the document says when.
    #[error("the VEX statement about `{0}` has no time")]
    Time(String),
    /// `not_affected` without a reason.
    #[error("the VEX statement about `{0}` says not_affected and not why")]
    NoJustification(String),
    /// A justification that OpenVEX does not have.
    #[error("a VEX statement has the justification `{0}`, which OpenVEX does not have")]
    Justification(String),
    /// More than is read.
    #[error("the VEX document has too many {0}")]
    TooMany(&'static str),
}

/// Whether a predicate of this type is an OpenVEX document that [`read`] reads.
#[must_use]
pub fn is_vex(predicate_type: &str) -> bool {
    matches!(predicate_type, "https://openvex.dev/ns" | "https://openvex.dev/ns/v0.2.0")
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "@context")]
    context: String,
    timestamp: Option<String>,
    statements: Few<Statement, MOST_STATEMENTS>,
}

#[derive(Deserialize)]
struct Statement {
    vulnerability: Vulnerability,
    timestamp: Option<String>,
    products: Option<Few<Product, MOST_EACH>>,
    status: String,
    justification: Option<String>,
    #[serde(rename = "impact_statement")]
    impact: Option<String>,
}

#[derive(Deserialize)]
struct Vulnerability {
    name: String,
    aliases: Option<Few<String, MOST_EACH>>,
}

#[derive(Deserialize)]
struct Product {
    #[serde(rename = "@id")]
    id: Option<String>,
    identifiers: Option<HashMap<String, String>>,
    hashes: Option<HashMap<String, String>>,
    subcomponents: Option<Few<serde::de::IgnoredAny, 0>>,
}

/// A statement that bears on the image.
struct Bearing {
    ids: Vec<String>,
    at: Timestamp,
    /// Why it clears; none where it speaks against the image.
    clears: Option<String>,
}

/// Reads what a document clears of one image. Whoever calls bounds its size, refuses duplicate keys and has checked that the attestation's
/// subject is `subject`.
///
/// # Errors
/// Every document that is not valid as a whole, also where its fault lies in a statement about something else.
pub fn read(predicate: &[u8], subject: &Digest) -> Result<Vex, VexError> {
    let wire: Wire = serde_json::from_slice(predicate).map_err(|error| VexError::Json(unreadable(&error)))?;
    if !is_vex(&wire.context) {
        return Err(VexError::Context(clip(&wire.context, 64)));
    }
    let statements = wire.statements.all().ok_or(VexError::TooMany("statements"))?;
    let mut bearing = Vec::new();
    for statement in statements {
        bearing.extend(statement.bearing(wire.timestamp.as_deref(), subject)?);
    }
    let at = wire.timestamp.as_deref().and_then(|text| text.parse().ok());
    Ok(Vex { at, ..settle(&bearing) })
}

impl Statement {
    /// The statement as it bears on the image, if it does.
    fn bearing(self, document: Option<&str>, subject: &Digest) -> Result<Option<Bearing>, VexError> {
        let name = || crate::image::clip(&self.vulnerability.name);
        let time = self.timestamp.as_deref().or(document).and_then(|text| text.parse().ok());
        let at: Timestamp = time.ok_or_else(|| VexError::Time(name()))?;
        let reason = match self.status.as_str() {
            "not_affected" => {
                Some(why(self.justification.as_deref(), self.impact.as_deref())?.ok_or_else(|| VexError::NoJustification(name()))?)
            }
            "fixed" => Some("fixed".to_owned()),
            "affected" | "under_investigation" => None,
            other => return Err(VexError::Status(crate::image::clip(other))),
        };
        let aliases = self.vulnerability.aliases.map_or_else(|| Some(Vec::new()), Few::all).ok_or(VexError::TooMany("aliases"))?;
        let aim = match self.products {
            None => Aim::Exact,
            Some(products) => {
                let products = products.all().ok_or(VexError::TooMany("products"))?;
                products.iter().map(|product| product.aim(subject)).max().unwrap_or(Aim::Unclear)
            }
        };
        let bears = if reason.is_some() { aim == Aim::Exact } else { aim >= Aim::Unclear };
        let mut ids = aliases;
        ids.push(self.vulnerability.name);
        Ok(bears.then_some(Bearing { ids, at, clears: reason }))
    }
}

/// Why a vulnerability does not concern a product, if that is said.
fn why(justification: Option<&str>, impact: Option<&str>) -> Result<Option<String>, VexError> {
    if let Some(label) = justification.filter(|label| !label.is_empty()) {
        let known = JUSTIFICATIONS.contains(&label);
        return if known { Ok(Some(clip(label, MOST_JUSTIFICATION))) } else { Err(VexError::Justification(crate::image::clip(label))) };
    }
    Ok(impact.map(|text| clip(text.trim(), MOST_JUSTIFICATION)).filter(|text| !text.is_empty()))
}

/// At what a product, or a name of it, aims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Aim {
    /// Another image.
    Elsewhere,
    /// It names no digest, or perhaps a part of the image.
    Unclear,
    /// The image, as a whole.
    Exact,
}

impl Product {
    fn aim(&self, subject: &Digest) -> Aim {
        let names = self.id.iter().chain(self.identifiers.iter().flat_map(HashMap::values));
        let names = names.map(|name| aim(name, subject));
        let hashes = self.hashes.iter().flatten().map(|(algorithm, hash)| hash_aim(algorithm, hash, subject));
        let aims: Vec<Aim> = names.chain(hashes).collect();
        let exact = aims.contains(&Aim::Exact);
        if aims.contains(&Aim::Elsewhere) {
            // One product that names two images is unclear.
            return if exact { Aim::Unclear } else { Aim::Elsewhere };
        }
        let whole = self.subcomponents.as_ref().is_none_or(Few::is_empty);
        if exact && whole { Aim::Exact } else { Aim::Unclear }
    }
}

/// A package URL, an image's name by digest, or a digest.
fn aim(name: &str, subject: &Digest) -> Aim {
    let (head, qualifiers) = name.split_once(['?', '#']).unwrap_or((name, ""));
    let version = head.rsplit_once('@').map_or(head, |(_, version)| version);
    let Ok(digest) = version.replace("%3A", ":").replace("%3a", ":").parse::<Digest>() else { return Aim::Unclear };
    if digest != *subject {
        return Aim::Elsewhere;
    }
    let mut qualifiers = qualifiers.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    let whole = !name.contains('#') && qualifiers.all(|key| matches!(key, "" | "repository_url" | "tag"));
    if whole { Aim::Exact } else { Aim::Unclear }
}

/// By IANA's names of hash functions, and by OCI's.
fn hash_aim(algorithm: &str, hash: &str, subject: &Digest) -> Aim {
    let algorithm = match algorithm {
        "sha-256" | "sha256" => "sha256",
        "sha-512" | "sha512" => "sha512",
        _ => return Aim::Unclear,
    };
    // Another function of the same image says nothing.
    if algorithm != subject.algorithm() {
        return Aim::Unclear;
    }
    if hash.eq_ignore_ascii_case(&subject.hex()) { Aim::Exact } else { Aim::Elsewhere }
}

/// The newest statement of each vulnerability counts.
fn settle(bearing: &[Bearing]) -> Vex {
    let vulnerabilities = group(bearing);
    let mut against: HashMap<usize, Timestamp> = HashMap::new();
    for (statement, vulnerability) in bearing.iter().zip(&vulnerabilities).filter(|(statement, _)| statement.clears.is_none()) {
        let newest = against.entry(*vulnerability).or_insert(statement.at);
        *newest = (*newest).max(statement.at);
    }
    let mut cleared: HashMap<&str, (Timestamp, &str)> = HashMap::new();
    for (statement, vulnerability) in bearing.iter().zip(&vulnerabilities) {
        let Some(reason) = statement.clears.as_deref() else { continue };
        if against.get(vulnerability).is_some_and(|newest| *newest >= statement.at) {
            continue;
        }
        for id in statement.ids.iter().filter(|id| is_id(id)) {
            let newest = cleared.entry(id).or_insert((statement.at, reason));
            if newest.0 < statement.at {
                *newest = (statement.at, reason);
            }
        }
    }
    let mut not_affected: Vec<NotAffected> =
        cleared.into_iter().map(|(id, (_, reason))| NotAffected { id: id.to_owned(), justification: reason.to_owned() }).collect();
    not_affected.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let more = not_affected.len() > MOST_CLEARED;
    not_affected.truncate(MOST_CLEARED);
    Vex { not_affected, more, at: None }
}

/// For each statement the vulnerability that it is about: those that share an id are about one, and so on from one to the next.
fn group(bearing: &[Bearing]) -> Vec<usize> {
    let mut parents: Vec<usize> = (0..bearing.len()).collect();
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (place, statement) in bearing.iter().enumerate() {
        for id in &statement.ids {
            let other = *first.entry(id).or_insert(place);
            let (a, b) = (root(&mut parents, other), root(&mut parents, place));
            parents[b.max(a)] = b.min(a);
        }
    }
    (0..bearing.len()).map(|place| root(&mut parents, place)).collect()
}

fn root(parents: &mut [usize], mut place: usize) -> usize {
    while parents[place] != place {
        // Halves the way for whoever comes next.
        parents[place] = parents[parents[place]];
        place = parents[place];
    }
    place
}

#[cfg(test)]
mod tests;
