//! What one look-up may take of a registry: turns in its line, and time.

use std::{fmt, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{Failure, transport::outage};
use crate::{
    facts::{Busy, BusyCause, Outage, OutageKind},
    line::{Class, Line, Turn},
};

/// How long one request may wait for its turn. A look-up belongs to nobody who waits, so it may stand in line for longer than any of them.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// What one look-up may take, all its requests together.
///
/// The clock runs only while something is under way at the registry: to wait in our own line says nothing about a registry, and must not look
/// as if it were slow.
pub struct Pass {
    line: Option<Line>,
    /// Where it stands in line. What has no place waits behind nobody.
    place: Option<(Class, Box<str>)>,
    /// What it may take in all.
    whole: Duration,
    /// What one of its requests may take.
    each: Duration,
    clock: Mutex<Clock>,
    /// Tells when the registry is found to be out.
    out: Option<watch::Receiver<Option<Outage>>>,
    /// Whether somebody else has found out meanwhile.
    needless: Option<Box<dyn Fn() -> bool + Send + Sync>>,
    /// Called once, when half of the time is over and there is no answer.
    slow: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

#[derive(Debug)]
struct Clock {
    /// Requests under way.
    sending: usize,
    /// Since when there has been one.
    since: Instant,
    spent: Duration,
}

/// The clock runs while this lives.
struct Running<'a>(&'a Pass);

impl fmt::Debug for Pass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pass").field("whole", &self.whole).field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Pass {
    /// Turns in a line, on behalf of a namespace, and this much time. `slow` is called once, when half of it is over.
    pub fn new(line: Line, class: Class, namespace: &str, whole: Duration, slow: impl FnOnce() + Send + 'static) -> Self {
        let place = Some((class, namespace.into()));
        Self { line: Some(line), place, slow: Mutex::new(Some(Box::new(slow))), ..Self::free(whole) }
    }

    /// Time, and neither a line nor a connection that others wait for: for what must not wait behind others.
    #[must_use]
    pub fn free(whole: Duration) -> Self {
        let clock = Clock { sending: 0, since: Instant::now(), spent: Duration::ZERO };
        Self { line: None, place: None, whole, each: whole, clock: Mutex::new(clock), out: None, needless: None, slow: Mutex::default() }
    }

    /// The same past those who stand in this line, for the question whether the registry is alive: but not while it asks for no requests at all.
    #[must_use]
    pub fn past(line: Line, whole: Duration) -> Self {
        Self { line: Some(line), ..Self::free(whole) }
    }

    /// No single request takes longer than this.
    #[must_use]
    pub fn each(self, each: Duration) -> Self {
        Self { each, ..self }
    }

    /// Asks, when its turn has come, whether there is still something to find out.
    #[must_use]
    pub fn unless(self, needless: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { needless: Some(Box::new(needless)), ..self }
    }

    /// Waits in line no longer when the registry is found to be out.
    #[must_use]
    pub fn interrupted_by(self, out: watch::Receiver<Option<Outage>>) -> Self {
        Self { out: Some(out), ..self }
    }

    /// It waits behind nobody.
    pub(super) const fn is_free(&self) -> bool {
        self.place.is_none()
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self) -> Result<Option<Turn>, Failure> {
        let Some(line) = &self.line else { return Ok(None) };
        let Some((class, namespace)) = &self.place else {
            let held = |retry_after| Failure::Held(Busy { cause: BusyCause::Throttled, retry_after });
            return line.closed().map_or(Ok(None), |wait| Err(held(wait)));
        };
        let found_out = async {
            if let Some(mut out) = self.out.clone()
                && let Ok(out) = out.wait_for(Option::is_some).await
                && let Some(outage) = &*out
            {
                return outage.clone();
            }
            std::future::pending().await
        };
        let turn = tokio::select! {
            biased;
            outage = found_out => return Err(Failure::Outage(outage)),
            turn = line.turn(*class, namespace, LONGEST_WAIT) => turn.map_err(Failure::Held)?,
        };
        if self.needless.as_ref().is_some_and(|needless| needless()) {
            turn.pass_on();
            return Err(Failure::Held(Busy { cause: BusyCause::Limit, retry_after: Duration::ZERO }));
        }
        Ok(Some(turn))
    }

    /// Tells the line that the registry bears it.
    pub(super) fn answered(&self) {
        if let Some(line) = &self.line {
            line.answered();
        }
    }

    /// Tells the line that the registry asks for fewer requests, and for none for a while if it names one. Returns for how long there will be none.
    pub(super) fn throttled(&self, named: Option<Duration>) -> Option<Duration> {
        self.line.as_ref().map(|line| line.throttled(named)).or(named)
    }

    /// Lets one request take what time is left.
    pub(super) async fn within<T>(&self, peer: &str, request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let running = self.start();
        let mut request = std::pin::pin!(tokio::time::timeout(self.left().min(self.each), request));
        let until_slow = self.left().saturating_sub(self.whole / 2);
        let end = match tokio::time::timeout(until_slow, &mut request).await {
            Ok(end) => end,
            Err(_) => {
                let slow = self.slow.lock().take();
                if let Some(slow) = slow {
                    slow();
                }
                request.await
            }
        };
        drop(running);
        end.unwrap_or_else(|_| Err(outage(OutageKind::TimedOut, &format!("no answer from {peer} within {}s", self.whole.as_secs()))))
    }

    fn start(&self) -> Running<'_> {
        let mut clock = self.clock.lock();
        if clock.sending == 0 {
            clock.since = Instant::now();
        }
        clock.sending += 1;
        Running(self)
    }

    fn left(&self) -> Duration {
        let clock = self.clock.lock();
        let running = if clock.sending > 0 { clock.since.elapsed() } else { Duration::ZERO };
        self.whole.saturating_sub(clock.spent + running)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut clock = self.0.clock.lock();
        clock.sending -= 1;
        if clock.sending == 0 {
            let ran = clock.since.elapsed();
            clock.spent += ran;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::api::Limits;

    async fn takes(millis: u64) -> Result<u32, Failure> {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Ok(7)
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_is_for_all_requests_together_and_not_for_the_line() {
        let told = Arc::new(AtomicUsize::new(0));
        let line = Line::new(&Limits { requests_per_second: 1, concurrent_requests: 1, timeout_seconds: 5 });
        let count = told.clone();
        let pass = Pass::new(line, Class::Admission, "team", Duration::from_secs(2), move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let begun = Instant::now();
        for _ in 0..4 {
            let _turn = pass.turn().await.unwrap();
            assert_eq!(pass.within("r", takes(240)).await, Ok(7));
        }
        assert!(begun.elapsed() >= Duration::from_secs(3), "three waits of a second that do not count: {:?}", begun.elapsed());
        assert_eq!(told.load(Ordering::Relaxed), 0);
        assert_eq!(pass.within("r", takes(900)).await, Ok(7));
        assert_eq!(told.load(Ordering::Relaxed), 1, "half of it was over");
        let Err(Failure::Outage(late)) = pass.within("r", takes(900)).await else { panic!("more than there was") };
        assert_eq!((late.kind, late.message.as_str()), (OutageKind::TimedOut, "no answer from r within 2s"));
        assert_eq!(told.load(Ordering::Relaxed), 1, "told once");
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_else_found_out_takes_no_request() {
        let line = Line::new(&Limits { requests_per_second: 1, concurrent_requests: 1, timeout_seconds: 5 });
        let known = Arc::new(AtomicUsize::new(0));
        let pass = |known: &Arc<AtomicUsize>| {
            let known = known.clone();
            let pass = Pass::new(line.clone(), Class::Admission, "team", Duration::from_secs(2), || ());
            pass.unless(move || known.load(Ordering::Relaxed) > 0)
        };
        drop(pass(&known).turn().await.unwrap());
        let begun = Instant::now();
        let (one, two) = (pass(&known), pass(&known));
        known.store(1, Ordering::Relaxed);
        let (one, two) = tokio::join!(one.turn(), two.turn());
        for end in [one, two] {
            assert!(matches!(end, Err(Failure::Held(_))), "{end:?}");
        }
        assert!(pass(&Arc::default()).turn().await.is_ok());
        assert_eq!(begun.elapsed().as_secs(), 1, "one request's time, though three had waited");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_at_once_take_their_time_once() {
        let pass = Pass::free(Duration::from_secs(1));
        let (one, two, three) = tokio::join!(pass.within("r", takes(800)), pass.within("r", takes(700)), pass.within("r", takes(600)));
        assert_eq!([one, two, three], [Ok(7), Ok(7), Ok(7)]);
        assert!(pass.left() >= Duration::from_millis(199), "{:?}", pass.left());
        // One that is given up stops the clock as well.
        drop(tokio::time::timeout(Duration::from_millis(50), pass.within("r", takes(600))).await);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pass.within("r", takes(100)).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn past_the_line_nothing_goes_either_while_it_is_closed() {
        let line = Line::new(&Limits { requests_per_second: 1, concurrent_requests: 1, timeout_seconds: 5 });
        let pass = Pass::past(line.clone(), Duration::from_secs(3)).each(Duration::from_secs(1));
        drop(line.turn(Class::Admission, "team", Duration::ZERO).await);
        assert!(matches!(pass.turn().await, Ok(None)), "it waits behind nobody");
        for _ in 0..2 {
            assert_eq!(pass.within("r", takes(900)).await, Ok(7));
        }
        assert!(matches!(pass.within("r", takes(1_100)).await, Err(Failure::Outage(_))), "there is more left, but not for one");
        assert_eq!(pass.throttled(Some(Duration::from_secs(30))), Some(Duration::from_secs(30)));
        let Err(Failure::Held(busy)) = pass.turn().await else { panic!("the registry asks for no requests") };
        assert_eq!(busy, Busy { cause: BusyCause::Throttled, retry_after: Duration::from_secs(30) });
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(matches!(pass.turn().await, Ok(None)));
    }
}
