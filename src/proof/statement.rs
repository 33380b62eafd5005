//! In-toto statements (in-toto/attestation, spec/v1/statement.md), versions 0.1 and 1.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Refusal, Step};
use crate::image::Digest;

/// The predicate type of a signature that says nothing but that its maker knows the image: cosign 3's form of it.
pub const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// Subjects of one statement that are read.
const MOST_SUBJECTS: usize = 1_024;

/// A statement about our digest.
#[derive(Clone, Debug)]
pub struct Statement<'a> {
    /// What kind of thing it says; at most 256 bytes.
    pub predicate_type: String,
    /// What it says; none in cosign's signatures before 3.0.5.
    pub predicate: Option<&'a RawValue>,
}

impl PartialEq for Statement<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.predicate_type == other.predicate_type && self.predicate.map(RawValue::get) == other.predicate.map(RawValue::get)
    }
}

impl Eq for Statement<'_> {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(rename = "_type", default)]
    kind: String,
    #[serde(default)]
    subject: Vec<WireSubject>,
    #[serde(default)]
    predicate_type: String,
    #[serde(borrow)]
    predicate: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireSubject {
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

impl<'a> Statement<'a> {
    /// Reads a statement that names a digest as exactly one of its subjects.
    ///
    /// # Errors
    /// It cannot be read, or is about something else.
    pub fn about(payload: &'a [u8], digest: &Digest) -> Result<Self, Refusal> {
        let refuse = |why: String| Refusal::at(Step::Statement, why);
        let wire: Wire<'a> = super::json::read(payload).map_err(|why| refuse(format!("no in-toto statement: {why}")))?;
        if !matches!(wire.kind.as_str(), "https://in-toto.io/Statement/v1" | "https://in-toto.io/Statement/v0.1") {
            return Err(refuse(format!("no in-toto statement of a version that is read here: its type is `{}`", super::token(&wire.kind))));
        }
        if wire.predicate_type.is_empty() || wire.predicate_type.len() > 256 {
            return Err(refuse("its predicateType is missing, or has more than 256 bytes".to_owned()));
        }
        if wire.subject.len() > MOST_SUBJECTS {
            return Err(refuse(format!("it names more than {MOST_SUBJECTS} subjects")));
        }
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        let ours = wire.subject.iter().filter(|subject| subject.digest.get(algorithm) == Some(&hex)).count();
        match ours {
            1 => Ok(Self { predicate_type: wire.predicate_type, predicate: wire.predicate }),
            0 => Err(Refusal::at(Step::Digest, format!("it is about {}, and not about {digest}", others(&wire.subject)))),
            _ => Err(Refusal::at(Step::Digest, format!("it names {digest} {ours} times: one subject has to be it"))),
        }
    }
}

fn others(subjects: &[WireSubject]) -> String {
    let first = subjects.iter().flat_map(|subject| &subject.digest).next();
    match (first, subjects.len()) {
        (None, _) => "nothing".to_owned(),
        (Some((algorithm, hex)), 1) => super::token(&format!("{algorithm}:{hex}")),
        (Some((algorithm, hex)), count) => format!("{} and {} more", super::token(&format!("{algorithm}:{hex}")), count - 1),
    }
}

/// Whether a predicate type is a base URI, or a version of it: the base, a `/`, and what begins with `v` and a digit.
#[must_use]
pub fn is_version_of(predicate_type: &str, base: &str) -> bool {
    let Some(rest) = predicate_type.strip_prefix(base) else { return false };
    rest.is_empty() || rest.strip_prefix("/v").is_some_and(|version| version.starts_with(|letter: char| letter.is_ascii_digit()))
}
