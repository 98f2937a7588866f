//! Look-ups and export, on a separate connection.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{
    notifications::Notification,
    queues::Queues,
    rows::{self, millis},
    session::{CALL_TIMEOUT, Connection, Connector, away},
    settings::Settings,
};
use crate::{
    callback::CallbackId,
    clock::{SharedClock, Timestamp},
    outbox::{
        Attempt, CallbackStatus, Delivered, Detail, Entry, ExportCursor, Exported, OutboxError,
        Record, Stage, StateName, error::Result, horizon::Horizon, ids, record,
    },
};

/// Number of callbacks that one step of an export reads.
const EXPORT_STEP: i64 = 1000;

/// Maximum number of delivered callbacks that are counted by minute.
const DELIVERED_LIMIT: i64 = 500_000;

/// An argument of a read. Its type is given explicitly, because reads use no prepared statements: a pooler in
/// transaction mode may run each read on another connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    Short(i16),
    Int(i32),
    Long(i64),
    Longs(&'a [i64]),
    Bytes(&'a [u8]),
}

impl Arg<'_> {
    fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Short(it) => (it, Type::INT2),
            Self::Int(it) => (it, Type::INT4),
            Self::Long(it) => (it, Type::INT8),
            Self::Longs(it) => (it, Type::INT8_ARRAY),
            Self::Bytes(it) => (it, Type::BYTEA),
        }
    }
}

/// The reads of a store.
pub(super) struct Reads {
    connector: Arc<Connector>,
    connection: Mutex<Option<Arc<Connection>>>,
    pub(super) queues: Arc<Queues>,
    pub(super) salt: [u8; 16],
    /// The identity of this instance.
    pub(super) node: String,
    pub(super) longest_pause: std::time::Duration,
    notifications: mpsc::UnboundedSender<Notification>,
    clock: SharedClock,
}

impl Reads {
    pub(super) fn new(
        connector: Arc<Connector>,
        queues: Arc<Queues>,
        salt: [u8; 16],
        node: String,
        settings: &Settings,
        notifications: mpsc::UnboundedSender<Notification>,
        clock: SharedClock,
    ) -> Self {
        let connection = Mutex::new(None);
        let longest_pause = settings.common.longest_pause;
        Self { connector, connection, queues, salt, node, longest_pause, notifications, clock }
    }

    /// Notifies the other instances that a question was asked.
    pub(super) fn notify_asked(&self) {
        // If the task of the notifications has ended, they find the question by polling.
        drop(self.notifications.send(Notification::Asked));
    }

    /// The rows of a query.
    pub(super) async fn query(&self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        let run = async {
            let connection = self.connection().await?;
            let args: Vec<_> = args.iter().map(Arg::typed).collect();
            connection.client.query_typed(&self.connector.sql(sql), &args).await.map_err(away)
        };
        let late = || OutboxError::Unreachable("no answer from the database".into());
        tokio::time::timeout(CALL_TIMEOUT, run).await.unwrap_or_else(|_| Err(late()))
    }

    async fn connection(&self) -> Result<Arc<Connection>> {
        let mut current = self.connection.lock().await;
        match &*current {
            Some(connection) if !connection.client.is_closed() => Ok(Arc::clone(connection)),
            _ => {
                let connection = Arc::new(self.connector.connect().await?);
                let sql = self.connector.sql("SELECT salt FROM @schema@.meta");
                let salt = connection.client.query_typed_one(&sql, &[]).await.map_err(away)?;
                if salt.get::<_, &[u8]>(0) != self.salt {
                    return Err(OutboxError::Unreachable("another database has answered".into()));
                }
                *current = Some(Arc::clone(&connection));
                Ok(connection)
            }
        }
    }

    /// One callback with its attempts.
    pub(super) async fn get(&self, id: CallbackId) -> Result<Option<Detail>> {
        let (seq, key) = rows::parts(id);
        let sql = format!("{} WHERE p.seq = $1 AND p.queue = $2", selected());
        let found = self.query(&sql, &[Arg::Long(seq), Arg::Long(key)]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let status = self.status(row)?;
        let attempts = self.attempts(&[&status.record]).await?.pop().unwrap_or_default();
        Ok(Some(Detail { status, attempts }))
    }

    /// The attempts of each of these callbacks, in order.
    async fn attempts(&self, records: &[&Record]) -> Result<Vec<Vec<Attempt>>> {
        let seqs: Vec<_> = records.iter().map(|it| rows::parts(it.id).0).collect();
        let sql =
            "SELECT seq, attempt FROM @schema@.attempt WHERE seq = ANY ($1) ORDER BY seq, number";
        let mut before = std::collections::HashMap::<i64, Vec<Attempt>>::new();
        if records.iter().any(|it| it.attempt_count > 1) {
            for row in self.query(sql, &[Arg::Longs(&seqs)]).await? {
                let attempt = record::decode(row.get("attempt"))?;
                before.entry(row.get("seq")).or_default().push(attempt);
            }
        }
        let all = records.iter().zip(&seqs).map(|(record, seq)| {
            let mut attempts = before.remove(seq).unwrap_or_default();
            attempts.extend(record.last_attempt.clone());
            attempts.dedup_by_key(|attempt| attempt.number);
            attempts
        });
        Ok(all.collect())
    }

    pub(super) fn horizon(&self) -> Horizon {
        let now = self.clock.now();
        Horizon { now, latest: now.after(self.longest_pause) }
    }

    pub(super) fn status(&self, row: &Row) -> Result<CallbackStatus> {
        let record = rows::record(row)?;
        let waiting_for =
            row.get::<_, Option<i64>>("waits_seq").map(|seq| rows::id(seq, row.get("waits_queue")));
        let stuck = record.is_blocked() && waiting_for.is_none();
        let (seq, key) = ids::parts(record.id);
        let is_pending = record.state_name() == StateName::Pending;
        let (mut in_flight, mut open) = (false, None);
        if is_pending && let Some(queue) = self.queues.lock().queues.get(&key) {
            (in_flight, open) = (queue.is_claimed(seq), queue.open());
        }
        let paused = is_pending && row.get::<_, Option<i64>>("paused_at").is_some();
        let horizon = self.horizon();
        let hold_until = Some(rows::time(row.get("hold_until")));
        let hold_until = hold_until.filter(|until| is_pending && horizon.is_later(*until));
        let stage = Stage::of(record.state, in_flight, horizon);
        Ok(CallbackStatus {
            record,
            waiting_for,
            in_flight,
            stage,
            paused,
            open,
            hold_until,
            stuck,
        })
    }

    /// One step of an export.
    pub(super) async fn export(&self, cursor: ExportCursor) -> Result<Exported> {
        let after = cursor.after.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes));
        let sql = format!("{} WHERE p.seq > $1 ORDER BY p.seq LIMIT $2", selected());
        let found = self.query(&sql, &[Arg::Long(after), Arg::Long(EXPORT_STEP)]).await?;
        let records = found.iter().map(rows::record).collect::<Result<Vec<_>>>()?;
        let attempts = self.attempts(&records.iter().collect::<Vec<_>>()).await?;
        let next = found.last().map(|row| {
            let seq: i64 = row.get("seq");
            ExportCursor { after: seq.to_be_bytes().to_vec() }
        });
        let entries = records
            .into_iter()
            .zip(attempts)
            .map(|(record, attempts)| Entry { record, attempts, uncertain: false })
            .collect();
        Ok(Exported { entries, next })
    }

    /// The number of callbacks delivered in each minute, as far back as the limit allows.
    pub(super) async fn delivered(&self, since: Timestamp) -> Result<Delivered> {
        let sql = "SELECT ended_at / 60000 AS minute, count(*), min(ended_at) AS first \
            FROM (SELECT ended_at FROM @schema@.progress WHERE status = 1 AND ended_at >= $1 \
                  ORDER BY ended_at DESC LIMIT $2) AS it GROUP BY 1 ORDER BY 1";
        let found =
            self.query(sql, &[Arg::Long(millis(since)), Arg::Long(DELIVERED_LIMIT)]).await?;
        let minutes: std::collections::BTreeMap<_, _> = found
            .iter()
            .map(|row| (rows::count(row.get("minute")), rows::count(row.get(1))))
            .collect();
        let counted: u64 = minutes.values().sum();
        let first = found.first().map(|row| rows::time(row.get("first")));
        let is_short = counted < rows::count(DELIVERED_LIMIT);
        let from = if is_short { since } else { first.unwrap_or(since) };
        Ok(Delivered { from, minutes })
    }
}

/// Callbacks with the one that they wait for: the previous pending one of the job, or else the active one.
pub(super) fn selected() -> String {
    format!(
        "SELECT {}, d.paused_at, d.hold_until, w.seq AS waits_seq, w.queue AS waits_queue \
         FROM @schema@.progress p JOIN @schema@.callback c ON c.seq = p.seq \
         JOIN @schema@.destination d ON d.queue = p.queue \
         LEFT JOIN LATERAL ( \
            SELECT b.seq, b.queue FROM ( \
                (SELECT b.seq, b.queue FROM @schema@.progress b \
                 WHERE b.job = p.job AND b.readiness = 2 AND b.seq < p.seq ORDER BY b.seq DESC LIMIT 1) \
                UNION ALL \
                (SELECT a.seq, a.queue FROM @schema@.progress a WHERE a.job = p.job AND a.readiness < 2)) AS b \
            WHERE p.readiness = 2 ORDER BY b.seq < p.seq DESC, b.seq DESC LIMIT 1) AS w ON true",
        rows::COLUMNS
    )
}
