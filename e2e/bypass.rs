//! Ways around a quarantine, each refused by name: what the author of a pod, or somebody with rights in the cluster, might try.
//!
//! The tests share the installation, one registry and its Registry object; each has a [`Scene`] of its own: a namespace with a
//! policy that speaks of this namespace only. They assert the sentence that the user reads, not merely that something failed.

mod digests;
mod hosts;
mod makers;
mod pods;
mod records;
mod secrets;
mod wire;

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use lazaretto::api::{ImageStatus, QuarantinePolicy, Registry as RegistryObject};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::lab::Lab;
use crate::lab::install::World;
use crate::lab::registry::{Options, Registry};
use crate::lab::replica::Replica;
use crate::lab::wait::{MOMENT, eventually, until};
use crate::story;

/// What a policy says of an image that nobody has released.
pub const IN_QUARANTINE: &str = "in quarantine since";
/// What it says of one that it can, or may, not see.
pub const NOT_FOUND: &str = "the image was not found, or Lazaretto is not permitted to see it";
/// What it says of a registry that is named by its address.
pub const BY_ADDRESS: &str = "the registry is named by its address, which could be any registry";
/// An image that every policy refuses by its name alone.
const PROBE: &str = "192.0.2.1/probe";

/// The registry that these tests share. Lazaretto keeps the quarantine flag for it; each test pushes to repositories of its own.
pub async fn registry() -> &'static Registry {
    static REGISTRY: OnceCell<Option<Registry>> = OnceCell::const_new();
    let start = async {
        let lab = &World::shared().await.lab;
        let registry = Registry::start(lab, Options::default()).await;
        // A burst of tests is not what the limits are for.
        let limits = json!({ "requestsPerSecond": 1000, "concurrentRequests": 100 });
        story::register(lab, &registry, "Managed", |spec| spec["limits"] = limits).await;
        registry
    };
    let registry = REGISTRY.get_or_init(async || AssertUnwindSafe(start).catch_unwind().await.ok());
    registry.await.as_ref().expect("the shared registry did not start; the first test that asked for it says why")
}

/// A namespace of one test, in a world.
pub struct Scene<'a> {
    pub lab: &'a Lab,
    pub replicas: &'a [Replica],
    pub namespace: String,
    pub client: Client,
}

impl Scene<'static> {
    /// A namespace in the shared world, with a policy that wants released images.
    pub async fn new() -> Self {
        let scene = Self::bare().await;
        scene.policy(json!({})).await;
        scene
    }

    /// A namespace in the shared world without a policy.
    pub async fn bare() -> Self {
        Scene::within(World::shared().await).await
    }
}

impl<'a> Scene<'a> {
    /// A namespace of this world without a policy.
    pub async fn within(world: &'a World) -> Self {
        let lab = &world.lab;
        Self { lab, replicas: &world.replicas, namespace: lab.namespace().await, client: lab.client().await }
    }

    /// Applies the namespace's first policy, which has its name, and waits until it is in force everywhere.
    pub async fn policy(&self, spec: Value) {
        self.policy_named(&self.namespace, spec).await;
    }

    /// Applies a policy that speaks of this namespace only, and waits until it is in force everywhere.
    pub async fn policy_named(&self, name: &str, spec: Value) {
        self.apply_policy(name, spec).await;
        self.in_force(name).await;
    }

    /// Applies a policy that speaks of this namespace only.
    pub async fn apply_policy(&self, name: &str, mut spec: Value) {
        let here = json!({ "matchLabels": { "kubernetes.io/metadata.name": self.namespace } });
        let selector = &mut spec["match"]["namespaceSelector"];
        if selector.is_null() {
            *selector = here;
        }
        let object =
            json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": name }, "spec": spec });
        let policies: Api<QuarantinePolicy> = Api::all(self.client.clone());
        policies.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    }

    /// Waits until every replica judges by the policy, and the API server asks them.
    pub async fn in_force(&self, policy: &str) {
        let probe = pod("probe", PROBE);
        for replica in self.replicas {
            eventually(MOMENT, "the replica knows the policy", async || {
                let answer = self.ask(replica, "/validate", &self.review(&probe)).await;
                if answer.to_string().contains(policy) { Ok(()) } else { Err(answer) }
            })
            .await;
        }
        eventually(MOMENT, "the API server asks about the namespace's pods", async || {
            let answer = self.pods().create(&dry_run(), &read(&probe)).await;
            let refused = matches!(&answer, Err(kube::Error::Api(status)) if status.message.contains(policy));
            if refused || self.audited("probe").iter().any(|(name, _)| name.ends_with("/policy")) {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        })
        .await;
    }

    /// Another Registry object for the shared registry, under another host; Lazaretto keeps its flag, too.
    pub async fn register(&self, host: &str, change: impl FnOnce(&mut Value)) {
        let endpoint = format!("http://{}", registry().await.host());
        let limits = json!({ "requestsPerSecond": 1000, "concurrentRequests": 100 });
        let mut spec = json!({
            "hosts": [host], "endpoint": endpoint, "plainHTTP": true, "quarantine": { "provider": "Managed" },
            "pollInterval": "10s", "limits": limits,
        });
        change(&mut spec);
        let name = host.replace(['.', ':'], "-");
        let object = json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": name }, "spec": spec });
        let registries: Api<RegistryObject> = Api::all(self.client.clone());
        registries.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
        until(registries, &name, "what ran before is adopted", |object: Option<&RegistryObject>| {
            let adoption = object.and_then(|object| object.status.as_ref()?.adoption.as_ref());
            adoption.is_some_and(|adoption| adoption.completed.is_some())
        })
        .await;
    }

    /// The full name of one of the test's repositories in the shared registry.
    pub fn repository(&self, name: &str) -> String {
        format!("{}/{name}", self.namespace)
    }

    /// Pushes an image that no other test has. Returns its name by tag, and its digest.
    pub async fn push(&self, name: &str, tag: &str) -> (String, String) {
        let (registry, repository) = (registry().await, self.repository(name));
        let digest = registry.push(&repository, tag, &format!("{repository}:{tag}")).await;
        (registry.tagged(&repository, tag), digest)
    }

    /// Pushes an image, and releases it. Returns its name by tag, and its digest.
    pub async fn push_released(&self, name: &str, tag: &str) -> (String, String) {
        let (image, digest) = self.push(name, tag).await;
        self.refused(&pod("new", &image)).await.says(&[IN_QUARANTINE]);
        self.release(&image, &digest).await;
        (image, digest)
    }

    /// Releases an image that was seen before, and waits until every replica knows.
    pub async fn release(&self, image: &str, digest: &str) {
        story::release(self.lab, digest, "scanned").await;
        self.known(image, true).await;
    }

    /// Puts an image back into quarantine, and waits until every replica knows.
    pub async fn hold(&self, image: &str, digest: &str) {
        let name = story::image_status(self.lab, digest).await.expect("the image is known").metadata.name.unwrap();
        let decision = json!({ "spec": { "quarantine": { "state": "Quarantined", "by": "admin", "reason": "found later" } } });
        let images: Api<ImageStatus> = Api::all(self.client.clone());
        images.patch(&name, &PatchParams::default(), &Patch::Merge(&decision)).await.unwrap();
        self.known(image, false).await;
    }

    /// Waits until every replica admits an image, or none does.
    pub async fn known(&self, image: &str, admitted: bool) {
        for replica in self.replicas {
            eventually(MOMENT, "the replica knows what was decided", async || {
                let answer = self.ask(replica, "/validate", &self.review(&pod("new", image))).await;
                if answer["allowed"] == admitted { Ok(()) } else { Err(answer) }
            })
            .await;
        }
    }

    /// A review of a pod's creation by somebody, as the API server would send it; a dry run, so that nothing is written.
    pub fn review(&self, pod: &Value) -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "6e0f0c8e-0001-4a4b-9d63-000000000001",
                "kind": { "group": "", "version": "v1", "kind": "Pod" },
                "resource": { "group": "", "version": "v1", "resource": "pods" },
                "namespace": self.namespace, "operation": "CREATE", "dryRun": true,
                "userInfo": { "username": "mallory", "groups": ["system:authenticated"] },
                "object": pod,
            },
        })
    }

    /// The answer of one replica to a review, past the API server.
    pub async fn ask(&self, replica: &Replica, path: &str, review: &Value) -> Value {
        let answer = wire::post(replica, &format!("{path}?timeout=10s"), review.to_string().into()).await;
        assert_eq!(answer["uid"], review["request"]["uid"], "{answer}");
        answer
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates a pod; asks again while the answer is "not yet", as kubectl and the controllers do.
    pub async fn create(&self, pod: &Value) -> kube::Result<Pod> {
        insist(async || self.pods().create(&PostParams::default(), &read(pod)).await).await
    }

    /// Creates a pod that must not be admitted.
    pub async fn refused(&self, pod: &Value) -> Refusal {
        Refusal::of(self.create(pod).await)
    }

    /// Patches a pod; asks again while the answer is "not yet".
    pub async fn patch(&self, name: &str, patch: Value) -> kube::Result<Pod> {
        let patch = Patch::Strategic(patch);
        insist(async || self.pods().patch(name, &PatchParams::default(), &patch).await).await
    }

    /// The annotations that webhooks of ours left in the audit log for requests about a pod.
    pub fn audited(&self, name: &str) -> Vec<(String, String)> {
        let events = self.lab.audit_of(&self.namespace, name);
        let annotations = events.iter().filter_map(|event| event["annotations"].as_object()).flatten();
        let ours = annotations.filter(|(key, _)| key.contains(".lazaretto.dev/"));
        ours.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    }

    /// A node that exists by name only; nothing will run there.
    pub async fn node(&self) -> Node {
        let name = format!("node-{}", self.namespace);
        let node = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        Api::<Node>::all(self.client.clone()).create(&PostParams::default(), &node).await.unwrap()
    }

    pub async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
}

/// Asks until there is a yes or a no.
pub async fn insist<T>(mut ask: impl AsyncFnMut() -> kube::Result<T>) -> kube::Result<T> {
    eventually(2 * MOMENT, "a yes or a no", async || match ask().await {
        Err(kube::Error::Api(status)) if status.code == 504 => Err(status.message),
        answer => Ok(answer),
    })
    .await
}

/// A refusal of ours, as the user reads it.
#[derive(Debug)]
pub struct Refusal {
    pub code: u16,
    pub message: String,
}

impl Refusal {
    /// The refusal that a request ended in.
    #[track_caller]
    pub fn of<T: std::fmt::Debug>(answer: kube::Result<T>) -> Self {
        let status = match answer {
            Err(kube::Error::Api(status)) => status,
            other => panic!("should have been refused: {other:?}"),
        };
        let (code, message) = (status.code, status.message.clone());
        let ours = message.starts_with("admission webhook \"enforce") && message.contains(".lazaretto.dev\" denied the request: ");
        assert!(ours, "not refused by us: {code} {message}");
        Self { code, message }
    }

    /// It is a no, and contains these texts.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) -> &Self {
        assert_eq!(self.code, 403, "{}", self.message);
        for part in parts {
            assert!(self.message.contains(part), "{part:?} is not in {:?}", self.message);
        }
        self
    }

    /// It does not contain this text.
    #[track_caller]
    pub fn silent(&self, part: &str) -> &Self {
        assert!(!self.message.contains(part), "{part:?} is in {:?}", self.message);
        self
    }
}

/// A pod with one container, called `c`.
pub fn pod(name: &str, image: &str) -> Value {
    pod_with(name, &json!({ "containers": [container("c", image)] }))
}

/// A pod with this spec.
pub fn pod_with(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec })
}

pub fn container(name: &str, image: &str) -> Value {
    json!({ "name": name, "image": image })
}

pub fn read<K: k8s_openapi::serde::de::DeserializeOwned>(value: &Value) -> K {
    serde_json::from_value(value.clone()).unwrap()
}

pub fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}
