//! Everything that is stored, row by row, while the store is used.
//!
//! A callback moves between the kinds of rows while the export goes over them. So it goes over
//! all of them, and then once more for those that have ended or come back since it began.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use super::{Store, keys, read};
use crate::{
    clock::Timestamp,
    outbox::{Entry, ExportCursor, Exported, OutboxError, Record, StateName, record},
};

/// How many rows one step looks at.
const STEP: usize = 1000;

/// How many times of a clock that went back are kept apart; older ones are merged.
const BACKWARD_KEPT: usize = 64;

/// The passes: whose rows, and whether only those that have changed since the beginning.
const PASSES: [(StateName, bool); 6] = [
    (StateName::Failed, false),
    (StateName::Delivered, false),
    (StateName::Pending, false),
    (StateName::Failed, true),
    (StateName::Delivered, true),
    (StateName::Pending, true),
];

/// When the clock went back from one commit to the next: an end that was written after another one may
/// bear an earlier time.
#[derive(Debug, Default)]
pub(super) struct Backward(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    last: Timestamp,
    /// The batches that bear an earlier time than the one before them, and that time.
    back: VecDeque<(u64, Timestamp)>,
}

impl Backward {
    /// The batch with this number bears this time.
    pub(super) fn note(&self, batch: u64, now: Timestamp) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now < times.last {
            times.back.push_back((batch, now));
        }
        times.last = now;
        // An earlier time than needed only exports some callbacks twice.
        if times.back.len() > BACKWARD_KEPT
            && let Some((_, earlier)) = times.back.pop_front()
            && let Some((_, time)) = times.back.front_mut()
        {
            *time = earlier.min(*time);
        }
    }

    /// The earliest time of all batches from this number on, of which the first was made at `began`
    /// or later.
    fn earliest(&self, batch: u64, began: Timestamp) -> Timestamp {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let back = times.back.iter().rev().take_while(|(at, _)| *at >= batch);
        back.map(|(_, time)| *time).fold(began, Timestamp::min)
    }
}

/// One step.
pub(super) fn step(store: &Store, cursor: &ExportCursor) -> Result<Exported, OutboxError> {
    let Some((state, changed)) = PASSES.get(usize::from(cursor.pass)).copied() else {
        return Ok(Exported::default());
    };
    let (began, batch) = match cursor.began {
        unset if unset == Timestamp::default() => {
            let (now, batch) = (store.clock.now(), store.lanes.lock().totals.next_batch);
            // A commit with an earlier time has begun, and is waited for.
            store.commits.wait();
            (now, batch)
        }
        known => (known, cursor.batch),
    };
    let earliest = store.backward.earliest(batch, began);
    let prefix = match state {
        StateName::Pending => b'p',
        ended => keys::finished_prefix(ended),
    };
    let from = if cursor.after.is_empty() {
        vec![prefix]
    } else {
        // The least key behind it.
        [cursor.after.as_slice(), &[0]].concat()
    };
    let mut entries = Vec::new();
    let mut last = None;
    for row in store.tree.range(from..vec![prefix + 1]).take(STEP) {
        let (key, bytes) = row?;
        let record: Record =
            record::decode(&bytes).map_err(|error| OutboxError::damaged(&key, &error))?;
        last = Some(key.to_vec());
        if !changed || changed_at(&record) >= earliest {
            let attempts = read::attempts(store, &record)?;
            entries.push(Entry { record, attempts, uncertain: false });
        }
    }
    let next = match last {
        Some(after) => Some(ExportCursor { pass: cursor.pass, after, began, batch }),
        None if usize::from(cursor.pass) + 1 < PASSES.len() => {
            Some(ExportCursor { pass: cursor.pass + 1, after: Vec::new(), began, batch })
        }
        None => None,
    };
    Ok(Exported { entries, next })
}

/// When the callback came to the state that it has.
fn changed_at(record: &Record) -> Timestamp {
    record.finished_at().unwrap_or(record.budget_since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_clock_that_goes_back_again_and_again_a_bounded_number_of_times_is_kept() {
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
