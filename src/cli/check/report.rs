//! What is said of each object: as JSON whose fields stay, and as a table.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;

use super::{hand::Hand, manifest::Skipped};
use crate::{
    api::{Mode, State},
    cli::{
        Exit,
        output::{self, Cell, Colour},
    },
    facts::Outcome,
    image::Reference,
    judgement::{self, Answer, Answered, Considered},
    sentence,
    verdict::{Basis, Opinion, Settled, Why},
};

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The strictest answer.
    pub answer: Verdict,
    /// One for each object that was judged, in the order of the input.
    pub objects: Vec<Judged>,
    /// Objects in which no pod is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
}

/// Yes, not yet, or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Verdict {
    Admit,
    Later,
    Refuse,
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Self::Admit => "admitted",
            Self::Later => "not known yet",
            Self::Refuse => "refused",
        }
    }

    /// How the program ends on it.
    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Admit => Exit::Done,
            Self::Later => Exit::NotYet,
            Self::Refuse => Exit::Refused,
        }
    }
}

/// What is said of one object.
#[derive(Debug, Serialize)]
pub(super) struct Judged {
    /// `Pod`, `Deployment`, ..., or `Image` for one from the command line.
    pub kind: String,
    /// Its name; for an image the reference.
    pub name: String,
    /// The namespace in which it was judged.
    pub namespace: String,
    /// The strictest answer about its images.
    pub answer: Verdict,
    /// Why, when it is not for an image's sake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its images, in the order of the pod.
    pub images: Vec<JudgedImage>,
}

/// What is said of one image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JudgedImage {
    /// Where in the pod.
    pub path: String,
    /// As it is written.
    pub image: String,
    /// Its digest, when that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Its quarantine state, when that was looked at and is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// When it was seen to be in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Timestamp>,
    /// One for each policy that speaks of it.
    pub opinions: Vec<JudgedOpinion>,
}

/// What one policy says of one image.
#[derive(Debug, Serialize)]
pub(super) struct JudgedOpinion {
    /// The policy.
    pub policy: String,
    /// Its mode.
    pub mode: Mode,
    /// `Admit`, `Warn` (a requirement at level Warn is not met), `Later` or `Refuse`, whatever the mode makes of it.
    pub verdict: &'static str,
    /// On what it rests.
    pub basis: String,
    /// In words, with what to do.
    pub reason: String,
}

/// The answer about an object. With `strict`, policies in mode Warn count as well.
pub(super) fn answer(considered: &[Considered<'_>], strict: bool) -> Verdict {
    let mut considered = considered.to_vec();
    for opinion in considered.iter_mut().flat_map(|considered| &mut considered.opinions).filter(|_| strict) {
        if opinion.mode == Mode::Warn {
            opinion.mode = Mode::Enforce;
        }
    }
    match judgement::conclude(&considered).answer {
        Answer::Admit => Verdict::Admit,
        Answer::Later(..) => Verdict::Later,
        Answer::Refuse(_) => Verdict::Refuse,
    }
}

/// One image with what every policy says of it.
pub(super) fn image(considered: &Considered<'_>, hands: &HashMap<Reference, Hand>) -> JudgedImage {
    let read = considered.subjected.image.as_ref().ok();
    let hand = read.and_then(|image| hands.get(image));
    let facts = hand.and_then(|hand| match &hand.sight.outcome {
        Outcome::Found(facts) => Some(facts),
        _ => hand.sight.last.as_ref().map(|(facts, _)| facts),
    });
    let subject = considered.subject.clone().or_else(|| read.and_then(Reference::subject));
    let gap = hand.and_then(|hand| hand.gap.as_ref());
    let say = |why: &Why| match gap {
        Some(gap) if why.is_busy() => gap.to_string(),
        _ => sentence::reason(why, subject.as_ref()),
    };
    let reason = |opinion: &Opinion<'_>| match (&opinion.settled, opinion.basis(), facts) {
        (Settled::Refuse(why) | Settled::Later(why, _), ..) => say(why),
        (Settled::Admit(_), ..) if !opinion.warnings.is_empty() => opinion.warnings.iter().map(say).collect::<Vec<_>>().join("; "),
        (Settled::Admit(_), Basis::KnownFacts | Basis::Registry | Basis::LastKnownGood, Some(facts)) => {
            let by = if facts.by.is_empty() { String::new() } else { format!(" by {}", facts.by) };
            format!("{} since {:.0}{by}", facts.state, facts.since)
        }
        (Settled::Admit(_), basis, _) => admitted(basis).to_owned(),
    };
    let basis = |opinion: &Opinion<'_>| match (&opinion.settled, gap) {
        (Settled::Later(why, _), Some(_)) if why.is_busy() => "NotAsked".to_owned(),
        _ => format!("{:?}", opinion.basis()),
    };
    let opinions = considered.opinions.iter().map(|opinion| JudgedOpinion {
        policy: opinion.policy.to_owned(),
        mode: opinion.mode,
        verdict: opinion.answered().as_str(),
        basis: basis(opinion),
        reason: reason(opinion),
    });
    JudgedImage {
        opinions: opinions.collect(),
        path: considered.subjected.path.to_string(),
        image: considered.subjected.text.to_owned(),
        digest: subject.as_ref().map(|subject| subject.digest().to_string()),
        state: facts.map(|facts| facts.state),
        observed_at: facts.map(|facts| facts.observed_at),
    }
}

/// What an admission rests on that is not the image's own state.
fn admitted(basis: Basis) -> &'static str {
    match basis {
        Basis::Waiver => "a waiver applies",
        Basis::Processor => "the pod is the quarantine processor's",
        Basis::OpenPending => "not analysed yet, and the policy allows that",
        Basis::OpenUnavailable => "its registry is unavailable, and the policy allows that",
        Basis::OpenUnauthorized => "its registry refuses the credentials, and the policy allows that",
        _ => "the policy asks for nothing more",
    }
}

impl Report {
    /// For people: a heading and a table for each object.
    pub(super) fn table(&self, coloured: bool) -> String {
        let objects: Vec<String> = self.objects.iter().map(|object| object.table(coloured)).collect();
        objects.join("\n")
    }
}

impl Judged {
    fn table(&self, coloured: bool) -> String {
        let name = if self.kind == "Image" { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) };
        let reason = self.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        let heading = crate::history::clip(&format!("{} {name}: {}{reason}", self.kind, self.answer.words()), 2_000);
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        for image in &self.images {
            let digest = short(image.digest.as_deref());
            let row = |policy: &str, mode: &str, verdict: Cell, reason: &str| -> Vec<Cell> {
                vec![image.image.as_str().into(), digest.as_str().into(), policy.into(), mode.into(), verdict, reason.into()]
            };
            if image.opinions.is_empty() && self.reason.is_none() {
                rows.push(row("", "", Cell::new("Admit", Colour::Green), "no policy speaks of it"));
            }
            for opinion in &image.opinions {
                let verdict = Cell::new(opinion.verdict, colour(opinion.verdict, opinion.mode));
                rows.push(row(&opinion.policy, &format!("{:?}", opinion.mode), verdict, &opinion.reason));
            }
        }
        // Two containers may run one image.
        rows.dedup();
        if rows.is_empty() {
            return heading + "\n";
        }
        heading + "\n" + &output::table(&["IMAGE", "DIGEST", "POLICY", "MODE", "VERDICT", "REASON"], &rows, coloured)
    }
}

fn colour(verdict: &str, mode: Mode) -> Colour {
    if verdict == Answered::Admit.as_str() {
        Colour::Green
    } else if verdict == Answered::Refuse.as_str() && mode == Mode::Enforce {
        Colour::Red
    } else {
        Colour::Yellow
    }
}

/// Twelve digits tell images apart for people.
fn short(digest: Option<&str>) -> String {
    digest.map_or_else(String::new, |digest| digest.split_once(':').map_or(digest, |(_, hex)| hex).chars().take(12).collect())
}
