//! helm's install, upgrade and uninstall with pods being made all the while.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Api, ResourceExt as _};
use tokio::time::Instant;

use super::{Site, bundle, configuration, entries, traffic::Traffic, until_entries};
use crate::lab::install::{Installation, NAMESPACE, RELEASE, World};
use crate::lab::replica::Replica;
use crate::lab::wait::{MOMENT, eventually, until};
use crate::lab::{Lab, ROOT};
use crate::story::run;

async fn helm(lab: &Lab, arguments: &[&str]) {
    let chart = format!("{ROOT}/charts/lazaretto");
    let all = [&["upgrade", RELEASE, &chart, "--namespace", NAMESPACE, "--reuse-values"], arguments].concat();
    lab.helm(&all).await.ok();
}

/// What a Deployment does after a change: a new replica is ready before an old one goes. Returns how long each took to leave.
async fn roll(world: &mut World) -> Vec<Duration> {
    let mut took = Vec::new();
    for count in [3, 3] {
        let new = world.installation.replica(&world.lab).await;
        new.wait_ready().await;
        world.installation.wait_for_ready(count).await;
        world.replicas.push(new);
        let old = world.replicas.remove(0);
        let begun = Instant::now();
        old.signal("TERM").await;
        let status = old.exited(MOMENT).await;
        assert!(status.success(), "{status}:\n{}", old.logs());
        took.push(begun.elapsed());
        drop(old);
        world.installation.wait_for_ready(2).await;
    }
    took
}

#[tokio::test]
async fn upgrades_under_traffic_lose_no_request() {
    let mut site = Site::new(&[]).await;
    let (enforced, free) = (site.enforced_traffic().await, site.free_traffic().await);
    let begun = Instant::now();
    enforced.flows(5).await;
    let before = entries(&site.world.lab).await;
    let authority = bundle(&before).to_vec();
    for (arguments, patience) in [
        (&["--set", "logLevel=debug"][..], 10),
        (&["--server-side=true", "--force-conflicts", "--set", "webhook.timeoutSeconds=12"], 12),
        (&["--server-side=false", "--set", "webhook.timeoutSeconds=9"], 9),
        (&["--server-side=false", "--set", "excludedNamespaces={kube-system,kube-public}"], 9),
    ] {
        let standing = entries(&site.world.lab).await;
        helm(&site.world.lab, arguments).await;
        assert_eq!(entries(&site.world.lab).await, standing, "helm {arguments:?} leaves the entries alone");
        let took = roll(&mut site.world).await;
        let new = until_entries(&site.world.lab, "the entries are those of the new values", |entries| {
            entries.iter().any(|entry| entry.name == "enforce.lazaretto.dev" && entry.timeout_seconds == Some(patience))
        })
        .await;
        assert_eq!(bundle(&new), authority, "the authority stays");
        enforced.flows(5).await;
        free.flows(5).await;
        eprintln!("healing: helm {arguments:?}; old replicas left in {took:?}");
    }
    let excluded = |entries: &[_]| {
        let entry: &k8s_openapi::api::admissionregistration::v1::ValidatingWebhook = &entries[0];
        let rules = entry.namespace_selector.as_ref().unwrap().match_expressions.as_ref().unwrap();
        let without = rules.iter().find(|rule| rule.operator == "NotIn").unwrap();
        without.values.as_ref().unwrap() == &["kube-public", "kube-system", NAMESPACE]
    };
    until_entries(&site.world.lab, "the new exclusions are in force", excluded).await;
    for traffic in [&enforced, &free] {
        let (made, longest) = traffic.unharmed(begun);
        eprintln!("healing: {made} pods during four upgrades and eight replaced replicas, the slowest in {longest:?}");
    }
    site.works().await;
}

/// `helm uninstall`, with the replicas' pods going when their Deployment has gone. Returns when it has returned.
async fn uninstall(lab: &Lab, installation: &Installation, replicas: Vec<Replica>) -> Instant {
    let deployments: Api<Deployment> = Api::namespaced(lab.client().await, NAMESPACE);
    let gone = async {
        until(deployments, RELEASE, "the Deployment is gone", |object: Option<&Deployment>| object.is_none()).await;
        for replica in &replicas {
            // As the kubelet does; in some of the tests they are dead already.
            if replica.get("/livez").await.is_ok() {
                replica.signal("TERM").await;
            }
        }
    };
    let (output, ()) = tokio::join!(installation.uninstall(lab), gone);
    output.ok();
    let returned = Instant::now();
    for replica in &replicas {
        replica.exited(MOMENT).await;
    }
    returned
}

/// Nothing is left that blocks, and nothing of the program's own making.
async fn nothing_is_left(lab: &Lab) -> Duration {
    let client = lab.client().await;
    let begun = Instant::now();
    assert_eq!(configuration(lab).await, None);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    until(secrets, "lazaretto-tls", "the Secret is collected", |object: Option<&Secret>| object.is_none()).await;
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    until(leases, "lazaretto", "the Lease is collected", |object: Option<&Lease>| object.is_none()).await;
    begun.elapsed()
}

/// A moment in the life of an installation.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The replicas run.
    Running,
    /// The replicas are dead, and enforced namespaces start no pods.
    Dead,
    /// The first replica has made the Secret.
    Certified,
    /// The first replica has taken the Lease.
    Leading,
    /// The first replica has written the entries.
    Enforcing,
}

#[tokio::test]
async fn an_uninstall_at_any_moment_sets_everybody_free() {
    let mut site = Site::new(&[]).await;
    let (enforced, free) = (site.enforced_traffic().await, site.free_traffic().await);
    let begun = Instant::now();
    let mut running = Some((std::mem::take(&mut site.world.replicas), Moment::Running));
    for next in [Some(Moment::Dead), Some(Moment::Certified), Some(Moment::Leading), Some(Moment::Enforcing), None] {
        let lab = &site.world.lab;
        let (replicas, moment) = running.take().unwrap();
        let before = Instant::now();
        if let Moment::Dead = moment {
            for replica in &replicas {
                replica.signal("KILL").await;
            }
            let message = enforced.fails().await;
            assert!(message.contains("failed calling webhook \"enforce.lazaretto.dev\""), "{message}");
        }
        let returned = uninstall(lab, &site.world.installation, replicas).await;
        enforced.flows(10).await;
        free.flows(10).await;
        let (made, longest) = enforced.unharmed(returned);
        free.unharmed(begun);
        let (failed, gap) = enforced.gap(before);
        let collected = nothing_is_left(lab).await;
        eprintln!(
            "healing: uninstalled when {moment:?}; before it returned {failed} failed within {gap:?}; after it {made} pods, the slowest in {longest:?}; collected after {collected:?}"
        );
        let Some(next) = next else { break };
        running = Some((reinstall(&mut site.world, next).await, next));
        if let Moment::Dead = next {
            site.works().await;
        }
    }

    // Uninstalled and installed again in one breath, nothing is lost of what was decided.
    site.world.replicas = reinstall(&mut site.world, Moment::Running).await;
    site.works().await;
    let replicas = std::mem::take(&mut site.world.replicas);
    uninstall(&site.world.lab, &site.world.installation, replicas).await;
    site.world.replicas = reinstall(&mut site.world, Moment::Running).await;
    site.works().await;
    owned(&site.world.lab).await;
    free.unharmed(begun);
}

/// Installs the chart again, starts two replicas, and waits for the moment.
async fn reinstall(world: &mut World, moment: Moment) -> Vec<Replica> {
    let lab = &world.lab;
    // The Service gets another address; the old one is free when its forwarder has ended.
    world.installation = Installation::new(lab, &[]).await;
    let installation = &world.installation;
    let client = lab.client().await;
    if let Moment::Running | Moment::Dead = moment {
        let replicas = installation.replicas(lab, 2).await;
        until_entries(lab, "the entries are written", |entries| !entries.is_empty()).await;
        return replicas;
    }
    let replicas = vec![installation.replica(lab).await, installation.replica(lab).await];
    match moment {
        Moment::Certified => {
            let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
            until(secrets, "lazaretto-tls", "the Secret is made", |object: Option<&Secret>| object.is_some()).await;
        }
        Moment::Leading => {
            let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
            until(leases, "lazaretto", "the Lease is taken", |object: Option<&Lease>| object.is_some()).await;
        }
        Moment::Running | Moment::Dead | Moment::Enforcing => {
            until_entries(lab, "the entries are written", |entries| !entries.is_empty()).await;
        }
    }
    replicas
}

/// What the program made belongs to the ServiceAccount of this very installation.
async fn owned(lab: &Lab) {
    let client = lab.client().await;
    eventually(MOMENT, "Secret and Lease belong to the ServiceAccount", async || {
        let account = Api::<ServiceAccount>::namespaced(client.clone(), NAMESPACE).get("lazaretto").await?.uid();
        let secret = Api::<Secret>::namespaced(client.clone(), NAMESPACE).get("lazaretto-tls").await?;
        let lease = Api::<Lease>::namespaced(client.clone(), NAMESPACE).get("lazaretto").await?;
        for owners in [secret.owner_references(), lease.owner_references()] {
            let [owner] = owners else { anyhow::bail!("{owners:?}") };
            anyhow::ensure!(owner.kind == "ServiceAccount" && Some(&owner.uid) == account.as_ref(), "{owner:?}, not {account:?}");
        }
        Ok(())
    })
    .await;
}

/// For those who delete the namespace instead.
#[tokio::test]
async fn the_entries_go_with_the_namespace() {
    let site = Site::new(&[]).await;
    let lab = &site.world.lab;
    let traffic: Traffic = site.free_traffic().await;
    let begun = Instant::now();
    let namespace = lab.kubectl(&["get", "namespace", NAMESPACE, "-o", "jsonpath={.metadata.uid}"]).await.ok().stdout;
    let owners = configuration(lab).await.unwrap().metadata.owner_references.unwrap();
    assert_eq!(
        owners.iter().map(|owner| (owner.kind.as_str(), owner.uid.as_str())).collect::<Vec<_>>(),
        [("Namespace", namespace.as_str())]
    );
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]).await.ok();
    for replica in &site.world.replicas {
        replica.signal("KILL").await;
    }
    eventually(2 * MOMENT, "the configuration is collected", async || match configuration(lab).await {
        None => Ok(()),
        Some(object) => Err(format!("{:?}", object.metadata)),
    })
    .await;
    eprintln!("healing: the webhook configuration was collected {:?} after the deletion of its namespace", begun.elapsed());
    run(lab, &site.enforced, "free", &site.quarantined).await.ok();
    traffic.unharmed(begun);
}
