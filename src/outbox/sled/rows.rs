//! The rows with counters, of the whole store and of each destination, and the rows of callbacks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sled::{IVec, Tree};

use super::{
    blocks::{self, PROGRESS, Pending, RECORDS, SET, Set},
    keys::{self, QueueKey},
};
use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{
        Record, StateName,
        error::{OutboxError, Result},
        horizon::Horizon,
        record::{self, Progress},
    },
};

/// The counters of the whole store: one row, written with every batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    /// The seq of the next callback.
    pub(super) next_seq: u64,
    /// The number of the next batch.
    pub(super) next_batch: u64,
    pub(super) pending: u64,
    pub(super) delivered: u64,
    pub(super) failed: u64,
}

/// The stored counters of one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueueRow {
    pub(super) destination: Destination,
    pub(super) pending: u64,
    /// Pending callbacks that are [`Readiness::Fresh`](record::Readiness::Fresh).
    pub(super) fresh: u64,
    /// Pending callbacks that are [`Readiness::Scheduled`](record::Readiness::Scheduled).
    pub(super) scheduled: u64,
    pub(super) failed: u64,
    /// Until when `Retry-After` holds the destination.
    pub(super) hold_until: Timestamp,
    /// When an operator paused the destination, if it is paused.
    pub(super) paused_at: Option<Timestamp>,
    /// When it was last resumed. The age of its callbacks is counted from then at the earliest.
    pub(super) resumed_at: Timestamp,
}

impl QueueRow {
    pub(super) fn new(destination: Destination) -> Self {
        Self {
            destination,
            pending: 0,
            fresh: 0,
            scheduled: 0,
            failed: 0,
            hold_until: Timestamp::default(),
            paused_at: None,
            resumed_at: Timestamp::default(),
        }
    }

    /// Whether nothing is sent to the destination now because of `Retry-After`.
    pub(super) fn is_held(&self, horizon: Horizon) -> bool {
        horizon.is_later(self.hold_until)
    }

    pub(super) fn blocked(&self) -> u64 {
        self.pending.saturating_sub(self.fresh).saturating_sub(self.scheduled)
    }

    /// Whether none of its callbacks can be older than `cutoff`: it is paused, or was resumed after it.
    pub(super) fn is_younger(&self, cutoff: Timestamp) -> bool {
        self.paused_at.is_some() || self.resumed_at >= cutoff
    }

    /// Whether it has pending or failed callbacks or is paused.
    pub(super) fn counts(&self) -> bool {
        !self.destination.is_none() && !self.is_idle()
    }

    /// Whether the row is no longer needed.
    pub(super) fn is_idle(&self) -> bool {
        self.pending == 0 && self.failed == 0 && self.paused_at.is_none()
    }
}

/// Reads the value of the row with this key.
pub(super) fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T> {
    record::decode(bytes).map_err(|error| blocks::unreadable(key, &error.to_string()))
}

/// The value, or the default if the row cannot be read.
pub(super) fn or_empty<T: Default>(read: Result<T>) -> Result<T> {
    readable(read.map(Some)).map(Option::unwrap_or_default)
}

/// Also `None` if the row cannot be read, so that one bad row does not hide the others.
pub(super) fn readable<T>(read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(OutboxError::UnreadableRow { .. }) => Ok(None),
        read => read,
    }
}

/// The position of a callback in its row.
#[expect(clippy::cast_possible_truncation, reason = "blocks have at most 16 callbacks")]
pub(super) const fn offset(seq: u64, block: u64) -> u8 {
    (seq % block) as u8
}

/// The set of pending callbacks in a block of a queue.
pub(super) fn pending(tree: &Tree, queue: QueueKey, block: u64) -> Result<Pending> {
    let key = keys::pending(queue, block);
    tree.get(&key)?.map_or_else(|| Ok(Pending::default()), |row| Pending::decode(&key, &row))
}

/// The set of delivered or failed callbacks in a block.
pub(super) fn ended(tree: &Tree, state: StateName, block: u64) -> Result<Set> {
    let key = keys::ended(state, block);
    let Some(row) = tree.get(&key)? else { return Ok(Set::default()) };
    blocks::decode_sets(&key, &row).map(|[set]| set)
}

/// Whether a callback is pending.
pub(super) fn is_pending(tree: &Tree, queue: QueueKey, seq: u64) -> Result<bool> {
    Ok(pending(tree, queue, seq / SET)?.contains(seq))
}

/// The progress of a callback; `None` if it has not changed since it was accepted.
pub(super) fn progress(tree: &Tree, seq: u64) -> Result<Option<Progress>> {
    let key = keys::progress(seq - seq % PROGRESS);
    for last in [false, true] {
        let Some(row) = tree.get(&key)? else { return Ok(None) };
        let Some(entry) = blocks::entry(&key, &row, offset(seq, PROGRESS))? else {
            return Ok(None);
        };
        if !entry.is_empty() {
            return decode(&key, &entry).map(Some);
        }
        let own = keys::large_progress(seq);
        if let Some(entry) = tree.get(&own)? {
            return decode(&own, &entry).map(Some);
        }
        // A commit between the two reads may have removed the row and changed the entry.
        if last {
            break;
        }
    }
    Err(blocks::unreadable(&key, "a large progress is missing"))
}

/// One callback, or `None` if there is none.
///
/// The progress is read first. If the callback is purged between the two reads, the result is `None`
/// rather than the callback in its original state.
pub(super) fn callback(tree: &Tree, seq: u64) -> Result<Option<Record>> {
    let progress = progress(tree, seq)?;
    Records::default().get(tree, seq).map(|found| found.map(|record| record.with(progress)))
}

/// Records by seq, with the keys of their rows.
type Entries = BTreeMap<u64, (Vec<u8>, IVec)>;

/// Reads records as they were accepted. The rows of the last block are kept, because neighbours are
/// usually read one after the other.
#[derive(Debug, Default)]
pub(super) struct Records {
    block: Option<u64>,
    found: Entries,
    /// Why a row of the block cannot be read, if one cannot be read.
    unreadable: Option<OutboxError>,
}

impl Records {
    /// The record, or `None` if there is none.
    pub(super) fn get(&mut self, tree: &Tree, seq: u64) -> Result<Option<Record>> {
        let block = seq / RECORDS;
        if self.block != Some(block) {
            self.block = None;
            (self.found, self.unreadable) = entries_of(tree, block)?;
            self.block = Some(block);
        }
        match (self.found.get(&seq), &self.unreadable) {
            (Some((key, bytes)), _) => decode(key, bytes).map(Some),
            // The missing record may be in the row that cannot be read.
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(None),
        }
    }
}

/// The records of a block with the keys of their rows, and the error if a row cannot be read.
pub(super) fn entries_of(tree: &Tree, block: u64) -> Result<(Entries, Option<OutboxError>)> {
    let first = block * RECORDS;
    let (mut found, mut unreadable) = (BTreeMap::new(), None);
    for row in tree.range(keys::record(first)..=keys::record(first + (RECORDS - 1))) {
        let (key, row) = row?;
        let entries = match blocks::entries(&key, &row) {
            Ok(entries) => entries,
            Err(error) => {
                unreadable = Some(error);
                continue;
            }
        };
        for entry in entries {
            let bytes = row.subslice(entry.begin, entry.len);
            found.insert(first + u64::from(entry.offset), (key.to_vec(), bytes));
        }
    }
    Ok((found, unreadable))
}
