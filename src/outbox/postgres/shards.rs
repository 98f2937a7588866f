//! Which shards this instance owns.
//!
//! A shard belongs to the session that holds its advisory lock; PostgreSQL is the lock manager. The row of a
//! shard records its last owner, and whether it was released in order. If it was not, the new owner waits
//! until a previous owner that does not know of the loss yet has stopped.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use super::{
    claimant::uptime,
    rows::{self, big, millis},
    shard::{SHARDS, ShardState},
    writer::Writer,
};
use crate::{
    clock::Timestamp,
    measure,
    outbox::{Open, OutboxError, error::Result},
};

/// Pause between two heartbeats.
pub(super) const BEAT: Duration = Duration::from_secs(2);

/// How long a new owner waits before using a shard that was not released in order. The previous owner drops
/// its attempts 17 seconds after its latest answer.
const TAKEOVER_WAIT: Duration = Duration::from_secs(20);

/// How long after the beginning of a session an instance takes no shards of others, so that after an outage
/// of the database each gets its own back.
const PATIENCE: Duration = Duration::from_secs(10);

/// The second keys of the locks of identities, of instances and of commands. They follow those of the shards.
pub(super) const INSTANCE_LOCKS: i32 = 1000;
const COMMAND_LOCKS: i32 = 1_000_000;

/// The number of a shard in its row.
fn number(shard: usize) -> i32 {
    i32::try_from(shard).unwrap_or(0)
}

/// A row of `shard`.
struct Row {
    id: usize,
    is_mine: bool,
    clean: bool,
}

impl Writer {
    /// Sends the heartbeat of this instance, takes shards that it should own, and releases those that it
    /// should not.
    pub(super) async fn beat(&self) -> Result<()> {
        let now = millis(self.now());
        self.query(&self.statements.beat, &[&self.slot, &now]).await?;
        // An instance is alive as long as its session, which holds the lock of its identity.
        let args: [&(dyn ToSql + Sync); 3] =
            [&rows::class_of(&self.salt), &INSTANCE_LOCKS, &COMMAND_LOCKS];
        let row = self.query_one(&self.statements.live, &args).await?;
        let live = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        self.queues.lock().is_alone = live <= 1;
        let target = if self.takes_shards(live) { SHARDS.div_ceil(live.max(1)) } else { 0 };
        self.finish_waiting().await?;
        self.store_open().await?;
        self.let_go(target).await?;
        self.take(target).await
    }

    /// Stores which breakers have opened or closed, for the next owner.
    pub(super) async fn store_open(&self) -> Result<()> {
        let opened = std::mem::take(&mut self.queues.lock().opened);
        if opened.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = opened.keys().map(|key| big(key.0)).collect();
        let times = |of: fn(&Open) -> Timestamp| -> Vec<Option<i64>> {
            opened.values().map(|open| open.as_ref().map(of).map(millis)).collect()
        };
        let (since, probes) = (times(|it| it.since), times(|it| it.next_probe_at));
        self.query(&self.statements.open, &[&keys, &since, &probes]).await.map(drop)
    }

    /// A command takes shards only if no instance is running.
    fn takes_shards(&self, live: usize) -> bool {
        !self.is_command || live == 0
    }

    /// Takes unowned shards, up to `target`.
    async fn take(&self, target: usize) -> Result<()> {
        let mut owned = self.queues.lock().shards_owned();
        if owned >= target && self.has_nothing_kept() {
            return Ok(());
        }
        let rows = self.shard_rows().await?;
        let is_patient = uptime().saturating_sub(self.began) < PATIENCE;
        // Its previous shards first. The others from a different offset for each instance, so that instances
        // that start together do not try the same ones.
        let begin = self.slot.unsigned_abs() as usize * 23;
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by_key(|row| (!row.is_mine, (row.id + SHARDS - begin % SHARDS) % SHARDS));
        for row in rows.iter().filter(|row| !row.is_mine) {
            for outcome in self.take_kept(row.id) {
                measure::outcome_refused();
                outcome.refuse(OutboxError::Lost);
            }
        }
        let mut locked = Vec::new();
        for row in rows {
            if owned >= target {
                break;
            }
            let is_foreign = self.queues.lock().shards[row.id] == ShardState::Foreign;
            let may_take = row.is_mine || row.clean || !is_patient;
            if is_foreign && may_take && self.try_lock(number(row.id)).await? {
                owned += 1;
                locked.push(row.id);
            }
        }
        if locked.is_empty() {
            return Ok(());
        }
        // Read them again, because they may have changed before they were locked.
        let mut rows = self.shard_rows().await?;
        rows.retain(|row| locked.contains(&row.id));
        // No other instance has delivered to these since.
        let mine = rows.iter().filter(|row| row.is_mine);
        let kept = mine.flat_map(|row| self.take_kept(row.id)).collect();
        self.settle_decided(kept).await?;
        let (at_once, later): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| row.is_mine || row.clean);
        {
            let mut inner = self.queues.lock();
            let until = uptime() + TAKEOVER_WAIT;
            later.iter().for_each(|row| inner.shards[row.id] = ShardState::Waiting(until));
        }
        self.own(&at_once.iter().map(|row| row.id).collect::<Vec<_>>()).await
    }

    /// Begins with shards whose wait is over.
    async fn finish_waiting(&self) -> Result<()> {
        let over =
            |state: &ShardState| matches!(state, ShardState::Waiting(until) if *until <= uptime());
        let ready: Vec<_> = {
            let inner = self.queues.lock();
            (0..SHARDS).filter(|shard| over(&inner.shards[*shard])).collect()
        };
        self.own(&ready).await?;
        if !ready.is_empty() {
            tracing::warn!(
                event.action = "shards-taken-over",
                shard.count = ready.len(),
                "took over shards of an instance that is gone"
            );
            measure::shards_taken_over(ready.len());
        }
        Ok(())
    }

    /// Becomes the owner of shards that are locked.
    async fn own(&self, shards: &[usize]) -> Result<()> {
        if shards.is_empty() {
            return Ok(());
        }
        let numbers: Vec<_> = shards.iter().map(|shard| number(*shard)).collect();
        self.query(&self.statements.own, &[&numbers, &self.slot]).await?;
        {
            let mut inner = self.queues.lock();
            shards.iter().for_each(|shard| inner.shards[*shard] = ShardState::Owned);
        }
        self.load(&numbers).await
    }

    /// Releases shards until `target` are left: nothing more is claimed from them, and each is unlocked when
    /// nothing of it is in flight.
    pub(super) async fn let_go(&self, target: usize) -> Result<()> {
        let drained: Vec<_> = {
            let mut inner = self.queues.lock();
            let mut owned = inner.shards_owned();
            for shard in (0..SHARDS).rev() {
                if owned <= target {
                    break;
                }
                if matches!(inner.shards[shard], ShardState::Owned | ShardState::Waiting(_)) {
                    inner.shards[shard] = ShardState::Draining;
                    owned -= 1;
                }
            }
            (0..SHARDS).filter(|shard| inner.is_drained(*shard)).collect()
        };
        for shard in drained {
            let id = number(shard);
            let args: [&(dyn ToSql + Sync); 2] = [&id, &self.slot];
            self.query(&self.statements.let_go, &args).await?;
            self.queues.lock().lose(shard);
            self.queues.wake();
            let args: [&(dyn ToSql + Sync); 2] = [&rows::class_of(&self.salt), &id];
            self.query(&self.statements.unlock, &args).await?;
        }
        Ok(())
    }

    async fn shard_rows(&self) -> Result<Vec<Row>> {
        let found = self.query(&self.statements.shards, &[&self.slot]).await?;
        let row = |row: &tokio_postgres::Row| Row {
            id: usize::try_from(row.get::<_, i32>("id")).unwrap_or(0) % SHARDS,
            is_mine: row.get("is_mine"),
            clean: row.get("clean"),
        };
        Ok(found.iter().map(row).collect())
    }

    /// Locks the identity of this instance; `false` if another session has it.
    pub(super) async fn lock_identity(&self) -> Result<bool> {
        let first = if self.is_command { COMMAND_LOCKS } else { INSTANCE_LOCKS };
        self.try_lock(first.saturating_add(self.slot)).await
    }

    async fn try_lock(&self, key: i32) -> Result<bool> {
        let args: [&(dyn ToSql + Sync); 2] = [&rows::class_of(&self.salt), &key];
        Ok(self.query_one(&self.statements.lock, &args).await?.get(0))
    }
}
