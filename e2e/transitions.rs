//! That no accident of a leader loses a transition, doubles one, or undoes a newer one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use lazaretto::api::{ImageStatus, ImageStatusStatus, State, Transition};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::lab::Lab;
use crate::lab::install::{NAMESPACE, World};
use crate::lab::registry::{Options, Registry};
use crate::lab::replica::Replica;
use crate::lab::wait::{MOMENT, eventually};
use crate::story;

/// How long a decision may wait for its state: a leader that froze is followed after 15 s at the earliest.
const PATIENCE: Duration = Duration::from_secs(120);

/// Every version of every ImageStatus, as a watch brought them.
struct Watched {
    latest: watch::Receiver<BTreeMap<String, Vec<ImageStatus>>>,
    task: tokio::task::AbortHandle,
}

impl Watched {
    fn start(client: Client) -> Self {
        let (sender, latest) = watch::channel(BTreeMap::<String, Vec<ImageStatus>>::new());
        let task = tokio::spawn(async move {
            let objects = watcher(Api::<ImageStatus>::all(client), watcher::Config::default()).default_backoff().applied_objects();
            pin_mut!(objects);
            while let Some(object) = objects.next().await {
                let object = object.unwrap();
                sender.send_modify(|all| all.entry(object.name_any()).or_default().push(object));
            }
        });
        Self { latest, task: task.abort_handle() }
    }

    /// Waits until the last version of an object meets a condition.
    async fn until(&self, name: &str, what: &str, condition: impl Fn(&ImageStatusStatus) -> bool) {
        let mut latest = self.latest.clone();
        let met = |all: &BTreeMap<String, Vec<ImageStatus>>| {
            all.get(name).and_then(|versions| versions.last()?.status.as_ref()).is_some_and(&condition)
        };
        if timeout(PATIENCE, latest.wait_for(met)).await.is_err() {
            let last = self.latest.borrow().get(name).and_then(|versions| versions.last().cloned());
            panic!("{name}: {what}: not within {PATIENCE:?}; last: {last:?}");
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The pod name of whoever holds the Lease, and how often it changed hands.
pub async fn holder(client: &Client) -> (String, i32) {
    let lease = Api::<Lease>::namespaced(client.clone(), NAMESPACE).get("lazaretto").await.unwrap().spec.unwrap();
    let identity = lease.holder_identity.unwrap_or_default();
    let pod = identity.rsplit_once('_').map_or("", |(pod, _)| pod).to_owned();
    (pod, lease.lease_transitions.unwrap_or_default())
}

/// The position of the replica that leads.
pub async fn leader(client: &Client, replicas: &[Replica]) -> usize {
    eventually(MOMENT, "one of the replicas leads", async || {
        let (pod, _) = holder(client).await;
        replicas.iter().position(|replica| replica.pod() == pod).ok_or(pod)
    })
    .await
}

/// Waits until the Lease is held by another than `before`; returns after what time.
pub async fn succeeded(client: &Client, before: &str) -> Duration {
    let begun = Instant::now();
    eventually(2 * MOMENT, "another replica leads", async || match holder(client).await {
        (pod, _) if pod.is_empty() || pod == before => Err(pod),
        _ => Ok(()),
    })
    .await;
    begun.elapsed()
}

/// Writes a person's decision, and returns the generation that it made.
async fn decide(api: &Api<ImageStatus>, name: &str, state: State, reason: &str) -> i64 {
    let decision = json!({ "spec": { "quarantine": { "state": state.as_str(), "by": "admin", "reason": reason } } });
    let object = api.patch(name, &PatchParams::default(), &Patch::Merge(&decision)).await.unwrap();
    object.metadata.generation.unwrap()
}

/// The states that are decided one after the other, from the first on: never the same twice in a row.
fn decision(number: u64) -> State {
    match number % 4 {
        1 | 3 => State::Released,
        2 => State::Quarantined,
        _ => State::Failed,
    }
}

/// Every audit line of a transition that any of the replicas wrote: by digest and number, what it said, and how often.
fn audited(replicas: &[Replica]) -> BTreeMap<(String, u64), BTreeMap<[String; 4], usize>> {
    let mut lines: BTreeMap<_, BTreeMap<_, usize>> = BTreeMap::new();
    for line in replicas.iter().flat_map(|replica| replica.logs().lines().map(str::to_owned).collect::<Vec<_>>()) {
        let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
        if line["event"] == "transition" {
            let text = |field: &str| line[field].as_str().unwrap().to_owned();
            let said = ["from", "to", "by", "reason"].map(text);
            *lines.entry((text("digest"), line["number"].as_u64().unwrap())).or_default().entry(said).or_default() += 1;
        }
    }
    lines
}

/// Pushes images and asks for each, so that there is an ImageStatus of each. Returns digest and object name.
pub async fn quarantined(lab: &Lab, registry: &Registry, namespace: &str, count: usize) -> Vec<(String, String)> {
    let pods: Api<Pod> = Api::namespaced(lab.client().await, namespace);
    let one = async |number: usize| {
        let digest = registry.push("team/app", &format!("v{number}"), &format!("image {number}")).await;
        let pod = json!({
            "metadata": { "name": format!("p{number}") },
            "spec": { "containers": [{ "name": "c", "image": registry.pinned("team/app", &digest) }] },
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        // On a busy machine a look-up may outlast a review: then the answer is to come again.
        eventually(MOMENT, "the pod is refused", async || match pods.create(&PostParams::default(), &pod).await {
            Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("in quarantine since") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        digest
    };
    let digests = futures::stream::iter((0..count).map(one)).buffered(8).collect::<Vec<_>>().await;
    let objects = Api::<ImageStatus>::all(lab.client().await).list(&kube::api::ListParams::default()).await.unwrap();
    let name = |digest: &str| objects.iter().find(|object| object.spec.subject.ends_with(digest)).unwrap().name_any();
    digests.into_iter().map(|digest| (digest.clone(), name(&digest))).collect()
}

#[tokio::test]
async fn five_hundred_transitions_while_leaders_die_and_freeze() {
    const IMAGES: usize = 50;
    const DECISIONS: u64 = 10;
    let mut world = World::fresh(&[]).await;
    let begun = Instant::now();
    let registry = Registry::start(&world.lab, Options::default()).await;
    story::register(&world.lab, &registry, "Managed", |_| {}).await;
    let namespace = world.lab.namespace().await;
    story::policy(&world.lab, &namespace, |_| {}).await;
    let images = quarantined(&world.lab, &registry, &namespace, IMAGES).await;
    let client = world.lab.client().await;
    let watched = Arc::new(Watched::start(client.clone()));
    eprintln!("transitions: {IMAGES} images in quarantine after {:?}", begun.elapsed());

    // Each image is decided upon again and again; each decision waits for its own state only.
    let (count, counted) = watch::channel(0);
    let begun = Instant::now();
    let deciders: Vec<_> = images
        .iter()
        .map(|(_, name)| {
            let (api, watched, name, count) = (Api::<ImageStatus>::all(client.clone()), watched.clone(), name.clone(), count.clone());
            tokio::spawn(async move {
                for number in 1..=DECISIONS {
                    let wanted = decision(number);
                    let generation = decide(&api, &name, wanted, &format!("decision {number}")).await;
                    let carried_out = |status: &ImageStatusStatus| status.state == wanted && status.observed_generation >= Some(generation);
                    watched.until(&name, &format!("decision {number} is carried out"), carried_out).await;
                    count.send_modify(|count| *count += 1);
                }
            })
        })
        .collect();
    let reached = async |wanted: i32| {
        timeout(PATIENCE, counted.clone().wait_for(|count| *count >= wanted)).await.expect("transitions go on").unwrap();
    };

    // The leader is killed among them, and the cluster starts another in its place.
    reached(100).await;
    let killed = leader(&client, &world.replicas).await;
    world.replicas[killed].signal("KILL").await;
    let dead = world.replicas[killed].pod().to_owned();
    let after = succeeded(&client, &dead).await;
    eprintln!("transitions: killed with {} done, followed after {after:?}", *counted.borrow());
    let replacement = world.installation.replica(&world.lab).await;
    replacement.wait_ready().await;
    world.replicas.push(replacement);

    // The next one is frozen until another has led for a while, and thaws in the middle of whatever it did. Twice.
    for (from, until) in [(200, 280), (360, 430)] {
        reached(from).await;
        let frozen = leader(&client, &world.replicas).await;
        world.replicas[frozen].signal("STOP").await;
        let pod = world.replicas[frozen].pod().to_owned();
        let after = succeeded(&client, &pod).await;
        eprintln!("transitions: frozen at {} done, followed after {after:?}", *counted.borrow());
        reached(until).await;
        world.replicas[frozen].signal("CONT").await;
        world.replicas[frozen].wait_for_log("no longer leading").await;
    }
    for decider in join_all(deciders).await {
        decider.unwrap();
    }
    eprintln!("transitions: {} done in {:?}", *counted.borrow(), begun.elapsed());

    // Then decisions that wait for nothing, while the leader is frozen and thaws: the last one holds.
    let frozen = leader(&client, &world.replicas).await;
    let api = Api::<ImageStatus>::all(client.clone());
    let (api, images) = (&api, &images);
    let replica = &world.replicas[frozen];
    let hasty = images.iter().map(|(_, name)| async move {
        let mut generation = 0;
        for number in DECISIONS + 1..=DECISIONS + 5 {
            generation = decide(api, name, decision(number), &format!("decision {number}")).await;
            if number == DECISIONS + 3 && *name == images[0].1 {
                replica.signal("STOP").await;
            }
        }
        (name, generation)
    });
    let last = join_all(hasty).await;
    succeeded(&client, world.replicas[frozen].pod()).await;
    world.replicas[frozen].signal("CONT").await;
    for (name, generation) in last {
        let wanted = decision(DECISIONS + 5);
        let held = |status: &ImageStatusStatus| status.observed_generation == Some(generation) && status.state == wanted;
        watched.until(name, "the last decision holds", held).await;
        let all_out = |status: &ImageStatusStatus| status.history.last().is_some_and(|last| last.number == status.emitted_through);
        watched.until(name, "all is emitted", all_out).await;
    }

    let lines = audited(&world.replicas);
    let mut twice = 0;
    for (digest, name) in images {
        let history = history_of(&watched.latest.borrow()[name]);
        check_history(name, &history, DECISIONS);
        for (number, transition) in &history {
            let Some(said) = lines.get(&(digest.clone(), *number)) else { panic!("{digest}: no audit line of transition {number}") };
            let from = history.get(&(number - 1)).map_or("", |previous| previous.state.as_str());
            let expected = [from, transition.state.as_str(), &transition.by, &transition.reason].map(str::to_owned);
            assert_eq!(said.keys().collect::<Vec<_>>(), [&expected], "{digest}: what is said of transition {number}");
            twice += said.values().sum::<usize>() - 1;
        }
    }
    let numbers: usize = images.iter().map(|(_, name)| history_of(&watched.latest.borrow()[name]).len()).sum();
    assert_eq!(lines.len(), numbers, "audit lines speak of transitions that stand in the history");
    let kept: BTreeSet<_> = images.iter().map(|(_, name)| watched.latest.borrow()[name].last().map(kept)).collect();
    eprintln!("transitions: {numbers} in all, {twice} audit lines came twice, (transitions, bytes) kept of one image: {kept:?}");

    events(&world.lab, images).await;
    leads_alone(&client, &world.replicas, killed).await;
}

fn kept(object: &ImageStatus) -> (usize, usize) {
    (object.status.as_ref().map_or(0, |status| status.history.len()), serde_json::to_vec(object).unwrap().len())
}

/// The whole history of an object, put together from all its versions. No version may contradict another.
fn history_of(versions: &[ImageStatus]) -> BTreeMap<u64, Transition> {
    let mut history: BTreeMap<u64, Transition> = BTreeMap::new();
    let mut last = 0;
    for status in versions.iter().filter_map(|object| object.status.as_ref()) {
        let numbers: Vec<_> = status.history.iter().map(|transition| transition.number).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no gaps: {numbers:?}");
        assert!(numbers.last() >= Some(&last), "a version forgot transition {last}: {numbers:?}");
        last = numbers.last().copied().unwrap_or_default();
        assert_eq!(status.history.last().map(|last| last.state), Some(status.state), "the state is that of the last transition");
        for transition in &status.history {
            let known = history.entry(transition.number).or_insert_with(|| transition.clone());
            assert_eq!(known, transition, "a transition is never rewritten");
        }
    }
    history
}

/// Numbers from 1 without gaps, one transition for each decision that waited, and of the hasty ones some, in their order: a decision
/// that another one followed at once may never have had an effect, and one that changes nothing is no transition.
fn check_history(name: &str, history: &BTreeMap<u64, Transition>, decisions: u64) {
    let numbers: Vec<_> = history.keys().copied().collect();
    assert_eq!(numbers, (1..=u64::try_from(history.len()).unwrap()).collect::<Vec<_>>(), "{name}");
    let said: Vec<_> = history.values().map(|transition| (transition.state, transition.by.as_str(), transition.reason.as_str())).collect();
    assert_eq!(said[0], (State::Quarantined, "lazaretto", "new, and nobody has released it yet"), "{name}");
    for (number, said) in (1..=decisions).zip(&said[1..]) {
        assert_eq!(*said, (decision(number), "admin", format!("decision {number}").as_str()), "{name}");
    }
    let hasty: Vec<u64> =
        said[1 + usize::try_from(decisions).unwrap()..].iter().map(|(_, _, reason)| reason["decision ".len()..].parse().unwrap()).collect();
    assert!(hasty.windows(2).all(|pair| pair[0] < pair[1]), "{name}: {hasty:?}");
    assert_eq!(said.last().map(|(state, ..)| *state), Some(decision(decisions + 5)), "{name}: {hasty:?}");
    assert!(history.values().zip(history.values().skip(1)).all(|(one, next)| one.state != next.state), "{name}: each changes the state");
}

/// The Events of each image: what happened to it at least once.
async fn events(lab: &Lab, images: &[(String, String)]) {
    let path = "jsonpath={range .items[*]}{.involvedObject.name} {.type} {.reason}\n{end}";
    let events = lab.kubectl(&["get", "events", "-n", "default", "-o", path]).await.ok();
    for (_, name) in images {
        let seen: BTreeSet<_> = events.stdout.lines().filter_map(|line| line.strip_prefix(&format!("{name} "))).collect();
        let expected = ["Normal Available", "Normal Quarantined", "Normal Released", "Warning Revoked"];
        assert!(expected.iter().all(|event| seen.contains(event)), "{name}: {seen:?}");
    }
}

/// The Lease is held by a replica that lives and knows it, and the others know that they do not.
async fn leads_alone(client: &Client, replicas: &[Replica], dead: usize) {
    eventually(MOMENT, "one replica leads, and it is the Lease's holder", async || {
        let (pod, transitions) = holder(client).await;
        let mut leading = Vec::new();
        for (at, replica) in replicas.iter().enumerate() {
            if at != dead && replica.metric("lazaretto_leading", &[]).await > 0.0 {
                leading.push(replica.pod());
            }
        }
        if leading == [pod.as_str()] {
            // The first term, a death, and three that froze.
            assert!(transitions >= 5, "the Lease changed hands {transitions} times");
            Ok(())
        } else {
            Err(format!("held by {pod}, led by {leading:?}"))
        }
    })
    .await;
}
