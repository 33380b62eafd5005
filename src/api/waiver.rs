//! A requirement that is waived for a while.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Conditions, NAME_PATTERNS, NAME_PATTERNS_MESSAGE};

/// A requirement of a policy that can be waived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Requirement {
    /// `require.released`; only by digest.
    Released,
    /// `require.digest`.
    Digest,
    /// `require.sources`.
    Sources,
    /// `require.signatures`.
    Signatures,
    /// `require.sbom`.
    #[serde(rename = "SBOM")]
    Sbom,
    /// `require.vulnerabilities`: all of it, or the findings that are named.
    Vulnerabilities,
    /// `require.endOfLife`.
    EndOfLife,
}

impl Requirement {
    /// As in `spec.requirements`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "Released",
            Self::Digest => "Digest",
            Self::Sources => "Sources",
            Self::Signatures => "Signatures",
            Self::Sbom => "SBOM",
            Self::Vulnerabilities => "Vulnerabilities",
            Self::EndOfLife => "EndOfLife",
        }
    }
}

/// Waives requirements for some images until a day. It never lifts a policy's `deny`.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "lazaretto.dev",
    version = "v1alpha1",
    kind = "Waiver",
    plural = "waivers",
    category = "lazaretto",
    status = "WaiverStatus",
    derive = "PartialEq",
    doc = "Waives requirements for some images until a day. It never lifts a policy's deny.",
    printcolumn(name = "Requirements", type_ = "string", json_path = ".spec.requirements"),
    printcolumn(name = "Expires", type_ = "date", json_path = ".spec.expires"),
    printcolumn(name = "Active", type_ = "string", json_path = ".status.conditions[?(@.type=='Active')].status"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.by"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.digests) && self.digests.size() > 0 || has(self.images) && self.images.size() > 0").message("name the images: digests or images"))]
#[x_kube(validation = Rule::new("!self.requirements.exists(r, r == 'Released') || !has(self.images) || self.images.size() == 0").message("quarantine is waived by digest only: a pattern would also free what is pushed tomorrow"))]
pub struct WaiverSpec {
    /// What is waived.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub requirements: Vec<Requirement>,
    /// Findings that are waived, such as `CVE-2026-0001`. Left out or empty: `Vulnerabilities` waives the whole requirement. Only what a report's summary
    /// names (the worst 20) can be waived so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub vulnerabilities: Vec<String>,
    /// Digests for which it is waived, wherever they come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 135), regex(pattern = "^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub digests: Vec<String>,
    /// Patterns over full image names for which it is waived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255), regex(pattern = "^[a-z0-9.:_/*\\[\\]-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = Rule::new(NAME_PATTERNS).message(NAME_PATTERNS_MESSAGE))]
    pub images: Vec<String>,
    /// Namespaces in which it is waived, by name. Left out or empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub namespaces: Vec<String>,
    /// Why, for people who read it later.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
    /// Who waives: the user name as the API server knows it. Must be the requester's own.
    #[schemars(length(min = 1, max = 256))]
    pub by: String,
    /// The end of it: before the year 9999.
    #[schemars(with = "k8s_openapi::apimachinery::pkg::apis::meta::v1::Time")]
    #[x_kube(validation = Rule::new("self < timestamp('9999-01-01T00:00:00Z')").message("a waiver ends before the year 9999"))]
    pub expires: Timestamp,
}

/// What Lazaretto says of the waiver.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaiverStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Active` is False once the waiver has expired or when it cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Conditions,
}
