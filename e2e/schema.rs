//! The fields of a pod that name container images, derived from the API server's own schema: a release of Kubernetes that adds one
//! fails here. Until somebody has decided what such a field is, it would be a way round every policy.

use std::collections::{BTreeMap, BTreeSet};

use lazaretto::pod;
use serde_json::{Value, json};

use crate::lab::Lab;

/// What a string is whose name or description speaks of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// The node pulls what it names: it must be judged.
    Pulled,
    /// The node pulls nothing by it, for this reason.
    Not(&'static str),
}
use Field::{Not, Pulled};

const PULL_POLICY: Field = Not("when to pull, not what");
const WINDOWS_USER: Field = Not("a user; the image's metadata hold the default");
const WORKING_DIRECTORY: Field = Not("a folder; the image may hold the default");

const KNOWN: &[(&str, Field)] = &[
    ("spec.containers[].image", Pulled),
    ("spec.containers[].imagePullPolicy", PULL_POLICY),
    ("spec.containers[].securityContext.windowsOptions.runAsUserName", WINDOWS_USER),
    ("spec.containers[].workingDir", WORKING_DIRECTORY),
    ("spec.ephemeralContainers[].image", Pulled),
    ("spec.ephemeralContainers[].imagePullPolicy", PULL_POLICY),
    ("spec.ephemeralContainers[].securityContext.windowsOptions.runAsUserName", WINDOWS_USER),
    ("spec.ephemeralContainers[].workingDir", WORKING_DIRECTORY),
    ("spec.imagePullSecrets[].name", Not("a Secret")),
    ("spec.initContainers[].image", Pulled),
    ("spec.initContainers[].imagePullPolicy", PULL_POLICY),
    ("spec.initContainers[].securityContext.windowsOptions.runAsUserName", WINDOWS_USER),
    ("spec.initContainers[].workingDir", WORKING_DIRECTORY),
    ("spec.securityContext.supplementalGroupsPolicy", Not("whether the groups in the image count")),
    ("spec.securityContext.windowsOptions.runAsUserName", WINDOWS_USER),
    ("spec.volumes[].image.pullPolicy", PULL_POLICY),
    ("spec.volumes[].image.reference", Pulled),
    ("spec.volumes[].quobyte.registry", Not("the addresses of a file system's servers")),
    ("spec.volumes[].rbd.image", Not("a block device in a Ceph cluster")),
];

#[tokio::test]
async fn every_field_that_names_an_image_is_judged() {
    let lab = Lab::start().await;
    let document = lab.kubectl(&["get", "--raw", "/openapi/v3/api/v1"]).await.ok().stdout;
    let document: Value = serde_json::from_str(&document).unwrap();
    let mut fields = BTreeMap::new();
    walk(&document, "io.k8s.api.core.v1.PodSpec", "spec", &mut BTreeSet::new(), &mut fields);
    let known: BTreeMap<&str, Field> = KNOWN.iter().copied().collect();
    let new: Vec<_> = fields.iter().filter(|(path, _)| !known.contains_key(path.as_str())).collect();
    assert!(new.is_empty(), "a node may pull by these: read them in src/pod.rs, or say in KNOWN why they name no image: {new:#?}");
    let gone: Vec<_> = known.keys().filter(|path| !fields.contains_key(**path)).collect();
    assert!(gone.is_empty(), "the API server's schema has these no more, or they no longer speak of images: {gone:#?}");

    // And what is pulled is what the program reads.
    for (path, _) in known.iter().filter(|(_, field)| **field == Pulled) {
        let image = format!("registry.corp/{}", path.len());
        let pod = with_field(path, &image).to_string();
        let pod = pod::read(&pod).unwrap();
        let named: Vec<_> = pod.images().map(|named| (named.path(), named.image.to_owned())).collect();
        assert_eq!(named, [(path.replace("[]", "[n]"), image)], "src/pod.rs does not read {path}");
    }
}

/// Collects every string below a schema whose name or description speaks of images, with its description.
fn walk(document: &Value, name: &str, path: &str, above: &mut BTreeSet<String>, fields: &mut BTreeMap<String, String>) {
    if !above.insert(name.to_owned()) {
        return; // a schema inside itself
    }
    let schema = &document["components"]["schemas"][name];
    assert!(schema.is_object(), "{name} is not in the document");
    for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
        visit(document, schema, &format!("{path}.{property}"), above, fields);
    }
    above.remove(name);
}

fn visit(document: &Value, schema: &Value, path: &str, above: &mut BTreeSet<String>, fields: &mut BTreeMap<String, String>) {
    if let Some(reference) = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str()) {
        walk(document, reference.rsplit('/').next().unwrap(), path, above, fields);
    } else if schema["items"].is_object() {
        visit(document, &schema["items"], &format!("{path}[]"), above, fields);
    } else if schema["additionalProperties"].is_object() {
        visit(document, &schema["additionalProperties"], &format!("{path}{{}}"), above, fields);
    } else if schema["type"] == "string" {
        let description = schema["description"].as_str().unwrap_or_default();
        if speaks_of_images(path, description) {
            fields.insert(path.to_owned(), description.to_owned());
        }
    }
}

/// Rather too often than too seldom: who is wrongly suspected is put into [`KNOWN`] once.
fn speaks_of_images(path: &str, description: &str) -> bool {
    let text = format!("{path} {description}").to_lowercase();
    let words = || text.split(|character: char| !character.is_ascii_alphanumeric());
    ["image", "artifact"].iter().any(|part| text.contains(part))
        || words().any(|word| word == "oci" || word.starts_with("pull") || word.starts_with("registr"))
}

/// A pod with one field set. Whatever is in a list on the way there is called `n`.
fn with_field(path: &str, value: &str) -> Value {
    let innermost = json!(value);
    path.split('.').rev().fold(innermost, |inner, part| match part.strip_suffix("[]") {
        Some(list) => {
            let mut item = inner;
            item["name"] = json!("n");
            json!({ list: [item] })
        }
        None => json!({ part: inner }),
    })
}

#[test]
fn a_new_field_would_be_noticed() {
    let document = json!({ "components": { "schemas": {
        "Spec": { "properties": {
            "warmUps": { "type": "array", "items": { "allOf": [{ "$ref": "#/components/schemas/WarmUp" }] } },
            "label": { "type": "string", "description": "Anything." },
            "again": { "$ref": "#/components/schemas/Spec" },
        } },
        "WarmUp": { "properties": {
            "source": { "type": "string", "description": "What the node pulls beforehand." },
            "byArchitecture": { "type": "object", "additionalProperties": { "type": "string", "description": "An OCI artefact." } },
            "imageCount": { "type": "integer" },
        } },
    } } });
    let mut fields = BTreeMap::new();
    walk(&document, "Spec", "spec", &mut BTreeSet::new(), &mut fields);
    let paths: Vec<_> = fields.into_keys().collect();
    assert_eq!(paths, ["spec.warmUps[].byArchitecture{}", "spec.warmUps[].source"]);
}
