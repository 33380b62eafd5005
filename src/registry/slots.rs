//! A bounded cache of values that end, where one at a time asks for a new one.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

/// Slots by key, no more than `most` that nobody is using.
pub(crate) struct Slots<K, V> {
    most: usize,
    slots: Mutex<HashMap<K, Arc<Slot<V>>>>,
}

/// The place of one value.
pub(crate) struct Slot<V> {
    /// Held by the one that asks for a new value; the others wait and find it done. Dropping it half-way lets the next one ask.
    pub(crate) renewal: tokio::sync::Mutex<()>,
    held: Mutex<Option<Held<V>>>,
}

struct Held<V> {
    value: V,
    since: Instant,
    until: Instant,
}

impl<V: Clone> Slot<V> {
    /// The value, unless it ended.
    pub(crate) fn current(&self) -> Option<V> {
        self.held.lock().as_ref().filter(|held| held.until > Instant::now()).map(|held| held.value.clone())
    }

    /// The value that was kept last, if that was no longer ago.
    pub(crate) fn last(&self, within: Duration) -> Option<V> {
        self.held.lock().as_ref().filter(|held| held.since.elapsed() <= within).map(|held| held.value.clone())
    }

    pub(crate) fn keep(&self, value: V, lifetime: Duration) {
        let since = Instant::now();
        *self.held.lock() = Some(Held { value, since, until: since + lifetime });
    }

    /// Lets the value that was kept last count a while longer. It grows no younger by that.
    pub(crate) fn extend(&self, lifetime: Duration) {
        if let Some(held) = &mut *self.held.lock() {
            held.until = Instant::now() + lifetime;
        }
    }

    /// Forgets the value if it is this one.
    pub(crate) fn forget_if(&self, is_it: impl FnOnce(&V) -> bool) {
        self.held.lock().take_if(|held| is_it(&held.value));
    }

    fn until(&self) -> Option<Instant> {
        self.held.lock().as_ref().map(|held| held.until)
    }
}

impl<K: Eq + Hash, V: Clone> Slots<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, slots: Mutex::default() }
    }

    /// The slot of a key, if there is one.
    pub(crate) fn find(&self, key: &K) -> Option<Arc<Slot<V>>> {
        self.slots.lock().get(key).cloned()
    }

    /// The slot of a key. When there are too many, those go that ended, and if that is not enough, the quarter that ends soonest.
    pub(crate) fn slot(&self, key: K) -> Arc<Slot<V>> {
        let mut slots = self.slots.lock();
        if slots.len() >= self.most && !slots.contains_key(&key) {
            let now = Instant::now();
            let in_use = |slot: &Arc<Slot<V>>| Arc::strong_count(slot) > 1;
            slots.retain(|_, slot| in_use(slot) || slot.until().is_some_and(|until| until > now));
            if slots.len() >= self.most {
                let mut ends: Vec<_> = slots.values().filter_map(|slot| slot.until()).collect();
                ends.sort_unstable();
                let soon = ends.get(self.most / 4).copied().unwrap_or(now);
                slots.retain(|_, slot| in_use(slot) || slot.until().is_some_and(|until| until > soon));
            }
        }
        let empty = || Arc::new(Slot { renewal: tokio::sync::Mutex::default(), held: Mutex::default() });
        Arc::clone(slots.entry(key).or_insert_with(empty))
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_value_ends_and_is_remembered_a_while() {
        let slots = Slots::new(4);
        slots.slot("a").keep(1, 10 * SECOND);
        assert_eq!(slots.slot("a").current(), Some(1));
        slots.slot("a").forget_if(|value| *value == 2);
        tokio::time::advance(10 * SECOND).await;
        assert_eq!((slots.slot("a").current(), slots.slot("a").last(10 * SECOND), slots.slot("a").last(9 * SECOND)), (None, Some(1), None));
        slots.slot("a").extend(SECOND);
        assert_eq!((slots.slot("a").current(), slots.slot("a").last(9 * SECOND)), (Some(1), None));
        slots.slot("a").forget_if(|value| *value == 1);
        assert_eq!(slots.slot("a").last(99 * SECOND), None);
        assert!(slots.find(&"a").is_some() && slots.find(&"b").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_never_too_many_and_those_in_use_stay() {
        let slots = Slots::new(8);
        let used = slots.slot(0);
        for key in 1..100 {
            slots.slot(key).keep(key, u32::try_from(key).unwrap() * SECOND);
            assert!(slots.len() <= 8);
        }
        assert_eq!(slots.slot(99).current(), Some(99));
        used.keep(7, SECOND);
        assert_eq!(slots.slot(0).current(), Some(7));
    }
}
