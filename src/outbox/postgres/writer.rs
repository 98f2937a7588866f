//! The writer: the one task that makes all writes, on one session.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_postgres::Statement;

use super::{
    Settings,
    clock::{RESYNC, ServerClock},
    command::{Command, Round},
    lane::{BEGIN, Lane, Place, ReadAhead},
    lanes::{Claimant, Lanes},
    rows::{self, big, millis, time, unbig},
    schema::{self, Purpose, SchemaError},
    session::{CALL_TIMEOUT, Connection, Connector, away},
};
use crate::{
    callback::Destination,
    clock::{SharedClock, Timestamp},
    outbox::{OutboxError, error::Result, ids::QueueKey},
};

/// Pause between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Maximum number of lanes that are filled with one query.
const FILLED_AT_ONCE: usize = 64;

/// The statements of a session.
pub(super) struct Statements {
    pub(super) enqueue: Statement,
    pub(super) settle: Statement,
    pub(super) records: Statement,
    pub(super) replay: Statement,
    pub(super) fail: Statement,
    pub(super) retry_now: Statement,
    pub(super) pause: Statement,
    pub(super) old: Statement,
    pub(super) purge: Statement,
    pub(super) mend: Statement,
    pub(super) import: Statement,
    pub(super) pending: Statement,
    fill: Statement,
    lanes: Statement,
}

impl Statements {
    async fn prepare(connection: &Connection, connector: &Connector) -> Result<Self> {
        let client = &connection.client;
        let prepare = async |text: &str| client.prepare(&connector.sql(text)).await.map_err(away);
        let call = async |name: &str, count: usize| {
            let args: Vec<_> = (1..=count).map(|at| format!("${at}")).collect();
            prepare(&format!("SELECT * FROM @schema@.{name}({})", args.join(", "))).await
        };
        let from = format!(
            "SELECT {} FROM @schema@.progress p JOIN @schema@.callback c ON c.seq = p.seq \
             JOIN @schema@.destination d ON d.queue = p.queue",
            rows::COLUMNS
        );
        Ok(Self {
            enqueue: call("enqueue_v1", 11).await?,
            settle: call("settle_v1", 15).await?,
            replay: call("replay_v1", 5).await?,
            fail: call("fail_v1", 7).await?,
            retry_now: call("retry_now_v1", 4).await?,
            pause: call("pause_v1", 4).await?,
            purge: call("purge_v1", 4).await?,
            mend: call("mend_v1", 3).await?,
            import: call("import_v1", 24).await?,
            records: prepare(&format!("{from} WHERE p.seq = ANY ($1) ORDER BY p.seq")).await?,
            pending: prepare("SELECT coalesce(sum(pending), 0)::bigint FROM @schema@.total").await?,
            old: prepare(
                "SELECT p.seq, p.queue FROM @schema@.destination d CROSS JOIN LATERAL ( \
                    SELECT seq, queue FROM @schema@.progress \
                    WHERE queue = d.queue AND status = 0 AND budget_since < $1 AND NOT seq = ANY ($2) \
                    ORDER BY budget_since, seq LIMIT $3) p \
                 WHERE d.paused_at IS NULL AND d.resumed_at < $1 LIMIT $3",
            )
            .await?,
            fill: prepare(&format!(
                "SELECT {} FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS q (queue, due, seq) \
                 CROSS JOIN LATERAL ( \
                    SELECT * FROM @schema@.progress \
                    WHERE queue = q.queue AND readiness < 2 AND (due, seq) > (q.due, q.seq) \
                    ORDER BY due, seq LIMIT $4) p \
                 JOIN @schema@.callback c ON c.seq = p.seq \
                 JOIN @schema@.destination d ON d.queue = p.queue \
                 ORDER BY p.queue, p.due, p.seq",
                rows::COLUMNS
            ))
            .await?,
            lanes: prepare(
                "SELECT d.queue, d.name, d.hold_until, d.paused_at, d.resumed_at, coalesce(t.pending, 0)::bigint AS pending \
                 FROM @schema@.destination d LEFT JOIN LATERAL ( \
                    SELECT sum(pending) AS pending FROM @schema@.tally WHERE queue = d.queue) t ON true \
                 WHERE $1::bigint[] IS NULL OR d.queue = ANY ($1)",
            )
            .await?,
        })
    }
}

/// The writer of one session.
pub(super) struct Writer {
    pub(super) settings: Arc<Settings>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) session: Connection,
    pub(super) statements: Statements,
    /// The rows with this instance's counters.
    pub(super) slot: i32,
    clock: SharedClock,
    salt: [u8; 16],
}

impl Writer {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn salt(&self) -> [u8; 16] {
        self.salt
    }

    pub(super) fn queue(&self, destination: &Destination) -> QueueKey {
        QueueKey::of(&self.salt, destination)
    }

    /// Makes a round. Returns an error of the connection.
    async fn make(&self, round: Round) -> Result<()> {
        if let Some(action) = round.action {
            return self.act(action).await;
        }
        let again = self.enqueue(round.enqueues).await?;
        if again.is_empty() {
            if !round.settles.is_empty() {
                self.settle(round.settles).await?;
            }
            return Ok(());
        }
        // There may be no room for all events; then the order in which they were called decides.
        let mut commands: Vec<_> = again.into_iter().map(Command::Enqueue).collect();
        commands.extend(round.settles.into_iter().map(Command::Settle));
        commands.sort_by_key(Command::place);
        for command in commands {
            match command {
                Command::Enqueue(it) => self.enqueue_alone(it).await?,
                Command::Settle(it) => self.settle(vec![it]).await?,
                Command::Act(_) => {}
            }
        }
        Ok(())
    }

    /// Reads all lanes.
    async fn load(&self) -> Result<()> {
        let found = self
            .session
            .client
            .query(&self.statements.lanes, &[&None::<Vec<i64>>])
            .await
            .map_err(away)?;
        let mut first = Vec::new();
        {
            let mut inner = self.lanes.lock();
            inner.begin(Claimant::new(&self.lanes, self.session.open.clone()));
            for row in &found {
                let queue = QueueKey(unbig(row.get("queue")));
                let pending: i64 = row.get("pending");
                let destination = Destination::from_stored(row.get("name"));
                let mut lane =
                    if pending > 0 { Lane::unread(destination) } else { Lane::new(destination) };
                describe(&mut lane, row);
                inner.lanes.insert(queue, lane);
                if pending > 0 {
                    inner.signal(queue, Timestamp::default());
                    first.push((queue, BEGIN));
                }
            }
        }
        first.truncate(FILLED_AT_ONCE);
        self.fill(&first).await?;
        self.lanes.wake();
        Ok(())
    }

    /// Reads lanes again, of which rows have changed.
    pub(super) async fn reload(&self, queues: &[i64]) -> Result<()> {
        if queues.is_empty() {
            return Ok(());
        }
        let found = self
            .session
            .client
            .query(&self.statements.lanes, &[&Some(queues)])
            .await
            .map_err(away)?;
        let mut lanes = Vec::with_capacity(found.len());
        {
            let mut inner = self.lanes.lock();
            for row in &found {
                let queue = QueueKey(unbig(row.get("queue")));
                let destination = Destination::from_stored(row.get("name"));
                let lane = inner.lane(queue, &destination);
                describe(lane, row);
                lane.forget();
                lane.set_pending(row.get::<_, i64>("pending") > 0);
                lanes.push((queue, BEGIN));
            }
        }
        self.fill(&lanes).await?;
        self.lanes.wake();
        Ok(())
    }

    /// Reads the callbacks of these lanes after these places.
    async fn fill(&self, lanes: &[(QueueKey, Place)]) -> Result<()> {
        for some in lanes.chunks(FILLED_AT_ONCE) {
            let window = self.lanes.lock().window();
            let queues: Vec<_> = some.iter().map(|(queue, _)| big(queue.0)).collect();
            let due: Vec<_> = some.iter().map(|(_, (due, _))| millis(*due)).collect();
            let seqs: Vec<_> = some.iter().map(|(_, (_, seq))| big(*seq)).collect();
            let limit = i64::try_from(window).unwrap_or(i64::MAX);
            let found = self
                .session
                .client
                .query(&self.statements.fill, &[&queues, &due, &seqs, &limit])
                .await
                .map_err(away)?;
            let mut read: HashMap<i64, ReadAhead> = HashMap::new();
            for row in &found {
                let of = read.entry(row.get("queue")).or_default();
                of.count += 1;
                of.last = (time(row.get("due")), unbig(row.get("seq")));
                match rows::record(row) {
                    Ok(record) => of.callbacks.push((Lane::place(&record), Box::new(record))),
                    // It stays pending, and delays no other callback.
                    Err(error) => tracing::error!(
                        event.action = "callback-unreadable",
                        error.message = %error,
                        "a callback cannot be read, and is not sent"
                    ),
                }
            }
            let mut inner = self.lanes.lock();
            for (queue, _) in some {
                let read = read.remove(&big(queue.0)).unwrap_or_default();
                inner.filled(*queue, read, window);
            }
        }
        self.lanes.wake();
        Ok(())
    }
}

/// Takes over what the lane's row says.
fn describe(lane: &mut Lane, row: &tokio_postgres::Row) {
    lane.hold_until = time(row.get("hold_until"));
    lane.paused_at = row.get::<_, Option<i64>>("paused_at").map(time);
    lane.resumed_at = time(row.get("resumed_at"));
}

/// Begins sessions, and keeps one.
pub(super) struct Supervisor {
    pub(super) server_clock: Arc<ServerClock>,
    pub(super) settings: Arc<Settings>,
    pub(super) connector: Arc<Connector>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) clock: SharedClock,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
}

/// A session that has begun.
pub(super) struct Begun {
    pub(super) writer: Writer,
    pub(super) migrated: bool,
}

impl Supervisor {
    /// Connects, prepares the schema, and reads the lanes.
    pub(super) async fn begin(&self, purpose: Purpose) -> std::result::Result<Begun, BeginError> {
        let session = self.connector.connect().await?;
        self.server_clock.set(&session.client).await?;
        let schema = schema::prepare(&session.client, &self.connector, purpose).await?;
        let statements = Statements::prepare(&session, &self.connector).await?;
        let writer = Writer {
            settings: Arc::clone(&self.settings),
            lanes: Arc::clone(&self.lanes),
            session,
            statements,
            slot: 0,
            clock: Arc::clone(&self.clock),
            salt: schema.salt,
        };
        writer.load().await?;
        Ok(Begun { writer, migrated: schema.migrated })
    }

    /// Makes writes until the store is closed.
    pub(super) async fn run(mut self, mut writer: Writer) {
        let mut waiting = VecDeque::new();
        while let Err(error) = self.serve(&writer, &mut waiting).await {
            tracing::error!(
                event.action = "store-disconnected",
                error.message = %error,
                "the connection to the store broke"
            );
            drop(writer);
            self.lanes.lock().lose_all();
            self.lanes.wake();
            for command in waiting.drain(..) {
                command.refuse(OutboxError::Unreachable(error.to_string().into()));
            }
            match self.reconnect(error).await {
                Some(begun) => writer = begun,
                None => return,
            }
        }
    }

    /// Makes writes on one session. Returns when the store is closed, or an error when the session is
    /// broken.
    async fn serve(&mut self, writer: &Writer, waiting: &mut VecDeque<Command>) -> Result<()> {
        let mut open = writer.session.open.clone();
        let mut resync = tokio::time::interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if waiting.is_empty() {
                tokio::select! {
                    command = self.commands.recv() => match command {
                        Some(command) => waiting.push_back(command),
                        None => return Ok(()),
                    },
                    () = self.lanes.fill.notified() => {}
                    _ = resync.tick() => self.server_clock.set(&writer.session.client).await?,
                    _ = open.wait_for(|open| !*open) => {
                        return Err(OutboxError::Unreachable("the server closed the connection".into()));
                    }
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                waiting.push_back(command);
            }
            let round = Round::take(waiting);
            let made = async {
                writer.make(round).await?;
                writer.fill(&self.lanes.take_wanted()).await
            };
            match tokio::time::timeout(CALL_TIMEOUT, made).await {
                Ok(made) => made?,
                Err(_) => return Err(OutboxError::Unsure("no answer from the database".into())),
            }
        }
    }

    /// Connects again; `None` if the store is closed meanwhile.
    async fn reconnect(&mut self, broken: OutboxError) -> Option<Writer> {
        let mut reason = broken.to_string();
        loop {
            let pause = Instant::now() + RECONNECT_PAUSE;
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(pause.into()) => break,
                    command = self.commands.recv() => {
                        command?.refuse(OutboxError::Unreachable(reason.as_str().into()));
                    }
                }
            }
            match tokio::time::timeout(CALL_TIMEOUT, self.begin(Purpose::Use)).await {
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
        }
    }
}

/// Why a session cannot begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    #[error("{0}")]
    Schema(#[from] SchemaError),
    #[error("{0}")]
    Database(#[from] OutboxError),
}
