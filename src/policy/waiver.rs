//! A waiver made ready.

use jiff::Timestamp;

use super::{Unreadable, digests, patterns};
use crate::{
    api::{self, Requirement},
    image::Digest,
    pattern::Pattern,
};

/// A waiver made ready.
#[derive(Clone, Debug)]
pub struct Waiver {
    /// Its name.
    pub name: String,
    requirements: Vec<Requirement>,
    digests: Vec<Digest>,
    images: Vec<Pattern>,
    vulnerabilities: Vec<String>,
    namespaces: Vec<String>,
    /// The end of it.
    pub expires: Timestamp,
}

impl TryFrom<&api::Waiver> for Waiver {
    type Error = Unreadable;

    fn try_from(object: &api::Waiver) -> Result<Self, Unreadable> {
        Ok(Self {
            name: object.metadata.name.clone().unwrap_or_default(),
            requirements: object.spec.requirements.clone(),
            digests: digests("spec.digests", &object.spec.digests)?,
            images: patterns("spec.images", &object.spec.images)?,
            vulnerabilities: object.spec.vulnerabilities.clone(),
            namespaces: object.spec.namespaces.clone(),
            expires: object.spec.expires,
        })
    }
}

impl Waiver {
    /// Whether it waives anything in this namespace, now.
    #[must_use]
    pub fn is_in_force(&self, namespace: &str, now: Timestamp) -> bool {
        now < self.expires && (self.namespaces.is_empty() || self.namespaces.iter().any(|known| known == namespace))
    }

    /// Whether it waives the requirement for anything in this namespace, now.
    #[must_use]
    pub fn concerns(&self, requirement: Requirement, namespace: &str, now: Timestamp) -> bool {
        self.requirements.contains(&requirement) && self.is_in_force(namespace, now)
    }

    /// Whether it excepts a finding of this image in this namespace, now.
    #[must_use]
    pub fn excepts(&self, id: &str, namespace: &str, name: &str, digest: Option<&Digest>, now: Timestamp) -> bool {
        self.vulnerabilities.iter().any(|held| held.eq_ignore_ascii_case(id))
            && self.bears(Requirement::Vulnerabilities, namespace, name, digest, now)
    }

    /// Whether it waives the whole of a requirement for this image, whose digest may not be known, in this namespace, now.
    #[must_use]
    pub fn waives(&self, requirement: Requirement, namespace: &str, name: &str, digest: Option<&Digest>, now: Timestamp) -> bool {
        // One that names findings waives these and no more.
        (requirement != Requirement::Vulnerabilities || self.vulnerabilities.is_empty())
            && self.bears(requirement, namespace, name, digest, now)
    }

    /// Whether it speaks of the requirement for this image, whose digest may not be known, in this namespace, now.
    fn bears(&self, requirement: Requirement, namespace: &str, name: &str, digest: Option<&Digest>, now: Timestamp) -> bool {
        self.concerns(requirement, namespace, now)
            && (digest.is_some_and(|digest| self.digests.contains(digest))
                // A quarantine is waived by digest only, also when the schema's rule was not there to say so.
                || (requirement != Requirement::Released && self.images.iter().any(|pattern| pattern.matches(name))))
    }
}
