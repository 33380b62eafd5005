use super::*;

fn pod(json: serde_json::Value) -> RunningPod {
    serde_json::from_value(json).unwrap()
}

fn json(name: &str, uid: &str, image: &str, image_id: &str) -> serde_json::Value {
    let owner = serde_json::json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "o", "controller": true});
    serde_json::json!({
        "metadata": {"uid": uid, "namespace": "n", "name": name, "ownerReferences": [owner]},
        "spec": {
            "containers": [{"name": "c", "image": image}], "initContainers": [{"name": "i", "image": "x"}],
            "volumes": [{"name": "v", "image": {"reference": "registry.corp/data:1"}}, {"name": "w"}], "imagePullSecrets": [{"name": "s"}],
        },
        "status": {"phase": "Running", "containerStatuses": [{"name": "c", "imageID": image_id}]}
    })
}

#[test]
fn a_pod_is_held_until_it_ends() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let mut json = json("p", "u", "registry.corp/app:1", &format!("registry.corp/app@{digest}"));
    let mut inventory = Inventory::default();
    assert!(inventory.apply(&pod(json.clone())));
    assert!(!inventory.apply(&pod(json.clone())), "the same again is no change");
    let (namespace, name, held) = inventory.pods().next().unwrap();
    assert_eq!((namespace.as_ref(), name.as_ref(), held.make.containers.len()), ("n", "p", 2));
    let image = &held.make.containers[1].image;
    assert_eq!(image.subject.as_ref().map(ToString::to_string), Some(format!("registry.corp/app@{digest}")));
    assert_eq!(held.make.containers[0].image.subject, None, "not pulled yet");
    assert_eq!((held.make.volumes[0].as_ref(), held.make.pull_secrets[0].as_ref()), ("registry.corp/data:1", "s"));
    assert_eq!(held.owner.as_ref().map(|owner| owner.kind.as_str()), Some("ReplicaSet"));
    json["status"]["phase"] = "Succeeded".into();
    assert!(inventory.apply(&pod(json)));
    assert!(inventory.is_empty() && inventory.namespaces().is_empty());
}

#[test]
fn a_list_takes_out_what_is_not_in_it() {
    let mut inventory = Inventory::default();
    for name in ["a", "b", "c"] {
        inventory.apply(&pod(json(name, name, "x", "")));
    }
    inventory.begin();
    assert!(!inventory.apply(&pod(json("a", "a", "x", ""))));
    inventory.apply(&pod(json("d", "d", "x", "")));
    assert_eq!(inventory.len(), 4, "nothing goes before the list has ended");
    inventory.end();
    let names: Vec<_> = inventory.pods().map(|(_, name, _)| name.to_string()).collect();
    assert_eq!((names, inventory.len()), (vec!["a".to_owned(), "d".to_owned()], 2));
}

#[test]
fn the_end_of_a_pod_is_not_that_of_its_namesake() {
    let mut inventory = Inventory::default();
    let (old, new) = (pod(json("p", "1", "x", "")), pod(json("p", "2", "x", "")));
    inventory.apply(&old);
    inventory.apply(&new);
    assert!(!inventory.delete(&old));
    assert_eq!(inventory.len(), 1);
    assert!(inventory.delete(&new));
}

#[test]
fn what_many_pods_say_is_held_once_and_forgotten_with_the_last() {
    let mut inventory = Inventory::default();
    for number in 0..1_000 {
        let name = format!("p{number}");
        inventory.apply(&pod(json(&name, &name, "registry.corp/app:1", "")));
    }
    assert_eq!((inventory.images.len(), inventory.owners.len(), inventory.makes.len()), (2, 1, 1));
    inventory.begin();
    inventory.end();
    assert_eq!((inventory.images.len(), inventory.owners.len(), inventory.texts.len(), inventory.makes.len()), (0, 0, 0, 0));
}

#[test]
fn an_image_is_named_since_the_last_change_of_an_image() {
    let entry = |time: &str, fields: serde_json::Value| serde_json::json!({"manager": "m", "operation": "Update", "time": time, "fieldsType": "FieldsV1", "fieldsV1": fields});
    let template = |inner: serde_json::Value| serde_json::json!({"f:spec": {"f:template": {"f:spec": inner}}});
    let image = serde_json::json!({"f:containers": {r#"k:{"name":"c"}"#: {".": {}, "f:image": {}}}});
    let since = |entries: Vec<serde_json::Value>| {
        let metadata = serde_json::json!({"creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": entries});
        named_since(&serde_json::from_value(metadata).unwrap()).map_or_else(String::new, |since| since.to_string())
    };
    assert_eq!(since(vec![]), "", "who knows when it was changed");
    let made = entry("2026-01-01T00:00:00Z", template(image.clone()));
    let scaled = entry("2026-01-03T00:00:00Z", serde_json::json!({"f:spec": {"f:replicas": {}}}));
    let reported = entry("2026-01-04T00:00:00Z", serde_json::json!({"f:status": {"f:image": {}}}));
    assert_eq!(since(vec![made.clone(), scaled.clone(), reported.clone()]), "2026-01-01T00:00:00Z");
    let changed = entry("2026-01-02T00:00:00Z", template(image.clone()));
    assert_eq!(since(vec![made, scaled, changed, reported]), "2026-01-02T00:00:00Z");
    let pod = entry("2026-01-02T00:00:00Z", serde_json::json!({"f:spec": image}));
    assert_eq!(since(vec![pod]), "2026-01-02T00:00:00Z");
}

#[test]
fn what_nodes_report_is_read_in_each_form() {
    let digest = format!("sha256:{}", "b".repeat(64));
    for text in
        [digest.clone(), format!("docker.io/library/x@{digest}"), format!("docker-pullable://x@{digest}"), format!("docker://{digest}")]
    {
        assert_eq!(running_digest(&text).map(|digest| digest.to_string()), Some(digest.clone()), "{text}");
    }
    assert_eq!(running_digest(""), None);
    assert_eq!(running_digest("docker.io/library/x:1"), None);
}
