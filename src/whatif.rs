//! What policies would make of images that run, or are named by templates, if they were asked for anew: by what is written of them.
//!
//! The judges are admission's own ([`Setting::spoken`], [`Setting::consider`]), so that nothing here can differ from what a pod will meet.
//! What differs is that nobody is asked: what is not written, or was seen too long ago, is [`View::NotKnown`] and never fine. Whatever a
//! policy does with its verdict, this is what it says; [`compare`] is where modes count.

mod observed;

use std::{fmt, sync::Arc};

use jiff::Timestamp;

pub use self::observed::{Found, Observed, Seen};
use crate::{
    api::{Mode, Provider, QuarantineProvider, State},
    facts::{Busy, BusyCause, Facts, Manifest, Outcome},
    image::{Reference, Subject},
    index::{self, Known},
    judgement::{Considered, FieldPath, Setting},
    origin::{self, Rival},
    policy::RegistryEntry,
    sentence,
    verdict::{Opinion, Settled, Sight, Source, Why},
};

/// What is written of images.
pub trait Records {
    /// What is known of one.
    fn known(&self, subject: &Subject) -> Option<Arc<Known>>;
    /// What a tag was last seen to stand for.
    fn stands_for(&self, image: &Reference) -> Option<Subject>;
    /// Whether a registry was last found to hold a repository.
    fn held(&self, rival: &Rival) -> Option<Outcome<bool>>;
}

/// One image as a pod or a template has it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As it is written there.
    pub text: &'a str,
    /// What runs under that name, by the node's report.
    pub running: Option<&'a Subject>,
    /// The namespace.
    pub namespace: &'a str,
    /// The account that the pod runs as.
    pub service_account: &'a str,
}

/// What one policy would make of one image.
#[derive(Clone, Debug, PartialEq)]
pub enum View {
    /// It starts.
    Admits,
    /// It does not.
    Refuses(Why),
    /// Too little is written to say.
    NotKnown(Gap),
}

/// Why it is not known what a policy would make of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Nobody has seen yet which digest the tag stands for.
    Tag,
    /// The image was not seen yet.
    Unseen,
    /// Nor was it, at a registry whose images begin in quarantine.
    Begins,
    /// Lazaretto does not keep the flag of its registry yet, and adopts when it begins to.
    Adopts,
    /// It was seen in this state too long ago, or when another kept the flag.
    Stale(State, Timestamp),
    /// Some policy denies digests, and it is not known which are inside.
    Inside,
    /// Whether a registry that goes before its own holds a repository of its name.
    Origin,
    /// Whether its registry shows it to the pod's pull secrets.
    Permit,
    /// What is signed about it was not looked at.
    Unproven,
    /// What is known of it leaves it open.
    Open(String),
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag => formatter.write_str("not known which digest the tag stands for"),
            Self::Unseen => formatter.write_str("not seen yet"),
            Self::Begins => formatter.write_str("not seen yet: it begins in quarantine when it is"),
            Self::Adopts => formatter.write_str("its registry's flag is not kept yet: what runs or is named before is adopted as released"),
            Self::Stale(state, seen) => {
                write!(formatter, "last seen {state} at {seen:.0}, which is too long ago or before its keeper changed")
            }
            Self::Inside => formatter.write_str("not known what is inside it, and some policy denies digests"),
            Self::Origin => formatter.write_str("not known whether a registry that goes before its own holds a repository of this name"),
            Self::Permit => formatter.write_str("not known whether its registry shows it to the pod's pull secrets"),
            Self::Unproven => formatter.write_str("what is signed about it was not looked at yet"),
            Self::Open(why) => formatter.write_str(why),
        }
    }
}

/// What one policy would make of one image, and what it does with that at present.
#[derive(Clone, Debug, PartialEq)]
pub struct Stand<'a> {
    /// The policy.
    pub policy: &'a str,
    /// Its mode.
    pub mode: Mode,
    /// What it says.
    pub view: View,
}

/// One image with what each of its policies would make of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged<'a> {
    /// The image by digest, as far as that is known.
    pub subject: Option<Subject>,
    /// One for each policy that speaks of it.
    pub stands: Vec<Stand<'a>>,
}

/// Judges one image by what is written.
#[must_use]
pub fn judge<'a>(setting: &Setting<'a>, asked: Asked<'a>, records: &impl Records, now: Timestamp) -> Judged<'a> {
    let spoken = setting.spoken_by(FieldPath::Text(asked.text), asked.text, asked.service_account);
    let Some(image) = spoken.wants() else {
        let subject = spoken.subjected.image.as_ref().ok().and_then(Reference::subject).or_else(|| asked.running.cloned());
        return Judged { subject, stands: stands(&setting.consider(spoken, None), None) };
    };
    let exact = image.subject().or_else(|| asked.running.cloned());
    let (certain, subject) = (exact.is_some(), exact.or_else(|| records.stands_for(image)));
    let registry = spoken.registry;
    let known = subject.as_ref().and_then(|subject| records.known(subject));
    let believed = match &subject {
        None => Err(Gap::Tag),
        Some(subject) => believe(known.as_deref(), subject, registry.map(AsRef::as_ref), setting.denies_digests(), now),
    };
    let last =
        |(subject, known): (&Subject, &Arc<Known>)| (known.facts.clone(), index::last_seen(known, subject, registry.map(AsRef::as_ref)));
    let processor = registry.is_some_and(|registry| registry.is_processor(asked.namespace, asked.service_account));
    let sight = Sight {
        certain,
        last: subject.as_ref().zip(known.as_ref()).filter(|_| believed.is_err()).map(last),
        outcome: believed.as_ref().map_or(Outcome::Busy(Busy::UNANSWERED), |facts| Outcome::Found(facts.clone())),
        source: Source::Known,
        evidence: known.as_ref().and_then(|known| known.evidence.clone()).map(Outcome::Found),
        origin: origin::recall(image, &spoken.rivals, |rival| records.held(rival)),
        subject,
        // What the registry shows to whom nobody asks; what is bad is bad for all of them.
        ..Sight::blind(Some(Outcome::Found(())), registry.is_some(), processor)
    };
    let unkept = believed.is_err() && is_unkept(registry.map(AsRef::as_ref)) && (certain || !setting.may_waive_release());
    let foreseen = unkept.then(|| {
        let outcome = Outcome::Found(Arc::new(unmanaged(Manifest::default())));
        setting.consider(spoken.clone(), Some(&Sight { outcome, last: None, ..sight.clone() }))
    });
    let proves = spoken.proves_access();
    let mut stands = stands(&setting.consider(spoken, Some(&sight)), believed.err().as_ref());
    // Whatever its registry says of it, nobody keeps its flag: that much is known beforehand, and nothing that admits it is.
    for foreseen in foreseen.iter().flat_map(|considered| &considered.opinions) {
        if let Settled::Refuse(why @ Why::Unmanaged { .. }) = &foreseen.settled
            && let Some(stand) = stands.iter_mut().find(|stand| stand.policy == foreseen.policy)
            && matches!(stand.view, View::NotKnown(_))
        {
            stand.view = View::Refuses(why.clone());
        }
    }
    if proves && asked.running.is_none() {
        for stand in stands.iter_mut().filter(|stand| stand.view == View::Admits) {
            stand.view = View::NotKnown(Gap::Permit);
        }
    }
    Judged { subject: sight.subject, stands }
}

/// What is written of an image, if it can be gone by.
fn believe(
    known: Option<&Known>,
    subject: &Subject,
    registry: Option<&RegistryEntry>,
    inside: bool,
    now: Timestamp,
) -> Result<Arc<Facts>, Gap> {
    let managed = registry.filter(|registry| registry.provider == QuarantineProvider::Managed);
    let unread = |facts: &Facts| inside && facts.manifest.is_unread() && !facts.state.is_bad();
    match known {
        Some(known) if index::is_believed(known, subject, registry, now) => {
            if unread(&known.facts) {
                Err(Gap::Inside)
            } else {
                Ok(known.facts.clone())
            }
        }
        // What was kept by somebody, and is not bad, is nobody's from then on.
        Some(known) if is_unkept(registry) && !known.blank => {
            let facts = unmanaged(known.facts.manifest.clone());
            if unread(&facts) { Err(Gap::Inside) } else { Ok(Arc::new(facts)) }
        }
        _ if managed.is_some_and(|registry| registry.adopted.is_none()) => Err(Gap::Adopts),
        Some(known) if !known.blank => Err(Gap::Stale(known.facts.state, index::last_seen(known, subject, registry))),
        _ if managed.is_some() => Err(Gap::Begins),
        _ => Err(Gap::Unseen),
    }
}

/// Nobody keeps the flag of its images.
fn is_unkept(registry: Option<&RegistryEntry>) -> bool {
    registry.is_none_or(|registry| registry.provider == QuarantineProvider::None)
}

/// An image for which nobody keeps a flag.
fn unmanaged(manifest: Manifest) -> Facts {
    Facts {
        state: State::Unmanaged,
        since: Timestamp::UNIX_EPOCH,
        by: String::new(),
        reason: String::new(),
        details: String::new(),
        provider: Provider::None,
        observed_at: Timestamp::UNIX_EPOCH,
        manifest,
    }
}

fn stands<'a>(considered: &Considered<'a>, gap: Option<&Gap>) -> Vec<Stand<'a>> {
    let stand = |opinion: &Opinion<'a>| Stand { policy: opinion.policy, mode: opinion.mode, view: view(&opinion.settled, gap) };
    considered.opinions.iter().map(stand).collect()
}

fn view(settled: &Settled, gap: Option<&Gap>) -> View {
    match (settled, gap) {
        (Settled::Admit(_), _) => View::Admits,
        (Settled::Refuse(why), _) => View::Refuses(why.clone()),
        (Settled::Later(Why::OriginOpen(_), _), _) => View::NotKnown(Gap::Origin),
        (Settled::Later(Why::Busy(_), _), Some(gap)) => View::NotKnown(gap.clone()),
        (Settled::Later(Why::Busy(Busy { cause: BusyCause::Unproven, .. }), _), None) => View::NotKnown(Gap::Unproven),
        (Settled::Later(why, _), _) => View::NotKnown(Gap::Open(sentence::short(why))),
    }
}

/// What a change of rules does to one image.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<'s, 'a> {
    /// Nothing that anybody would notice.
    None,
    /// It would be refused by these, and is not now.
    Refused(Vec<&'s Stand<'a>>),
    /// It would be refused by these, and is refused now, by them or by others.
    Already(Vec<&'s Stand<'a>>),
    /// What these would make of it is not known.
    NotKnown(Vec<&'s Stand<'a>>),
}

/// Compares what policies say of an image now with what they would say then. A policy that is `changed` is one that is about to be
/// applied: then it is taken to enforce, whatever mode it names, and now it counts only if it does. The others are as they are: whatever
/// their mode, it is told when another verdict comes of theirs.
pub fn compare<'s, 'a>(now: &[Stand<'_>], then: &'s [Stand<'a>], changed: impl Fn(&str) -> bool) -> Effect<'s, 'a> {
    let before = |policy: &str| now.iter().find(|stand| stand.policy == policy);
    let refuses = |stand: &Stand<'_>| matches!(stand.view, View::Refuses(_));
    let refused: Vec<_> = then.iter().filter(|stand| refuses(stand)).collect();
    if !refused.is_empty() && now.iter().any(|stand| stand.mode == Mode::Enforce && refuses(stand)) {
        return Effect::Already(refused);
    }
    let stood = |stand: &Stand<'_>| before(stand.policy).is_some_and(|before| refuses(before) && !changed(before.policy));
    let newly: Vec<_> = refused.into_iter().filter(|stand| !stood(stand)).collect();
    if !newly.is_empty() {
        return Effect::Refused(newly);
    }
    let unknown = |stand: &&Stand<'_>| {
        let open = |stand: &Stand<'_>| matches!(stand.view, View::NotKnown(_));
        open(stand) && (changed(stand.policy) || !before(stand.policy).is_some_and(open))
    };
    let unknown: Vec<_> = then.iter().filter(unknown).collect();
    if unknown.is_empty() { Effect::None } else { Effect::NotKnown(unknown) }
}

#[cfg(test)]
mod tests;
