//! What runs inside an index.

use std::{collections::HashMap, sync::Arc};

use crate::{
    image::{Digest, Subject},
    index::{Index, Known},
};

/// Digests that run and are not subjects themselves, with what is known of the indexes inside which they are: some container runtimes report
/// the image for their platform, or its configuration.
#[derive(Debug, Default)]
pub struct Inner(HashMap<Digest, Vec<(Subject, Arc<Known>)>>);

impl Inner {
    /// For those of these subjects of which nothing is written. Nothing is known of the indexes yet.
    pub fn wanted<'a>(index: &Index, running: impl IntoIterator<Item = &'a Subject>) -> Self {
        let unknown = running.into_iter().filter(|subject| index.image(subject).is_none());
        Self(unknown.map(|subject| (subject.digest().clone(), Vec::new())).collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in what is written of an image, if any of them is inside.
    pub fn learn(&mut self, subject: &Subject, known: &Arc<Known>) {
        let manifest = &known.facts.manifest;
        for digest in manifest.config.iter().chain(manifest.children.iter().map(|child| &child.digest)) {
            if let Some(outer) = self.0.get_mut(digest) {
                outer.push((subject.clone(), known.clone()));
            }
        }
    }

    /// What is written of an image, and by which name: its own, or that of an index inside which it is.
    #[must_use]
    pub fn written(&self, index: &Index, subject: &Subject) -> Option<(Subject, Arc<Known>)> {
        index.image(subject).map(|known| (subject.clone(), known)).or_else(|| self.outer(subject))
    }

    /// The strictest of what is known of the indexes that hold an image, with its name.
    fn outer(&self, subject: &Subject) -> Option<(Subject, Arc<Known>)> {
        let same_repository =
            |(outer, _): &&(Subject, Arc<Known>)| outer.registry() == subject.registry() && outer.repository() == subject.repository();
        let all = self.0.get(subject.digest())?.iter().filter(same_repository);
        all.filter(|(_, known)| !known.blank || known.held).max_by_key(|(_, known)| known.facts.state).cloned()
    }
}
