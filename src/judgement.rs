//! From the opinions of several policies about several images to one answer: the strictest, its sentence, warnings and annotations.

mod spoken;

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc, time::Duration};

use jiff::Timestamp;

use self::spoken::View;
pub use self::spoken::{Spoken, Want};
use crate::{
    access::{Demand, Who},
    api::{Mode, Requirement},
    image::{Reference, ReferenceError, Subject, names_registry},
    index::Rules,
    origin::{Origin, Rival},
    pod::Named,
    policy::{Policy, RegistryEntry, Waiver},
    sentence::{self, Place},
    verdict::{Basis, Case, Opinion, Proven, Settled, Sight, Why},
};

/// Which policies a webhook entry speaks for. The API server has one entry that fails closed, for policies in mode Enforce, and one
/// that fails open, for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every policy.
    All,
    /// Those in mode Enforce.
    Enforce,
    /// Those in modes Warn and Audit.
    Observe,
}

impl Scope {
    /// Whether a policy in this mode is within the scope.
    #[must_use]
    pub fn holds(self, mode: Mode) -> bool {
        match self {
            Self::All => true,
            Self::Enforce => mode == Mode::Enforce,
            Self::Observe => mode != Mode::Enforce,
        }
    }
}

/// Where an image stands. It becomes text only where somebody is told of it.
#[derive(Clone, Copy, Debug)]
pub enum FieldPath<'a> {
    /// In a pod.
    Pod(Named<'a>),
    /// Anywhere, as it is written.
    Text(&'a str),
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(named) => formatter.write_str(&named.path()),
            Self::Text(text) => formatter.write_str(text),
        }
    }
}

/// One image of the pod: where it stands, what it says, and how it reads.
#[derive(Clone, Debug)]
pub struct Subjected<'a> {
    /// `spec.containers[web].image`.
    pub path: FieldPath<'a>,
    /// As the author wrote it.
    pub text: &'a str,
    /// How it reads.
    pub image: Result<Reference, ReferenceError>,
}

/// What all images of one pod have in common: the rules, the namespace and the time, and what of the rules bears there and then.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    rules: &'a Rules,
    namespace: &'a str,
    /// Of the namespace, where some Registry asks.
    labels: BTreeMap<String, String>,
    account: &'a str,
    now: Timestamp,
    policies: Vec<&'a Policy>,
    waivers: Vec<&'a Waiver>,
}

impl<'a> Setting<'a> {
    /// The policies within the scope that select a namespace with these labels, and the waivers in force there.
    #[must_use]
    pub fn new(rules: &'a Rules, scope: Scope, namespace: &'a str, labels: &BTreeMap<String, String>, now: Timestamp) -> Self {
        let policies = rules.policies.values().map(AsRef::as_ref);
        let policies = policies.filter(|policy| scope.holds(policy.mode) && policy.matches_namespace(labels)).collect();
        let waivers = rules.waivers.values().map(AsRef::as_ref).filter(|waiver| waiver.is_in_force(namespace, now)).collect();
        let labels = if rules.asks_labels() { labels.clone() } else { BTreeMap::new() };
        Self { rules, namespace, labels, account: "default", now, policies, waivers }
    }

    /// The same for pods that run as this ServiceAccount.
    #[must_use]
    pub const fn of_account(mut self, account: &'a str) -> Self {
        self.account = account;
        self
    }

    /// Whether a pod here that runs as this ServiceAccount may see what other registries hold of a name.
    #[must_use]
    pub fn is_told(&self, rivals: &[Rival], account: &str) -> bool {
        let who = Who { namespace: self.namespace, labels: &self.labels, service_account: account };
        let demand = |rival: &Rival| rival.registry.demand(&rival.repository, &who);
        rivals.iter().map(demand).all(|demand| demand == Demand::Nothing)
    }

    /// What the Registry that speaks of an image asks of a pod there that runs as this ServiceAccount.
    #[must_use]
    pub fn demand(&self, registry: Option<&Arc<RegistryEntry>>, image: &Reference, account: &str) -> Demand {
        let who = Who { namespace: self.namespace, labels: &self.labels, service_account: account };
        registry.map_or(Demand::Nothing, |registry| registry.demand(image.repository(), &who))
    }

    /// Whether the same bears there at a later time: no waiver has expired until then.
    #[must_use]
    pub fn holds_until(&self, now: Timestamp) -> bool {
        self.waivers.iter().all(|waiver| now < waiver.expires)
    }

    /// The same at a later time.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        self.now = now;
        self
    }

    /// Whether some policy denies images by digest, so that it has to be known what is inside an index.
    #[must_use]
    pub fn denies_digests(&self) -> bool {
        self.policies.iter().any(|policy| policy.denies_digests())
    }

    /// Whether no policy speaks of anything here.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.policies.is_empty()
    }

    /// Whether some waiver here is for the release of an image, so that it matters which digest a tag stands for.
    #[must_use]
    pub fn may_waive_release(&self) -> bool {
        self.waivers.iter().any(|waiver| waiver.concerns(Requirement::Released, self.namespace, self.now))
    }

    /// The policies that speak of an image. A reference that cannot be read, or whose host is an address that no Registry names, could
    /// be any image: every policy of the namespace speaks of it.
    #[must_use]
    pub fn policies_for(&self, image: &Result<Reference, ReferenceError>) -> Vec<&'a Policy> {
        let Ok(image) = image else { return self.policies.clone() };
        let name = image.name();
        let anywhere = image.host_is_ip() && self.rules.registry_of(image).is_none();
        let speaks = |policy: &&&Policy| if anywhere { !policy.excludes_image(name) } else { policy.matches_image(name) };
        let mut policies = Vec::with_capacity(self.policies.len());
        policies.extend(self.policies.iter().filter(speaks).copied());
        policies
    }

    /// One image as one of its policies meets it.
    #[must_use]
    pub fn case<'c>(&'c self, policy: &'a Policy, image: &'c Reference) -> Case<'a, 'c> {
        let Self { waivers, namespace, now, .. } = self;
        let (unqualified, demand, contested, told) = (false, Demand::Nothing, false, false);
        Case { policy, waivers, namespace, image, unqualified, demand, now: *now, undenied: false, proven: None, contested, told }
    }

    /// One image with the policies that speak of it and what they say of its name.
    #[must_use]
    pub fn spoken(&self, path: FieldPath<'a>, text: &'a str) -> Spoken<'a> {
        self.spoken_by(path, text, self.account)
    }

    /// The same for a pod that runs as another ServiceAccount.
    #[must_use]
    pub fn spoken_by(&self, path: FieldPath<'a>, text: &'a str, account: &str) -> Spoken<'a> {
        let image = Reference::parse(text);
        let policies = self.policies_for(&image);
        let registry = image.as_ref().ok().and_then(|image| self.rules.registry_of(image));
        let demand = image.as_ref().map_or(Demand::Nothing, |image| self.demand(registry, image, account));
        let unqualified = !names_registry(text);
        let rivals = match &image {
            Ok(image) if !policies.is_empty() => self.rules.rivals(image, registry),
            _ => Vec::new(),
        };
        let (contested, told) = (!rivals.is_empty(), self.is_told(&rivals, account));
        let mut views = Vec::with_capacity(policies.len());
        views.extend(policies.into_iter().map(|policy| {
            let opinion = match &image {
                Ok(image) => Opinion::by_name(&Case { unqualified, demand, contested, ..self.case(policy, image) }, registry.is_some()),
                Err(error) => {
                    let settled = Settled::Refuse(Why::Reference(error.to_string()));
                    Some(Opinion { policy: &policy.name, mode: policy.mode, settled, warnings: Vec::new() })
                }
            };
            View { policy, opinion }
        }));
        Spoken { subjected: Subjected { path, text, image }, registry, rivals, demand, told, views }
    }

    /// What each of its policies makes of one image, given what is at hand about it.
    #[must_use]
    pub fn consider(&self, spoken: Spoken<'a>, sight: Option<&Sight>) -> Considered<'a> {
        let Spoken { subjected, views, demand, told, .. } = spoken;
        let unqualified = !names_registry(subjected.text);
        let undenied = sight.is_some_and(|sight| !self.rules.denies(sight));
        let proven = Proven::default();
        let mut opinions = Vec::with_capacity(views.len());
        opinions.extend(views.into_iter().filter_map(|View { policy, opinion }| {
            let see = || {
                let case = self.case(policy, subjected.image.as_ref().ok()?);
                Some(Opinion::seen(&Case { unqualified, demand, told, undenied, proven: Some(&proven), ..case }, sight?))
            };
            opinion.or_else(see)
        }));
        // What a registry inside holds shows by nothing that is known of the stranger's.
        let shown = sight.filter(|sight| sight.is_shown(demand) && (told || !matches!(sight.origin, Origin::Held(_))));
        Considered { subject: shown.and_then(|sight| sight.subject.clone()), subjected, opinions }
    }

    /// What each policy makes of each image, given what is at hand about those that were [wanted](Spoken::wanted).
    #[must_use]
    pub fn consider_all<'s>(&self, spoken: Vec<Spoken<'a>>, sight: impl Fn(&Reference) -> Option<&'s Sight>) -> Vec<Considered<'a>> {
        let each = |spoken: Spoken<'a>| {
            let sight = spoken.subjected.image.as_ref().ok().and_then(&sight);
            self.consider(spoken, sight)
        };
        spoken.into_iter().map(each).collect()
    }
}

/// Everything that was thought about one image.
#[derive(Clone, Debug)]
pub struct Considered<'a> {
    /// The image.
    pub subjected: Subjected<'a>,
    /// Its digest, when that is known.
    pub subject: Option<Subject>,
    /// One opinion a policy.
    pub opinions: Vec<Opinion<'a>>,
}

impl Considered<'_> {
    fn place(&self) -> Place<'_> {
        Place::new(self.subjected.path, self.subjected.text, self.subject.as_ref())
    }
}

/// The answer about a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Yes, no, or not yet.
    pub answer: Answer,
    /// For the user, beside a yes or a no.
    pub warnings: Vec<String>,
    /// For the API server's audit log.
    pub annotations: BTreeMap<&'static str, Cow<'static, str>>,
    /// For the metrics: how many opinions there were of each kind.
    pub tallies: Vec<(Tally, u64)>,
    /// Audit lines: every opinion that is not a plain yes, with all the policies that share it.
    pub lines: Vec<Line>,
}

/// The kind of an opinion: what it came to, in which mode, on what basis.
pub type Tally = (Answered, Mode, Basis);

/// Yes, no, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Admit,
    /// Not yet, with the message and the time to wait.
    Later(String, Duration),
    /// No, with the message.
    Refuse(String),
}

/// The kind of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answered {
    /// Yes.
    Admit,
    /// Yes, with a warning.
    Warn,
    /// Not yet.
    Later,
    /// No.
    Refuse,
}

impl Answered {
    /// The word for annotations and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "Admit",
            Self::Warn => "Warn",
            Self::Later => "Later",
            Self::Refuse => "Refuse",
        }
    }
}

/// An opinion that is not a plain yes, for the audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Where in the pod.
    pub path: String,
    /// As the author wrote it.
    pub image: String,
    /// Its digest, when known.
    pub digest: Option<String>,
    /// Which policies, with commas between them.
    pub policies: String,
    /// In which mode.
    pub mode: Mode,
    /// What it said.
    pub answered: Answered,
    /// On what it rests.
    pub basis: Basis,
    /// In words.
    pub reason: String,
}

impl Opinion<'_> {
    /// What it comes to, whatever its mode.
    #[must_use]
    pub fn answered(&self) -> Answered {
        match &self.settled {
            Settled::Admit(_) if self.warnings.is_empty() => Answered::Admit,
            Settled::Admit(_) => Answered::Warn,
            Settled::Later(..) => Answered::Later,
            Settled::Refuse(_) => Answered::Refuse,
        }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.mode == other.mode && self.settled == other.settled && self.warnings == other.warnings
    }

    /// On what it rests.
    #[must_use]
    pub fn basis(&self) -> Basis {
        match &self.settled {
            Settled::Admit(basis) => *basis,
            Settled::Refuse(Why::Reference(_)) => Basis::Unreadable,
            Settled::Later(why, _) if why.is_busy() => Basis::Deadline,
            Settled::Refuse(
                Why::Denied(_)
                | Why::NoDigest
                | Why::AddressLiteral
                | Why::Unmanaged { .. }
                | Why::Excluded
                | Why::SourceNotAllowed(_)
                | Why::Unqualified(_),
            ) => Basis::NothingRequired,
            Settled::Refuse(_) | Settled::Later(..) => Basis::Registry,
        }
    }

    /// Why it is not a plain yes; none when it is.
    #[must_use]
    pub fn why(&self) -> Option<&Why> {
        match &self.settled {
            Settled::Admit(_) => self.warnings.first(),
            Settled::Refuse(why) | Settled::Later(why, _) => Some(why),
        }
    }
}

/// Joins everything into one answer: the strictest of the policies in mode Enforce. Policies in mode Warn warn, those in mode
/// Audit leave annotations and audit lines.
#[must_use]
pub fn conclude(all: &[Considered<'_>]) -> Judgement {
    let mut refusals = Vec::new();
    let mut laters = Vec::new();
    let mut wait = Duration::ZERO;
    let mut judgement =
        Judgement { answer: Answer::Admit, warnings: Vec::new(), annotations: BTreeMap::new(), tallies: Vec::new(), lines: Vec::new() };
    let mut strictest: Option<(Answered, &Considered<'_>, &Opinion<'_>)> = None;
    for considered in all {
        let mut notable: Vec<(&Opinion<'_>, Vec<&str>)> = Vec::new();
        for opinion in &considered.opinions {
            let (answered, basis) = (opinion.answered(), opinion.basis());
            let tally = (answered, opinion.mode, basis);
            // Of few kinds, and most often of one: a search in line is the quickest there is.
            match judgement.tallies.iter_mut().find(|(held, _)| *held == tally) {
                Some((_, count)) => *count += 1,
                None => judgement.tallies.push((tally, 1)),
            }
            if answered != Answered::Admit || basis.is_open() || matches!(basis, Basis::LastKnownGood | Basis::Waiver | Basis::Processor) {
                match notable.iter_mut().find(|(held, _)| held.says_the_same(opinion)) {
                    Some((_, policies)) => policies.push(opinion.policy),
                    None => notable.push((opinion, vec![opinion.policy])),
                }
            }
            if strictest.as_ref().is_none_or(|(held, _, other)| (answered, opinion.mode) > (*held, other.mode)) {
                strictest = Some((answered, considered, opinion));
            }
        }
        if notable.is_empty() {
            continue;
        }
        let place = considered.place();
        for (opinion, policies) in notable {
            match (&opinion.settled, opinion.mode) {
                (Settled::Refuse(why), Mode::Enforce) => refusals.push(sentence::refusal(&place, why, &policies)),
                (Settled::Later(why, after), Mode::Enforce) => {
                    laters.push(sentence::refusal(&place, why, &policies));
                    wait = wait.max(*after);
                }
                (Settled::Refuse(why) | Settled::Later(why, _), Mode::Warn) => {
                    judgement.warnings.push(sentence::warning(&place, why, &policies));
                }
                (Settled::Admit(_), _) | (_, Mode::Audit) => {}
            }
            if opinion.mode != Mode::Audit {
                judgement.warnings.extend(opinion.warnings.iter().map(|why| sentence::warning(&place, why, &policies)));
            }
            judgement.lines.push(Line {
                path: place.path.clone(),
                image: place.image.clone(),
                digest: place.digest.clone(),
                policies: policies.join(","),
                mode: opinion.mode,
                answered: opinion.answered(),
                basis: opinion.basis(),
                reason: opinion.why().map_or_else(String::new, sentence::short),
            });
        }
    }
    if let Some((answered, considered, opinion)) = strictest {
        let annotations = &mut judgement.annotations;
        annotations.insert("image", crate::history::clip(considered.subjected.text, sentence::IMAGE_LIMIT).into());
        if let Some(subject) = &considered.subject {
            annotations.insert("digest", subject.digest().to_string().into());
        }
        annotations.insert("policy", opinion.policy.to_owned().into());
        annotations.insert("mode", opinion.mode.as_str().into());
        annotations.insert("verdict", answered.as_str().into());
        annotations.insert("basis", opinion.basis().as_str().into());
    }
    judgement.warnings.dedup();
    judgement.warnings.truncate(16);
    if !refusals.is_empty() {
        judgement.answer = Answer::Refuse(sentence::join(refusals));
    } else if !laters.is_empty() {
        judgement.answer = Answer::Later(sentence::join(laters), wait.max(Duration::from_secs(1)));
    }
    judgement
}

/// What a template's author may want to know now: every refusal of a policy in mode Enforce or Warn, as a warning.
#[must_use]
pub fn as_warnings(all: &[Considered<'_>]) -> Vec<String> {
    let mut warnings = Vec::new();
    for considered in all {
        let mut refused: Vec<(&Why, Vec<&str>)> = Vec::new();
        for opinion in considered.opinions.iter().filter(|opinion| opinion.mode != Mode::Audit) {
            if let Settled::Refuse(why) = &opinion.settled {
                match refused.iter_mut().find(|(held, _)| *held == why) {
                    Some((_, policies)) => policies.push(opinion.policy),
                    None => refused.push((why, vec![opinion.policy])),
                }
            }
        }
        if !refused.is_empty() {
            let place = considered.place();
            warnings.extend(refused.iter().map(|(why, policies)| sentence::warning(&place, why, policies)));
        }
    }
    warnings.dedup();
    warnings.truncate(16);
    warnings
}
