//! The whole gate without an API server: an index, one policy, Registry objects, and reviews as the API server sends them.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use lazaretto::{
    api::{Allowance, ImageStatus, Limits, QuarantinePolicy, QuarantineProvider, QuarantineSpec, Registry, WhenUnknown},
    audit::Desk,
    gate::Gate,
    judgement::Scope,
    lookups::{Lives, Lookups},
    metrics::Metrics,
    registry::{ClientOptions, RegistryClient},
    review,
    wallet::Wallet,
    watch::SharedIndex,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::registry::FakeRegistry;

/// The pull secrets of pods, by namespace and name: hosts and what is for them.
type Pulls = Arc<Mutex<BTreeMap<(String, String), Value>>>;

/// How long a review waits when the webhook's `timeoutSeconds` is 10, as the chart has it.
pub const PATIENCE: Duration = Duration::from_millis(8_500);
const SECRET: &str = "registries";

/// Every knob of `whenUnknown` at Deny.
pub fn shut() -> WhenUnknown {
    let last_known_good_for = "0s".parse().unwrap();
    WhenUnknown { pending: Allowance::Deny, registry_unavailable: Allowance::Deny, unauthorized: Allowance::Deny, last_known_good_for }
}

/// Every knob of `whenUnknown` at Allow.
pub fn open() -> WhenUnknown {
    let last_known_good_for = "24h".parse().unwrap();
    WhenUnknown { pending: Allowance::Allow, registry_unavailable: Allowance::Allow, unauthorized: Allowance::Allow, last_known_good_for }
}

/// Those at Allow that speak of the registry itself, and not of one image.
pub fn open_for_outages() -> WhenUnknown {
    WhenUnknown { pending: Allowance::Deny, ..open() }
}

/// A Registry object.
#[derive(Clone)]
pub struct Listed<'a> {
    registry: &'a FakeRegistry,
    provider: QuarantineProvider,
    limits: Limits,
    shown: Option<(&'a str, &'a str)>,
    access: Value,
}

impl<'a> Listed<'a> {
    /// For which nobody keeps a flag: what it answers well about is admitted.
    pub fn new(registry: &'a FakeRegistry) -> Self {
        Self { registry, provider: QuarantineProvider::None, limits: Limits::default(), shown: None, access: json!([]) }
    }

    /// Who keeps the flag.
    #[must_use]
    pub fn kept_by(mut self, provider: QuarantineProvider) -> Self {
        self.provider = provider;
        self
    }

    /// The Registry's own credentials.
    #[must_use]
    pub fn shown(mut self, user: &'a str, password: &'a str) -> Self {
        self.shown = Some((user, password));
        self
    }

    /// Who may use which repositories.
    #[must_use]
    pub fn accessed(mut self, access: &Value) -> Self {
        self.access = access.clone();
        self
    }

    /// How much it may be asked.
    #[must_use]
    pub fn within(mut self, requests_per_second: u32, concurrent_requests: u32) -> Self {
        self.limits = Limits { requests_per_second, concurrent_requests, ..self.limits };
        self
    }
}

/// Everything that judges.
pub struct World {
    pub index: SharedIndex,
    pub gate: Gate,
    /// The Secret with the Registries' credentials, by host.
    auths: Arc<Mutex<BTreeMap<String, Value>>>,
    /// The API server.
    client: kube::Client,
    pulls: Pulls,
}

impl World {
    /// With one policy in mode Enforce, which admits what is unmanaged.
    pub fn new(when_unknown: WhenUnknown) -> Self {
        Self::through(when_unknown, ClientOptions::default())
    }

    /// The same with a client for registries of its own, for what goes through a proxy.
    pub fn through(when_unknown: WhenUnknown, options: ClientOptions) -> Self {
        let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (index, auths) = (SharedIndex::default(), Arc::<Mutex<BTreeMap<String, Value>>>::default());
        let pulls = Pulls::default();
        let (shown, held) = (auths.clone(), pulls.clone());
        let client = kube::Client::new(
            tower::service_fn(move |request: http::Request<kube::client::Body>| {
                std::future::ready(Ok::<_, Infallible>(secret(&shown, &held, request.uri().path())))
            }),
            "lazaretto-system",
        );
        let (metrics, _) = Metrics::new();
        let registries = Arc::new(RegistryClient::new(options).unwrap());
        let lookups = Arc::new(Lookups::new(registries, index.clone(), None, metrics.clone(), Lives::default()));
        let wallet = Arc::new(Wallet::new(client.clone(), "lazaretto-system", false));
        let gate = Gate {
            index: index.clone(),
            lookups,
            wallet,
            client: None,
            excluded: ["kube-system".to_owned()].into(),
            audit: Desk::unmanned(),
            metrics,
        };
        let world = Self { index, gate, auths, client, pulls };
        world.set_knobs(when_unknown);
        world
    }

    /// Makes a pull secret, and reads those of pods from now on.
    #[must_use]
    pub fn with_pull_secret(mut self, namespace: &str, name: &str, host: &str, (user, password): (&str, &str)) -> Self {
        let auths = json!({ host: { "username": user, "password": password } });
        self.pulls.lock().insert((namespace.to_owned(), name.to_owned()), auths);
        self.gate.wallet = Arc::new(Wallet::new(self.client.clone(), "lazaretto-system", true));
        self
    }

    pub fn set_knobs(&self, when_unknown: WhenUnknown) {
        let mut policy: QuarantinePolicy = serde_json::from_value(json!({
            "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": "all-images" },
            "spec": { "mode": "Enforce", "require": { "released": "Deny", "unmanaged": "Allow" } },
        }))
        .unwrap();
        policy.spec.when_unknown = when_unknown;
        self.index.write().apply_policy(&policy);
    }

    /// Makes a Registry object, named after its host; what ran before is adopted.
    #[must_use]
    pub fn with(self, listed: &Listed<'_>) -> Self {
        let host = listed.registry.host();
        let quarantine = QuarantineSpec { provider: listed.provider, processor: None, release: None };
        let mut spec = lazaretto::api::RegistrySpec { quarantine, limits: listed.limits.clone(), ..listed.registry.spec() };
        if let Some((user, password)) = listed.shown {
            self.auths.lock().insert(host.clone(), json!({ "username": user, "password": password }));
            spec.credentials = serde_json::from_value(json!({ "secretName": SECRET })).unwrap();
        }
        spec.access = serde_json::from_value(listed.access.clone()).unwrap();
        let mut object = Registry::new(&host.replace([':', '.'], "-"), spec);
        object.status = serde_json::from_value(json!({
            "adoption": { "instant": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:01:00Z" },
        }))
        .unwrap();
        self.index.write().apply_registry(&object);
        assert!(self.index.read().unreadable().is_empty(), "{:?}", self.index.read().unreadable());
        self
    }

    /// Writes an ImageStatus, as the watch would bring it.
    pub fn write(&self, subject: &str, state: &str, provider: &str) {
        self.write_of("team", subject, state, provider, None);
    }

    /// The same for what a namespace was the first to ask for; with the digest of its configuration it is known what is inside.
    pub fn write_of(&self, namespace: &str, subject: &str, state: &str, provider: &str, config: Option<&str>) {
        let transition = json!({ "number": 1, "at": "2026-01-01T00:00:00Z", "state": state, "by": "jane", "reason": "she looked" });
        let object: ImageStatus = serde_json::from_value(json!({
            "apiVersion": "lazaretto.dev/v1alpha1", "kind": "ImageStatus",
            "metadata": {
                "name": subject.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"),
                "labels": { "lazaretto.dev/first-seen-in": namespace },
            },
            "spec": { "subject": subject },
            "status": {
                "state": state, "provider": provider, "since": "2026-01-01T00:00:00Z", "by": "jane", "reason": "she looked",
                "observedAt": "2026-01-01T00:00:00Z", "history": [transition], "config": config,
            },
        }))
        .unwrap();
        assert!(self.index.write().apply_image(&object, Timestamp::now()));
        self.gate.lookups.heard(object.metadata.name.as_deref().unwrap());
    }

    /// Asks for a pod with one image, as whoever is patient.
    pub async fn ask(&self, image: &str) -> Answer {
        self.ask_from("team", image, PATIENCE).await
    }

    /// Asks for a pod of a namespace, for no longer than this.
    pub async fn ask_from(&self, namespace: &str, image: &str, patience: Duration) -> Answer {
        self.ask_as(&Asks { namespace, ..Asks::default() }, image, patience).await
    }

    /// Asks for a pod of somebody's.
    pub async fn ask_as(&self, who: &Asks<'_>, image: &str, patience: Duration) -> Answer {
        if self.gate.client.is_none() {
            self.index.write().apply_namespace(who.namespace, BTreeMap::new());
        }
        let begun = Instant::now();
        let images: Vec<&str> = [image].into_iter().chain(who.beside.iter().copied()).collect();
        let body = admission_review(who, &images);
        let request = review::read_pods(&body).unwrap();
        let response = self.gate.review(&request, Scope::Enforce, begun + patience).await;
        Answer::read(&response.into_json(), begun.elapsed())
    }
}

/// Whose pod it is.
#[derive(Clone, Copy, Debug)]
pub struct Asks<'a> {
    pub namespace: &'a str,
    pub account: &'a str,
    pub pull_secrets: &'a [&'a str],
    /// Images of the pod's other containers.
    pub beside: &'a [&'a str],
}

impl Default for Asks<'_> {
    fn default() -> Self {
        Self { namespace: "team", account: "default", pull_secrets: &[], beside: &[] }
    }
}

/// The API server, as far as a wallet asks it.
fn secret(auths: &Mutex<BTreeMap<String, Value>>, pulls: &Pulls, path: &str) -> http::Response<kube::client::Body> {
    let parts: Vec<&str> = path.split('/').collect();
    let auths = match parts[..] {
        [.., "namespaces", "lazaretto-system", "secrets", SECRET] => json!(auths.lock().clone()),
        [.., "namespaces", namespace, "secrets", name] => match pulls.lock().get(&(namespace.to_owned(), name.to_owned())) {
            Some(auths) => auths.clone(),
            None => {
                let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404 });
                return http::Response::builder().status(404).body(status.to_string().into_bytes().into()).unwrap();
            }
        },
        _ => panic!("nobody asks for {path}"),
    };
    let auths = json!({ "auths": auths }).to_string();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": { "name": SECRET, "namespace": "lazaretto-system" },
        "data": { ".dockerconfigjson": BASE64_STANDARD.encode(auths) },
    });
    http::Response::new(secret.to_string().into_bytes().into())
}

const UID: &str = "5ad3aa3e-3e3d-4e5e-b9ad-7a0d1c2f3b4a";

/// An AdmissionReview of a Deployment's pod, as the API server sends it.
fn admission_review(who: &Asks<'_>, images: &[&str]) -> Vec<u8> {
    let Asks { namespace, account, pull_secrets, .. } = *who;
    let container = |(number, image): (usize, &&str)| {
        let name = if number == 0 { "web".to_owned() } else { format!("beside-{number}") };
        json!({ "name": name, "image": image, "imagePullPolicy": "IfNotPresent" })
    };
    let containers: Vec<Value> = images.iter().enumerate().map(container).collect();
    let pull_secrets: Vec<Value> = pull_secrets.iter().map(|name| json!({ "name": name })).collect();
    let pod = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": { "generateName": "web-5d4f-", "namespace": namespace, "creationTimestamp": null, "labels": { "app": "web" } },
        "spec": {
            "containers": containers,
            "serviceAccountName": account, "imagePullSecrets": pull_secrets, "restartPolicy": "Always",
        },
        "status": {},
    });
    let review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": UID, "operation": "CREATE", "namespace": namespace, "object": pod, "oldObject": null, "dryRun": false,
            "kind": { "group": "", "version": "v1", "kind": "Pod" }, "resource": { "group": "", "version": "v1", "resource": "pods" },
            "requestKind": { "group": "", "version": "v1", "kind": "Pod" },
            "requestResource": { "group": "", "version": "v1", "resource": "pods" },
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "groups": ["system:serviceaccounts", "system:authenticated"],
            },
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    });
    review.to_string().into_bytes()
}

/// What a user gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub allowed: bool,
    /// 403 or 504 where it is not allowed, with `Forbidden` or `Timeout`.
    pub status: Option<(u64, String)>,
    pub message: String,
    pub retry_after: Option<u64>,
    /// The audit annotation `basis`.
    pub basis: String,
    /// The audit annotation `digest`.
    pub digest: Option<String>,
    pub warnings: Vec<String>,
    pub took: Duration,
}

impl Answer {
    fn read(body: &[u8], took: Duration) -> Self {
        let review: Value = serde_json::from_slice(body).unwrap();
        let response = &review["response"];
        assert_eq!((review["kind"].as_str(), response["uid"].as_str()), (Some("AdmissionReview"), Some(UID)), "{review}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let status = &response["status"];
        Self {
            allowed: response["allowed"].as_bool().unwrap(),
            status: status["code"].as_u64().map(|code| (code, text(&status["reason"]))),
            message: text(&status["message"]),
            retry_after: status["details"]["retryAfterSeconds"].as_u64(),
            basis: text(&response["auditAnnotations"]["basis"]),
            digest: response["auditAnnotations"]["digest"].as_str().map(str::to_owned),
            warnings: response["warnings"].as_array().into_iter().flatten().map(text).collect(),
            took,
        }
    }

    /// Yes, on this basis.
    #[track_caller]
    pub fn admits(&self, basis: &str) {
        assert_eq!((self.allowed, self.status.as_ref(), self.basis.as_str()), (true, None, basis), "{self:?}");
    }

    /// 403, in words that hold this.
    #[track_caller]
    pub fn refuses(&self, sentence: &str) {
        let expected = Some((403, "Forbidden".to_owned()));
        assert_eq!((self.allowed, &self.status, self.retry_after, self.basis.as_str()), (false, &expected, None, "Registry"), "{self:?}");
        assert!(self.message.contains(sentence), "{sentence} is not in: {}", self.message);
        assert!(self.message.starts_with("spec.containers[web].image ") && self.message.ends_with(" [policy all-images]"), "{self:?}");
    }

    /// 504: not yet, for so many seconds, on this basis, in words that hold this.
    #[track_caller]
    pub fn waits(&self, seconds: u64, basis: &str, sentence: &str) {
        let expected = Some((504, "Timeout".to_owned()));
        assert_eq!((self.allowed, &self.status, self.basis.as_str()), (false, &expected, basis), "{self:?}");
        assert_eq!(self.retry_after, Some(seconds), "{self:?}");
        assert!(self.message.contains(sentence), "{sentence} is not in: {}", self.message);
        assert!(self.message.starts_with("spec.containers[web].image ") && self.message.ends_with(" [policy all-images]"), "{self:?}");
    }
}
