//! Every metric family, in one place. Label values come from enums, never from a text that somebody else writes.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{
    api::{Mode, State},
    debts::Change,
    facts::OutcomeKind,
    judgement::Answered,
    verdict::Basis,
};

macro_rules! label_by_debug {
    ($($type:ty),*) => {$(
        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                use std::fmt::Write as _;
                write!(encoder, "{self:?}")
            }
        }
    )*};
}
label_by_debug!(Mode, State, OutcomeKind, Answered, Basis, Change);

/// An opinion of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReviewLabels {
    /// What it said.
    pub verdict: Answered,
    /// In which mode.
    pub mode: Mode,
    /// On what it rests.
    pub basis: Basis,
}

/// A phase of a review.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PhaseLabels {
    /// Which.
    pub phase: Phase,
}

/// A phase of a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Phase {
    /// The whole review.
    Total,
    /// Waiting for what was not known.
    Lookup,
}

/// What was asked of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Asked {
    /// The digest of a tag.
    Resolve,
    /// The state of a digest.
    Judge,
    /// Whether it is alive.
    Probe,
    /// The state of a digest, by the leader's regular look.
    Poll,
    /// What is signed about a digest.
    Prove,
    /// Whether a registry holds a repository that is named at another.
    Holds,
    /// Whether it is shown to whoever shows a pod's pull secrets.
    Permit,
}

/// A question to a registry and its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QuestionLabels {
    /// What was asked.
    pub question: Asked,
    /// How it ended.
    pub outcome: OutcomeKind,
}

/// Images by state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabels {
    /// The state.
    pub state: State,
}

/// A change of what running containers owe.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ChangeLabels {
    /// What happened.
    pub change: Change,
}

/// A kind of written thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Written {
    /// An ImageStatus.
    ImageStatus,
    /// A status of a resource that people write.
    Status,
    /// A Kubernetes Event.
    Event,
    /// The webhook configuration.
    Webhook,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum WriteEnd {
    /// It is written.
    Done,
    /// Somebody else wrote meanwhile, more often than we try.
    Conflict,
    /// A cap on their number.
    Capped,
    /// Too many transitions wait for their audit lines.
    Full,
    /// The API server refused or did not answer.
    Failed,
    /// Not leading any more.
    NotLeading,
}

/// A write and its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    /// What.
    pub what: Written,
    /// How it ended.
    pub end: WriteEnd,
}

/// Every metric family of a replica.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Opinions of policies.
    pub reviews: Family<ReviewLabels, Counter>,
    /// Requests that could not be read.
    pub unreadable_requests: Counter,
    /// Time to answer, by phase.
    pub review_duration: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    /// Look-ups in the air.
    pub flights: Gauge,
    /// Answers of registries that are kept for a while.
    pub answers: Gauge,
    /// What they take.
    pub answer_bytes: Gauge,
    /// Registries that are out.
    pub registries_out: Gauge,
    /// Questions to registries.
    pub questions: Family<QuestionLabels, Counter>,
    /// Writes to the API server.
    pub writes: Family<WriteLabels, Counter>,
    /// Transitions whose audit line was written.
    pub transitions: Family<StateLabels, Counter>,
    /// Policies in force.
    pub policies: Gauge,
    /// Objects that cannot be read.
    pub unreadable_objects: Gauge,
    /// Images by state.
    pub images: Family<StateLabels, Gauge>,
    /// The age of the oldest look at an image in use.
    pub oldest_fact: Gauge,
    /// Running containers that owe a judgement.
    pub debts: Gauge,
    /// Containers by what became of their debts.
    pub debt_changes: Family<ChangeLabels, Counter>,
    /// For how long the container runs that has owed for longest.
    pub oldest_debt: Gauge,
    /// Running containers whose image a policy refuses.
    pub running_refused: Gauge,
    /// Seconds until the serving certificate ends.
    pub certificate_expiry: Gauge,
    /// 1 while this replica leads.
    pub leading: Gauge,
    /// Passes over a registry that did not come to their end.
    pub failed_passes: Counter,
}

impl Metrics {
    /// Makes the families and registers them.
    #[must_use]
    pub fn new() -> (Self, Registry) {
        let mut registry = Registry::with_prefix("lazaretto");
        let buckets: fn() -> Histogram =
            || Histogram::new([0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.5, 15.0, 30.0]);
        let metrics = Self {
            reviews: Family::default(),
            unreadable_requests: Counter::default(),
            review_duration: Family::new_with_constructor(buckets),
            flights: Gauge::default(),
            answers: Gauge::default(),
            answer_bytes: Gauge::default(),
            registries_out: Gauge::default(),
            questions: Family::default(),
            writes: Family::default(),
            transitions: Family::default(),
            policies: Gauge::default(),
            unreadable_objects: Gauge::default(),
            images: Family::default(),
            oldest_fact: Gauge::default(),
            debts: Gauge::default(),
            debt_changes: Family::default(),
            oldest_debt: Gauge::default(),
            running_refused: Gauge::default(),
            certificate_expiry: Gauge::default(),
            leading: Gauge::default(),
            failed_passes: Counter::default(),
        };
        registry.register("reviews", "Opinions of policies about images", metrics.reviews.clone());
        registry.register("unreadable_requests", "Admission requests that could not be read", metrics.unreadable_requests.clone());
        registry.register_with_unit("review_duration", "Time to answer a review, by phase", Unit::Seconds, metrics.review_duration.clone());
        registry.register("flights", "Look-ups in the air", metrics.flights.clone());
        registry.register("answers", "Answers of registries that are kept for a while", metrics.answers.clone());
        registry.register_with_unit("answer", "Memory that kept answers take", Unit::Bytes, metrics.answer_bytes.clone());
        registry.register("registries_out", "Registries that are out, by what this replica has seen", metrics.registries_out.clone());
        registry.register("registry_questions", "Questions to registries by their end", metrics.questions.clone());
        registry.register("writes", "Writes to the API server by their end", metrics.writes.clone());
        registry.register("transitions", "Transitions of images whose audit line was written", metrics.transitions.clone());
        registry.register("policies", "Policies in force", metrics.policies.clone());
        registry.register("unreadable_objects", "Policies, registries and waivers that cannot be read", metrics.unreadable_objects.clone());
        registry.register("images", "Images by quarantine state", metrics.images.clone());
        registry.register_with_unit("oldest_fact", "Age of the oldest look at an image in use", Unit::Seconds, metrics.oldest_fact.clone());
        registry.register("debts", "Running containers whose image their policy has not judged (leader only)", metrics.debts.clone());
        registry.register(
            "debt_changes",
            "Containers that began to owe, and how that ended, and whose image was revoked (leader only)",
            metrics.debt_changes.clone(),
        );
        registry.register_with_unit(
            "oldest_debt",
            "Age of the container that has owed for longest (leader only)",
            Unit::Seconds,
            metrics.oldest_debt.clone(),
        );
        registry.register(
            "running_refused",
            "Running containers whose image a policy refuses (leader only)",
            metrics.running_refused.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry",
            "Time until the serving certificate ends",
            Unit::Seconds,
            metrics.certificate_expiry.clone(),
        );
        registry.register("leading", "1 while this replica leads", metrics.leading.clone());
        registry.register("failed_passes", "Passes over a registry that did not come to their end", metrics.failed_passes.clone());
        // So that an alert finds a zero and not nothing.
        for state in [State::Released, State::Unmanaged, State::Pending, State::Quarantined, State::Failed] {
            metrics.images.get_or_create(&StateLabels { state }).set(0);
        }
        for change in [Change::Owing, Change::Settled, Change::Breached, Change::Revoked, Change::Lapsed] {
            metrics.debt_changes.get_or_create(&ChangeLabels { change }).inc_by(0);
        }
        (metrics, registry)
    }

    /// Counts a write.
    pub fn wrote(&self, what: Written, end: WriteEnd) {
        self.writes.get_or_create(&WriteLabels { what, end }).inc();
    }
}
