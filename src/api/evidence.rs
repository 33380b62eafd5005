//! Who is trusted to sign, what has to be signed, and what was found signed.

use std::fmt;

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ShortDuration;
use crate::proof::report::{Severity, Summary};

/// Pieces of evidence that an ImageStatus holds at the most.
pub const MAX_EVIDENCE: usize = 12;
/// Authorities that an ImageStatus lists as looked for at the most.
pub const MAX_LOOKED_FOR: usize = 32;
/// Bytes of JSON that the evidence of one ImageStatus may have, so that its history keeps its place.
pub const MAX_EVIDENCE_BYTES: usize = 2_000;
/// Images of one index that are looked at at the most, and platforms of nodes by which they are chosen.
pub const MAX_PLATFORMS: usize = 8;

/// Somebody who is trusted to sign: a key, or an identity.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.publicKey) != has(self.keyless)").message("give either publicKey or keyless"))]
pub struct Authority {
    /// The name by which requirements speak of it.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// Its public key in PEM (`-----BEGIN PUBLIC KEY-----`): ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4_096))]
    pub public_key: Option<String>,
    /// Whoever has a certificate in this name, by a trusted root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyless: Option<Keyless>,
}

/// An identity that a Sigstore certificate has to be issued to. In patterns, which have to fit the whole text, `*` stands for anything but a `/` and `**` for
/// anything.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.issuer) != has(self.issuerPattern)").message("give either issuer or issuerPattern"))]
#[x_kube(validation = Rule::new("has(self.subject) != has(self.subjectPattern)").message("give either subject or subjectPattern"))]
pub struct Keyless {
    /// The OIDC issuer, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub issuer: Option<String>,
    /// A pattern of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub issuer_pattern: Option<String>,
    /// The e-mail address or URI, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub subject: Option<String>,
    /// A pattern of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub subject_pattern: Option<String>,
    /// Where the trusted root is: the certificate authorities and logs that are believed.
    pub trust_root: TrustRootSource,
}

/// A trusted root in JSON, in Lazaretto's own namespace. It is read again within a minute of a change; nothing is fetched from elsewhere.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.configMapName) != has(self.secretName)").message("give either configMapName or secretName"))]
pub struct TrustRootSource {
    /// A ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub config_map_name: Option<String>,
    /// A Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// The key in its data.
    #[serde(default = "trusted_root")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl fmt::Display for TrustRootSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match &self.config_map_name {
            Some(name) => ("ConfigMap", name.as_str()),
            None => ("Secret", self.secret_name.as_deref().unwrap_or_default()),
        };
        write!(out, "{kind} {name}, key {}", self.key)
    }
}

fn trusted_root() -> String {
    "trusted_root.json".to_owned()
}

/// The image is signed. An index is where it is itself, or else where each of its images is that a node of this cluster may run by its platform.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequireSignatures {
    /// The authorities whose signatures count, by name. Left out or empty: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub by: Vec<String>,
    /// How many of them have to have signed.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub threshold: u32,
}

const fn one() -> u32 {
    1
}

/// A bill of materials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SbomFormat {
    /// SPDX 2 or 3.
    #[serde(rename = "SPDX")]
    Spdx,
    /// CycloneDX 1.
    CycloneDX,
}

impl SbomFormat {
    /// The name for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spdx => "SPDX",
            Self::CycloneDX => "CycloneDX",
        }
    }
}

impl fmt::Display for SbomFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

/// The image has a bill of materials (SBOM) in a signed attestation. An index has where it has one itself, or else where each of its images has that a node of this
/// cluster may run by its platform.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequireSbom {
    /// The authorities whose attestations count, by name. Left out or empty: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub by: Vec<String>,
    /// The formats that count. Left out or empty: each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub formats: Vec<SbomFormat>,
}

/// The image was scanned for vulnerabilities, and a signed report says what was found. Of several reports the latest counts. An
/// index has a report of its own, or else each of its images that a node of this cluster may run by its platform.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequireVulnerabilities {
    /// The authorities whose reports count, by name. Left out or empty: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub by: Vec<String>,
    /// The highest severity that is allowed. Medium (the default) allows no high and no critical findings. One of severity Unknown counts as High.
    #[serde(default = "medium")]
    pub max_severity: Severity,
    /// How many findings of a severity that is allowed there may be. One that is left out may have any number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["severity"]))]
    pub counts: Vec<AllowedCount>,
    /// Count only findings that have a fix, or of which the report cannot say that they have none.
    #[serde(default)]
    pub only_fixable: bool,
    /// How long ago the scan may have been over. Left out: any time. When a scan grows too old new pods are refused; running ones are reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<ShortDuration>,
    /// The authorities whose OpenVEX statements count, by name: what they say the image is not affected by is no finding. Left out or empty: nobody's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub vex_by: Vec<String>,
}

const fn medium() -> Severity {
    Severity::Medium
}

/// The image's life has not ended, by what its makers attached (`application/vnd.microsoft.artifact.lifecycle`). Nobody signs that, so it only ever refuses.
/// Where nothing of this kind is attached to an index, it goes by those of its images that a node of this cluster may run by its platform.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequireLife {
    /// How long after the end of its life an image may still start. Left out: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<ShortDuration>,
}

/// How many findings of one severity there may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowedCount {
    /// The severity.
    pub severity: Severity,
    /// How many.
    pub most: u32,
}

/// What was found signed about an image.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// When the registry was last asked for it.
    #[schemars(with = "k8s_openapi::apimachinery::pkg::apis::meta::v1::Time")]
    pub looked_at: Timestamp,
    /// The authorities for whose signatures was looked, each by the beginning of the SHA-256 of its key or trusted root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub looked_for: Vec<String>,
    /// What was found, and is proven.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub items: Vec<EvidenceItem>,
    /// There is more than was read, or than fits here: then no report counts as the latest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// When the image's life ends, by what is attached to it. Nobody signs that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>")]
    pub end_of_life: Option<Timestamp>,
    /// Why the first of what was found proves nothing, where something does not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub unproven: String,
    /// The platforms of nodes for which was looked inside an index, as `os/architecture`; `*` where all of its images were looked at, or it is no index. Empty:
    /// what is attached to the index itself was enough, and nobody looked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub looked_inside: Vec<String>,
    /// The images of the index that were looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub platforms: Vec<PlatformEvidence>,
}

/// One image of an index that was looked at. What was found signed about it stands among the items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlatformEvidence {
    /// Its platform, as `os/architecture[/variant]`; a second image of one platform has `+2` after it. `any` is for none, `*` for all.
    #[schemars(length(min = 1, max = 32))]
    pub platform: String,
    /// It could not be looked at; why says `unproven`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
    /// There is more than was read, or than fits here: then no report counts as the latest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// When its life ends, by what is attached to it. Nobody signs that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>")]
    pub end_of_life: Option<Timestamp>,
    /// Why the first of what was found about it proves nothing, where something does not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub unproven: String,
}

/// What a piece of evidence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EvidenceKind {
    /// A signature over the image.
    Signature,
    /// A signed bill of materials.
    #[serde(rename = "SBOM")]
    Sbom,
    /// A signed vulnerability report.
    Vulnerabilities,
    /// A signed OpenVEX document.
    #[serde(rename = "VEX")]
    Vex,
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceItem {
    /// What it is.
    pub kind: EvidenceKind,
    /// The images of the index that it speaks of, by their platforms. Empty: it speaks of the image itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub about: Vec<String>,
    /// Who signed it: SHA-256 of the public key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 71))]
    pub key: String,
    /// Or the OIDC issuer that a certificate names,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub issuer: String,
    /// the identity that it was issued to,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub subject: String,
    /// and SHA-256 of the trusted root by which that was proven.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 71))]
    pub root: String,
    /// The digest of the evidence itself; where the same is signed about several images of an index, that of the first.
    #[schemars(length(max = 135))]
    pub digest: String,
    /// The format of a bill of materials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<SbomFormat>")]
    pub format: Option<SbomFormat>,
    /// When a scan was over, or a VEX document was written: the latest of each signer counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>")]
    pub at: Option<Timestamp>,
    /// What a vulnerability report found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Summary>,
    /// What the image is not affected by, by a VEX document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub not_affected: Vec<String>,
}
