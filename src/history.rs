//! The numbered history of an image's transitions, and the pure merge that appends to it.
//!
//! Any replica may write what it found; they meet at the API server, by `resourceVersion`. So the merge is a function of the
//! object that is there and of one observation, and a lost race is another call with the newer object. Its rules:
//!
//! - the newer observation wins; an older one changes nothing. Time is the clocks of replicas: where what is written lies in our future
//!   they differ, and then a bad observation counts;
//! - what a keeper says of an image that is new to it ([`Weight::First`]) is for images that *are* new: where the flag was kept before,
//!   the state in which it was left stands, or a look-up by a replica that has not read the object yet would undo a person's release;
//! - bad (Quarantined, Failed) is cleared only by a newer *explicit* release, by whoever keeps the flag: that nobody keeps it any more
//!   releases nothing;
//! - a transition is appended exactly when the state changes, with the next number; numbers have no gaps;
//! - a transition whose audit line is not out yet is never forgotten: when [`MAX_HISTORY`] of them wait, the next one must wait too.

use jiff::Timestamp;

use crate::{
    api::{
        self, Conditions, Evidence, ImageStatus, ImageStatusStatus, MAX_CHILDREN, MAX_HISTORY, MAX_OBJECT_BYTES, MAX_TAGS, Provider, State,
        TagSeen, Transition,
    },
    facts::{Facts, Manifest},
};

/// Something that was seen or decided about one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What it says.
    pub facts: Facts,
    /// What it weighs against what is written.
    pub weight: Weight,
}

/// What an observation weighs against what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// What is said of an image by somebody who has no record of it. It never changes a state that was kept.
    First,
    /// It came out so.
    Seen,
    /// It was set on purpose by whoever keeps the flag: only that clears bad.
    Explicit,
}

/// What comes of an observation.
#[derive(Clone, Debug, PartialEq)]
pub enum Merged {
    /// The object says so already, or knows better.
    Unchanged,
    /// The status to write.
    Changed(Box<ImageStatusStatus>),
    /// Too many transitions wait for their audit lines; try again when the leader has written them.
    Full,
}

/// Merges an observation into what is written.
#[must_use]
pub fn merge(object: &ImageStatus, seen: &Observation, now: Timestamp) -> Merged {
    let old = object.status.clone().unwrap_or_default();
    let first = old.history.is_empty();
    let facts = &if first || seen.weight != Weight::First { seen.facts.clone() } else { as_it_was_kept(object, &old, &seen.facts) };
    let older = old.observed_at.filter(|at| *at > facts.observed_at);
    let revokes = facts.state.is_bad() && !old.state.is_bad();
    if !first && older.is_some_and(|at| at <= now || !revokes) {
        return Merged::Unchanged;
    }
    if !first && old.state.is_bad() && !facts.state.is_bad() && seen.weight != Weight::Explicit {
        return Merged::Unchanged;
    }
    let mut new = old.clone();
    new.provider = facts.provider;
    if facts.manifest != Manifest::default() {
        new.config = facts.manifest.config.as_ref().map(ToString::to_string);
        let children = &facts.manifest.children;
        new.children = children.iter().take(MAX_CHILDREN).map(|child| format!("{}={}", child.platform, child.digest)).collect();
        new.more_children = facts.manifest.cut || children.len() > MAX_CHILDREN;
    }
    if first || old.state != facts.state {
        if waiting(&old) >= MAX_HISTORY {
            return Merged::Full;
        }
        new.state = facts.state;
        new.since = Some(facts.since);
        new.by = clip(&facts.by, 128);
        new.reason = clip(&facts.reason, 256);
        new.details = clip(&facts.details, 512);
        let number = old.history.last().map_or(1, |last| last.number + 1);
        new.history.push(Transition {
            number,
            at: facts.observed_at,
            state: facts.state,
            by: clip(&facts.by, 128),
            reason: clip(&facts.reason, 64),
        });
    } else if old.details != clip(&facts.details, 512) && !facts.details.is_empty() {
        new.details = clip(&facts.details, 512);
    }
    if new == old {
        return Merged::Unchanged;
    }
    new.observed_at = Some(older.unwrap_or(facts.observed_at));
    describe(&mut new.conditions, &facts.by, facts.state, object.metadata.generation, facts.observed_at);
    fit(object, &mut new);
    // What did not fit the last time does not fit now either.
    if (ImageStatusStatus { observed_at: old.observed_at, ..new.clone() }) == old {
        return Merged::Unchanged;
    }
    Merged::Changed(Box::new(new))
}

/// The state in which whoever kept the flag last left an image: by a person's decision, or else by the last transition that says so. None
/// where nobody ever kept it.
#[must_use]
pub fn kept(object: &ImageStatus) -> Option<State> {
    let decided = object.spec.quarantine.as_ref().map(|decision| State::from(decision.state));
    let transitions = object.status.iter().flat_map(|status| status.history.iter().rev());
    let kept = || transitions.map(|transition| transition.state).find(|state| !matches!(state, State::Unmanaged | State::Pending));
    decided.or_else(kept)
}

/// Since when an image is bad, where it was good before: by its history, and by what comes after that.
#[must_use]
pub fn fell(history: &[Transition], last: Option<(State, Timestamp)>) -> Option<Timestamp> {
    let written = history.iter().rev().map(|transition| (transition.state, transition.at));
    let mut since = None;
    for (state, at) in last.into_iter().chain(written) {
        match state {
            State::Quarantined | State::Failed => since = Some(at),
            State::Released | State::Unmanaged => return since,
            State::Pending => return None,
        }
    }
    None
}

/// An observation of an image that is not new: its state is the one that was kept, and only what else it says is news.
fn as_it_was_kept(object: &ImageStatus, old: &ImageStatusStatus, seen: &Facts) -> Facts {
    let mut facts = seen.clone();
    if old.provider == seen.provider {
        facts.state = old.state;
        return facts;
    }
    // The flag is kept again, after a while in which nobody did.
    let Some(state) = kept(object) else { return facts };
    facts.state = state;
    "the flag is kept again: as it was left".clone_into(&mut facts.reason);
    if let Some(decision) = &object.spec.quarantine {
        facts.by.clone_from(&decision.by);
        facts.reason.clone_from(&decision.reason);
    }
    facts
}

/// Marks that a decision of this generation of the spec has been dealt with, whatever came of it.
#[must_use]
pub fn settle_generation(object: &ImageStatus, status: &mut ImageStatusStatus) -> bool {
    settle(status, object.metadata.generation)
}

/// The same for a generation that may no longer be the last: a decision that came meanwhile is still to be dealt with.
#[must_use]
pub fn settle(status: &mut ImageStatusStatus, generation: Option<i64>) -> bool {
    let changed = status.observed_generation < generation;
    status.observed_generation = status.observed_generation.max(generation);
    changed
}

/// The status once a tag was seen to stand for this image. None where that is no news: somebody has written the same, or a later time.
#[must_use]
pub fn tagged(object: &ImageStatus, tag: &str, now: Timestamp) -> Option<ImageStatusStatus> {
    let mut status = object.status.clone()?;
    if status.tags.iter().any(|held| held.tag == tag && held.at >= now) || tag.is_empty() {
        return None;
    }
    status.tags.retain(|held| held.tag != tag);
    status.tags.push(TagSeen { tag: tag.to_owned(), at: now });
    status.tags.sort_by_key(|held| held.at);
    let more = status.tags.len().saturating_sub(MAX_TAGS);
    status.tags.drain(..more);
    fit(object, &mut status);
    Some(status)
}

/// The status once evidence was found. None where that is no news: it proves the same to the same, or somebody has looked later.
#[must_use]
pub fn attested(object: &ImageStatus, found: &Evidence, now: Timestamp) -> Option<ImageStatusStatus> {
    let mut status = object.status.clone()?;
    if let Some(held) = &status.evidence {
        let same = Evidence { looked_at: held.looked_at, ..found.clone() } == *held;
        // One that lies in our future is another clock's, and must not hold off every later look.
        if same || (held.looked_at >= found.looked_at && held.looked_at <= now) {
            return None;
        }
    }
    status.evidence = Some(found.clone());
    fit(object, &mut status);
    Some(status)
}

/// How many transitions wait for their audit line.
#[must_use]
pub fn waiting(status: &ImageStatusStatus) -> usize {
    status.history.iter().filter(|transition| transition.number > status.emitted_through).count()
}

fn describe(conditions: &mut Conditions, by: &str, state: State, generation: Option<i64>, now: Timestamp) {
    let status = match state {
        State::Released | State::Unmanaged => Some(true),
        State::Quarantined | State::Failed => Some(false),
        State::Pending => None,
    };
    api::set_condition(conditions, api::condition("Released", status, state.as_str(), &clip(&format!("by {by}"), 128), generation, now));
}

/// Forgets the oldest transitions whose audit lines are out, until there are at most [`MAX_HISTORY`] and the object is within its bytes.
fn fit(object: &ImageStatus, status: &mut ImageStatusStatus) {
    let fixed = serde_json::to_vec(&object.metadata).map_or(0, |bytes| bytes.len())
        + serde_json::to_vec(&object.spec).map_or(0, |bytes| bytes.len());
    // managedFields of a first write are not there yet; each writer's entry for the whole status costs about this much.
    let reserve = if object.metadata.managed_fields.is_some() { 200 } else { 900 };
    let budget = MAX_OBJECT_BYTES.saturating_sub(fixed + reserve);
    let size = |status: &ImageStatusStatus| serde_json::to_vec(status).map_or(0, |bytes| bytes.len());
    let forget = |status: &mut ImageStatusStatus| {
        let out = status.history.first().is_some_and(|oldest| oldest.number <= status.emitted_through) && status.history.len() > 1;
        if out {
            status.history.remove(0);
        }
        out
    };
    while status.history.len() > MAX_HISTORY && forget(status) {}
    while size(status) > budget && status.tags.len() > 1 {
        status.tags.remove(0);
    }
    while size(status) > budget && forget(status) {}
    if let Some(excess) = size(status).checked_sub(budget).filter(|excess| *excess > 0)
        && let Some(evidence) = &mut status.evidence
    {
        let whole = serde_json::to_vec(&*evidence).map_or(0, |bytes| bytes.len());
        crate::proof::gather::fit(evidence, whole.saturating_sub(excess));
    }
    while size(status) > budget && !status.details.is_empty() {
        let shorter = status.details.chars().count() / 2;
        status.details = clip(&status.details, shorter);
    }
    while size(status) > budget && status.children.pop().is_some() {
        status.more_children = true;
    }
}

/// At most `limit` characters of a text, without control characters.
#[must_use]
pub fn clip(text: &str, limit: usize) -> String {
    // Where each byte is a character that is kept, as most often, the first ones are cut off at once.
    let first = text.get(..limit).unwrap_or(text);
    if first.len() <= limit && first.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return first.to_owned();
    }
    text.chars().filter(|character| !character.is_control()).take(limit).collect()
}

/// What a person's decision comes to where Lazaretto keeps the flag: a decision in the spec that the status does not show yet.
#[must_use]
pub fn decided(object: &ImageStatus, now: Timestamp) -> Option<Observation> {
    let decision = object.spec.quarantine.as_ref()?;
    let status = object.status.as_ref();
    if status.is_some_and(|status| status.observed_generation.is_some() && status.observed_generation == object.metadata.generation) {
        return None;
    }
    // Decisions are ordered by the object's generation, not by the clocks of replicas.
    let now = status.and_then(|status| status.observed_at).map_or(now, |seen| seen.max(now));
    Some(Observation {
        facts: Facts {
            state: decision.state.into(),
            since: now,
            by: decision.by.clone(),
            reason: decision.reason.clone(),
            details: decision.details.clone().unwrap_or_default(),
            provider: Provider::Managed,
            observed_at: now,
            manifest: Manifest::default(),
        },
        weight: Weight::Explicit,
    })
}

#[cfg(test)]
mod tests;
