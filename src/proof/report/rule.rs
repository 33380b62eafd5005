//! Whether a report is good enough.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{Severity, Summary};
use crate::{api::ShortDuration, facts::CLOCKS_DIFFER};

/// Ids that a refusal names.
const MOST_IDS: usize = 3;

/// What a report must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The highest severity that is allowed; of what is worse nothing is. A finding of severity Unknown counts as High. Unknown as the rule
    /// allows nothing at all.
    pub max_severity: Severity,
    /// Count only what has a fix, or of which the report cannot say that it has none.
    pub only_fixable: bool,
    /// How long ago the scan may have been over. None: any time.
    pub max_age: Option<Duration>,
    /// How many are allowed of a severity that is allowed. A severity that is not here may have any number. Those of severity Unknown have
    /// a number of their own and are
    /// not counted in with High. For what is above `max_severity` a number changes nothing.
    pub counts: BTreeMap<Severity, u32>,
}

/// Why a report is not good enough.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failing {
    /// The scan was too long ago.
    #[error("the scan of {finished_at} is older than {}", ShortDuration::from_secs(max_age.as_secs()))]
    TooOld {
        /// When it was over.
        finished_at: Timestamp,
        /// How long ago that may be.
        max_age: Duration,
    },
    /// The scan will be over more than five minutes from now: its age is unknown.
    #[error("the scan of {finished_at} lies in the future")]
    FromTheFuture {
        /// When it says that it was over.
        finished_at: Timestamp,
    },
    /// Too many findings of one severity, the worst that has too many.
    #[error("{count} of severity {severity}, {allowed} allowed{}", names(ids, *more))]
    Findings {
        /// How bad they are.
        severity: Severity,
        /// How many there are, without what is excepted.
        count: u32,
        /// How many may be.
        allowed: u32,
        /// Up to three of them; none where none of them is named in the summary.
        ids: Vec<String>,
        /// There are others.
        more: bool,
    },
}

fn names(ids: &[String], more: bool) -> String {
    if ids.is_empty() {
        return String::new();
    }
    format!(": {}{}", ids.join(", "), if more { " and others" } else { "" })
}

/// Judges a report by its summary. `excepted` says of an id whether a waiver or a VEX statement clears it.
///
/// Exceptions go by id, and a summary names only the worst: what is counted and not named cannot be cleared and goes on counting. So a
/// report with more than 20 findings that
/// matter is never cleared by exceptions alone.
///
/// # Errors
/// The first of: from the future, too old, too many of the worst severity that has too many.
pub fn judge(summary: &Summary, rule: &Rule, excepted: &dyn Fn(&str) -> bool, now: Timestamp) -> Result<(), Failing> {
    let finished_at = summary.finished_at;
    // Compared by the second: no difference of two timestamps is too large for that.
    let age = now.as_second() - finished_at.as_second();
    if age < -CLOCKS_DIFFER {
        return Err(Failing::FromTheFuture { finished_at });
    }
    if let Some(max_age) = rule.max_age.filter(|most| age > i64::try_from(most.as_secs()).unwrap_or(i64::MAX)) {
        return Err(Failing::TooOld { finished_at, max_age });
    }
    for severity in Severity::ALL {
        let all = summary.counts.get(severity);
        let all = if rule.only_fixable { all.fixable } else { all.all };
        let named = summary.named.iter().filter(|finding| finding.severity == severity && (finding.fixable || !rule.only_fixable));
        let (cleared, left): (Vec<_>, Vec<_>) = named.partition(|finding| excepted(finding.id()));
        let count = all.saturating_sub(u32::try_from(cleared.len()).unwrap_or(u32::MAX));
        let allowed = if severity.judged() > rule.max_severity { 0 } else { rule.counts.get(&severity).copied().unwrap_or(u32::MAX) };
        if count > allowed {
            let ids: Vec<String> = left.iter().take(MOST_IDS).map(|finding| finding.id().to_owned()).collect();
            let more = usize::try_from(count).is_ok_and(|count| count > ids.len());
            return Err(Failing::Findings { severity, count, allowed, ids, more });
        }
    }
    Ok(())
}
