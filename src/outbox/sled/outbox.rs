//! [`SledOutbox`]: the [`Outbox`] trait, implemented with the threads of one store.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::{JoinHandle, Thread},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::{
    commit::{
        command::{Reply, Write},
        committer::Committer,
    },
    fsync::sync_dir,
    guard::guarded,
    open,
    read::{delivered, destinations, export, listing, lookup, summary},
    rescue::{
        backup,
        files::{WITNESS, beside},
        flush_waker::FlushWaker,
    },
    shared::store::{Settings, Store},
};
use crate::{
    callback::{CallbackId, Destination},
    clock::{SharedClock, Timestamp},
    files,
    outbox::{
        Cancelled, Claim, Claims, Delivered, DestinationPage, DestinationQuery, Detail, Enqueued,
        Entry, ExportCursor, Exported, Failure, Identity, Mended, NewCallback, News, Open, Outbox,
        OutboxError, OutboxFuture, Over, Page, Query, Record, Scope, Sequence, Settlement, Summary,
        Validity, error::Result,
    },
};

/// The outbox implemented with sled.
pub struct SledOutbox {
    store: Arc<Store>,
    commands: Mutex<Option<mpsc::UnboundedSender<Write>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
    migrated: bool,
    recovered: Vec<Record>,
    /// The committer, to be woken while it collects outcomes.
    gathering: Thread,
}

impl fmt::Debug for SledOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledOutbox").field("dir", &self.store.dir).finish_non_exhaustive()
    }
}

impl SledOutbox {
    /// Opens the store in `dir`, creates it if there is none, and migrates it to this version's format. A
    /// damaged, newer or foreign store is an error and is not changed.
    pub fn open(dir: &Path, settings: Settings, clock: SharedClock) -> Result<Self> {
        let (store, witness, migrated) =
            open::open_checked(dir, settings, clock).map_err(|error| match error {
                OutboxError::Engine(reason) => {
                    OutboxError::CannotOpen { dir: dir.to_owned(), reason }
                }
                OutboxError::CorruptPage(reason) => {
                    OutboxError::Damaged { dir: dir.to_owned(), reason }
                }
                damaged @ OutboxError::UnreadableRow { .. } => {
                    OutboxError::Damaged { dir: dir.to_owned(), reason: damaged.to_string().into() }
                }
                other => other,
            })?;
        let store = Arc::new(store);
        let (commands, received) = mpsc::unbounded_channel();
        let start = || {
            let wake = FlushWaker::start(store.db.clone())?;
            let (committer, recovered) = Committer::start(Arc::clone(&store), witness, wake);
            let thread = std::thread::Builder::new().name("committer".into());
            Ok((thread.spawn(move || committer.run(received))?, recovered))
        };
        let (committer, recovered) = start().map_err(|error: std::io::Error| {
            OutboxError::CannotOpen { dir: dir.to_owned(), reason: error.to_string().into() }
        })?;
        Ok(Self {
            store,
            commands: Mutex::new(Some(commands)),
            gathering: committer.thread().clone(),
            committer: Mutex::new(Some(committer)),
            migrated,
            recovered,
        })
    }

    /// Creates and opens an empty store in `dir`, where none may exist. With an identity, the callbacks
    /// of the store with this identity can be imported with their ids.
    pub fn create(
        dir: &Path,
        identity: Option<Identity>,
        settings: Settings,
        clock: SharedClock,
    ) -> Result<Self> {
        open::create(dir, identity).map_err(|error| OutboxError::CannotOpen {
            dir: dir.to_owned(),
            reason: error.to_string().into(),
        })?;
        Self::open(dir, settings, clock)
    }

    /// The witness of the store in `dir`: the file next to it that contains the number of acknowledged
    /// batches.
    pub fn witness(dir: &Path) -> PathBuf {
        beside(dir, WITNESS)
    }

    /// Renames a store that is not open, within a file system.
    pub fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
        files::rename(from, to)?;
        files::rename(&beside(from, WITNESS), &beside(to, WITNESS))?;
        sync_dir(to.parent().unwrap_or(Path::new(".")))
    }

    /// Removes a store with the files next to it.
    pub fn remove(dir: &Path) -> std::io::Result<()> {
        if dir.try_exists()? {
            files::remove_folder(dir)?;
        }
        backup::forget(dir)
    }

    /// Whether opening it migrated the store from an older format, which older versions cannot read.
    pub fn was_migrated(&self) -> bool {
        self.migrated
    }

    /// The callbacks with an outcome that an earlier process had received, and was killed before it committed
    /// it. Opening the store has committed it.
    pub fn recovered(&self) -> &[Record] {
        &self.recovered
    }

    /// Completes the writes in progress and stops the committer. Later writes are refused.
    pub fn close(&self) {
        drop(self.commands.lock().unwrap_or_else(PoisonError::into_inner).take());
        let committer = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if committer.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the committer thread had panicked");
        }
    }

    fn ask<T: Send + 'static>(&self, command: impl FnOnce(Reply<T>) -> Write) -> OutboxFuture<T> {
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

    /// Runs a read, and answers when what was read is durable.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> OutboxFuture<T> {
        self.read_now(move |store| {
            let result = read(store);
            store.barrier.wait();
            result
        })
    }

    /// Runs a read without waiting for the sync, for the summary, which is needed most while the disk
    /// does not respond.
    fn read_now<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> OutboxFuture<T> {
        let store = Arc::clone(&self.store);
        Box::pin(async move {
            let run = move || guarded(|| read(&store)).map_err(|error| store.classify(error));
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
    fn clock(&self) -> SharedClock {
        Arc::clone(&self.store.clock)
    }

    fn enqueue(&self, batch: Vec<NewCallback>, sequence: Sequence) -> OutboxFuture<Vec<Enqueued>> {
        self.ask(|reply| Write::Enqueue(batch, sequence, reply))
    }

    fn news(&self) -> BoxFuture<'_, Vec<News>> {
        Box::pin(self.store.queues.news())
    }

    fn claim(&self, destination: &Destination, limit: usize, now: Timestamp) -> Result<Claims> {
        let queue = self.store.queue(destination);
        let horizon = self.store.horizon(now);
        let found = self.store.queues.claim(&self.store.tree, queue, limit, horizon);
        found.map_err(|error| self.store.classify(error)).map(|found| {
            let owner: Weak<Store> = Arc::downgrade(&self.store);
            let claim = |record| Claim::new(record, owner.clone(), Validity::ALWAYS);
            let claimed = found.records.into_iter().map(claim).collect();
            Claims { claimed, next_due: found.next_due }
        })
    }

    fn settle(&self, claim: Claim, settlement: Settlement) -> OutboxFuture<Record> {
        self.ask(|reply| Write::Settle(claim.into_record(), Box::new(settlement), reply))
    }

    fn replay(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64> {
        self.ask(|reply| Write::Replay(ids, reply))
    }

    fn cancel(&self, ids: Vec<CallbackId>) -> OutboxFuture<Vec<Cancelled>> {
        self.ask(|reply| Write::Cancel(ids, reply))
    }

    fn retry_now(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64> {
        self.ask(|reply| Write::RetryNow(ids, reply))
    }

    fn pause(&self, destination: &Destination, paused: bool) -> OutboxFuture<bool> {
        let destination = destination.clone();
        self.ask(move |reply| Write::Pause(destination, paused, reply))
    }

    fn expire(&self, of: Scope, cutoff: Timestamp, failure: Failure) -> OutboxFuture<Vec<Record>> {
        self.ask(|reply| Write::Expire(of, cutoff, failure, reply))
    }

    fn purge(&self, over: Over) -> OutboxFuture<u64> {
        self.ask(|reply| Write::Purge(over, reply))
    }

    fn notify(&self) -> OutboxFuture<u64> {
        self.ask(Write::Notify)
    }

    fn mend(&self, after: Vec<u8>) -> OutboxFuture<Mended> {
        self.ask(|reply| Write::Mend(after, reply))
    }

    fn get(&self, id: CallbackId) -> OutboxFuture<Option<Detail>> {
        self.read(move |store| lookup::get(store, id))
    }

    fn list(&self, query: Query) -> OutboxFuture<Page> {
        self.read(move |store| listing::list(store, &query))
    }

    fn identity(&self) -> Identity {
        Identity(self.store.salt)
    }

    fn export(&self, cursor: ExportCursor) -> OutboxFuture<Exported> {
        self.read(move |store| export::step(store, &cursor))
    }

    fn import(&self, entries: Vec<Entry>) -> OutboxFuture<u64> {
        self.ask(|reply| Write::Import(entries, reply))
    }

    fn destinations(
        &self,
        query: DestinationQuery,
        now: Timestamp,
    ) -> OutboxFuture<DestinationPage> {
        self.read(move |store| destinations::page(store, &query, now))
    }

    fn delivered(&self, since: Timestamp) -> OutboxFuture<Delivered> {
        self.read(move |store| delivered::since(store, since))
    }

    fn summary(&self, now: Timestamp) -> OutboxFuture<Summary> {
        self.read_now(move |store| summary::of(store, now))
    }

    fn set_open(&self, destination: &Destination, open: Option<Open>) {
        let queue = self.store.queue(destination);
        if let Some(queue) = self.store.queues.lock().queues.get_mut(&queue)
            && queue.row.pending > 0
        {
            queue.open = open;
        }
    }

    fn ready(&self) -> OutboxFuture<()> {
        self.ask(Write::Ping)
    }

    fn leads(&self) -> bool {
        true
    }

    fn close(&self) {
        Self::close(self);
    }

    fn write_in_progress(&self) -> Option<Duration> {
        self.store.commits.elapsed()
    }
}
