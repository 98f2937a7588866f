//! Callbacks as rows. A record is stored as it was accepted, without its id. Its progress is in columns,
//! which the functions of the schema change.

use serde::Serialize;
use tokio_postgres::Row;

use crate::{
    callback::CallbackId,
    clock::Timestamp,
    outbox::{
        ErrorKind, Open, OutboxError, Readiness, Record, State, StateName,
        error::Result,
        ids::{self, QueueKey},
        record,
    },
};

/// The columns of [`record()`], from `callback c`, `progress p` and `destination d`.
pub(super) const COLUMNS: &str = "p.seq, p.queue, c.accepted, p.status, p.readiness, p.due, p.attempts, \
    p.budget_attempts, p.budget_since, p.replays, p.ended_at, p.last_error, p.last_attempt, d.resumed_at";

/// PostgreSQL's `bigint` is signed, and a seq or queue is not: both have the same 64 bits.
pub(super) const fn big(value: u64) -> i64 {
    value.cast_signed()
}

pub(super) const fn unbig(value: i64) -> u64 {
    value.cast_unsigned()
}

pub(super) fn millis(at: Timestamp) -> i64 {
    big(at.as_millis())
}

pub(super) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or_default())
}

pub(super) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn small(value: i32) -> u32 {
    u32::try_from(value).unwrap_or_default()
}

pub(super) fn number(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// The parts of an id.
pub(super) fn parts(id: CallbackId) -> (i64, i64) {
    let (seq, queue) = ids::parts(id);
    (big(seq), big(queue.0))
}

/// The id of a callback.
pub(super) fn id(seq: i64, queue: i64) -> CallbackId {
    ids::id(unbig(seq), QueueKey(unbig(queue)))
}

/// The first key of the advisory locks of the schema with this salt. All schemas of a database share the
/// keys.
pub(super) fn class_of(salt: &[u8]) -> i32 {
    salt.first_chunk().map_or(0, |first| i32::from_be_bytes(*first))
}

pub(super) const fn status(state: StateName) -> i16 {
    match state {
        StateName::Pending => 0,
        StateName::Delivered => 1,
        StateName::Failed => 2,
    }
}

pub(super) const fn readiness(state: State) -> Option<i16> {
    match state {
        State::Pending(Readiness::Fresh) => Some(0),
        State::Pending(Readiness::Scheduled(_)) => Some(1),
        State::Pending(Readiness::Blocked(_)) => Some(2),
        State::Delivered(_) | State::Failed(_) => None,
    }
}

/// When a pending callback is due, or the earliest time at which it can be; for an ended one, when it was
/// accepted.
pub(super) const fn due(record: &Record) -> Timestamp {
    match record.state {
        State::Pending(Readiness::Scheduled(at) | Readiness::Blocked(at)) => at,
        _ => record.created_at,
    }
}

pub(super) fn kind(kind: ErrorKind) -> i16 {
    let place = ErrorKind::ALL.iter().position(|it| *it == kind);
    place.and_then(|place| i16::try_from(place).ok()).unwrap_or(-1)
}

/// The inverse of [`kind`].
pub(super) fn kind_at(place: i16) -> Option<ErrorKind> {
    usize::try_from(place).ok().and_then(|place| ErrorKind::ALL.get(place).copied())
}

pub(super) fn kind_of(record: &Record) -> Option<i16> {
    record.last_error.as_ref().map(|error| kind(error.kind))
}

pub(super) fn encoded<T: Serialize>(part: Option<&T>) -> Result<Option<Vec<u8>>> {
    Ok(part.map(record::encode).transpose()?)
}

/// The bytes of a callback as it was accepted.
pub(super) fn accepted(record: &Record) -> Result<Vec<u8>> {
    let begin = Record {
        id: CallbackId::from_u128(0),
        state: State::Pending(Readiness::Fresh),
        attempt_count: 0,
        budget_attempts: 0,
        budget_since: record.created_at,
        replays: 0,
        last_error: None,
        last_attempt: None,
        ..record.clone()
    };
    Ok(record::encode(&begin)?)
}

/// The breaker of the row of a destination.
pub(super) fn open(row: &Row) -> Option<Open> {
    Some(Open {
        since: time(row.get::<_, Option<i64>>("open_since")?),
        next_probe_at: time(row.get::<_, Option<i64>>("probe_at")?),
    })
}

/// The callback of a row with [`COLUMNS`].
pub(super) fn record(row: &Row) -> Result<Record> {
    let id = id(row.get("seq"), row.get("queue"));
    let unreadable = |error: record::CodecError| OutboxError::UnreadableRow {
        key: id.to_string(),
        reason: error.to_string().into(),
    };
    let begin: Record = record::decode(row.get("accepted")).map_err(unreadable)?;
    let due = time(row.get("due"));
    let ended = || time(row.get::<_, Option<i64>>("ended_at").unwrap_or_default());
    let state = match (row.get::<_, i16>("status"), row.get::<_, Option<i16>>("readiness")) {
        (0, Some(0)) => State::Pending(Readiness::Fresh),
        (0, Some(1)) => State::Pending(Readiness::Scheduled(due)),
        (0, _) => State::Pending(Readiness::Blocked(due)),
        (1, _) => State::Delivered(ended()),
        _ => State::Failed(ended()),
    };
    let mut budget_since = time(row.get("budget_since"));
    if matches!(state, State::Pending(_)) {
        budget_since = budget_since.max(time(row.get("resumed_at")));
    }
    let part = |column: &str| row.get::<_, Option<&[u8]>>(column);
    Ok(Record {
        id,
        state,
        attempt_count: small(row.get("attempts")),
        budget_attempts: small(row.get("budget_attempts")),
        budget_since,
        replays: small(row.get("replays")),
        last_error: part("last_error").map(record::decode).transpose().map_err(unreadable)?,
        last_attempt: part("last_attempt").map(record::decode).transpose().map_err(unreadable)?,
        ..begin
    })
}
