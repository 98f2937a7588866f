//! The layout of format 1, for the migration to format 2 and for the salvage of a damaged store.
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

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sled::Tree;

use super::super::{
    keys::{self, QueueKey},
    rows::{Totals, decode},
};
use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{OutboxError, Readiness, Record, State, error::Result},
};

/// The counters of one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct QueueRow {
    pub(in super::super) destination: Destination,
    pub(in super::super) pending: u64,
    pub(in super::super) fresh: u64,
    pub(in super::super) scheduled: u64,
    pub(in super::super) failed: u64,
    pub(in super::super) hold_until: Timestamp,
}

/// The prefixes of records, and of counters.
pub(in super::super) const RECORDS: [u8; 3] = *b"pfx";
pub(in super::super) const QUEUES: &[u8] = b"c";

/// Whether a key is that of a record.
pub(in super::super) fn is_record(key: &[u8]) -> bool {
    matches!((key.first(), key.len()), (Some(b'p'), 17) | (Some(b'f' | b'x'), 9))
}

fn key_of(record: &Record) -> Vec<u8> {
    let (seq, queue) = keys::parts(record.id);
    let seq = seq.to_be_bytes();
    match record.state {
        State::Pending(_) => [b"p".as_slice(), &queue.0.to_be_bytes(), &seq].concat(),
        State::Delivered(_) => [b"f".as_slice(), &seq].concat(),
        State::Failed(_) => [b"x".as_slice(), &seq].concat(),
    }
}

fn inconsistent(what: String) -> OutboxError {
    OutboxError::CorruptPage(what.into())
}

/// Verifies a store of format 1; the error says what is inconsistent.
pub(in super::super) fn verify(tree: &Tree) -> Result<()> {
    let totals: Totals = match tree.get(keys::TOTALS)? {
        Some(bytes) => decode(keys::TOTALS, &bytes)?,
        None => Totals::default(),
    };
    let mut queues: HashMap<QueueKey, QueueRow> = HashMap::new();
    let mut active: HashMap<String, u64> = HashMap::new();
    let mut count = [0_u64; 3];
    let mut due = 0_u64;
    for (state, prefix) in RECORDS.into_iter().enumerate() {
        for row in tree.scan_prefix([prefix]) {
            let (key, bytes) = row?;
            let record: Record = decode(&key, &bytes)?;
            let (seq, queue) = keys::parts(record.id);
            count[state] += 1;
            if *key != key_of(&record)[..] || seq >= totals.next_seq {
                return Err(inconsistent(format!("{} is stored under a wrong key", record.id)));
            }
            let own = queues.entry(queue).or_insert_with(|| QueueRow {
                destination: record.destination.clone(),
                pending: 0,
                fresh: 0,
                scheduled: 0,
                failed: 0,
                hold_until: Timestamp::default(),
            });
            match record.state {
                State::Pending(readiness) => {
                    own.pending += 1;
                    if !tree.contains_key(keys::job(&record.body.job_id, seq))? {
                        return Err(inconsistent(format!("{} is not in the job index", record.id)));
                    }
                    let active = active.entry(record.body.job_id.clone()).or_default();
                    *active += u64::from(!matches!(readiness, Readiness::Blocked(_)));
                    match readiness {
                        Readiness::Fresh => own.fresh += 1,
                        Readiness::Scheduled(at) => {
                            own.scheduled += 1;
                            due += 1;
                            if !tree.contains_key(keys::due(queue, at, seq))? {
                                return Err(inconsistent(format!("{} is never due", record.id)));
                            }
                        }
                        Readiness::Blocked(_) => {}
                    }
                }
                State::Failed(_) => own.failed += 1,
                State::Delivered(_) => {}
            }
        }
    }
    if count != [totals.pending, totals.delivered, totals.failed] {
        return Err(inconsistent(format!(
            "there are {} pending, {} delivered and {} failed callbacks; expected {}, {} and {}",
            count[0], count[1], count[2], totals.pending, totals.delivered, totals.failed
        )));
    }
    if active.into_values().any(|active| active != 1) {
        return Err(inconsistent("a job does not have one active callback".into()));
    }
    let indexed = tree.scan_prefix(b"j").count() as u64;
    let scheduled = tree.scan_prefix(b"d").count() as u64;
    if (indexed, scheduled) != (totals.pending, due) {
        return Err(inconsistent("the indexes are not consistent with the callbacks".into()));
    }
    for row in tree.scan_prefix(QUEUES) {
        let (key, bytes) = row?;
        let stored: QueueRow = decode(&key, &bytes)?;
        let counted = queues.remove(&QueueKey(keys::last_number(&key)));
        let same = counted
            .is_none_or(|counted| QueueRow { hold_until: stored.hold_until, ..counted } == stored);
        if !same {
            return Err(inconsistent(format!("the counters of {} are wrong", stored.destination)));
        }
    }
    match queues.into_values().find(|queue| queue.pending > 0 || queue.failed > 0) {
        Some(queue) => Err(inconsistent(format!("{} has no counters", queue.destination))),
        None => Ok(()),
    }
}
