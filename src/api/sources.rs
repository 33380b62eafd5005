//! Where an image may come from, and who may use it.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{Level, NAME_PATTERNS, NAME_PATTERNS_MESSAGE};

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
