//! Calls to the API server: bounded in time and in number, and silent for as long as it asks for that.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

use crate::history;

/// How long one call to the API server may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls of one replica's writer at once. The API server is everybody's.
const AT_ONCE: usize = 16;
/// How often a call that the API server had no time for is made again.
const TURNS: usize = 4;
/// How long an API server that does not say so is left alone, and how long at the most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One bounded call.
///
/// # Errors
/// The API server's own error, or that it did not answer in [`CALL_TIMEOUT`].
pub async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Err(CallError::Conflict),
        Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => Err(CallError::AlreadyExists),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Err(CallError::NotFound),
        Ok(Err(kube::Error::Api(status))) if status.code == 429 => {
            let seconds = status.details.as_ref().map(|details| u64::from(details.retry_after_seconds)).filter(|seconds| *seconds > 0);
            Err(CallError::Overloaded(seconds.map_or(PAUSE, Duration::from_secs).min(LONGEST_PAUSE)))
        }
        Ok(Err(error)) => Err(CallError::Failed(history::clip(&error.to_string(), 300))),
        Err(_) => Err(CallError::Failed(format!("the API server did not answer within {} s", CALL_TIMEOUT.as_secs()))),
    }
}

/// How a call to the API server failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// 409 over `resourceVersion`.
    #[error("somebody else wrote the object meanwhile")]
    Conflict,
    /// 409 over the name.
    #[error("it exists already")]
    AlreadyExists,
    /// 404.
    #[error("it does not exist")]
    NotFound,
    /// 429: it has no time, and wants to be left alone for this long.
    #[error("the API server is overloaded and asks to be left alone for {} s", .0.as_secs_f32().ceil())]
    Overloaded(Duration),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Whose turn it is to call the API server.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    places: Arc<Semaphore>,
    /// Until when it wants to be left alone, and for how long it was the last time.
    quiet: Arc<Mutex<(Option<Instant>, Duration)>>,
}

impl Default for Calls {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), quiet: Arc::new(Mutex::new((None, Duration::ZERO))) }
    }
}

impl Calls {
    /// Makes a call when the API server may be called, and again when it had no time.
    pub(super) async fn make<T, F: Future<Output = kube::Result<T>>>(&self, call: impl Fn() -> F) -> Result<T, CallError> {
        // Nobody closes the semaphore.
        let _place = self.places.acquire().await;
        let mut turn = 1;
        loop {
            while let Some(until) = self.quiet_until() {
                tokio::time::sleep_until(until).await;
            }
            match bounded(call()).await {
                Err(CallError::Overloaded(asked)) => {
                    self.leave_alone(asked);
                    if turn >= TURNS {
                        return Err(CallError::Overloaded(asked));
                    }
                    turn += 1;
                }
                end => {
                    self.quiet.lock().1 = Duration::ZERO;
                    return end;
                }
            }
        }
    }

    fn quiet_until(&self) -> Option<Instant> {
        self.quiet.lock().0.filter(|until| *until > Instant::now())
    }

    /// For as long as it asks, and twice as long as the last time when that was not enough.
    fn leave_alone(&self, asked: Duration) {
        let mut quiet = self.quiet.lock();
        let now = Instant::now();
        // Several calls may have been on their way: they are one occasion.
        if quiet.0.is_none_or(|until| until <= now) {
            let pause = asked.max(2 * quiet.1).min(LONGEST_PAUSE);
            *quiet = (Some(now + pause), pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::core::{Status, response::StatusDetails};

    use super::*;

    fn overloaded(seconds: u32) -> kube::Error {
        let details: StatusDetails = serde_json::from_value(serde_json::json!({ "retryAfterSeconds": seconds })).unwrap();
        kube::Error::Api(Box::new(Status { code: 429, details: Some(details), ..Status::default() }))
    }

    #[tokio::test(start_paused = true)]
    async fn an_overloaded_api_server_is_left_alone_for_as_long_as_it_asks() {
        let calls = Calls::default();
        let begun = Instant::now();
        let made = Mutex::new(Vec::new());
        let call = || {
            let mut made = made.lock();
            made.push(begun.elapsed().as_secs());
            let end = if made.len() <= 2 { Err(overloaded(3)) } else { Ok(()) };
            std::future::ready(end)
        };
        assert_eq!(calls.make(call).await, Ok(()));
        assert_eq!(*made.lock(), [0, 3, 9], "the second time for twice as long");
        // Others wait, too.
        calls.leave_alone(Duration::from_secs(5));
        assert_eq!(calls.make(|| std::future::ready(Ok(()))).await, Ok(()));
        assert_eq!(begun.elapsed().as_secs(), 14);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let calls = Calls::default();
        let made = AtomicUsize::new(0);
        let end: Result<(), _> = calls
            .make(|| {
                made.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Err(overloaded(0)))
            })
            .await;
        assert_eq!(end, Err(CallError::Overloaded(PAUSE)));
        assert_eq!(made.into_inner(), TURNS);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_at_once_are_bounded() {
        let calls = Calls::default();
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let call = || async {
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        };
        futures::future::join_all((0..100).map(|_| calls.make(call))).await;
        assert_eq!(most.into_inner(), AT_ONCE);
    }
}
