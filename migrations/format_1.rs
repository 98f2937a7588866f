//! The layout of format 1, for the migration to format 2, and for the verification and salvage of a
//! store that has not been migrated, or only in part.
//!
//! | key | value | what |
//! |---|---|---|
//! | `p` queue seq | record | a pending callback |
//! | `j` length job-id seq | queue | the pending callbacks of a job |
//! | `d` queue due seq | | active callbacks that were postponed |
//! | `f` seq | record | a delivered callback |
//! | `x` seq | record | a failed callback |
//! | `c` queue | row | the counters of a destination |
//!
//! All other rows are as in format 2.

use serde::{Deserialize, Serialize};

use super::super::{keys, rows};
use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{Record, State},
};

/// The counters of one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct QueueRow {
    destination: Destination,
    pending: u64,
    fresh: u64,
    scheduled: u64,
    failed: u64,
    hold_until: Timestamp,
}

impl From<QueueRow> for rows::QueueRow {
    fn from(old: QueueRow) -> Self {
        Self {
            destination: old.destination,
            pending: old.pending,
            fresh: old.fresh,
            scheduled: old.scheduled,
            failed: old.failed,
            hold_until: old.hold_until,
            paused_at: None,
            resumed_at: Timestamp::default(),
        }
    }
}

/// The prefixes of records.
pub(in super::super) const RECORDS: [u8; 3] = *b"pfx";
/// The prefix of counters.
pub(in super::super) const QUEUES: &[u8] = b"c";

/// Whether a key is that of a record.
pub(in super::super) fn is_record(key: &[u8]) -> bool {
    matches!((key.first(), key.len()), (Some(b'p'), 17) | (Some(b'f' | b'x'), 9))
}

/// The key of a record.
pub(in super::super) fn key_of(record: &Record) -> Vec<u8> {
    let (seq, queue) = keys::parts(record.id);
    let seq = seq.to_be_bytes();
    match record.state {
        State::Pending(_) => [b"p".as_slice(), &queue.0.to_be_bytes(), &seq].concat(),
        State::Delivered(_) => [b"f".as_slice(), &seq].concat(),
        State::Failed(_) => [b"x".as_slice(), &seq].concat(),
    }
}
