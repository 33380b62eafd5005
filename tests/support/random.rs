//! Chance that can be repeated, and mutation of inputs.

use std::{env, time::Duration};

use tokio::time::Instant;

/// A small generator (splitmix64): the same seed gives the same inputs on every machine.
pub struct Random(u64);

impl Random {
    /// From `LAZARETTO_FUZZ_SEED`, else from the clock. The seed is written to standard error at once, so that a run which ends
    /// in an abort can be repeated as well.
    pub fn seeded(name: &str) -> Self {
        use std::io::Write as _;
        let clock = || u64::try_from(jiff::Timestamp::now().as_nanosecond() & i128::from(u64::MAX)).unwrap_or(1);
        let seed = match env::var("LAZARETTO_FUZZ_SEED") {
            Ok(text) => text.parse().expect("LAZARETTO_FUZZ_SEED is a number"),
            Err(_) => clock(),
        };
        let _ = writeln!(std::io::stderr(), "{name}: LAZARETTO_FUZZ_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }

    /// A time below `limit`, in whole milliseconds.
    pub fn time(&mut self, limit: Duration) -> Duration {
        Duration::from_millis(self.below(usize::try_from(limit.as_millis()).expect("a time for tests")) as u64)
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// Between `least` and `most` characters of an ASCII alphabet.
    pub fn text(&mut self, alphabet: &str, least: usize, most: usize) -> String {
        let length = least + self.below(most - least + 1);
        (0..length).map(|_| char::from(alphabet.as_bytes()[self.below(alphabet.len())])).collect()
    }

    /// Changes an input at one place: something taken out, put in, doubled, or exchanged.
    pub fn mutate(&mut self, input: &mut Vec<u8>, pieces: &[&str]) {
        let start = self.below(input.len() + 1);
        let end = start + self.below((input.len() - start).min(8) + 1);
        match self.below(6) {
            0 => drop(input.drain(start..end)),
            1 => {
                let piece = self.pick(pieces);
                input.splice(start..start, piece.bytes());
            }
            2 => {
                let piece = self.pick(pieces);
                input.splice(start..end, piece.bytes());
            }
            3 => {
                let doubled = input[start..end].to_vec();
                input.splice(end..end, doubled);
            }
            4 => {
                if let Some(byte) = input.get_mut(start) {
                    *byte ^= if self.one_in(3) { 1 << self.below(8) } else { 0x20 };
                }
            }
            _ => input.truncate(if self.one_in(4) { start } else { input.len() }),
        }
    }
}

/// How many rounds a search has whose clock is not the wall's: `LAZARETTO_FUZZ_ROUNDS`, else `usual`.
pub fn rounds(usual: usize) -> usize {
    env::var("LAZARETTO_FUZZ_ROUNDS").map_or(usual, |text| text.parse().expect("LAZARETTO_FUZZ_ROUNDS is a number"))
}

/// How long a search for faults may take: `LAZARETTO_FUZZ_SECONDS`, else `usual`.
pub fn search_until(usual: Duration) -> Instant {
    let wanted = env::var("LAZARETTO_FUZZ_SECONDS").ok().map(|text| text.parse().expect("LAZARETTO_FUZZ_SECONDS is a number"));
    Instant::now() + wanted.map_or(usual, Duration::from_secs)
}
