//! Conditions that keep their `lastTransitionTime` while the status stays.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The conditions of one object, one per type.
pub type Conditions = Vec<Condition>;

/// A condition as this pass found it. `message` is for people and is cut to 512 characters.
#[must_use]
pub fn condition(type_: &str, status: Option<bool>, reason: &str, message: &str, generation: Option<i64>, now: Timestamp) -> Condition {
    let status = match status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(512).collect(),
        observed_generation: generation,
        last_transition_time: Time(now),
    }
}

/// Puts `new` into `conditions`. The time of the last transition stays while the status does. Says whether anything changed.
pub fn set_condition(conditions: &mut Conditions, mut new: Condition) -> bool {
    match conditions.iter_mut().find(|old| old.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            let changed = *old != new;
            *old = new;
            changed
        }
        None => {
            conditions.push(new);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut all = Conditions::new();
        assert!(set_condition(&mut all, condition("Ready", Some(true), "Ok", "", Some(1), at(1))));
        assert!(!set_condition(&mut all, condition("Ready", Some(true), "Ok", "", Some(1), at(2))));
        assert!(set_condition(&mut all, condition("Ready", Some(true), "Ok", "", Some(2), at(3))));
        assert_eq!(all[0].last_transition_time, Time(at(1)));
        assert!(set_condition(&mut all, condition("Ready", None, "Ok", "", Some(2), at(4))));
        assert_eq!(all[0].last_transition_time, Time(at(4)));
        assert_eq!(all.len(), 1);
    }
}
