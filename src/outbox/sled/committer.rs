//! The one thread that writes. Whatever has queued up becomes one batch: one atomic apply,
//! one flush, one sync, then everyone is answered. While that runs, the next batch gathers.
//!
//! `flush()` alone is no barrier (sled issue 1452: it ends in `sync_file_range`, which
//! flushes neither the drive's cache nor the file's size), so `sync_data()` on the log file
//! follows it, and only then is anything acknowledged.
//!
//! An error of apply, flush or sync is ambiguous: the batch may or may not be on the disk.
//! So the store stops for good, answers every write with [`OutboxError::Broken`], and the
//! next start finds out from the disk what is there.

use std::{
    collections::VecDeque,
    fs::File,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, oneshot};

use super::{Store, batch::Batch, guard::guarded, read, wake::Wake, watch::Witness};
use crate::{
    callback::CallbackId,
    clock::Timestamp,
    measure,
    outbox::{
        Cancelled, Enqueued, Entry, ErrorKind, Failure, Mended, NewCallback, OutboxError, Over,
        Record, Sequence, Settlement,
    },
};

/// How many callbacks go into one batch at most, unless one command alone brings more.
const BATCH_LIMIT: usize = 2048;

/// From how many outcomes in one batch on the next one waits for [`GATHER_PAUSE`]: nobody waits
/// for an outcome to be on the disk but the job's next callback, and a commit costs the same
/// wake-ups of the engine's threads however many are in it.
const MANY_OUTCOMES: usize = 32;

/// How long outcomes are gathered where there are many.
const GATHER_PAUSE: Duration = Duration::from_millis(6);

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, OutboxError>>;

/// A write that somebody waits for.
pub(super) enum Command {
    Enqueue(Vec<NewCallback>, Sequence, Reply<Vec<Enqueued>>),
    Settle(Box<(Record, Settlement)>, Reply<Record>),
    Replay(Vec<CallbackId>, Reply<u64>),
    Cancel(CallbackId, Reply<Cancelled>),
    Expire(Timestamp, Failure, Reply<Vec<Record>>),
    Purge(Over, Reply<u64>),
    Mend(Vec<u8>, Reply<Mended>),
    Import(Vec<Entry>, Reply<u64>),
    Ping(Reply<()>),
}

impl Command {
    fn weight(&self) -> usize {
        match self {
            Self::Enqueue(batch, ..) => batch.len().max(1),
            Self::Replay(ids, _) => ids.len().max(1),
            Self::Import(entries, _) => entries.len().max(1),
            Self::Settle(..) | Self::Cancel(..) | Self::Ping(_) => 1,
            Self::Expire(..) | Self::Purge(..) | Self::Mend(..) => BATCH_LIMIT / 4,
        }
    }

    /// Whether somebody waits for it. For an outcome, only the job's next callback does.
    pub(super) fn is_urgent(&self) -> bool {
        !matches!(self, Self::Settle(..))
    }

    /// Answers with an error.
    fn refuse(self, error: OutboxError) {
        match self {
            Self::Enqueue(_, _, reply) => answer(reply, Err(error)),
            Self::Settle(_, reply) => answer(reply, Err(error)),
            Self::Ping(reply) => answer(reply, Err(error)),
            Self::Replay(_, reply) | Self::Purge(_, reply) | Self::Import(_, reply) => {
                answer(reply, Err(error));
            }
            Self::Cancel(_, reply) => answer(reply, Err(error)),
            Self::Expire(_, _, reply) => answer(reply, Err(error)),
            Self::Mend(_, reply) => answer(reply, Err(error)),
        }
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, OutboxError>) {
    // Who asked may have gone away; what was written stays written.
    drop(reply.send(result));
}

/// An answer that is given when the batch is on the disk, or has failed.
type Answer = Box<dyn FnOnce(Result<(), OutboxError>) + Send>;

fn when_synced<T: Send + 'static>(reply: Reply<T>, value: T) -> Answer {
    Box::new(move |synced| answer(reply, synced.map(|()| value)))
}

/// Runs until every sender of commands is gone.
pub(super) fn run(
    store: &Arc<Store>,
    witness: Witness,
    wake: Wake,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut disk = Disk::new(store, witness);
    let mut waiting = VecDeque::new();
    let mut received = Vec::new();
    let mut outcomes = 0;
    loop {
        if waiting.is_empty() && commands.blocking_recv_many(&mut received, BATCH_LIMIT) == 0 {
            if store.broken().is_none() {
                disk.close(store.lanes.lock().totals.next_batch);
            }
            drop(wake);
            return;
        }
        if outcomes >= MANY_OUTCOMES && waiting.is_empty() {
            gather(&mut commands, &mut received, GATHER_PAUSE);
        }
        take(&mut commands, &mut received);
        waiting.extend(received.drain(..));
        let mut weight = 0;
        let mut taken = VecDeque::new();
        while let Some(next) = waiting.front().map(Command::weight)
            && (taken.is_empty() || weight + next <= BATCH_LIMIT)
        {
            weight += next;
            taken.extend(waiting.pop_front());
        }
        outcomes = taken.iter().filter(|command| is_outcome(command)).count();
        commit(store, &mut disk, &wake, taken);
    }
}

/// Takes what has come, up to what one batch holds.
fn take(commands: &mut mpsc::UnboundedReceiver<Command>, received: &mut Vec<Command>) {
    while received.len() < BATCH_LIMIT
        && let Ok(more) = commands.try_recv()
    {
        received.push(more);
    }
}

/// Waits for more outcomes, for as long as nothing else has come. Whoever sends something else wakes
/// this thread ([`Command::is_urgent`]).
fn gather(
    commands: &mut mpsc::UnboundedReceiver<Command>,
    received: &mut Vec<Command>,
    pause: Duration,
) {
    let end = Instant::now() + pause;
    loop {
        take(commands, received);
        let left = end.saturating_duration_since(Instant::now());
        let full = received.len() >= BATCH_LIMIT;
        if left.is_zero() || full || received.iter().any(Command::is_urgent) {
            return;
        }
        std::thread::park_timeout(left);
    }
}

fn is_outcome(command: &Command) -> bool {
    !command.is_urgent()
}

fn commit(store: &Arc<Store>, disk: &mut Disk, wake: &Wake, mut commands: VecDeque<Command>) {
    if let Some(error) = store.broken() {
        commands.into_iter().for_each(|command| command.refuse(error.clone()));
        return;
    }
    let (whole, watched) = (store.commits.begin(), wake.begin());
    let mut answers = Vec::with_capacity(commands.len());
    let size = commands.iter().map(Command::weight).sum();
    let mut unsynced = None;
    // A damaged page makes sled panic; that must not take the answers with it.
    let result = guarded(|| {
        let mut batch = Batch::new(store, store.clock.now());
        while let Some(command) = commands.pop_front() {
            apply(store, disk, &mut batch, command, &mut answers)?;
        }
        if batch.txn.is_empty() {
            return Ok(());
        }
        batch.seal()?;
        let batches = batch.totals.next_batch;
        store.backward.note(batches - 1, batch.now);
        let (writes, published) = batch.split();
        let begin = Instant::now();
        unsynced = Some(store.barrier.begin());
        store.lanes.apply_begins();
        let applied = store.tree.apply_batch(writes);
        store.lanes.apply_ended();
        applied?;
        store.db.flush()?;
        let len = disk.sync()?;
        disk.witness.note(batches, len);
        measure::committed(size, begin.elapsed());
        published.publish(store);
        Ok(())
    });
    let result = result.map_err(|error| store.stop(&error));
    drop((unsynced, whole, watched));
    if let Err(error) = &result {
        commands.into_iter().for_each(|command| command.refuse(error.clone()));
    }
    for answer in answers {
        answer(result.clone());
    }
}

/// Puts one command into the batch. An error here leaves the batch half-made, so it ends it.
fn apply(
    store: &Arc<Store>,
    disk: &mut Disk,
    batch: &mut Batch<'_>,
    command: Command,
    answers: &mut Vec<Answer>,
) -> Result<(), OutboxError> {
    match command {
        Command::Enqueue(new, sequence, reply) => {
            let room = || room_for(store, disk, batch, &new);
            if let Err(error) = sequence.refused().map_or_else(room, Err) {
                sequence.refuse(&error);
                answer(reply, Err(error));
                return Ok(());
            }
            let mut outcomes = Vec::with_capacity(new.len());
            let run = || {
                for one in new {
                    outcomes.push(batch.enqueue(one)?);
                }
                Ok(())
            };
            let result = run();
            answers.push(when_synced(reply, outcomes));
            result
        }
        Command::Settle(settled, reply) => {
            let (record, settlement) = *settled;
            let record = batch.settle(record, settlement);
            let (record, result) = match record {
                Ok(record) => (Ok(record), Ok(())),
                Err(error) => (Err(error.clone()), Err(error)),
            };
            answers.push(Box::new(move |synced| answer(reply, synced.and(record))));
            result
        }
        Command::Replay(mut ids, reply) => {
            // The earliest first: then a later one of its job sees at the head of the line that
            // it has to wait, and nobody searches the line for the active one each time.
            ids.sort_unstable();
            let mut replayed = 0;
            let run = || {
                for id in ids {
                    replayed += u64::from(batch.replay(id)?);
                }
                Ok(())
            };
            let result = run();
            answers.push(when_synced(reply, replayed));
            result
        }
        Command::Cancel(id, reply) => {
            let failure = Failure::new(ErrorKind::Cancelled, "cancelled by an operator");
            let outcome = batch.cancel(id, failure);
            let found = *outcome.as_ref().unwrap_or(&Cancelled::Unknown);
            answers.push(when_synced(reply, found));
            outcome.map(drop)
        }
        Command::Expire(cutoff, failure, reply) => {
            let now = batch.now;
            let end = |id| batch.expire(id, cutoff, &failure);
            let expired = read::expired(store, cutoff, now, end);
            let (found, result) = match expired {
                Ok(found) => (found, Ok(())),
                Err(error) => (Vec::new(), Err(error)),
            };
            answers.push(when_synced(reply, found));
            result
        }
        Command::Purge(over, reply) => {
            let purged = batch.purge(over);
            answers.push(when_synced(reply, *purged.as_ref().unwrap_or(&0)));
            purged.map(drop)
        }
        Command::Mend(after, reply) => {
            let mended = batch.mend(&after);
            answers.push(when_synced(reply, mended.as_ref().cloned().unwrap_or_default()));
            mended.map(drop)
        }
        Command::Import(entries, reply) => {
            let mut imported = 0;
            let run = || {
                for entry in entries {
                    imported += u64::from(batch.restore(entry)?);
                }
                Ok(())
            };
            let result = run();
            answers.push(when_synced(reply, imported));
            result
        }
        Command::Ping(reply) => {
            answer(reply, room(store, disk, batch.pending() + 1));
            Ok(())
        }
    }
}

/// Whether these may be stored. What is stored already is answered in any case.
fn room_for(
    store: &Store,
    disk: &mut Disk,
    batch: &Batch<'_>,
    new: &[NewCallback],
) -> Result<(), OutboxError> {
    match room(store, disk, batch.pending() + new.len() as u64) {
        Err(error) if error.is_transient() => match batch.wanted(new)? {
            (_, false) => Ok(()),
            // What can never be sent does not count as pending, and needs no more than the disk.
            (0, true) => disk.free(),
            (pending, true) => room(store, disk, batch.pending() + pending),
        },
        known => known,
    }
}

/// Whether so many may be pending, and the disk has room.
fn room(store: &Store, disk: &mut Disk, pending: u64) -> Result<(), OutboxError> {
    let max = store.settings.max_pending;
    if pending > max {
        return Err(OutboxError::Full { pending: store.lanes.lock().totals.pending, max });
    }
    disk.free()
}

/// The disk under the store.
struct Disk {
    dir: std::path::PathBuf,
    min_free: u64,
    log: Option<File>,
    blobs_synced: Option<SystemTime>,
    witness: Witness,
}

impl Disk {
    fn new(store: &Store, witness: Witness) -> Self {
        Self {
            witness,
            dir: store.dir.clone(),
            min_free: store.settings.min_free_bytes,
            log: None,
            blobs_synced: None,
        }
    }

    /// The barrier that `flush()` is not; gives the length of the log.
    fn sync(&mut self) -> std::io::Result<u64> {
        let log = match &mut self.log {
            Some(log) => log,
            none => none.insert(File::options().write(true).open(self.dir.join("db"))?),
        };
        log.sync_data()?;
        let len = log.metadata()?.len();
        // A value of 128 KiB or more gets a file of its own, which sled syncs; its entry in
        // the directory it does not.
        let blobs = self.dir.join("blobs");
        let changed = std::fs::metadata(&blobs).and_then(|it| it.modified()).ok();
        if changed != self.blobs_synced {
            sync_dir(&blobs)?;
            self.blobs_synced = changed;
        }
        Ok(len)
    }

    fn close(&mut self, batches: u64) {
        let Self { dir, witness, .. } = self;
        witness.close(dir, batches);
    }

    fn free(&self) -> Result<(), OutboxError> {
        let free = fs4::available_space(&self.dir)
            .map_err(|error| OutboxError::Engine(error.to_string().into()))?;
        if free < self.min_free {
            return Err(OutboxError::DiskLow { free, min: self.min_free });
        }
        Ok(())
    }
}

/// Has the log of the store in `dir` on the disk, as far as it is written.
pub(super) fn sync_log(dir: &std::path::Path) -> std::io::Result<()> {
    File::options().write(true).open(dir.join("db"))?.sync_data()?;
    let blobs = dir.join("blobs");
    if blobs.try_exists()? { sync_dir(&blobs) } else { Ok(()) }
}

/// Makes the entries of a directory durable, where the system has a way to.
pub(super) fn sync_dir(dir: &std::path::Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

impl From<std::io::Error> for OutboxError {
    fn from(error: std::io::Error) -> Self {
        Self::Engine(error.to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any test waits.
    const LONG: Duration = Duration::from_secs(600);

    fn outcome() -> Command {
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
        Command::Settle(Box::new((record, settlement)), oneshot::channel().0)
    }

    #[test]
    fn outcomes_are_gathered_until_something_comes_for_which_somebody_waits() {
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
        assert!(commands.send(Command::Ping(oneshot::channel().0)).is_ok());
        gathering.thread().unpark();
        assert_eq!(gathering.join().unwrap(), 4);
    }

    #[test]
    fn outcomes_alone_are_gathered_for_the_whole_pause() {
        let (commands, mut received) = mpsc::unbounded_channel();
        let mut batch = Vec::new();
        let (begin, pause) = (Instant::now(), Duration::from_millis(20));
        assert!(commands.send(outcome()).is_ok());
        gather(&mut received, &mut batch, pause);
        assert!(begin.elapsed() >= pause && batch.len() == 1);
    }
}
