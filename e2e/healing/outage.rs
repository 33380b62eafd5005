//! All replicas gone, and the API server gone.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{EvictParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use super::{ANY, Site, apply_policy, entries, until_entries};
use crate::lab::Lab;
use crate::lab::install::NAMESPACE;
use crate::lab::process::{Process, Program};
use crate::lab::replica::{Replica, kill};
use crate::lab::wait::{MOMENT, eventually};
use crate::story::run;
use crate::transitions::{holder, leader};

const NOBODY_ANSWERS: &str = "failed calling webhook \"enforce.lazaretto.dev\"";

#[tokio::test]
async fn without_replicas_only_new_pods_of_enforced_namespaces_wait() {
    let mut site = Site::new(&[]).await;
    let image = site.released[0].clone();
    for pod in ["labelled", "deleted", "evicted", "bound", "opened"] {
        run(&site.world.lab, &site.enforced, pod, &image).await.ok();
    }
    let node = json!({ "metadata": { "name": "n1" } });
    let nodes: Api<Node> = Api::all(site.world.lab.client().await);
    let node = nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let free = site.free_traffic().await;
    let begun = Instant::now();
    kill(&mut site.world.replicas).await;
    let lab = &site.world.lab;
    let enforced = site.enforced.as_str();
    let client = lab.client().await;

    let refused = run(lab, enforced, "new", &image).await.refused();
    assert!(refused.stderr.contains(NOBODY_ANSWERS), "{refused}");
    let debug = ["debug", "opened", "--image", &image, "-n", enforced, "--profile=general", "--attach=false"];
    let refused = lab.kubectl(&debug).await.refused();
    assert!(refused.stderr.contains(NOBODY_ANSWERS), "an ephemeral container: {refused}");
    let swap = ["set", "image", "pod/opened", &format!("opened={ANY}"), "-n", enforced];
    let refused = lab.kubectl(&swap).await.refused();
    assert!(refused.stderr.contains(NOBODY_ANSWERS), "another image: {refused}");

    // What a cluster does with the pods that it has.
    lab.kubectl(&["label", "pod", "labelled", "a=b", "-n", enforced]).await.ok();
    let running = r#"{"status":{"phase":"Running"}}"#;
    lab.kubectl(&["patch", "pod", "labelled", "--subresource=status", "--type=merge", "-p", running, "-n", enforced]).await.ok();
    lab.kubectl(&["delete", "pod", "deleted", "-n", enforced, "--timeout=30s"]).await.ok();
    let pods: Api<Pod> = Api::namespaced(client.clone(), enforced);
    pods.evict("evicted", &EvictParams::default()).await.unwrap();
    let binding =
        json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "bound" }, "target": { "kind": "Node", "name": "n1" } });
    let path = format!("/api/v1/namespaces/{enforced}/pods/bound/binding");
    lab.kubectl_input(&["create", "--raw", &path, "-f", "-"], &binding.to_string()).await.ok();

    // A node's own static pod, of which it shows a mirror.
    let mirror = json!({
        "metadata": {
            "name": "static-n1", "annotations": { "kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "file" },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node.metadata.uid, "controller": true }],
        },
        "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": ANY }], "tolerations": [{ "operator": "Exists" }] },
    });
    let kubelet = lab.client_as("system:node:n1", &["system:nodes"]).await;
    let mirrors: Api<Pod> = Api::namespaced(kubelet, enforced);
    mirrors.create(&PostParams::default(), &serde_json::from_value(mirror).unwrap()).await.unwrap();

    // Namespaces that the cluster and we need to come back, and those that no policy speaks of.
    for namespace in ["kube-system", NAMESPACE, &site.free] {
        run(lab, namespace, "new", ANY).await.ok();
    }
    let own = ["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=lazaretto", "-o", "name"];
    let before = lab.kubectl(&own).await.ok().stdout;
    let first = before.lines().next().unwrap().to_owned();
    lab.kubectl(&["delete", &first, "-n", NAMESPACE, "--timeout=30s"]).await.ok();
    eventually(MOMENT, "our Deployment replaces its pod", async || {
        let now = lab.kubectl(&own).await.ok().stdout;
        if now.lines().count() == 2 && !now.contains(&first) { Ok(()) } else { Err(now) }
    })
    .await;

    // A Deployment is accepted, and waits.
    lab.kubectl(&["create", "deployment", "waiting", "--image", &image, "-n", enforced]).await.ok();
    eventually(MOMENT, "its ReplicaSet is refused", async || {
        let events = lab.kubectl(&["get", "events", "-n", enforced, "-o", "jsonpath={.items[*].message}"]).await.ok().stdout;
        if events.contains(NOBODY_ANSWERS) { Ok(()) } else { Err(events) }
    })
    .await;

    // With replicas it comes, and nobody did anything.
    let back = Instant::now();
    site.world.replicas = site.world.installation.replicas(lab, 2).await;
    let ready = back.elapsed();
    eventually(3 * MOMENT, "the Deployment has its pod", async || {
        let pods = lab.kubectl(&["get", "pods", "-n", enforced, "-l", "app=waiting", "-o", "name"]).await.ok().stdout;
        if pods.starts_with("pod/waiting-") { Ok(()) } else { Err(pods) }
    })
    .await;
    eprintln!("healing: ready {ready:?} after the start of two replicas, the waiting Deployment's pod after {:?}", back.elapsed());
    site.works().await;

    // The same where every namespace is enforced.
    apply_policy(lab, "everything", json!({ "require": { "unmanaged": "Allow" } })).await;
    let enforces_all = |entries: &[k8s_openapi::api::admissionregistration::v1::ValidatingWebhook]| {
        entries
            .iter()
            .filter(|entry| entry.failure_policy.as_deref() == Some("Fail"))
            .any(|entry| serde_json::to_string(&entry.namespace_selector).is_ok_and(|selector| !selector.contains(enforced)))
    };
    until_entries(lab, "every namespace is enforced", enforces_all).await;
    let (made, longest) = free.unharmed(begun);
    eprintln!("healing: {made} pods in a free namespace meanwhile, the slowest in {longest:?}");
    kill(&mut site.world.replicas).await;
    let message = free.fails().await;
    assert!(message.contains(NOBODY_ANSWERS), "{message}");
    for namespace in ["kube-system", "kube-public", "kube-node-lease", NAMESPACE] {
        run(lab, namespace, "newer", ANY).await.ok();
    }
    site.world.replicas = site.world.installation.replicas(lab, 2).await;
    free.flows_again(5).await;
    site.works().await;
}

/// Starts a program again as it was started.
async fn again(lab: &Lab, name: &str, dead: &Process, command: Vec<String>) -> Process {
    dead.exited(MOMENT).await;
    let mut words = command.into_iter();
    let path = words.next().unwrap();
    Program::new(name, path, lab.directory()).args(words).spawn().await
}

fn command_of(process: &Process) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8(word.to_vec()).unwrap()).collect()
}

async fn until_ready(replicas: &[Replica], ready: bool, within: Duration) -> Duration {
    let begun = Instant::now();
    for replica in replicas {
        eventually(within, &format!("{} turns ready: {ready}", replica.pod()), async || match (replica.get("/readyz").await, ready) {
            (Ok(_), true) | (Err(_), false) => Ok(()),
            (other, _) => Err(format!("{other:?}")),
        })
        .await;
        replica.get("/livez").await.expect("alive all the while: a restart would mend nothing");
    }
    begun.elapsed()
}

#[tokio::test]
async fn replicas_outlive_the_api_server_and_come_back_by_themselves() {
    let site = Site::new(&[]).await;
    let lab = &site.world.lab;
    let replicas = &site.world.replicas;
    let client = lab.client().await;
    let traffic = site.enforced_traffic().await;
    traffic.flows(5).await;
    let (standing, (before, terms)) = (entries(lab).await, holder(&client).await);

    // etcd stands still: the API server answers errors, and its watches are silent.
    let [etcd, apiserver, _] = lab.control_plane().processes() else { panic!("three processes") };
    etcd.signal("STOP").await;
    let begun = Instant::now();
    let lost = &replicas[leader_of(replicas, &before)];
    lost.wait_for_log("no longer leading").await;
    eprintln!("healing: etcd frozen, the leader stopped after {:?}", begun.elapsed());
    etcd.signal("CONT").await;
    let begun = Instant::now();
    traffic.flows_again(5).await;
    until_ready(replicas, true, MOMENT).await;
    leader(&client, replicas).await;
    eprintln!("healing: etcd thawed, pods and a leader again after {:?}", begun.elapsed());

    // The API server is killed, and another starts with the same etcd.
    let command = command_of(apiserver);
    apiserver.signal("KILL").await;
    let unready = until_ready(replicas, false, 3 * MOMENT).await;
    let restarted = Instant::now();
    let _apiserver = again(lab, "kube-apiserver", apiserver, command).await;
    let ready = until_ready(replicas, true, 4 * MOMENT).await;
    eprintln!("healing: API server gone, replicas unready after {unready:?}; with another one ready after {ready:?}");
    traffic.flows_again(10).await;
    traffic.flows(10).await;
    site.works().await;
    eventually(2 * MOMENT, "one leads again", async || match holder(&client).await {
        (pod, now) if now > terms && replicas.iter().any(|replica| replica.pod() == pod) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    eprintln!("healing: all works {:?} after the start of the API server", restarted.elapsed());
    assert_eq!(entries(lab).await, standing);
}

fn leader_of(replicas: &[Replica], pod: &str) -> usize {
    replicas.iter().position(|replica| replica.pod() == pod).expect("the leader is one of the replicas")
}
