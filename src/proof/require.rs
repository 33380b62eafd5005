//! What has to be proven of an image, and by whom.
//!
//! Whether what was found proves it is found out in module `judge`.

mod judge;

use std::{fmt, sync::Arc, time::Duration};

use super::{Authority, Roots, memo::Number, platforms::Platforms, report};
use crate::api::{self, Evidence, EvidenceItem, EvidenceKind, Requirement, SbomFormat};

/// Requirements made ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Another one for what is read or bound anew.
    pub number: Number,
    /// Everybody that the requirements may speak of.
    pub authorities: Vec<Arc<Authority>>,
    /// It is asked of images in quarantine as well, since these are not refused for that.
    pub even_held: bool,
    /// Those of the cluster's nodes.
    platforms: Platforms,
    signatures: Option<Signatures>,
    sbom: Option<Sbom>,
    vulnerabilities: Option<Vulnerabilities>,
    /// How long after the end of its life it may still start.
    life: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Vulnerabilities {
    by: Vec<Arc<Authority>>,
    vex_by: Vec<Arc<Authority>>,
    rule: report::Rule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Signatures {
    by: Vec<Arc<Authority>>,
    threshold: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sbom {
    by: Vec<Arc<Authority>>,
    formats: Vec<SbomFormat>,
}

/// Why requirements cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// A key cannot be read.
    #[error("authority `{name}`: {why}")]
    Key {
        /// Whose.
        name: String,
        /// What is wrong with it.
        why: super::AuthorityError,
    },
    /// Two authorities have one name, or one key.
    #[error("two authorities have the same {what}: `{name}`")]
    Twice {
        /// Name or key.
        what: &'static str,
        /// The second one.
        name: String,
    },
    /// A requirement speaks of an authority that is not there.
    #[error("{requirement}.by names `{name}`, and there is no authority of that name")]
    Unknown {
        /// Which requirement.
        requirement: &'static str,
        /// The name.
        name: String,
    },
    /// A requirement that nobody could meet.
    #[error("{0} is required and there are no authorities: name who is trusted to sign")]
    Nobody(&'static str),
    /// More signatures than signers.
    #[error("signatures.threshold is {threshold}, and only {authorities} may sign")]
    Threshold {
        /// How many are asked for.
        threshold: usize,
        /// How many there are.
        authorities: usize,
    },
}

/// What is not proven of an image, and by whom it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproven {
    /// Which requirement.
    pub requirement: Requirement,
    /// In words, for whoever deploys.
    pub why: String,
    /// It is not known yet: what is attached to the index is not enough, and its images have not been looked at.
    pub unlooked: bool,
}

/// What is asked of whom.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Who may sign.
    pub authorities: &'a [api::Authority],
    /// Signatures.
    pub signatures: Option<&'a api::RequireSignatures>,
    /// A bill of materials.
    pub sbom: Option<&'a api::RequireSbom>,
    /// A vulnerability report.
    pub vulnerabilities: Option<&'a api::RequireVulnerabilities>,
    /// That its life has not ended.
    pub life: Option<&'a api::RequireLife>,
}

/// What is excepted, for one image in one namespace.
pub trait Exceptions {
    /// The whole of a requirement is waived.
    fn waives(&self, requirement: Requirement) -> bool;
    /// A finding is.
    fn excepts(&self, id: &str) -> bool;
}

/// Nothing is excepted.
#[derive(Clone, Copy, Debug)]
pub struct NoExceptions;

impl Exceptions for NoExceptions {
    fn waives(&self, _: Requirement) -> bool {
        false
    }

    fn excepts(&self, _: &str) -> bool {
        false
    }
}

impl Proof {
    /// Makes requirements ready.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(asked: &Asked<'_>) -> Result<Self, ProofError> {
        let mut authorities: Vec<Arc<Authority>> = Vec::new();
        for wire in asked.authorities {
            let authority = Authority::read(wire).map_err(|why| ProofError::Key { name: wire.name.clone(), why })?;
            let twice = |what| ProofError::Twice { what, name: wire.name.clone() };
            if authorities.iter().any(|held| held.name == authority.name) {
                return Err(twice("name"));
            }
            // With a threshold one signer must not count for two.
            if authorities.iter().any(|held| held.trust == authority.trust) {
                return Err(twice("key"));
            }
            authorities.push(Arc::new(authority));
        }
        let by = |requirement: &'static str, names: &[String]| -> Result<Vec<Arc<Authority>>, ProofError> {
            if authorities.is_empty() {
                return Err(ProofError::Nobody(requirement));
            }
            if names.is_empty() {
                return Ok(authorities.clone());
            }
            let mut found: Vec<Arc<Authority>> = Vec::new();
            for name in names {
                let authority = authorities.iter().find(|authority| authority.name == *name);
                let authority = authority.ok_or_else(|| ProofError::Unknown { requirement, name: name.clone() })?;
                if !found.contains(authority) {
                    found.push(authority.clone());
                }
            }
            Ok(found)
        };
        let signatures = match asked.signatures {
            Some(wire) => {
                let by = by("signatures", &wire.by)?;
                let threshold = usize::try_from(wire.threshold.max(1)).unwrap_or(usize::MAX);
                if threshold > by.len() {
                    return Err(ProofError::Threshold { threshold, authorities: by.len() });
                }
                Some(Signatures { by, threshold })
            }
            None => None,
        };
        let sbom = match asked.sbom {
            Some(wire) => Some(Sbom { by: by("sbom", &wire.by)?, formats: wire.formats.clone() }),
            None => None,
        };
        let vulnerabilities = match asked.vulnerabilities {
            Some(wire) => Some(Vulnerabilities {
                by: by("vulnerabilities", &wire.by)?,
                vex_by: if wire.vex_by.is_empty() { Vec::new() } else { by("vulnerabilities.vexBy", &wire.vex_by)? },
                rule: report::Rule {
                    max_severity: wire.max_severity,
                    only_fixable: wire.only_fixable,
                    max_age: wire.max_age.map(api::ShortDuration::get),
                    counts: wire.counts.iter().map(|count| (count.severity, count.most)).collect(),
                },
            }),
            None => None,
        };
        let life = asked.life.map(|wire| wire.grace.map_or(Duration::ZERO, api::ShortDuration::get));
        Ok(Self {
            number: Number::next(),
            authorities,
            even_held: false,
            platforms: Platforms::default(),
            signatures,
            sbom,
            vulnerabilities,
            life,
        })
    }

    /// The same with the trusted roots that are at hand, for nodes of these platforms.
    #[must_use]
    pub fn bound(&self, roots: &Roots, platforms: &Platforms) -> Self {
        let bind = |all: &[Arc<Authority>]| all.iter().map(|authority| Arc::new(authority.bound(roots))).collect::<Vec<_>>();
        Self {
            number: Number::next(),
            authorities: bind(&self.authorities),
            even_held: self.even_held,
            platforms: platforms.clone(),
            signatures: self.signatures.as_ref().map(|wanted| Signatures { by: bind(&wanted.by), ..*wanted }),
            sbom: self.sbom.as_ref().map(|wanted| Sbom { by: bind(&wanted.by), formats: wanted.formats.clone() }),
            vulnerabilities: self.vulnerabilities.as_ref().map(|wanted| Vulnerabilities {
                by: bind(&wanted.by),
                vex_by: bind(&wanted.vex_by),
                rule: wanted.rule.clone(),
            }),
            life: self.life,
        }
    }

    /// Where a trusted root is that it needs and that was not read yet.
    #[must_use]
    pub fn missing_root(&self) -> Option<&api::TrustRootSource> {
        self.authorities.iter().find(|authority| authority.short.is_empty()).and_then(|authority| authority.source())
    }

    /// Where the trusted roots are that it needs.
    pub fn sources(&self) -> impl Iterator<Item = &api::TrustRootSource> {
        self.authorities.iter().filter_map(|authority| authority.source())
    }

    /// Whether anything has to be proven.
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        self.signatures.is_some() || self.sbom.is_some() || self.vulnerabilities.is_some() || self.life.is_some()
    }

    /// Whether a piece of evidence is of those that count.
    #[must_use]
    pub fn uses(&self, item: &EvidenceItem) -> bool {
        let by = |by: &[Arc<Authority>]| by.iter().any(|authority| authority.signed(item));
        match item.kind {
            EvidenceKind::Signature => self.signatures.as_ref().is_some_and(|wanted| by(&wanted.by)),
            EvidenceKind::Sbom => self.sbom.as_ref().is_some_and(|wanted| by(&wanted.by)),
            EvidenceKind::Vulnerabilities => self.vulnerabilities.as_ref().is_some_and(|wanted| by(&wanted.by)),
            EvidenceKind::Vex => self.vulnerabilities.as_ref().is_some_and(|wanted| by(&wanted.vex_by)),
        }
    }

    /// Whether everybody whose signature counts was looked for.
    #[must_use]
    pub fn is_covered_by(&self, evidence: &Evidence) -> bool {
        // One whose trusted root was not read yet cannot have been looked for.
        let looked = |authority: &Authority| evidence.looked_for.iter().any(|held| **held == *authority.short);
        self.authorities.iter().all(|authority| !authority.short.is_empty() && looked(authority))
    }

    /// What is asked, in the order in which it is judged.
    pub fn requirements(&self) -> impl Iterator<Item = Requirement> {
        let asked = [
            self.signatures.as_ref().map(|_| Requirement::Signatures),
            self.sbom.as_ref().map(|_| Requirement::Sbom),
            self.vulnerabilities.as_ref().map(|_| Requirement::Vulnerabilities),
            self.life.map(|_| Requirement::EndOfLife),
        ];
        asked.into_iter().flatten()
    }
}

impl fmt::Display for Unproven {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.why)
    }
}
