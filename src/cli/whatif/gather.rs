//! What runs in the cluster of the kubeconfig, and what its templates name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::{admissionregistration::v1::ValidatingWebhookConfiguration, core::v1::Namespace};
use kube::{
    Api, Client,
    api::{ListParams, ObjectMeta},
};

use crate::{
    cli::{
        check::world::Written,
        cluster::{self, Failed},
        output,
    },
    pod::Place,
    running::{Inventory, Pod, RunningPod},
    templates::{self, Template},
};

/// The installation's webhooks, whose selectors say which namespaces it excludes.
const CONFIGURATION: &str = "lazaretto";
/// The entry that is there as long as any policy is, and that no policy's own selector bears on.
const ENTRY: &str = "templates.lazaretto.dev";
/// Pods that are read at the most.
const MOST_PODS: usize = 500_000;

/// What is to be judged.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// Pods that have not ended.
    pub(super) pods: Inventory,
    templates: BTreeMap<String, Vec<Workload>>,
    /// Workloads by the uid of what a controller made of them.
    makers: HashMap<String, String>,
    /// Namespaces that are not judged.
    pub(super) excluded: BTreeSet<String>,
}

/// A workload and what its template names.
#[derive(Debug)]
pub(super) struct Workload {
    /// `Deployment/web`.
    pub(super) name: String,
    /// The account that its pods run as.
    pub(super) service_account: String,
    /// Its images.
    pub(super) images: Vec<Named>,
}

/// An image and who names it.
#[derive(Debug)]
pub(super) struct Named {
    /// The container; `volume` for an image volume.
    pub(super) container: String,
    /// The image.
    pub(super) image: String,
}

impl Cluster {
    /// Reads it all, page by page, and the labels of namespaces into `written`: those last, so that none is missing that something is in.
    pub(super) async fn read(client: &Client, written: &mut Written, excluded: &[String]) -> anyhow::Result<Self> {
        let mut cluster = Self { excluded: excluded.iter().cloned().collect(), ..Self::default() };
        cluster.read_excluded(client).await;
        output::progress("reading the templates of workloads");
        let cut = templates::each(client, |template| cluster.template(template)).await.map_err(anyhow::Error::msg)?;
        if !cut.is_empty() {
            output::note(&format!("there are too many to read all of: {}", cut.join(", ")));
        }
        cluster.read_pods(client).await?;
        let mut page = ListParams::default().limit(cluster::PAGE);
        loop {
            let list = cluster::call("list namespaces", Api::<Namespace>::all(client.clone()).list_metadata(&page)).await?;
            for object in list.items {
                written.namespace(object.metadata.name.unwrap_or_default(), object.metadata.labels.unwrap_or_default());
            }
            page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_none() {
                return Ok(cluster);
            }
        }
    }

    async fn read_pods(&mut self, client: &Client) -> anyhow::Result<()> {
        output::progress("reading pods");
        let api = Api::<RunningPod>::all(client.clone());
        let mut page = ListParams::default().limit(cluster::PAGE).fields("status.phase!=Succeeded,status.phase!=Failed");
        self.pods.begin();
        loop {
            let list = cluster::call("list pods", api.list(&page)).await?;
            for pod in &list.items {
                self.pods.apply(pod);
            }
            page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_none() {
                break;
            }
            if self.pods.len() >= MOST_PODS {
                output::note(&format!("there are too many pods to read all of: the first {} are judged", self.pods.len()));
                break;
            }
        }
        self.pods.end();
        Ok(())
    }

    /// What the installation excludes, where that can be seen.
    async fn read_excluded(&mut self, client: &Client) {
        let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
        let why = match cluster::call("see which namespaces the installation excludes", api.get(CONFIGURATION)).await {
            Ok(object) => match excluded(&object) {
                Some(excluded) => return self.excluded.extend(excluded),
                None => "no policy is in force yet, so it is not seen which namespaces the installation excludes".to_owned(),
            },
            Err(Failed { code: 404, .. }) => {
                "there is no webhook of an installation, so it is not seen which namespaces it excludes".to_owned()
            }
            Err(failed) => failed.to_string(),
        };
        if self.excluded.is_empty() {
            output::note(&format!("{why}: all are judged. Name those with --exclude-namespace"));
        }
    }

    fn template(&mut self, template: &Template<'_>) {
        let Template { kind, metadata, pod } = template;
        let name = metadata.name.as_deref().unwrap_or_default();
        if let Some((maker, by_known)) = maker(kind, metadata) {
            if let Some(uid) = &metadata.uid {
                self.makers.insert(uid.clone(), maker);
            }
            if by_known {
                // What makes it has a template itself, and that is the one that people change.
                return;
            }
        }
        let images = pod.images().map(|named| Named {
            container: if named.place == Place::Volume { "volume".to_owned() } else { named.name.to_owned() },
            image: named.image.to_owned(),
        });
        let account = pod.spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
        self.templates.entry(metadata.namespace.clone().unwrap_or_default()).or_default().push(Workload {
            name: format!("{kind}/{name}"),
            service_account: account.to_owned(),
            images: images.collect(),
        });
    }

    /// Every namespace in which there is anything, but those that are not judged.
    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        let pods = self.pods.namespaces().into_iter().map(|name| name.to_string());
        pods.chain(self.templates.keys().cloned()).filter(|name| !self.excluded.contains(name)).collect()
    }

    /// The templates in a namespace.
    pub(super) fn templates_in(&self, namespace: &str) -> &[Workload] {
        self.templates.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// The workload that a pod is of; the pod itself where nobody owns it.
    pub(super) fn workload(&self, name: &str, pod: &Pod) -> String {
        let Some(owner) = &pod.owner else { return format!("Pod/{name}") };
        self.makers.get(&owner.uid).cloned().unwrap_or_else(|| format!("{}/{}", owner.kind, owner.name))
    }
}

/// Who made a ReplicaSet or a Job, and whether that is a workload whose template is read as well.
fn maker(kind: &str, metadata: &ObjectMeta) -> Option<(String, bool)> {
    let maker = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let group = maker.api_version.split_once('/').map_or("", |(group, _)| group);
    match (kind, group, maker.kind.as_str()) {
        ("ReplicaSet", "apps", "Deployment") | ("Job", "batch", "CronJob") => Some((format!("{}/{}", maker.kind, maker.name), true)),
        ("ReplicaSet" | "Job", ..) => Some((format!("{}/{}", maker.kind, maker.name), false)),
        _ => None,
    }
}

/// The namespaces that the webhooks leave alone; none where there is no webhook.
fn excluded(object: &ValidatingWebhookConfiguration) -> Option<Vec<String>> {
    let entry = object.webhooks.iter().flatten().find(|entry| entry.name == ENTRY)?;
    let expressions = entry.namespace_selector.as_ref()?.match_expressions.iter().flatten();
    let names = expressions.filter(|expression| expression.operator == "NotIn" && expression.key == "kubernetes.io/metadata.name");
    Some(names.filter_map(|expression| expression.values.clone()).flatten().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_the_webhooks_leave_alone_is_not_judged() {
        let read = |webhooks: Value| {
            let object = json!({"metadata": {"name": "lazaretto"}, "webhooks": webhooks});
            excluded(&serde_json::from_value(object).unwrap())
        };
        let entry = |name: &str| {
            json!({
                "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {},
                "namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "cni"]}]},
            })
        };
        assert_eq!(read(json!([])), None);
        assert_eq!(read(json!([entry("enforce.lazaretto.dev")])), None, "its selector may be a policy's own");
        assert_eq!(read(json!([entry(ENTRY)])).unwrap(), ["kube-system", "cni"]);
    }

    #[test]
    fn what_a_deployment_made_is_named_by_it_and_not_judged_twice() {
        let mut cluster = Cluster::default();
        let pod: crate::pod::Pod<'_> = crate::pod::read(r#"{"spec":{"containers":[{"name":"c","image":"x"}]}}"#).unwrap();
        let mut add = |kind: &'static str, name: &str, owner: Option<(&str, &str)>| {
            let owner =
                owner.map(|(version, kind)| json!({"apiVersion": version, "kind": kind, "name": "web", "uid": "u", "controller": true}));
            let metadata =
                json!({"name": name, "namespace": "team", "uid": name, "ownerReferences": owner.into_iter().collect::<Vec<_>>()});
            let metadata: ObjectMeta = serde_json::from_value(metadata).unwrap();
            cluster.template(&Template { kind, metadata: &metadata, pod: &pod });
        };
        add("Deployment", "web", None);
        add("ReplicaSet", "web-1", Some(("apps/v1", "Deployment")));
        add("ReplicaSet", "other-1", Some(("argoproj.io/v1alpha1", "Rollout")));
        add("ReplicaSet", "alone", None);
        let names: Vec<_> = cluster.templates_in("team").iter().map(|workload| workload.name.as_str()).collect();
        assert_eq!(names, ["Deployment/web", "ReplicaSet/other-1", "ReplicaSet/alone"]);
        assert_eq!((cluster.makers["web-1"].as_str(), cluster.makers["other-1"].as_str()), ("Deployment/web", "Rollout/web"));
    }
}
