//! What is read from files and standard input: always up to a limit.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Bytes that a manifest or a file of policies may have.
pub(super) const MANIFEST_LIMIT: usize = 16 << 20;
/// Bytes that a file of facts may have: some 20,000 image statuses.
pub(super) const FACTS_LIMIT: usize = 128 << 20;

/// How a source is named in messages.
pub(super) fn name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// Reads a file of text, or standard input for `-`.
pub(super) fn read(path: &Path, limit: usize) -> anyhow::Result<String> {
    String::from_utf8(read_bytes(path, limit)?).ok().with_context(|| format!("{} is not UTF-8 text", name(path)))
}

/// Reads a file, or standard input for `-`.
pub(super) fn read_bytes(path: &Path, limit: usize) -> anyhow::Result<Vec<u8>> {
    let bytes = if path == Path::new("-") { all(io::stdin().lock(), limit) } else { File::open(path).and_then(|file| all(file, limit)) };
    let bytes = bytes.with_context(|| format!("cannot read {}", name(path)))?;
    if bytes.len() > limit {
        let limit = if limit < 1 << 20 { format!("{} KiB", limit >> 10) } else { format!("{} MiB", limit >> 20) };
        bail!("{} has more than {limit}", name(path));
    }
    Ok(bytes)
}

/// At most one byte more than the limit.
fn all(from: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Every object in a text of YAML or JSON documents, with lists taken apart.
///
/// # Errors
/// A sentence that names the source and no content.
pub(super) fn objects(text: &str, source: &str) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in documents(text).with_context(|| format!("cannot read {source}"))? {
        take_apart(document, &mut objects).with_context(|| format!("cannot read {source}"))?;
    }
    Ok(objects)
}

fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    // JSON is nearly YAML; what kubectl prints is read ten times faster as what it is.
    if text.trim_start().starts_with('{')
        && let Ok(documents) = serde_json::Deserializer::from_str(text).into_iter().collect()
    {
        return Ok(documents);
    }
    let most = text.len() + 1_024;
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    // The text is bounded, and so are these; what aliases could make of them has limits of its own.
    if let Some(budget) = &mut options.budget {
        budget.max_events = most;
        budget.max_nodes = most;
        budget.max_documents = most;
    }
    Ok(serde_saphyr::from_multiple_with_options(text, options)?)
}

fn take_apart(document: Value, objects: &mut Vec<Value>) -> anyhow::Result<()> {
    let Value::Object(mut object) = document else { bail!("a document is not an object with kind and metadata") };
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let item_kind = kind.strip_suffix("List").filter(|_| object.get("items").is_some_and(Value::is_array));
    let Some(item_kind) = item_kind else {
        if kind.is_empty() {
            bail!("a document has no kind");
        }
        objects.push(Value::Object(object));
        return Ok(());
    };
    let version = object.get("apiVersion").cloned();
    let Some(Value::Array(items)) = object.remove("items") else { return Ok(()) };
    for mut item in items {
        // The items of a PodList do not say that they are pods.
        if let Some(fields) = item.as_object_mut().filter(|_| !item_kind.is_empty()) {
            fields.entry("kind").or_insert_with(|| item_kind.into());
            if let Some(version) = &version {
                fields.entry("apiVersion").or_insert_with(|| version.clone());
            }
        }
        take_apart(item, objects)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<String> {
        objects(text, "x").unwrap().iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn documents_come_as_yaml_as_json_and_in_lists() {
        assert_eq!(kinds("kind: A\n---\n# nothing\n---\nkind: B\n"), ["A", "B"]);
        assert_eq!(kinds("{\"kind\":\"A\"}\n{\"kind\":\"B\"}"), ["A", "B"]);
        assert_eq!(kinds("{kind: A}"), ["A"], "a YAML mapping may begin as JSON does");
        assert_eq!(kinds("kind: List\nitems:\n- kind: A\n- kind: List\n  items: [{kind: B}]\n"), ["A", "B"]);
        assert_eq!(kinds("kind: PodList\napiVersion: v1\nitems: [{metadata: {}}]"), ["Pod"]);
        assert_eq!(objects("kind: PodList\napiVersion: v1\nitems: [{metadata: {}}]", "x").unwrap()[0]["apiVersion"], "v1");
        assert_eq!(kinds(""), [""; 0]);
    }

    #[test]
    fn what_is_no_object_is_named_without_its_content() {
        let error = |text: &str| format!("{:#}", objects(text, "f.yaml").unwrap_err());
        assert_eq!(error("- a"), "cannot read f.yaml: a document is not an object with kind and metadata");
        assert_eq!(error("a: b"), "cannot read f.yaml: a document has no kind");
        let broken = error("password: hunter2\n  x: [");
        assert!(broken.starts_with("cannot read f.yaml: ") && !broken.contains("hunter2"), "{broken}");
    }

    #[test]
    fn aliases_do_not_multiply_without_end() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            text += &format!("a{level}: &a{level} [{before}]\n");
        }
        objects(&(text + "kind: A\n"), "bomb").unwrap_err();
    }

    #[test]
    fn reading_stops_at_the_limit() {
        assert_eq!(all(io::repeat(b'x'), 10).unwrap().len(), 11);
    }
}
