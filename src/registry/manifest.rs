//! Reading an image manifest or index (OCI image specification 1.1, Docker schema 2).
//!
//! What two readers might read differently is refused: a document that is both index and manifest, or whose media type is not the one that it was served under.

use std::str::FromStr;

use serde::Deserialize;

use crate::{
    facts::{Child, Manifest},
    image::Digest,
};

/// The media types of an index.
const INDEXES: [&str; 2] = ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// The media types of an image manifest.
const MANIFESTS: [&str; 2] = ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// What is asked for, always all of it: without, some registries answer with a converted or an old form that has another digest.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// More images than this in one index, those of nested indexes included, are refused.
pub(super) const MOST_CHILDREN: usize = 512;

/// One document, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) media_type: String,
    pub(super) manifest: Manifest,
    /// Indexes within this index.
    pub(super) nested: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u8,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: Option<String>,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
    variant: String,
}

/// Reads a manifest or index. `content_type`: as served, with or without parameters.
///
/// # Errors
/// A sentence about what the registry served.
pub(super) fn read(content_type: Option<&str>, bytes: &[u8]) -> Result<Document, String> {
    let wire: Wire = match serde_json::from_slice(bytes) {
        Ok(wire) => wire,
        Err(error) => {
            return Err(format!("the registry served a manifest that cannot be read (line {}, column {})", error.line(), error.column()));
        }
    };
    if wire.schema_version == 1 || wire.fs_layers.is_some() {
        return Err(
            "the image has an old manifest (schema 1), which Lazaretto does not read and containerd does not run: push the image again"
                .to_owned(),
        );
    }
    if wire.schema_version != 2 {
        return Err(format!("the registry served a manifest of schema version {}, which nobody knows", wire.schema_version));
    }
    let served =
        content_type.map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()).filter(|value| !value.is_empty());
    let media_type = match (served, wire.media_type) {
        (Some(served), Some(written)) if served != written => {
            return Err(format!("the registry served a manifest as `{}` that says of itself `{}`", cut(&served), cut(&written)));
        }
        (Some(either), _) | (None, Some(either)) => either,
        (None, None) => return Err("the registry served a manifest without a media type".to_owned()),
    };
    let is_index = INDEXES.contains(&media_type.as_str());
    if !is_index && !MANIFESTS.contains(&media_type.as_str()) {
        return Err(format!("the registry served `{}`, which is no image manifest or index", cut(&media_type)));
    }
    match (is_index, wire.manifests, wire.config, wire.layers) {
        (true, Some(entries), None, None) => index(media_type, entries),
        (false, None, Some(config), _) => {
            let config = digest(&config.digest)?;
            Ok(Document { media_type, manifest: Manifest { config: Some(config), ..Manifest::default() }, nested: Vec::new() })
        }
        _ => Err(format!("the registry served a document as `{}` that is not of this form", cut(&media_type))),
    }
}

fn index(media_type: String, entries: Vec<Descriptor>) -> Result<Document, String> {
    let (mut children, mut nested) = (Vec::new(), Vec::new());
    for entry in entries {
        let digest = digest(&entry.digest)?;
        match entry.media_type.as_deref() {
            Some(kind) if INDEXES.contains(&kind) => nested.push(digest),
            // An entry without a media type is against the specification, yet a runtime may try it.
            None => children.extend(child(digest, entry.platform)),
            Some(kind) if MANIFESTS.contains(&kind) => children.extend(child(digest, entry.platform)),
            // Of a kind that no runtime should run; the specification wants such entries passed over. Some runtimes choose by the platform
            // alone, so what has one counts.
            Some(_) if entry.platform.is_some() => children.extend(child(digest, entry.platform)),
            Some(_) => {}
        }
        if children.len() + nested.len() > MOST_CHILDREN {
            return Err(format!("the registry served an index of more than {MOST_CHILDREN} images"));
        }
    }
    Ok(Document { media_type, manifest: Manifest { children, ..Manifest::default() }, nested })
}

/// An image of an index, unless it is for no platform. BuildKit's attestations stand as `unknown/unknown`; their annotation alone proves nothing, for an entry with
/// a real platform is run whatever its annotations say. An entry without a platform may be run anywhere.
fn child(digest: Digest, platform: Option<Platform>) -> Option<Child> {
    let platform = match platform {
        None => "any".to_owned(),
        Some(Platform { architecture, os, .. }) if architecture == "unknown" && os == "unknown" => return None,
        Some(Platform { architecture, os, variant }) => {
            let parts = [os, architecture, variant];
            let parts: Vec<&str> = parts.iter().map(|part| cut(part)).filter(|part| !part.is_empty()).collect();
            parts.join("/")
        }
    };
    Some(Child { digest, platform })
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::from_str(text).map_err(|_| format!("the registry served a manifest that names `{}`, which is no digest", cut(text)))
}

/// At most 100 bytes, so that a sentence stays one.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(100);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI_INDEX: &str = INDEXES[0];
    const OCI_MANIFEST: &str = MANIFESTS[0];
    const CONFIG: &str = "sha256:c5b1d63604f273462ef36fadac3182d43ae6a6138731cf594b314835cf1c034f";

    fn of(n: u8) -> String {
        format!("sha256:{n:064x}")
    }

    fn entry(n: u8, kind: &str, rest: &str) -> String {
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":1{rest}}}"#, of(n))
    }

    fn platform(os: &str, architecture: &str, variant: &str) -> String {
        format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"{variant}}}"#)
    }

    #[test]
    fn a_manifest_says_its_configuration() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{CONFIG}","size":78}},"layers":[]}}"#
        );
        // The fixture whose digest the fact sheet vouches for.
        assert_eq!(Digest::of(text.as_bytes()).to_string(), "sha256:09ade42fe3e69018a3360bb092265af902f9e7d6013146cf152c82ac3a944707");
        let expected = Document {
            media_type: OCI_MANIFEST.into(),
            manifest: Manifest { config: Some(CONFIG.parse().unwrap()), ..Manifest::default() },
            nested: vec![],
        };
        for served in [Some(OCI_MANIFEST), Some("Application/vnd.OCI.image.manifest.v1+json; charset=utf-8"), None] {
            assert_eq!(read(served, text.as_bytes()), Ok(expected.clone()), "{served:?}");
        }
        let untyped = text.replace(&format!(r#""mediaType":"{OCI_MANIFEST}","#), "");
        assert_eq!(read(Some(OCI_MANIFEST), untyped.as_bytes()), Ok(expected));
        assert_eq!(read(None, untyped.as_bytes()), Err("the registry served a manifest without a media type".into()));
        assert_eq!(read(Some("  ;charset=utf-8"), untyped.as_bytes()), Err("the registry served a manifest without a media type".into()));
    }

    #[test]
    fn an_index_says_its_images_and_their_platforms() {
        let attestation = r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
        let entries = [
            entry(1, OCI_MANIFEST, &platform("linux", "amd64", "")),
            entry(2, MANIFESTS[1], &platform("linux", "arm", r#","variant":"v7""#)),
            entry(3, OCI_MANIFEST, &format!("{}{attestation}", platform("unknown", "unknown", ""))),
            // An image that calls itself an attestation is run all the same.
            entry(4, OCI_MANIFEST, &format!("{}{attestation}", platform("linux", "s390x", ""))),
            entry(5, OCI_MANIFEST, ""),
            entry(6, OCI_INDEX, &platform("linux", "amd64", "")),
            entry(7, "application/vnd.example.thing+json", ""),
            format!(r#"{{"digest":"{}"}}"#, of(8)),
        ];
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, entries.join(","));
        let read = read(Some(OCI_INDEX), text.as_bytes()).unwrap();
        let children: Vec<_> = read.manifest.children.iter().map(|child| (child.digest.to_string(), child.platform.as_str())).collect();
        assert_eq!(children, [(of(1), "linux/amd64"), (of(2), "linux/arm/v7"), (of(4), "linux/s390x"), (of(5), "any"), (of(8), "any")]);
        assert_eq!((read.nested, read.manifest.config), (vec![of(6).parse().unwrap()], None));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let config = format!(r#""config":{{"digest":"{CONFIG}"}}"#);
        let cases = [
            (Some(OCI_INDEX), format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}",{config},"layers":[]}}"#), "says of itself"),
            (Some(OCI_INDEX), format!(r#"{{"schemaVersion":2,"manifests":[],{config}}}"#), "not of this form"),
            (Some(OCI_MANIFEST), format!(r#"{{"schemaVersion":2,"manifests":[],{config}}}"#), "not of this form"),
            (Some(OCI_INDEX), format!(r#"{{"schemaVersion":2,{config},"layers":[]}}"#), "not of this form"),
            (Some(OCI_INDEX), r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.into(), "not of this form"),
            (Some(OCI_MANIFEST), r#"{"schemaVersion":2}"#.into(), "not of this form"),
            (Some("text/html"), format!(r#"{{"schemaVersion":2,{config}}}"#), "`text/html`, which is no image manifest"),
            (Some(OCI_MANIFEST), r#"{"schemaVersion":2,"config":{"digest":"sha256:short"}}"#.into(), "`sha256:short`, which is no digest"),
            (Some(OCI_MANIFEST), r#"{"schemaVersion":2,"schemaVersion":1}"#.into(), "cannot be read"),
            (Some(OCI_MANIFEST), "<html>".into(), "cannot be read (line 1, column 1)"),
            (Some(OCI_MANIFEST), r#"{"schemaVersion":3}"#.into(), "schema version 3"),
            (
                Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
                r#"{"schemaVersion":1,"fsLayers":[]}"#.into(),
                "push the image again",
            ),
            (Some(OCI_MANIFEST), format!(r#"{{"schemaVersion":2,"fsLayers":[],{config}}}"#), "push the image again"),
        ];
        for (served, text, sentence) in cases {
            let error = read(served, text.as_bytes()).unwrap_err();
            assert!(error.contains(sentence), "{text}: {error}");
        }
    }

    #[test]
    fn an_index_is_bounded() {
        let entries: Vec<_> =
            (0..=MOST_CHILDREN).map(|at| entry(u8::try_from(at % 256).unwrap(), OCI_MANIFEST, &platform("linux", "amd64", ""))).collect();
        let text = |entries: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        assert_eq!(read(Some(OCI_INDEX), text(&entries[1..]).as_bytes()).unwrap().manifest.children.len(), MOST_CHILDREN);
        assert_eq!(read(Some(OCI_INDEX), text(&entries).as_bytes()), Err("the registry served an index of more than 512 images".into()));
    }
}
