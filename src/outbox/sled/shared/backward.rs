//! Commits with an earlier time than the one before.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use crate::clock::Timestamp;

/// Maximum number of entries; older ones are merged.
const BACKWARD_KEPT: usize = 64;

/// Commits before which the clock went back: a callback may have ended later than another one, with an
/// earlier time.
#[derive(Debug, Default)]
pub(crate) struct Backward(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    last: Timestamp,
    /// The batches with an earlier time than the one before, and that time.
    back: VecDeque<(u64, Timestamp)>,
}

impl Backward {
    /// Records the time of a batch.
    pub(crate) fn note(&self, batch: u64, now: Timestamp) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now < times.last {
            times.back.push_back((batch, now));
        }
        times.last = now;
        // Merging may only make a time earlier, which exports some callbacks twice.
        if times.back.len() > BACKWARD_KEPT
            && let Some((_, earlier)) = times.back.pop_front()
            && let Some((_, time)) = times.back.front_mut()
        {
            *time = earlier.min(*time);
        }
    }

    /// The earliest time of all batches from this one on, which was made at `began` or later.
    pub(crate) fn earliest(&self, batch: u64, began: Timestamp) -> Timestamp {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let back = times.back.iter().rev().take_while(|(at, _)| *at >= batch);
        back.map(|(_, time)| *time).fold(began, Timestamp::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_merged_above_the_limit() {
        let (backward, at) = (Backward::default(), Timestamp::from_millis);
        for batch in 0..1000 {
            // It goes on by two and back by one.
            backward.note(2 * batch, at(5000 + batch + 1));
            backward.note(2 * batch + 1, at(5000 + batch));
        }
        assert_eq!(backward.0.lock().unwrap().back.len(), BACKWARD_KEPT);
        assert_eq!(backward.earliest(2000, at(9000)), at(9000));
        assert_eq!(backward.earliest(1999, at(9000)), at(5999));
        assert_eq!(backward.earliest(1990, at(5996)), at(5995));
        // Of the merged ones the earliest counts.
        assert_eq!(backward.earliest(0, at(9000)), at(5000));
    }
}
