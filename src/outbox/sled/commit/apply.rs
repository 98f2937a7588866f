//! Running the writes of a batch on its transaction.

use crate::outbox::{
    ErrorKind, Failure, NewCallback, OutboxError,
    error::Result,
    sled::{
        commit::{
            command::{Reply, Write, answer},
            disk::Disk,
            transaction::Transaction,
        },
        shared::store::Store,
    },
};

/// An answer that is sent when the batch is durable, or has failed.
pub(crate) type Answer = Box<dyn FnOnce(Result<()>) + Send>;

fn when_synced<T: Send + 'static>(reply: Reply<T>, value: T) -> Answer {
    Box::new(move |synced| answer(reply, synced.map(|()| value)))
}

/// Adds one write to the transaction. After an error the transaction is incomplete and must be discarded.
pub(crate) fn apply(
    store: &Store,
    disk: &mut Disk,
    txn: &mut Transaction<'_>,
    command: Write,
    answers: &mut Vec<Answer>,
) -> Result<()> {
    match command {
        Write::Enqueue(new, sequence, reply) => {
            let room = || check_capacity_for(store, disk, txn, &new);
            if let Err(error) = sequence.refused().map_or_else(room, Err) {
                sequence.refuse(&error);
                answer(reply, Err(error));
                return Ok(());
            }
            let (outcomes, result) = each(new, |one| txn.enqueue(one));
            answers.push(when_synced(reply, outcomes));
            result
        }
        Write::Settle(record, settlement, reply) => {
            let record = txn.settle(*record, *settlement);
            let (record, result) = match record {
                Ok(record) => (Ok(record), Ok(())),
                Err(error) => (Err(error.clone()), Err(error)),
            };
            answers.push(Box::new(move |synced| answer(reply, synced.and(record))));
            result
        }
        Write::Recover(left, reply) => {
            let (settled, result) = each(left, |(id, outcome)| txn.recover(id, outcome));
            let settled = settled.into_iter().flatten().collect();
            answers.push(when_synced(reply, settled));
            result
        }
        Write::Replay(mut ids, reply) => {
            // Sorted, so that each later callback of a job finds the first one at the start of the job index
            // and the active one need not be searched for each time.
            ids.sort_unstable();
            let (replayed, result) = each(ids, |id| txn.replay(id));
            answers.push(when_synced(reply, how_many(&replayed)));
            result
        }
        Write::Cancel(ids, reply) => {
            let failure = Failure::new(ErrorKind::Cancelled, "cancelled by an operator");
            let (cancelled, result) = each(ids, |id| txn.cancel(id, failure.clone()));
            answers.push(when_synced(reply, cancelled));
            result
        }
        Write::RetryNow(ids, reply) => {
            let (due, result) = each(ids, |id| txn.retry_now(id));
            answers.push(when_synced(reply, how_many(&due)));
            result
        }
        Write::Pause(destination, paused, reply) => {
            let changed = txn.pause(&destination, paused);
            answers.push(when_synced(reply, *changed.as_ref().unwrap_or(&false)));
            changed.map(drop)
        }
        Write::Expire(of, cutoff, failure, reply) => {
            let (expired, result) = match txn.expire_before(&of, cutoff, &failure) {
                Ok(expired) => (expired, Ok(())),
                Err(error) => (Vec::new(), Err(error)),
            };
            answers.push(when_synced(reply, expired));
            result
        }
        Write::Purge(over, reply) => {
            let purged = txn.purge(over);
            answers.push(when_synced(reply, *purged.as_ref().unwrap_or(&0)));
            purged.map(drop)
        }
        Write::Notify(reply) => {
            let stored = txn.notify();
            answers.push(when_synced(reply, *stored.as_ref().unwrap_or(&0)));
            stored.map(drop)
        }
        Write::Mend(after, reply) => {
            let mended = txn.mend(&after);
            answers.push(when_synced(reply, mended.as_ref().cloned().unwrap_or_default()));
            mended.map(drop)
        }
        Write::Import(entries, reply) => {
            let (imported, result) = each(entries, |entry| txn.restore(entry));
            answers.push(when_synced(reply, how_many(&imported)));
            result
        }
        Write::Ping(reply) => {
            answer(reply, check_capacity(store, disk, txn.pending() + 1));
            Ok(())
        }
    }
}

/// Calls `run` for each item until one fails.
fn each<I, T>(items: Vec<I>, run: impl FnMut(I) -> Result<T>) -> (Vec<T>, Result<()>) {
    let mut done = Vec::with_capacity(items.len());
    let result = items.into_iter().map(run).try_for_each(|one| {
        done.push(one?);
        Ok(())
    });
    (done, result)
}

fn how_many(changed: &[bool]) -> u64 {
    changed.iter().filter(|it| **it).count() as u64
}

/// Checks that there is room for these callbacks. Duplicates are always answered.
fn check_capacity_for(
    store: &Store,
    disk: &mut Disk,
    txn: &Transaction<'_>,
    new: &[NewCallback],
) -> Result<()> {
    match check_capacity(store, disk, txn.pending() + new.len() as u64) {
        Err(error) if error.is_transient() => match txn.wanted(new)? {
            (_, false) => Ok(()),
            // Callbacks that can never be sent are not pending; they only need disk space.
            (0, true) => disk.free(),
            (pending, true) => check_capacity(store, disk, txn.pending() + pending),
        },
        known => known,
    }
}

/// Checks that this many callbacks may be pending, and that the disk has space.
fn check_capacity(store: &Store, disk: &mut Disk, pending: u64) -> Result<()> {
    let max = store.settings.common.max_pending;
    if pending > max {
        return Err(OutboxError::Full { pending: store.queues.lock().totals.pending, max });
    }
    disk.free()
}
