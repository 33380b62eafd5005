//! The attributes that `/acr/v1/<repository>/_manifests/<digest>` shows. Pure.
//!
//! The form is that of the data-plane API (preview 2019-08-15): everything but the digest may be missing, and what has another type than expected is
//! as good as missing. `quarantineDetails` are a JSON document in a string; whoever may judge writes it.

use jiff::Timestamp;
use serde_json::Value;
use url::Url;

use crate::{api::State, facts::Child, history, image::Digest};

/// Characters of a scanner's name.
const MOST_NAME: usize = 64;
/// Characters of a summary.
const MOST_SUMMARY: usize = 256;
/// Longer details are not searched for what they say.
const MOST_DETAILS: usize = 64 << 10;
/// Severities in one summary; the schema permits as many.
const MOST_SEVERITIES: usize = 5;
/// References of an index that are kept.
const MOST_REFERENCES: usize = 64;

/// What matters of the attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    /// What the word means.
    pub state: State,
    /// The state's own word, cut; none when the field is missing or no string.
    pub word: Option<String>,
    /// When the image was pushed or last tagged.
    pub since: Option<Timestamp>,
    /// Who judged, by its own account; may be empty.
    pub scanner: String,
    /// The details for people: one line of at most 256 characters; may be empty.
    pub summary: String,
    /// The images of an index.
    pub children: Vec<Child>,
}

impl Attributes {
    /// Reads an answer, which must be about this digest.
    ///
    /// # Errors
    /// A sentence, when it is about another one or about none.
    pub fn read(answer: &Value, digest: &Digest) -> Result<Self, String> {
        let manifest = &answer["manifest"];
        match manifest["digest"].as_str() {
            Some(named) if named == digest.to_string() => {}
            Some(named) => {
                return Err(format!("asked for the attributes of {digest}, the registry answered with those of {}", clip(named, 80)));
            }
            None => return Err("the registry's answer holds no attributes of a manifest".to_owned()),
        }
        let changeable = &manifest["changeableAttributes"];
        let word = changeable["quarantineState"].as_str();
        let time = |name: &str| manifest[name].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        let (scanner, summary) = summarise(changeable["quarantineDetails"].as_str().unwrap_or_default());
        Ok(Self {
            state: state(word),
            word: word.map(|word| clip(word, MOST_NAME)),
            since: time("lastUpdateTime").or_else(|| time("createdTime")),
            scanner,
            summary,
            children: children(&manifest["references"]),
        })
    }

    /// An image whose attributes are not shown.
    pub const fn unknown() -> Self {
        Self { state: State::Quarantined, word: None, since: None, scanner: String::new(), summary: String::new(), children: Vec::new() }
    }

    /// An image that is known to be in quarantine, though its attributes are not shown.
    pub fn quarantined() -> Self {
        Self { word: Some("Quarantined".to_owned()), ..Self::unknown() }
    }

    /// Why the image is in its state, for people.
    pub fn reason(&self) -> String {
        match (self.state, self.word.as_deref()) {
            (State::Released, _) => "released at the registry".to_owned(),
            (State::Failed, _) => "failed at the registry".to_owned(),
            (_, Some(word)) if word.eq_ignore_ascii_case("Quarantined") => "nobody has judged it yet at the registry".to_owned(),
            (_, Some(word)) => format!("the registry says `{word}`, which is not Passed"),
            (_, None) => {
                "the registry gives it no quarantine state: nobody has judged it yet, or the registry's quarantine policy is off".to_owned()
            }
        }
    }
}

fn state(word: Option<&str>) -> State {
    match word {
        Some(word) if word.eq_ignore_ascii_case("Passed") => State::Released,
        Some(word) if word.eq_ignore_ascii_case("Failed") => State::Failed,
        _ => State::Quarantined,
    }
}

/// The images that an index refers to, but for attestations, whose platform is `unknown`.
fn children(references: &Value) -> Vec<Child> {
    let word = |reference: &Value, name: &str| reference[name].as_str().unwrap_or("?").to_owned();
    references
        .as_array()
        .into_iter()
        .flatten()
        .take(MOST_REFERENCES)
        .filter(|reference| word(reference, "os") != "unknown")
        .filter_map(|reference| {
            let digest = reference["digest"].as_str()?.parse().ok()?;
            Some(Child { digest, platform: clip(&format!("{}/{}", word(reference, "os"), word(reference, "architecture")), MOST_NAME) })
        })
        .collect()
}

/// Who judged, and the details in one line. What is not JSON is shown as it is: some write no more than a link.
fn summarise(details: &str) -> (String, String) {
    let details = details.trim();
    if details.is_empty() || details.len() > MOST_DETAILS {
        return (String::new(), String::new());
    }
    let Ok(Value::Object(read)) = serde_json::from_str::<Value>(details) else {
        return (String::new(), clip(&without_secrets(details), MOST_SUMMARY));
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().trim().to_owned();
    let result = read.get("result");
    let scanner = clip(&text(read.get("scanner")), MOST_NAME);
    let counts: Vec<String> = result
        .and_then(|result| result["summary"].as_array())
        .into_iter()
        .flatten()
        .take(MOST_SEVERITIES)
        .filter_map(|row| {
            let count = row["count"].as_u64().filter(|count| *count > 0)?;
            Some(format!("{count} {}", clip(row["severity"].as_str()?, MOST_NAME)))
        })
        .collect();
    let parts = [
        scanner.clone(),
        text(read.get("state")),
        counts.join(", "),
        text(result.and_then(|result| result.get("description"))),
        without_secrets(&text(read.get("link"))),
    ];
    let line = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    (scanner, clip(&line, MOST_SUMMARY))
}

/// A link without its user information, query and fragment, which may hold the right to read what it leads to. Other text as it is.
fn without_secrets(text: &str) -> String {
    let Ok(mut link) = Url::parse(text) else { return text.to_owned() };
    if link.cannot_be_a_base() {
        return text.to_owned();
    }
    let _no_host = (link.set_username(""), link.set_password(None));
    link.set_query(None);
    link.set_fragment(None);
    link.into()
}

/// One line of at most so many characters.
pub(super) fn clip(text: &str, most: usize) -> String {
    history::clip(&text.split_whitespace().collect::<Vec<_>>().join(" "), most)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DIGEST: &str = "sha256:09ade42fe3e69018a3360bb092265af902f9e7d6013146cf152c82ac3a944707";
    const OTHER: &str = "sha256:c858f11a33569b994e7d898d2a8ef40d61218507dc3e2f2d827f8802682a7d1a";

    fn read(manifest: &Value) -> Result<Attributes, String> {
        Attributes::read(
            &json!({ "registry": "lazdemo.azurecr.io", "imageName": "tide/gate", "manifest": manifest }),
            &DIGEST.parse().unwrap(),
        )
    }

    fn of_state(state: &Value) -> Attributes {
        read(&json!({ "digest": DIGEST, "changeableAttributes": { "quarantineState": state } })).unwrap()
    }

    fn of_details(details: &str) -> (String, String) {
        let read = read(&json!({ "digest": DIGEST, "changeableAttributes": { "quarantineDetails": details } })).unwrap();
        (read.scanner, read.summary)
    }

    #[test]
    fn only_passed_is_released() {
        for word in ["Passed", "passed", "PASSED"] {
            assert_eq!(of_state(&json!(word)).state, State::Released, "{word}");
        }
        for word in ["Failed", "failed"] {
            assert_eq!(of_state(&json!(word)).state, State::Failed, "{word}");
        }
        let others = ["Quarantined", "quarantined", "", " Passed ", "Passed?", "ScanStarted", "ScanSucceeded", "Released", "true"];
        for word in
            others.map(|word| json!(word)).into_iter().chain([json!(null), json!(true), json!(["Passed"]), json!({ "state": "Passed" })])
        {
            assert_eq!(of_state(&word).state, State::Quarantined, "{word}");
        }
    }

    #[test]
    fn reasons_say_what_is_the_case() {
        assert_eq!(of_state(&json!("Passed")).reason(), "released at the registry");
        assert_eq!(of_state(&json!("failed")).reason(), "failed at the registry");
        assert_eq!(of_state(&json!("quarantined")).reason(), "nobody has judged it yet at the registry");
        assert_eq!(of_state(&json!("ScanStarted")).reason(), "the registry says `ScanStarted`, which is not Passed");
        assert_eq!(
            of_state(&Value::Null).reason(),
            "the registry gives it no quarantine state: nobody has judged it yet, or the registry's quarantine policy is off"
        );
    }

    #[test]
    fn everything_but_the_digest_may_be_missing_or_of_another_type() {
        let bare = read(&json!({ "digest": DIGEST })).unwrap();
        assert_eq!(bare, Attributes::unknown());
        let odd = read(&json!({
            "digest": DIGEST, "lastUpdateTime": 7, "createdTime": "yesterday", "references": "none", "tags": {},
            "changeableAttributes": ["quarantineState"],
        }));
        assert_eq!(odd.unwrap(), Attributes::unknown());
    }

    #[test]
    fn an_answer_about_another_manifest_is_none() {
        assert_eq!(
            read(&json!({ "digest": OTHER, "changeableAttributes": { "quarantineState": "Passed" } })).unwrap_err(),
            format!("asked for the attributes of {DIGEST}, the registry answered with those of {OTHER}")
        );
        for answer in
            [json!({}), json!([]), json!("Passed"), json!({ "manifest": { "digest": 7 } }), json!({ "manifests": [{ "digest": DIGEST }] })]
        {
            let error = Attributes::read(&answer, &DIGEST.parse().unwrap()).unwrap_err();
            assert_eq!(error, "the registry's answer holds no attributes of a manifest", "{answer}");
        }
    }

    #[test]
    fn times_have_seven_fractional_digits() {
        let both =
            json!({ "digest": DIGEST, "createdTime": "2026-02-11T09:14:03.5512345Z", "lastUpdateTime": "2026-02-12T00:00:00.0000001Z" });
        assert_eq!(read(&both).unwrap().since.unwrap().to_string(), "2026-02-12T00:00:00.0000001Z");
        let created = json!({ "digest": DIGEST, "createdTime": "2026-02-11T09:14:03.5512345Z" });
        assert_eq!(read(&created).unwrap().since.unwrap().to_string(), "2026-02-11T09:14:03.5512345Z");
    }

    #[test]
    fn details_become_one_line() {
        let full = json!({
            "scanner": "MoleScan", "state": "blocked", "link": "https://scan.example/r/78",
            "result": { "version": "1.2.0", "summary": [{ "severity": "Critical", "count": 3 }, { "severity": "High", "count": 0 }, { "severity": "Low", "count": 2 }], "description": "see\nthe report" },
        });
        assert_eq!(
            of_details(&full.to_string()),
            ("MoleScan".into(), "MoleScan; blocked; 3 Critical, 2 Low; see the report; https://scan.example/r/78".into())
        );
        assert_eq!(of_details(r#"{"state":"scan passed"}"#), (String::new(), "scan passed".into()));
    }

    #[test]
    fn details_that_are_nothing_or_no_json_are_survived() {
        for nothing in ["", "  ", "{}", r#"{"scanner":7,"result":"x","link":[]}"#, r#"{"result":{"summary":[1,null,{"count":"3"}]}}"#] {
            assert_eq!(of_details(nothing), (String::new(), String::new()), "{nothing}");
        }
        assert_eq!(of_details("looked fine to me"), (String::new(), "looked fine to me".into()));
        assert_eq!(of_details(r#"{"scanner":"Mole"#), (String::new(), r#"{"scanner":"Mole"#.into()));
        assert_eq!(of_details("[1,2]"), (String::new(), "[1,2]".into()));
    }

    #[test]
    fn a_link_gives_away_no_secret() {
        for details in [
            "https://robot:hunter2@scan.example/r/78?sig=secret#token=secret".to_owned(),
            json!({ "link": "https://robot:hunter2@scan.example/r/78?sig=secret#token=secret" }).to_string(),
        ] {
            assert_eq!(of_details(&details).1, "https://scan.example/r/78", "{details}");
        }
    }

    #[test]
    fn what_a_scanner_writes_is_bounded_and_one_line() {
        let long = json!({ "scanner": format!("Mole\u{1b}[31m{}", "x".repeat(400)), "state": "s".repeat(400) }).to_string();
        let (scanner, summary) = of_details(&long);
        assert!(scanner.starts_with("Mole[31mx"), "{scanner}");
        assert_eq!((scanner.chars().count(), summary.chars().count()), (64, 256));
        assert_eq!(of_details(&"x".repeat(MOST_DETAILS + 1)), (String::new(), String::new()));
        assert_eq!(of_state(&json!("w".repeat(400))).word.unwrap().len(), 64);
    }

    #[test]
    fn references_are_the_images_of_an_index() {
        let index = json!({ "digest": DIGEST, "references": [
            { "digest": OTHER, "architecture": "arm64", "os": "linux" },
            { "digest": OTHER, "architecture": "unknown", "os": "unknown" },
            { "digest": "sha256:short", "architecture": "amd64", "os": "linux" },
            { "architecture": "amd64", "os": "linux" },
        ] });
        assert_eq!(read(&index).unwrap().children, [Child { digest: OTHER.parse().unwrap(), platform: "linux/arm64".into() }]);
    }
}
