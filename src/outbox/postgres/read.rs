//! Look-ups, listings and export, on a connection of their own.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{
    notices::Notice,
    queues::Queues,
    rows::{self, big, millis},
    session::{CALL_TIMEOUT, Connection, Connector, away},
    settings::Settings,
};
use crate::{
    callback::CallbackId,
    clock::{SharedClock, Timestamp},
    outbox::{
        Attempt, CallbackStatus, Delivered, Detail, Entry, ExportCursor, Exported, OutboxError,
        Page, Query, Record, StateName,
        error::Result,
        horizon::Horizon,
        ids::{self, QueueKey},
        record,
    },
};

/// Number of callbacks that are searched for one page.
const LIST_SCAN_LIMIT: i64 = 10_000;

/// Number of callbacks that one step of an export reads.
const EXPORT_STEP: i64 = 1000;

/// Number of delivered callbacks that are counted by minute.
const DELIVERED_LIMIT: i64 = 500_000;

/// An argument of a read. Its type is named, because reads prepare nothing: a pooler in transaction mode may
/// run each on another connection.
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
    notices: mpsc::UnboundedSender<Notice>,
    clock: SharedClock,
}

impl Reads {
    pub(super) fn new(
        connector: Arc<Connector>,
        queues: Arc<Queues>,
        salt: [u8; 16],
        node: String,
        settings: &Settings,
        notices: mpsc::UnboundedSender<Notice>,
        clock: SharedClock,
    ) -> Self {
        let connection = Mutex::new(None);
        let longest_pause = settings.longest_pause;
        Self { connector, connection, queues, salt, node, longest_pause, notices, clock }
    }

    /// Tells the other instances that something was asked.
    pub(super) fn notify_asked(&self) {
        // Without the task of the notices, they look by themselves.
        drop(self.notices.send(Notice::Asked));
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

    fn status(&self, row: &Row) -> Result<CallbackStatus> {
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
        let now = self.clock.now();
        let horizon = Horizon { now, latest: now.after(self.longest_pause) };
        let hold_until = Some(rows::time(row.get("hold_until")));
        let hold_until = hold_until.filter(|until| is_pending && horizon.is_later(*until));
        Ok(CallbackStatus { record, waiting_for, in_flight, paused, open, hold_until, stuck })
    }

    /// One page of a listing. The callbacks of the narrowest index are searched in order, up to a limit.
    pub(super) async fn list(&self, query: Query) -> Result<Page> {
        let limit = i64::try_from(query.limit.max(1)).unwrap_or(i64::MAX);
        let key =
            query.destination.as_ref().map(|it| Arg::Long(big(QueueKey::of(&self.salt, it).0)));
        let status = query.state.map(rows::status).map(Arg::Short);
        let job = query.job_id.as_deref().map(str::as_bytes).map(Arg::Bytes);
        let directory = query.job_id_fs.as_deref().map(str::as_bytes).map(Arg::Bytes);
        let kind = query.error_kind.map(rows::kind).map(Arg::Short);
        let time = |at: Option<Timestamp>| at.map(millis).map(Arg::Long);
        let cursor = query.cursor.map(|id| rows::parts(id).0).map(Arg::Long);
        let (order, after) = if query.oldest_first { ("ASC", ">") } else { ("DESC", "<") };
        let mut args = Vec::new();
        let mut conditions = Vec::new();
        let mut and = |text: &str, arg| {
            args.push(arg);
            conditions.push(format!("{text} ${}", args.len()));
        };
        // What is searched; the other filters apply to what is found.
        if let Some(cursor) = cursor {
            and(&format!("s.seq {after}"), cursor);
        }
        let table = match (job, directory, status) {
            (Some(job), ..) => {
                and("s.job =", job);
                "callback"
            }
            (None, Some(directory), _) => {
                and("s.directory =", directory);
                "callback"
            }
            (None, None, Some(status)) => {
                and("s.status =", status);
                key.into_iter().for_each(|key| and("s.queue =", key));
                "progress"
            }
            (None, None, None) => "progress",
        };
        let narrowed = conditions.len();
        let filters = [
            ("p.status =", status),
            ("p.queue =", key),
            ("p.error_kind =", kind),
            ("c.directory =", directory),
            ("c.created_at >=", time(query.since)),
            ("c.created_at <", time(query.until)),
            ("p.ended_at >=", time(query.ended_since)),
            ("p.ended_at <", time(query.ended_until)),
        ];
        for (text, arg) in filters {
            if let Some(arg) = arg {
                args.push(arg);
                conditions.push(format!("{text} ${}", args.len()));
            }
        }
        args.push(Arg::Long(limit));
        let (narrow, filter) = conditions.split_at(narrowed);
        let source = format!(
            "SELECT s.seq FROM @schema@.{table} s {} ORDER BY s.seq {order} LIMIT {LIST_SCAN_LIMIT}",
            all_of(narrow)
        );
        let sql = format!(
            "{} JOIN ({source}) AS s ON s.seq = p.seq {} ORDER BY p.seq {order} LIMIT ${}",
            selected(),
            all_of(filter),
            args.len()
        );
        let found = self.query(&sql, &args).await?;
        let mut page = Page::default();
        for row in &found {
            match self.status(row) {
                Ok(status) => page.callbacks.push(status),
                // One that cannot be read does not hide the others.
                Err(OutboxError::UnreadableRow { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if found.len() >= query.limit.max(1) {
            page.next = found.last().map(|row| rows::id(row.get("seq"), row.get("queue")));
        } else {
            // Was it the end, or the limit of the search?
            let end = if query.oldest_first { "max" } else { "min" };
            let sql = format!("SELECT count(*), {end}(s.seq) AS seq FROM ({source}) AS s");
            let row = self.query(&sql, &args[..narrowed]).await?;
            let row = row.first();
            if row.is_some_and(|row| row.get::<_, i64>(0) >= LIST_SCAN_LIMIT) {
                // Only the position matters in a cursor.
                page.next = row.map(|row| rows::id(row.get("seq"), 0));
            }
        }
        Ok(page)
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

/// The clause of these conditions.
fn all_of(conditions: &[String]) -> String {
    if conditions.is_empty() {
        String::new()
    } else {
        format!("WHERE {}", conditions.join(" AND "))
    }
}

/// Callbacks with what they wait for: the previous pending one of the job, or else the active one.
fn selected() -> String {
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
