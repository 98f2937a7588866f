//! The layout of the store: one sled tree, because a batch is atomic within one tree, with a prefix byte
//! for each kind of row. Numbers are big-endian, so that rows are sorted by them.
//!
//! | key | value | what |
//! |---|---|---|
//! | `m` name | | format, salt, totals |
//! | `p` queue seq | record | a pending callback, in its destination's order of acceptance |
//! | `j` length job-id seq | queue | the job index: the pending callbacks of a job, in order |
//! | `d` queue due seq | | the due index: active callbacks that were postponed |
//! | `f` seq | record | a delivered callback |
//! | `x` seq | record | a failed callback |
//! | `a` seq number | attempt | an attempt before the last one |
//! | `e` event-id | id | the idempotency key of a stored callback |
//! | `g` state finished batch | seqs | the retention index: what one batch ended |
//! | `c` queue | row | the counters of a destination with pending or failed callbacks |
//!
//! *queue* is 8 bytes of SHA-256 over the store's random salt and the destination; *seq* is the position
//! in the order of acceptance. The public id is `seq ‖ queue`: it leads to the row without an index, sorts
//! by age, and, because of the salt, is unique over all stores. A fresh callback, which was never
//! postponed and waits for nothing, needs no row in `d`, because `p` has it in the right order. So the
//! usual callback costs two inserts when it is accepted, and two removes and an insert when it is
//! delivered.

use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
    outbox::StateName,
};

/// Number of the stored format (`u32`, big-endian).
pub(super) const FORMAT: &[u8] = b"mformat";
/// 16 random bytes, created with the store.
pub(super) const SALT: &[u8] = b"msalt";
/// The store's [`Totals`](crate::outbox::sled::rows::Totals).
pub(super) const TOTALS: &[u8] = b"mtotals";
/// The prefix of destination rows.
pub(super) const QUEUES: &[u8] = b"c";

/// The key of a destination's queue within one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct QueueKey(pub(super) u64);

impl QueueKey {
    /// The queue of `destination` in the store with this salt.
    pub(super) fn of(salt: &[u8; 16], destination: &Destination) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(salt);
        context.update(destination.as_str().as_bytes());
        Self(number(context.finish().as_ref()))
    }
}

/// The id of the callback `seq` in `queue`.
pub(super) fn id(seq: u64, queue: QueueKey) -> CallbackId {
    CallbackId::from_u128((u128::from(seq) << 64) | u128::from(queue.0))
}

/// The two halves of an id.
pub(super) fn parts(id: CallbackId) -> (u64, QueueKey) {
    let value = id.as_u128();
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a u128 fit u64")]
    ((value >> 64) as u64, QueueKey(value as u64))
}

/// The seq of an id.
pub(super) fn seq_of(id: CallbackId) -> u64 {
    parts(id).0
}

fn key(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(prefix);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// The first eight bytes as a number; 0 if there are fewer.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// The number at the end of a key: the seq in `p`, `j`, `d`, `f` and `x`.
pub(super) fn last_number(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |last| u64::from_be_bytes(*last))
}

pub(super) fn pending(queue: QueueKey, seq: u64) -> Vec<u8> {
    key(b'p', &[&queue.0.to_be_bytes(), &seq.to_be_bytes()])
}

pub(super) fn job_prefix(job_id: &str) -> Vec<u8> {
    // `event::MAX_NAME_BYTES` limits the length to one byte. With the length first, no job's prefix is
    // the prefix of another job.
    let length = u8::try_from(job_id.len()).unwrap_or(u8::MAX);
    key(b'j', &[&[length], job_id.as_bytes()])
}

pub(super) fn job(job_id: &str, seq: u64) -> Vec<u8> {
    let mut key = job_prefix(job_id);
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

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

/// The prefix of records that ended in this state.
pub(super) const fn finished_prefix(state: StateName) -> u8 {
    match state {
        StateName::Failed => b'x',
        StateName::Delivered | StateName::Pending => b'f',
    }
}

pub(super) fn finished(state: StateName, seq: u64) -> Vec<u8> {
    key(finished_prefix(state), &[&seq.to_be_bytes()])
}

pub(super) fn attempts(seq: u64) -> Vec<u8> {
    key(b'a', &[&seq.to_be_bytes()])
}

pub(super) fn attempt(seq: u64, number: u32) -> Vec<u8> {
    key(b'a', &[&seq.to_be_bytes(), &number.to_be_bytes()])
}

/// Whether a key is that of a record.
pub(super) fn is_callback(key: &[u8]) -> bool {
    matches!((key.first(), key.len()), (Some(b'p'), 17) | (Some(b'f' | b'x'), 9))
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

pub(super) fn retention(state: StateName) -> Vec<u8> {
    key(b'g', &[&[finished_prefix(state)]])
}

pub(super) fn finished_batch(state: StateName, at: Timestamp, batch: u64) -> Vec<u8> {
    retention_row(finished_prefix(state), at, batch)
}

/// The same, with the prefix of the records.
pub(super) fn retention_row(prefix: u8, at: Timestamp, batch: u64) -> Vec<u8> {
    key(b'g', &[&[prefix], &at.as_millis().to_be_bytes(), &batch.to_be_bytes()])
}

/// The time in a key of the retention index.
pub(super) fn finished_time(key: &[u8]) -> Timestamp {
    Timestamp::from_millis(key.get(2..10).map_or(0, number))
}

pub(super) fn queue(queue: QueueKey) -> Vec<u8> {
    key(b'c', &[&queue.0.to_be_bytes()])
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
    fn keys_of_records_and_attempts_are_recognized() {
        assert!(is_callback(&pending(QueueKey(1), 2)));
        assert!(is_callback(&finished(StateName::Failed, 2)));
        assert!(!is_callback(&job("1", 2)) && !is_callback(TOTALS));
        assert_eq!(attempt_of(&attempt(7, 3)), Some((7, 3)));
        assert_eq!(attempt_of(&attempts(7)), None);
    }

    #[test]
    fn no_jobs_prefix_is_a_prefix_of_another() {
        assert!(!job("12", 0).starts_with(&job_prefix("1")));
        assert!(job("12", 5).starts_with(&job_prefix("12")));
    }

    #[test]
    fn ids_round_trip_through_their_parts() {
        let queue = QueueKey::of(&[1; 16], &Destination::parse("http://h").unwrap());
        assert_eq!(parts(id(77, queue)), (77, queue));
        assert_ne!(queue, QueueKey::of(&[2; 16], &Destination::parse("http://h").unwrap()));
    }
}
