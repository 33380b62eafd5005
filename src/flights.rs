//! One detached task per question, any number of waiters.
//!
//! A flight is owned by a task, not by the request that started it: when every waiter has left on its own deadline the look-up goes
//! on, and the retry finds it done. (The obvious alternative, a coalescing cache whose fetch runs inside the first caller's future,
//! starts again with each caller that gives up: a registry slower than every caller's patience is then never heard.)
//!
//! Answers, failures included, are values that are kept until a time which the flight itself names. What is in the air and what is in
//! memory is bounded: flights in all, of one asker (a namespace) and to one destination (a registry), answers in number and in bytes.
//! When there are too many, the stale ones go first, then those that go stale soonest; a flight is never thrown out of the air.

mod awaited;

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use self::awaited::Awaited;
use crate::counts::Counts;

/// An answer, and until when it may be handed out again.
#[derive(Clone, Debug)]
pub struct Found<V> {
    /// The answer.
    pub value: V,
    /// How long it is good for, from the landing.
    pub fresh_for: Duration,
}

/// Why a waiter leaves without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotYet {
    /// Its time is up; the flight goes on.
    Deadline,
    /// As many flights are in the air as are allowed, in all or to this destination.
    Full,
    /// The asker has as many flights in the air as its share allows.
    Share,
    /// The flight ended without a word: it panicked. The next caller starts another.
    Lost,
}

/// How much may be in the air and in memory.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Flights at once; of one asker half of what the others leave.
    pub flights: usize,
    /// Flights at once to one destination.
    pub destination: usize,
    /// Flights at once to one destination that one asker may have started; fewer where fewer are left for others.
    pub share: usize,
    /// Answers that are kept.
    pub answers: usize,
    /// Bytes that they take, as [`Weigh`] tells.
    pub bytes: usize,
}

/// About how many bytes something takes in memory, with all that it owns.
pub trait Weigh {
    /// See there.
    fn weight(&self) -> usize;
}

/// On whose behalf a flight starts, and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Ticket<'a> {
    /// Whose share it takes.
    pub asker: &'a str,
    /// Whose bound it takes.
    pub destination: &'a str,
}

#[derive(Debug)]
struct Slot<V> {
    /// Another one when the flight is still in the air and what its waiters were given counts no more.
    answer: Arc<Awaited<V>>,
    /// Counted once the answer is in.
    bytes: usize,
}

impl<V> Slot<V> {
    /// From now on another answer is awaited.
    fn anew(&mut self) -> Arc<Awaited<V>> {
        self.answer = Arc::new(Awaited::new());
        self.answer.clone()
    }
}

#[derive(Debug)]
struct Table<K, V> {
    slots: HashMap<K, Slot<V>>,
    aloft: HashSet<K>,
    bytes: usize,
    destinations: Counts<Arc<str>>,
    shares: Counts<(Arc<str>, Arc<str>)>,
    askers: Counts<Arc<str>>,
}

/// Flights by question.
#[derive(Debug)]
pub struct Flights<K, V> {
    table: Arc<Mutex<Table<K, V>>>,
    bounds: Bounds,
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Weigh + Send + 'static,
    V: Clone + Weigh + Send + Sync + 'static,
{
    /// An empty table.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let table = Table {
            slots: HashMap::new(),
            aloft: HashSet::new(),
            bytes: 0,
            destinations: Counts::default(),
            shares: Counts::default(),
            askers: Counts::default(),
        };
        Self { table: Arc::new(Mutex::new(table)), bounds }
    }

    /// The answer to `key`, if one is at hand and fresh.
    #[must_use]
    pub fn peek(&self, key: &K) -> Option<V> {
        let table = self.table.lock();
        let landed = table.slots.get(key)?.answer.get();
        landed.filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    /// Joins the flight for `key`, or starts it; waits until `deadline`.
    ///
    /// # Errors
    /// When there is no answer in time. Dropping the future leaves the flight in the air.
    pub async fn get<F>(&self, key: K, ticket: Ticket<'_>, deadline: Instant, fetch: impl FnOnce() -> F) -> Result<V, NotYet>
    where
        F: Future<Output = Found<V>> + Send + 'static,
    {
        let answer = self.join(key, ticket, fetch)?;
        match tokio::time::timeout_at(deadline, answer.wait()).await {
            // It may be in already, and this waiter's turn yet to come.
            Err(_) => answer.get().map(|(value, _)| value.clone()).ok_or(NotYet::Deadline),
            Ok(landed) => landed.map(|(value, _)| value.clone()).ok_or(NotYet::Lost),
        }
    }

    /// Sees to it that the flight for `key` is in the air or freshly landed, and does not wait.
    pub fn launch<F>(&self, key: K, ticket: Ticket<'_>, fetch: impl FnOnce() -> F)
    where
        F: Future<Output = Found<V>> + Send + 'static,
    {
        // Nobody waits, so nobody is told why not.
        let _ = self.join(key, ticket, fetch);
    }

    fn join<F>(&self, key: K, ticket: Ticket<'_>, fetch: impl FnOnce() -> F) -> Result<Arc<Awaited<V>>, NotYet>
    where
        F: Future<Output = Found<V>> + Send + 'static,
    {
        let mut table = self.table.lock();
        let Table { slots, aloft, .. } = &mut *table;
        if let Some(slot) = slots.get_mut(&key) {
            let fresh = slot.answer.get().map(|(_, until)| *until > Instant::now());
            match (fresh, aloft.contains(&key)) {
                (Some(true), _) | (None, true) => return Ok(slot.answer.clone()),
                // What woke the waiters of a flight has gone stale while it is still in the air: it is joined again.
                (Some(false), true) => return Ok(slot.anew()),
                (_, false) => {}
            }
        }
        let (asker, destination): (Arc<str>, Arc<str>) = (ticket.asker.into(), ticket.destination.into());
        let to = table.destinations.of(&destination);
        let of = table.askers.of(&asker);
        let share = (asker, destination);
        if table.aloft.len() >= self.bounds.flights || to >= self.bounds.destination {
            return Err(NotYet::Full);
        }
        // As many as are left for others, at the most, at this destination and in all: two that take their whole shares together leave room
        // for a third.
        let there = table.shares.of(&share);
        if there >= self.bounds.share.min(self.bounds.destination - to) || of >= self.bounds.flights - table.aloft.len() {
            return Err(NotYet::Share);
        }
        table.remove(&key);
        let answer = Arc::new(Awaited::new());
        table.slots.insert(key.clone(), Slot { answer: answer.clone(), bytes: 0 });
        table.aloft.insert(key.clone());
        table.destinations.add(share.1.clone());
        table.shares.add(share.clone());
        table.askers.add(share.0.clone());
        let flight = fetch();
        let landing = Landing { table: self.table.clone(), bounds: self.bounds, share, key, landed: false };
        drop(table);
        tokio::spawn(async move {
            // Dropped also when the flight panics: the slot goes then, and the waiters hear of it.
            let mut landing = landing;
            let found = flight.await;
            landing.land(found);
        });
        Ok(answer)
    }

    /// Facts came by another way: wakes everybody who waits for a matching question. The flight goes on.
    pub fn land(&self, value: &V, fresh_for: Duration, matches: impl Fn(&K) -> bool) {
        let table = self.table.lock();
        for key in table.aloft.iter().filter(|key| matches(key)) {
            if let Some(slot) = table.slots.get(key) {
                slot.answer.give(value.clone(), Instant::now() + fresh_for);
            }
        }
    }

    /// Forgets answers that have landed and match: what a registry said while it was ill, say.
    pub fn forget(&self, matches: impl Fn(&K, &V) -> bool) {
        let mut table = self.table.lock();
        let matches = |key: &K, slot: &Slot<V>| slot.answer.get().is_some_and(|(value, _)| matches(key, value));
        let gone: Vec<K> = table.slots.iter().filter(|(key, slot)| matches(key, slot)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            let Table { slots, aloft, .. } = &mut *table;
            match slots.get_mut(&key) {
                Some(slot) if aloft.contains(&key) => drop(slot.anew()),
                _ => table.remove(&key),
            }
        }
    }

    /// Forgets what is stale. Called now and then, so that what a burst left in memory goes when it is over.
    pub fn sweep(&self) {
        let mut table = self.table.lock();
        let now = Instant::now();
        table.sweep(|until| until <= now);
        table.slots.shrink_to_fit();
    }

    /// Flights in the air.
    #[must_use]
    pub fn aloft(&self) -> usize {
        self.table.lock().aloft.len()
    }

    /// Answers that are kept, and the bytes that they take.
    #[must_use]
    pub fn kept(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.slots.len() - table.aloft.len(), table.bytes)
    }
}

impl<K: Clone + Eq + Hash, V> Table<K, V> {
    fn remove(&mut self, key: &K) {
        if let Some(slot) = self.slots.remove(key) {
            self.bytes -= slot.bytes;
        }
    }

    fn sweep(&mut self, goes: impl Fn(Instant) -> bool) {
        let Self { slots, aloft, bytes, .. } = self;
        slots.retain(|key, slot| {
            let gone = !aloft.contains(key) && slot.answer.get().is_some_and(|(_, until)| goes(*until));
            *bytes -= if gone { slot.bytes } else { 0 };
            !gone
        });
    }

    /// Keeps the answers within their bounds. An eighth at a time, so that a table at its bound is not walked for each newcomer.
    fn make_room(&mut self, bounds: Bounds) {
        let full = |table: &Self| table.slots.len() - table.aloft.len() > bounds.answers || table.bytes > bounds.bytes;
        if !full(self) {
            return;
        }
        let now = Instant::now();
        self.sweep(|until| until <= now);
        while full(self) {
            let mut ends: Vec<Instant> = self
                .slots
                .iter()
                .filter(|(key, _)| !self.aloft.contains(*key))
                .filter_map(|(_, slot)| Some(slot.answer.get()?.1))
                .collect();
            if ends.is_empty() {
                return;
            }
            let eighth = ends.len() / 8;
            let (_, end, _) = ends.select_nth_unstable(eighth);
            let end = *end;
            self.sweep(|until| until <= end);
        }
    }
}

struct Landing<K: Clone + Eq + Hash, V> {
    table: Arc<Mutex<Table<K, V>>>,
    bounds: Bounds,
    share: (Arc<str>, Arc<str>),
    key: K,
    landed: bool,
}

impl<K: Clone + Eq + Hash + Weigh, V: Weigh + Send + Sync + 'static> Landing<K, V> {
    fn land(&mut self, found: Found<V>) {
        // A slot, its entry, and what is awaited with its wakers.
        const SLOT: usize = 320;
        let bytes = SLOT + self.key.weight() + found.value.weight();
        // Under the lock, so that nobody meets an answer whose flight is still counted as in the air.
        let mut table = self.table.lock();
        if let Some(slot) = table.slots.get_mut(&self.key) {
            // Facts that came by another way are replaced.
            let answer = if slot.answer.get().is_some() { slot.anew() } else { slot.answer.clone() };
            answer.give(found.value, Instant::now() + found.fresh_for);
            slot.bytes = bytes;
            table.bytes += bytes;
        }
        self.landed = true;
        table.aloft.remove(&self.key);
        table.make_room(self.bounds);
    }
}

impl<K: Clone + Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        if !self.landed {
            table.aloft.remove(&self.key);
            if let Some(slot) = table.slots.get(&self.key) {
                slot.answer.give_up();
            }
            table.remove(&self.key);
        }
        table.destinations.take(&self.share.1);
        table.shares.take(&self.share);
        table.askers.take(&self.share.0);
    }
}

#[cfg(test)]
mod tests;
