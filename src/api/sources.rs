//! Where an image may come from, and who may use it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Level, NAME_PATTERNS, NAME_PATTERNS_MESSAGE, PATH_PATTERNS, PATH_PATTERNS_MESSAGE};

/// Where images may come from, by their names alone: no registry is asked.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequireSources {
    /// Patterns over full image names such as `registry.corp/team/**`. An image that none of them speaks of is refused. Left out or empty: images may come
    /// from anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 255), regex(pattern = "^[a-z0-9.:_/*\\[\\]-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = Rule::new(NAME_PATTERNS).message(NAME_PATTERNS_MESSAGE))]
    pub allowed: Vec<String>,
    /// What is done with names without a registry, such as `nginx` or `library/nginx`: each node decides for itself which registry that is. Off (the default)
    /// reads them as Docker Hub's, as containerd does; Warn warns; Deny refuses.
    #[serde(default)]
    pub unqualified: Level,
}

/// Who may use some repositories of a registry.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.anonymous ? !has(self.allow) && !has(self.prove) : has(self.allow) || has(self.prove)").message("say for whom a rule is: either anonymous: true, or allow, prove or both"))]
pub struct AccessRule {
    /// Patterns of the repositories that the rule speaks of, without the host: `team/**`.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 255), regex(pattern = "^[a-z0-9._/*-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = Rule::new(PATH_PATTERNS).message(PATH_PATTERNS_MESSAGE))]
    pub paths: Vec<String>,
    /// Every pod may use them, and the registry is asked about them without credentials: what it does not show to everybody is not found.
    #[serde(default)]
    pub anonymous: bool,
    /// Only these pods may use them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<AccessAllow>,
    /// What a pod has to prove to use them, beside `allow`. PullSecret: the registry shows the image to whoever shows the pod's own pull secrets. Needs
    /// the installation to read those (`pullSecrets.enabled` in the chart); without it nobody can prove anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prove: Option<AccessProof>,
}

/// Pods that may use a repository: those that any of the three names.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.namespaceSelector) || has(self.namespaces) && self.namespaces.size() > 0 || has(self.serviceAccounts) && self.serviceAccounts.size() > 0").message("name the pods: namespaceSelector, namespaces or serviceAccounts"))]
pub struct AccessAllow {
    /// Those of namespaces with these labels. Whoever may label a namespace may let it in. Not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("has(self.matchLabels) && self.matchLabels.size() > 0 || has(self.matchExpressions) && self.matchExpressions.size() > 0").message("an empty namespaceSelector allows nobody: leave it out"))]
    pub namespace_selector: Option<LabelSelector>,
    /// Those of these namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub namespaces: Vec<String>,
    /// Those that run as one of these ServiceAccounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub service_accounts: Vec<Account>,
}

/// A ServiceAccount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Its namespace. Whoever may create pods there may run them as this ServiceAccount.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What a pod has to prove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AccessProof {
    /// That the registry shows the image to whoever shows its own pull secrets.
    #[default]
    PullSecret,
}
