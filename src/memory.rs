//! A bounded memory: when it is full, the eighth that was put in longest ago goes.

use std::{collections::HashMap, hash::Hash};

/// Values by key, at most as many as it was made for.
#[derive(Debug)]
pub struct Memory<K, V> {
    entries: HashMap<K, (u64, V)>,
    most: usize,
    clock: u64,
}

impl<K: Eq + Hash + Clone, V> Memory<K, V> {
    /// An empty memory for at most `most` entries.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), most: most.max(1), clock: 0 }
    }

    /// The value for a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Puts a value in, as the newest.
    pub fn insert(&mut self, key: K, value: V) {
        self.clock += 1;
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) {
            let mut ages: Vec<u64> = self.entries.values().map(|(age, _)| *age).collect();
            let cut = (ages.len() / 8).min(ages.len() - 1);
            let (_, oldest_kept, _) = ages.select_nth_unstable(cut);
            let oldest_kept = *oldest_kept;
            self.entries.retain(|_, (age, _)| *age > oldest_kept);
        }
        self.entries.insert(key, (self.clock, value));
    }

    /// Takes one out.
    pub fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_the_bound_holds() {
        let mut memory = Memory::new(64);
        for key in 0..10_000 {
            memory.insert(key, key);
            assert!(memory.len() <= 64);
            assert_eq!(memory.get(&key), Some(&key));
        }
        assert_eq!(memory.get(&0), None);
        let mut one = Memory::new(1);
        one.insert("a", 1);
        one.insert("b", 2);
        assert_eq!((one.get(&"a"), one.get(&"b")), (None, Some(&2)));
    }
}
