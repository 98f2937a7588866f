//! Reading queues: all queues of a shard when it is taken, and the next callbacks of a queue.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;

use super::{
    queue::{BEGIN, Place, Queue, ReadAhead},
    rows::{self, big, millis, time, unbig},
    writer::Writer,
};
use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{
        Readiness, Record, State,
        error::Result,
        ids::{self, QueueKey},
    },
};

/// Maximum number of queues that are filled with one query.
const FILLED_AT_ONCE: usize = 64;

impl Writer {
    /// Reads the queues of shards. The first ones are filled at once.
    pub(super) async fn load(&self, shards: &[i32]) -> Result<()> {
        let args: [&(dyn ToSql + Sync); 2] = [&None::<Vec<i64>>, &Some(shards)];
        let found = self.query(&self.statements.queues, &args).await?;
        let mut first = Vec::new();
        {
            let mut inner = self.queues.lock();
            for row in &found {
                let key = QueueKey(unbig(row.get("queue")));
                let pending: i64 = row.get("pending");
                let destination = Destination::from_stored(row.get("name"));
                let mut queue =
                    if pending > 0 { Queue::unread(destination) } else { Queue::new(destination) };
                describe(&mut queue, row);
                inner.queues.insert(key, queue);
                if pending > 0 {
                    if let Some(open) = rows::open(row) {
                        inner.take_over(key, open);
                    }
                    inner.signal(key, Timestamp::default());
                    first.push((key, BEGIN));
                }
            }
        }
        first.truncate(FILLED_AT_ONCE);
        self.fill(&first).await?;
        self.queues.wake();
        Ok(())
    }

    /// Reads queues again whose rows have changed.
    pub(super) async fn reload(&self, keys: &[i64]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let found = self.query(&self.statements.queues, &[&Some(keys), &None::<Vec<i32>>]).await?;
        let mut queues = Vec::with_capacity(found.len());
        let now = self.now();
        {
            let mut inner = self.queues.lock();
            for row in &found {
                let key = QueueKey(unbig(row.get("queue")));
                let destination = Destination::from_stored(row.get("name"));
                let Some(queue) = inner.queue(key, &destination) else { continue };
                describe(queue, row);
                queue.forget();
                queues.push((key, queue.begin(now)));
                let has_pending = row.get::<_, i64>("pending") > 0;
                inner.set_pending(key, has_pending);
            }
        }
        self.fill(&queues).await?;
        self.queues.wake();
        Ok(())
    }

    /// Reads callbacks of own queues that were made active by another instance.
    pub(super) async fn load_active(&self, seqs: &[i64]) -> Result<()> {
        let records = self.records(seqs).await?;
        self.made_active(records);
        Ok(())
    }

    /// Adds callbacks to their queues, if this instance owns them and they are still active.
    pub(super) fn made_active(&self, records: Vec<Record>) {
        let mut inner = self.queues.lock();
        for record in records {
            let key = ids::parts(record.id).1;
            let is_active =
                matches!(record.state, State::Pending(Readiness::Fresh | Readiness::Scheduled(_)));
            if is_active && inner.owns(key) {
                inner.activated(key, record);
            }
        }
        drop(inner);
        self.queues.wake();
    }

    /// Reads the callbacks of these queues after these positions.
    pub(super) async fn fill(&self, queues: &[(QueueKey, Place)]) -> Result<()> {
        for some in queues.chunks(FILLED_AT_ONCE) {
            let (window, now) = (self.queues.lock().window(), self.now());
            let keys: Vec<_> = some.iter().map(|(key, _)| big(key.0)).collect();
            let due: Vec<_> = some.iter().map(|(_, (due, _))| millis(*due)).collect();
            let seqs: Vec<_> = some.iter().map(|(_, (_, seq))| big(*seq)).collect();
            let limit = i64::try_from(window).unwrap_or(i64::MAX);
            let args: [&(dyn ToSql + Sync); 4] = [&keys, &due, &seqs, &limit];
            let found = self.query(&self.statements.fill, &args).await?;
            let mut read: HashMap<i64, ReadAhead> = HashMap::new();
            for row in &found {
                let of = read.entry(row.get("queue")).or_default();
                of.count += 1;
                of.last = (time(row.get("due")), unbig(row.get("seq")));
                match rows::record(row) {
                    Ok(record) => of.callbacks.push((Queue::place(&record), Box::new(record))),
                    // It stays pending and does not delay other callbacks.
                    Err(error) => tracing::error!(
                        event.action = "callback-unreadable",
                        error.message = %error,
                        "a callback cannot be read, and is not sent"
                    ),
                }
            }
            let mut inner = self.queues.lock();
            for (key, from) in some {
                let read = read.remove(&big(key.0)).unwrap_or_default();
                inner.filled((*key, *from), read, window, now);
            }
        }
        self.queues.wake();
        Ok(())
    }
}

/// Applies the state in the queue's row.
fn describe(queue: &mut Queue, row: &tokio_postgres::Row) {
    queue.hold_until = time(row.get("hold_until"));
    queue.paused_at = row.get::<_, Option<i64>>("paused_at").map(time);
    queue.resumed_at = time(row.get("resumed_at"));
}
