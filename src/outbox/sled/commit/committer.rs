//! The committer: the one thread that writes (group commit). All writes that are waiting become one
//! batch: one atomic apply, one flush, one sync, then all are answered. Meanwhile the next batch gathers.
//!
//! `flush()` alone is no barrier (sled issue 1452: it ends in `sync_file_range`, which
//! flushes neither the drive's cache nor the file's size), so `sync_data()` on the log file
//! follows it, and only then is anything acknowledged.
//!
//! An error of apply, flush or sync is ambiguous: the batch may or may not be on the disk. So the store
//! stops for good and answers every write with [`OutboxError::Stopped`]; the next start reads from the
//! disk what is there.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::{
    measure,
    outbox::{
        ErrorKind, Failure, NewCallback, OutboxError,
        error::Result,
        sled::{
            commit::{
                command::{BATCH_LIMIT, Reply, Weight, Write, answer},
                disk::Disk,
                transaction::Transaction,
            },
            guard::guarded,
            rescue::{flush_waker::FlushWaker, witness::Witness},
            shared::store::Store,
        },
    },
};

/// After a batch with at least this many outcomes, the next batch gathers outcomes even if callbacks wait for
/// others of their job.
const MANY_OUTCOMES: usize = 32;

/// How long outcomes are gathered. Only the job's next callback waits for an outcome to be durable, and a
/// commit costs the same however many outcomes are in it. Any other write ends the wait and takes the
/// outcomes along: so an event that is submitted does not wait for a commit of outcomes alone.
const GATHER_PAUSE: Duration = Duration::from_millis(6);

/// An answer that is sent when the batch is durable, or has failed.
type Answer = Box<dyn FnOnce(Result<()>) + Send>;

fn when_synced<T: Send + 'static>(reply: Reply<T>, value: T) -> Answer {
    Box::new(move |synced| answer(reply, synced.map(|()| value)))
}

/// Runs until every sender of writes is gone.
pub(crate) fn run(
    store: &Arc<Store>,
    witness: Witness,
    wake: FlushWaker,
    mut commands: mpsc::UnboundedReceiver<Write>,
) {
    let mut disk = Disk::new(store, witness);
    let mut waiting = VecDeque::new();
    let mut received = Vec::new();
    let mut outcomes = 0;
    loop {
        if waiting.is_empty() && commands.blocking_recv_many(&mut received, BATCH_LIMIT) == 0 {
            if store.stopped().is_none() {
                disk.close(store.queues.lock().totals.next_batch);
            }
            drop(wake);
            return;
        }
        let nobody_waits = || store.queues.lock().blocked == 0;
        if waiting.is_empty() && (outcomes >= MANY_OUTCOMES || nobody_waits()) {
            gather(&mut commands, &mut received, GATHER_PAUSE);
        }
        take(&mut commands, &mut received);
        waiting.extend(received.drain(..));
        let mut weight = Weight::default();
        let mut taken = VecDeque::new();
        while let Some(next) = waiting.front().map(|write| weight.plus(write.weight()))
            && (taken.is_empty() || next.fits())
        {
            weight = next;
            taken.extend(waiting.pop_front());
        }
        outcomes = taken.iter().filter(|command| is_outcome(command)).count();
        commit(store, &mut disk, &wake, taken, weight.callbacks);
    }
}

/// Receives the writes that are waiting, up to one batch.
fn take(commands: &mut mpsc::UnboundedReceiver<Write>, received: &mut Vec<Write>) {
    while received.len() < BATCH_LIMIT
        && let Ok(more) = commands.try_recv()
    {
        received.push(more);
    }
}

/// Waits for more outcomes, until another write arrives, whose sender wakes this thread
/// ([`Write::is_urgent`]).
fn gather(
    commands: &mut mpsc::UnboundedReceiver<Write>,
    received: &mut Vec<Write>,
    pause: Duration,
) {
    let end = Instant::now() + pause;
    loop {
        take(commands, received);
        let left = end.saturating_duration_since(Instant::now());
        let full = received.len() >= BATCH_LIMIT;
        if left.is_zero() || full || received.iter().any(Write::is_urgent) {
            return;
        }
        std::thread::park_timeout(left);
    }
}

fn is_outcome(command: &Write) -> bool {
    !command.is_urgent()
}

fn commit(
    store: &Arc<Store>,
    disk: &mut Disk,
    wake: &FlushWaker,
    mut commands: VecDeque<Write>,
    callbacks: usize,
) {
    if let Some(error) = store.stopped() {
        commands.into_iter().for_each(|command| command.refuse(error.clone()));
        return;
    }
    // Guards: the flush waker watches how long the commit takes, as does the health check; and, from the
    // apply on, reads wait for it.
    let (committing, watched) = (store.commits.begin(), wake.begin());
    let mut answers = Vec::with_capacity(commands.len());
    let mut unsynced = None;
    // On a damaged page, sled panics; the answers must be sent all the same.
    let result = guarded(|| {
        let mut txn = Transaction::new(store, store.clock.now());
        while let Some(command) = commands.pop_front() {
            apply(store, disk, &mut txn, command, &mut answers)?;
        }
        if txn.is_empty() {
            return Ok(());
        }
        txn.seal()?;
        let batches = txn.totals.next_batch;
        let (writes, published) = txn.into_parts();
        let begin = Instant::now();
        unsynced = Some(store.barrier.begin());
        store.queues.apply_begins();
        let applied = store.tree.apply_batch(writes);
        store.queues.apply_ended();
        applied?;
        store.db.flush()?;
        let len = disk.sync()?;
        disk.witness.note(batches, len);
        measure::committed(callbacks, begin.elapsed());
        published.publish(store);
        Ok(())
    });
    let result = result.map_err(|error| store.stop(&error));
    drop((unsynced, committing, watched));
    if let Err(error) = &result {
        commands.into_iter().for_each(|command| command.refuse(error.clone()));
    }
    for answer in answers {
        answer(result.clone());
    }
}

/// Adds one write to the transaction. An error leaves the transaction incomplete, so it is abandoned.
fn apply(
    store: &Arc<Store>,
    disk: &mut Disk,
    txn: &mut Transaction<'_>,
    command: Write,
    answers: &mut Vec<Answer>,
) -> Result<()> {
    match command {
        Write::Enqueue(new, sequence, reply) => {
            let room = || room_for(store, disk, txn, &new);
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
        Write::Replay(mut ids, reply) => {
            // In order: then each later callback of a job finds the first one at the head of the job
            // index, and the active one is not searched for each time.
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
        Write::Expire(cutoff, failure, reply) => {
            let (expired, result) = match txn.expire_before(cutoff, &failure) {
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
            answer(reply, room(store, disk, txn.pending() + 1));
            Ok(())
        }
    }
}

/// Does something with each item, until it fails.
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

/// Whether these may be stored. Duplicates are answered in any case.
fn room_for(
    store: &Store,
    disk: &mut Disk,
    txn: &Transaction<'_>,
    new: &[NewCallback],
) -> Result<()> {
    match room(store, disk, txn.pending() + new.len() as u64) {
        Err(error) if error.is_transient() => match txn.wanted(new)? {
            (_, false) => Ok(()),
            // What can never be sent does not count as pending; it only needs space on the disk.
            (0, true) => disk.free(),
            (pending, true) => room(store, disk, txn.pending() + pending),
        },
        known => known,
    }
}

/// Whether this many callbacks may be pending, and the disk has space.
fn room(store: &Store, disk: &mut Disk, pending: u64) -> Result<()> {
    let max = store.settings.max_pending;
    if pending > max {
        return Err(OutboxError::Full { pending: store.queues.lock().totals.pending, max });
    }
    disk.free()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::{callback::CallbackId, clock::Timestamp, outbox::Settlement};

    /// Longer than any test waits.
    const LONG: Duration = Duration::from_secs(600);

    fn outcome() -> Write {
        let failure = Failure::new(ErrorKind::Cancelled, "");
        let settlement = Settlement::Failed { attempt: None, failure, hold: None };
        let new = NewCallback {
            event_id: None,
            body: crate::callback::Body {
                job_id: "1".into(),
                job_id_fs: "1".into(),
                job_state: crate::callback::JobState::Sending,
                exit_status: None,
                error_reason: None,
                dpf_tracker_url: None,
            },
            url: String::new().into(),
            destination: crate::callback::Destination::none(),
            refusal: None,
        };
        let id = CallbackId::from_u128(1);
        let record = crate::outbox::transition::accept(new, id, Timestamp::default(), true);
        Write::Settle(Box::new(record), Box::new(settlement), oneshot::channel().0)
    }

    #[test]
    fn an_urgent_write_ends_the_gathering_of_outcomes() {
        let (commands, mut received) = mpsc::unbounded_channel();
        let gathering = std::thread::spawn(move || {
            let mut batch = Vec::new();
            gather(&mut received, &mut batch, LONG);
            batch.len()
        });
        for _ in 0..3 {
            assert!(commands.send(outcome()).is_ok());
            gathering.thread().unpark();
        }
        assert!(!gathering.is_finished());
        assert!(commands.send(Write::Ping(oneshot::channel().0)).is_ok());
        gathering.thread().unpark();
        assert_eq!(gathering.join().unwrap(), 4);
    }

    #[test]
    fn outcomes_are_gathered_for_the_whole_pause() {
        let (commands, mut received) = mpsc::unbounded_channel();
        let mut batch = Vec::new();
        let (begin, pause) = (Instant::now(), Duration::from_millis(20));
        assert!(commands.send(outcome()).is_ok());
        gather(&mut received, &mut batch, pause);
        assert!(begin.elapsed() >= pause && batch.len() == 1);
    }
}
