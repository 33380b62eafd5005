//! One detached task per question, any number of waiters.
//!
//! A flight is owned by a task, not by the request that started it: when every waiter has left on its own deadline the look-up goes
//! on, and the retry finds it done. (The obvious alternative, a coalescing cache whose fetch runs inside the first caller's future,
//! starts again with each caller that gives up: a registry slower than every caller's patience is then never heard.)
//!
//! Answers, failures included, are values that are kept until a time which the flight itself names. Entries are bounded: when the
//! table is full the landed ones go first, the oldest before the others, and a flight is never thrown out of the air.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

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
    /// As many flights are in the air as are allowed.
    Full,
    /// The asker has as many flights in the air as its share allows.
    Share,
    /// The flight ended without a word: it panicked. The next caller starts another.
    Lost,
}

/// How much may be in the air and in memory.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Flights at once.
    pub flights: usize,
    /// Flights at once that one asker (a namespace) may have started.
    pub share: usize,
    /// Entries, landed ones included.
    pub entries: usize,
}

#[derive(Debug)]
struct Slot<V> {
    receiver: watch::Receiver<Option<(V, Instant)>>,
    sender: Arc<watch::Sender<Option<(V, Instant)>>>,
}

#[derive(Debug)]
struct Table<K, V> {
    slots: HashMap<K, Slot<V>>,
    aloft: usize,
    shares: HashMap<Arc<str>, usize>,
}

/// Flights by question.
#[derive(Debug)]
pub struct Flights<K, V> {
    table: Arc<Mutex<Table<K, V>>>,
    bounds: Bounds,
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// An empty table.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { table: Arc::new(Mutex::new(Table { slots: HashMap::new(), aloft: 0, shares: HashMap::new() })), bounds }
    }

    /// The answer to `key`, if one is at hand and fresh.
    #[must_use]
    pub fn peek(&self, key: &K) -> Option<V> {
        let table = self.table.lock();
        let slot = table.slots.get(key)?;
        let landed = slot.receiver.borrow();
        landed.as_ref().filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    /// Joins the flight for `key`, or starts it on behalf of `asker`; waits until `deadline`.
    ///
    /// # Errors
    /// When there is no answer in time. Dropping the future leaves the flight in the air.
    pub async fn get<F>(&self, key: K, asker: &str, deadline: Instant, fetch: impl FnOnce() -> F) -> Result<V, NotYet>
    where
        F: Future<Output = Found<V>> + Send + 'static,
    {
        let mut receiver = self.join(key, asker, fetch)?;
        match tokio::time::timeout_at(deadline, receiver.wait_for(Option::is_some)).await {
            Err(_) => Err(NotYet::Deadline),
            Ok(Err(_)) => Err(NotYet::Lost),
            Ok(Ok(landed)) => landed.as_ref().map(|(value, _)| value.clone()).ok_or(NotYet::Lost),
        }
    }

    /// Sees to it that the flight for `key` is in the air or freshly landed, and does not wait.
    pub fn launch<F>(&self, key: K, asker: &str, fetch: impl FnOnce() -> F)
    where
        F: Future<Output = Found<V>> + Send + 'static,
    {
        // Nobody waits, so nobody is told why not.
        let _ = self.join(key, asker, fetch);
    }

    fn join<F>(&self, key: K, asker: &str, fetch: impl FnOnce() -> F) -> Result<watch::Receiver<Option<(V, Instant)>>, NotYet>
    where
        F: Future<Output = Found<V>> + Send + 'static,
    {
        let mut table = self.table.lock();
        if let Some(slot) = table.slots.get(&key)
            && slot.receiver.borrow().as_ref().is_none_or(|(_, until)| *until > Instant::now())
        {
            return Ok(slot.receiver.clone());
        }
        if table.aloft >= self.bounds.flights {
            return Err(NotYet::Full);
        }
        let share = table.shares.get(asker).copied().unwrap_or_default();
        if share >= self.bounds.share {
            return Err(NotYet::Share);
        }
        make_room(&mut table, self.bounds.entries);
        let asker: Arc<str> = asker.into();
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        table.slots.insert(key.clone(), Slot { receiver: receiver.clone(), sender: sender.clone() });
        table.aloft += 1;
        *table.shares.entry(asker.clone()).or_default() += 1;
        let flight = fetch();
        let landing = Landing { table: self.table.clone(), asker, key: Some(key) };
        tokio::spawn(async move {
            // Dropped also when the flight panics: the slot goes then, and with it the last sender, so that the waiters hear of it.
            let mut landing = landing;
            let found = flight.await;
            sender.send_replace(Some((found.value, Instant::now() + found.fresh_for)));
            landing.key = None;
        });
        Ok(receiver)
    }

    /// Facts came by another way: wakes everybody who waits for a matching question.
    pub fn land(&self, value: &V, fresh_for: Duration, matches: impl Fn(&K) -> bool) {
        let table = self.table.lock();
        if table.aloft == 0 {
            return;
        }
        for (key, slot) in &table.slots {
            if slot.receiver.borrow().is_none() && matches(key) {
                slot.sender.send_replace(Some((value.clone(), Instant::now() + fresh_for)));
            }
        }
    }

    /// Forgets answers that have landed and match: what a registry said while it was ill, say.
    pub fn forget(&self, matches: impl Fn(&K, &V) -> bool) {
        self.table.lock().slots.retain(|key, slot| !slot.receiver.borrow().as_ref().is_some_and(|(value, _)| matches(key, value)));
    }

    /// Flights in the air.
    #[must_use]
    pub fn aloft(&self) -> usize {
        self.table.lock().aloft
    }

    /// Entries, landed ones included.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.table.lock().slots.len()
    }
}

/// Keeps the table below its bound: what is stale goes, then what goes stale soonest. An eighth at a time, so that a table at its
/// bound is not walked for each newcomer.
fn make_room<K: Clone + Eq + Hash, V>(table: &mut Table<K, V>, entries: usize) {
    if table.slots.len() < entries {
        return;
    }
    let now = Instant::now();
    let until = |slot: &Slot<V>| slot.receiver.borrow().as_ref().map(|(_, until)| *until);
    table.slots.retain(|_, slot| until(slot).is_none_or(|until| until > now));
    if table.slots.len() < entries {
        return;
    }
    let mut landed: Vec<(Instant, K)> = table.slots.iter().filter_map(|(key, slot)| Some((until(slot)?, key.clone()))).collect();
    landed.sort_unstable_by_key(|(until, _)| *until);
    for (_, key) in landed.into_iter().take((entries / 8).max(1)) {
        table.slots.remove(&key);
    }
}

struct Landing<K: Eq + Hash, V> {
    table: Arc<Mutex<Table<K, V>>>,
    asker: Arc<str>,
    /// The question, until it is answered.
    key: Option<K>,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        if let Some(key) = self.key.take() {
            table.slots.remove(&key);
        }
        table.aloft -= 1;
        if let Some(share) = table.shares.get_mut(&self.asker) {
            *share -= 1;
            if *share == 0 {
                table.shares.remove(&self.asker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const BOUNDS: Bounds = Bounds { flights: 4, share: 2, entries: 8 };

    async fn slow(seconds: u64, value: u32) -> Found<u32> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Found { value, fresh_for: Duration::from_secs(10) }
    }

    fn within(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn an_impatient_caller_does_not_end_the_flight() {
        let flights = Flights::new(BOUNDS);
        let count = AtomicUsize::new(0);
        let start = || {
            count.fetch_add(1, Ordering::Relaxed);
            slow(5, 7)
        };
        assert_eq!(flights.get("k", "a", within(1), start).await, Err(NotYet::Deadline));
        assert_eq!(flights.get("k", "a", within(10), start).await, Ok(7));
        assert_eq!(flights.get("k", "a", within(0), start).await, Ok(7), "the answer is kept");
        assert_eq!(count.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(flights.peek(&"k"), None);
        assert_eq!(flights.get("k", "a", within(10), start).await, Ok(7));
        assert_eq!(count.load(Ordering::Relaxed), 2, "and then asked again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_flight_is_no_answer_and_the_next_starts_afresh() {
        let flights = Flights::<_, u32>::new(BOUNDS);
        let boom = || async {
            tokio::task::yield_now().await;
            panic!("a bug in a flight")
        };
        assert_eq!(flights.get("k", "a", within(10), boom).await, Err(NotYet::Lost));
        assert_eq!(flights.aloft(), 0);
        assert_eq!(flights.get("k", "a", within(10), || slow(1, 3)).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_and_a_bound_hold_and_are_given_back() {
        let flights = Flights::new(BOUNDS);
        flights.launch("1", "greedy", || slow(5, 1));
        flights.launch("2", "greedy", || slow(5, 2));
        assert_eq!(flights.get("3", "greedy", within(9), || slow(1, 3)).await, Err(NotYet::Share));
        flights.launch("4", "b", || slow(5, 4));
        flights.launch("5", "c", || slow(5, 5));
        assert_eq!(flights.get("6", "d", within(9), || slow(1, 6)).await, Err(NotYet::Full));
        assert_eq!(flights.get("1", "d", within(9), || slow(1, 9)).await, Ok(1), "joining costs nothing");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(flights.aloft(), 0);
        assert_eq!(flights.get("3", "greedy", within(9), || slow(1, 3)).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn facts_that_come_by_another_way_wake_the_waiters() {
        let flights = Arc::new(Flights::new(BOUNDS));
        let other = flights.clone();
        let waiter = tokio::spawn(async move { other.get("k", "a", within(100), || slow(50, 1)).await });
        tokio::task::yield_now().await;
        flights.land(&2, Duration::from_secs(5), |key| *key == "other");
        flights.land(&9, Duration::from_secs(5), |key| *key == "k");
        let before = Instant::now();
        assert_eq!(waiter.await.unwrap(), Ok(9));
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_million_questions_stay_within_the_bound() {
        let flights = Flights::new(Bounds { flights: 4, share: 4, entries: 1_000 });
        for key in 0..20_000_u32 {
            let got = flights.get(key, "a", within(1), || async move { Found { value: key, fresh_for: Duration::from_secs(60) } }).await;
            assert_eq!(got, Ok(key));
            assert!(flights.entries() <= 1_000);
        }
    }
}
