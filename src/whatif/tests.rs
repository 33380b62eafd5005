use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::*;
use crate::{
    api::{ImageStatus, QuarantinePolicy, Registry, Waiver},
    index::Index,
    judgement::Scope,
    running::{Inventory, RunningPod},
};

const NOW: &str = "2026-01-02T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn subject(repository: &str) -> Subject {
    format!("registry.corp/{repository}@sha256:{}", "a".repeat(64)).parse().unwrap()
}

impl Records for Index {
    fn known(&self, subject: &Subject) -> Option<Arc<Known>> {
        self.image(subject)
    }

    fn stands_for(&self, image: &Reference) -> Option<Subject> {
        self.tagged(image).map(|(subject, _)| subject)
    }

    fn held(&self, rival: &Rival) -> Option<Outcome<bool>> {
        let holds = |subject: &Subject| {
            rival.registry.hosts.iter().any(|host| host == subject.registry()) && subject.repository() == &*rival.repository
        };
        self.images().any(|(subject, _)| holds(subject)).then_some(Outcome::Found(true))
    }
}

/// Rules and records; `registry.corp` is kept by Lazaretto.
struct World(Index);

impl World {
    fn new(provider: &str) -> Self {
        let mut world = Self(Index::default());
        world.registry(provider, true);
        world
    }

    fn registry(&mut self, provider: &str, adopted: bool) {
        let done = adopted.then(|| json!({"instant": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:00:00Z"}));
        let registry = json!({
            "metadata": {"name": "corp"}, "status": {"adoption": done},
            "spec": {"hosts": ["registry.corp"], "quarantine": {"provider": provider, "processor": {"namespace": "team", "serviceAccount": "scanner"}}},
        });
        let registry: Registry = serde_json::from_value(registry).unwrap();
        assert!(self.0.apply_registry(&registry));
    }

    fn policy(&mut self, name: &str, spec: &Value) {
        let policy: QuarantinePolicy = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        assert!(self.0.apply_policy(&policy));
    }

    fn image(&mut self, repository: &str, state: &str, provider: &str, tags: &[&str]) {
        let at = "2026-01-01T00:00:00Z";
        let tags: Vec<_> = tags.iter().map(|tag| json!({"tag": tag, "at": at})).collect();
        let status = json!({
            "state": state, "since": at, "observedAt": at, "provider": provider, "tags": tags,
            "history": [{"number": 1, "at": at, "state": state, "by": "b", "reason": "r"}],
        });
        let object = json!({"metadata": {"name": repository}, "spec": {"subject": subject(repository)}, "status": status});
        let object: ImageStatus = serde_json::from_value(object).unwrap();
        assert!(self.0.apply_image(&object, now()));
    }

    fn judge(&self, text: &str, running: Option<&Subject>, account: &str) -> Vec<(String, Mode, View)> {
        let rules = self.0.rules();
        let setting = Setting::new(&rules, Scope::All, "team", &BTreeMap::new(), now());
        let judged = judge(&setting, Asked { text, running, namespace: "team", service_account: account }, &self.0, now());
        judged.stands.into_iter().map(|stand| (stand.policy.to_owned(), stand.mode, stand.view)).collect()
    }

    /// What the one policy says.
    fn view(&self, text: &str, running: Option<&Subject>) -> View {
        let [(_, _, view)] = self.judge(text, running, "default").try_into().unwrap();
        view
    }
}

fn word(view: &View) -> String {
    match view {
        View::Admits => "admits".to_owned(),
        View::Refuses(why) => format!("refuses: {}", sentence::short(why)),
        View::NotKnown(gap) => format!("not known: {gap}"),
    }
}

#[test]
fn only_what_is_written_is_gone_by_and_the_rest_is_not_known() {
    let strict = json!({});
    let digests = json!({"require": {"released": "Off", "digest": "Deny"}});
    let (tag, other) = ("registry.corp/app:1", "registry.corp/app:2");
    let pinned = subject("app").to_string();
    let held = "refuses: in quarantine since 2026-01-01T00:00:00Z";
    for (what, state, provider, spec, text, running, expected) in [
        ("released", Some("Released"), "Managed", &strict, pinned.as_str(), false, "admits"),
        ("held", Some("Quarantined"), "Managed", &strict, &pinned, false, held),
        ("a tag that a node reports", Some("Quarantined"), "Managed", &strict, other, true, held),
        ("a tag that stood for it", Some("Quarantined"), "Managed", &strict, tag, false, held),
        (
            "a tag that nobody asked for",
            Some("Quarantined"),
            "Managed",
            &strict,
            other,
            false,
            "not known: not known which digest the tag stands for",
        ),
        ("never seen", None, "Managed", &strict, &pinned, false, "not known: not seen yet: it begins in quarantine when it is"),
        ("by its name alone", None, "Managed", &digests, tag, true, "refuses: named by tag, not by digest"),
        ("not at all", None, "Managed", &digests, &pinned, false, "admits"),
        ("what cannot be read", None, "Managed", &strict, "UPPER//x", false, "refuses: "),
        ("no flag", None, "None", &strict, &pinned, false, "refuses: nobody keeps a quarantine flag for it"),
        ("no flag, and allowed", None, "None", &json!({"require": {"unmanaged": "Allow"}}), &pinned, false, "not known: not seen yet"),
        ("kept once", Some("Released"), "None", &strict, &pinned, false, "refuses: nobody keeps a quarantine flag for it"),
        (
            "bad once",
            Some("Failed"),
            "None",
            &json!({"require": {"unmanaged": "Allow"}}),
            &pinned,
            false,
            "refuses: found unfit since 2026-01-01T00:00:00Z",
        ),
    ] {
        let mut world = World::new(provider);
        world.policy("p", spec);
        if let Some(state) = state {
            world.image("app", state, "Managed", &["1"]);
        }
        let view = world.view(text, running.then(|| subject("app")).as_ref());
        assert!(word(&view).starts_with(expected), "{what}: {}", word(&view));
    }
}

#[test]
fn what_was_seen_too_long_ago_is_not_known_unless_it_is_bad() {
    let mut world = World::new("AzureContainerRegistry");
    world.policy("p", &json!({}));
    world.image("app", "Released", "AzureContainerRegistry", &[]);
    assert!(matches!(world.view(&subject("app").to_string(), None), View::NotKnown(Gap::Stale(State::Released, _))));
    world.image("app", "Failed", "AzureContainerRegistry", &[]);
    assert!(matches!(world.view(&subject("app").to_string(), None), View::Refuses(Why::Held(_))));
}

#[test]
fn where_the_flag_is_about_to_be_kept_adoption_decides() {
    let mut world = World::new("Managed");
    world.registry("Managed", false);
    world.policy("p", &json!({}));
    assert_eq!(world.view(&subject("app").to_string(), None), View::NotKnown(Gap::Adopts));
    world.image("app", "Unmanaged", "None", &[]);
    assert_eq!(world.view(&subject("app").to_string(), None), View::NotKnown(Gap::Adopts));
}

#[test]
fn a_denied_digest_may_be_inside_what_nobody_has_read() {
    let mut world = World::new("Managed");
    world.policy("p", &json!({"deny": [{"digest": format!("sha256:{}", "b".repeat(64)), "reason": "r"}]}));
    world.image("app", "Released", "Managed", &[]);
    assert_eq!(world.view(&subject("app").to_string(), None), View::NotKnown(Gap::Inside));
    world.image("app", "Quarantined", "Managed", &[]);
    assert!(matches!(world.view(&subject("app").to_string(), None), View::Refuses(Why::Held(_))));
}

#[test]
fn the_processor_and_a_waiver_count_as_in_admission() {
    let mut world = World::new("Managed");
    world.policy("p", &json!({}));
    world.image("app", "Quarantined", "Managed", &[]);
    let text = subject("app").to_string();
    assert_eq!(world.judge(&text, None, "scanner")[0].2, View::Admits);
    assert!(matches!(world.judge(&text, None, "default")[0].2, View::Refuses(_)));
    let waiver = json!({"metadata": {"name": "w"}, "spec": {
        "requirements": ["Released"], "digests": [subject("app").digest().to_string()], "reason": "r", "by": "b", "expires": "2026-02-01T00:00:00Z",
    }});
    let waiver: Waiver = serde_json::from_value(waiver).unwrap();
    assert!(world.0.apply_waiver(&waiver));
    assert_eq!(world.judge(&text, None, "default")[0].2, View::Admits);
}

#[test]
fn what_is_new_is_told_apart_from_what_was_so_before() {
    let refuses = || View::Refuses(Why::NoDigest);
    let open = || View::NotKnown(Gap::Unseen);
    let stand = |policy: &'static str, mode, view| Stand { policy, mode, view };
    let (enforce, audit) = (Mode::Enforce, Mode::Audit);
    let admits = || View::Admits;
    // The policy in the file is `new`; `old` stays as it is.
    for (what, now, then, expected) in [
        ("a policy is added", vec![], vec![stand("new", audit, refuses())], "refused new"),
        ("it is content", vec![], vec![stand("new", enforce, admits())], "none"),
        ("it does not know", vec![], vec![stand("new", enforce, open())], "not known new"),
        ("it audited, and enforces", vec![stand("new", audit, refuses())], vec![stand("new", enforce, refuses())], "refused new"),
        ("it enforced before", vec![stand("new", enforce, refuses())], vec![stand("new", enforce, refuses())], "already new"),
        (
            "another enforces",
            vec![stand("old", enforce, refuses())],
            vec![stand("old", enforce, refuses()), stand("new", enforce, refuses())],
            "already old new",
        ),
        (
            "another audits",
            vec![stand("old", audit, refuses())],
            vec![stand("old", audit, refuses()), stand("new", enforce, refuses())],
            "refused new",
        ),
        ("another audits and nothing changes", vec![stand("old", audit, refuses())], vec![stand("old", audit, refuses())], "none"),
        (
            "a registry changes what another makes of it",
            vec![stand("old", audit, admits())],
            vec![stand("old", audit, refuses())],
            "refused old",
        ),
        ("or what it knows", vec![stand("old", enforce, admits())], vec![stand("old", enforce, open())], "not known old"),
        ("it did not know before either", vec![stand("old", enforce, open())], vec![stand("old", enforce, open())], "none"),
        ("it is milder than before", vec![stand("new", enforce, refuses())], vec![stand("new", enforce, admits())], "none"),
        ("one refuses, one does not know", vec![], vec![stand("new", enforce, refuses()), stand("new2", enforce, open())], "refused new"),
    ] {
        let names = |stands: Vec<&Stand<'_>>| stands.iter().map(|stand| stand.policy).collect::<Vec<_>>().join(" ");
        let effect = match compare(&now, &then, |policy| policy.starts_with("new")) {
            Effect::None => "none".to_owned(),
            Effect::Refused(stands) => format!("refused {}", names(stands)),
            Effect::Already(stands) => format!("already {}", names(stands)),
            Effect::NotKnown(stands) => format!("not known {}", names(stands)),
        };
        assert_eq!(effect, expected, "{what}");
    }
}

fn pod(name: &str, owner: Option<&str>, image: &str, volume: Option<&str>) -> RunningPod {
    let owner = owner.map(|owner| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true}));
    let volumes: Vec<_> = volume.iter().map(|reference| json!({"name": "v", "image": {"reference": reference}})).collect();
    let pod = json!({
        "metadata": {"uid": name, "namespace": "team", "name": name, "ownerReferences": owner.into_iter().collect::<Vec<_>>()},
        "spec": {"containers": [{"name": "c", "image": image}], "volumes": volumes},
        "status": {"phase": "Running", "containerStatuses": [{"name": "c", "imageID": subject("app").to_string()}]}
    });
    serde_json::from_value(pod).unwrap()
}

fn observe(world: &World, pods: &[RunningPod]) -> BTreeMap<Arc<str>, Seen> {
    let mut inventory = Inventory::default();
    for pod in pods {
        inventory.apply(pod);
    }
    let rules = world.0.rules();
    let mut observed = Observed::default();
    for namespace in inventory.namespaces() {
        let setting = Setting::new(&rules, Scope::Observe, &namespace, &BTreeMap::new(), now());
        observed.namespace(&setting, &namespace, &inventory.pods_in(&namespace), &world.0, now());
    }
    observed.end()
}

#[test]
fn a_policy_that_observes_is_told_what_it_would_refuse_of_what_runs() {
    let mut world = World::new("Managed");
    world.policy("audits", &json!({"mode": "Audit"}));
    world.policy("enforces", &json!({}));
    world.image("app", "Quarantined", "Managed", &[]);
    let app = "registry.corp/app:1";
    let seen = observe(
        &world,
        &[
            pod("web-1", Some("web"), app, None),
            pod("web-2", Some("web"), app, None),
            pod("alone", None, app, None),
            pod("other", None, "registry.corp/other:1", None),
            pod("volume", None, "registry.corp/other:1", Some(&subject("app").to_string())),
        ],
    );
    let seen = &seen["audits"];
    assert_eq!((seen.pods, seen.owners, seen.not_known), (4, 3, 1));
    let first: Vec<_> = seen.first.iter().map(|found| (&*found.pod, &*found.container, found.pods)).collect();
    assert_eq!(first, [("alone", "c", 1), ("volume", "volume", 1), ("web-1", "c", 2)]);
    assert_eq!(&*seen.first[0].reason, "in quarantine since 2026-01-01T00:00:00Z");
    assert_eq!(seen.first[2].image, app);
}

#[test]
fn of_many_the_first_are_listed_and_all_are_counted() {
    let mut world = World::new("Managed");
    world.policy("audits", &json!({"mode": "Warn"}));
    world.image("app", "Quarantined", "Managed", &[]);
    let pods: Vec<_> = (10..40).map(|number| pod(&format!("p{number}"), None, "registry.corp/app:1", None)).collect();
    let seen = &observe(&world, &pods)["audits"];
    assert_eq!((seen.pods, seen.owners, seen.first.len()), (30, 30, crate::api::MAX_WOULD_REFUSE));
    assert_eq!(&*seen.first[0].pod, "p10");
}
