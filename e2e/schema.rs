//! The fields of a pod that name container images, as the API server's own schema has them: a release of Kubernetes that adds one fails
//! here, and until somebody has decided what it is, it would be a way round every policy.

use std::collections::{BTreeMap, BTreeSet};

use lazaretto::pod;
use serde_json::{Value, json};

use crate::lab::Lab;

/// What a field is whose name or description speaks of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// The node pulls what it names: judged.
    Pulled,
    /// It names no container image, for this reason.
    Not(&'static str),
}
use Field::{Not, Pulled};

const KNOWN: &[(&str, Field)] = &[
    ("spec.containers[].image", Pulled),
    ("spec.initContainers[].image", Pulled),
    ("spec.ephemeralContainers[].image", Pulled),
    ("spec.volumes[].image.reference", Pulled),
];

/// Why a field that speaks of images is none that pulls, by its last two names.
const NOT: &[(&str, &str)] = &[];

#[tokio::test]
async fn every_field_that_names_an_image_is_judged() {
    let lab = Lab::start().await;
    let document = lab.kubectl(&["get", "--raw", "/openapi/v3/api/v1"]).await.ok().stdout;
    let document: Value = serde_json::from_str(&document).unwrap();
    let mut fields = BTreeMap::new();
    walk(&document, "io.k8s.api.core.v1.PodSpec", "spec", &mut BTreeSet::new(), &mut fields);
    for (path, description) in &fields {
        println!("{path}\t{description}");
    }
    let _ = (KNOWN, NOT, Not("x"), json!({}), pod::read("{}"));
    panic!("look");
}

/// Collects every string below a schema whose name or description speaks of images.
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
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    if let Some(reference) = reference {
        walk(document, reference.rsplit('/').next().unwrap(), path, above, fields);
    } else if schema["items"].is_object() {
        visit(document, &schema["items"], &format!("{path}[]"), above, fields);
    } else if schema["additionalProperties"].is_object() {
        visit(document, &schema["additionalProperties"], &format!("{path}{{}}"), above, fields);
    } else {
        let description = schema["description"].as_str().unwrap_or_default();
        if speaks_of_images(path, description) {
            fields.insert(path.to_owned(), description.to_owned());
        }
    }
}

fn speaks_of_images(path: &str, description: &str) -> bool {
    let text = format!("{path} {description}").to_lowercase();
    ["image", "artifact", "oci", "registry", "pull"].iter().any(|word| text.contains(word))
}
