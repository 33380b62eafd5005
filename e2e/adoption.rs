//! Quarantine switched on in a living cluster: what is in use is adopted, once, on record, and nobody is locked out.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use lazaretto::api::{Adoption, ImageStatus, Registry as RegistryObject, State};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::lab::install::World;
use crate::lab::registry::{Options, Registry};
use crate::lab::wait::{MOMENT, eventually, until};
use crate::story::{image_status, policy, run};
use crate::transitions::{leader, succeeded};

/// Creates a pod and gives it the status that a node would, with the image that runs.
pub async fn running(lab: &Lab, namespace: &str, name: &str, image: &str, image_id: &str) {
    let pods: Api<Pod> = Api::namespaced(lab.client().await, namespace);
    let pod = json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": image }] } });
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    phase(lab, namespace, name, "Running", image, image_id).await;
}

/// Changes a pod's phase as its node would.
pub async fn phase(lab: &Lab, namespace: &str, name: &str, phase: &str, image: &str, image_id: &str) {
    let pods: Api<Pod> = Api::namespaced(lab.client().await, namespace);
    let container = json!({ "name": "c", "image": image, "imageID": image_id, "ready": true, "restartCount": 0 });
    let status = json!({ "status": { "phase": phase, "containerStatuses": [container] } });
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

/// A Registry object over several registries of the laboratory.
async fn register(lab: &Lab, name: &str, registries: &[&Registry], provider: &str) {
    let hosts: Vec<_> = registries.iter().map(|registry| registry.host()).collect();
    let object = json!({
        "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": name },
        "spec": {
            "hosts": hosts, "plainHTTP": true, "pollInterval": "10s", "limits": { "timeoutSeconds": 2 },
            "quarantine": { "provider": provider },
        },
    });
    let api: Api<RegistryObject> = Api::all(lab.client().await);
    api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
}

fn adoption(object: Option<&RegistryObject>) -> Option<&Adoption> {
    object?.status.as_ref()?.adoption.as_ref()
}

/// Waits until the adoption of a registry is as it should be, and returns it.
async fn until_adoption(client: &Client, name: &str, what: &str, condition: impl Fn(&Adoption) -> bool) -> Adoption {
    let met = |object: Option<&RegistryObject>| adoption(object).is_some_and(&condition);
    let object = until(Api::<RegistryObject>::all(client.clone()), name, what, met).await;
    adoption(object.as_ref()).cloned().unwrap()
}

/// The states of images, by digest, with who brought them there and why.
async fn states(client: &Client) -> BTreeMap<String, (State, String, String)> {
    let all = Api::<ImageStatus>::all(client.clone()).list(&kube::api::ListParams::default()).await.unwrap();
    let status = |object: ImageStatus| {
        let digest = object.spec.subject.split_once('@').unwrap().1.to_owned();
        let status = object.status.unwrap();
        (digest, (status.state, status.by, status.reason))
    };
    all.into_iter().map(status).collect()
}

/// Creates a pod and returns code and message of the answer; 201 for one that was made.
async fn ask(client: &Client, namespace: &str, image: &str) -> (u16, String) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = json!({ "metadata": { "generateName": "asked-" }, "spec": { "containers": [{ "name": "c", "image": image }] } });
    match pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await {
        Ok(_) => (201, String::new()),
        Err(kube::Error::Api(status)) => (status.code, status.message),
        Err(error) => panic!("{error}"),
    }
}

async fn until_quarantined(client: &Client, namespace: &str, image: &str) {
    eventually(MOMENT, &format!("{image} is refused"), async || match ask(client, namespace, image).await {
        (403, message)
            if message.contains("in quarantine since") && message.contains("by lazaretto (new, and nobody has released it yet)") =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
}

async fn apply(lab: &Lab, objects: &Value) {
    lab.kubectl_input(&["apply", "-f", "-"], &objects.to_string()).await.ok();
}

fn workload(kind: &str, name: &str, namespace: &str, image: &str) -> Value {
    let pod = json!({ "metadata": { "labels": { "app": name } }, "spec": { "restartPolicy": "Always", "containers": [{ "name": "c", "image": image }] } });
    let selector = json!({ "matchLabels": { "app": name } });
    let metadata = json!({ "name": name, "namespace": namespace });
    match kind {
        "CronJob" => {
            let mut pod = pod;
            pod["spec"]["restartPolicy"] = "Never".into();
            json!({ "apiVersion": "batch/v1", "kind": kind, "metadata": metadata,
                    "spec": { "schedule": "0 0 1 1 *", "jobTemplate": { "spec": { "template": pod } } } })
        }
        "StatefulSet" => json!({ "apiVersion": "apps/v1", "kind": kind, "metadata": metadata,
                    "spec": { "replicas": 0, "serviceName": name, "selector": selector, "template": pod } }),
        _ => json!({ "apiVersion": "apps/v1", "kind": kind, "metadata": metadata,
                    "spec": { "replicas": 0, "selector": selector, "template": pod } }),
    }
}

#[tokio::test]
async fn what_is_in_use_is_adopted_once_and_nobody_is_locked_out() {
    const REASON: &str = "adopted: in use before quarantine was switched on";
    let world = World::fresh(&[]).await;
    let lab = &world.lab;
    let client = lab.client().await;
    let mut slow = Registry::start(lab, Options::default()).await;
    let registry = Registry::start(lab, Options::default()).await;
    let tagged = |tag: &str| registry.tagged("team/app", tag);
    let pinned = |digest: &str| registry.pinned("team/app", digest);

    // A living cluster: pods that run, one of whose tags has moved since; an index of which a node runs one image; a pod that ended.
    let team = lab.namespace().await;
    let moved_from = registry.push("team/app", "1", "one").await;
    running(lab, &team, "runs", &tagged("1"), &pinned(&moved_from)).await;
    let moved_to = registry.push("team/app", "1", "one, again").await;
    let (index, children) = registry.push_index("team/app", "many", "many").await;
    running(lab, &team, "runs-one-of-many", &tagged("many"), &pinned(&children[0])).await;
    let ended = registry.push("team/app", "ended", "ended").await;
    running(lab, &team, "ended", &tagged("ended"), &pinned(&ended)).await;
    phase(lab, &team, "ended", "Succeeded", &tagged("ended"), &pinned(&ended)).await;
    // Templates that name tags, and one that names what is nowhere.
    let mut named = Vec::new();
    for (kind, tag) in [("Deployment", "2"), ("CronJob", "3"), ("StatefulSet", "4"), ("DaemonSet", "5")] {
        named.push(registry.push("team/app", tag, tag).await);
        let mut object = workload(kind, &format!("named-{tag}"), &team, &tagged(tag));
        if kind == "DaemonSet" {
            let spec = object["spec"].as_object_mut().unwrap();
            spec.remove("replicas");
        }
        apply(lab, &object).await;
    }
    apply(lab, &workload("Deployment", "nowhere", &team, &tagged("nowhere"))).await;
    let library = slow.push("library", "1", "library").await;
    apply(lab, &workload("Deployment", "library", &team, &slow.tagged("library", "1"))).await;
    policy(lab, &team, |_| {}).await;

    // Quarantine is switched on while one of the registry's hosts is down: the adoption begins and cannot end.
    slow.stop().await;
    register(lab, "corp", &[&registry, &slow], "Managed").await;
    let begun = until_adoption(&client, "corp", "all but one host is adopted", |adoption| adoption.adopted >= 8).await;
    assert_eq!((begun.adopted, begun.completed), (8, None), "{begun:?}");
    assert!(begun.unconfirmed.contains(&tagged("nowhere")) && begun.unconfirmed.contains(&slow.tagged("library", "1")), "{begun:?}");
    let by_digest = states(&client).await;
    for digest in [&moved_from, &moved_to, &index, &children[0]].into_iter().chain(&named) {
        assert_eq!(by_digest[digest], (State::Released, "lazaretto".to_owned(), REASON.to_owned()));
    }
    assert_eq!(by_digest.len(), 8, "{by_digest:?}");
    run(lab, &team, "adopted", &tagged("2")).await.ok();

    // What comes after the instant does not count, though the adoption is still under way: neither in a new template nor in an old one.
    eventually(MOMENT, "the second of the instant is over", async || {
        let now = jiff::Timestamp::now();
        if now.as_second() > begun.instant.as_second() { Ok(()) } else { Err(now) }
    })
    .await;
    for tag in ["late", "edited", "new"] {
        registry.push("team/app", tag, tag).await;
    }
    apply(lab, &workload("Deployment", "late", &team, &tagged("late"))).await;
    lab.kubectl(&["set", "image", "deployment/named-2", &format!("c={}", tagged("edited")), "-n", &team]).await.ok();
    let (code, message) = ask(&client, &team, &tagged("new")).await;
    let waits =
        "not known yet: quarantine is being switched on for this registry, and what already runs is being adopted. Try again shortly";
    assert!(code == 504 && message.contains(waits), "{code}: {message}");
    let (code, message) = ask(&client, &team, &slow.tagged("library", "1")).await;
    assert!(code == 504 && message.contains("its registry is unavailable"), "{code}: {message}");

    // The leader dies in the middle of it; the next one goes on with the same instant.
    let dead = leader(&client, &world.replicas).await;
    world.replicas[dead].signal("KILL").await;
    let after = succeeded(&client, world.replicas[dead].pod()).await;
    // Meanwhile somebody waits, and gets the pod without asking again.
    let image = slow.tagged("library", "1");
    let (waited, ()) = tokio::join!(run(lab, &team, "waits", &image), slow.start_again());
    waited.ok();
    let done = until_adoption(&client, "corp", "the adoption is completed", |adoption| adoption.completed.is_some()).await;
    eprintln!("adoption: leader followed after {after:?}; {done:?}");
    assert_eq!((done.instant, done.adopted), (begun.instant, 9));
    assert_eq!(done.unconfirmed, [tagged("nowhere")]);
    assert_eq!(states(&client).await[&library], (State::Released, "lazaretto".to_owned(), REASON.to_owned()));

    // From now on what is new is in quarantine, whoever names it, and so is what only an ended pod ran.
    for tag in ["new", "late", "edited", "ended"] {
        until_quarantined(&client, &team, &tagged(tag)).await;
    }
    let after = registry.push("team/app", "after", "after").await;
    until_quarantined(&client, &team, &tagged("after")).await;
    let object = image_status(lab, &named[0]).await.unwrap();
    let history: Vec<_> = object.status.as_ref().unwrap().history.iter().map(|one| (one.number, one.state, one.by.as_str())).collect();
    assert_eq!(history, [(1, State::Released, "lazaretto")]);

    once_only(lab, &client, &registry, &slow, &team, &after, &done).await;
}

/// Neither a provider that is switched off and on again, nor a Registry that is deleted and made anew, frees what is in quarantine.
async fn once_only(lab: &Lab, client: &Client, registry: &Registry, slow: &Registry, team: &str, held: &str, done: &Adoption) {
    let tagged = |tag: &str| registry.tagged("team/app", tag);
    let unmanaged = async |tag: &str, says: &str| {
        eventually(MOMENT, &format!("nobody keeps the flag of {tag}"), async || match ask(client, team, &tagged(tag)).await {
            (403, message) if message.contains(says) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };
    let history = async |digest: &str| {
        let object = image_status(lab, digest).await.unwrap();
        object.status.unwrap().history.iter().map(|one| one.state).collect::<Vec<_>>()
    };
    apply(lab, &workload("Deployment", "names-what-is-held", team, &tagged("after"))).await;

    // Switched off, and on again.
    register(lab, "corp", &[registry, slow], "None").await;
    let between = registry.push("team/app", "between", "between").await;
    apply(lab, &workload("Deployment", "between", team, &tagged("between"))).await;
    unmanaged("between", "nobody keeps a quarantine flag for this registry (its Registry object has provider None)").await;
    assert_eq!(history(&between).await, [State::Unmanaged]);
    until_quarantined(client, team, &tagged("after")).await;
    register(lab, "corp", &[registry, slow], "Managed").await;
    until_quarantined(client, team, &tagged("between")).await;
    assert_eq!(history(&between).await, [State::Unmanaged, State::Quarantined]);
    let object = Api::<RegistryObject>::all(client.clone()).get("corp").await.unwrap();
    assert_eq!(adoption(Some(&object)), Some(done), "nothing was adopted anew");

    // Deleted, and made anew: that adopts what is in use by then and was never in quarantine.
    lab.kubectl(&["delete", "registry.lazaretto.dev", "corp"]).await.ok();
    let meanwhile = registry.push("team/app", "meanwhile", "meanwhile").await;
    apply(lab, &workload("Deployment", "meanwhile", team, &tagged("meanwhile"))).await;
    unmanaged("meanwhile", "this registry has no Registry object, so nobody keeps a quarantine flag for its images").await;
    register(lab, "corp", &[registry, slow], "Managed").await;
    let anew = until_adoption(client, "corp", "a new Registry adopts", |adoption| adoption.completed.is_some()).await;
    assert!(anew.instant > done.instant, "{anew:?}");
    for (tag, digest, states) in
        [("after", held, &[State::Quarantined][..]), ("between", &between, &[State::Unmanaged, State::Quarantined])]
    {
        until_quarantined(client, team, &tagged(tag)).await;
        assert_eq!(history(digest).await, states, "{tag} was never released");
    }
    assert_eq!(history(&meanwhile).await, [State::Released]);
}
