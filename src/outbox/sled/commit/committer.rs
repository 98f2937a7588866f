//! The committer: the one thread that writes (group commit). All writes that are waiting become one
//! batch: one atomic apply, one flush, one sync, then all are answered. The next
//! batch is collected in the meantime.
//!
//! `flush()` alone is no barrier (sled issue 1452: it ends in `sync_file_range`, which
//! flushes neither the drive's cache nor the file's size), so `sync_data()` on the log file
//! follows it, and only then is anything acknowledged.
//!
//! An error of apply, flush or sync is ambiguous: the batch may or may not be on the disk. So the store
//! stops permanently and answers every write with [`OutboxError::Stopped`]; the next start determines what
//! is on the disk. Before the apply nothing has changed: a failed read then fails a batch of upkeep, and
//! stops the store for any other, because the outcome of an attempt must not be refused.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    measure,
    outbox::{
        OutboxError, Record,
        error::Result,
        sled::{
            commit::{
                apply::apply,
                command::{BATCH_LIMIT, Weight, Write},
                disk::Disk,
                journal::Journal,
                transaction::Transaction,
            },
            guard::guarded,
            rescue::{flush_waker::FlushWaker, witness::Witness},
            shared::store::Store,
        },
    },
};

/// After a batch with at least this many outcomes, the committer waits for more outcomes even if other
/// callbacks of their jobs are blocked.
const MANY_OUTCOMES: usize = 32;

/// How long outcomes are gathered. Only the job's next callback waits for an outcome to be durable, and the
/// cost of a commit hardly depends on the number of outcomes. Any other write ends the wait, and the outcomes
/// are committed with it: so a submitted event never waits for a commit of outcomes alone.
const GATHER_PAUSE: Duration = Duration::from_millis(6);

/// The intervals at which the outcomes that have arrived are written to the journal, and the number of
/// outcomes in one interval from which on the shorter one is used. What a kill repeats arrived in one
/// interval.
const IDLE_PAUSE: Duration = Duration::from_millis(1);
const BUSY_PAUSE: Duration = Duration::from_micros(100);
const BUSY: usize = 4;

/// The committer.
pub(crate) struct Committer {
    store: Arc<Store>,
    disk: Disk,
    journal: Journal,
    wake: FlushWaker,
}

impl Committer {
    /// Opens the journal, and commits the outcomes that a killed process has left in it; also returns these
    /// callbacks.
    pub(crate) fn start(
        store: Arc<Store>,
        witness: Witness,
        wake: FlushWaker,
    ) -> (Self, Vec<Record>) {
        let (journal, left) = Journal::open(&store.dir);
        let disk = Disk::new(&store, witness);
        let mut committer = Self { store, disk, journal, wake };
        let mut recovered = Vec::new();
        if !left.is_empty() {
            let (reply, mut answer) = oneshot::channel();
            committer.commit([Write::Recover(left, reply)].into(), 1);
            // An error has stopped the store.
            recovered = answer.try_recv().ok().and_then(Result::ok).unwrap_or_default();
        }
        (committer, recovered)
    }

    /// Runs until every sender of writes is gone.
    pub(crate) fn run(mut self, mut commands: mpsc::UnboundedReceiver<Write>) {
        let mut waiting = VecDeque::new();
        let mut received = Vec::new();
        let mut outcomes = 0;
        loop {
            if waiting.is_empty() && commands.blocking_recv_many(&mut received, BATCH_LIMIT) == 0 {
                if self.store.stopped().is_none() {
                    self.journal.close();
                    let batches = self.store.queues.lock().totals.next_batch;
                    self.disk.close(&self.store, batches);
                }
                return;
            }
            let nobody_waits = || self.store.queues.lock().blocked == 0;
            if waiting.is_empty() && (outcomes >= MANY_OUTCOMES || nobody_waits()) {
                gather(&mut commands, &mut received, GATHER_PAUSE, |new| self.journal.note(new));
            } else {
                take(&mut commands, &mut received);
                self.journal.note(&received);
            }
            waiting.extend(received.drain(..));
            let mut weight = Weight::default();
            let mut taken = VecDeque::new();
            while let Some(next) = waiting.front().map(|write| weight.plus(write.weight()))
                && (taken.is_empty() || next.fits())
            {
                weight = next;
                taken.extend(waiting.pop_front());
            }
            outcomes = taken.iter().filter(|write| !write.is_urgent()).count();
            self.commit(taken, weight.callbacks);
            // After a failure, the next start needs what was noted.
            if waiting.is_empty() && self.store.stopped().is_none() {
                self.journal.begin_again();
            }
        }
    }

    fn commit(&mut self, mut commands: VecDeque<Write>, callbacks: usize) {
        let Self { store, disk, wake, .. } = self;
        if let Some(error) = store.stopped() {
            commands.into_iter().for_each(|command| command.refuse(error.clone()));
            return;
        }
        // Guards: both time the commit, for the flush waker and the health check.
        let (committing, watched) = (store.commits.begin(), wake.begin());
        let mut answers = Vec::with_capacity(commands.len());
        let mut unsynced = None;
        // Upkeep may fail, because it is tried again. It reads many rows that no other operation needs.
        let upkeep = commands.iter().all(Write::is_upkeep);
        let mut unchanged = false;
        // sled panics on a damaged page; every write must still be answered.
        let result = guarded(|| {
            let mut txn = Transaction::new(store, store.clock.now());
            while let Some(command) = commands.pop_front() {
                if let Err(error) = apply(store, disk, &mut txn, command, &mut answers) {
                    unchanged = upkeep && matches!(error, OutboxError::Engine(_));
                    if unchanged {
                        txn.abandon();
                    }
                    return Err(error);
                }
            }
            txn.note_searched();
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
        let result = result
            .map_err(|error| if unchanged { store.classify(error) } else { store.stop(&error) });
        drop((unsynced, committing, watched));
        if let Err(error) = &result {
            commands.into_iter().for_each(|command| command.refuse(error.clone()));
        }
        for answer in answers {
            answer(result.clone());
        }
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
/// ([`Write::is_urgent`]). Passes all writes on as they arrive.
fn gather(
    commands: &mut mpsc::UnboundedReceiver<Write>,
    received: &mut Vec<Write>,
    pause: Duration,
    mut arrived: impl FnMut(&[Write]),
) {
    let end = Instant::now() + pause;
    let mut known = 0;
    loop {
        take(commands, received);
        let new = &received[known..];
        known = received.len();
        arrived(new);
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || known >= BATCH_LIMIT || received.iter().any(Write::is_urgent) {
            return;
        }
        let pause = if new.len() >= BUSY { BUSY_PAUSE } else { IDLE_PAUSE };
        std::thread::park_timeout(left.min(pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        callback::CallbackId,
        clock::Timestamp,
        outbox::{ErrorKind, Failure, NewCallback, Settlement},
    };

    /// Longer than any test waits.
    const LONG: Duration = Duration::from_secs(600);

    fn outcome() -> Write {
        let failure = Failure::new(ErrorKind::Cancelled, "");
        let settlement = Settlement::Failed { attempt: None, failure, hold: None };
        let new = NewCallback {
            event_id: None,
            body: crate::callback::Body::example(),
            url: String::new().into(),
            destination: crate::callback::Destination::none(),
            trace: None,
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
            gather(&mut received, &mut batch, LONG, |_| {});
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
        gather(&mut received, &mut batch, pause, |_| {});
        assert!(begin.elapsed() >= pause && batch.len() == 1);
    }
}
