//! What a policy asks of images.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Debts that a policy's status lists at the most.
pub const MAX_POLICY_DEBTS: usize = 20;
/// Workloads that a policy's status lists as refused, were it to enforce, at the most.
pub const MAX_WOULD_REFUSE: usize = 10;

use super::{
    Authority, Conditions, NAME_PATTERN, NAME_PATTERNS, NAME_PATTERNS_MESSAGE, RequireLife, RequireSbom, RequireSignatures, RequireSources,
    RequireVulnerabilities, ShortDuration,
};

/// What a policy does with its verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Record what would have been refused; say nothing to the user.
    Audit,
    /// Admit, and warn the user.
    Warn,
    /// Refuse.
    #[default]
    Enforce,
}

impl Mode {
    /// As in `spec.mode`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "Enforce",
            Self::Warn => "Warn",
            Self::Audit => "Audit",
        }
    }
}

/// How much a requirement weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Level {
    /// Not asked for.
    #[default]
    Off,
    /// Missing it earns a warning.
    Warn,
    /// Missing it is a refusal.
    Deny,
}

/// What is done with what is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Allowance {
    /// Refuse.
    #[default]
    Deny,
    /// Admit.
    Allow,
}

/// What is done when an image falls back into quarantine while pods run it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Revocation {
    /// Tell it: an Event on the workloads whose pods run the image.
    #[default]
    Report,
    /// Leave it at the audit line and the metric.
    Ignore,
}

/// What images must be like to start in the namespaces that it matches. Where several policies match, each must admit.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "lazaretto.dev",
    version = "v1alpha1",
    kind = "QuarantinePolicy",
    plural = "quarantinepolicies",
    shortname = "qpol",
    category = "lazaretto",
    status = "QuarantinePolicyStatus",
    derive = "PartialEq",
    doc = "What images must be like to start in the namespaces that it matches. Where several policies match, each must admit; where none matches, a pod is admitted.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Debts", type_ = "integer", json_path = ".status.debts.total"),
    printcolumn(name = "Would Refuse", type_ = "integer", json_path = ".status.wouldRefuse.pods"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name of a policy has at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.require) || (!has(self.require.signatures) && !has(self.require.sbom) && !has(self.require.vulnerabilities)) || (has(self.authorities) && self.authorities.size() > 0)").message("signatures, sbom and vulnerabilities need authorities: name who is trusted to sign"))]
#[x_kube(validation = Rule::new("!has(self.require) || !has(self.require.signatures) || !has(self.require.signatures.by) || (has(self.authorities) && self.require.signatures.by.all(n, self.authorities.exists(a, a.name == n)))").message("require.signatures.by names somebody who is not among the authorities"))]
#[x_kube(validation = Rule::new("!has(self.require) || !has(self.require.sbom) || !has(self.require.sbom.by) || (has(self.authorities) && self.require.sbom.by.all(n, self.authorities.exists(a, a.name == n)))").message("require.sbom.by names somebody who is not among the authorities"))]
#[x_kube(validation = Rule::new("!has(self.require) || !has(self.require.vulnerabilities) || !has(self.require.vulnerabilities.by) || (has(self.authorities) && self.require.vulnerabilities.by.all(n, self.authorities.exists(a, a.name == n)))").message("require.vulnerabilities.by names somebody who is not among the authorities"))]
pub struct QuarantinePolicySpec {
    /// Enforce refuses; Warn admits and warns; Audit admits and records.
    #[serde(default)]
    pub mode: Mode,
    /// Which pods and images this policy speaks of. Left out: all.
    #[serde(default, rename = "match")]
    pub matching: Match,
    /// Images that never start, whatever else is known of them: the emergency stop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub deny: Vec<DenyRule>,
    /// Who is trusted to sign; requirements speak of them by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub authorities: Vec<Authority>,
    /// What an image must have.
    #[serde(default)]
    pub require: Require,
    /// What happens when Lazaretto cannot know. It never concerns an image that is known to be bad, nor a registry that has no Registry object.
    #[serde(default)]
    pub when_unknown: WhenUnknown,
    /// What happens when an image falls back into quarantine, or fails, while pods run it. Report (the default): an Event on their workloads; Ignore: none.
    /// The pods run on in either case; new ones are refused.
    #[serde(default)]
    pub when_revoked: Revocation,
}

/// Which pods and images a policy speaks of.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// Namespaces, by their labels. Left out or empty: every namespace but those that the installation excludes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Patterns over full image names such as `registry.corp/team/**`: `*` stands for anything within one path segment, `**` for any
    /// number of segments. Left out or empty: every image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 255), regex(pattern = "^[a-z0-9.:_/*\\[\\]-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = Rule::new(NAME_PATTERNS).message(NAME_PATTERNS_MESSAGE))]
    pub images: Vec<String>,
    /// Patterns of images that this policy leaves alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 255), regex(pattern = "^[a-z0-9.:_/*\\[\\]-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = Rule::new(NAME_PATTERNS).message(NAME_PATTERNS_MESSAGE))]
    pub exclude_images: Vec<String>,
}

/// Images that never start.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.image) != has(self.digest)").message("give either image (a pattern) or digest"))]
pub struct DenyRule {
    /// A pattern over full image names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[a-z0-9.:_/*\\[\\]-]+$"))]
    #[x_kube(validation = Rule::new(NAME_PATTERN).message(NAME_PATTERNS_MESSAGE))]
    pub image: Option<String>,
    /// A digest, wherever it comes from. That of an image also stops each index that holds it; that of an index stops pods that name the index, and not its
    /// images by their own digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 135), regex(pattern = "^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$"))]
    pub digest: Option<String>,
    /// What the refused user reads.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
}

/// What an image must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Require {
    /// The image is out of quarantine. Deny (the default), Warn or Off.
    pub released: Level,
    /// What `released` says of an image for which nobody keeps a quarantine flag (its registry has no Registry object, or one with provider None). Deny
    /// (the default) or Allow.
    pub unmanaged: Allowance,
    /// The pod names the image by digest. Off (the default), Warn or Deny.
    pub digest: Level,
    /// Where the image may come from, by its name. Left out: anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<RequireSources>,
    /// The image is signed. Left out: not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signatures: Option<RequireSignatures>,
    /// The image has a bill of materials in a signed attestation. Left out: not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sbom: Option<RequireSbom>,
    /// A signed report says which vulnerabilities the image has, and they are few and mild enough. Left out: not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vulnerabilities: Option<RequireVulnerabilities>,
    /// The image's life has not ended, by what its makers attached to it. Left out: not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_life: Option<RequireLife>,
}

impl Default for Require {
    fn default() -> Self {
        Self {
            released: Level::Deny,
            unmanaged: Allowance::Deny,
            digest: Level::Off,
            sources: None,
            signatures: None,
            sbom: None,
            vulnerabilities: None,
            end_of_life: None,
        }
    }
}

/// What happens when Lazaretto cannot know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WhenUnknown {
    /// The registry is well and this one answer is still on its way. Deny (the default: told to retry) or Allow.
    pub pending: Allowance,
    /// The registry is down, by evidence about the registry itself. Deny (the default) or Allow. What is admitted so is listed in `status.debts`.
    pub registry_unavailable: Allowance,
    /// The registry refuses the credentials of its own Registry object. Deny (the default) or Allow.
    pub unauthorized: Allowance,
    /// How long, while the registry cannot be asked, an image that was good at the last look stays good. `0s`: not at all.
    pub last_known_good_for: ShortDuration,
}

impl Default for WhenUnknown {
    fn default() -> Self {
        Self {
            pending: Allowance::Deny,
            registry_unavailable: Allowance::Deny,
            unauthorized: Allowance::Deny,
            last_known_good_for: ShortDuration::from_secs(24 * 3_600),
        }
    }
}

/// What Lazaretto says of the policy.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuarantinePolicyStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` is False when the policy cannot be read; its last readable form stays in force then, and the message says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Conditions,
    /// Pods that run on an image which this policy has not judged.
    #[serde(default)]
    pub debts: Debts,
    /// What the policy would refuse of what runs, if it were made anew and `spec.mode` were Enforce. Present in modes Audit and Warn: look here before
    /// you enforce. `lazaretto whatif` says the same of templates that run no pods just now, and of a policy that is not applied yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_refuse: Option<WouldRefuse>,
}

/// Running pods that a policy would refuse, by what is known of their images.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WouldRefuse {
    /// How many pods there are of which the policy would refuse an image. They run on, also when the policy enforces; the next ones like them would not
    /// start.
    #[serde(default)]
    pub pods: u32,
    /// How many owners these pods have, ReplicaSets and Jobs each by itself; a pod without an owner counts as one.
    #[serde(default)]
    pub owners: u32,
    /// How many pods there are besides of which some image is not known well enough to say. An enforcing policy asks its registry when a pod is made.
    #[serde(default)]
    pub not_known: u32,
    /// The first 10 workloads, by namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 10))]
    pub items: Vec<WouldRefuseItem>,
}

/// A workload of which a policy would refuse an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WouldRefuseItem {
    /// Its namespace.
    pub namespace: String,
    /// The workload, as `Deployment/web`; `Pod/NAME` for a pod that nobody owns.
    pub owner: String,
    /// The container that names the image; `volume` for an image volume.
    pub container: String,
    /// The image, as the pods name it.
    pub image: String,
    /// How many running pods it has with this image.
    pub pods: u32,
    /// Why it would be refused.
    pub reason: String,
}

/// Running pods that owe a judgement.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Debts {
    /// How many there are.
    #[serde(default)]
    pub total: u32,
    /// The first 20 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 20))]
    pub items: Vec<Debt>,
}

/// A running container whose image was not judged by the policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Debt {
    /// The pod, as `namespace/name`.
    pub pod: String,
    /// The container.
    pub container: String,
    /// The image that runs, as the node reports it.
    pub image: String,
}
