//! Whether what was found proves what is asked.
//!
//! Pure. That evidence could not be fetched is no matter of this module: it is asked only about what was.
//!
//! An index is proven by what is attached to it, or else by what is attached to each of its images that some node may run ([`Platforms`]): each
//! requirement for itself, all images alike. So an index that somebody made of others' signed images and one of their own is refused, and the
//! refusal names that one. Two requirements are not only met but can be belied, and go by what is known of both:
//!
//! - of the reports about the index and about an image the latest counts for the image, and what a VEX document says of the index it says of each
//!   of its images;
//! - an end of life that is attached to the index counts; where none is, the images' own do.
//!
//! Where the index itself is not enough and nobody has looked inside, or not for the platforms that there are now, that is said and nothing
//! else ([`Unproven::unlooked`]).

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use smallvec::SmallVec;

use super::{Exceptions, Proof, Sbom, Signatures, Unproven, Vulnerabilities};
use crate::{
    api::{Evidence, EvidenceItem, EvidenceKind, PlatformEvidence, Requirement, SbomFormat},
    proof::{Authority, platforms::ALL, report},
};

/// An image as it is judged: by itself, or as one of an index.
#[derive(Clone, Copy)]
struct Part<'e> {
    evidence: &'e Evidence,
    image: Option<&'e PlatformEvidence>,
}

impl<'e> Part<'e> {
    const fn itself(evidence: &'e Evidence) -> Self {
        Self { evidence, image: None }
    }

    /// What was signed about it.
    fn items(self) -> impl Iterator<Item = &'e EvidenceItem> {
        self.evidence.items.iter().filter(move |item| match self.image {
            None => item.about.is_empty(),
            Some(image) => item.about.contains(&image.platform),
        })
    }

    /// What was signed about it, or about the index that holds it.
    fn reports(self) -> impl Iterator<Item = &'e EvidenceItem> {
        let outer = self.evidence.items.iter().filter(move |item| self.image.is_some() && item.about.is_empty());
        self.items().chain(outer)
    }

    /// Not everything that is attached was read, or fits: why.
    fn more(self) -> Option<&'e str> {
        let inner = self.image.filter(|image| image.more).map(|image| &*image.unproven);
        inner.or_else(|| self.evidence.more.then_some(&*self.evidence.unproven))
    }

    fn unproven(self) -> &'e str {
        self.image.map_or(&self.evidence.unproven, |image| &image.unproven)
    }
}

impl Proof {
    /// Whether evidence proves what is asked, but for what is waived.
    ///
    /// # Errors
    /// The first requirement that is not met.
    pub fn judge(&self, evidence: &Evidence, exceptions: &dyn Exceptions, now: Timestamp) -> Result<(), Unproven> {
        self.requirements().try_for_each(|requirement| self.end(requirement, evidence, exceptions, now))
    }

    /// What becomes of a requirement for each image of an index, by its platform. Nothing where these do not matter, or were not looked at.
    #[must_use]
    pub fn inside<'e>(
        &self,
        requirement: Requirement,
        evidence: &'e Evidence,
        exceptions: &dyn Exceptions,
        now: Timestamp,
    ) -> Vec<(&'e str, Result<(), Unproven>)> {
        let matters = match self.itself(requirement, evidence, exceptions, now) {
            Ok(()) => false,
            Err(unproven) => unproven.is_none() || requirement != Requirement::EndOfLife,
        };
        let matters = matters && self.platforms.are_among(&evidence.looked_inside) && !exceptions.waives(requirement);
        let images = self.images(evidence).filter(|_| matters);
        images.map(|image| (&*image.platform, self.image(requirement, evidence, image, exceptions, now))).collect()
    }

    /// Whether evidence meets one requirement.
    ///
    /// # Errors
    /// What is missing.
    pub fn end(&self, requirement: Requirement, evidence: &Evidence, exceptions: &dyn Exceptions, now: Timestamp) -> Result<(), Unproven> {
        if exceptions.waives(requirement) {
            return Ok(());
        }
        let unproven = match self.itself(requirement, evidence, exceptions, now) {
            Ok(()) => return Ok(()),
            Err(Some(unproven)) if requirement == Requirement::EndOfLife => return Err(unproven),
            Err(unproven) => unproven,
        };
        if !self.platforms.are_among(&evidence.looked_inside) {
            let why = "the images of the index have not been looked at yet, each for its platform".to_owned();
            return Err(Unproven { requirement, why, unlooked: true });
        }
        let mut images = self.images(evidence).peekable();
        if images.peek().is_some() {
            let ends = images.map(|image| (&*image.platform, self.image(requirement, evidence, image, exceptions, now)));
            return named(ends);
        }
        let is_index = !evidence.platforms.is_empty() || !evidence.looked_inside.iter().any(|looked| looked == ALL);
        match unproven {
            // The life of what nobody attached an end to goes on.
            None => Ok(()),
            Some(unproven) if is_index => {
                let why = format!("{}; none of the images of the index is for a platform of this cluster's nodes", unproven.why);
                Err(Unproven { why, ..unproven })
            }
            Some(unproven) => Err(unproven),
        }
    }

    /// Those images of an index that were looked at and that some node may run.
    fn images<'e>(&self, evidence: &'e Evidence) -> impl Iterator<Item = &'e PlatformEvidence> {
        let chosen = self.platforms.choose(evidence.platforms.iter().map(|image| &*image.platform));
        evidence.platforms.iter().zip(chosen).filter_map(|(image, chosen)| chosen.then_some(image))
    }

    /// Whether the image itself meets a requirement. `None` where only its images can tell.
    fn itself(
        &self,
        requirement: Requirement,
        evidence: &Evidence,
        exceptions: &dyn Exceptions,
        now: Timestamp,
    ) -> Result<(), Option<Unproven>> {
        let untold = requirement == Requirement::EndOfLife && self.life.is_some() && evidence.end_of_life.is_none();
        if untold { Err(None) } else { self.part(requirement, Part::itself(evidence), exceptions, now).map_err(Some) }
    }

    /// Whether one image of an index does.
    fn image(
        &self,
        requirement: Requirement,
        evidence: &Evidence,
        image: &PlatformEvidence,
        exceptions: &dyn Exceptions,
        now: Timestamp,
    ) -> Result<(), Unproven> {
        let unseen = image.unseen && requirement != Requirement::EndOfLife;
        if unseen {
            return Err(Unproven { requirement, why: image.unproven.clone(), unlooked: false });
        }
        self.part(requirement, Part { evidence, image: Some(image) }, exceptions, now)
    }

    fn part(&self, requirement: Requirement, part: Part<'_>, exceptions: &dyn Exceptions, now: Timestamp) -> Result<(), Unproven> {
        match requirement {
            Requirement::Signatures => self.signatures.as_ref().map_or(Ok(()), |wanted| wanted.judge(part)),
            Requirement::Sbom => self.sbom.as_ref().map_or(Ok(()), |wanted| wanted.judge(part)),
            Requirement::Vulnerabilities => self.vulnerabilities.as_ref().map_or(Ok(()), |wanted| wanted.judge(part, exceptions, now)),
            Requirement::EndOfLife => self.life.map_or(Ok(()), |grace| alive(part, grace, now)),
            Requirement::Released | Requirement::Digest | Requirement::Sources => Ok(()),
        }
    }
}

/// The first that fails, with the platforms of all that fail in the same way.
fn named<'e>(ends: impl Iterator<Item = (&'e str, Result<(), Unproven>)>) -> Result<(), Unproven> {
    let mut first: Option<(String, Unproven)> = None;
    for (platform, end) in ends {
        let Err(unproven) = end else { continue };
        match &mut first {
            Some((platforms, held)) if *held == unproven => *platforms += &format!(", {platform}"),
            Some(_) => {}
            None => first = Some((platform.to_owned(), unproven)),
        }
    }
    match first {
        None => Ok(()),
        Some((platforms, unproven)) if platforms == ALL => Err(unproven),
        Some((platforms, unproven)) => Err(Unproven { why: format!("{platforms}: {}", unproven.why), ..unproven }),
    }
}

/// Whether an image still has a life, or some grace.
fn alive(part: Part<'_>, grace: Duration, now: Timestamp) -> Result<(), Unproven> {
    let end = part.image.map_or(part.evidence.end_of_life, |image| image.end_of_life);
    let Some(end) = end else { return Ok(()) };
    let over = now.as_second().saturating_sub(end.as_second());
    if over <= i64::try_from(grace.as_secs()).unwrap_or(i64::MAX) {
        return Ok(());
    }
    let why = format!("its life ended on {}, by what its makers attached to it; use a later image", end.strftime("%Y-%m-%d"));
    Err(Unproven { requirement: Requirement::EndOfLife, why, unlooked: false })
}

impl Signatures {
    fn judge(&self, part: Part<'_>) -> Result<(), Unproven> {
        // Who signs a bill of materials of an image knows the image, but does not say that it is to run.
        let mut free: SmallVec<[&EvidenceItem; 8]> = part.items().filter(|item| item.kind == EvidenceKind::Signature).collect();
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
        Err(unproven(Requirement::Signatures, why, part))
    }
}

impl Sbom {
    fn judge(&self, part: Part<'_>) -> Result<(), Unproven> {
        let counts = |item: &EvidenceItem| self.formats.is_empty() || item.format.is_some_and(|format| self.formats.contains(&format));
        if signed_by(part.items(), EvidenceKind::Sbom, &self.by).any(counts) {
            return Ok(());
        }
        let why = format!("it has no {} signed by {}", formats(&self.formats), names(self.by.iter(), "or"));
        Err(unproven(Requirement::Sbom, why, part))
    }
}

impl Vulnerabilities {
    /// The latest report counts, whoever of those that may made it.
    fn judge(&self, part: Part<'_>, exceptions: &dyn Exceptions, now: Timestamp) -> Result<(), Unproven> {
        let reports = || signed_by(part.reports(), EvidenceKind::Vulnerabilities, &self.by).filter_map(|item| item.report.as_ref());
        let Some(latest) = reports().map(|report| report.finished_at).max() else {
            let why = format!("it has no vulnerability report signed by {}", names(self.by.iter(), "or"));
            return Err(unproven(Requirement::Vulnerabilities, why, part));
        };
        let excepted = |id: &str| {
            let mut statements = signed_by(part.reports(), EvidenceKind::Vex, &self.vex_by);
            exceptions.excepts(id) || statements.any(|item| item.not_affected.iter().any(|held| held == id))
        };
        let refuse = |why: String| Unproven { requirement: Requirement::Vulnerabilities, why, unlooked: false };
        if let Some(unproven) = part.more() {
            let why = "not everything that is attached to it could be read, and a later report may be among that";
            return Err(refuse(format!("{why} ({unproven})")));
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

fn signed_by<'e>(
    items: impl Iterator<Item = &'e EvidenceItem>,
    kind: EvidenceKind,
    by: &[Arc<Authority>],
) -> impl Iterator<Item = &'e EvidenceItem> {
    items.filter(move |item| item.kind == kind && by.iter().any(|authority| authority.signed(item)))
}

fn unproven(requirement: Requirement, mut why: String, part: Part<'_>) -> Unproven {
    if !part.unproven().is_empty() {
        why += &format!(" (of what is attached, {})", part.unproven());
    } else if part.items().next().is_none() {
        why += " (nothing that is attached to it is a signature that is read here)";
    }
    why += "; sign and attach what is missing";
    Unproven { requirement, why, unlooked: false }
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

#[cfg(test)]
mod tests;
