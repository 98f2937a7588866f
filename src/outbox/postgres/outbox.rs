//! The implementation of [`Outbox`].

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::{mpsc, oneshot};

use super::{
    clock::ServerClock,
    command::{Action, Command, Enqueue, Reply, Settle},
    instances, node, notifications,
    questions::{Answer, COUNT, Question, misunderstood, summed},
    queues::Queues,
    read::Reads,
    recording::Kept,
    schema::{self, Purpose},
    session::Connector,
    settings::Settings,
    shard::shard_of,
    supervisor::{Begun, Supervisor},
};
use crate::{
    callback::{CallbackId, Destination},
    clock::{Clock as _, SharedClock, SystemClock, Timestamp},
    measure,
    outbox::{
        Cancelled, Claim, Claims, Delivered, DestinationPage, DestinationQuery, Detail, Enqueued,
        Entry, ExportCursor, Exported, Failure, Identity, Mended, NewCallback, News, Open, Outbox,
        OutboxError, OutboxFuture, Over, Page, Query, Record, Scope, Sequence, Settlement, Summary,
        error::Result, horizon::Horizon, ids::QueueKey,
    },
};

/// The outbox over a schema of a PostgreSQL database.
pub struct PostgresOutbox {
    pub(super) queues: Arc<Queues>,
    pub(super) reads: Arc<Reads>,
    commands: Mutex<Option<mpsc::UnboundedSender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) clock: SharedClock,
    settings: Arc<Settings>,
    salt: [u8; 16],
    migrated: bool,
}

impl std::fmt::Debug for PostgresOutbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresOutbox").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl PostgresOutbox {
    /// Connects, creates the schema if there is none, and migrates it to this version. `folder` has the
    /// identity of the instance, and is locked by this process.
    pub fn open(settings: Settings, folder: &Path) -> Result<Self> {
        Self::start(settings, folder, None, Purpose::Use)
    }

    /// The same with a clock other than the server's.
    pub fn open_at(settings: Settings, folder: &Path, clock: SharedClock) -> Result<Self> {
        Self::start(settings, folder, Some(clock), Purpose::Use)
    }

    /// The same for a command, which delivers nothing and leaves the shards to running instances.
    pub fn open_for_command(settings: Settings, folder: &Path) -> Result<Self> {
        Self::start(settings, folder, None, Purpose::Command)
    }

    /// Creates the schema for an import, which [`PostgresOutbox::finish_import`] ends. With an identity,
    /// the callbacks of the store with this identity can be imported with their ids.
    pub fn create(settings: Settings, folder: &Path, identity: Option<Identity>) -> Result<Self> {
        Self::start(settings, folder, None, Purpose::Import(identity))
    }

    /// Ends the import into a schema that is not open. The store can be used afterwards.
    pub fn finish_import(settings: &Settings) -> Result<()> {
        once(settings, async |connector, client| schema::finish_import(client, connector).await)
    }

    /// Removes a schema that is not open and whose import did not end.
    pub fn remove_import(settings: &Settings) -> Result<()> {
        once(settings, async |connector, client| schema::remove_import(client, connector).await)
    }

    /// Inspects the database without changing anything. Returns one line for each finding; the error is the
    /// one with which opening the store would fail.
    pub fn examine(settings: &Settings) -> Result<Vec<String>> {
        once(settings, async |connector, _| instances::examine(connector).await)
    }

    /// Whether opening it has migrated it from an older version.
    pub fn was_migrated(&self) -> bool {
        self.migrated
    }

    fn start(
        settings: Settings,
        folder: &Path,
        clock: Option<SharedClock>,
        purpose: Purpose,
    ) -> Result<Self> {
        let place = settings.place();
        let cannot = |reason: String| OutboxError::CannotOpen {
            dir: place.as_str().into(),
            reason: reason.into(),
        };
        let (settings, queues) = (Arc::new(settings), Arc::new(Queues::default()));
        let connector = Arc::new(Connector::new(&settings).map_err(cannot)?);
        measure::share_begins();
        let (commands, received) = mpsc::unbounded_channel();
        let server_clock = Arc::new(ServerClock::new(SystemClock.now()));
        let clock = clock.unwrap_or_else(|| Arc::clone(&server_clock) as _);
        let node = node::identity(folder).map_err(|error| cannot(error.to_string()))?;
        let supervisor = Supervisor {
            node: node.clone(),
            salt: OnceLock::new(),
            purpose,
            server_clock,
            settings: Arc::clone(&settings),
            connector: Arc::clone(&connector),
            queues: Arc::clone(&queues),
            clock: Arc::clone(&clock),
            commands: received,
            kept: Kept::default(),
        };
        let (ready, begun) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| cannot(error.to_string()))?;
        let serve = move || {
            runtime.block_on(async move {
                match supervisor.first().await {
                    Ok(Begun { writer, migrated }) => {
                        let notifications = notifications::start(Arc::clone(&supervisor.connector));
                        let begun = (writer.salt, migrated, notifications.send.clone());
                        if ready.send(Ok(begun)).is_ok() {
                            supervisor.run(writer, notifications).await;
                        }
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("postgres".into())
            .spawn(serve)
            .map_err(|error| cannot(error.to_string()))?;
        let (salt, migrated, notifications) = match begun.recv() {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return Err(error.of(&place)),
            Err(_) => return Err(cannot("its thread has ended".to_owned())),
        };
        Ok(Self {
            reads: Arc::new(Reads::new(
                connector,
                Arc::clone(&queues),
                salt,
                node,
                &settings,
                notifications,
                Arc::clone(&clock),
            )),
            queues,
            commands: Mutex::new(Some(commands)),
            thread: Mutex::new(Some(thread)),
            clock,
            settings,
            salt,
            migrated,
        })
    }

    fn ask<T: Send + 'static>(&self, command: impl FnOnce(Reply<T>) -> Command) -> OutboxFuture<T> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = commands.as_ref().is_some_and(|it| it.send(command(reply)).is_ok());
        drop(commands);
        Box::pin(async move {
            if !sent {
                return Err(OutboxError::Closed);
            }
            answer.await.unwrap_or(Err(OutboxError::Closed))
        })
    }

    pub(super) fn act<T: Send + 'static>(
        &self,
        action: impl FnOnce(Reply<T>) -> Action,
    ) -> OutboxFuture<T> {
        self.ask(|reply| Command::Act(action(reply)))
    }

    fn read<T, F>(&self, read: impl FnOnce(Arc<Reads>) -> F) -> OutboxFuture<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        Box::pin(read(Arc::clone(&self.reads)))
    }
}

/// Runs something on a separate connection and in a separate thread, because the current thread may belong to
/// a runtime.
fn once<T: Send>(
    settings: &Settings,
    run: impl AsyncFnOnce(
        &Connector,
        &tokio_postgres::Client,
    ) -> std::result::Result<T, schema::SchemaError>
    + Send,
) -> Result<T> {
    let cannot = |reason: String| OutboxError::CannotOpen {
        dir: settings.place().into(),
        reason: reason.into(),
    };
    let connector = Connector::new(&Arc::new(settings.clone())).map_err(cannot)?;
    let in_thread = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| cannot(error.to_string()))?.block_on(async {
            let connection = connector.direct().await?;
            run(&connector, &connection.client).await.map_err(|error| error.of(&settings.place()))
        })
    };
    let ended = std::thread::scope(|scope| scope.spawn(in_thread).join());
    ended.unwrap_or_else(|_| Err(cannot("its thread has panicked".to_owned())))
}

impl Drop for PostgresOutbox {
    fn drop(&mut self) {
        self.close();
    }
}

impl Outbox for PostgresOutbox {
    fn clock(&self) -> SharedClock {
        Arc::clone(&self.clock)
    }

    fn enqueue(&self, batch: Vec<NewCallback>, sequence: Sequence) -> OutboxFuture<Vec<Enqueued>> {
        self.ask(|reply| Command::Enqueue(Enqueue { place: 0, batch, sequence, reply }))
    }

    fn news(&self) -> BoxFuture<'_, Vec<News>> {
        Box::pin(self.queues.news())
    }

    fn claim(&self, destination: &Destination, limit: usize, now: Timestamp) -> Result<Claims> {
        let key = QueueKey::of(&self.salt, destination);
        let horizon = Horizon { now, latest: now.after(self.settings.common.longest_pause) };
        Ok(self.queues.claim(key, limit, horizon))
    }

    fn settle(&self, claim: Claim, settlement: Settlement) -> OutboxFuture<Record> {
        // An outcome of a session that is over counts only while there is no other session.
        if claim.validity.lost().now_or_never().is_some() {
            claim.release();
            measure::outcome_refused();
            return Box::pin(std::future::ready(Err(OutboxError::Lost)));
        }
        let record = claim.into_record();
        self.ask(|reply| Command::Settle(Settle { place: 0, record, settlement, reply }))
    }

    fn replay(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64> {
        summed(self.routed(ids, Action::Replay, Question::Replay, COUNT))
    }

    fn cancel(&self, ids: Vec<CallbackId>) -> OutboxFuture<Vec<Cancelled>> {
        let order = ids.clone();
        let parts = self.routed(ids, Action::Cancel, Question::Cancel, |answer| match answer {
            Answer::Cancelled(outcomes) => Some(outcomes),
            _ => None,
        });
        Box::pin(async move {
            let mut outcomes = HashMap::<CallbackId, VecDeque<Cancelled>>::new();
            for (ids, part) in parts.await? {
                for (id, outcome) in ids.into_iter().zip(part) {
                    outcomes.entry(id).or_default().push_back(outcome);
                }
            }
            let next = |id| outcomes.get_mut(&id).and_then(VecDeque::pop_front);
            order.into_iter().map(next).collect::<Option<_>>().ok_or_else(misunderstood)
        })
    }

    fn retry_now(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64> {
        summed(self.routed(ids, Action::RetryNow, Question::RetryNow, COUNT))
    }

    fn pause(&self, destination: &Destination, paused: bool) -> OutboxFuture<bool> {
        let key = QueueKey::of(&self.salt, destination);
        let destination = destination.clone();
        if self.queues.lock().owns(key) {
            return self.act(move |reply| Action::Pause(destination, paused, reply));
        }
        let (reads, now) = (Arc::clone(&self.reads), self.clock.now());
        Box::pin(async move {
            let question = Question::Pause(destination, paused);
            match reads.ask(shard_of(key), &question, now).await? {
                Answer::Paused(changed) => Ok(changed),
                _ => Err(misunderstood()),
            }
        })
    }

    fn expire(&self, of: Scope, cutoff: Timestamp, failure: Failure) -> OutboxFuture<Vec<Record>> {
        self.act(|reply| Action::Expire(of, cutoff, failure, reply))
    }

    fn purge(&self, over: Over) -> OutboxFuture<u64> {
        self.act(|reply| Action::Purge(over, reply))
    }

    fn notify(&self) -> OutboxFuture<u64> {
        self.act(Action::Notify)
    }

    fn mend(&self, after: Vec<u8>) -> OutboxFuture<Mended> {
        self.act(|reply| Action::Mend(after, reply))
    }

    fn get(&self, id: CallbackId) -> OutboxFuture<Option<Detail>> {
        self.read(async move |reads| reads.get(id).await)
    }

    fn list(&self, query: Query) -> OutboxFuture<Page> {
        self.read(async move |reads| reads.list(query).await)
    }

    fn identity(&self) -> Identity {
        Identity(self.salt)
    }

    fn export(&self, cursor: ExportCursor) -> OutboxFuture<Exported> {
        self.read(async move |reads| reads.export(cursor).await)
    }

    fn import(&self, entries: Vec<Entry>) -> OutboxFuture<u64> {
        self.act(|reply| Action::Import(entries, reply))
    }

    fn destinations(
        &self,
        query: DestinationQuery,
        now: Timestamp,
    ) -> OutboxFuture<DestinationPage> {
        self.read(async move |reads| reads.destinations(query, now).await)
    }

    fn delivered(&self, since: Timestamp) -> OutboxFuture<Delivered> {
        self.read(async move |reads| reads.delivered(since).await)
    }

    fn summary(&self, now: Timestamp) -> OutboxFuture<Summary> {
        self.read(async move |reads| reads.summary(now).await)
    }

    fn set_open(&self, destination: &Destination, open: Option<Open>) {
        let key = QueueKey::of(&self.salt, destination);
        self.queues.lock().set_open(key, open);
    }

    fn ready(&self) -> OutboxFuture<()> {
        self.act(Action::Ping)
    }

    fn leads(&self) -> bool {
        self.queues.lock().leads()
    }

    fn close(&self) {
        drop(self.commands.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the database's sessions had panicked");
        }
    }

    /// Always `None`: a restart would not help against a database that hangs.
    fn write_in_progress(&self) -> Option<Duration> {
        None
    }
}
