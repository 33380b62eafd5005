//! Audit lines: one JSON object a line on standard output, under the target `audit`, for each transition of an image and each
//! admission that was not a plain yes. They go the way of all logs, so that whoever collects those has them.
//!
//! An admission is answered before it is written down: a pod waits for its answer, and nobody for the line. A replica that is killed loses the
//! lines that are yet to be written: those of the last [`MOMENT`], and more where they came faster than they are written. One that is told to
//! stop writes them first.

use std::{iter, time::Duration};

use jiff::Timestamp;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{api::Transition, debts::Told, image::Subject, judgement::Line};

/// The tracing target of audit lines. It is not subject to the log level.
pub const TARGET: &str = "audit";

/// Admissions that are yet to be written down, and the lines of one. Beyond these whoever answers writes them itself, so that none is lost.
const MOST_WAITING: usize = 2_048;
const MOST_LINES: usize = 8;
/// So many are written down before others have their turn.
const AT_A_TIME: usize = 4;
/// What is handed in when nothing else waits is written so much later: of a thousand pods that waited for one look-up the others are answered
/// first.
const MOMENT: Duration = Duration::from_millis(100);

/// An admission that was not a plain yes: where and for whom it was judged.
#[derive(Clone, Debug)]
pub struct Admission {
    /// When it was judged, which is some time before it is written down.
    pub at: Timestamp,
    /// The request's uid, as in the API server's own audit log.
    pub uid: String,
    /// The namespace.
    pub namespace: String,
    /// The object: kind and name, or kind and generateName.
    pub object: String,
    /// Who asked.
    pub user: String,
    /// Nothing will be written.
    pub dry_run: bool,
    /// Every opinion that was not a plain yes.
    pub lines: Vec<Line>,
}

/// Where admissions are handed in.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<Admission>);

impl Desk {
    /// A desk, and what writes down what is handed in there until every clone of the desk is gone.
    pub fn new() -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        (Self(sender), write(receiver))
    }

    /// One at which everything is written down at once.
    #[must_use]
    pub fn unmanned() -> Self {
        Self(mpsc::channel(1).0)
    }

    /// Has an admission written down, soon.
    pub fn hand_in(&self, admission: Admission) {
        if admission.lines.len() > MOST_LINES {
            return admission.write();
        }
        if let Err(TrySendError::Full(admission) | TrySendError::Closed(admission)) = self.0.try_send(admission) {
            admission.write();
        }
    }
}

async fn write(mut handed_in: mpsc::Receiver<Admission>) {
    while let Some(first) = handed_in.recv().await {
        tokio::time::sleep(MOMENT).await;
        let waiting = iter::once(first).chain(iter::from_fn(|| handed_in.try_recv().ok()));
        for (before, admission) in waiting.enumerate() {
            admission.write();
            if before % AT_A_TIME == AT_A_TIME - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Admission {
    fn write(&self) {
        for line in &self.lines {
            write_line(self, line);
        }
    }
}

fn write_line(request: &Admission, line: &Line) {
    tracing::info!(
        target: TARGET,
        event = "admission",
        at = %request.at,
        uid = request.uid,
        namespace = request.namespace,
        object = request.object,
        user = request.user,
        dry_run = request.dry_run,
        path = line.path,
        image = line.image,
        digest = line.digest.as_deref().unwrap_or_default(),
        policies = line.policies,
        mode = line.mode.as_str(),
        verdict = line.answered.as_str(),
        basis = ?line.basis,
        reason = line.reason,
        "admission"
    );
}

/// A transition of an image. At least once: after a change of leader a line may come again, with the same number.
pub fn transition(subject: &Subject, previous: Option<&Transition>, transition: &Transition) {
    tracing::info!(
        target: TARGET,
        event = "transition",
        registry = subject.registry(),
        repository = subject.repository(),
        digest = %subject.digest(),
        number = transition.number,
        at = %transition.at,
        from = previous.map_or("", |previous| previous.state.as_str()),
        to = transition.state.as_str(),
        by = transition.by,
        reason = transition.reason,
        "transition"
    );
}

/// What became of running containers. At least once: what is refused and runs is told again after a change of leader.
pub fn debt(told: &Told) {
    let owner = told.owner.as_ref().map_or_else(String::new, |owner| format!("{}/{}", owner.kind, owner.name));
    tracing::info!(
        target: TARGET,
        event = "debt",
        change = told.change.as_str(),
        namespace = &*told.namespace,
        owner,
        pod = &*told.pod,
        container = &*told.container,
        containers = told.containers,
        registry = told.subject.registry(),
        repository = told.subject.repository(),
        digest = %told.subject.digest(),
        policies = told.policies.join(","),
        reason = told.why,
        "debt"
    );
}

/// So many changes of running containers came at once that these have no line of their own; the metric counts them.
pub fn more_debts(containers: u64) {
    tracing::info!(target: TARGET, event = "debt", change = "More", containers, "debt");
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use parking_lot::Mutex;
    use tokio::time::Instant;
    use tracing::subscriber::DefaultGuard;

    use super::*;

    /// What was written, and when.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<(Instant, String)>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().push((Instant::now(), String::from_utf8_lossy(bytes).into_owned()));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log() -> (Log, DefaultGuard) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn admission(uid: usize, lines: usize) -> Admission {
        let line = Line {
            path: "spec.containers[web].image".to_owned(),
            image: "r.example/a".to_owned(),
            digest: None,
            policies: "p".to_owned(),
            mode: crate::api::Mode::Enforce,
            answered: crate::judgement::Answered::Refuse,
            basis: crate::verdict::Basis::Registry,
            reason: "in quarantine".to_owned(),
        };
        Admission {
            at: Timestamp::UNIX_EPOCH,
            uid: format!("uid-{uid};"),
            namespace: "team".to_owned(),
            object: "Pod/web".to_owned(),
            user: "jane".to_owned(),
            dry_run: false,
            lines: vec![line; lines],
        }
    }

    fn uids(log: &Log) -> Vec<usize> {
        let lines = log.0.lock();
        let uid = |line: &String| line.split_once("uid-")?.1.split_once(';')?.0.parse().ok();
        lines.iter().map(|(_, line)| uid(line).unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_written_a_moment_later_in_their_order_and_all_of_them_before_the_end() {
        let (log, _guard) = log();
        let (desk, writing) = Desk::new();
        let writing = tokio::spawn(writing);
        let begun = Instant::now();
        (0..100).for_each(|uid| desk.hand_in(admission(uid, 1)));
        tokio::time::sleep(MOMENT / 2).await;
        assert_eq!(uids(&log), [0_usize; 0], "whoever waits is answered first");
        tokio::time::sleep(MOMENT).await;
        assert_eq!(uids(&log), (0..100).collect::<Vec<_>>());
        assert!(log.0.lock().iter().all(|(at, _)| at.duration_since(begun) == MOMENT));
        assert!(log.0.lock()[0].1.contains(r#""at":"1970-01-01T00:00:00Z""#), "{:?}", log.0.lock()[0]);
        (100..150).for_each(|uid| desk.hand_in(admission(uid, 1)));
        drop(desk);
        writing.await.unwrap();
        assert_eq!(uids(&log), (0..150).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_is_written_at_once() {
        let (log, _guard) = log();
        let (desk, writing) = Desk::new();
        (0..=MOST_WAITING).for_each(|uid| desk.hand_in(admission(uid, 1)));
        assert_eq!(uids(&log), [MOST_WAITING]);
        desk.hand_in(admission(9_999, MOST_LINES + 1));
        assert_eq!(uids(&log)[1..], vec![9_999; MOST_LINES + 1]);
        drop(desk);
        writing.await;
        assert_eq!(uids(&log).len(), 1 + MOST_LINES + 1 + MOST_WAITING);
    }
}
