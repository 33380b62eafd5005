//! What registries blocked, in memory only: an outage opens none of it.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::{
    facts::{Block, Outcome},
    image::{Digest, Reference, Subject},
    memory::Memory,
    policy::RegistryEntry,
    verdict::Sight,
};

/// How many names are remembered.
const MOST: usize = 4_096;

/// What was blocked: by tag and by digest it is one image, and at every host of one Registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// The Registry object.
    registry: String,
    repository: Box<str>,
    version: Version,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Version {
    Tag(Box<str>),
    Digest(Digest),
}

/// What was blocked, and when that was said.
#[derive(Debug)]
pub(super) struct Blocked(Mutex<Memory<Key, (Block, Timestamp)>>);

impl Default for Blocked {
    fn default() -> Self {
        Self(Mutex::new(Memory::new(MOST)))
    }
}

impl Blocked {
    /// Remembers what was seen to be blocked, forgets what is given out, and says it again of what cannot be asked about.
    pub(super) fn weigh(&self, image: &Reference, registry: Option<&Arc<RegistryEntry>>, sight: &mut Sight) {
        // Nothing opens at a host without a Registry object.
        let Some(registry) = registry else { return };
        let mut memory = self.0.lock();
        if memory.is_empty() && !matches!(sight.outcome, Outcome::Blocked(_)) {
            return;
        }
        let of = |subject: &Subject| Key {
            registry: registry.name.clone(),
            repository: subject.repository().into(),
            version: Version::Digest(subject.digest().clone()),
        };
        let named = match image.subject() {
            Some(subject) => of(&subject),
            None => Key {
                registry: registry.name.clone(),
                repository: image.repository().into(),
                version: Version::Tag(image.tag().unwrap_or("latest").into()),
            },
        };
        let subject = sight.subject.as_ref().map(of);
        let names = || [&named].into_iter().chain(subject.as_ref().filter(|_| sight.certain));
        match &sight.outcome {
            Outcome::Blocked(block) => {
                names().for_each(|name| memory.insert(name.clone(), (block.clone(), Timestamp::now())));
            }
            Outcome::Found(_) => names().for_each(|name| memory.remove(name)),
            Outcome::Pending(_) | Outcome::Unavailable(_) | Outcome::Unauthorized(_) => {
                let later = |at: Timestamp| sight.last.as_ref().is_none_or(|(facts, _)| facts.observed_at <= at);
                // What its tag stood for at the last look, too: what was blocked is not to open by a tag.
                let held = [&named].into_iter().chain(&subject).find_map(|name| memory.get(name).filter(|(_, at)| later(*at)));
                if let Some((block, _)) = held {
                    sight.outcome = Outcome::Blocked(block.clone());
                }
            }
            _ => {}
        }
    }
}
