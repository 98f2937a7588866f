//! Which shards this instance owns.
//!
//! A shard belongs to the session that holds its advisory lock; PostgreSQL is the lock manager. The row of a
//! shard says who had it last, and whether it was let go in order. Who gets the lock of a shard that was not
//! waits until an old owner that does not know yet has stopped.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use super::{
    claimant::uptime,
    rows::{self, millis},
    shard::{SHARDS, ShardState},
    writer::Writer,
};
use crate::outbox::{OutboxError, error::Result};

/// Pause between two beats.
pub(super) const BEAT: Duration = Duration::from_secs(2);

/// How long a shard is left alone that was not let go in order. An old owner drops its attempts 17 seconds
/// after its last answer.
const TAKEOVER_WAIT: Duration = Duration::from_secs(20);

/// How long after the beginning of a session shards of other instances are left alone, so that after an
/// outage of the database each takes its own back.
const PATIENCE: Duration = Duration::from_secs(10);

/// The second keys of the locks of identities, after those of the shards: of instances, and of commands.
const INSTANCE_LOCKS: i32 = 1000;
const VISITOR_LOCKS: i32 = 1_000_000;

/// A row of `shard`.
struct Row {
    id: usize,
    is_mine: bool,
    clean: bool,
}

impl Writer {
    /// Says that this instance lives, takes shards that it should have, and lets go of those that it should
    /// not have.
    pub(super) async fn beat(&self) -> Result<()> {
        let now = millis(self.now());
        self.query(&self.statements.beat, &[&self.slot, &now]).await?;
        // An instance lives as long as its session, which has the lock of its identity.
        let args: [&(dyn ToSql + Sync); 3] =
            [&rows::class_of(&self.salt), &INSTANCE_LOCKS, &VISITOR_LOCKS];
        let row = self.query_one(&self.statements.live, &args).await?;
        let live = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        self.lanes.lock().is_alone = live <= 1;
        let target = if self.takes_shards(live) { SHARDS.div_ceil(live.max(1)) } else { 0 };
        self.finish_waiting().await?;
        self.let_go(target).await?;
        self.take(target).await
    }

    /// A visitor takes shards only where nobody else is there to act.
    fn takes_shards(&self, live: usize) -> bool {
        !self.is_visitor || live == 0
    }

    /// Takes shards that nobody has, up to `target`.
    async fn take(&self, target: usize) -> Result<()> {
        let mut owned = self.lanes.lock().shards_owned();
        if owned >= target && self.has_nothing_kept() {
            return Ok(());
        }
        let rows = self.shard_rows().await?;
        let is_patient = uptime().saturating_sub(self.began) < PATIENCE;
        // Its own ones first, and the others from a place of its own, so that instances that start together
        // do not try the same.
        let begin = self.slot.unsigned_abs() as usize * 23;
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by_key(|row| (!row.is_mine, (row.id + SHARDS - begin % SHARDS) % SHARDS));
        for row in rows.iter().filter(|row| !row.is_mine) {
            for outcome in self.take_kept(row.id) {
                outcome.refuse(OutboxError::Lost);
            }
        }
        for row in rows {
            if owned >= target {
                break;
            }
            let known = self.lanes.lock().shards[row.id];
            let at_once = row.is_mine || row.clean;
            if known != ShardState::Foreign || (!at_once && is_patient) {
                continue;
            }
            if !self.try_lock(i32::try_from(row.id).unwrap_or(0)).await? {
                continue;
            }
            owned += 1;
            // It may have changed before it was locked.
            let Some(row) = self.shard_rows().await?.into_iter().find(|it| it.id == row.id) else {
                continue;
            };
            if row.is_mine {
                // Nobody has delivered to it in the meantime.
                self.settle_decided(self.take_kept(row.id)).await?;
            }
            if row.is_mine || row.clean {
                self.own(row.id).await?;
            } else {
                self.lanes.lock().shards[row.id] = ShardState::Waiting(uptime() + TAKEOVER_WAIT);
            }
        }
        Ok(())
    }

    /// Begins with shards whose wait is over.
    async fn finish_waiting(&self) -> Result<()> {
        let over =
            |state: &ShardState| matches!(state, ShardState::Waiting(until) if *until <= uptime());
        let ready: Vec<_> = {
            let inner = self.lanes.lock();
            (0..SHARDS).filter(|shard| over(&inner.shards[*shard])).collect()
        };
        for shard in &ready {
            self.own(*shard).await?;
        }
        if !ready.is_empty() {
            tracing::warn!(
                event.action = "shards-taken-over",
                shard.count = ready.len(),
                "shards of an instance that is gone were taken over"
            );
        }
        Ok(())
    }

    /// Owns a shard that is locked.
    async fn own(&self, shard: usize) -> Result<()> {
        let id = i32::try_from(shard).unwrap_or(0);
        let args: [&(dyn ToSql + Sync); 2] = [&id, &self.slot];
        self.query(&self.statements.own, &args).await?;
        self.lanes.lock().shards[shard] = ShardState::Owned;
        self.load(shard).await?;
        self.lanes.wake();
        Ok(())
    }

    /// Lets go of shards until `target` are left: nothing more is claimed, and when nothing is in flight, it
    /// is unlocked.
    pub(super) async fn let_go(&self, target: usize) -> Result<()> {
        let drained: Vec<_> = {
            let mut inner = self.lanes.lock();
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
            let id = i32::try_from(shard).unwrap_or(0);
            let args: [&(dyn ToSql + Sync); 2] = [&id, &self.slot];
            self.query(&self.statements.let_go, &args).await?;
            self.lanes.lock().lose(shard);
            self.lanes.wake();
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
        let first = if self.is_visitor { VISITOR_LOCKS } else { INSTANCE_LOCKS };
        self.try_lock(first.saturating_add(self.slot)).await
    }

    async fn try_lock(&self, key: i32) -> Result<bool> {
        let args: [&(dyn ToSql + Sync); 2] = [&rows::class_of(&self.salt), &key];
        Ok(self.query_one(&self.statements.lock, &args).await?.get(0))
    }
}
