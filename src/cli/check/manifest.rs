//! What is judged: pods and the templates of workloads, among whatever else a manifest holds.

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::pod::{self, Pod};

/// One object whose images are judged.
#[derive(Debug)]
pub(super) struct Bearer {
    /// Its kind.
    pub kind: String,
    /// Its name, or what the API server makes one from.
    pub name: String,
    /// The namespace that it names.
    pub namespace: Option<String>,
    json: String,
}

impl Bearer {
    /// The pod, or the template of one; none where a workload has left it out.
    pub(super) fn pod(&self) -> anyhow::Result<Option<Pod<'_>>> {
        pod::template(&self.kind, &self.json)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("cannot read {} {}", self.kind, self.name))
    }
}

/// An object that has no pod in it, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Skipped {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Sorts an object: to be judged, or not.
///
/// # Errors
/// It has no name.
pub(super) fn sort(object: &Value) -> anyhow::Result<Result<Bearer, Skipped>> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let kind = text("/kind").unwrap_or_default();
    let Some(name) = text("/metadata/name").or_else(|| text("/metadata/generateName")) else { bail!("a {kind} has no metadata.name") };
    if !is_workload(&text("/apiVersion").unwrap_or_default(), &kind) {
        return Ok(Err(Skipped { kind, name }));
    }
    Ok(Ok(Bearer { kind, name, namespace: text("/metadata/namespace"), json: object.to_string() }))
}

/// Whether this is a kind of Kubernetes' own whose pods [`pod::template`] finds. Another group's Job is another thing.
fn is_workload(api_version: &str, kind: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match kind {
        "Pod" | "PodTemplate" | "ReplicationController" => group.is_empty(),
        "Job" | "CronJob" => group == "batch",
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => group == "apps",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_workload_of_the_webhook_is_judged() {
        for kind in pod::WORKLOAD_KINDS {
            let found = ["v1", "apps/v1", "batch/v1"].iter().filter(|version| is_workload(version, kind)).count();
            assert_eq!(found, 1, "{kind}");
        }
    }

    #[test]
    fn the_kind_alone_does_not_make_a_workload() {
        let job = json!({"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "metadata": {"name": "j"}});
        assert_eq!(sort(&job).unwrap().unwrap_err(), Skipped { kind: "Job".into(), name: "j".into() });
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-", "namespace": "n"}});
        let bearer = sort(&pod).unwrap().unwrap();
        assert_eq!((bearer.name.as_str(), bearer.namespace.as_deref()), ("p-", Some("n")));
        assert_eq!(sort(&json!({"kind": "Pod"})).unwrap_err().to_string(), "a Pod has no metadata.name");
    }
}
