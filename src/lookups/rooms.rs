//! How much of evidence is held at once while it is fetched and checked: so much for each registry, so that one that is slow, or whose
//! owner says that everything is large, keeps nobody else's waiting.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// MiB for each registry.
const LISTED: usize = 48;
/// MiB for all hosts without a Registry object together.
const UNLISTED: usize = 8;

/// The rooms, by the Registry object's name.
#[derive(Debug)]
pub(super) struct Rooms {
    listed: Mutex<HashMap<Box<str>, Arc<Semaphore>>>,
    unlisted: Arc<Semaphore>,
}

/// One registry's.
#[derive(Debug)]
pub(super) struct Room {
    whole: usize,
    free: Arc<Semaphore>,
}

impl Default for Rooms {
    fn default() -> Self {
        Self { listed: Mutex::default(), unlisted: Arc::new(Semaphore::new(UNLISTED)) }
    }
}

impl Rooms {
    /// A registry's, or that of all hosts without a Registry object.
    pub(super) fn of(&self, registry: Option<&str>) -> Room {
        let Some(registry) = registry else { return Room { whole: UNLISTED, free: self.unlisted.clone() } };
        let mut listed = self.listed.lock();
        // Registry objects come and go; who holds a room keeps it.
        if listed.len() > 1_024 {
            listed.retain(|_, room| Arc::strong_count(room) > 1);
        }
        let free = listed.entry(registry.into()).or_insert_with(|| Arc::new(Semaphore::new(LISTED))).clone();
        Room { whole: LISTED, free }
    }
}

impl Room {
    /// Waits for room for so many bytes, twice: as they are fetched and as they are read.
    pub(super) async fn take(self, bytes: usize) -> Result<OwnedSemaphorePermit, AcquireError> {
        let wanted = (2 * bytes).div_ceil(1 << 20).clamp(1, self.whole);
        self.free.acquire_many_owned(u32::try_from(wanted).unwrap_or(1)).await
    }
}
