//! What the registry holds and what becomes of it. No HTTP.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{MOST_KEPT, Switches};

/// What a quarantine processor has said of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing yet.
    Unjudged,
    /// It may go.
    Passed,
    /// It is unfit.
    Failed,
}

/// A manifest or index, and what is written of it.
pub struct Manifest {
    pub bytes: Bytes,
    pub media_type: String,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub judgement: Judgement,
    pub details: Option<String>,
    pub locks: Locks,
    /// The tags under which it was pushed, with the number of the push.
    pushed_as: Vec<(String, u64)>,
}

/// What may be done with an image; nothing to do with quarantine.
#[derive(Clone, Copy)]
pub struct Locks {
    pub delete: bool,
    pub write: bool,
    pub read: bool,
    pub list: bool,
}

/// Something that happened, as a webhook would tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Greater than that of every earlier one.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// `quarantine`, `push` or `delete`.
    pub action: &'static str,
    /// The repository.
    pub repository: String,
    /// The manifest.
    pub digest: String,
    /// Its tag, if it was pushed with one.
    pub tag: Option<String>,
    /// Its media type. A `quarantine` event does not tell it.
    pub media_type: String,
    /// Its bytes.
    pub size: usize,
}

impl Event {
    /// The body of the webhook's request.
    pub fn body(&self, host: &str) -> Value {
        let mut target = json!({ "digest": self.digest, "repository": self.repository });
        if self.action != "delete" {
            target["size"] = self.size.into();
            target["length"] = self.size.into();
        }
        if self.action != "quarantine" {
            target["mediaType"] = self.media_type.as_str().into();
        }
        if let Some(tag) = &self.tag {
            target["tag"] = tag.as_str().into();
        }
        let method = if self.action == "delete" { "DELETE" } else { "PUT" };
        json!({
            "id": format!("00000000-0000-4000-8000-{:012x}", self.id),
            "timestamp": seven_digits(self.at),
            "action": self.action,
            "target": target,
            "request": { "id": format!("00000000-0000-4000-9000-{:012x}", self.id), "host": host, "method": method },
        })
    }
}

#[derive(Default)]
struct Repository {
    manifests: BTreeMap<String, Manifest>,
    /// Each tag's last push.
    last: BTreeMap<String, (String, u64)>,
    /// Each tag's last push that was released.
    released: BTreeMap<String, (String, u64)>,
    blobs: BTreeMap<String, Bytes>,
}

/// Everything that is held.
#[derive(Default)]
pub struct Shelf {
    repositories: BTreeMap<String, Repository>,
    uploads: BTreeMap<u64, Vec<u8>>,
    pushes: u64,
    events: VecDeque<Event>,
    happened: u64,
}

impl Shelf {
    /// Stores a manifest under a tag or its digest. Returns its digest.
    pub fn put(&mut self, repository: &str, reference: &str, media_type: &str, bytes: Bytes, switches: &Switches) -> String {
        let digest = digest_of(&bytes);
        let tag = (!reference.contains(':')).then(|| reference.to_owned());
        self.pushes += 1;
        let number = self.pushes;
        let size = bytes.len();
        let held = self.repositories.entry(repository.to_owned()).or_default();
        let now = now();
        let manifest = held.manifests.entry(digest.clone()).or_insert_with(|| Manifest {
            bytes,
            media_type: media_type.to_owned(),
            created: now,
            updated: now,
            judgement: Judgement::Unjudged,
            details: None,
            locks: Locks { delete: true, write: true, read: true, list: true },
            pushed_as: Vec::new(),
        });
        let passed = manifest.judgement == Judgement::Passed;
        if let Some(tag) = &tag {
            manifest.pushed_as.push((tag.clone(), number));
            manifest.updated = now;
            held.last.insert(tag.clone(), (digest.clone(), number));
            if passed {
                held.released.insert(tag.clone(), (digest.clone(), number));
            }
        }
        // A digest that is released already is not judged again: its new tag is as good as the old one.
        if !passed {
            self.happen("quarantine", repository, &digest, tag.clone(), media_type, size);
        }
        if passed || !switches.policy {
            self.happen("push", repository, &digest, tag, media_type, size);
        }
        digest
    }

    /// Writes a judgement and lets tags go that waited for it. False when the manifest is not held.
    pub fn judge(&mut self, repository: &str, digest: &str, judgement: Judgement, details: Option<String>, switches: &Switches) -> bool {
        let Some(held) = self.repositories.get_mut(repository) else { return false };
        let Some(manifest) = held.manifests.get_mut(digest) else { return false };
        let was = manifest.judgement;
        manifest.judgement = judgement;
        if details.is_some() {
            manifest.details = details;
        }
        if switches.patch_moves_time {
            manifest.updated = now();
        }
        let (media_type, size) = (manifest.media_type.clone(), manifest.bytes.len());
        let children = if switches.cascade { children_of(&manifest.bytes) } else { Vec::new() };
        let mut moved = Vec::new();
        if judgement == Judgement::Passed && was != Judgement::Passed {
            for (tag, number) in manifest.pushed_as.clone() {
                // A push that was judged late does not take the tag back from a later one.
                if held.released.get(&tag).is_none_or(|(_, released)| *released < number) {
                    held.released.insert(tag.clone(), (digest.to_owned(), number));
                    moved.push(tag);
                }
            }
        }
        if switches.policy {
            for tag in moved {
                self.happen("push", repository, digest, Some(tag), &media_type, size);
            }
        }
        for child in children {
            self.judge(repository, &child, judgement, None, switches);
        }
        true
    }

    /// What a tag names, for anybody.
    pub fn named(&self, repository: &str, tag: &str, switches: &Switches) -> Option<&str> {
        let held = self.repositories.get(repository)?;
        if !switches.policy {
            return held.last.get(tag).map(|(digest, _)| digest.as_str());
        }
        let (digest, _) = held.released.get(tag)?;
        let passed = held.manifests.get(digest)?.judgement == Judgement::Passed;
        (passed || switches.failed_keeps_tag).then_some(digest)
    }

    /// The tags that name something, in order.
    pub fn tags(&self, repository: &str, switches: &Switches) -> Option<Vec<String>> {
        let held = self.repositories.get(repository)?;
        Some(held.last.keys().filter(|tag| self.named(repository, tag, switches).is_some()).cloned().collect())
    }

    /// The tags that name a manifest, in order.
    pub fn tags_of(&self, repository: &str, digest: &str, switches: &Switches) -> Vec<String> {
        let tags = self.tags(repository, switches).unwrap_or_default();
        tags.into_iter().filter(|tag| self.named(repository, tag, switches) == Some(digest)).collect()
    }

    pub fn manifest(&self, repository: &str, digest: &str) -> Option<&Manifest> {
        self.repositories.get(repository)?.manifests.get(digest)
    }

    pub fn manifest_mut(&mut self, repository: &str, digest: &str) -> Option<&mut Manifest> {
        self.repositories.get_mut(repository)?.manifests.get_mut(digest)
    }

    /// The digests of a repository, in order.
    pub fn digests(&self, repository: &str) -> Option<Vec<String>> {
        Some(self.repositories.get(repository)?.manifests.keys().cloned().collect())
    }

    /// The repositories, in order.
    pub fn repositories(&self) -> Vec<String> {
        self.repositories.keys().cloned().collect()
    }

    /// The repositories that hold a manifest.
    pub fn holders(&self, digest: &str) -> Vec<String> {
        let holding = self.repositories.iter().filter(|(_, held)| held.manifests.contains_key(digest));
        holding.map(|(name, _)| name.clone()).collect()
    }

    pub fn delete(&mut self, repository: &str, digest: &str) {
        let held = self.repositories.get_mut(repository).expect("a repository that is held");
        let manifest = held.manifests.remove(digest).expect("a manifest that is held");
        held.last.retain(|_, (named, _)| named != digest);
        held.released.retain(|_, (named, _)| named != digest);
        self.happen("delete", repository, digest, None, &manifest.media_type, manifest.bytes.len());
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Option<&Bytes> {
        self.repositories.get(repository)?.blobs.get(digest)
    }

    /// Begins an upload. Returns its number.
    pub fn begin(&mut self) -> u64 {
        self.pushes += 1;
        self.uploads.insert(self.pushes, Vec::new());
        self.pushes
    }

    /// Adds to an upload. Returns how much there is, or nothing when it was never begun.
    pub fn add(&mut self, upload: u64, bytes: &[u8]) -> Option<usize> {
        let held = self.uploads.get_mut(&upload)?;
        held.extend_from_slice(bytes);
        Some(held.len())
    }

    /// Ends an upload. Whether its bytes have the digest; nothing when it was never begun.
    pub fn end(&mut self, repository: &str, upload: u64, digest: &str) -> Option<bool> {
        let bytes = Bytes::from(self.uploads.remove(&upload)?);
        let right = digest_of(&bytes) == digest;
        if right {
            self.repositories.entry(repository.to_owned()).or_default().blobs.insert(digest.to_owned(), bytes);
        }
        Some(right)
    }

    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    fn happen(&mut self, action: &'static str, repository: &str, digest: &str, tag: Option<String>, media_type: &str, size: usize) {
        self.happened += 1;
        if self.events.len() == MOST_KEPT {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            id: self.happened,
            at: now(),
            action,
            repository: repository.to_owned(),
            digest: digest.to_owned(),
            tag,
            media_type: media_type.to_owned(),
            size,
        });
    }
}

/// `sha256:` and the hash in hexadecimal.
pub fn digest_of(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::from("sha256:"), |mut text, byte| {
        write!(text, "{byte:02x}").expect("memory");
        text
    })
}

/// The media type that a manifest states.
pub fn stated_media_type(bytes: &[u8]) -> Option<String> {
    let manifest: Value = serde_json::from_slice(bytes).ok()?;
    manifest.get("mediaType")?.as_str().map(ToOwned::to_owned)
}

/// The digests that an index lists.
pub fn children_of(bytes: &[u8]) -> Vec<String> {
    let index: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let listed = index["manifests"].as_array().cloned().unwrap_or_default();
    listed.iter().filter_map(|child| child["digest"].as_str().map(ToOwned::to_owned)).collect()
}

/// Now, as exactly as ACR writes it.
fn now() -> Timestamp {
    let now = Timestamp::now().as_nanosecond();
    Timestamp::from_nanosecond(now - now % 100).expect("our own time")
}

/// A time as ACR writes it: seven fractional digits and `Z`.
pub fn seven_digits(at: Timestamp) -> String {
    let tenths_of_microseconds = at.subsec_nanosecond() / 100;
    format!("{}.{tenths_of_microseconds:07}Z", at.strftime("%Y-%m-%dT%H:%M:%S"))
}
