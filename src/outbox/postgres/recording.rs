//! Outcomes of attempts, and the changes that they cause.

use std::sync::{Arc, Mutex};

use super::{
    command::{Reply, Settle, answer},
    queues::Queues,
    settings::Settings,
};
use crate::{
    clock::Timestamp,
    outbox::{
        Attempt, ErrorKind, OutboxError, Record, Settlement,
        horizon::Horizon,
        ids::{self, QueueKey},
        transition,
    },
};

/// Outcomes that could not be recorded yet, because the connection broke. They remain valid until another
/// instance takes their shard.
pub(super) type Kept = Arc<Mutex<Vec<Recording>>>;

/// An outcome, the change that it causes, and the channel for the answer.
pub(super) struct Recording {
    pub(super) record: Record,
    pub(super) previous: Option<Attempt>,
    pub(super) hold: Option<Timestamp>,
    pub(super) reply: Reply<Record>,
}

impl Recording {
    /// Its destination.
    pub(super) fn queue(&self) -> QueueKey {
        ids::parts(self.record.id).1
    }

    /// It can no longer be recorded.
    pub(super) fn refuse(self, error: OutboxError) {
        answer(self.reply, Err(error));
    }
}

/// Decides what an outcome changes; `None` if nothing, because the callback is due again.
pub(super) fn decide(
    queues: &Queues,
    settings: &Settings,
    it: Settle,
    now: Timestamp,
) -> Option<Recording> {
    let Settle { record, settlement, reply, .. } = it;
    let (seq, key) = ids::parts(record.id);
    let began = record.budget_since;
    let (paused, resumed_at, held) = match queues.lock().queues.get(&key) {
        Some(queue) => (queue.paused_at.is_some(), queue.resumed_at, queue.hold_until),
        None => (false, Timestamp::default(), Timestamp::default()),
    };
    let record = Record { budget_since: began.max(resumed_at), ..*record };
    let settlement = match settlement {
        // The decision was based on the age at the time of the claim, but the destination was paused or
        // resumed since.
        Settlement::Failed { attempt, failure, hold }
            if failure.kind == ErrorKind::Expired && (paused || record.budget_since > began) =>
        {
            let Some(attempt) = attempt else {
                queues.release_now(key, seq, now);
                answer(reply, Ok(record));
                return None;
            };
            Settlement::Retry { attempt, due: now, hold }
        }
        settlement => settlement,
    };
    let previous = record.last_attempt.clone().filter(|_| settlement.attempt().is_some());
    let horizon = Horizon { now, latest: now.after(settings.common.longest_pause) };
    let known = if horizon.is_later(held) { held } else { Timestamp::default() };
    let (record, until) = match settlement {
        Settlement::Delivered(attempt) => (transition::deliver(record, attempt, now), None),
        Settlement::Failed { attempt, failure, hold } => {
            (transition::fail(record, attempt, failure, now), hold)
        }
        Settlement::Retry { attempt, due, hold } => {
            (transition::retry(record, attempt, due, true), hold)
        }
    };
    Some(Recording { record, previous, hold: until.map(|it| it.max(known)), reply })
}
