use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::{
    api::{ImageStatus, QuarantinePolicy, Registry},
    index::Index,
    judgement::Scope,
    running::{Inventory, RunningPod},
};

const NOON: &str = "2026-01-01T12:00:00Z";

fn subject() -> Subject {
    format!("registry.corp/app@sha256:{}", "a".repeat(64)).parse().unwrap()
}

/// One namespace, one policy that asks for released images of `registry.corp`, and pods of one ReplicaSet.
#[derive(Default)]
struct World {
    index: Index,
    inventory: Inventory,
    ended: Option<Outcome<Arc<Facts>>>,
    /// Who keeps the flag of the image.
    keeper: &'static str,
    /// Repositories that registries were found to hold, or not.
    held: BTreeMap<&'static str, bool>,
    book: Book,
}

impl World {
    fn new() -> Self {
        let mut world = Self { keeper: "Managed", ..Self::default() };
        world.policy(&json!({}));
        let registry = json!({"metadata": {"name": "corp"}, "spec": {"hosts": ["registry.corp"], "quarantine": {"provider": "Managed"}}});
        let registry: Registry = serde_json::from_value(registry).unwrap();
        assert!(world.index.apply_registry(&registry));
        world
    }

    fn policy(&mut self, spec: &serde_json::Value) {
        let policy: QuarantinePolicy = serde_json::from_value(json!({"metadata": {"name": "strict"}, "spec": spec})).unwrap();
        self.index.apply_policy(&policy);
    }

    fn pod_json(name: &str, since: &str) -> RunningPod {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "web", "controller": true});
        let fields = json!({"f:spec": {"f:containers": {"f:image": {}}}});
        let managed = json!({"manager": "m", "operation": "Update", "time": since, "fieldsType": "FieldsV1", "fieldsV1": fields});
        let pod = json!({
            "metadata": {
                "uid": name, "namespace": "team", "name": name, "creationTimestamp": since, "ownerReferences": [owner], "managedFields": [managed],
            },
            "spec": {"containers": [{"name": "c", "image": "registry.corp/app:1"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "imageID": subject().to_string()}]}
        });
        serde_json::from_value(pod).unwrap()
    }

    fn run(&mut self, name: &str, since: &str) {
        self.inventory.apply(&Self::pod_json(name, since));
    }

    fn stop(&mut self, name: &str) {
        assert!(self.inventory.delete(&Self::pod_json(name, NOON)));
    }

    /// The image comes to these states, one an hour from noon on.
    fn image(&mut self, states: &[&str]) {
        let history: Vec<_> = states
            .iter()
            .zip(1..)
            .map(|(state, number)| json!({"number": number, "at": format!("2026-01-01T{}:00:00Z", 11 + number), "state": state, "by": "b", "reason": "r"}))
            .collect();
        let last = history.last().unwrap();
        let status =
            json!({"state": last["state"], "since": last["at"], "observedAt": last["at"], "provider": self.keeper, "history": history});
        let object = json!({"metadata": {"name": "x"}, "spec": {"subject": subject()}, "status": status});
        let object: ImageStatus = serde_json::from_value(object).unwrap();
        self.index.apply_image(&object, Timestamp::now());
    }

    fn turn(&mut self) -> Survey {
        let rules = self.index.rules();
        let labels = BTreeMap::new();
        let mut turn = self.book.turn();
        for namespace in self.inventory.namespaces() {
            let setting = Setting::new(&rules, Scope::Enforce, &namespace, &labels, NOON.parse().unwrap());
            let found = |subject: &Subject| (self.index.image(subject).map(|known| (subject.clone(), known)), self.ended.clone());
            turn.namespace(&setting, &rules, &namespace, &self.inventory.pods_in(&namespace), found, |rival| {
                self.held.get(&*rival.repository).copied().map(Outcome::Found)
            });
        }
        let (survey, page) = turn.end();
        self.book.close(page);
        survey
    }

    fn told(&mut self) -> Vec<(Change, u32)> {
        self.turn().told.iter().map(|told| (told.change, told.containers)).collect()
    }
}

#[test]
fn what_runs_unjudged_owes_until_it_is_judged() {
    let mut world = World::new();
    world.run("web-1", NOON);
    world.run("web-2", NOON);
    let survey = world.turn();
    assert_eq!((survey.owing, survey.refused), (2, 0));
    assert_eq!(survey.oldest, Some(NOON.parse().unwrap()));
    assert_eq!((survey.policies["strict"].total, survey.policies["strict"].items[1].pod.as_str()), (2, "team/web-2"));
    assert_eq!(survey.registries["corp"].images, [OwedImage { subject: subject().to_string(), containers: 2 }]);
    assert_eq!(survey.wanted.iter().map(|wanted| &wanted.subject).collect::<Vec<_>>(), [&subject()]);
    let [told] = &survey.told[..] else { panic!("{:?}", survey.told) };
    assert_eq!((told.change, told.containers, told.is_for_owners()), (Change::Owing, 2, false));
    assert_eq!(world.told(), [], "told once");
    world.image(&["Released"]);
    let survey = world.turn();
    assert_eq!((survey.owing, survey.wanted.len(), survey.registries.len()), (0, 0, 0));
    assert_eq!(survey.told.iter().map(|told| (told.change, told.is_for_owners())).collect::<Vec<_>>(), [(Change::Settled, true)]);
    assert_eq!(world.told(), []);
}

#[test]
fn what_is_judged_and_refused_is_a_breach() {
    let mut world = World::new();
    world.run("web-1", NOON);
    assert_eq!(world.told(), [(Change::Owing, 1)]);
    world.image(&["Quarantined"]);
    let survey = world.turn();
    assert_eq!((survey.owing, survey.refused), (0, 1));
    let [told] = &survey.told[..] else { panic!("{:?}", survey.told) };
    assert_eq!(
        (told.change, &told.policies[..], told.why.as_str()),
        (Change::Breached, &[Arc::from("strict")][..], "in quarantine since 2026-01-01T12:00:00Z")
    );
    assert_eq!(world.told(), [], "told once");
    world.run("web-2", NOON);
    assert_eq!(world.told(), [(Change::Breached, 1)], "another that runs although it is refused, whatever let it in");
}

#[test]
fn what_the_registry_does_not_show_is_a_breach_too_and_is_asked_about_again() {
    let mut world = World::new();
    world.run("web-1", NOON);
    world.turn();
    world.ended = Some(Outcome::Absent);
    let survey = world.turn();
    assert_eq!(survey.told.iter().map(|told| told.change).collect::<Vec<_>>(), [Change::Breached]);
    assert_eq!((survey.owing, survey.wanted.len()), (0, 1));
    world.ended = None;
    world.image(&["Released"]);
    assert_eq!(world.told(), [], "a breach is no debt any more");
}

#[test]
fn a_good_image_that_falls_back_is_revoked_for_those_that_ran_before_and_a_breach_for_those_after() {
    let mut world = World::new();
    world.run("web-1", "2026-01-01T12:30:00Z");
    world.image(&["Released"]);
    assert_eq!(world.told(), []);
    world.image(&["Released", "Quarantined", "Failed"]);
    let survey = world.turn();
    let [told] = &survey.told[..] else { panic!("{:?}", survey.told) };
    assert_eq!((told.change, told.at, told.is_for_owners()), (Change::Revoked, Some("2026-01-01T13:00:00Z".parse().unwrap()), true));
    world.run("web-2", "2026-01-01T13:30:00Z");
    assert_eq!(world.told(), [(Change::Breached, 1)]);
}

#[test]
fn a_policy_may_leave_the_owners_alone() {
    let mut world = World::new();
    world.policy(&json!({"whenRevoked": "Ignore"}));
    world.run("web-1", NOON);
    world.image(&["Released", "Quarantined"]);
    let survey = world.turn();
    assert_eq!(survey.told.iter().map(|told| (told.change, told.is_for_owners())).collect::<Vec<_>>(), [(Change::Revoked, false)]);
}

#[test]
fn what_ends_before_it_is_judged_has_lapsed() {
    let mut world = World::new();
    world.run("web-1", NOON);
    world.run("web-2", NOON);
    world.turn();
    world.stop("web-1");
    assert_eq!(world.told(), [(Change::Lapsed, 1)]);
    world.policy(&json!({"match": {"images": ["elsewhere.corp/**"]}}));
    assert_eq!(world.told(), [(Change::Lapsed, 1)], "nobody asks any more");
}

#[test]
fn a_leader_that_begins_settles_what_the_last_one_wrote_down() {
    let owed = |at: &str| RegistryDebts {
        total: 1,
        images: vec![OwedImage { subject: subject().to_string(), containers: 1 }],
        as_of: Some(at.parse().unwrap()),
    };
    for (states, end) in [(&["Released"][..], Change::Settled), (&["Released", "Quarantined"], Change::Breached)] {
        let mut world = World::new();
        world.book = Book::open([&owed(NOON)]);
        world.run("web-1", NOON);
        world.run("web-2", "2026-01-01T12:30:00Z");
        world.image(states);
        let told = world.told();
        assert!(told.contains(&(end, 1)), "{told:?}");
        assert_eq!(
            told.iter().filter(|(change, _)| *change == Change::Settled).count(),
            usize::from(end == Change::Settled),
            "one ran then"
        );
        assert_eq!(world.told(), []);
    }
}

#[test]
fn much_at_once_is_told_in_part_and_counted_in_full() {
    let mut world = World::new();
    let most = u64::try_from(MOST_TOLD).unwrap();
    for number in 0..MOST_TOLD + 10 {
        let mut pod = World::pod_json(&format!("web-{number}"), NOON);
        pod.metadata.owner_references = None;
        world.inventory.apply(&pod);
    }
    let survey = world.turn();
    assert_eq!((survey.told.len(), survey.changes[&Change::Owing]), (MOST_TOLD, most + 10));
    assert_eq!(
        (survey.policies["strict"].items.len(), survey.registries["corp"].images[0].containers),
        (MAX_POLICY_DEBTS, u32::try_from(most).unwrap() + 10)
    );
    assert_eq!(survey.wanted[0].bearers.len(), 1, "pods with the same secrets are as one");
}

/// The registry keeps the flag, and nobody has seen since noon that the image is good: who came an hour later was let in unjudged.
#[test]
fn what_began_when_its_facts_were_too_old_owes_until_somebody_has_looked() {
    fn looked(world: &mut World, pass: &str, reachable: &str, exceptions: &[Subject]) {
        let exceptions: Vec<_> = exceptions.iter().map(|subject| json!({"subject": subject, "reason": "r"})).collect();
        let reachable = json!({"type": "Reachable", "status": reachable, "reason": "r", "message": "", "lastTransitionTime": pass});
        let registry = json!({
            "metadata": {"name": "corp"},
            "status": {
                "lastCompletePass": pass, "conditions": [reachable], "exceptions": exceptions, "exceptionsTotal": exceptions.len(),
            },
            "spec": {"hosts": ["registry.corp"], "quarantine": {"provider": "AzureContainerRegistry"}, "pollInterval": "60s"},
        });
        world.index.apply_registry(&serde_json::from_value::<Registry>(registry).unwrap());
    }
    let stale = |pass, reachable, exceptions: &[Subject]| {
        let mut world = World { keeper: "AzureContainerRegistry", ..World::new() };
        looked(&mut world, pass, reachable, exceptions);
        world.image(&["Released"]);
        world.run("before", "2026-01-01T12:01:00Z");
        world.run("after", "2026-01-01T13:00:00Z");
        world
    };
    let all = [subject()];
    assert_eq!(stale("2026-01-01T12:59:00Z", "False", &[]).told(), [], "it was seen a moment before");
    assert_eq!(stale(NOON, "True", &[]).told(), [], "its registry could be asked");
    assert_eq!(stale("2026-01-01T14:00:00Z", "True", &all).told(), [], "what was judged stays so though a look failed since");
    let mut world = stale(NOON, "False", &[]);
    let survey = world.turn();
    assert_eq!((survey.owing, survey.wanted.len(), survey.policies["strict"].items[0].pod.as_str()), (1, 1, "team/after"));
    assert_eq!(survey.told.iter().map(|told| told.change).collect::<Vec<_>>(), [Change::Owing]);
    assert_eq!(world.told(), [], "told once");
    looked(&mut world, "2026-01-01T14:00:00Z", "True", &all);
    assert_eq!((world.told(), world.turn().owing), (vec![], 1), "the registry is well, and said nothing of this one");
    looked(&mut world, "2026-01-01T14:01:00Z", "True", &[]);
    assert_eq!(world.told(), [(Change::Settled, 1)]);
    for _ in 0..3 {
        let survey = world.turn();
        assert_eq!((survey.owing, survey.told.len(), survey.wanted.len()), (0, 0, 0));
    }
    let mut world = stale(NOON, "False", &[]);
    world.turn();
    world.ended = Some(Outcome::Absent);
    let survey = world.turn();
    assert_eq!(survey.told.iter().map(|told| (&*told.pod, told.change)).collect::<Vec<_>>(), [("after", Change::Breached)]);
    assert_eq!((survey.owing, survey.wanted.len()), (0, 1), "it is gone, which is written nowhere, and may come back");
    let mut world = stale(NOON, "False", &[]);
    assert_eq!(world.told(), [(Change::Owing, 1)]);
    world.image(&["Released", "Quarantined"]);
    let told: BTreeMap<_, _> = world.turn().told.iter().map(|told| (told.pod.to_string(), told.change)).collect();
    assert_eq!(told, BTreeMap::from([("before".to_owned(), Change::Revoked), ("after".to_owned(), Change::Breached)]));
}

/// Good from a time when nobody kept the flag, which says nothing to whoever came when it was kept.
#[test]
fn what_began_after_the_flag_was_first_kept_is_not_judged_by_what_was_known_before() {
    let mut world = World::new();
    let registry = json!({
        "metadata": {"name": "corp"}, "spec": {"hosts": ["registry.corp"], "quarantine": {"provider": "Managed"}},
        "status": {"adoption": {"instant": "2026-01-01T12:29:00Z", "completed": "2026-01-01T12:30:00Z"}},
    });
    assert!(world.index.apply_registry(&serde_json::from_value::<Registry>(registry).unwrap()));
    world.keeper = "None";
    world.policy(&json!({"require": {"unmanaged": "Allow"}}));
    world.image(&["Unmanaged"]);
    world.run("before", NOON);
    assert_eq!(world.told(), []);
    world.run("after", "2026-01-01T13:00:00Z");
    assert_eq!(world.told(), [(Change::Owing, 1)]);
}

#[test]
fn an_image_volume_by_digest_owes_like_a_container_once_it_is_mounted() {
    let mut world = World::new();
    let volume = |name: &str, reference: &str| json!({"name": name, "image": {"reference": reference}});
    let pinned = subject().to_string();
    let pod = |phase: &str| -> RunningPod {
        serde_json::from_value(json!({
            "metadata": World::pod_json("web-1", NOON).metadata, "status": {"phase": phase},
            "spec": {"volumes": [volume("models", &pinned), volume("same", &pinned), volume("tag", "registry.corp/app:1")]},
        }))
        .unwrap()
    };
    world.inventory.apply(&pod("Pending"));
    assert_eq!(world.turn().owing, 0, "nobody knows whether there is such an image");
    world.inventory.apply(&pod("Running"));
    let survey = world.turn();
    let owed: Vec<_> = survey.policies["strict"].items.iter().map(|debt| debt.container.as_str()).collect();
    assert_eq!((survey.owing, &owed[..]), (2, &["volume/models", "volume/same"][..]));
    world.image(&["Quarantined"]);
    assert_eq!(world.told(), [(Change::Breached, 2)]);
}

/// What runs is inside of what is written: that is what has to be asked about.
#[test]
fn who_owes_by_an_index_has_the_index_asked_about() {
    let mut world = World { keeper: "None", ..World::new() };
    let registry = json!({
        "metadata": {"name": "corp"}, "spec": {"hosts": ["registry.corp"], "quarantine": {"provider": "Managed"}},
        "status": {"adoption": {"instant": NOON, "completed": NOON}},
    });
    assert!(world.index.apply_registry(&serde_json::from_value::<Registry>(registry).unwrap()));
    world.image(&["Unmanaged"]);
    world.run("web-1", "2026-01-01T13:00:00Z");
    let (index, rules, labels) = (format!("registry.corp/app@sha256:{}", "b".repeat(64)), world.index.rules(), BTreeMap::new());
    let index: Subject = index.parse().unwrap();
    let mut turn = world.book.turn();
    let namespace: Arc<str> = "team".into();
    let setting = Setting::new(&rules, Scope::Enforce, &namespace, &labels, NOON.parse().unwrap());
    let known = world.index.image(&subject()).unwrap();
    let found = |_: &Subject| (Some((index.clone(), known.clone())), None);
    turn.namespace(&setting, &rules, &namespace, &world.inventory.pods_in(&namespace), found, |_| None);
    let (survey, _) = turn.end();
    assert_eq!(survey.wanted.iter().map(|wanted| &wanted.subject).collect::<Vec<_>>(), [&index]);
    assert_eq!(survey.registries["corp"].images[0].subject, subject().to_string(), "and what runs is what is told");
}

/// What was let in while a registry that goes before did not answer is owed until it has.
#[test]
fn an_origin_that_nobody_could_ask_about_is_owed_until_it_is_known() {
    for (held, end) in [(false, Change::Settled), (true, Change::Breached)] {
        let mut world = World::new();
        let first = json!({"metadata": {"name": "inside"}, "spec": {"hosts": ["inside.corp"], "priority": true}});
        assert!(world.index.apply_registry(&serde_json::from_value::<Registry>(first).unwrap()));
        world.image(&["Released"]);
        world.run("web-1", NOON);
        let survey = world.turn();
        assert_eq!((survey.owing, survey.wanted.len()), (1, 1), "{held}: {survey:?}");
        world.held.insert("app", held);
        assert_eq!(world.told(), [(end, 1)], "{held}");
    }
}
