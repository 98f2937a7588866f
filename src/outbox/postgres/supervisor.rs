//! The task of a store, which keeps a session open.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicI64},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tokio_postgres::types::ToSql;

use super::{
    claimant::{Claimant, LastAnswer, uptime},
    clock::{RESYNC, ServerClock},
    command::{Command, Round, Unsure},
    notifications::{Notification, Notifications},
    queues::Queues,
    recording::{Kept, decide},
    rows::{big, class_of, millis, record, unbig},
    schema::{self, Purpose, SchemaError},
    session::{CALL_TIMEOUT, Connector},
    settings::Settings,
    shards::{BEAT, INSTANCE_LOCKS},
    statements::Statements,
    writer::Writer,
};
use crate::{
    clock::SharedClock,
    outbox::{OutboxError, error::Result, ids::QueueKey},
};

/// Pause between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// How long a start waits for the end of another session with the same identity. PostgreSQL ends it after 20
/// seconds of silence.
const IDENTITY_WAIT: Duration = Duration::from_secs(25);

/// How often new callbacks are polled, in case a notification was lost.
const POLL: Duration = Duration::from_secs(1);

/// How often all queues are read again.
const SWEEP: Duration = Duration::from_secs(30);

/// How often unused rows are removed, and for how long an instance must be gone before its rows are.
const FORGET: Duration = Duration::from_mins(10);
const FORGOTTEN_AFTER: Duration = Duration::from_hours(30 * 24);

/// Callbacks are not committed in the order of their seqs, so this many are read again.
const LATE: i64 = 2000;

/// The task of a store.
pub(super) struct Supervisor {
    pub(super) node: String,
    /// The key of the ids, when it is known.
    pub(super) salt: OnceLock<[u8; 16]>,
    pub(super) purpose: Purpose,
    pub(super) settings: Arc<Settings>,
    pub(super) connector: Arc<Connector>,
    pub(super) queues: Arc<Queues>,
    pub(super) server_clock: Arc<ServerClock>,
    pub(super) clock: SharedClock,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) kept: Kept,
}

/// An open session.
pub(super) struct Begun {
    pub(super) writer: Writer,
    pub(super) migrated: bool,
}

impl Supervisor {
    /// Connects, prepares the schema, and takes shards.
    pub(super) async fn begin(&self, wait: Duration) -> std::result::Result<Begun, SchemaError> {
        let began = uptime();
        let session = self.connector.session().await?;
        self.server_clock.set(&session.client).await?;
        let known = self.salt.get().copied();
        let schema = schema::prepare(&session.client, &self.connector, self.purpose, known).await?;
        self.salt.get_or_init(|| schema.salt);
        let statements = Statements::prepare(&session, &self.connector).await?;
        let last_answer = Arc::new(LastAnswer::new(began));
        let open = session.open.clone();
        let mut writer = Writer {
            settings: Arc::clone(&self.settings),
            queues: Arc::clone(&self.queues),
            session,
            statements,
            claimant: Arc::new(Claimant::new(
                Arc::downgrade(&self.queues) as _,
                Arc::clone(&last_answer),
                open,
            )),
            last_answer,
            kept: Arc::clone(&self.kept),
            unsure: Mutex::new(None),
            answered: AtomicI64::new(0),
            slot: 0,
            looked_for: Mutex::new((i64::MAX, None)),
            began,
            is_command: self.purpose == Purpose::Command,
            clock: Arc::clone(&self.clock),
            salt: schema.salt,
        };
        let host = gethostname::gethostname().to_string_lossy().into_owned();
        let args: [&(dyn ToSql + Sync); 3] = [&self.node, &host, &millis(writer.now())];
        writer.slot = writer.query_one(&writer.statements.hello, &args).await?.get(0);
        let end = Instant::now() + wait;
        while !writer.lock_identity().await? {
            if Instant::now() >= end {
                return Err(SchemaError::InUse);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // From now on, poll for callbacks that any instance stores.
        writer.fresh().await?;
        // Attempts of the previous session are dropped before anything is claimed again.
        self.queues.lock().begin(Arc::clone(&writer.claimant));
        writer.beat().await?;
        Ok(Begun { writer, migrated: schema.migrated })
    }

    /// The same at the start of the store.
    pub(super) async fn first(&self) -> std::result::Result<Begun, SchemaError> {
        if self.connector.shares_sessions().await? {
            return Err(SchemaError::Pooled);
        }
        self.begin(IDENTITY_WAIT).await
    }

    /// Makes writes until the store is closed.
    pub(super) async fn run(mut self, mut writer: Writer, mut notifications: Notifications) {
        let (mut waiting, mut unsure) = (VecDeque::new(), None);
        while let Err(error) =
            self.serve(&writer, &mut waiting, &mut unsure, &mut notifications).await
        {
            tracing::error!(
                event.action = "store-disconnected",
                error.message = %error,
                "the connection to the store broke"
            );
            unsure = writer.unsure.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(writer);
            self.queues.lock().lose_all();
            self.queues.wake();
            match self.reconnect(&error, &mut waiting, &mut unsure).await {
                Some(begun) => writer = begun,
                None => return unsure.into_iter().for_each(Unsure::give_up),
            }
        }
    }

    /// Makes writes on one session, beginning with the one whose answer was lost. Returns when the store is
    /// closed, or with an error when the session breaks.
    async fn serve(
        &mut self,
        writer: &Writer,
        waiting: &mut VecDeque<Command>,
        unsure: &mut Option<Unsure>,
        notifications: &mut Notifications,
    ) -> Result<()> {
        if let Some(it) = unsure.take() {
            writer.enqueue_again(it).await?;
        }
        let mut open = writer.session.open.clone();
        let ticks = |period| {
            let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut beat, mut resync) = (ticks(BEAT), ticks(RESYNC));
        let (mut poll, mut sweep) = (ticks(POLL), ticks(SWEEP));
        let mut forget = tokio::time::interval_at(Instant::now() + BEAT, FORGET);
        loop {
            let mut heard = Heard::default();
            tokio::select! {
                biased;
                _ = open.wait_for(|open| !*open) => {
                    return Err(OutboxError::Unreachable("the server closed the connection".into()));
                }
                _ = beat.tick() => writer.beat().await?,
                _ = resync.tick() => self.server_clock.set(&writer.session.client).await?,
                _ = poll.tick() => {
                    heard.is_asked = true;
                    if self.queues.lock().is_alone {
                        writer.look_from_now();
                    } else {
                        writer.fresh().await?;
                    }
                }
                _ = sweep.tick() => {
                    self.queues.lock().forget_idle();
                    heard.changed.extend(writer.all_pending().await?);
                    writer.forget_questions().await?;
                }
                _ = forget.tick() => writer.forget().await?,
                Some(notification) = notifications.receive.recv() => heard.note(&notification),
                () = self.queues.fill.notified() => {}
                command = self.commands.recv(), if waiting.is_empty() => match command {
                    Some(command) => waiting.push_back(command),
                    None => return writer.let_go_all().await,
                },
                () = std::future::ready(()), if !waiting.is_empty() => {}
            }
            while let Ok(command) = self.commands.try_recv() {
                waiting.push_back(command);
            }
            while let Ok(notification) = notifications.receive.try_recv() {
                heard.note(&notification);
            }
            writer.make(Round::take(waiting)).await?;
            if heard.is_asked && writer.answer_questions().await? {
                send(notifications, Notification::Asked);
            }
            writer.read_again(&heard.changed).await?;
            writer.load_active(&heard.active).await?;
            writer.fill(&self.queues.take_wanted()).await?;
            let told = std::mem::take(&mut self.queues.lock().changed);
            told.into_iter().for_each(|notification| send(notifications, notification));
        }
    }

    /// Connects again; `None` if the store is closed first. Until then, outcomes are kept, and everything
    /// else is refused.
    async fn reconnect(
        &mut self,
        broken: &OutboxError,
        waiting: &mut VecDeque<Command>,
        unsure: &mut Option<Unsure>,
    ) -> Option<Writer> {
        let mut reason = broken.to_string();
        loop {
            unsure.take_if(|it| it.is_too_old()).into_iter().for_each(Unsure::give_up);
            let pause = Instant::now() + RECONNECT_PAUSE;
            loop {
                for command in waiting.drain(..) {
                    self.meanwhile(command, &reason);
                }
                tokio::select! {
                    () = tokio::time::sleep_until(pause) => break,
                    command = self.commands.recv() => waiting.push_back(command?),
                }
            }
            match tokio::time::timeout(CALL_TIMEOUT, self.begin(Duration::ZERO)).await {
                Ok(Ok(begun)) => {
                    tracing::info!(
                        event.action = "store-connected",
                        "the store can be reached again"
                    );
                    return Some(begun.writer);
                }
                Ok(Err(error)) => reason = error.to_string(),
                Err(_) => "no answer from the database".clone_into(&mut reason),
            }
            // Close what the failed attempt may have opened.
            self.queues.lock().lose_all();
        }
    }

    fn meanwhile(&self, command: Command, reason: &str) {
        match command {
            Command::Settle(it) => {
                let outcome = decide(&self.queues, &self.settings, it, self.clock.now());
                self.kept.lock().unwrap_or_else(PoisonError::into_inner).extend(outcome);
            }
            other => other.refuse(OutboxError::Unreachable(reason.into())),
        }
    }
}

/// Handles a notification of another instance.
#[derive(Default)]
struct Heard {
    changed: BTreeSet<QueueKey>,
    active: Vec<i64>,
    is_asked: bool,
}

impl Heard {
    fn note(&mut self, notification: &Notification) {
        match notification {
            Notification::Changed(key) => {
                self.changed.insert(*key);
            }
            Notification::Active(seq) => self.active.push(*seq),
            Notification::Asked => self.is_asked = true,
        }
    }
}

fn send(notifications: &Notifications, notification: Notification) {
    // If its task has ended, the others find the changes by polling.
    drop(notifications.send.send(notification));
}

impl Writer {
    /// Skips what was stored before, which is known.
    fn look_from_now(&self) {
        *self.looked_for.lock().unwrap_or_else(PoisonError::into_inner) = (i64::MAX, None);
    }

    /// Reads callbacks that any instance stored since the last call, including those that were committed
    /// after others with a later seq.
    async fn fresh(&self) -> Result<()> {
        let (from, known) = *self.looked_for.lock().unwrap_or_else(PoisonError::into_inner);
        let row = self.query_one(&self.statements.fresh, &[&from]).await?;
        let (count, last): (i64, Option<i64>) = (row.get("count"), row.get("last"));
        let next = last.unwrap_or(0).saturating_sub(LATE).max(0);
        // The number of callbacks after the next position is not known yet, unless the position is the same.
        let known_next = if next == from { Some(count) } else { None };
        *self.looked_for.lock().unwrap_or_else(PoisonError::into_inner) = (next, known_next);
        if known == Some(count) {
            return Ok(());
        }
        let own = self.own_shards();
        let found = self.query(&self.statements.recent, &[&from, &own]).await?;
        // A callback that cannot be read is reported when its queue is filled.
        self.made_active(found.iter().filter_map(|row| record(row).ok()).collect());
        Ok(())
    }

    /// This instance's destinations with pending callbacks.
    async fn all_pending(&self) -> Result<BTreeSet<QueueKey>> {
        let own = self.own_shards();
        Ok(keys_of(&self.query(&self.statements.all_pending, &[&own]).await?))
    }

    /// The shards of this instance, as an argument of a statement.
    pub(super) fn own_shards(&self) -> Vec<i64> {
        self.queues.lock().own_shards().into_iter().map(i64::from).collect()
    }

    /// Reads this instance's queues again whose rows another instance has changed.
    async fn read_again(&self, changed: &BTreeSet<QueueKey>) -> Result<()> {
        let own: Vec<_> = {
            let inner = self.queues.lock();
            changed.iter().filter(|key| inner.owns(**key)).map(|key| big(key.0)).collect()
        };
        self.reload(&own).await
    }

    /// Removes destinations without callbacks, and instances that have left.
    async fn forget(&self) -> Result<()> {
        let now = self.now();
        let (class, first) = (class_of(&self.salt), INSTANCE_LOCKS);
        let args: [&(dyn ToSql + Sync); 4] =
            [&millis(now), &millis(now.before(FORGOTTEN_AFTER)), &class, &first];
        self.query(&self.statements.forget, &args).await.map(drop)
    }

    /// Releases all shards, because the store is closed.
    async fn let_go_all(&self) -> Result<()> {
        self.store_open().await?;
        // The outcomes of callbacks that are in flight now will not be recorded, so their shards are not
        // released in order.
        self.let_go(0).await
    }
}

fn keys_of(found: &[tokio_postgres::Row]) -> BTreeSet<QueueKey> {
    let keys = found.iter().filter_map(|row| row.get::<_, Option<i64>>("queue"));
    keys.map(|key| QueueKey(unbig(key))).collect()
}
