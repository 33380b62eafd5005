//! A registry, and who keeps the quarantine flag in it.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AccessRule, Authority, Conditions, PATH_PATTERNS, PATH_PATTERNS_MESSAGE, RequireSbom, RequireSignatures, RequireVulnerabilities,
    ShortDuration,
};

/// A registry that this installation knows, how it is reached, and who keeps the quarantine flag for its images.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "lazaretto.dev",
    version = "v1alpha1",
    kind = "Registry",
    plural = "registries",
    singular = "registry",
    category = "lazaretto",
    status = "RegistryStatus",
    derive = "PartialEq",
    doc = "A registry that this installation knows, how it is reached, and who keeps the quarantine flag for its images.",
    printcolumn(name = "Provider", type_ = "string", json_path = ".spec.quarantine.provider"),
    printcolumn(name = "Reachable", type_ = "string", json_path = ".status.conditions[?(@.type=='Reachable')].status"),
    printcolumn(name = "Authorized", type_ = "string", json_path = ".status.conditions[?(@.type=='Authorized')].status"),
    printcolumn(name = "Last pass", type_ = "date", json_path = ".status.lastCompletePass"),
    printcolumn(name = "Hosts", type_ = "string", json_path = ".spec.hosts", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name of a registry has at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.quarantine.provider != 'AzureContainerRegistry' || has(self.credentials)").message("provider AzureContainerRegistry needs credentials: quarantine states are not shown to anonymous callers"))]
#[x_kube(validation = Rule::new("!has(self.endpoint) || self.plainHTTP == self.endpoint.startsWith('http://')").message("a plain http:// endpoint needs plainHTTP: true, and plainHTTP: true an http:// endpoint"))]
#[x_kube(validation = Rule::new("!has(self.mirror) || self.plainHTTP == self.mirror.endpoint.startsWith('http://')").message("a plain http:// mirror needs plainHTTP: true, and plainHTTP: true an http:// mirror"))]
#[x_kube(validation = Rule::new("!has(self.mirror) || !has(self.endpoint)").message("give either endpoint or mirror"))]
#[x_kube(validation = Rule::new("!has(self.mirror) || self.quarantine.provider != 'AzureContainerRegistry'").message("a mirror shows no quarantine states of the registry behind it: provider AzureContainerRegistry needs the registry itself"))]
pub struct RegistrySpec {
    /// The hosts under which pods name this registry, with the port unless it is 443: `registry.corp`, `localhost:5000`. One host may stand in several
    /// Registries when their `repositories` differ; the first by name wins where they overlap.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 255), regex(pattern = "^[a-z0-9.:\\[\\]-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub hosts: Vec<String>,
    /// Patterns of the repositories that this object speaks of, without the host: `team/**`. Left out or empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255), regex(pattern = "^[a-z0-9._/*-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = Rule::new(PATH_PATTERNS).message(PATH_PATTERNS_MESSAGE))]
    pub repositories: Vec<String>,
    /// Patterns of repositories, without the host, of which nothing may be used: `mirror/**`. Refused by name alone in every namespace of which a policy
    /// speaks, whatever `whenUnknown` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255), regex(pattern = "^[a-z0-9._/*-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = Rule::new(PATH_PATTERNS).message(PATH_PATTERNS_MESSAGE))]
    pub exclude: Vec<String>,
    /// Who may use which repositories. The first rule counts that speaks of a repository; where there are rules and none speaks of it, nobody may use it.
    /// Left out or empty: everybody may, as far as policies let them. Whoever may not is told no more than of an image that is not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub access: Vec<AccessRule>,
    /// Where Lazaretto reaches the registry when that is not `https://` and the host: an in-cluster address, say. Scheme, host and port only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300), regex(pattern = "^https?://[^/?#@]+$"))]
    pub endpoint: Option<String>,
    /// The mirror through which nodes draw this registry's images. What is asked of the registry is then asked there, so that what is judged is what nodes get;
    /// `credentials`, `caBundle`, `plainHTTP` and `limits` are the mirror's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// This registry goes before those that are not marked so: an image of another one is admitted only if no priority registry holds its repository. It is
    /// asked for that with `credentials`, which have to be able to see all of its repositories.
    #[serde(default)]
    pub priority: bool,
    /// The path under which this registry keeps what other registries name without it, as a proxy does: with `hub`, `hub/acme/app` here and `acme/app` elsewhere
    /// have one name. For `priority` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = "^[a-z0-9]+([._/-]+[a-z0-9]+)*$"))]
    pub path_prefix: Option<String>,
    /// Speak HTTP without TLS. Only for a registry on a network where nobody can answer in its stead.
    #[serde(default, rename = "plainHTTP")]
    pub plain_http: bool,
    /// Certificates in PEM that sign this registry's, besides the well-known ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65_536))]
    pub ca_bundle: Option<String>,
    /// A Secret in Lazaretto's own namespace, of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/basic-auth`, with the credentials that Lazaretto itself uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretName>,
    /// Who keeps the quarantine flag.
    #[serde(default)]
    pub quarantine: QuarantineSpec,
    /// How much Lazaretto may ask of this registry.
    #[serde(default)]
    pub limits: Limits,
    /// How often images in use are looked at again. At least 10s.
    #[serde(default = "sixty")]
    #[x_kube(validation = Rule::new("self.matches('[1-9][0-9]*d') || (!self.contains('d') && duration(self) >= duration('10s'))").message("poll no more often than every 10s"))]
    pub poll_interval: ShortDuration,
}

impl Default for RegistrySpec {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            repositories: Vec::new(),
            exclude: Vec::new(),
            access: Vec::new(),
            endpoint: None,
            mirror: None,
            priority: false,
            path_prefix: None,
            plain_http: false,
            ca_bundle: None,
            credentials: None,
            quarantine: QuarantineSpec::default(),
            limits: Limits::default(),
            poll_interval: sixty(),
        }
    }
}

const fn sixty() -> ShortDuration {
    ShortDuration::from_secs(60)
}

/// A mirror that nodes draw through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Scheme, host and port: `https://mirror.corp`.
    #[schemars(length(max = 300), regex(pattern = "^https?://[^/?#@]+$"))]
    pub endpoint: String,
    /// The path under which the mirror keeps this registry's repositories, without `/v2/`. Left out: none, as with a mirror that goes by the parameter `ns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = "^[a-z0-9]+([._/-]+[a-z0-9]+)*$"))]
    pub path_prefix: Option<String>,
}

/// The name of a Secret in Lazaretto's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Who keeps the quarantine flag of a registry's images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum QuarantineProvider {
    /// Lazaretto keeps it, for any registry: an image is in quarantine from the first time it is seen until a person releases it. When this is switched on,
    /// images that run or that older workload templates name are adopted as released, once, on record.
    Managed,
    /// The registry keeps it: Azure Container Registry's quarantine policy.
    AzureContainerRegistry,
    /// Nobody.
    #[default]
    None,
}

impl From<QuarantineProvider> for super::Provider {
    fn from(provider: QuarantineProvider) -> Self {
        match provider {
            QuarantineProvider::Managed => Self::Managed,
            QuarantineProvider::AzureContainerRegistry => Self::AzureContainerRegistry,
            QuarantineProvider::None => Self::None,
        }
    }
}

/// Who keeps the flag, and who may run what is in quarantine.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.release) || self.provider == 'Managed'").message("release needs provider Managed: elsewhere the registry's own processor releases"))]
pub struct QuarantineSpec {
    /// Who keeps the flag.
    #[serde(default)]
    pub provider: QuarantineProvider,
    /// The quarantine processor: the one ServiceAccount whose pods may run images of this registry while they are in quarantine, to judge them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<Processor>,
    /// What it takes for Lazaretto to release an image by itself, under provider Managed. Left out: only people release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseCriteria>,
}

/// What has to be proven of an image that is released by its proof. Whoever may write Registries decides by this what is released; what a person has
/// decided of an image stays.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.signatures) || has(self.sbom) || has(self.vulnerabilities)").message("say what has to be proven: signatures, sbom or vulnerabilities"))]
pub struct ReleaseCriteria {
    /// Who is trusted to sign; the criteria speak of them by name.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub authorities: Vec<Authority>,
    /// The image is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signatures: Option<RequireSignatures>,
    /// The image has a bill of materials in a signed attestation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<RequireSbom>,
    /// A signed report says which vulnerabilities the image has, and they are few and mild enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vulnerabilities: Option<RequireVulnerabilities>,
}

/// The quarantine processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Processor {
    /// Its namespace. Whoever may create pods there may run them as this ServiceAccount.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its ServiceAccount.
    #[schemars(length(min = 1, max = 253))]
    pub service_account: String,
}

/// How much Lazaretto may ask of a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Requests a second, from each replica; admission goes before polling.
    #[schemars(range(min = 1, max = 10_000))]
    pub requests_per_second: u32,
    /// Requests under way at once, from each replica.
    #[schemars(range(min = 1, max = 1_000))]
    pub concurrent_requests: u32,
    /// Seconds that one question may take, tokens and redirects included. Less than the webhook's own patience, so that an outage is known for one while
    /// the first review still waits.
    #[schemars(range(min = 1, max = 20))]
    pub timeout_seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests_per_second: 50, concurrent_requests: 16, timeout_seconds: 5 }
    }
}

/// What Lazaretto says of the registry. One write a pass.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` (the object can be read), `Reachable`, `Authorized`, `PollingBehind`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Conditions,
    /// When the last pass over this registry's images in use began that also came to its end: what is written of them was true then, but for the exceptions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>")]
    pub last_complete_pass: Option<Timestamp>,
    /// How many images that pass looked at.
    #[serde(default)]
    pub images: u32,
    /// Images that the pass could not look at, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 20))]
    pub exceptions: Vec<Exception>,
    /// How many it could not look at.
    #[serde(default)]
    pub exceptions_total: u32,
    /// What was adopted when Lazaretto began to keep the flag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adoption: Option<Adoption>,
    /// Running containers whose images were not judged: admitted while the registry could not be asked, or while nobody asked. Judged first when it can
    /// be asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debts: Option<RegistryDebts>,
}

/// Images that a Registry's status lists as owing at the most.
pub const MAX_OWED_IMAGES: usize = 50;

/// Running containers whose images, of this registry, their policies have not judged.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryDebts {
    /// How many containers there are.
    #[serde(default)]
    pub total: u32,
    /// Their images, at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 50))]
    pub images: Vec<OwedImage>,
    /// When this changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>")]
    pub as_of: Option<Timestamp>,
}

/// An image that runs and was not judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwedImage {
    /// The image, as the node reports it.
    pub subject: String,
    /// How many containers run it.
    pub containers: u32,
}

/// An image that a pass could not look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exception {
    /// The image.
    pub subject: String,
    /// What came instead of an answer.
    pub reason: String,
}

/// The one adoption of what was there before Lazaretto kept the flag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    /// The instant: what runs, or is named by a template older than this, is adopted as released.
    #[schemars(with = "k8s_openapi::apimachinery::pkg::apis::meta::v1::Time")]
    pub instant: Timestamp,
    /// When it was done. Until then no image of this registry is put into quarantine: its state is Pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>")]
    pub completed: Option<Timestamp>,
    /// How many images were adopted.
    #[serde(default)]
    pub adopted: u32,
    /// Images named by older templates that the registry did not confirm, at most 20; they are quarantined when they turn up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub unconfirmed: Vec<String>,
}
