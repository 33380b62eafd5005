//! Signals, and the order of leaving.
//!
//! ```text
//! first signal            turn unready; go on answering, for the endpoints that still send    draining
//!   after the delay       stop accepting, finish what is open, release the Lease              stopping
//!     after the grace     leave, saying what did not finish
//! second signal           leave at once                                                       aborting
//! ```
//!
//! An API server learns from an endpoint slice that we go, and it learns late: a listener that closes with the signal refuses reviews for
//! a second or two. Hence the delay. Each step includes those before it, so whoever waits for one needs to know no other.

use std::{collections::HashMap, io, time::Duration};

use futures::{Stream, StreamExt, stream};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How far the process is on its way out. Clones share it.
#[derive(Clone, Debug)]
pub struct Shutdown {
    draining: CancellationToken,
    stopping: CancellationToken,
    aborting: CancellationToken,
}

/// The tasks that the process lives for. One that ends before the shutdown ends the process.
#[derive(Debug)]
pub struct Tasks {
    running: JoinSet<Result<(), BoxError>>,
    names: HashMap<Id, &'static str>,
    shutdown: Shutdown,
}

/// Why the process did not end as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It returned while it was needed.
    #[error("{0} ended")]
    Ended(&'static str),
    /// It returned an error.
    #[error("{name} failed")]
    Failed {
        /// The task's name.
        name: &'static str,
        /// What it returned.
        source: BoxError,
    },
    /// It panicked; the panic's text is on standard error already.
    #[error("{0} panicked")]
    Panicked(&'static str),
    /// They did not finish within the grace.
    #[error("not finished in time: {}", .0.join(", "))]
    Unfinished(Vec<&'static str>),
    /// A second signal came.
    #[error("left at once, at a second signal")]
    Aborted,
}

/// SIGTERM and SIGINT, by name, from now on: neither ends the process by itself any more.
pub fn signals() -> io::Result<impl Stream<Item = &'static str> + Send + Unpin> {
    let watch = |kind, name| {
        let mut signals = signal(kind)?;
        Ok::<_, io::Error>(stream::poll_fn(move |cx| signals.poll_recv(cx).map(|signal| signal.map(|()| name))))
    };
    Ok(stream::select(watch(SignalKind::terminate(), "SIGTERM")?, watch(SignalKind::interrupt(), "SIGINT")?))
}

// === impl Shutdown ===

impl Default for Shutdown {
    fn default() -> Self {
        let aborting = CancellationToken::new();
        let stopping = aborting.child_token();
        Self { draining: stopping.child_token(), stopping, aborting }
    }
}

impl Shutdown {
    /// Cancelled by the first signal: turn unready, go on answering.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled after the delay: take nothing new, finish what is open.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Cancelled by the second signal: leave.
    pub fn aborting(&self) -> &CancellationToken {
        &self.aborting
    }

    /// Walks the steps as `signals` arrive. Does not return, since it is there for the second signal until the process ends: spawn it beside
    /// the [`Tasks`], not as one of them.
    pub async fn follow(self, mut signals: impl Stream<Item = &'static str> + Unpin, delay: Duration) {
        if let Some(signal) = signals.next().await {
            tracing::info!(signal, delay_seconds = delay.as_secs_f64(), "shutting down");
            self.draining.cancel();
            tokio::select! {
                Some(signal) = signals.next() => self.abort(signal),
                () = tokio::time::sleep(delay) => {
                    self.stopping.cancel();
                    if let Some(signal) = signals.next().await {
                        self.abort(signal);
                    }
                }
            }
        }
        std::future::pending::<()>().await;
    }

    fn abort(&self, signal: &'static str) {
        tracing::warn!(signal, "leaving at once");
        self.aborting.cancel();
    }
}

// === impl Tasks ===

impl Tasks {
    /// No tasks yet.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { running: JoinSet::new(), names: HashMap::new(), shutdown }
    }

    /// Starts a task that runs until the shutdown.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.try_spawn(name, async {
            task.await;
            Ok::<_, BoxError>(())
        });
    }

    /// Starts a task that runs until the shutdown, or fails.
    pub fn try_spawn<E: Into<BoxError>>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static) {
        let handle = self.running.spawn(async { task.await.map_err(Into::into) });
        self.names.insert(handle.id(), name);
    }

    /// Waits until all have ended, which before the shutdown begins none may do: then the others are stopped, without the delay.
    ///
    /// Once they are to stop they have `grace`; those that still run after it are aborted. The first thing that went wrong is returned.
    pub async fn join(mut self, grace: Duration) -> Result<(), Error> {
        let mut wrong = None;
        let stopping = self.shutdown.stopping.clone();
        let too_late = async {
            stopping.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::pin!(too_late);
        loop {
            tokio::select! {
                ended = self.running.join_next_with_id() => match ended {
                    None => return wrong.map_or(Ok(()), Err),
                    Some(ended) => {
                        if let Some(error) = self.judge(ended) {
                            tracing::error!(error = &error as &dyn std::error::Error, "a task went wrong");
                            self.shutdown.stopping.cancel();
                            wrong.get_or_insert(error);
                        }
                    }
                },
                () = &mut too_late => {
                    let mut names: Vec<_> = self.names.into_values().collect();
                    names.sort_unstable();
                    return Err(wrong.unwrap_or(Error::Unfinished(names)));
                }
                () = self.shutdown.aborting.cancelled() => return Err(wrong.unwrap_or(Error::Aborted)),
            }
        }
    }

    fn judge(&mut self, ended: Result<(Id, Result<(), BoxError>), JoinError>) -> Option<Error> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let name = self.names.remove(&id).unwrap_or("a task");
        match ended {
            Ok((_, Ok(()))) if self.shutdown.draining.is_cancelled() => None,
            Ok((_, Ok(()))) => Some(Error::Ended(name)),
            Ok((_, Err(source))) => Some(Error::Failed { name, source }),
            Err(_) => Some(Error::Panicked(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::channel::mpsc::{UnboundedSender, unbounded};
    use tokio::time::Instant;

    use super::*;

    const DELAY: Duration = Duration::from_secs(5);
    const GRACE: Duration = Duration::from_secs(30);

    fn followed() -> (Shutdown, UnboundedSender<&'static str>) {
        let (send, signals) = unbounded();
        let shutdown = Shutdown::default();
        tokio::spawn(shutdown.clone().follow(signals, DELAY));
        (shutdown, send)
    }

    fn steps(shutdown: &Shutdown) -> [bool; 3] {
        [&shutdown.draining, &shutdown.stopping, &shutdown.aborting].map(CancellationToken::is_cancelled)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_drains_and_then_stops() {
        let (shutdown, send) = followed();
        assert_eq!(steps(&shutdown), [false; 3]);
        send.unbounded_send("SIGTERM").unwrap();
        let begun = Instant::now();
        shutdown.draining().cancelled().await;
        assert_eq!((begun.elapsed(), steps(&shutdown)), (Duration::ZERO, [true, false, false]));
        shutdown.stopping().cancelled().await;
        assert_eq!((begun.elapsed(), steps(&shutdown)), (DELAY, [true, true, false]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_signal_aborts_while_draining_and_while_stopping() {
        for wait in [1, 6] {
            let (shutdown, send) = followed();
            let begun = Instant::now();
            send.unbounded_send("SIGTERM").unwrap();
            shutdown.draining().cancelled().await;
            tokio::time::advance(Duration::from_secs(wait)).await;
            send.unbounded_send("SIGINT").unwrap();
            shutdown.aborting().cancelled().await;
            assert_eq!((begun.elapsed().as_secs(), steps(&shutdown)), (wait, [true; 3]));
        }
    }

    #[tokio::test]
    async fn signals_of_the_system_arrive_by_name() {
        let mut signals = signals().unwrap();
        for (option, name) in [("-TERM", "SIGTERM"), ("-INT", "SIGINT")] {
            let sent = std::process::Command::new("kill").args([option, &std::process::id().to_string()]).status().unwrap();
            assert!(sent.success());
            assert_eq!(tokio::time::timeout(Duration::from_secs(20), signals.next()).await.unwrap(), Some(name));
        }
    }

    async fn until(token: CancellationToken) {
        token.cancelled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_end_when_they_are_told_are_well() {
        let (shutdown, send) = followed();
        let mut tasks = Tasks::new(shutdown.clone());
        tasks.spawn("watch", until(shutdown.draining().clone()));
        tasks.spawn("server", until(shutdown.stopping().clone()));
        send.unbounded_send("SIGTERM").unwrap();
        tasks.join(GRACE).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_too_early_ends_the_process_by_name() {
        let (shutdown, _send) = followed();
        let mut tasks = Tasks::new(shutdown.clone());
        tasks.spawn("server", until(shutdown.stopping().clone()));
        tasks.spawn("policy watch", async {});
        assert_eq!(tasks.join(GRACE).await.unwrap_err().to_string(), "policy watch ended");
        assert_eq!(steps(&shutdown), [true, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_and_a_panic_bear_the_name_as_well() {
        let mut tasks = Tasks::new(Shutdown::default());
        tasks.try_spawn("webhook", async { Err::<(), _>(io::Error::other("no socket")) });
        let error = tasks.join(GRACE).await.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!((error.to_string(), source), ("webhook failed".to_owned(), "no socket".to_owned()));

        let mut tasks = Tasks::new(Shutdown::default());
        tasks.try_spawn("operator", async { if true { panic!("on purpose") } else { Ok::<_, Infallible>(()) } });
        assert_eq!(tasks.join(GRACE).await.unwrap_err().to_string(), "operator panicked");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_fails_while_stopping_is_told() {
        let (shutdown, send) = followed();
        let mut tasks = Tasks::new(shutdown.clone());
        let stopping = shutdown.stopping().clone();
        tasks.try_spawn("webhook", async move {
            stopping.cancelled().await;
            Err(io::Error::other("late"))
        });
        send.unbounded_send("SIGTERM").unwrap();
        assert_eq!(tasks.join(GRACE).await.unwrap_err().to_string(), "webhook failed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_finish_is_left_behind_by_name() {
        let (shutdown, send) = followed();
        let mut tasks = Tasks::new(shutdown.clone());
        tasks.spawn("writer", std::future::pending());
        tasks.spawn("server", until(shutdown.stopping().clone()));
        tasks.spawn("audit", std::future::pending());
        send.unbounded_send("SIGTERM").unwrap();
        let begun = Instant::now();
        assert_eq!(tasks.join(GRACE).await.unwrap_err().to_string(), "not finished in time: audit, writer");
        assert_eq!(begun.elapsed(), DELAY + GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_waits_for_nobody() {
        let (shutdown, send) = followed();
        let mut tasks = Tasks::new(shutdown);
        tasks.spawn("server", std::future::pending());
        send.unbounded_send("SIGTERM").unwrap();
        send.unbounded_send("SIGTERM").unwrap();
        let begun = Instant::now();
        assert!(matches!(tasks.join(GRACE).await, Err(Error::Aborted)));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
