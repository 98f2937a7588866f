//! The state machine of a callback, as pure functions from a record to the next record. There is one
//! function for each arrow, and no other code changes a state.
//!
//! ```text
//!             accept                        deliver
//!  (event) ───────────► Pending ─────────────────────────► Delivered
//!     │                 ▲  │  ▲ │
//!     │ refuse          │  └──┘ │ fail (final status, expired, exhausted, cancelled)
//!     │                 │ retry │
//!     │          replay │       ▼
//!     └───────────────► └──── Failed
//!
//!  within Pending:  Fresh, Scheduled ──block──► Blocked ──activate──► Scheduled
//! ```

use super::{
    record::{Attempt, Failure, Readiness, Record, State},
    writes::NewCallback,
};
use crate::{callback::CallbackId, clock::Timestamp};

/// A new callback. `first`: no earlier callback of its job is pending.
pub fn accept(new: NewCallback, id: CallbackId, now: Timestamp, first: bool) -> Record {
    let place = if first { Readiness::Fresh } else { Readiness::Blocked(now) };
    begin(new, id, now, State::Pending(place))
}

/// A new callback that can never be sent, stored as failed for the operator.
pub fn refuse(new: NewCallback, id: CallbackId, now: Timestamp) -> Record {
    begin(new, id, now, State::Failed(now))
}

fn begin(new: NewCallback, id: CallbackId, now: Timestamp, state: State) -> Record {
    Record {
        id,
        event_id: new.event_id,
        body: new.body,
        url: new.url,
        destination: new.destination,
        created_at: now,
        state,
        attempt_count: 0,
        budget_attempts: 0,
        budget_since: now,
        replays: 0,
        last_error: new.refusal,
        last_attempt: None,
        trace: new.trace,
    }
}

/// The receiver accepted it.
#[must_use]
pub fn deliver(record: Record, attempt: Attempt, now: Timestamp) -> Record {
    Record { state: State::Delivered(now), ..attempted(record, attempt) }
}

/// The attempt failed, and the next attempt is due at `due`. `first`: the callback is the first pending
/// one of its job; otherwise it waits.
#[must_use]
pub fn retry(record: Record, attempt: Attempt, due: Timestamp, first: bool) -> Record {
    let place = if first { Readiness::Scheduled(due) } else { Readiness::Blocked(due) };
    Record { state: State::Pending(place), ..attempted(record, attempt) }
}

/// The callback failed, with or without another attempt.
#[must_use]
pub fn fail(record: Record, attempt: Option<Attempt>, failure: Failure, now: Timestamp) -> Record {
    let record = match attempt {
        Some(attempt) => attempted(record, attempt),
        None => record,
    };
    Record { state: State::Failed(now), last_error: Some(failure), ..record }
}

/// A failed callback becomes pending again, with a new age and attempt budget.
#[must_use]
pub fn replay(record: Record, now: Timestamp, first: bool) -> Record {
    let place = if first { Readiness::Scheduled(now) } else { Readiness::Blocked(now) };
    Record {
        state: State::Pending(place),
        budget_attempts: 0,
        budget_since: now,
        replays: record.replays.saturating_add(1),
        ..record
    }
}

/// The callback becomes the active one of its job.
#[must_use]
pub fn activate(record: Record, now: Timestamp) -> Record {
    match record.state {
        State::Pending(Readiness::Blocked(not_before)) => {
            Record { state: State::Pending(Readiness::Scheduled(now.max(not_before))), ..record }
        }
        _ => record,
    }
}

/// An operator requests that it be sent now: it is due at `now`, or, if it waits for another callback,
/// when that callback has ended.
#[must_use]
pub fn retry_now(record: Record, now: Timestamp) -> Record {
    let state = match record.state {
        State::Pending(Readiness::Scheduled(due)) => {
            State::Pending(Readiness::Scheduled(due.min(now)))
        }
        State::Pending(Readiness::Blocked(not_before)) => {
            State::Pending(Readiness::Blocked(not_before.min(now)))
        }
        other => other,
    };
    Record { state, ..record }
}

/// An earlier callback of the job has become pending again. This callback waits for it, and keeps its
/// due time.
#[must_use]
pub fn block(record: Record) -> Record {
    let not_before = match record.state {
        State::Pending(Readiness::Scheduled(due)) => due,
        _ => record.created_at,
    };
    Record { state: State::Pending(Readiness::Blocked(not_before)), ..record }
}

fn attempted(record: Record, attempt: Attempt) -> Record {
    Record {
        attempt_count: attempt.number,
        budget_attempts: record.budget_attempts.saturating_add(1),
        last_error: attempt.error.clone().or(record.last_error),
        last_attempt: Some(attempt),
        ..record
    }
}
