//! What tags stood for when they were last asked: in memory for each credential, and written on the ImageStatus of the digest.
//!
//! The written part outlives replicas, so that a tag that is known to be bad stays so through an outage, whoever is asked about it, and one
//! that is known to be good survives a drain that takes every replica along. What was resolved with a pod's own credentials stays in memory:
//! whoever lacks them is not to learn from it that the image exists.

use std::{collections::HashSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{Access, ask::Parts, keys::TagKey};
use crate::{
    image::{Digest, Reference, Subject},
    memory::Memory,
};

/// Tags of which the last digest is remembered.
const MOST_TAGS: usize = 32_768;
/// A tag that still stands for the same digest is written down anew after this long, when somebody asks: half of what policies usually go by.
const REFRESH: Duration = Duration::from_secs(12 * 3_600);
/// Tags that are being written down.
const MOST_WRITING: usize = 256;
/// It is written so much later: whoever waits for the same look-up is answered first, and the API server is left to the reviews.
const LATER: Duration = Duration::from_millis(250);

/// What tags stood for.
#[derive(Debug)]
pub(super) struct Tags {
    resolved: Mutex<Memory<TagKey, (Digest, Timestamp)>>,
    writing: Mutex<HashSet<(Subject, Arc<str>)>>,
}

impl Default for Tags {
    fn default() -> Self {
        Self { resolved: Mutex::new(Memory::new(MOST_TAGS)), writing: Mutex::default() }
    }
}

/// What a tag stood for at the last look that is known of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LastDigest {
    pub(super) subject: Subject,
    pub(super) at: Timestamp,
    /// Whoever asks may know that it is there. Otherwise only what is bad about it counts.
    pub(super) shown: bool,
}

impl Tags {
    pub(super) fn resolved(&self, image: &Reference, access: &Access, digest: &Digest) {
        self.resolved.lock().insert(TagKey::new(image, Some(access)), (digest.clone(), Timestamp::now()));
    }
}

impl Parts {
    /// What a tag stood for: as it was resolved here for whoever asks, or as it is written, whichever is newer.
    pub(super) fn last_digest(&self, image: &Reference, access: Option<&Access>) -> Option<LastDigest> {
        let held = self.tags.resolved.lock().get(&TagKey::new(image, access)).cloned();
        let held = held.map(|(digest, at)| LastDigest { subject: image.with_digest(digest), at, shown: true });
        let written = self.index.read().tagged(image).map(|(subject, at)| LastDigest { subject, at, shown: access.is_none_or(is_ours) });
        match (held, written) {
            (Some(held), Some(written)) if written.at > held.at => Some(written),
            (held, written) => held.or(written),
        }
    }

    /// Writes down what a tag stands for, if that is news, without waiting for it.
    pub(super) fn note_tag(self: &Arc<Self>, image: &Reference, subject: &Subject, access: &Access) {
        let (Some(tag), Some(writer)) = (image.tag(), &self.writer) else { return };
        let now = Timestamp::now();
        let name = {
            let index = self.index.read();
            let known = index.tagged(image).filter(|(held, _)| held == subject);
            if known.is_some_and(|(_, at)| now.duration_since(at) < jiff::SignedDuration::try_from(REFRESH).unwrap_or_default()) {
                return;
            }
            index.image(subject).filter(|known| !known.blank).map(|known| known.name.clone())
        };
        let Some(name) = name.filter(|_| is_ours(access)) else { return };
        let work = (subject.clone(), Arc::<str>::from(tag));
        {
            let mut writing = self.tags.writing.lock();
            if writing.len() >= MOST_WRITING || !writing.insert(work.clone()) {
                return;
            }
        }
        let (parts, writer, image) = (self.clone(), writer.clone(), image.clone());
        tokio::spawn(async move {
            tokio::time::sleep(LATER).await;
            let noted = writer.change(&name, |object| crate::history::tagged(object, image.tag().unwrap_or_default(), now)).await;
            match noted {
                Ok(Some(object)) => drop(parts.index.write().apply_written(&object, now)),
                Ok(None) => {}
                // It is said again when somebody asks again.
                Err(error) => tracing::debug!(%image, %error, "what a tag stands for was not written"),
            }
            parts.tags.writing.lock().remove(&work);
        });
    }
}

/// What Lazaretto itself may see, or everybody.
pub(super) fn is_ours(access: &Access) -> bool {
    access.own || access.credentials.is_anonymous()
}
