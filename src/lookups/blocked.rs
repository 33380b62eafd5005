//! What registries blocked, in memory only: an outage opens none of it.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::{
    facts::{Block, Outcome},
    image::Reference,
    memory::Memory,
    policy::RegistryEntry,
    verdict::Sight,
};

/// How many names are remembered; an image that is named by tag has two.
const MOST: usize = 4_096;

/// What was blocked, and when that was said.
#[derive(Debug)]
pub(super) struct Blocked(Mutex<Memory<Reference, (Block, Timestamp)>>);

impl Default for Blocked {
    fn default() -> Self {
        Self(Mutex::new(Memory::new(MOST)))
    }
}

impl Blocked {
    /// Remembers what was seen to be blocked, forgets what is given out by that name, and says it again of what cannot be asked about, by
    /// whichever host of its Registry it is named.
    pub(super) fn weigh(&self, image: &Reference, registry: Option<&Arc<RegistryEntry>>, sight: &mut Sight) {
        let mut memory = self.0.lock();
        if memory.is_empty() && !matches!(sight.outcome, Outcome::Blocked(_)) {
            return;
        }
        let subject = sight.subject.as_ref().map(Reference::from);
        // By tag and by digest it is one image.
        let names = || [image].into_iter().chain(subject.as_ref().filter(|_| sight.certain));
        match &sight.outcome {
            Outcome::Blocked(block) if registry.is_some() => {
                names().for_each(|name| memory.insert(name.clone(), (block.clone(), Timestamp::now())));
            }
            Outcome::Found(_) => names().for_each(|name| memory.remove(name)),
            Outcome::Pending(_) | Outcome::Unavailable(_) | Outcome::Unauthorized(_) => {
                let later = |at: Timestamp| sight.last.as_ref().is_none_or(|(facts, _)| facts.observed_at <= at);
                let said = |name: &Reference| memory.get(name).filter(|(_, at)| later(*at)).map(|(block, _)| block.clone());
                // What is known by its own name is no worse for what another host has said.
                let hosts = registry.filter(|_| sight.last.is_none()).map_or(&[][..], |registry| &registry.hosts);
                // What its tag stood for at the last look, too: what was blocked is not to open by a tag.
                let mut names = [image].into_iter().chain(&subject);
                if let Some(block) = names.find_map(|name| said(name).or_else(|| hosts.iter().find_map(|host| said(&name.at(host))))) {
                    sight.outcome = Outcome::Blocked(block);
                }
            }
            _ => {}
        }
    }
}
