//! The chart: what it renders, what it refuses to render, and what an API server makes of it.

mod guard;
mod release;
mod resources;
mod roles;

use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use futures::FutureExt;
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::lab::install::{NAMESPACE, RELEASE};
use crate::lab::process::Output;
use crate::lab::wait::{MOMENT, eventually};
use crate::lab::{Lab, ROOT};

fn chart() -> String {
    format!("{ROOT}/charts/lazaretto")
}

/// The values files, by name.
fn values_files() -> Vec<String> {
    let files = std::fs::read_dir(Path::new(&chart()).join("ci")).unwrap().flatten();
    let mut names: Vec<_> = files.filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".yaml")?.to_owned())).collect();
    names.sort();
    assert!(names.len() > 3, "{names:?}");
    names
}

async fn template(lab: &Lab, arguments: &[&str]) -> Output {
    let chart = chart();
    let mut all = vec!["template", RELEASE, &chart, "--namespace", NAMESPACE, "--kube-version", "1.35.0"];
    all.extend(arguments);
    lab.helm(&all).await
}

async fn install(lab: &Lab, arguments: &[&str]) -> Output {
    let chart = chart();
    let mut all = vec!["install", RELEASE, &chart, "--namespace", NAMESPACE, "--create-namespace"];
    all.extend(arguments);
    lab.helm(&all).await
}

/// A laboratory with the chart in it and its guard in force; shared, as no test here changes the installation.
async fn installed() -> &'static Lab {
    static LAB: OnceCell<Option<Lab>> = OnceCell::const_new();
    let lab = LAB.get_or_init(async || {
        let start = async {
            let lab = Lab::fresh().await;
            install(&lab, &[]).await.ok();
            guard::in_force(&lab).await;
            lab
        };
        AssertUnwindSafe(start).catch_unwind().await.ok()
    });
    lab.await.as_ref().expect("the chart was not installed; the first test that asked for it says why")
}

/// An interface to one kind of the API group, without its Rust type: what people write is not always what the type allows.
fn untyped(client: Client, kind: &str) -> Api<DynamicObject> {
    let plural = match kind {
        "ImageStatus" => "imagestatuses",
        "QuarantinePolicy" => "quarantinepolicies",
        "Registry" => "registries",
        "Waiver" => "waivers",
        other => panic!("{other}"),
    };
    let resource = ApiResource {
        group: lazaretto::api::GROUP.into(),
        version: lazaretto::api::VERSION.into(),
        api_version: format!("{}/{}", lazaretto::api::GROUP, lazaretto::api::VERSION),
        kind: kind.into(),
        plural: plural.into(),
    };
    Api::all_with(client, &resource)
}

/// The answer that refuses a request, as its code and its message.
#[track_caller]
fn refusal<T: Debug>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.message),
        other => panic!("should have been refused by the API server: {other:?}"),
    }
}

#[tokio::test]
async fn what_it_renders_is_what_is_committed() {
    let lab = Lab::start().await;
    for name in values_files() {
        let rendered = template(lab, &["--values", &format!("{}/ci/{name}.yaml", chart())]).await.ok().stdout;
        let file = format!("{}/ci/rendered/{name}.yaml", chart());
        if updating() {
            std::fs::write(&file, &rendered).unwrap();
        }
        let committed = std::fs::read_to_string(&file).unwrap();
        let differs = rendered.lines().zip(committed.lines()).position(|(new, old)| new != old);
        assert!(
            rendered == committed,
            "{file} is not what the chart renders, from line {differs:?} on: look at it, then run this test with UPDATE_CHART=1"
        );
        assert!(!rendered.contains("helm.sh/hook"), "{name}: a hook");
    }
}

#[tokio::test]
async fn it_passes_the_linter() {
    let lab = Lab::start().await;
    for name in values_files() {
        lab.helm(&["lint", "--strict", &chart(), "--values", &format!("{}/ci/{name}.yaml", chart())]).await.ok();
    }
}

/// Of kinds that the Prometheus operator brings, only that they exist is given here.
const MONITORING: &str = r"
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: servicemonitors.monitoring.coreos.com},
 spec: {group: monitoring.coreos.com, scope: Namespaced, names: {kind: ServiceMonitor, plural: servicemonitors},
  versions: [{name: v1, served: true, storage: true,
   schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: prometheusrules.monitoring.coreos.com},
 spec: {group: monitoring.coreos.com, scope: Namespaced, names: {kind: PrometheusRule, plural: prometheusrules},
  versions: [{name: v1, served: true, storage: true,
   schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}
";

#[tokio::test]
async fn the_api_server_takes_everything_it_renders() {
    let lab = Lab::start().await;
    lab.kubectl_input(&["apply", "-f", "-"], MONITORING).await.ok();
    lab.kubectl(&["wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com"]).await.ok();
    lab.kubectl(&["wait", "--for=condition=Established", "crd/prometheusrules.monitoring.coreos.com"]).await.ok();
    let namespace = lab.namespace().await;
    for name in values_files() {
        let rendered = std::fs::read_to_string(format!("{}/ci/rendered/{name}.yaml", chart())).unwrap();
        let rendered = rendered.replace(NAMESPACE, &namespace);
        let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = lab.kubectl_input(&apply, &rendered).await.ok();
        assert!(!output.stderr.contains("Warning"), "{name}: {output}");
        assert!(output.stdout.contains("deployment.apps/lazaretto created (server dry run)"), "{name}: {output}");
    }
}

/// Whoever may not use the API server's newest version gets a reason, not half an installation.
#[tokio::test]
async fn it_refuses_an_older_cluster() {
    let lab = Lab::start().await;
    let chart = chart();
    let old = lab.helm(&["template", RELEASE, &chart, "--kube-version", "1.29.9"]).await.refused();
    assert!(old.stderr.contains("chart requires kubeVersion: >=1.30.0-0"), "{old}");
    lab.helm(&["template", RELEASE, &chart, "--kube-version", "v1.30.0-gke.100"]).await.ok();
}

#[tokio::test]
async fn it_refuses_combinations_that_cannot_work() {
    let lab = Lab::start().await;
    for (values, message) in [
        (
            &["excludedNamespaces={kube-public}"][..],
            "excludedNamespaces must hold kube-system: without its pods no node works, and Lazaretto cannot come up to let them in",
        ),
        (&["webhook.port=9000", "admin.port=9000"], "webhook.port and admin.port are both 9000: choose two ports"),
        (
            &["hostNetwork=true", "networkPolicy.enabled=true"],
            "networkPolicy.enabled has no effect on pods with hostNetwork: switch one of them off",
        ),
        (
            &["hostNetwork=true", "serviceMonitor.enabled=true"],
            "serviceMonitor.enabled needs an admin port that Prometheus can reach: set admin.bindAddress",
        ),
        (&["prometheusRule.enabled=true"], "prometheusRule.enabled needs serviceMonitor.enabled"),
        (
            &["imageStatuses.max=1000"],
            "imageStatuses.maxPerNamespace is above imageStatuses.max: one namespace could fill the cluster's share",
        ),
        // And by the schema:
        (&["replica=3"], "additional properties 'replica' not allowed"),
        (&["webhook.ports=3"], "additional properties 'ports' not allowed"),
        (&["webhook.port=443"], "minimum: got 443, want 1,025"),
        (&["image.digest=sha256:abc"], "at '/image/digest': 'sha256:abc' does not match pattern"),
        (&["logLevel=loud"], "at '/logLevel': value must be one of 'error', 'warn', 'info', 'debug', 'trace'"),
    ] {
        let arguments: Vec<_> = values.iter().flat_map(|value| ["--set", value]).collect();
        let output = template(lab, &arguments).await.refused();
        assert!(output.stderr.contains(message), "{values:?}: {output}");
    }
    // What the refused combinations would need.
    let reachable = ["hostNetwork=true", "serviceMonitor.enabled=true", "admin.bindAddress=0.0.0.0", "prometheusRule.enabled=true"];
    let arguments: Vec<_> = reachable.iter().flat_map(|value| ["--set", value]).collect();
    template(lab, &arguments).await.ok();
}

fn updating() -> bool {
    std::env::var_os("UPDATE_CHART").is_some()
}

/// The objects of `helm template`, one value each.
fn objects(rendered: &str) -> Vec<Value> {
    let documents = rendered.split("\n---\n").map(|document| document.trim_start_matches("---\n"));
    documents.map(|document| serde_saphyr::from_str::<Value>(document).unwrap()).filter(|object| object["kind"].is_string()).collect()
}

#[tokio::test]
async fn its_pods_meet_the_restricted_standard() {
    let lab = Lab::fresh().await;
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    lab.kubectl(&["create", "namespace", NAMESPACE]).await.ok();
    lab.kubectl(&["label", "namespace", NAMESPACE, enforce]).await.ok();
    install(&lab, &[]).await.ok();
    eventually(MOMENT, "the Deployment has its two pods", async || {
        let pods = lab.kubectl(&["get", "pods", "-n", NAMESPACE, "-o", "jsonpath={.items[*].spec.priorityClassName}"]).await.ok();
        if pods.stdout == "system-cluster-critical system-cluster-critical" { Ok(()) } else { Err(pods) }
    })
    .await;
}

#[test]
fn its_rendered_output_can_be_read() {
    let rendered = std::fs::read_to_string(format!("{}/ci/rendered/everything.yaml", chart())).unwrap();
    let objects = objects(&rendered);
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let spec = &deployment["spec"]["template"]["spec"];
    let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert_eq!(grace, 15 + 15 + 10, "drain, longest review, what is left to write");
    let configuration = objects.iter().find(|object| object["kind"] == "ValidatingWebhookConfiguration").unwrap();
    assert!(configuration.get("webhooks").is_none(), "the running program owns the list");
}

/// An alert on a metric that does not exist never fires.
#[test]
fn its_alerts_speak_of_metrics_that_exist() {
    let rendered = std::fs::read_to_string(format!("{}/ci/rendered/everything.yaml", chart())).unwrap();
    let (_metrics, registry) = lazaretto::metrics::Metrics::new();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let rule = objects(&rendered).into_iter().find(|object| object["kind"] == "PrometheusRule").unwrap();
    let rules = rule["spec"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(rules.len() > 5, "{rules:?}");
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        let metrics = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("lazaretto_"));
        for metric in metrics {
            assert!(families.contains(&metric.trim_end_matches("_total")), "{}: {metric} is none of {families:?}", rule["alert"]);
        }
    }
}
