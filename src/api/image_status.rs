//! What is known of one image, and what a person decided about it.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Conditions, Evidence};

/// Transitions that an ImageStatus remembers at the most.
pub const MAX_HISTORY: usize = 20;
/// Images of an index that an ImageStatus lists at the most.
pub const MAX_CHILDREN: usize = 16;
/// Tags that an ImageStatus remembers at the most.
pub const MAX_TAGS: usize = 8;
/// Bytes of JSON that one ImageStatus may have, `managedFields` included.
pub const MAX_OBJECT_BYTES: usize = 4096;

/// Where an image stands between its push and its release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// Somebody with the right to do so let it go.
    Released,
    /// Nobody keeps a quarantine flag for this image's registry.
    Unmanaged,
    /// The registry is still analysing it.
    Pending,
    /// Pushed and not released yet.
    #[default]
    Quarantined,
    /// Judged and found unfit.
    Failed,
}

impl State {
    /// Whether an image in this state is known to be bad: such knowledge never opens through an outage.
    #[must_use]
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Quarantined | Self::Failed)
    }

    /// The word for people and for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "Released",
            Self::Unmanaged => "Unmanaged",
            Self::Pending => "Pending",
            Self::Quarantined => "Quarantined",
            Self::Failed => "Failed",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a person may decide about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DecisionState {
    /// Let it go.
    Released,
    /// Hold it (again).
    Quarantined,
    /// It is unfit.
    Failed,
}

impl From<DecisionState> for State {
    fn from(state: DecisionState) -> Self {
        match state {
            DecisionState::Released => Self::Released,
            DecisionState::Quarantined => Self::Quarantined,
            DecisionState::Failed => Self::Failed,
        }
    }
}

/// Who keeps the quarantine flag that a fact was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Provider {
    /// Lazaretto itself.
    Managed,
    /// Azure Container Registry's quarantine.
    AzureContainerRegistry,
    /// Nobody.
    #[default]
    None,
}

/// What is known of one image, by digest, for every replica and for people to read. Written by Lazaretto; a person decides in
/// `spec.quarantine`, most easily with `lazaretto quarantine release IMAGE --reason "..."`.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "lazaretto.dev",
    version = "v1alpha1",
    kind = "ImageStatus",
    plural = "imagestatuses",
    singular = "imagestatus",
    shortname = "imgst",
    category = "lazaretto",
    status = "ImageStatusStatus",
    derive = "PartialEq",
    doc = "What is known of one image, by digest. Lazaretto writes it; a person decides in spec.quarantine, most easily with `lazaretto quarantine release IMAGE --reason TEXT`.",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.since"),
    printcolumn(name = "By", type_ = "string", json_path = ".status.by"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Subject", type_ = "string", json_path = ".spec.subject", priority = 1),
    validation = Rule::new("!has(self.spec.quarantine) || !has(self.spec.quarantine.expects) || (has(oldSelf.spec.quarantine) && self.spec.quarantine == oldSelf.spec.quarantine) || !has(oldSelf.status) || self.spec.quarantine.expects == oldSelf.status.state").message("the image is no longer in the state that this decision expects: look at it again, then decide")
)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatusSpec {
    /// The image: canonical registry, repository and digest, as `registry/repository@sha256:...`. It never changes; the object's name is only a handle.
    #[schemars(length(min = 1, max = 400))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the subject never changes: delete the object and let Lazaretto make another"))]
    pub subject: String,
    /// A person's decision. It takes effect by itself where Lazaretto keeps the flag (provider Managed); elsewhere it is a request that is carried out at
    /// the registry and read back. Changing it needs the verb `release` (or `quarantine`, to hold or fail) on `imagestatuses/quarantine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Decision>,
}

/// A person's decision about one image.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// What is decided.
    pub state: DecisionState,
    /// Who decides: the user name as the API server knows it. Must be the requester's own.
    #[schemars(length(min = 1, max = 256))]
    pub by: String,
    /// Why, for people who read it later.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
    /// More about it: a link to a report, a ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub details: Option<String>,
    /// The state on which this was decided. When the image is in another state by then, the write is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "State")] // an optional enum would be explained by the text of the enum
    pub expects: Option<State>,
}

/// What Lazaretto knows of the image.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatusStatus {
    /// The generation of the spec, and so of its decision, that has been dealt with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The quarantine state.
    #[serde(default)]
    pub state: State,
    /// Since when it is in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>")]
    pub since: Option<Timestamp>,
    /// Who brought it there: a person's user name, a registry, or `lazaretto`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Why it is there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What else the decider left: a link, a scanner's summary.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
    /// Who keeps the flag.
    #[serde(default)]
    pub provider: Provider,
    /// When the observation was made that this status rests on. Later observations that say the same are not written; the Registry's
    /// `status.lastCompletePass` carries the freshness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>")]
    pub observed_at: Option<Timestamp>,
    /// The digest of the image's configuration, which some container runtimes report as the running image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The image manifests of an index, as `os/architecture[/variant]=digest`; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 16))]
    pub children: Vec<String>,
    /// The index has more image manifests than are listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more_children: bool,
    /// The tags that were last seen to stand for this image, the latest last; at most 8. While the registry is out a tag counts as the image that lists it
    /// with the latest time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 8))]
    pub tags: Vec<TagSeen>,
    /// The last transitions, oldest first, numbered without gaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 20))]
    pub history: Vec<Transition>,
    /// What was found signed about it, where some policy or Registry asks for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// The number of the last transition whose audit line and Event are out.
    #[serde(default)]
    pub emitted_through: u64,
    /// Since when nothing in the cluster names this image; it is collected some days later, unless it is bad, decided upon or owing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>")]
    pub unused_since: Option<Timestamp>,
    /// `Released` is True once the image is let go: `kubectl wait --for=condition=Released imagestatus/NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Conditions,
}

/// A tag that stood for an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TagSeen {
    /// The tag.
    #[schemars(length(min = 1, max = 128))]
    pub tag: String,
    /// When the registry last said so. Later answers that say the same are written after half a day.
    #[schemars(with = "k8s_openapi::apimachinery::pkg::apis::meta::v1::Time")]
    pub at: Timestamp,
}

/// One change of state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// Counts from 1 for each image.
    pub number: u64,
    /// When it happened.
    #[schemars(with = "k8s_openapi::apimachinery::pkg::apis::meta::v1::Time")]
    pub at: Timestamp,
    /// The state it came to.
    pub state: State,
    /// Who did it.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}
