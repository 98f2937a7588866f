//! Look-up of one callback.

use crate::{
    callback::CallbackId,
    outbox::{
        Attempt, CallbackStatus, Detail, Record, Stage, StateName,
        error::Result,
        sled::{
            keys::{self, QueueKey},
            rows::{self, decode},
            shared::store::Store,
        },
    },
};

/// One callback with all its stored attempts.
pub(crate) fn get(store: &Store, id: CallbackId) -> Result<Option<Detail>> {
    let found = rows::callback(&store.tree, keys::seq_of(id))?;
    let Some(record) = found.filter(|record| record.id == id) else { return Ok(None) };
    let attempts = attempts(store, &record)?;
    Ok(Some(Detail { status: status(store, record)?, attempts }))
}

/// The attempts of a callback, in order.
pub(crate) fn attempts(store: &Store, record: &Record) -> Result<Vec<Attempt>> {
    let mut attempts = Vec::new();
    if record.attempt_count > 1 {
        for row in store.tree.scan_prefix(keys::attempts(keys::seq_of(record.id))) {
            let (key, bytes) = row?;
            let attempt: Attempt = decode(&key, &bytes)?;
            attempts.push(attempt);
        }
    }
    attempts.extend(record.last_attempt.clone());
    attempts.dedup_by_key(|attempt| attempt.number);
    Ok(attempts)
}

pub(crate) fn status(store: &Store, record: Record) -> Result<CallbackStatus> {
    let waiting_for = waiting_for(store, &record)?;
    let stuck = record.is_blocked() && waiting_for.is_none();
    let (seq, queue) = keys::parts(record.id);
    let record = store.with_resumed_age(record);
    let horizon = store.horizon(store.clock.now());
    let mut status = CallbackStatus {
        record,
        waiting_for,
        in_flight: false,
        stage: None,
        paused: false,
        open: None,
        hold_until: None,
        stuck,
    };
    if status.record.state_name() == StateName::Pending
        && let Some(queue) = store.queues.lock().queues.get(&queue)
    {
        let row = &queue.row;
        status.in_flight = queue.is_claimed(seq);
        status.paused = row.paused_at.is_some();
        status.open = queue.shown_open();
        status.hold_until = row.is_held(horizon).then_some(row.hold_until);
    }
    status.stage = Stage::of(status.record.state, status.in_flight, horizon);
    Ok(status)
}

/// The callback that has to end before a blocked one: the previous pending callback of the same job,
/// or, for the first one of the job, the active one.
fn waiting_for(store: &Store, record: &Record) -> Result<Option<CallbackId>> {
    if !record.is_blocked() {
        return Ok(None);
    }
    let (job_id, seq) = (&record.body.job_id, keys::seq_of(record.id));
    let begin = store.tree.get(keys::job_begin(job_id))?.map_or(0, |row| keys::number(&row));
    for row in store.tree.range(keys::job(job_id, begin)..keys::job(job_id, seq)).rev() {
        let (key, queue) = row?;
        let (earlier, queue) = (keys::last_number(&key), QueueKey(keys::number(&queue)));
        if rows::is_pending(&store.tree, queue, earlier)? {
            return Ok(Some(keys::id(earlier, queue)));
        }
    }
    // It was replayed while a later one was claimed. Those between them were replayed too, and also
    // wait.
    for row in store.tree.range(keys::job(job_id, seq + 1)..=keys::job(job_id, u64::MAX)) {
        let (key, queue) = row?;
        let (later, queue) = (keys::last_number(&key), QueueKey(keys::number(&queue)));
        if rows::is_pending(&store.tree, queue, later)?
            && rows::readable(rows::callback(&store.tree, later))?
                .is_some_and(|it| !it.is_blocked())
        {
            return Ok(Some(keys::id(later, queue)));
        }
    }
    Ok(None)
}
