//! What one ImageStatus says.

use std::sync::Arc;

use jiff::Timestamp;

use super::FIRST_SEEN_IN;
use crate::{
    api::{self, Evidence, ImageStatus, Provider},
    facts::{Child, Facts, Manifest},
    image::{Reference, Subject},
    proof::memo::Memo,
};

/// One image status, as the index holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// The object's name.
    pub name: String,
    /// What is known.
    pub facts: Arc<Facts>,
    /// Numbers of transitions whose audit lines are not out.
    pub waiting: usize,
    /// A person decided something that no write of ours has answered yet.
    pub undecided: bool,
    /// Whether a person's decision stands in the spec.
    pub decided: bool,
    /// Since when nothing names it.
    pub unused_since: Option<Timestamp>,
    /// The history is empty: somebody made the object, and nothing was seen yet.
    pub blank: bool,
    /// A person holds or fails it, and that is yet to be written into its status. It counts at once, whoever made the object and by whatever name.
    pub held: bool,
    /// Since when it is bad, where it was good before.
    pub fell: Option<Timestamp>,
    /// The namespace in which it was first asked for, as its label says.
    pub first_seen_in: Option<Arc<str>>,
    /// The tags that were last seen to stand for it, as references, and when.
    pub tags: Box<[(Reference, Timestamp)]>,
    /// What was found signed about it.
    pub evidence: Option<Arc<Evidence>>,
    /// What that was found to prove a moment ago.
    pub proven: Memo,
}

impl Known {
    /// Reads an object. `None` when its subject is no canonical name: nothing is ever looked up by it.
    #[must_use]
    pub fn read(object: &ImageStatus, now: Timestamp) -> Option<(Subject, Self)> {
        let subject: Subject = object.spec.subject.parse().ok()?;
        let status = object.status.clone().unwrap_or_default();
        let tagged = |seen: &api::TagSeen| Some((subject.tagged(&seen.tag)?, seen.at));
        let tags = status.tags.iter().filter_map(tagged).collect();
        let pending = crate::history::decided(object, now);
        let mut facts = Facts {
            state: status.state,
            since: status.since.unwrap_or(Timestamp::UNIX_EPOCH),
            by: status.by,
            reason: status.reason,
            details: status.details,
            provider: status.provider,
            observed_at: status.observed_at.unwrap_or(Timestamp::UNIX_EPOCH),
            manifest: Manifest {
                config: status.config.and_then(|config| config.parse().ok()),
                children: status
                    .children
                    .iter()
                    .filter_map(|child| {
                        let (platform, digest) = child.rsplit_once('=')?;
                        Some(Child { digest: digest.parse().ok()?, platform: platform.to_owned() })
                    })
                    .collect(),
                cut: status.more_children,
            },
        };
        let undecided = pending.is_some();
        let blank = status.history.is_empty();
        let held = pending.as_ref().is_some_and(|decision| decision.facts.state.is_bad());
        // A decision acts at once in every replica, not only when the leader has written it down.
        // Where the registry keeps the flag a release waits until the registry has taken it; what is held is held from now on.
        // Where nobody keeps one there is nothing to decide.
        let counts = match facts.provider {
            _ if blank => held,
            Provider::Managed => true,
            Provider::AzureContainerRegistry => held,
            Provider::None => false,
        };
        if let Some(decision) = pending.filter(|_| counts) {
            let since = if decision.facts.state == facts.state { facts.since } else { decision.facts.since };
            let provider = if blank { Provider::Managed } else { facts.provider };
            facts = Facts { since, manifest: facts.manifest, provider, ..decision.facts };
        }
        // A decision that is not written yet comes after the last transition that is.
        let last = (facts.state.is_bad() && !status.state.is_bad()).then_some((facts.state, facts.since));
        let fell = crate::history::fell(&status.history, last);
        let waiting = status.history.iter().filter(|transition| transition.number > status.emitted_through).count();
        let known = Self {
            name: object.metadata.name.clone().unwrap_or_default(),
            facts: Arc::new(facts),
            waiting,
            undecided,
            decided: object.spec.quarantine.is_some(),
            unused_since: status.unused_since,
            blank,
            held,
            fell,
            first_seen_in: object.metadata.labels.as_ref().and_then(|labels| labels.get(FIRST_SEEN_IN)).map(|name| name.as_str().into()),
            tags,
            evidence: status.evidence.map(Arc::new),
            proven: Memo::default(),
        };
        Some((subject, known))
    }
}
