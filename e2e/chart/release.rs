//! What install, upgrade, rollback and uninstall do to the webhooks that the running program keeps.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{chart, install, refusal, untyped};
use crate::lab::Lab;
use crate::lab::install::{NAMESPACE, RELEASE};
use crate::lab::process::Output;
use crate::lab::wait::{MOMENT, eventually, until};

const BUNDLE: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="; // what it says is not checked before a call

/// Applies webhooks as the running program does: its ServiceAccount, its field manager, its namespace as the owner.
async fn apply_webhooks(lab: &Lab) -> kube::Result<ValidatingWebhookConfiguration> {
    let namespace = Api::<Namespace>::all(lab.client().await).get(NAMESPACE).await.unwrap();
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {
            "name": "lazaretto",
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Namespace", "name": NAMESPACE, "uid": namespace.uid().unwrap() }],
        },
        "webhooks": [{
            "name": "pods.lazaretto.dev",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "NoneOnDryRun",
            "failurePolicy": "Fail",
            "clientConfig": {
                "caBundle": BUNDLE,
                "service": { "name": "lazaretto-webhook", "namespace": NAMESPACE, "path": "/validate" },
            },
            "namespaceSelector": { "matchLabels": { "enforced": "yes" } },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
        }],
    });
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(lab.client_of(NAMESPACE, "lazaretto").await);
    configurations.patch("lazaretto", &PatchParams::apply("lazaretto"), &Patch::Apply(configuration)).await
}

async fn configuration(lab: &Lab) -> ValidatingWebhookConfiguration {
    Api::<ValidatingWebhookConfiguration>::all(lab.client().await).get("lazaretto").await.unwrap()
}

/// The webhooks with all that the API server adds, and the owner: what must not change.
fn kept(configuration: &ValidatingWebhookConfiguration) -> Value {
    json!([configuration.webhooks, configuration.metadata.owner_references])
}

async fn helm(lab: &Lab, arguments: &[&str]) -> Output {
    let all: Vec<_> = arguments.iter().copied().chain(["--namespace", NAMESPACE]).collect();
    lab.helm(&all).await.ok()
}

#[tokio::test]
async fn upgrades_and_rollbacks_leave_the_webhooks_alone() {
    let lab = Lab::fresh().await;
    install(&lab, &[]).await.ok();
    let installed = configuration(&lab).await;
    assert_eq!(installed.webhooks, None, "an installation that never becomes Ready has none");
    // The next version of the chart: it changes the labels of this object too.
    let folder = lab.directory().to_str().unwrap();
    helm(&lab, &["package", &chart(), "--version", "9.9.9", "--app-version", "9.9.9", "--destination", folder]).await;
    let next = format!("{folder}/lazaretto-9.9.9.tgz");
    let (this, replicas) = (chart(), "replicas=3");

    let before = kept(&apply_webhooks(&lab).await.unwrap());
    for (step, arguments) in [
        ("upgrade", vec!["upgrade", RELEASE, &next, "--set", replicas]),
        ("upgrade back", vec!["upgrade", RELEASE, &this, "--set", "hostNetwork=true"]),
        ("upgrade --force-conflicts", vec!["upgrade", RELEASE, &next, "--force-conflicts"]),
        ("upgrade by merge", vec!["upgrade", RELEASE, &this, "--server-side=false"]),
        ("upgrade by merge again", vec!["upgrade", RELEASE, &next, "--server-side=false", "--set", replicas]),
        ("upgrade --take-ownership", vec!["upgrade", RELEASE, &this, "--take-ownership"]),
        ("rollback", vec!["rollback", RELEASE, "1"]),
        ("rollback by merge", vec!["rollback", RELEASE, "2", "--server-side=false"]),
        ("rollback on the server", vec!["rollback", RELEASE, "1", "--server-side=true"]),
    ] {
        helm(&lab, &arguments).await;
        let now = configuration(&lab).await;
        assert_eq!(kept(&now), before, "{step}");
        let version = if arguments.contains(&next.as_str()) || arguments.contains(&"2") { "lazaretto-9.9.9" } else { "lazaretto-0.1.0" };
        assert_eq!(now.labels()["helm.sh/chart"], version, "{step} changed the object itself");
    }

    // Documented as what does not: helm replaces the whole object. The program puts its webhooks back.
    helm(&lab, &["upgrade", RELEASE, &this, "--server-side=false", "--force-replace"]).await;
    assert_eq!(configuration(&lab).await.webhooks, None);
    assert_eq!(kept(&apply_webhooks(&lab).await.unwrap()), before);
}

#[tokio::test]
async fn an_uninstall_removes_the_webhooks_first_and_keeps_what_was_decided() {
    let lab = Lab::fresh().await;
    install(&lab, &[]).await.ok();
    let client = lab.client().await;
    let image = json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "ImageStatus", "metadata": { "name": "kept" },
        "spec": { "subject": "r/x@sha256:1", "quarantine": { "state": "Failed", "by": "admin", "reason": "a test" } },
    });
    let image: DynamicObject = serde_json::from_value(image).unwrap();
    untyped(client.clone(), "ImageStatus").create(&kube::api::PostParams::default(), &image).await.unwrap();
    apply_webhooks(&lab).await.unwrap();
    // Nobody answers: with our pods gone, enforced namespaces start none.
    let enforced = lab.namespace_with(json!({ "enforced": "yes" })).await;
    let pod = ["run", "p", "--image=localhost:1/none", "-n", &enforced];
    let refused = lab.kubectl(&[&pod[..], &["--dry-run=server"]].concat()).await.refused();
    assert!(refused.stderr.contains("failed calling webhook \"pods.lazaretto.dev\""), "{refused}");

    helm(&lab, &["uninstall", RELEASE]).await;
    lab.kubectl(&pod).await.ok();
    let deleted: Vec<_> = eventually(MOMENT, "the audit log has every deletion", async || {
        let deletions = lab.control_plane().audit().into_iter().filter(|event| {
            event["verb"] == "delete" && event["user"]["username"] == "admin" && event["objectRef"]["resource"] != "secrets"
        });
        let resources: Vec<_> = deletions.map(|event| event["objectRef"]["resource"].as_str().unwrap().to_owned()).collect();
        if resources.iter().any(|resource| resource == "validatingadmissionpolicybindings") {
            Ok(resources)
        } else {
            Err(format!("{resources:?}"))
        }
    })
    .await;
    assert_eq!(deleted[0], "validatingwebhookconfigurations", "{deleted:?}");
    let all =
        "validatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,clusterrolebindings";
    let left = lab.kubectl(&["get", all, "-l", "app.kubernetes.io/name=lazaretto", "-o", "name"]).await.ok();
    assert_eq!(left.stdout, "");
    let left = lab
        .kubectl(&[
            "get",
            "deployments,services,secrets,roles,rolebindings,pdb,resourcequotas,serviceaccounts",
            "-n",
            NAMESPACE,
            "-o",
            "name",
        ])
        .await
        .ok();
    assert_eq!(left.stdout.trim(), "serviceaccount/default");

    // Definitions and decisions stay, and a new installation takes them over.
    untyped(client.clone(), "ImageStatus").get("kept").await.unwrap();
    install(&lab, &[]).await.ok();
    let kept = untyped(client, "ImageStatus").get("kept").await.unwrap();
    assert_eq!(kept.data["spec"]["quarantine"]["state"], "Failed");
}

#[tokio::test]
async fn what_was_removed_stays_removed() {
    let lab = Lab::fresh().await;
    install(&lab, &[]).await.ok();
    apply_webhooks(&lab).await.unwrap();
    lab.kubectl(&["delete", "validatingwebhookconfiguration", "lazaretto"]).await.ok();
    let (code, message) = refusal(apply_webhooks(&lab).await);
    assert_eq!(code, 403);
    assert!(message.contains("cannot create resource \"validatingwebhookconfigurations\""), "{message}");
}

/// The other way to get rid of an installation, which would leave webhooks that nobody answers.
#[tokio::test]
async fn the_webhooks_go_with_their_namespace() {
    let lab = Lab::fresh().await;
    install(&lab, &[]).await.ok();
    apply_webhooks(&lab).await.unwrap();
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]).await.ok();
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(lab.client().await);
    let gone = |configuration: Option<&ValidatingWebhookConfiguration>| configuration.is_none();
    until(configurations, "lazaretto", "it is collected", gone).await;
}
