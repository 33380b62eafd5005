//! The line in front of one registry: who may send it the next request, and when nobody may.
//!
//! One line a registry, so that a slow or strict one slows no other. It counts requests, not questions: a question may take several (a
//! token, a manifest, the images of an index), and what a registry limits is requests. Within a line:
//!
//! - what a pod waits for goes before what nobody waits for any more, and that before the leader's regular look. One turn in eight goes
//!   the other way round: without any looks, facts go stale and every admission has to ask;
//! - those of one namespace go about in the order in which they came. Not quite: replicas in front of which the same images wait would all
//!   ask about the same one at the same time, and each of the others' answers would come too late to spare a request;
//! - the namespaces of one class take turns, so that a namespace that asks for a thousand images delays another's one by a turn and not
//!   by a thousand; and none has more requests under way than there are places left, so that one whose images are slow leaves room for the
//!   others, and so does a second and a third;
//! - after a 429 nobody sends anything before the time that the registry named, and more slowly after it. The pace grows back.
//!
//! Whoever waits may leave at any time; its place goes to the next.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    api::Limits,
    counts::Counts,
    facts::{Busy, BusyCause},
};

/// Who asks. The order is that of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A pod waits.
    Admission,
    /// Somebody wanted to know, and waits no more: debts.
    Retry,
    /// The leader's regular look.
    Polling,
}

const CLASSES: usize = 3;
/// Places in one line, of all classes together.
const MOST_WAITING: usize = 8_192;
/// Places in one line for one namespace.
const MOST_OF_ONE: usize = 1_024;
/// The next turn of a namespace goes to any of so many that came first.
const ABOUT_FIRST: usize = 16;
/// One turn in so many goes to the class that would have to wait the longest.
const OTHER_WAY: u32 = 8;
/// Whoever would have to wait longer because the registry asked to be left alone is told so at once.
const LONGEST_CLOSURE: Duration = Duration::from_secs(2);
/// After a 429 the pace is this share of what it was.
const SLOWER: f64 = 0.7;
/// And it is never less than this share of the limit.
const SLOWEST: f64 = 0.05;
/// And it grows by this share of the limit in each second without a 429.
const FASTER: f64 = 0.05;
/// How long nothing is sent after the first 429 that names no time; doubled by each that follows.
const FIRST_CLOSURE: Duration = Duration::from_millis(500);
/// And at the most.
const LAST_CLOSURE: Duration = Duration::from_secs(30);

/// The line in front of one registry. Clones share it.
#[derive(Clone, Debug)]
pub struct Line(Arc<Mutex<State>>);

/// The right to send one request. The place is given back when it is dropped.
#[derive(Debug)]
pub struct Turn {
    line: Option<Line>,
    namespace: Arc<str>,
}

#[derive(Debug)]
struct State {
    rate: f64,
    concurrent: usize,
    /// The share of the rate that the registry bears, as far as its 429s tell.
    pace: f64,
    tokens: f64,
    filled: Instant,
    under_way: usize,
    /// Whose they are.
    under_way_of: Counts<Arc<str>>,
    closed_until: Option<Instant>,
    /// 429s without a named time, one after the other.
    refusals: u32,
    waiting: [Queue; CLASSES],
    turns: u32,
    chance: RandomState,
    /// When the next timer goes off, if one is set.
    alarm: Option<Instant>,
}

/// Those of one class that wait: by namespace, and the order in which namespaces take turns.
#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<Arc<str>>,
    by_namespace: HashMap<Arc<str>, VecDeque<oneshot::Sender<Turn>>>,
    count: usize,
}

impl Line {
    /// A line with a full second's worth of requests, at most twice as many as may be under way at once.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let concurrent = usize::try_from(limits.concurrent_requests.max(1)).unwrap_or(1);
        let rate = f64::from(limits.requests_per_second.max(1));
        let state = State {
            rate,
            concurrent,
            pace: 1.0,
            tokens: rate,
            filled: Instant::now(),
            under_way: 0,
            under_way_of: Counts::default(),
            closed_until: None,
            refusals: 0,
            waiting: <[Queue; CLASSES]>::default(),
            turns: 0,
            chance: RandomState::new(),
            alarm: None,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Waits for a turn, for no longer than `patience`.
    ///
    /// # Errors
    /// Busy, with the time after which there may be one.
    pub async fn turn(&self, class: Class, namespace: &str, patience: Duration) -> Result<Turn, Busy> {
        let turn = {
            let mut state = self.0.lock();
            let now = Instant::now();
            if let Some(wait) = state.closed(now).filter(|wait| *wait > LONGEST_CLOSURE) {
                return Err(Busy { cause: BusyCause::Throttled, retry_after: wait });
            }
            let turn = state.queue(class, namespace)?;
            self.grant(&mut state, now);
            turn
        };
        match tokio::time::timeout(patience, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            // The line closed for longer than anybody should wait.
            Ok(Err(_)) => {
                let wait = self.0.lock().closed(Instant::now()).unwrap_or_default();
                Err(Busy { cause: BusyCause::Throttled, retry_after: wait.max(Duration::from_secs(1)) })
            }
            Err(_) => Err(Busy { cause: BusyCause::Limit, retry_after: self.wait_for(class) }),
        }
    }

    /// The registry answered 429, and asked to be left alone for this long if it named a time. Returns how long it will be.
    pub fn throttled(&self, named: Option<Duration>) -> Duration {
        let mut state = self.0.lock();
        let now = Instant::now();
        let already = state.closed(now).is_some();
        if !already {
            // Of those that were under way together only the first says something new.
            state.pace = (state.pace * SLOWER).max(SLOWEST);
            state.refusals = state.refusals.saturating_add(1);
        }
        // No time at all, or one in the past, is none that was named.
        let named = named.filter(|named| !named.is_zero());
        let unnamed = || FIRST_CLOSURE.saturating_mul(1 << state.refusals.saturating_sub(1).min(8)).min(LAST_CLOSURE);
        let wait = named.unwrap_or_else(unnamed);
        let until = now + wait;
        if state.closed_until.is_none_or(|held| held < until) {
            state.closed_until = Some(until);
        }
        state.tokens = state.tokens.min(1.0);
        if wait > LONGEST_CLOSURE {
            // Each is told by the end of its channel.
            state.waiting = <[Queue; CLASSES]>::default();
        } else {
            self.grant(&mut state, now);
        }
        wait
    }

    /// The registry answered something else than 429.
    pub fn answered(&self) {
        self.0.lock().refusals = 0;
    }

    /// For how long the registry asks for no requests at all, if it does.
    #[must_use]
    pub fn closed(&self) -> Option<Duration> {
        self.0.lock().closed(Instant::now())
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.iter().map(|class| class.count).sum()
    }

    /// About how long somebody who comes now would wait.
    fn wait_for(&self, class: Class) -> Duration {
        let state = self.0.lock();
        let before: usize = state.waiting[..=class as usize].iter().map(|class| class.count).sum();
        let seconds = f64::from(u32::try_from(before).unwrap_or(u32::MAX)) / (state.rate * state.pace);
        Duration::from_secs_f64(seconds.clamp(1.0, 30.0))
    }

    /// Gives turns to those that may have one, and sets a timer for the next if it is only a matter of time.
    fn grant(&self, state: &mut State, now: Instant) {
        loop {
            if state.waiting.iter().all(|class| class.count == 0) || state.under_way >= state.concurrent {
                return;
            }
            if let Some(wait) = state.closed(now).or_else(|| state.short_of_token(now)) {
                return self.alarm(state, now + wait);
            }
            let Some((namespace, waiter)) = state.next() else { return };
            state.begin(&namespace);
            if let Err(mut turn) = waiter.send(Turn { line: Some(self.clone()), namespace }) {
                // Whoever waited has left. The turn must not come back by itself: the state is locked.
                turn.line = None;
                state.end(&turn.namespace);
                continue;
            }
            state.tokens -= 1.0;
        }
    }

    fn alarm(&self, state: &mut State, at: Instant) {
        if state.alarm.is_some_and(|set| set <= at) {
            return;
        }
        state.alarm = Some(at);
        let line = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            let mut state = line.0.lock();
            // An earlier one may have been set since; this one then finds nothing to do, or does it a moment early.
            if state.alarm == Some(at) {
                state.alarm = None;
            }
            line.grant(&mut state, Instant::now());
        });
    }
}

impl State {
    /// For how long nobody may send anything.
    fn closed(&mut self, now: Instant) -> Option<Duration> {
        let until = self.closed_until?;
        if until > now {
            return Some(until - now);
        }
        self.closed_until = None;
        self.filled = now;
        None
    }

    /// How long it is until there is a token; none where there is one.
    fn short_of_token(&mut self, now: Instant) -> Option<Duration> {
        let passed = (now - self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * self.rate * self.pace).min((self.rate * self.pace).max(1.0)).max(self.tokens.min(1.0));
        self.pace = (self.pace + passed * FASTER).min(1.0);
        if self.tokens >= 1.0 {
            return None;
        }
        // A little more, so that the timer does not find it a hair's breadth short.
        Some(Duration::from_secs_f64((1.0 - self.tokens) / (self.rate * self.pace)) + Duration::from_micros(100))
    }

    fn queue(&mut self, class: Class, namespace: &str) -> Result<oneshot::Receiver<Turn>, Busy> {
        let all: usize = self.waiting.iter().map(|class| class.count).sum();
        let queue = &mut self.waiting[class as usize];
        let own = queue.by_namespace.get(namespace).map_or(0, VecDeque::len);
        if all >= MOST_WAITING || own >= MOST_OF_ONE {
            let cause = if own >= MOST_OF_ONE { BusyCause::Share } else { BusyCause::QueueFull };
            return Err(Busy { cause, retry_after: Duration::from_secs(5) });
        }
        let (sender, receiver) = oneshot::channel();
        if own == 0 {
            let name: Arc<str> = namespace.into();
            queue.order.push_back(name.clone());
            queue.by_namespace.insert(name, VecDeque::from([sender]));
        } else if let Some(queue) = queue.by_namespace.get_mut(namespace) {
            queue.push_back(sender);
        }
        queue.count += 1;
        Ok(receiver)
    }

    /// Who comes next, if anybody may; it has left the line by then.
    fn next(&mut self) -> Option<(Arc<str>, oneshot::Sender<Turn>)> {
        let turn = self.turns.wrapping_add(1);
        let left = self.concurrent - self.under_way;
        let (waiting, under_way_of) = (&mut self.waiting, &self.under_way_of);
        let may = |namespace: &str| under_way_of.of(namespace) < left;
        let chance = self.chance.hash_one(turn);
        let next = if turn.is_multiple_of(2 * OTHER_WAY) {
            waiting.iter_mut().rev().find_map(|class| class.next(may, chance))
        } else if turn.is_multiple_of(OTHER_WAY) {
            // Neither of the two that come last waits for ever for the other.
            let [admission, retry, polling] = waiting;
            [retry, polling, admission].into_iter().find_map(|class| class.next(may, chance))
        } else {
            waiting.iter_mut().find_map(|class| class.next(may, chance))
        }?;
        self.turns = turn;
        Some(next)
    }

    fn begin(&mut self, namespace: &Arc<str>) {
        self.under_way += 1;
        self.under_way_of.add(namespace.clone());
    }

    fn end(&mut self, namespace: &str) {
        self.under_way -= 1;
        self.under_way_of.take(namespace);
    }
}

impl Queue {
    /// One of the first of the next namespace that may.
    fn next(&mut self, may: impl Fn(&str) -> bool, chance: u64) -> Option<(Arc<str>, oneshot::Sender<Turn>)> {
        let at = self.order.iter().position(|namespace| may(namespace))?;
        let namespace = self.order.remove(at)?;
        let queue = self.by_namespace.get_mut(&namespace)?;
        let about = u64::try_from(queue.len().min(ABOUT_FIRST)).unwrap_or(1);
        let waiter = queue.swap_remove_front(usize::try_from(chance % about).unwrap_or_default())?;
        self.count -= 1;
        if queue.is_empty() {
            self.by_namespace.remove(&namespace);
        } else {
            self.order.push_back(namespace.clone());
        }
        Some((namespace, waiter))
    }
}

impl Turn {
    /// There is nothing to send any more: the request is somebody else's.
    pub fn pass_on(self) {
        if let Some(line) = &self.line {
            let mut state = line.0.lock();
            state.tokens = (state.tokens + 1.0).min(state.rate);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            let mut state = line.0.lock();
            state.end(&self.namespace);
            line.grant(&mut state, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
