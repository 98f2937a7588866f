//! The layout of the store: one sled tree, because a batch is atomic within one tree, with a prefix byte
//! for each kind of row. Numbers are big-endian, so that rows are sorted by them.
//!
//! | key | value | content |
//! |---|---|---|
//! | `m` name | | format, salt, totals |
//! | `r` first-seq | entries | callbacks as they were accepted, up to 16 in a row |
//! | `s` first-seq | entries | progress of up to 8 callbacks that have changed since they were accepted |
//! | `t` seq | progress | a progress that is too large for a shared row |
//! | `b` queue block | 2 sets | which of 1024 callbacks are pending: the fresh ones, and the others |
//! | `y` block | set | which of 1024 callbacks are delivered |
//! | `z` block | set | which of 1024 callbacks are failed |
//! | `j` length job-id seq | queue | the job index: the callbacks of a job, in order |
//! | `l` length job-id | seq | lower bound: all earlier callbacks of the job have ended |
//! | `i` length job-id-fs seq | queue | the directory index: the callbacks of a job directory, in order |
//! | `d` queue due seq | | the due index: active callbacks that were postponed |
//! | `a` seq number | attempt | an attempt before the last one |
//! | `e` event-id | id | the idempotency key of a stored callback |
//! | `g` state ended batch | seqs | the retention index: the callbacks that ended in one batch |
//! | `n` queue | window | the failures of a destination since the last notice about it |
//! | `q` queue | row | the counters of a destination with pending or failed callbacks, or a paused one |
//!
//! *queue* and *seq* are the two parts of an [id](crate::outbox::ids), so that it locates the callback
//! without an index.
//!
//! A callback's record is not moved until it is purged. A settlement changes its progress and moves it
//! from one set to another, and callbacks that were accepted together share those rows. A fresh
//! callback (never postponed, not blocked) has no row in `d`, because `b` already lists it in the right
//! order.

use crate::{clock::Timestamp, outbox::StateName};

pub(super) use crate::outbox::ids::{QueueKey, id, number, parts, seq_of};

/// Number of the stored format (`u32`, big-endian).
pub(super) const FORMAT: &[u8] = b"mformat";
/// While a migration is not complete: the format of the store before the migration.
pub(super) const MIGRATING: &[u8] = b"mmigrating";
/// 16 random bytes, created with the store.
pub(super) const SALT: &[u8] = b"msalt";
/// The store's [`Totals`](crate::outbox::sled::rows::Totals).
pub(super) const TOTALS: &[u8] = b"mtotals";
/// The prefix of destination rows.
pub(super) const QUEUES: &[u8] = b"q";
/// The prefix of rows with records.
pub(super) const RECORD_PREFIX: u8 = b'r';
/// The prefix of rows with the pending callbacks of a block.
pub(super) const PENDING_PREFIX: u8 = b'b';

fn key(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(prefix);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// The number at the end of a key: the seq in `r`, `s`, `j`, `i` and `d`, the block in `b`, `y` and `z`.
pub(super) fn last_number(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |last| u64::from_be_bytes(*last))
}

/// The key of the records row whose first callback is `first`.
pub(super) fn record(first: u64) -> Vec<u8> {
    key(RECORD_PREFIX, &[&first.to_be_bytes()])
}

/// The key of the progress row whose first callback is `first`.
pub(super) fn progress(first: u64) -> Vec<u8> {
    key(b's', &[&first.to_be_bytes()])
}

/// The key of a progress that is too large for a shared row.
pub(super) fn large_progress(seq: u64) -> Vec<u8> {
    key(b't', &[&seq.to_be_bytes()])
}

/// The key of the set of pending callbacks in a block.
pub(super) fn pending(queue: QueueKey, block: u64) -> Vec<u8> {
    key(PENDING_PREFIX, &[&queue.0.to_be_bytes(), &block.to_be_bytes()])
}

pub(super) fn pending_prefix(queue: QueueKey) -> Vec<u8> {
    key(PENDING_PREFIX, &[&queue.0.to_be_bytes()])
}

/// The queue in a key with the prefix `b`.
pub(super) fn pending_queue(key: &[u8]) -> QueueKey {
    QueueKey(key.get(1..9).map_or(0, number))
}

/// A prefix followed by a name. `event::MAX_NAME_BYTES` limits the length to one byte. Because the
/// length comes first, the prefix of one name is never the beginning of another's.
fn named(prefix: u8, name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    key(prefix, &[&[length], name.as_bytes()])
}

pub(super) fn job_prefix(job_id: &str) -> Vec<u8> {
    named(b'j', job_id)
}

/// The key of the row with the lower bound for the pending callbacks of a job.
pub(super) fn job_begin(job_id: &str) -> Vec<u8> {
    named(b'l', job_id)
}

pub(super) fn directory_prefix(job_id_fs: &str) -> Vec<u8> {
    named(b'i', job_id_fs)
}

pub(super) fn directory(job_id_fs: &str, seq: u64) -> Vec<u8> {
    let mut key = directory_prefix(job_id_fs);
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

pub(super) fn job(job_id: &str, seq: u64) -> Vec<u8> {
    let mut key = job_prefix(job_id);
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

/// The end of the due index.
pub(super) const DUE_END: &[u8] = b"e";

pub(super) fn due_prefix(queue: QueueKey) -> Vec<u8> {
    key(b'd', &[&queue.0.to_be_bytes()])
}

pub(super) fn due(queue: QueueKey, at: Timestamp, seq: u64) -> Vec<u8> {
    key(b'd', &[&queue.0.to_be_bytes(), &at.as_millis().to_be_bytes(), &seq.to_be_bytes()])
}

/// The time in a key of the due index.
pub(super) fn due_time(key: &[u8]) -> Timestamp {
    Timestamp::from_millis(key.get(9..17).map_or(0, number))
}

/// The prefix of the sets of callbacks that ended in this state.
pub(super) const fn ended_prefix(state: StateName) -> u8 {
    match state {
        StateName::Failed => b'z',
        StateName::Delivered | StateName::Pending => b'y',
    }
}

/// The key of the set of delivered or failed callbacks in a block.
pub(super) fn ended(state: StateName, block: u64) -> Vec<u8> {
    key(ended_prefix(state), &[&block.to_be_bytes()])
}

pub(super) fn attempts(seq: u64) -> Vec<u8> {
    key(b'a', &[&seq.to_be_bytes()])
}

pub(super) fn attempt(seq: u64, number: u32) -> Vec<u8> {
    key(b'a', &[&seq.to_be_bytes(), &number.to_be_bytes()])
}

/// Whether a row contains entries: records or progress.
pub(super) fn is_entries(key: &[u8]) -> bool {
    matches!((key.first(), key.len()), (Some(&RECORD_PREFIX | b's'), 9))
}

/// Whether a row contains a large progress.
pub(super) fn is_large_progress(key: &[u8]) -> bool {
    matches!((key.first(), key.len()), (Some(b't'), 9))
}

/// Whether a row contains the pending callbacks of a block.
pub(super) fn is_pending(key: &[u8]) -> bool {
    matches!((key.first(), key.len()), (Some(&PENDING_PREFIX), 17))
}

/// The callback and number of an attempt's key.
pub(super) fn attempt_of(key: &[u8]) -> Option<(u64, u32)> {
    let rest = key.strip_prefix(b"a")?;
    let (seq, rest) = rest.split_first_chunk()?;
    let number = rest.try_into().ok()?;
    Some((u64::from_be_bytes(*seq), u32::from_be_bytes(number)))
}

pub(super) fn event(event_id: &str) -> Vec<u8> {
    key(b'e', &[event_id.as_bytes()])
}

/// The prefix of a state in the retention index.
const fn retention_prefix(state: StateName) -> u8 {
    match state {
        StateName::Failed => b'x',
        StateName::Delivered | StateName::Pending => b'f',
    }
}

pub(super) fn retention(state: StateName) -> Vec<u8> {
    key(b'g', &[&[retention_prefix(state)]])
}

pub(super) fn ended_batch(state: StateName, at: Timestamp, batch: u64) -> Vec<u8> {
    key(b'g', &[&[retention_prefix(state)], &at.as_millis().to_be_bytes(), &batch.to_be_bytes()])
}

/// The time in a key of the retention index.
pub(super) fn ended_time(key: &[u8]) -> Timestamp {
    Timestamp::from_millis(key.get(2..10).map_or(0, number))
}

pub(super) fn queue(queue: QueueKey) -> Vec<u8> {
    key(b'q', &[&queue.0.to_be_bytes()])
}

/// The prefix of windows of failures.
pub(super) const WINDOWS: &[u8] = b"n";

/// The key of the window of failures of a destination.
pub(super) fn window(queue: QueueKey) -> Vec<u8> {
    key(b'n', &[&queue.0.to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_due_index_sorts_by_time_and_then_by_acceptance() {
        let at = Timestamp::from_millis;
        let keys = [
            due(QueueKey(7), at(255), 9),
            due(QueueKey(7), at(256), 1),
            due(QueueKey(7), at(256), 2),
        ];
        assert!(keys.is_sorted());
        assert_eq!((due_time(&keys[0]), last_number(&keys[0])), (at(255), 9));
    }

    #[test]
    fn keys_of_attempts_are_recognized() {
        assert_eq!(attempt_of(&attempt(7, 3)), Some((7, 3)));
        assert_eq!(attempt_of(&attempts(7)), None);
    }

    #[test]
    fn no_jobs_prefix_is_a_prefix_of_another() {
        assert!(!job("12", 0).starts_with(&job_prefix("1")));
        assert!(job("12", 5).starts_with(&job_prefix("12")));
    }
}
