//! Label selectors as the API server takes them in a webhook configuration. The schema of a resource takes more, and one selector that the
//! API server refuses there would keep every entry from being written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Bytes of a label's name, and of its value (apimachinery, `pkg/util/validation`).
const MOST_BYTES: usize = 63;
/// Bytes of a key's prefix.
const MOST_PREFIX_BYTES: usize = 253;

/// # Errors
/// A sentence that names the first thing that the API server would refuse.
pub(super) fn check(selector: &LabelSelector) -> Result<(), String> {
    for (name, text) in selector.match_labels.iter().flatten() {
        key(name)?;
        value(text)?;
    }
    for requirement in selector.match_expressions.iter().flatten() {
        key(&requirement.key)?;
        let values = requirement.values.as_deref().unwrap_or_default();
        match (requirement.operator.as_str(), values.is_empty()) {
            ("In" | "NotIn", false) | ("Exists" | "DoesNotExist", true) => {}
            ("In" | "NotIn", true) => return Err(format!("{} of `{}` needs values", requirement.operator, clip(&requirement.key))),
            ("Exists" | "DoesNotExist", false) => {
                return Err(format!("{} of `{}` takes no values", requirement.operator, clip(&requirement.key)));
            }
            (other, _) => return Err(format!("`{}` is no operator: write In, NotIn, Exists or DoesNotExist", clip(other))),
        }
        values.iter().try_for_each(|text| value(text))?;
    }
    Ok(())
}

fn key(text: &str) -> Result<(), String> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let domain = |prefix: &str| {
        let part = |part: &str| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !part.is_empty() && !part.starts_with('-') && !part.ends_with('-') && part.bytes().all(plain)
        };
        prefix.len() <= MOST_PREFIX_BYTES && prefix.split('.').all(part)
    };
    if prefix.is_none_or(domain) && !name.is_empty() && is_word(name) { Ok(()) } else { Err(format!("`{}` is no label key", clip(text))) }
}

fn value(text: &str) -> Result<(), String> {
    if text.is_empty() || is_word(text) { Ok(()) } else { Err(format!("`{}` is no label value", clip(text))) }
}

/// Letters, digits, `-`, `_` and `.`, a letter or digit at both ends.
fn is_word(text: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= MOST_BYTES
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn clip(text: &str) -> String {
    crate::history::clip(text, 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Result<(), String> {
        check(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn what_a_webhook_configuration_would_not_take_is_told() {
        let expression = |key: &str, operator: &str, values: &[&str]| serde_json::json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] });
        for (selector, why) in [
            (serde_json::json!({ "matchLabels": { "in valid": "x" } }), "`in valid` is no label key"),
            (serde_json::json!({ "matchLabels": { "Corp/x": "x" } }), "`Corp/x` is no label key"),
            (serde_json::json!({ "matchLabels": { "a": "not a value!" } }), "`not a value!` is no label value"),
            (expression("a", "In", &[]), "In of `a` needs values"),
            (expression("a", "Exists", &["b"]), "Exists of `a` takes no values"),
            (expression("a", "Near", &["b"]), "`Near` is no operator: write In, NotIn, Exists or DoesNotExist"),
            (expression("a/", "Exists", &[]), "`a/` is no label key"),
            (expression("a", "NotIn", &["-b"]), "`-b` is no label value"),
        ] {
            assert_eq!(read(selector), Err(why.to_owned()));
        }
        let long = "x".repeat(64);
        assert!(read(serde_json::json!({ "matchLabels": { "a": long } })).is_err());
        assert_eq!(read(serde_json::json!({ "matchLabels": { "kubernetes.io/metadata.name": "A_b.c-9", "x": "" } })), Ok(()));
        assert_eq!(read(expression("team", "DoesNotExist", &[])), Ok(()));
    }
}
