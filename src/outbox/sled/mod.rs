//! The outbox on sled, the embedded store. Nothing outside this folder names sled.
//!
//! Two of the crates beneath sled 0.34.7, `fxhash` and `instant`, have no upkeep any more;
//! this folder is what would have to change to be rid of them.
//!
//! ```text
//!  enqueue, settle, … ──► commands ──► committer thread ──► one sled batch, flush, sync_data
//!                                          │ publishes after the sync
//!  claim ◄── lanes (memory: counters, busy marks, signals) ◄┘
//!    └─────► tree (reads)      list, get, summary ──► tree (reads, on blocking threads;
//!                                                         answered after the sync)
//! ```
//!
//! Recovery is opening: counters are rows of the same tree and change in the same batch as
//! what they count, claims live in memory only, and the due index says what goes next. No
//! row is scanned that is not needed.

mod barrier;
mod batch;
mod claim;
mod committer;
mod copy;
mod export;
mod guard;
mod keys;
mod lanes;
mod line;
mod log;
mod mend;
mod migrate;
mod moves;
mod open;
mod purge;
mod read;
mod restore;
mod salvage;
mod summary;
mod txn;
mod verify;
mod wake;
mod watch;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::{JoinHandle, Thread},
    time::Duration,
};

use futures_util::future::BoxFuture;
use sled::{Db, Tree};
use tokio::sync::{mpsc, oneshot};

use self::{
    barrier::Barrier,
    committer::{Command, Reply},
    export::Backward,
    guard::guarded,
    keys::LaneKey,
    lanes::Lanes,
    moves::Moves,
    wake::Wake,
};
pub use self::{copy::CopyError, salvage::Salvage};
use super::{
    Cancelled, Claim, Claims, Detail, Enqueued, Entry, ExportCursor, Exported, Failure, Holder,
    Identity, Mended, NewCallback, Open, Outbox, OutboxError, OutboxFuture, Over, Page, Query,
    Record, Sequence, Settlement, Summary,
};
use crate::{
    callback::{CallbackId, Destination},
    clock::{SharedClock, Timestamp},
};

/// The settings of the store (contract, 6: `outbox.*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The engine's page cache, in bytes.
    pub cache_bytes: u64,
    /// How many callbacks may be pending.
    pub max_pending: u64,
    /// How many bytes have to stay free on the data disk.
    pub min_free_bytes: u64,
    /// How far ahead anything is ever put off. What is due or held beyond that was put off by a
    /// clock that was ahead and has gone back since: it is due, or not held, now.
    pub longest_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache_bytes: 67_108_864,
            max_pending: 10_000_000,
            min_free_bytes: 268_435_456,
            longest_pause: Duration::MAX,
        }
    }
}

/// What the threads share.
struct Store {
    dir: PathBuf,
    db: Db,
    tree: Tree,
    salt: [u8; 16],
    lanes: Lanes,
    barrier: Barrier,
    /// Each commit from the time that it gives to what it changes.
    commits: Barrier,
    moves: Moves,
    backward: Backward,
    clock: SharedClock,
    settings: Settings,
}

impl Store {
    /// The latest moment until which anything can have been put off by a clock that says `now`.
    fn latest(&self, now: Timestamp) -> Timestamp {
        now.after(self.settings.longest_pause)
    }

    fn broken(&self) -> Option<OutboxError> {
        let reason = self.lanes.lock().broken.clone()?;
        Some(OutboxError::Broken { dir: self.dir.clone(), reason })
    }

    /// Stops the store for good; the first reason stays.
    fn stop(&self, error: &OutboxError) -> OutboxError {
        let mut lanes = self.lanes.lock();
        let first = lanes.broken.is_none();
        let said = || match error {
            // A new start does not help where it is met again.
            OutboxError::Corrupt(_) | OutboxError::Damaged { .. } => format!(
                "{error}. If it stops again, stop the service, `export --file callbacks.ndjson`, \
                 move {} away, and `import --file callbacks.ndjson`",
                self.dir.display()
            ),
            _ => error.to_string(),
        };
        let reason = lanes.broken.get_or_insert_with(|| said().into()).clone();
        drop(lanes);
        if first {
            tracing::error!(
                event.action = "store-stopped",
                error.message = %reason,
                "the store has stopped; restart the service"
            );
        }
        OutboxError::Broken { dir: self.dir.clone(), reason }
    }

    /// What an error means that somebody has met who only reads. sled writes there as well, and
    /// once a write of its own has failed, it fails at everything: then the store has stopped.
    /// Otherwise the error is that of one read, and stops nothing.
    fn meant(&self, error: OutboxError) -> OutboxError {
        if let Some(broken) = self.broken() {
            return broken;
        }
        if !matches!(error, OutboxError::Engine(_)) {
            return error;
        }
        let flushed = guarded(|| Ok(self.db.flush()?));
        flushed.map_or_else(|cause| self.stop(&cause), |_| error)
    }
}

impl Holder for Store {
    fn give_back(&self, id: CallbackId, due: Timestamp) {
        let (seq, lane) = keys::parts(id);
        self.lanes.release(lane, seq, due);
    }
}

/// The outbox in a directory of its own.
pub struct SledOutbox {
    store: Arc<Store>,
    commands: Mutex<Option<mpsc::UnboundedSender<Command>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
    /// The committer, to be woken where it gathers outcomes.
    gathering: Thread,
}

impl fmt::Debug for SledOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledOutbox").field("dir", &self.store.dir).finish_non_exhaustive()
    }
}

impl SledOutbox {
    /// Opens the store in `dir`, makes it where there is none, and brings it to this
    /// version's format. A damaged, newer or foreign store is an error and stays unchanged.
    pub fn open(dir: &Path, settings: Settings, clock: SharedClock) -> Result<Self, OutboxError> {
        let (store, witness) =
            open::watched(dir, settings, clock).map_err(|error| match error {
                OutboxError::Engine(reason) => OutboxError::Open { dir: dir.to_owned(), reason },
                OutboxError::Corrupt(reason) => {
                    OutboxError::Unsound { dir: dir.to_owned(), reason }
                }
                damaged @ OutboxError::Damaged { .. } => {
                    OutboxError::Unsound { dir: dir.to_owned(), reason: damaged.to_string().into() }
                }
                other => other,
            })?;
        let store = Arc::new(store);
        let (commands, received) = mpsc::unbounded_channel();
        let start = || {
            let wake = Wake::start(store.db.clone())?;
            let store = Arc::clone(&store);
            std::thread::Builder::new()
                .name("committer".into())
                .spawn(move || committer::run(&store, witness, wake, received))
        };
        let committer = start().map_err(|error| OutboxError::Open {
            dir: dir.to_owned(),
            reason: error.to_string().into(),
        })?;
        Ok(Self {
            store,
            commands: Mutex::new(Some(commands)),
            gathering: committer.thread().clone(),
            committer: Mutex::new(Some(committer)),
        })
    }

    /// Makes an empty store in `dir`, where none may be, whose ids go on where those of the
    /// store with this identity ended, and opens it.
    pub fn create(
        dir: &Path,
        identity: Option<Identity>,
        settings: Settings,
        clock: SharedClock,
    ) -> Result<Self, OutboxError> {
        open::create(dir, identity).map_err(|error| OutboxError::Open {
            dir: dir.to_owned(),
            reason: error.to_string().into(),
        })?;
        Self::open(dir, settings, clock)
    }

    /// Removes a store with all that is beside it.
    pub fn remove(dir: &Path) -> std::io::Result<()> {
        if dir.try_exists()? {
            std::fs::remove_dir_all(dir)?;
        }
        watch::forget(dir)
    }

    /// Finishes what was asked for and stops the committer. Later writes are refused.
    pub fn close(&self) {
        drop(self.commands.lock().unwrap_or_else(PoisonError::into_inner).take());
        let committer = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if committer.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the committer thread had panicked");
        }
    }

    fn ask<T: Send + 'static>(&self, command: impl FnOnce(Reply<T>) -> Command) -> OutboxFuture<T> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let urgent = command.is_urgent();
        let sent = self
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|commands| commands.send(command).is_ok());
        if urgent {
            self.gathering.unpark();
        }
        Box::pin(async move {
            if !sent {
                return Err(OutboxError::Closed);
            }
            answer.await.unwrap_or(Err(OutboxError::Closed))
        })
    }

    /// Reads, and answers when the disk has what was read.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, OutboxError> + Send + 'static,
    ) -> OutboxFuture<T> {
        self.read_now(move |store| {
            let result = guarded(|| read(store));
            store.barrier.wait();
            result
        })
    }

    /// The same without that wait, for what is told of the queue as a whole: it is asked for above all
    /// where the disk does not answer.
    fn read_now<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, OutboxError> + Send + 'static,
    ) -> OutboxFuture<T> {
        let store = Arc::clone(&self.store);
        Box::pin(async move {
            let run = move || guarded(|| read(&store)).map_err(|error| store.meant(error));
            tokio::task::spawn_blocking(run).await.unwrap_or(Err(OutboxError::Closed))
        })
    }
}

impl Drop for SledOutbox {
    fn drop(&mut self) {
        self.close();
    }
}

impl Outbox for SledOutbox {
    fn enqueue(&self, batch: Vec<NewCallback>, sequence: Sequence) -> OutboxFuture<Vec<Enqueued>> {
        self.ask(|reply| Command::Enqueue(batch, sequence, reply))
    }

    fn signalled(&self) -> BoxFuture<'_, Vec<(Destination, Timestamp)>> {
        Box::pin(self.store.lanes.signalled())
    }

    fn claim(
        &self,
        destination: &Destination,
        limit: usize,
        now: Timestamp,
    ) -> OutboxFuture<Claims> {
        let lane = LaneKey::of(&self.store.salt, destination);
        let latest = self.store.latest(now);
        let found = self.store.lanes.claim(&self.store.tree, lane, limit, now..=latest);
        let claims = found.map_err(|error| self.store.meant(error)).map(|found| {
            let holder: Weak<Store> = Arc::downgrade(&self.store);
            let claim = |record| Claim::new(record, holder.clone());
            let claimed = found.records.into_iter().map(claim).collect();
            Claims { claimed, next_due: found.next_due }
        });
        Box::pin(std::future::ready(claims))
    }

    fn settle(&self, claim: Claim, settlement: Settlement) -> OutboxFuture<Record> {
        self.ask(|reply| Command::Settle(Box::new((claim.into_record(), settlement)), reply))
    }

    fn replay(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64> {
        self.ask(|reply| Command::Replay(ids, reply))
    }

    fn cancel(&self, id: CallbackId) -> OutboxFuture<Cancelled> {
        self.ask(|reply| Command::Cancel(id, reply))
    }

    fn expire(&self, cutoff: Timestamp, failure: Failure) -> OutboxFuture<Vec<Record>> {
        self.ask(|reply| Command::Expire(cutoff, failure, reply))
    }

    fn purge(&self, over: Over) -> OutboxFuture<u64> {
        self.ask(|reply| Command::Purge(over, reply))
    }

    fn mend(&self, after: Vec<u8>) -> OutboxFuture<Mended> {
        self.ask(|reply| Command::Mend(after, reply))
    }

    fn get(&self, id: CallbackId) -> OutboxFuture<Option<Detail>> {
        self.read(move |store| read::get(store, id))
    }

    fn list(&self, query: Query) -> OutboxFuture<Page> {
        self.read(move |store| read::list(store, &query))
    }

    fn identity(&self) -> Identity {
        Identity(self.store.salt)
    }

    fn export(&self, cursor: ExportCursor) -> OutboxFuture<Exported> {
        self.read(move |store| export::step(store, &cursor))
    }

    fn import(&self, entries: Vec<Entry>) -> OutboxFuture<u64> {
        self.ask(|reply| Command::Import(entries, reply))
    }

    fn summary(&self, now: Timestamp) -> OutboxFuture<Summary> {
        self.read_now(move |store| summary::of(store, now))
    }

    fn report(&self, destination: &Destination, open: Option<Open>) {
        let lane = LaneKey::of(&self.store.salt, destination);
        if let Some(lane) = self.store.lanes.lock().lanes.get_mut(&lane) {
            lane.open = open;
        }
    }

    fn ready(&self) -> OutboxFuture<()> {
        self.ask(Command::Ping)
    }

    fn write_under_way(&self) -> Option<Duration> {
        self.store.commits.under_way()
    }
}
