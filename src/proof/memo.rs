//! Remembers for a moment that evidence was found to prove what is asked, beside the image: so that of a thousand pods of one image one has its
//! evidence gone through.
//!
//! A moment, since time alone makes a report too old; by that much later it counts as such.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use jiff::Timestamp;

/// Seconds for which it is remembered.
const MOMENT: u64 = 5;

/// Tells what is asked apart from all else that ever was. Whether two ask for the same is not its matter: it equals every other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Number(u32);

impl PartialEq for Number {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Number {}

impl Number {
    /// One that nobody had before.
    #[must_use]
    pub fn next() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }
}

/// By what evidence was found proven last, and until when: the number and the second, in one word.
#[derive(Debug, Default)]
pub struct Memo(AtomicU64);

impl Clone for Memo {
    /// Of another form of an image nothing is remembered.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Memo {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Memo {
    /// It was found to prove this.
    pub fn note(&self, number: Number, now: Timestamp) {
        self.0.store(u64::from(number.0) << 32 | second(now).saturating_add(MOMENT) & 0xffff_ffff, Ordering::Relaxed);
    }

    /// Whether it was, a moment ago.
    #[must_use]
    pub fn holds(&self, number: Number, now: Timestamp) -> bool {
        let held = self.0.load(Ordering::Relaxed);
        let (until, now) = (held & 0xffff_ffff, second(now));
        // A clock that was set back ends it, too.
        number.0 != 0 && held >> 32 == u64::from(number.0) && (now..=now + MOMENT).contains(&until)
    }
}

fn second(time: Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_remembered_for_a_moment_and_of_what_was_asked() {
        let at = |second: i64| Timestamp::from_second(1_790_000_000 + second).unwrap();
        let (memo, first, other) = (Memo::default(), Number::next(), Number::next());
        assert!(!memo.holds(first, at(0)) && !memo.holds(Number::default(), at(0)));
        memo.note(first, at(0));
        assert!(memo.holds(first, at(0)) && memo.holds(first, at(5)));
        assert!(!memo.holds(first, at(6)) && !memo.holds(first, at(-1)) && !memo.holds(other, at(0)));
        memo.note(other, at(1));
        assert!(memo.holds(other, at(1)) && !memo.holds(first, at(1)));
        assert!(!memo.clone().holds(other, at(1)));
        memo.note(Number::default(), at(1));
        assert!(!memo.holds(Number::default(), at(1)), "what has no number is not remembered");
    }
}
