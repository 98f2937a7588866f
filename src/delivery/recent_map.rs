//! A bounded map of recent entries.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use foldhash::fast::RandomState;

/// The map contains the latest entries: at least this many, and at most twice as many.
const HALF: usize = 4096;

/// The latest entries of a map.
#[derive(Debug)]
pub(super) struct RecentMap<K, V> {
    new: HashMap<K, V, RandomState>,
    old: HashMap<K, V, RandomState>,
}

impl<K, V> Default for RecentMap<K, V> {
    fn default() -> Self {
        Self { new: HashMap::default(), old: HashMap::default() }
    }
}

impl<K: Eq + Hash, V> RecentMap<K, V> {
    pub(super) fn put(&mut self, key: K, value: V) {
        if self.new.len() >= HALF {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(key, value);
    }

    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.new.get(key).or_else(|| self.old.get(key))
    }

    pub(super) fn take<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let old = self.old.remove(key);
        self.new.remove(key).or(old)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_entries_are_kept_within_the_limit() {
        let mut recent = RecentMap::default();
        for key in 0..10 * HALF {
            recent.put(key, key);
        }
        recent.put(5, 7);
        assert!(recent.new.len() + recent.old.len() <= 2 * HALF);
        assert_eq!(recent.take(&(9 * HALF + 1)), Some(9 * HALF + 1));
        assert_eq!(recent.get(&5), Some(&7));
        assert_eq!((recent.take(&5), recent.take(&5)), (Some(7), None));
        recent.put(1, 1);
        recent.clear();
        assert_eq!(recent.take(&1), None);
    }
}
