//! The API group `lazaretto.dev/v1alpha1`: what people apply and read with kubectl.
//!
//! Every resource is cluster-scoped: whoever may write one decides for the cluster, and nobody who can only write in a
//! namespace decides anything. The doc comments become the texts of `kubectl explain`. A field exists only when it works.

mod condition;
mod duration;
mod evidence;
mod image_status;
mod quarantine_policy;
mod registry;
mod sources;
mod waiver;

pub use condition::{Conditions, condition, set_condition};
pub use duration::ShortDuration;
pub use evidence::{
    AllowedCount, Authority, Evidence, EvidenceItem, EvidenceKind, Keyless, MAX_EVIDENCE, MAX_EVIDENCE_BYTES, MAX_LOOKED_FOR,
    MAX_PLATFORMS, PlatformEvidence, RequireLife, RequireSbom, RequireSignatures, RequireVulnerabilities, SbomFormat, TrustRootSource,
};
pub use image_status::{
    Decision, DecisionState, ImageStatus, ImageStatusSpec, ImageStatusStatus, MAX_CHILDREN, MAX_HISTORY, MAX_OBJECT_BYTES, MAX_TAGS,
    Provider, State, TagSeen, Transition,
};
pub use quarantine_policy::{
    Allowance, Debt, Debts, DenyRule, Level, MAX_POLICY_DEBTS, MAX_WOULD_REFUSE, Match, Mode, QuarantinePolicy, QuarantinePolicySpec,
    QuarantinePolicyStatus, Require, Revocation, WhenUnknown, WouldRefuse, WouldRefuseItem,
};
pub use registry::{
    Adoption, Exception, Limits, MAX_OWED_IMAGES, Mirror, OwedImage, Processor, QuarantineProvider, QuarantineSpec, Registry,
    RegistryDebts, RegistrySpec, RegistryStatus, ReleaseCriteria, SecretName,
};
pub use sources::{AccessAllow, AccessProof, AccessRule, Account, RequireSources};
pub use waiver::{Requirement, Waiver, WaiverSpec, WaiverStatus};

/// The API group.
pub const GROUP: &str = "lazaretto.dev";
/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

/// The definitions of every resource, in the order in which `crds/` and the chart hold them.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![ImageStatus::crd(), QuarantinePolicy::crd(), Registry::crd(), Waiver::crd()]
}

/// CEL: every pattern of a list is one, as far as an expression can tell. [`crate::pattern`] has the last word, but what it refuses would
/// only show in the condition `Ready`.
pub(crate) const NAME_PATTERNS: &str = "self.all(p, p.matches('^([*][*]|(localhost(:[0-9]+)?|[*][a-z0-9.:*-]*|[a-z0-9*-]+[.:][a-z0-9.:*-]*[a-z0-9*]|[[][0-9a-f:]+[]](:[0-9]+)?)(/([*][*]|[a-z0-9._*-]*[*][a-z0-9._*-]*|[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*))+)$') && !p.matches('[^/][*][*]|[*][*][^/]') && (!p.matches('^docker[.]io/[^/]+$') || p == 'docker.io/**'))";
/// The same for a single pattern.
pub(crate) const NAME_PATTERN: &str = "self.matches('^([*][*]|(localhost(:[0-9]+)?|[*][a-z0-9.:*-]*|[a-z0-9*-]+[.:][a-z0-9.:*-]*[a-z0-9*]|[[][0-9a-f:]+[]](:[0-9]+)?)(/([*][*]|[a-z0-9._*-]*[*][a-z0-9._*-]*|[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*))+)$') && !self.matches('[^/][*][*]|[*][*][^/]') && (!self.matches('^docker[.]io/[^/]+$') || self == 'docker.io/**')";
/// The same for a list of patterns of repository paths.
pub(crate) const PATH_PATTERNS: &str = "self.all(p, p.matches('^([*][*]|[a-z0-9._*-]*[*][a-z0-9._*-]*|[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)(/([*][*]|[a-z0-9._*-]*[*][a-z0-9._*-]*|[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*))*$') && !p.matches('[^/][*][*]|[*][*][^/]'))";
/// What to write instead.
pub(crate) const NAME_PATTERNS_MESSAGE: &str = "write patterns of full names, registry/repository, such as docker.io/library/nginx or registry.corp/team/**; ** stands alone between slashes";
/// What to write instead.
pub(crate) const PATH_PATTERNS_MESSAGE: &str =
    "write patterns of repository paths without the registry, such as team/**; ** stands alone between slashes";
