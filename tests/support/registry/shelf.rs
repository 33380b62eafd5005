//! What the registry keeps.

use std::collections::BTreeMap;

use axum::{body::Bytes, response::Response};
use lazaretto::image::Digest;
use serde_json::{Value, json};

use super::{OCI_INDEX, Recorded, error, respond};

/// Manifests by repository and digest: media type and bytes; and tags.
#[derive(Default)]
pub(super) struct Shelf {
    manifests: BTreeMap<(String, String), (String, Bytes)>,
    tags: BTreeMap<(String, String), String>,
    blobs: BTreeMap<(String, String), Bytes>,
    /// By repository and subject; the list of referrers is served once something is attached.
    referrers: BTreeMap<(String, String), Vec<Value>>,
}

impl Shelf {
    pub(super) fn push(&mut self, repository: &str, tag: Option<&str>, media_type: &str, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.manifests.insert((repository.to_owned(), digest.to_string()), (media_type.to_owned(), bytes));
        if let Some(tag) = tag {
            self.tag(repository, tag, &digest);
        }
        digest
    }

    pub(super) fn tag(&mut self, repository: &str, tag: &str, digest: &Digest) {
        self.tags.insert((repository.to_owned(), tag.to_owned()), digest.to_string());
    }

    pub(super) fn push_blob(&mut self, repository: &str, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert((repository.to_owned(), digest.to_string()), bytes);
        digest
    }

    pub(super) fn refer(&mut self, repository: &str, subject: &Digest, entry: Value) {
        self.referrers.entry((repository.to_owned(), subject.to_string())).or_default().push(entry);
    }

    /// What it answers for a blob.
    pub(super) fn blob(&self, repository: &str, digest: &str) -> Response {
        match self.blobs.get(&(repository.to_owned(), digest.to_owned())) {
            Some(bytes) => respond(200, &[("content-type", "application/octet-stream".into())], bytes.clone()),
            None => error(404, "BLOB_UNKNOWN", "blob unknown"),
        }
    }

    /// What it answers for the tags of a repository.
    pub(super) fn tags(&self, repository: &str) -> Response {
        if !self.manifests.keys().any(|(held, _)| held == repository) {
            return error(404, "NAME_UNKNOWN", "repository name not known to registry");
        }
        let tags: Vec<&String> = self.tags.keys().filter(|(held, _)| held == repository).map(|(_, tag)| tag).collect();
        respond(200, &[("content-type", "application/json".into())], json!({ "name": repository, "tags": tags }).to_string())
    }

    /// What it answers for the referrers of a digest. Without any in the whole registry it is one from before there were such lists.
    pub(super) fn referrers(&self, repository: &str, digest: &str) -> Response {
        if self.referrers.is_empty() {
            return error(404, "NOT_FOUND", "no such page");
        }
        let entries = self.referrers.get(&(repository.to_owned(), digest.to_owned())).cloned().unwrap_or_default();
        let list = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        respond(200, &[("content-type", OCI_INDEX.into())], list.to_string())
    }

    /// Whether an index of the repository names the digest.
    pub(super) fn is_child(&self, repository: &str, digest: &str) -> bool {
        self.manifests
            .iter()
            .any(|((held, _), (kind, bytes))| held == repository && kind == OCI_INDEX && String::from_utf8_lossy(bytes).contains(digest))
    }

    /// What it answers for a tag or digest.
    pub(super) fn manifest(&self, request: &Recorded, repository: &str, reference: &str) -> Response {
        if ["oci.image.index.v1", "oci.image.manifest.v1", "manifest.list.v2", "distribution.manifest.v2"]
            .iter()
            .any(|kind| !request.header("accept").unwrap_or_default().contains(kind))
        {
            return respond(
                200,
                &[("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws".into())],
                r#"{"schemaVersion":1,"fsLayers":[]}"#,
            );
        }
        let digest = self.tags.get(&(repository.to_owned(), reference.to_owned())).map_or(reference, String::as_str);
        let Some((media_type, bytes)) = self.manifests.get(&(repository.to_owned(), digest.to_owned())) else {
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        respond(200, &[("content-type", media_type.clone()), ("docker-content-digest", digest.to_owned())], bytes.clone())
    }
}
