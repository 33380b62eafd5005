//! Subjects: what is judged, remembered and written down.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Digest, Name, Reference, ReferenceError};

/// Longest object name in bytes: one label of RFC 1123, so that it also serves as a label's value.
const OBJECT_NAME_LIMIT: usize = 63;
/// Hex digits of the hash in an object name: 64 bits. The name is a handle; who uses one compares the subject.
const HASH_DIGITS: usize = 16;

/// An image that cannot change: registry, repository and digest, all canonical. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    name: Name,
    digest: Digest,
}

/// Why a text is no subject.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// It is no image name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// It names no digest.
    #[error("the image is named by tag: write registry/repository@sha256:DIGITS")]
    NoDigest,
    /// There is one spelling of a subject, and this is another.
    #[error("this is not the canonical spelling: write {0}")]
    NotCanonical(Box<Subject>),
}

impl Subject {
    pub(super) const fn new(name: Name, digest: Digest) -> Self {
        Self { name, digest }
    }

    pub(super) const fn parts(&self) -> (&Name, &Digest) {
        (&self.name, &self.digest)
    }

    /// The registry: `host` or `host:port`, canonical.
    pub fn registry(&self) -> &str {
        self.name.registry()
    }

    /// The repository: the path without the registry.
    pub fn repository(&self) -> &str {
        self.name.repository()
    }

    /// The digest.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The image by a tag instead. None where that is no tag.
    #[must_use]
    pub fn tagged(&self, tag: &str) -> Option<Reference> {
        Reference::parse(&format!("{}:{tag}", self.name.text)).ok().filter(|reference| reference.tag() == Some(tag))
    }

    /// The name of this subject's object in Kubernetes: 16 hex digits of the SHA-256 of its text, a hyphen, and the end of the
    /// repository for people to read. At most 63 bytes of a-z, 0-9 and hyphens, alphanumeric at both ends.
    pub fn object_name(&self) -> String {
        let hash = Digest::of(self.to_string().as_bytes());
        let mut name = hash.hex();
        name.truncate(HASH_DIGITS);
        let tail = readable(self.repository(), OBJECT_NAME_LIMIT - HASH_DIGITS - 1);
        if !tail.is_empty() {
            name.push('-');
            name.push_str(&tail);
        }
        name
    }
}

/// The last parts of a repository that fit into so many bytes, with single hyphens for all but letters and digits.
fn readable(repository: &str, limit: usize) -> String {
    let mut words: Vec<&str> = Vec::new();
    let mut length = 0;
    for part in repository.rsplit('/') {
        let cost = part.len() + usize::from(length > 0);
        if length > 0 && length + cost > limit {
            break;
        }
        length += cost;
        words.push(part);
    }
    words.reverse();
    let mut text = String::with_capacity(limit);
    for character in words.join("/").chars() {
        match character {
            'a'..='z' | '0'..='9' => text.push(character),
            _ if text.is_empty() || text.ends_with('-') => {}
            _ => text.push('-'),
        }
    }
    text.truncate(limit);
    text.truncate(text.trim_end_matches('-').len());
    text
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.name.text, self.digest)
    }
}

impl FromStr for Subject {
    type Err = SubjectError;

    /// Reads the canonical spelling only: a subject is a key, and a key has one spelling.
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let subject = Reference::parse(text)?.subject().ok_or(SubjectError::NoDigest)?;
        if subject.to_string() == text { Ok(subject) } else { Err(SubjectError::NotCanonical(Box::new(subject))) }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
