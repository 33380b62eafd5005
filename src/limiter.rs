//! How much one registry may be asked: requests a second, requests at once, and the time it asked to be left alone.
//!
//! One limiter a registry, so that a slow or strict one slows no other. Admission goes before polling: a poll takes a place only
//! while at least half of them are free, and a token only while at least half of the bucket is full.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    api::Limits,
    facts::{Busy, BusyCause},
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// The leader's regular look.
    Polling,
    /// A pod waits.
    Admission,
}

/// The limiter of one registry.
#[derive(Debug)]
pub struct Limiter {
    places: Arc<Semaphore>,
    concurrent: usize,
    rate: f64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    closed_until: Option<Instant>,
}

impl Limiter {
    /// A limiter with a full bucket of one second's requests.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let concurrent = usize::try_from(limits.concurrent_requests.max(1)).unwrap_or(1);
        let rate = f64::from(limits.requests_per_second.max(1));
        Self {
            places: Arc::new(Semaphore::new(concurrent)),
            concurrent,
            rate,
            bucket: Mutex::new(Bucket { tokens: rate, filled: Instant::now(), closed_until: None }),
        }
    }

    /// Waits for a place and a token, at most until `deadline`. The place is given back when the permit is dropped.
    ///
    /// # Errors
    /// Busy, with the time after which there may be one.
    pub async fn acquire(&self, priority: Priority, deadline: Instant) -> Result<OwnedSemaphorePermit, Busy> {
        loop {
            let wait = match self.take(priority) {
                Take::Granted => break,
                Take::Closed(wait) => {
                    return Err(Busy { cause: BusyCause::Throttled, retry_after: wait });
                }
                Take::Wait(wait) => wait,
            };
            if Instant::now() + wait > deadline {
                return Err(Busy { cause: BusyCause::Limit, retry_after: wait });
            }
            tokio::time::sleep(wait).await;
        }
        let busy = || Busy { cause: BusyCause::Limit, retry_after: Duration::from_secs(1) };
        if priority == Priority::Polling && self.places.available_permits() * 2 < self.concurrent {
            return Err(busy());
        }
        match tokio::time::timeout_at(deadline, self.places.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }

    /// The registry asked to be left alone for this long.
    pub fn close_for(&self, wait: Duration) {
        let mut bucket = self.bucket.lock();
        let until = Instant::now() + wait;
        if bucket.closed_until.is_none_or(|held| held < until) {
            bucket.closed_until = Some(until);
        }
    }

    fn take(&self, priority: Priority) -> Take {
        let mut bucket = self.bucket.lock();
        let now = Instant::now();
        if let Some(until) = bucket.closed_until {
            if until > now {
                return Take::Closed(until - now);
            }
            bucket.closed_until = None;
        }
        bucket.tokens = (bucket.tokens + (now - bucket.filled).as_secs_f64() * self.rate).min(self.rate);
        bucket.filled = now;
        let floor = match priority {
            Priority::Admission => 0.0,
            Priority::Polling => (self.rate / 2.0).floor(),
        };
        if bucket.tokens >= floor + 1.0 {
            bucket.tokens -= 1.0;
            return Take::Granted;
        }
        Take::Wait(Duration::from_secs_f64((floor + 1.0 - bucket.tokens) / self.rate).max(Duration::from_millis(1)))
    }
}

enum Take {
    Granted,
    Wait(Duration),
    Closed(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(rate: u32, concurrent: u32) -> Limiter {
        Limiter::new(&Limits { requests_per_second: rate, concurrent_requests: concurrent, timeout_seconds: 5 })
    }

    fn within(millis: u64) -> Instant {
        Instant::now() + Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds() {
        let limiter = limiter(10, 1_000);
        let start = Instant::now();
        for _ in 0..30 {
            drop(limiter.acquire(Priority::Admission, within(60_000)).await.unwrap());
        }
        let took = start.elapsed().as_secs_f64();
        assert!((1.9..2.2).contains(&took), "10 at once, then 20 at 10 a second: {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_given_back_and_polling_leaves_half() {
        let limiter = limiter(1_000, 2);
        let first = limiter.acquire(Priority::Admission, within(1)).await.unwrap();
        let second = limiter.acquire(Priority::Admission, within(1)).await.unwrap();
        let busy = limiter.acquire(Priority::Admission, within(10)).await.unwrap_err();
        assert_eq!(busy.cause, BusyCause::Limit);
        assert_eq!(limiter.acquire(Priority::Polling, within(10)).await.unwrap_err().cause, BusyCause::Limit);
        drop((first, second));
        assert!(limiter.acquire(Priority::Polling, within(10)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_before_the_time_that_the_registry_named() {
        let limiter = limiter(1_000, 10);
        limiter.close_for(Duration::from_secs(30));
        limiter.close_for(Duration::from_secs(3));
        let busy = limiter.acquire(Priority::Admission, within(60_000)).await.unwrap_err();
        assert_eq!(busy, Busy { cause: BusyCause::Throttled, retry_after: Duration::from_secs(30) });
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(limiter.acquire(Priority::Admission, within(1)).await.is_ok());
    }
}
