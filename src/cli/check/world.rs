//! What is known before anybody is asked: policies, registries, waivers, namespaces and image statuses, from files, from the cluster,
//! or from both, files over the cluster.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, Node},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Api, Client, Resource};
use parking_lot::RwLock;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    api::{ImageStatus, QuarantinePolicy, Registry, Waiver},
    cli::cluster,
    image::{Digest, Reference},
    index::{Index, Known, Rules},
    proof::{TrustRoot, platforms},
    watch::SharedIndex,
};

/// The label that the API server gives every namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// What people wrote, by kind and name; whatever is put in later stands.
#[derive(Clone, Default)]
pub(in crate::cli) struct Written {
    policies: BTreeMap<String, QuarantinePolicy>,
    registries: BTreeMap<String, Registry>,
    waivers: BTreeMap<String, Waiver>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// ConfigMaps, of which trusted roots may be.
    configs: BTreeMap<String, BTreeMap<String, String>>,
    /// The labels of nodes: for their platforms the images of an index are judged, and for all where none is known.
    nodes: BTreeMap<String, BTreeMap<String, String>>,
    /// Image statuses from files.
    given: Vec<ImageStatus>,
}

impl Written {
    /// The rules of a cluster. Image statuses are many; they come later, and only if some image needs them.
    pub(in crate::cli) async fn from_cluster(client: &Client) -> anyhow::Result<Self> {
        let (policies, registries, waivers) = futures::try_join!(
            cluster::list::<QuarantinePolicy>(client),
            cluster::list::<Registry>(client),
            cluster::list_readable::<Waiver>(client)
        )?;
        // Whoever may not list nodes does without: more has to be proven then, and nothing less.
        let nodes = cluster::labels::<Node>(client).await.unwrap_or_default();
        Ok(Self { policies: named(policies), registries: named(registries), waivers: named(waivers), nodes, ..Self::default() })
    }

    /// Has images judged for a node of this platform.
    pub(in crate::cli) fn run_on(&mut self, platform: &str) {
        self.nodes.insert(platform.to_owned(), platforms::labels(platform));
    }

    /// Takes in an object from a file.
    pub(in crate::cli) fn take(&mut self, object: Value) -> anyhow::Result<()> {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
        match (kind.as_str(), version.as_str()) {
            ("QuarantinePolicy", OURS) => drop(self.policies.insert(name_of(&object)?, read(&object)?)),
            ("Registry", OURS) => {
                let name = name_of(&object)?;
                let mut registry: Registry = read(&object)?;
                if registry.status.is_none() {
                    // What is applied changes the spec alone.
                    registry.status = self.registries.remove(&name).and_then(|held| held.status);
                }
                self.registries.insert(name, registry);
            }
            ("Waiver", OURS) => drop(self.waivers.insert(name_of(&object)?, read(&object)?)),
            ("ImageStatus", OURS) => {
                let status: ImageStatus = read(&object)?;
                if Known::read(&status, Timestamp::UNIX_EPOCH).is_none() {
                    bail!("ImageStatus {}: its subject is not registry/repository@digest", status.metadata.name.unwrap_or_default());
                }
                self.given.push(status);
            }
            ("Namespace", "v1") => {
                let namespace: Namespace = serde_json::from_value(object).context("a Namespace cannot be read")?;
                self.namespaces.insert(namespace.metadata.name.unwrap_or_default(), namespace.metadata.labels.unwrap_or_default());
            }
            ("Node", "v1") => {
                let node: kube::core::PartialObjectMeta<Node> = serde_json::from_value(object).context("a Node cannot be read")?;
                self.nodes.insert(node.metadata.name.unwrap_or_default(), node.metadata.labels.unwrap_or_default());
            }
            ("ConfigMap", "v1") => {
                let config: ConfigMap = serde_json::from_value(object).context("a ConfigMap cannot be read")?;
                self.configs.insert(config.metadata.name.unwrap_or_default(), config.data.unwrap_or_default());
            }
            _ => bail!(
                "{kind} ({version}) is not read here: give QuarantinePolicy, Registry, Waiver, ImageStatus ({OURS}), Namespace, Node or ConfigMap (v1)"
            ),
        }
        Ok(())
    }

    /// Takes in the labels of a namespace of a cluster.
    pub(in crate::cli) fn namespace(&mut self, name: String, labels: BTreeMap<String, String>) {
        self.namespaces.insert(name, labels);
    }

    /// Whether there is any policy to judge by.
    pub(super) fn has_policies(&self) -> bool {
        !self.policies.is_empty()
    }
}

/// The version that is read.
const OURS: &str = "lazaretto.dev/v1alpha1";

fn named<K: Resource>(objects: Vec<K>) -> BTreeMap<String, K> {
    objects.into_iter().map(|object| (object.meta().name.clone().unwrap_or_default(), object)).collect()
}

fn name_of(object: &Value) -> anyhow::Result<String> {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    name.map(str::to_owned).with_context(|| format!("a {kind} has no metadata.name"))
}

/// Reads an object, and refuses a field that its type does not have: a policy with a misspelt field would judge by less than its
/// author thinks, and the API server would say so.
fn read<T: Serialize + DeserializeOwned>(object: &Value) -> anyhow::Result<T> {
    let what = format!(
        "{} {}",
        object.get("kind").and_then(Value::as_str).unwrap_or_default(),
        object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
    );
    let typed: T = T::deserialize(object).with_context(|| what.clone())?;
    let again = serde_json::to_value(&typed)?;
    if let (Some(spec), Some(known)) = (object.get("spec"), again.get("spec"))
        && let Some(path) = unknown_field(spec, known)
    {
        bail!("{what}: spec{path} is no field of it");
    }
    Ok(typed)
}

/// The path of a field that reading lost.
fn unknown_field(original: &Value, known: &Value) -> Option<String> {
    match (original, known) {
        (Value::Object(original), Value::Object(known)) => original.iter().find_map(|(field, value)| {
            let deeper = match known.get(field) {
                Some(known) => unknown_field(value, known)?,
                // Left out because it says nothing.
                None if empty(value) => return None,
                None => String::new(),
            };
            Some(format!(".{field}{deeper}"))
        }),
        (Value::Array(original), Value::Array(known)) => original
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(at, (original, known))| Some(format!("[{at}]{}", unknown_field(original, known)?))),
        _ => None,
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Everything that is known before anybody is asked.
pub(in crate::cli) struct World {
    /// The rules, and the cluster's image statuses.
    pub index: SharedIndex,
    /// The same rules, in hand.
    pub rules: Arc<Rules>,
    /// Image statuses from files. They are believed as they stand: whoever gives them vouches for their age.
    pub given: Index,
    /// What tags stand for.
    pub tags: HashMap<Reference, Digest>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Labels from the command line, for every namespace.
    extra: BTreeMap<String, String>,
    /// A policy or Registry that chooses namespaces by more than their name.
    choosy: Option<String>,
}

impl World {
    /// Makes what people wrote ready.
    ///
    /// # Errors
    /// A policy, registry or waiver that cannot be read. A replica keeps its last readable form, which nobody here knows.
    pub(in crate::cli) fn new(written: Written, tags: HashMap<Reference, Digest>, extra: BTreeMap<String, String>) -> anyhow::Result<Self> {
        let mut index = Index::default();
        for (name, labels) in &written.nodes {
            index.apply_node(name, labels);
        }
        index.know_nodes(true);
        for policy in written.policies.values() {
            index.apply_policy(policy);
        }
        for registry in written.registries.values() {
            index.apply_registry(registry);
        }
        for waiver in written.waivers.values() {
            index.apply_waiver(waiver);
        }
        if let Some(((kind, name), why)) = index.unreadable().first_key_value() {
            bail!("{kind:?} {name} cannot be read: {why}");
        }
        for source in index.rules().root_sources() {
            let name = source.config_map_name.as_deref().or(source.secret_name.as_deref()).unwrap_or_default();
            // One that is not given leaves open what is signed under it.
            let Some(json) = written.configs.get(name).and_then(|data| data.get(&source.key)) else { continue };
            let root = TrustRoot::read(json.as_bytes()).with_context(|| format!("ConfigMap {name}, {}", source.key))?;
            index.apply_root(&source, &Arc::new(root));
        }
        let mut given = Index::default();
        for (at, status) in written.given.into_iter().enumerate() {
            // Two files may call two things by one name; the index goes by names.
            let metadata = kube::core::ObjectMeta { name: Some(at.to_string()), ..status.metadata.clone() };
            given.apply_image(&ImageStatus { metadata, ..status }, Timestamp::now());
        }
        let by_policy = written.policies.iter().find(|(_, policy)| asks_labels(policy.spec.matching.namespace_selector.as_ref()));
        let by_registry = written.registries.iter().find(|(_, registry)| {
            let allowed = registry.spec.access.iter().filter_map(|rule| rule.allow.as_ref());
            allowed.into_iter().any(|allow| asks_labels(allow.namespace_selector.as_ref()))
        });
        let choosy = by_policy.map(|(name, _)| format!("policy {name}"));
        let choosy = choosy.or_else(|| by_registry.map(|(name, _)| format!("registry {name}")));
        let rules = index.rules();
        Ok(Self { index: Arc::new(RwLock::new(index)), rules, given, tags, namespaces: written.namespaces, extra, choosy })
    }

    /// Takes in the image statuses of a cluster.
    pub(in crate::cli) async fn read_images(&self, client: &Client) -> anyhow::Result<()> {
        let all = cluster::list::<ImageStatus>(client).await?;
        let now = Timestamp::now();
        let mut index = self.index.write();
        for status in &all {
            index.apply_image(status, now);
        }
        Ok(())
    }

    /// Takes in the labels of a namespace of a cluster, unless a file has them or no policy asks.
    pub(super) async fn read_namespace(&mut self, client: &Client, name: &str) -> anyhow::Result<()> {
        if self.choosy.is_none() || self.namespaces.contains_key(name) {
            return Ok(());
        }
        match cluster::call(&format!("get namespace {name}"), Api::<Namespace>::all(client.clone()).get_metadata(name)).await {
            Ok(object) => drop(self.namespaces.insert(name.to_owned(), object.metadata.labels.unwrap_or_default())),
            // It is still to be made: nobody knows its labels.
            Err(failed) if failed.code == 404 => {}
            Err(failed) => return Err(failed.into()),
        }
        Ok(())
    }

    /// The labels of a namespace; `Err` with a sentence when they are not known and matter.
    pub(in crate::cli) fn labels(&self, namespace: &str) -> Result<BTreeMap<String, String>, String> {
        let held = self.namespaces.get(namespace);
        if let Some(choosy) = self.choosy.as_ref().filter(|_| held.is_none() && self.extra.is_empty()) {
            return Err(format!(
                "{choosy} chooses namespaces by their labels, and those of {namespace} are not known: give --namespace-label, its Namespace in --policy, or --cluster"
            ));
        }
        let mut labels = held.cloned().unwrap_or_default();
        labels.insert(NAME_LABEL.to_owned(), namespace.to_owned());
        labels.extend(self.extra.clone());
        Ok(labels)
    }
}

/// Whether a selector chooses namespaces by labels that do not follow from their name.
fn asks_labels(selector: Option<&LabelSelector>) -> bool {
    let Some(selector) = selector else { return false };
    let mut keys = selector.match_labels.iter().flat_map(BTreeMap::keys);
    let mut expressions = selector.match_expressions.iter().flatten().map(|expression| &expression.key);
    keys.any(|key| key != NAME_LABEL) || expressions.any(|key| key != NAME_LABEL)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(spec: &Value) -> Value {
        json!({"apiVersion": OURS, "kind": "QuarantinePolicy", "metadata": {"name": "p"}, "spec": spec})
    }

    fn take(objects: &[Value]) -> anyhow::Result<Written> {
        let mut written = Written::default();
        for object in objects {
            written.take(object.clone())?;
        }
        Ok(written)
    }

    fn world(objects: &[Value], extra: &[(&str, &str)]) -> anyhow::Result<World> {
        let extra = extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        World::new(take(objects)?, HashMap::new(), extra)
    }

    #[test]
    fn a_misspelt_field_is_named() {
        let error = |spec: &Value| take(&[policy(spec)]).err().map(|error| error.to_string());
        assert_eq!(error(&json!({"requires": {"released": "Deny"}})).unwrap(), "QuarantinePolicy p: spec.requires is no field of it");
        let nested = json!({"deny": [{"image": "a/**", "reason": "r", "until": "x"}]});
        assert_eq!(error(&nested).unwrap(), "QuarantinePolicy p: spec.deny[0].until is no field of it");
        let all = json!({
            "mode": "Warn",
            "match": {"namespaceSelector": {"matchLabels": {"a": "b"}}, "images": [], "excludeImages": ["b/**"]},
            "deny": [{"digest": format!("sha256:{}", "0".repeat(64)), "reason": "r"}],
            "require": {"released": "Warn", "unmanaged": "Allow", "digest": "Off"},
            "whenUnknown": {"lastKnownGoodFor": "0s"}
        });
        assert_eq!(error(&all), None);
    }

    #[test]
    fn what_cannot_be_read_is_said_and_not_passed_over() {
        let error = format!("{:#}", take(&[policy(&json!({"mode": "enforce"}))]).err().unwrap());
        assert!(error.starts_with("QuarantinePolicy p: unknown variant `enforce`"), "{error}");
        let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
        assert!(take(&[other]).err().unwrap().to_string().starts_with("Secret (v1) is not read here: give QuarantinePolicy"));
        let error = world(&[policy(&json!({"deny": [{"reason": "r"}]}))], &[]).err().unwrap();
        assert_eq!(error.to_string(), "Policy p cannot be read: spec.deny: give either image or digest");
        let error = take(&[json!({"apiVersion": OURS, "kind": "ImageStatus", "metadata": {"name": "i"}, "spec": {"subject": "nginx"}})]);
        assert_eq!(error.err().unwrap().to_string(), "ImageStatus i: its subject is not registry/repository@digest");
    }

    #[test]
    fn a_registry_from_a_file_keeps_the_status_that_the_cluster_knows() {
        let mut registry = json!({"apiVersion": OURS, "kind": "Registry", "metadata": {"name": "r"},
            "spec": {"hosts": ["registry.corp"], "quarantine": {"provider": "Managed"}},
            "status": {"adoption": {"instant": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:01:00Z"}}});
        let with = registry.clone();
        registry.as_object_mut().unwrap().remove("status");
        registry["spec"]["limits"] = json!({"timeoutSeconds": 3});
        let world = world(&[with, registry], &[]).unwrap();
        let entry = &world.rules.registries["r"];
        assert!(entry.adopted.is_some());
        assert_eq!(entry.spec.limits.timeout_seconds, 3);
    }

    #[test]
    fn labels_are_only_guessed_where_they_do_not_matter() {
        let by_name =
            json!({"match": {"namespaceSelector": {"matchExpressions": [{"key": NAME_LABEL, "operator": "NotIn", "values": ["a"]}]}}});
        let by_label = json!({"match": {"namespaceSelector": {"matchLabels": {"env": "prod"}}}});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": {"env": "prod"}}});
        assert_eq!(world(&[policy(&by_name)], &[]).unwrap().labels("team").unwrap()[NAME_LABEL], "team");
        let error = world(&[policy(&by_label)], &[]).unwrap().labels("team").unwrap_err();
        assert!(error.starts_with("policy p chooses namespaces by their labels, and those of team are not known"), "{error}");
        assert_eq!(world(&[policy(&by_label), namespace], &[]).unwrap().labels("team").unwrap()["env"], "prod");
        assert_eq!(world(&[policy(&by_label)], &[("env", "test")]).unwrap().labels("team").unwrap()["env"], "test");
    }
}
