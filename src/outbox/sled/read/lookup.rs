//! Look-up of one callback.

use crate::{
    callback::CallbackId,
    outbox::{
        Attempt, Detail, Readiness, Record, Standing, State, StateName,
        error::Result,
        sled::{
            keys::{self, QueueKey},
            rows::decode,
            shared::store::Store,
        },
    },
};

pub(crate) fn record_at(store: &Store, key: &[u8]) -> Result<Option<Record>> {
    store.tree.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// One callback with all its attempts.
pub(crate) fn get(store: &Store, id: CallbackId) -> Result<Option<Detail>> {
    let (seq, queue) = keys::parts(id);
    let places = [
        keys::pending(queue, seq),
        keys::finished(StateName::Delivered, seq),
        keys::finished(StateName::Failed, seq),
        // Again, because it may have been replayed between the look-ups.
        keys::pending(queue, seq),
    ];
    for key in places {
        let Some(record) = record_at(store, &key)?.filter(|record| record.id == id) else {
            continue;
        };
        let attempts = attempts(store, &record)?;
        return Ok(Some(Detail { standing: standing(store, record)?, attempts }));
    }
    Ok(None)
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

pub(crate) fn standing(store: &Store, record: Record) -> Result<Standing> {
    let waiting_for = waiting_for(store, &record)?;
    let blocked = matches!(record.state, State::Pending(Readiness::Blocked(_)));
    let stuck = blocked && waiting_for.is_none();
    let (seq, queue) = keys::parts(record.id);
    let in_flight = record.state_name() == StateName::Pending
        && store.queues.lock().queues.get(&queue).is_some_and(|queue| queue.is_claimed(seq));
    Ok(Standing { record, waiting_for, in_flight, stuck })
}

/// The callback that has to end before a blocked one: the previous pending callback of the same job, or,
/// for the first one of the job, the active one.
fn waiting_for(store: &Store, record: &Record) -> Result<Option<CallbackId>> {
    let is_blocked =
        |record: &Record| matches!(record.state, State::Pending(Readiness::Blocked(_)));
    if !is_blocked(record) {
        return Ok(None);
    }
    let (job, seq) = (keys::job_prefix(&record.body.job_id), keys::seq_of(record.id));
    let own = keys::job(&record.body.job_id, seq);
    if let Some((key, queue)) = store.tree.range(job.clone()..own).next_back().transpose()? {
        return Ok(Some(keys::id(keys::last_number(&key), QueueKey(keys::number(&queue)))));
    }
    // It was replayed while a later one was claimed. Those between them were replayed as well, and wait
    // too.
    for row in store.tree.range(keys::job(&record.body.job_id, seq + 1)..) {
        let (key, queue) = row?;
        if !key.starts_with(&job) {
            break;
        }
        let (later, queue) = (keys::last_number(&key), QueueKey(keys::number(&queue)));
        if record_at(store, &keys::pending(queue, later))?.is_some_and(|it| !is_blocked(&it)) {
            return Ok(Some(keys::id(later, queue)));
        }
    }
    Ok(None)
}
