//! Audit lines: one JSON object a line on standard output, under the target `audit`, for each transition of an image and each
//! admission that was not a plain yes. They go the way of all logs, so that whoever collects those has them.

use crate::{api::Transition, debts::Told, image::Subject, judgement::Line};

/// The tracing target of audit lines. It is not subject to the log level.
pub const TARGET: &str = "audit";

/// Where and for whom an admission was judged.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The request's uid, as in the API server's own audit log.
    pub uid: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// The object: kind and name, or kind and generateName.
    pub object: &'a str,
    /// Who asked.
    pub user: &'a str,
    /// Nothing will be written.
    pub dry_run: bool,
}

/// An opinion that was not a plain yes.
pub fn admission(request: &Request<'_>, line: &Line) {
    tracing::info!(
        target: TARGET,
        event = "admission",
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
