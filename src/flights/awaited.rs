//! One answer that many wait for, and the order in which they go on.
//!
//! Whoever came first goes on first, some at a time. To wake all of them at once leaves the order to the scheduler: of a thousand, some that
//! came last would be answered first, and those that have waited longest, whose own time is up first, after everybody else.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{sync::Semaphore, task::yield_now, time::Instant};

/// How many go on at a time: enough for the cores of a large machine, and too few for a worker's queue to overflow, which would mix them.
const AT_A_TIME: usize = 64;

/// An answer that comes once, or never, and until when it may be handed out.
#[derive(Debug)]
pub(super) struct Awaited<V> {
    answer: OnceLock<(V, Instant)>,
    /// Of those who wait, in the order in which they came. Closed when nobody has to wait any more.
    turns: Semaphore,
    waiting: AtomicUsize,
}

impl<V: Send + Sync + 'static> Awaited<V> {
    /// Gives the answer; only the first one counts. Lets the waiters in from a task of its own if there are many.
    pub(super) fn give(self: &Arc<Self>, value: V, until: Instant) {
        if self.answer.set((value, until)).is_err() {
            return;
        }
        // Whoever is not counted yet finds the answer, or the turns closed.
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting <= AT_A_TIME {
            return self.turns.close();
        }
        let this = self.clone();
        tokio::spawn(async move {
            for _ in 0..waiting / AT_A_TIME {
                this.turns.add_permits(AT_A_TIME);
                yield_now().await;
            }
            this.turns.close();
        });
    }
}

impl<V> Awaited<V> {
    pub(super) fn new() -> Self {
        Self { answer: OnceLock::new(), turns: Semaphore::new(0), waiting: AtomicUsize::new(0) }
    }

    /// The answer, if it is there.
    pub(super) fn get(&self) -> Option<&(V, Instant)> {
        self.answer.get()
    }

    /// Whoever waits need not wait any more: no answer will come.
    pub(super) fn give_up(&self) {
        self.turns.close();
    }

    /// Waits for the answer; none if it will not come.
    pub(super) async fn wait(&self) -> Option<&(V, Instant)> {
        let _counted = Counted::new(&self.waiting);
        if self.answer.get().is_none()
            && let Ok(turn) = self.turns.acquire().await
        {
            // It is the next one's when more are let in, and not when this one leaves.
            turn.forget();
        }
        self.answer.get()
    }
}

/// One of those who wait.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;
    use tokio::task::JoinSet;

    use super::*;

    const LATER: Duration = Duration::from_secs(9);

    /// So many that wait, and their numbers in the order in which they went on.
    async fn queue(awaited: &Arc<Awaited<u32>>, count: usize) -> (JoinSet<Option<u32>>, Arc<Mutex<Vec<usize>>>) {
        let (mut waiters, order) = (JoinSet::new(), Arc::<Mutex<Vec<usize>>>::default());
        for number in 0..count {
            let (awaited, order) = (awaited.clone(), order.clone());
            waiters.spawn(async move {
                let answer = awaited.wait().await.map(|(value, _)| *value);
                order.lock().push(number);
                answer
            });
        }
        while awaited.waiting.load(Ordering::Relaxed) < count {
            yield_now().await;
        }
        (waiters, order)
    }

    #[tokio::test]
    async fn who_came_first_goes_on_first() {
        for count in [1, AT_A_TIME, AT_A_TIME + 1, 1_000] {
            let awaited = Arc::new(Awaited::new());
            let (waiters, order) = queue(&awaited, count).await;
            awaited.give(7, Instant::now() + LATER);
            assert!(waiters.join_all().await.into_iter().all(|answer| answer == Some(7)));
            assert_eq!(*order.lock(), (0..count).collect::<Vec<_>>());
            assert_eq!(awaited.waiting.load(Ordering::Relaxed), 0);
        }
    }

    #[tokio::test]
    async fn who_does_not_go_on_or_leaves_keeps_nobody_else_back() {
        let awaited = Arc::new(Awaited::new());
        let mut stuck: Vec<_> = (0..AT_A_TIME).map(|_| Box::pin(awaited.wait())).collect();
        for waiter in &mut stuck {
            assert!(futures::poll!(waiter).is_pending());
        }
        let count = |awaited: &Awaited<u32>| awaited.waiting.load(Ordering::Relaxed);
        let mut leaving = Box::pin(awaited.wait());
        assert!(futures::poll!(&mut leaving).is_pending());
        let (mut waiters, before) = (JoinSet::new(), count(&awaited));
        for _ in 0..3 * AT_A_TIME {
            let awaited = awaited.clone();
            waiters.spawn(async move { awaited.wait().await.map(|(value, _)| *value) });
        }
        while count(&awaited) < before + waiters.len() {
            yield_now().await;
        }
        awaited.give(7, Instant::now() + LATER);
        drop(leaving);
        assert!(waiters.join_all().await.into_iter().all(|answer| answer == Some(7)));
        assert_eq!(count(&awaited), stuck.len(), "these had their turn and were not polled");
    }

    #[tokio::test]
    async fn the_first_answer_counts_and_none_is_told_too() {
        let awaited = Arc::new(Awaited::new());
        awaited.give(1, Instant::now() + LATER);
        awaited.give(2, Instant::now() + LATER);
        assert_eq!(awaited.wait().await.map(|(value, _)| *value), Some(1));
        let never = Arc::new(Awaited::<u32>::new());
        let (waiters, _) = queue(&never, 100).await;
        never.give_up();
        assert!(waiters.join_all().await.into_iter().all(|answer| answer.is_none()));
    }
}
