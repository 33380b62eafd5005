//! That the cluster heals without us: first install, outages, upgrades and uninstalls, with pods being made all the while.

mod outage;
mod release;
pub mod traffic;

use k8s_openapi::api::admissionregistration::v1::{ValidatingWebhook, ValidatingWebhookConfiguration};
use kube::Api;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::lab::Lab;
use crate::lab::install::{Installation, NAMESPACE, World};
use crate::lab::process::Output;
use crate::lab::registry::{Options, Registry};
use crate::lab::wait::{MOMENT, eventually, until};
use crate::story;
use traffic::Traffic;

/// An image that no policy knows, for namespaces that no policy speaks of.
pub const ANY: &str = "not-listed.invalid/any:1";

/// An installation with one enforced namespace, and a registry with a released and a quarantined image.
pub struct Site {
    /// The installation.
    pub world: World,
    /// The registry, which ends with the site.
    pub _registry: Registry,
    /// The namespace of the only policy.
    pub enforced: String,
    /// A namespace that no policy speaks of.
    pub free: String,
    /// The released image, by digest and by tag.
    pub released: [String; 2],
    /// The image in quarantine.
    pub quarantined: String,
}

impl Site {
    /// One with these values.
    pub async fn new(values: &[(&str, &str)]) -> Self {
        let world = World::fresh(values).await;
        let lab = &world.lab;
        let registry = Registry::start(lab, Options::default()).await;
        story::register(lab, &registry, "Managed", |_| {}).await;
        let (enforced, free) = (lab.namespace().await, lab.namespace().await);
        story::policy(lab, &enforced, |_| {}).await;
        let digest = registry.push("team/app", "good", "good").await;
        registry.push("team/app", "bad", "bad").await;
        let released = [registry.pinned("team/app", &digest), registry.tagged("team/app", "good")];
        story::run(lab, &enforced, "first", &released[0]).await.refused();
        story::release(lab, &digest, "a test").await;
        let quarantined = registry.tagged("team/app", "bad");
        let site = Self { world, _registry: registry, enforced, free, released, quarantined };
        site.works().await;
        site
    }

    /// Pods made all the while in the enforced namespace, from the released image.
    pub async fn enforced_traffic(&self) -> Traffic {
        Traffic::start(&self.world.lab, &self.enforced, &[&self.released[0], &self.released[1]]).await
    }

    /// Pods made all the while where no policy is.
    pub async fn free_traffic(&self) -> Traffic {
        Traffic::start(&self.world.lab, &self.free, &[&self.released[0]]).await
    }

    /// Quarantine is kept, and the released image admitted.
    pub async fn works(&self) {
        let dry = async |image: &str| {
            let run = ["run", "probe", "--image", image, "-n", &self.enforced, "--dry-run=server"];
            self.world.lab.kubectl(&run).await
        };
        eventually(2 * MOMENT, "the quarantined image is refused and the released one admitted", async || {
            let (bad, good) = (dry(&self.quarantined).await, dry(&self.released[0]).await);
            let refused = !bad.status.success() && bad.stderr.contains("in quarantine since");
            if refused && good.status.success() { Ok(()) } else { Err(format!("{bad}{good}")) }
        })
        .await;
    }
}

/// The webhook configuration; none when it is gone.
pub async fn configuration(lab: &Lab) -> Option<ValidatingWebhookConfiguration> {
    Api::<ValidatingWebhookConfiguration>::all(lab.client().await).get_opt("lazaretto").await.unwrap()
}

/// The entries that stand.
pub async fn entries(lab: &Lab) -> Vec<ValidatingWebhook> {
    configuration(lab).await.and_then(|object| object.webhooks).unwrap_or_default()
}

/// The one caBundle of all entries.
#[track_caller]
pub fn bundle(entries: &[ValidatingWebhook]) -> &[u8] {
    let mut bundles = entries.iter().map(|entry| &entry.client_config.ca_bundle.as_ref().expect("a caBundle").0);
    let first = bundles.next().expect("entries");
    assert!(bundles.all(|bundle| bundle == first) && first.starts_with(b"-----BEGIN CERTIFICATE-----"));
    first
}

/// Waits until entries stand of which `condition` is true, and returns them.
pub async fn until_entries(lab: &Lab, what: &str, condition: impl Fn(&[ValidatingWebhook]) -> bool) -> Vec<ValidatingWebhook> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(lab.client().await);
    let met = |object: Option<&ValidatingWebhookConfiguration>| {
        object.is_some_and(|object| condition(object.webhooks.as_deref().unwrap_or_default()))
    };
    until(api, "lazaretto", what, met).await.unwrap().webhooks.unwrap_or_default()
}

/// Applies a policy of the administrator's, whether anybody reads it or not.
pub async fn apply_policy(lab: &Lab, name: &str, spec: Value) -> Output {
    let object = json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": name }, "spec": spec });
    lab.kubectl_input(&["apply", "-f", "-"], &object.to_string()).await.ok()
}

#[tokio::test]
async fn an_installation_that_never_starts_blocks_nobody() {
    let lab = Lab::fresh().await;
    let (one, other) = (lab.namespace().await, lab.namespace().await);
    let traffic = [Traffic::start(&lab, &one, &[ANY]).await, Traffic::start(&lab, &other, &[ANY]).await];
    let begun = Instant::now();
    let unpullable = [("image.repository", "registry.invalid/nobody/lazaretto"), ("image.tag", "none")];
    let installation = Installation::new(&lab, &unpullable).await;
    // Policies that come after it, for every namespace there is.
    apply_policy(&lab, "everything", json!({ "mode": "Enforce" })).await;
    apply_policy(&lab, "one", json!({ "match": { "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": one } } } })).await;
    for traffic in &traffic {
        traffic.flows(10).await;
    }
    eventually(MOMENT, "its own pods are made and wait for their image", async || {
        let pods = lab.kubectl(&["get", "pods", "-n", NAMESPACE, "-o", "jsonpath={.items[*].spec.containers[0].image}"]).await.ok();
        if pods.stdout == "registry.invalid/nobody/lazaretto:none registry.invalid/nobody/lazaretto:none" { Ok(()) } else { Err(pods) }
    })
    .await;
    assert_eq!(configuration(&lab).await.unwrap().webhooks, None);

    // And policies that were there before it.
    installation.uninstall(&lab).await.ok();
    drop(installation);
    let policies = lab.kubectl(&["get", "quarantinepolicies", "-o", "name"]).await.ok();
    assert_eq!(policies.stdout, "quarantinepolicy.lazaretto.dev/everything\nquarantinepolicy.lazaretto.dev/one\n");
    let _installation = Installation::new(&lab, &unpullable).await;
    for traffic in &traffic {
        traffic.flows(10).await;
        let (made, longest) = traffic.unharmed(begun);
        eprintln!("healing: {made} pods beside an installation that never starts, the slowest in {longest:?}");
    }
    assert_eq!(configuration(&lab).await.unwrap().webhooks, None);
}

#[tokio::test]
async fn an_installation_that_only_audits_may_die() {
    let mut world = World::fresh(&[]).await;
    let lab = &world.lab;
    let (audited, warned) = (lab.namespace().await, lab.namespace().await);
    let selector = json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": audited } } });
    apply_policy(lab, &audited, json!({ "mode": "Audit", "match": selector })).await;
    story::policy(lab, &warned, |spec| spec["mode"] = "Warn".into()).await;
    let both = |entry: &ValidatingWebhook| {
        serde_json::to_string(&entry.namespace_selector).is_ok_and(|text| text.contains(&audited) && text.contains(&warned))
    };
    until_entries(lab, "both policies have their entry", |entries| entries.len() == 2 && entries.iter().any(both)).await;
    let failing: Vec<_> = entries(lab).await.into_iter().map(|entry| (entry.name, entry.failure_policy.unwrap())).collect();
    let named = |name: &str| (format!("{name}.lazaretto.dev"), "Ignore".to_owned());
    assert_eq!(failing, [named("observe"), named("templates")]);

    let traffic = [Traffic::start(lab, &audited, &[ANY]).await, Traffic::start(lab, &warned, &[ANY]).await];
    let begun = Instant::now();
    for traffic in &traffic {
        traffic.flows(5).await;
    }
    // Frozen, they cost the API server's patience at the worst; dead, nothing.
    for signal in ["STOP", "KILL"] {
        for replica in &world.replicas {
            replica.signal(signal).await;
        }
        let begun = Instant::now();
        for traffic in &traffic {
            traffic.flows(10).await;
            let (made, longest) = traffic.unharmed(begun);
            eprintln!("healing: {made} pods after {signal} to all replicas of an audit-only installation, the slowest in {longest:?}");
        }
    }
    for traffic in &traffic {
        traffic.unharmed(begun);
    }
    assert_eq!(entries(lab).await.len(), 2, "the entries stand, and block nobody");
    let called = lab.control_plane().audit().iter().any(|event| {
        event["objectRef"]["namespace"] == audited.as_str()
            && event["annotations"]
                .as_object()
                .is_some_and(|all| all.iter().any(|(key, value)| key.contains("failed-open") && value == "observe.lazaretto.dev"))
    });
    assert!(called, "the API server asked, and went on without an answer");
    world.replicas.clear();
}
