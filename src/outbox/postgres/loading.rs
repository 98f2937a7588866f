//! Reading lanes: those of a shard when it is taken, and what comes next of a lane.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;

use super::{
    lane::{BEGIN, Lane, Place, ReadAhead},
    rows::{self, big, millis, time, unbig},
    writer::Writer,
};
use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{error::Result, ids::QueueKey},
};

/// Maximum number of lanes that are filled with one query.
const FILLED_AT_ONCE: usize = 64;

impl Writer {
    /// Reads the lanes of shards. The first ones are filled at once.
    pub(super) async fn load(&self, shards: &[i32]) -> Result<()> {
        let args: [&(dyn ToSql + Sync); 2] = [&None::<Vec<i64>>, &Some(shards)];
        let found = self.query(&self.statements.lanes, &args).await?;
        let mut first = Vec::new();
        {
            let mut inner = self.lanes.lock();
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
        let found = self.query(&self.statements.lanes, &[&Some(queues), &None::<Vec<i32>>]).await?;
        let mut lanes = Vec::with_capacity(found.len());
        {
            let mut inner = self.lanes.lock();
            for row in &found {
                let queue = QueueKey(unbig(row.get("queue")));
                let destination = Destination::from_stored(row.get("name"));
                let Some(lane) = inner.lane(queue, &destination) else { continue };
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
    pub(super) async fn fill(&self, lanes: &[(QueueKey, Place)]) -> Result<()> {
        for some in lanes.chunks(FILLED_AT_ONCE) {
            let window = self.lanes.lock().window();
            let queues: Vec<_> = some.iter().map(|(queue, _)| big(queue.0)).collect();
            let due: Vec<_> = some.iter().map(|(_, (due, _))| millis(*due)).collect();
            let seqs: Vec<_> = some.iter().map(|(_, (_, seq))| big(*seq)).collect();
            let limit = i64::try_from(window).unwrap_or(i64::MAX);
            let args: [&(dyn ToSql + Sync); 4] = [&queues, &due, &seqs, &limit];
            let found = self.query(&self.statements.fill, &args).await?;
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
