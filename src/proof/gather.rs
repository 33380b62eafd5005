//! From what a registry has about an image to evidence that is proven: what was fetched is checked against every authority, and only what
//! holds is kept.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Attested, Authority, Bundle, PublicKey, Refusal, Said, Signer, Statement, Step, Subject, TrustRoot,
    authority::{Trust, sign},
    dsse::Envelope,
    report, sbom, simple,
    statement::SIGNED,
    vex,
};
use crate::{
    api::{Evidence, EvidenceItem, EvidenceKind, MAX_EVIDENCE, MAX_EVIDENCE_BYTES, MAX_LOOKED_FOR, PlatformEvidence},
    history::clip,
    image::Digest,
};

/// Something that a registry has about an image, as it was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// The bytes.
    pub bytes: bytes::Bytes,
    /// What they are.
    pub form: Form,
}

/// The form of something that may be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A Sigstore bundle.
    Bundle,
    /// A DSSE envelope by itself.
    Envelope,
    /// cosign's older payload, with the signature in base64 that stands in its annotation.
    Simple(String),
}

/// What the makers of an image attached about its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// When it ends: a day, or a time of RFC 3339.
    pub end: String,
    /// When that was said.
    pub said: Option<String>,
}

/// The end of an image's life, by what was said last; of what was said at one time, the earliest.
#[must_use]
pub fn end_of_life(lives: &[Life]) -> Option<Timestamp> {
    let day = |text: &str| text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|day| day.timestamp());
    let time = |text: &str| text.parse::<Timestamp>().ok().or_else(|| day(text));
    let read = lives.iter().filter_map(|life| Some((life.said.as_deref().and_then(time), std::cmp::Reverse(time(&life.end)?))));
    read.max().map(|(_, std::cmp::Reverse(end))| end)
}

/// What came of one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    items: Vec<EvidenceItem>,
    /// Why it proves nothing to anybody, where that is so.
    unproven: Option<String>,
    /// It was not read, or it is signed by somebody who is trusted and cannot be understood: nobody knows what it would have said.
    unread: bool,
}

impl Checked {
    /// Something that is there and was not read: why.
    #[must_use]
    pub fn unread(why: String) -> Self {
        Self { items: Vec::new(), unproven: Some(why), unread: true }
    }
}

/// Checks one thing that was found about a digest against every authority.
#[must_use]
pub fn check(found: &Found, authorities: &[Arc<Authority>], digest: &Digest) -> Checked {
    let Found { digest: name, bytes, form } = found;
    match form {
        Form::Bundle => {
            let bundle = Bundle::read(bytes);
            every(name, authorities, |authority| {
                let bundle = bundle.as_ref().map_err(Clone::clone)?;
                let attested = match &authority.trust {
                    Trust::Key(key) => super::with_key(bundle, key, Subject::Digest(digest))?,
                    Trust::Keyless { root, .. } => super::keyless(bundle, at_hand(root.as_deref())?, Subject::Digest(digest))?,
                };
                read(&attested, digest)
            })
        }
        Form::Envelope => {
            let envelope = Envelope::read(bytes);
            every(name, authorities, |authority| {
                let (envelope, key) = (envelope.as_ref().map_err(Clone::clone)?, key_of(authority)?);
                envelope.expect_statement()?;
                envelope.verify(key)?;
                let said = Said::Statement(Statement::about(&envelope.payload, digest)?);
                read(&Attested { signer: Signer::Key(key.fingerprint().clone()), said }, digest)
            })
        }
        Form::Simple(signature) => {
            every(name, authorities, |authority| read(&simple::with_key(bytes, signature, key_of(authority)?, digest)?, digest))
        }
    }
}

/// The trusted root that a keyless authority goes by.
fn at_hand(root: Option<&TrustRoot>) -> Result<&TrustRoot, Refusal> {
    root.ok_or_else(|| Refusal::at(Step::Read, "the trusted root is not at hand"))
}

/// Envelopes by themselves, and cosign's older payloads, are signed by keys. (Those that older clients signed with certificates are not read: they have
/// their certificates and log entries in annotations.)
fn key_of(authority: &Authority) -> Result<&PublicKey, Refusal> {
    match &authority.trust {
        Trust::Key(key) => Ok(key),
        Trust::Keyless { .. } => Err(Refusal::at(Step::Material, "it is no bundle, and has no certificate that is read here")),
    }
}

/// Joins what all things prove.
#[must_use]
pub fn conclude(checked: Vec<Checked>, lives: &[Life], authorities: &[Arc<Authority>], now: Timestamp) -> Evidence {
    let looked_for = authorities.iter().take(MAX_LOOKED_FOR).map(|authority| authority.short.to_string()).collect();
    let more = checked.iter().any(|checked| checked.unread);
    // What keeps a report from counting is told before what is merely another's.
    let first = checked.iter().filter(|checked| checked.unread).chain(&checked).find_map(|checked| checked.unproven.as_deref());
    let unproven = clip(first.unwrap_or_default(), 256);
    let end_of_life = end_of_life(lives);
    let (looked_inside, platforms) = (Vec::new(), Vec::new());
    let mut evidence = Evidence { looked_at: now, looked_for, items: Vec::new(), more, end_of_life, unproven, looked_inside, platforms };
    keep(&mut evidence, checked.into_iter().flat_map(|checked| checked.items).collect());
    evidence
}

/// What is kept of a proof: nothing where it is of a kind that no requirement speaks of.
type Kept = Option<EvidenceItem>;

fn read(attested: &Attested<'_>, digest: &Digest) -> Result<Kept, Refusal> {
    Ok(said(attested, digest)?.map(|item| sign(item, &attested.signer)))
}

fn said(attested: &Attested<'_>, digest: &Digest) -> Result<Kept, Refusal> {
    let item = |kind| EvidenceItem {
        kind,
        about: Vec::new(),
        key: String::new(),
        issuer: String::new(),
        subject: String::new(),
        root: String::new(),
        digest: String::new(),
        format: None,
        at: None,
        report: None,
        not_affected: Vec::new(),
    };
    let Said::Statement(statement) = &attested.said else { return Ok(Some(item(EvidenceKind::Signature))) };
    let kind = statement.predicate_type.as_str();
    if kind == SIGNED {
        return Ok(Some(item(EvidenceKind::Signature)));
    }
    let predicate = statement.predicate.map_or("null", |predicate| predicate.get()).as_bytes();
    let refuse = |why: &dyn std::fmt::Display| Refusal::at(Step::Predicate, why);
    if sbom::is_sbom(kind) {
        let format = sbom::read(kind, predicate).map_err(|why| refuse(&why))?.format;
        return Ok(Some(EvidenceItem { format: Some(format), ..item(EvidenceKind::Sbom) }));
    }
    if report::is_report(kind) {
        let report = report::read(kind, predicate).map_err(|why| refuse(&why))?;
        let (report, at) = (report::Summary::of(&report), report.finished_at);
        return Ok(Some(EvidenceItem { report: Some(report), at: Some(at), ..item(EvidenceKind::Vulnerabilities) }));
    }
    if vex::is_vex(kind) {
        let vex = vex::read(predicate, digest).map_err(|why| refuse(&why))?;
        let not_affected = vex.not_affected.into_iter().take(MOST_NOT_AFFECTED).map(|statement| statement.id).collect();
        return Ok(Some(EvidenceItem { not_affected, at: vex.at, ..item(EvidenceKind::Vex) }));
    }
    Ok(None)
}

/// Ids that are kept of one VEX document: as many as a report's summary names, and some that it may name next.
const MOST_NOT_AFFECTED: usize = 32;

/// Checks one thing against every authority.
fn every(name: &Digest, authorities: &[Arc<Authority>], check: impl Fn(&Authority) -> Result<Kept, Refusal>) -> Checked {
    let mut items = Vec::new();
    // What came furthest says most: one that is another's fails early with every other key.
    let mut furthest: Option<Refusal> = None;
    let mut proven = false;
    for authority in authorities {
        match check(authority) {
            Ok(kept) => {
                proven = true;
                if let Some(item) = kept {
                    items.push(EvidenceItem { digest: name.to_string(), ..item });
                }
            }
            Err(refusal) => {
                if furthest.as_ref().is_none_or(|held| held.step < refusal.step) {
                    furthest = Some(refusal);
                }
            }
        }
    }
    let refused = furthest.filter(|_| !proven);
    let unread = refused.as_ref().is_some_and(|refusal| refusal.step == Step::Predicate);
    Checked { items, unproven: refused.map(|refusal| format!("{name}: {refusal}")), unread }
}

/// Keeps as much as an object may hold: one of a kind of each signer. Of reports, and of VEX documents, that is the latest; several of one time
/// all stay.
fn keep(evidence: &mut Evidence, mut items: Vec<EvidenceItem>) {
    items.sort_by_key(|item| (item.kind, std::cmp::Reverse(item.at)));
    for item in items {
        let who = |item: &EvidenceItem| (item.key.clone(), item.issuer.clone(), item.subject.clone(), item.root.clone());
        let same = |held: &EvidenceItem| held.kind == item.kind && held.format == item.format && who(held) == who(&item);
        if !evidence.items.iter().any(|held| same(held) && (held.at > item.at || held.at.is_none() || *held == item)) {
            evidence.items.push(item);
        }
    }
    fit(evidence, MAX_EVIDENCE_BYTES);
}

/// What was found about one image of an index, by its platform as evidence names it; or why it could not be looked at.
pub type Inside = (String, Result<Evidence, String>);

/// Joins what was found about an index and about those of its images that were looked at, for these platforms of nodes.
#[must_use]
pub fn join(mut evidence: Evidence, looked_inside: Vec<String>, images: Vec<Inside>) -> Evidence {
    evidence.looked_inside = looked_inside;
    for (platform, found) in images {
        let entry = PlatformEvidence { platform: platform.clone(), ..PlatformEvidence::default() };
        evidence.platforms.push(match found {
            Ok(found) => {
                for item in found.items {
                    add(&mut evidence.items, item, &platform);
                }
                PlatformEvidence { more: found.more, end_of_life: found.end_of_life, unproven: clip(&found.unproven, 128), ..entry }
            }
            Err(why) => PlatformEvidence { unseen: true, more: true, unproven: clip(&why, 128), ..entry },
        });
    }
    // What speaks of the index itself speaks for all of its images, and stays longest.
    evidence.items.sort_by_key(|item| (item.kind, !item.about.is_empty(), std::cmp::Reverse(item.at)));
    fit(&mut evidence, MAX_EVIDENCE_BYTES);
    evidence
}

/// Adds what was found about one image of an index. The same of several images is one piece, so that it fits: most often one signs them all.
fn add(items: &mut Vec<EvidenceItem>, item: EvidenceItem, platform: &str) {
    let same = |held: &EvidenceItem| {
        let held = EvidenceItem { about: Vec::new(), digest: item.digest.clone(), ..held.clone() };
        held == item
    };
    match items.iter_mut().find(|held| !held.about.is_empty() && same(held)) {
        Some(held) => {
            if !held.about.iter().any(|held| held == platform) {
                held.about.push(platform.to_owned());
            }
        }
        None => items.push(EvidenceItem { about: vec![platform.to_owned()], ..item }),
    }
}

/// What is said where something did not fit.
const TOO_MUCH: &str = "there is more than an ImageStatus can hold";

/// Leaves out names of findings before whole pieces, and of those what refuses least when it is gone.
pub(crate) fn fit(evidence: &mut Evidence, most: usize) {
    let size = |evidence: &Evidence| serde_json::to_vec(evidence).map_or(usize::MAX, |json| json.len());
    for names in [8, 3] {
        if size(evidence) > most {
            evidence.unproven = clip(&evidence.unproven, 96);
            for image in evidence.platforms.iter_mut().filter(|image| !image.unseen) {
                image.unproven = clip(&image.unproven, 16 * names);
            }
            for item in &mut evidence.items {
                item.not_affected.truncate(2 * names);
                if let Some(report) = &mut item.report {
                    report.named.truncate(names);
                }
            }
        }
    }
    while evidence.items.len() > MAX_EVIDENCE || (size(evidence) > most && !evidence.items.is_empty()) {
        let Some(item) = evidence.items.pop() else { break };
        if item.about.is_empty() {
            evidence.more = true;
            TOO_MUCH.clone_into(&mut evidence.unproven);
        }
        for image in evidence.platforms.iter_mut().filter(|image| item.about.contains(&image.platform)) {
            image.more = true;
            TOO_MUCH.clone_into(&mut image.unproven);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(items: &[Value]) -> Evidence {
        serde_json::from_value(json!({ "lookedAt": "2026-06-01T00:00:00Z", "items": items })).unwrap()
    }

    fn signed(kind: &str, digest: &str) -> Value {
        json!({ "kind": kind, "key": format!("sha256:{}", "a".repeat(64)), "digest": Digest::of(digest.as_bytes()).to_string() })
    }

    fn report(seed: &str) -> Value {
        let named: Vec<String> = (0..20).map(|number| format!("CVE-2026-{number:04} High fixable")).collect();
        let mut report = signed("Vulnerabilities", seed);
        report["at"] = "2026-05-01T00:00:00Z".into();
        report["report"] =
            json!({ "scanner": seed, "finishedAt": "2026-05-01T00:00:00Z", "counts": { "high": { "all": 20 } }, "named": named });
        report
    }

    fn platform(number: usize) -> String {
        format!("linux/arm/v{number}")
    }

    fn size(evidence: &Evidence) -> usize {
        serde_json::to_vec(evidence).unwrap().len()
    }

    #[test]
    fn what_one_signed_about_each_image_is_one_piece_and_fits() {
        let images = (0..8).map(|number| (platform(number), Ok(found(&[signed("Signature", &number.to_string()), signed("SBOM", "s")]))));
        let joined = join(found(&[signed("Signature", "index")]), vec!["linux/arm".to_owned()], images.collect());
        let about: Vec<(EvidenceKind, usize)> = joined.items.iter().map(|item| (item.kind, item.about.len())).collect();
        assert_eq!(about, [(EvidenceKind::Signature, 0), (EvidenceKind::Signature, 8), (EvidenceKind::Sbom, 8)]);
        assert_eq!(joined.items[1].digest, Digest::of(b"0").to_string(), "the first one's");
        assert!(joined.platforms.len() == 8 && !joined.more && joined.platforms.iter().all(|image| !image.more), "{joined:?}");
        assert!(size(&joined) <= MAX_EVIDENCE_BYTES, "{}", size(&joined));
    }

    #[test]
    fn what_does_not_fit_is_said_of_the_image_that_it_is_about_and_the_index_keeps_its_own_longest() {
        let images = (0..8).map(|number| (platform(number), Ok(found(&[signed("Signature", "s"), report(&number.to_string())]))));
        let joined = join(found(&[report("index")]), vec!["*".to_owned()], images.collect());
        assert!(size(&joined) <= MAX_EVIDENCE_BYTES && joined.items.len() <= MAX_EVIDENCE, "{}", size(&joined));
        assert!(!joined.more && joined.items.iter().any(|item| item.report.is_some() && item.about.is_empty()), "{joined:?}");
        let has = |image: &PlatformEvidence| joined.items.iter().any(|item| item.report.is_some() && item.about.contains(&image.platform));
        assert!(joined.platforms.iter().any(|image| !has(image)), "{joined:?}");
        for image in &joined.platforms {
            assert_eq!((image.more, &*image.unproven), if has(image) { (false, "") } else { (true, TOO_MUCH) }, "{image:?}");
        }
        assert_eq!(joined.items[0].about.len(), 8, "signatures are dropped last");
    }

    #[test]
    fn why_an_image_was_not_seen_stays() {
        let long = "x".repeat(500);
        let mut joined = join(found(&[report("index")]), vec!["*".to_owned()], vec![(platform(7), Err(long))]);
        fit(&mut joined, 10);
        assert!(joined.items.is_empty() && joined.more && joined.platforms[0].unseen, "{joined:?}");
        assert_eq!(joined.platforms[0].unproven.len(), 128);
    }
}
