//! Before a policy enforces: what `lazaretto whatif` says of a file, and what the status of a policy that only observes says of what runs.

use std::path::{Path, PathBuf};

use kube::Api;
use kube::api::PostParams;
use lazaretto::api::{QuarantinePolicy, QuarantineProvider, Registry as RegistryObject, WouldRefuse};
use serde_json::{Value, json};

use crate::debts::{deploy, started};
use crate::lab::Lab;
use crate::lab::install::World;
use crate::lab::registry::{Options, Registry};
use crate::lab::wait::{MOMENT, eventually};
use crate::story::{image_status, policy, register, release};

/// Writes objects to a file of the laboratory.
fn file(lab: &Lab, name: &str, object: &Value) -> PathBuf {
    let path = lab.directory().join(name);
    std::fs::write(&path, object.to_string()).unwrap();
    path
}

fn strict(namespace: &str, mode: &str) -> Value {
    let matching = json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } } });
    json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": { "name": namespace },
        "spec": { "mode": mode, "match": matching },
    })
}

/// Workload, image and pods of each line that is about a namespace.
fn lines(report: &Value, list: &str, namespace: &str) -> Vec<(String, String, u64)> {
    let text = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
    let ours = report[list].as_array().unwrap().iter().filter(|line| line["namespace"] == namespace);
    ours.map(|line| (text(line, "workload"), text(line, "image"), line["pods"].as_u64().unwrap())).collect()
}

async fn whatif(lab: &Lab, kubeconfig: &Path, file: &Path, code: i32) -> Value {
    let output = lab.lazaretto(kubeconfig, &["whatif", "-f", file.to_str().unwrap(), "--output", "json"]).await;
    assert_eq!(output.status.code(), Some(code), "{output}");
    serde_json::from_str(&output.stdout).unwrap()
}

async fn until_would_refuse(lab: &Lab, policy: &str, wanted: impl Fn(Option<&WouldRefuse>) -> bool) -> Option<WouldRefuse> {
    let api: Api<QuarantinePolicy> = Api::all(lab.client().await);
    eventually(3 * MOMENT, "the status says what would be refused", async || {
        let found = api.get(policy).await?.status.unwrap_or_default().would_refuse;
        anyhow::ensure!(wanted(found.as_ref()), "{found:?}");
        Ok(found)
    })
    .await
}

#[tokio::test]
async fn what_a_policy_would_refuse_is_known_before_it_is_applied_and_before_it_enforces() {
    let world = World::shared().await;
    let lab = &world.lab;
    let registry = Registry::start(lab, Options::default()).await;
    let registered = register(lab, &registry, "Managed", |_| {}).await;
    let (namespace, scout) = (lab.namespace().await, lab.namespace().await);

    // Both images are known: somebody wanted them elsewhere. One is released.
    policy(lab, &scout, |_| {}).await;
    let (bad, good) = (registry.push("team/app", "1", "whatif-bad").await, registry.push("team/app", "2", "whatif-good").await);
    for (name, digest) in [("bad", &bad), ("good", &good)] {
        crate::story::run(lab, &scout, name, &registry.pinned("team/app", digest)).await.refused();
        eventually(MOMENT, "it is known", async || image_status(lab, digest).await.ok_or("not yet")).await;
    }
    release(lab, &good, "clean").await;
    let unknown = registry.push("team/app", "3", "whatif-unknown").await;
    let pinned = |digest: &str| registry.pinned("team/app", digest);
    let tagged = registry.tagged("team/app", "1");
    for (name, image, replicas, running) in
        [("web", &tagged, 2, pinned(&bad)), ("api", &pinned(&good), 1, pinned(&good)), ("new", &pinned(&unknown), 1, pinned(&unknown))]
    {
        deploy(lab, &namespace, name, image, replicas).await;
        started(lab, &namespace, name, usize::try_from(replicas).unwrap(), &running).await;
    }
    deploy(lab, &namespace, "idle", &pinned(&bad), 0).await;
    let night = json!({
        "metadata": { "name": "night" },
        "spec": { "schedule": "0 0 1 1 *", "jobTemplate": { "spec": { "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "c", "image": pinned(&bad) }],
        } } } } },
    });
    let jobs: Api<k8s_openapi::api::batch::v1::CronJob> = Api::namespaced(lab.client().await, &namespace);
    jobs.create(&PostParams::default(), &serde_json::from_value(night).unwrap()).await.unwrap();
    crate::story::run(lab, &namespace, "alone", &pinned(&bad)).await.ok();

    // By the rights that the documentation names, and no others.
    let person = lab.kubeconfig_as("carol", &["authors"]);
    let audit = file(lab, &format!("{namespace}-audit.json"), &strict(&namespace, "Audit"));
    let refused = lab.lazaretto(&person, &["whatif", "-f", audit.to_str().unwrap()]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused}");
    assert!(refused.stderr.contains("cannot list"), "{refused}");
    grant(lab, "carol").await;
    let report = whatif(lab, &person, &audit, 1).await;
    let expected: Vec<_> = [("CronJob/night", 0), ("Deployment/idle", 0), ("Deployment/web", 2), ("Pod/alone", 1)]
        .map(|(workload, pods)| (workload.to_owned(), if workload == "Deployment/web" { tagged.clone() } else { pinned(&bad) }, pods))
        .to_vec();
    assert_eq!(lines(&report, "refused", &namespace), expected, "{report}");
    assert_eq!(lines(&report, "notKnown", &namespace), [("Deployment/new".to_owned(), pinned(&unknown), 1)]);
    assert_eq!(report["refused"].as_array().unwrap().len(), expected.len(), "what the policy does not speak of does not change");
    let table = lab.lazaretto(&person, &["whatif", "-f", audit.to_str().unwrap()]).await;
    assert!(table.stdout.lines().any(|line| line.contains("Deployment/web") && line.contains("in quarantine since ")), "{table}");
    assert!(table.stderr.contains("3 running pods and 3 templates would be refused that are not now"), "{table}");

    // What runs is then in the status of the policy that audits.
    lab.kubectl(&["apply", "--server-side", "--field-manager=test", "-f", audit.to_str().unwrap()]).await.ok();
    let seen = until_would_refuse(lab, &namespace, |seen| seen.is_some_and(|seen| seen.pods == 3 && seen.not_known == 1)).await.unwrap();
    let running: Vec<_> = expected.into_iter().filter(|(_, _, pods)| *pods > 0).collect();
    let mut items: Vec<_> = seen.items.iter().map(|item| (item.owner.clone(), item.image.clone(), u64::from(item.pods))).collect();
    items.sort();
    assert_eq!((items, seen.owners), (running, 2));
    assert!(seen.items.iter().all(|item| item.namespace == namespace && item.reason.starts_with("in quarantine since ")), "{seen:?}");
    let columns = lab.kubectl(&["get", "quarantinepolicy", &namespace]).await.ok();
    assert!(columns.stdout.contains("WOULD REFUSE"), "{columns}");
    let explained = lab.kubectl(&["explain", "quarantinepolicy.status.wouldRefuse"]).await.ok();
    assert!(explained.stdout.contains("notKnown"), "{explained}");

    // It follows what becomes known, and nothing is written when nothing does.
    release(lab, &bad, "clean after all").await;
    until_would_refuse(lab, &namespace, |seen| seen.is_some_and(|seen| seen.pods == 0 && seen.items.is_empty())).await;
    assert_eq!(lines(&whatif(lab, &person, &audit, 3).await, "refused", &namespace), []);

    // Once it enforces there is nothing to be told beforehand, and a Registry that nobody keeps any more is tried by it.
    policy(lab, &namespace, |_| {}).await;
    until_would_refuse(lab, &namespace, |seen| seen.is_none()).await;
    let unkept = json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": registered },
        "spec": { "hosts": [registry.host()], "plainHTTP": true },
    });
    let report = whatif(lab, &person, &file(lab, &format!("{namespace}-registry.json"), &unkept), 1).await;
    assert!(lines(&report, "refused", &namespace).contains(&("Deployment/api".to_owned(), pinned(&good), 1)), "{report}");
    let reason = &report["refused"][0]["policies"][0]["reason"];
    assert_eq!(reason, "nobody keeps a quarantine flag for it");
    let registries: Api<RegistryObject> = Api::all(lab.client().await);
    let provider = registries.get(&registered).await.unwrap().spec.quarantine.provider;
    assert_eq!(provider, QuarantineProvider::Managed, "nothing was applied");
}

/// What docs/whatif.md asks for.
async fn grant(lab: &Lab, user: &str) {
    let role = format!("whatif-{user}");
    let resources = "--resource=pods,namespaces,replicationcontrollers,deployments.apps,replicasets.apps,statefulsets.apps,daemonsets.apps,\
                     jobs.batch,cronjobs.batch";
    lab.kubectl(&["create", "clusterrole", &role, "--verb=list", resources]).await.ok();
    let webhooks = format!("{role}-webhooks");
    let named = "--resource-name=lazaretto";
    let resource = "--resource=validatingwebhookconfigurations.admissionregistration.k8s.io";
    lab.kubectl(&["create", "clusterrole", &webhooks, "--verb=get", resource, named]).await.ok();
    for role in [role.as_str(), webhooks.as_str(), "lazaretto-viewer"] {
        let name = format!("{role}-{user}");
        lab.kubectl(&["create", "clusterrolebinding", &name, "--clusterrole", role, "--user", user]).await.ok();
    }
    eventually(MOMENT, "the rights are in force", async || {
        let output = lab.kubectl(&["auth", "can-i", "list", "quarantinepolicies", "--as", user]).await;
        if output.status.success() { Ok(()) } else { Err(output.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named_and_nothing_is_judged() {
    let world = World::shared().await;
    let lab = &world.lab;
    let kubeconfig = lab.kubeconfig_as("jane", &["system:masters"]);
    let mut misspelt = strict("nowhere", "Audit");
    misspelt["spec"]["requires"] = json!({ "released": "Deny" });
    let path = file(lab, "misspelt.json", &misspelt);
    let output = lab.lazaretto(&kubeconfig, &["whatif", "-f", path.to_str().unwrap(), "--output", "json"]).await;
    assert_eq!((output.status.code(), output.stdout.as_str()), (Some(2), ""), "{output}");
    assert!(output.stderr.contains("QuarantinePolicy nowhere: spec.requires is no field of it"), "{output}");
}
