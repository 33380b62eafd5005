//! What has to be proven of an image, and whether what was found proves it.
//!
//! Pure. That evidence could not be fetched is no matter of this module: it is asked only about what was.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use smallvec::SmallVec;

use super::{Authority, Roots, report};
use crate::api::{self, Evidence, EvidenceItem, EvidenceKind, Requirement, SbomFormat};

/// Requirements made ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Everybody that the requirements may speak of.
    pub authorities: Vec<Arc<Authority>>,
    /// It is asked of images in quarantine as well, since these are not refused for that.
    pub even_held: bool,
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
        Ok(Self { authorities, even_held: false, signatures, sbom, vulnerabilities, life })
    }

    /// The same with the trusted roots that are at hand.
    #[must_use]
    pub fn bound(&self, roots: &Roots) -> Self {
        let bind = |all: &[Arc<Authority>]| all.iter().map(|authority| Arc::new(authority.bound(roots))).collect::<Vec<_>>();
        Self {
            authorities: bind(&self.authorities),
            even_held: self.even_held,
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

    /// Whether evidence proves what is asked, but for what is waived.
    ///
    /// # Errors
    /// The first requirement that is not met.
    pub fn judge(&self, evidence: &Evidence, exceptions: &dyn Exceptions, now: Timestamp) -> Result<(), Unproven> {
        self.requirements().try_for_each(|requirement| self.end(requirement, evidence, exceptions, now))
    }

    /// What becomes of each requirement.
    #[must_use]
    pub fn ends(&self, evidence: &Evidence, exceptions: &dyn Exceptions, now: Timestamp) -> Vec<(Requirement, Result<(), Unproven>)> {
        self.requirements().map(|requirement| (requirement, self.end(requirement, evidence, exceptions, now))).collect()
    }

    fn end(&self, requirement: Requirement, evidence: &Evidence, exceptions: &dyn Exceptions, now: Timestamp) -> Result<(), Unproven> {
        if exceptions.waives(requirement) {
            return Ok(());
        }
        match requirement {
            Requirement::Signatures => self.signatures.as_ref().map_or(Ok(()), |wanted| wanted.judge(evidence)),
            Requirement::Sbom => self.sbom.as_ref().map_or(Ok(()), |wanted| wanted.judge(evidence)),
            Requirement::Vulnerabilities => self.vulnerabilities.as_ref().map_or(Ok(()), |wanted| wanted.judge(evidence, exceptions, now)),
            Requirement::EndOfLife => self.life.map_or(Ok(()), |grace| alive(evidence, grace, now)),
            Requirement::Released | Requirement::Digest | Requirement::Sources => Ok(()),
        }
    }
}

/// Whether an image still has a life, or some grace.
fn alive(evidence: &Evidence, grace: Duration, now: Timestamp) -> Result<(), Unproven> {
    let Some(end) = evidence.end_of_life else { return Ok(()) };
    let over = now.as_second().saturating_sub(end.as_second());
    if over <= i64::try_from(grace.as_secs()).unwrap_or(i64::MAX) {
        return Ok(());
    }
    let why = format!("its life ended on {}, by what its makers attached to it; use a later image", end.strftime("%Y-%m-%d"));
    Err(Unproven { requirement: Requirement::EndOfLife, why })
}

impl Signatures {
    fn judge(&self, evidence: &Evidence) -> Result<(), Unproven> {
        // Who signs a bill of materials of an image knows the image, but does not say that it is to run.
        let mut free: SmallVec<[&EvidenceItem; 8]> = evidence.items.iter().filter(|item| item.kind == EvidenceKind::Signature).collect();
        let mut missing: SmallVec<[&Arc<Authority>; 4]> = SmallVec::new();
        for authority in &self.by {
            // Whoever two patterns of identities fit has signed once.
            match free.iter().position(|item| authority.signed(item)) {
                Some(place) => drop(free.swap_remove(place)),
                None => missing.push(authority),
            }
        }
        let found = self.by.len() - missing.len();
        if found >= self.threshold {
            return Ok(());
        }
        let why = if self.threshold == 1 {
            format!("it is not signed by {}", names(missing.into_iter(), "or"))
        } else {
            format!("it is signed by {found} of the {} that are wanted; not by {}", self.threshold, names(missing.into_iter(), "nor by"))
        };
        Err(unproven(Requirement::Signatures, why, evidence))
    }
}

impl Sbom {
    fn judge(&self, evidence: &Evidence) -> Result<(), Unproven> {
        let counts = |item: &EvidenceItem| self.formats.is_empty() || item.format.is_some_and(|format| self.formats.contains(&format));
        if signed_by(evidence, EvidenceKind::Sbom, &self.by).any(counts) {
            return Ok(());
        }
        let why = format!("it has no {} signed by {}", formats(&self.formats), names(self.by.iter(), "or"));
        Err(unproven(Requirement::Sbom, why, evidence))
    }
}

impl Vulnerabilities {
    /// The latest report counts, whoever of those that may made it.
    fn judge(&self, evidence: &Evidence, exceptions: &dyn Exceptions, now: Timestamp) -> Result<(), Unproven> {
        let reports = || signed_by(evidence, EvidenceKind::Vulnerabilities, &self.by).filter_map(|item| item.report.as_ref());
        let Some(latest) = reports().map(|report| report.finished_at).max() else {
            let why = format!("it has no vulnerability report signed by {}", names(self.by.iter(), "or"));
            return Err(unproven(Requirement::Vulnerabilities, why, evidence));
        };
        let excepted = |id: &str| {
            let mut statements = signed_by(evidence, EvidenceKind::Vex, &self.vex_by);
            exceptions.excepts(id) || statements.any(|item| item.not_affected.iter().any(|held| held == id))
        };
        let refuse = |why: String| Unproven { requirement: Requirement::Vulnerabilities, why };
        if evidence.more {
            let why = "not everything that is attached to it could be read, and a later report may be among that";
            return Err(refuse(format!("{why} ({})", evidence.unproven)));
        }
        // Of those that were finished in one second each has to do.
        for report in reports().filter(|report| report.finished_at == latest) {
            report::judge(report, &self.rule, &excepted, now).map_err(|failing| {
                refuse(format!("its vulnerability report does not do: {failing}; fix that, or attach a later report"))
            })?;
        }
        Ok(())
    }
}

fn signed_by<'e>(evidence: &'e Evidence, kind: EvidenceKind, by: &[Arc<Authority>]) -> impl Iterator<Item = &'e EvidenceItem> {
    evidence.items.iter().filter(move |item| item.kind == kind && by.iter().any(|authority| authority.signed(item)))
}

fn unproven(requirement: Requirement, mut why: String, evidence: &Evidence) -> Unproven {
    if !evidence.unproven.is_empty() {
        why += &format!(" (of what is attached, {})", evidence.unproven);
    } else if evidence.items.is_empty() {
        why += " (nothing that is attached to it is a signature that is read here)";
    }
    why += "; sign and attach what is missing";
    Unproven { requirement, why }
}

fn names<'a>(authorities: impl Iterator<Item = &'a Arc<Authority>>, or: &str) -> String {
    const SHOWN: usize = 4;
    let names: Vec<&str> = authorities.map(|authority| authority.name.as_str()).collect();
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(&format!(" {or} "));
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

fn formats(formats: &[SbomFormat]) -> String {
    match formats {
        [format] => format!("SBOM in {format}"),
        _ => "SBOM".to_owned(),
    }
}

impl fmt::Display for Unproven {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.why)
    }
}
