//! Operator actions and upkeep. Claims are suspended during an action, and the affected queues are read again
//! afterwards.

use std::collections::HashSet;

use tokio_postgres::types::ToSql;

use super::{
    command::{Action, answer},
    rows::{self, big, millis, number, unbig},
    storing::{Args, Prepared},
    writer::Writer,
};
use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
    measure,
    outbox::{
        Attempt, Cancelled, Entry, ErrorKind, Failure, Mended, OutboxError, Over, Record, Scope,
        StateName, error::Result, ids::QueueKey, record, transition,
    },
};

/// Maximum number of callbacks that one step expires or purges, and of jobs that one step looks at.
const STEP: i32 = 512;

impl Writer {
    /// Executes the action and answers. A returned error is a connection error.
    pub(super) async fn act(&self, action: Action) -> Result<()> {
        match action {
            Action::Replay(ids, reply) => {
                let done = self.frozen(self.replay(&ids)).await;
                replied(reply, done)
            }
            Action::Cancel(ids, reply) => {
                let failure = Failure::new(ErrorKind::Cancelled, "cancelled by an operator");
                let done = self.frozen(self.cancel(&ids, &failure)).await;
                replied(reply, done)
            }
            Action::RetryNow(ids, reply) => {
                let done = self.frozen(self.retry_now(&ids)).await;
                replied(reply, done)
            }
            Action::Pause(destination, paused, reply) => {
                let done = self.frozen(self.pause(&destination, paused)).await;
                replied(reply, done)
            }
            Action::Expire(of, cutoff, failure, reply) => {
                let done = self.expire(&of, cutoff, &failure).await;
                replied(reply, done)
            }
            Action::Purge(over, reply) => replied(reply, self.purge(over).await),
            Action::Mend(after, reply) => {
                let done = self.mend(after).await;
                replied(reply, done)
            }
            Action::Notify(reply) => replied(reply, self.notify().await),
            Action::Import(entries, reply) => {
                let done = self.frozen(self.import(entries)).await;
                replied(reply, done)
            }
            Action::Ping(reply) => replied(reply, self.ping().await),
        }
    }

    /// Runs an action while claims are suspended.
    pub(super) async fn frozen<T>(&self, action: impl Future<Output = Result<T>>) -> Result<T> {
        self.queues.freeze();
        let done = action.await;
        self.queues.thaw();
        done
    }

    fn in_flight(&self) -> Vec<i64> {
        self.queues.lock().in_flight()
    }

    pub(super) async fn replay(&self, ids: &[CallbackId]) -> Result<u64> {
        let (seqs, keys) = split(ids);
        let claimed = self.in_flight();
        let sql = &self.statements.replay;
        let args: [&(dyn ToSql + Sync); 5] =
            [&millis(self.now()), &self.slot, &seqs, &keys, &claimed];
        let changed = self.query(sql, &args).await?;
        self.reload(&keys_of(&changed)).await?;
        Ok(changed.iter().map(|row| rows::count(row.get("replayed"))).sum())
    }

    pub(super) async fn cancel(
        &self,
        ids: &[CallbackId],
        failure: &Failure,
    ) -> Result<Vec<Cancelled>> {
        let outcomes = self.fail(ids, failure).await?;
        Ok(outcomes
            .into_iter()
            .map(|outcome| match outcome {
                0 => Cancelled::Done,
                1 => Cancelled::InFlight,
                2 => Cancelled::NotPending,
                _ => Cancelled::Unknown,
            })
            .collect())
    }

    /// Fails pending callbacks and returns the outcomes of `fail_v1`.
    async fn fail(&self, ids: &[CallbackId], failure: &Failure) -> Result<Vec<i32>> {
        let (seqs, keys) = split(ids);
        let claimed = self.in_flight();
        let (kind, error) = (rows::kind(failure.kind), rows::encoded(Some(failure))?);
        let now = self.now();
        let events = self.events_about_failed(&seqs, failure, now).await?;
        let at = millis(now);
        let args: Args<'_> = vec![&at, &self.slot, &seqs, &keys, &claimed, &kind, &error];
        let statements = (&self.statements.fail, &self.statements.with_events.fail);
        let answered = self.query_with_events(statements, args, &events, now).await?;
        self.reload(&keys_of(&answered)).await?;
        let outcomes = answered.iter().filter_map(|row| row.get::<_, Option<i32>>("outcome"));
        let outcomes: Vec<_> = outcomes.collect();
        measure::ended(0, outcomes.iter().filter(|outcome| **outcome == 0).count() as u64);
        Ok(outcomes)
    }

    /// The outcome events about pending callbacks that fail now.
    async fn events_about_failed(
        &self,
        seqs: &[i64],
        failure: &Failure,
        now: Timestamp,
    ) -> Result<Vec<Prepared>> {
        if self.settings.common.outcome_events.is_none() {
            return Ok(Vec::new());
        }
        let mut records = self.records(seqs).await?;
        records.retain(|it| it.state_name() == StateName::Pending);
        let fail = |it| transition::fail(it, None, failure.clone(), now);
        let failed: Vec<_> = records.into_iter().map(fail).collect();
        self.events_about(failed.iter(), now)
    }

    pub(super) async fn retry_now(&self, ids: &[CallbackId]) -> Result<u64> {
        let (seqs, keys) = split(ids);
        let claimed = self.in_flight();
        let args: [&(dyn ToSql + Sync); 4] = [&millis(self.now()), &seqs, &keys, &claimed];
        let changed = self.query(&self.statements.retry_now, &args).await?;
        let keys = keys_of(&changed);
        self.reload(&keys).await?;
        let mut queues = self.queues.lock();
        keys.into_iter().for_each(|key| queues.retry_now(QueueKey(unbig(key))));
        drop(queues);
        self.queues.wake();
        Ok(changed.iter().map(|row| rows::count(row.get("due"))).sum())
    }

    pub(super) async fn pause(&self, destination: &Destination, paused: bool) -> Result<bool> {
        let key = self.queue(destination);
        let args: [&(dyn ToSql + Sync); 4] =
            [&millis(self.now()), &big(key.0), &destination.as_str(), &paused];
        let changed = self.query_one(&self.statements.pause, &args).await?.get(0);
        self.reload(&[big(key.0)]).await?;
        Ok(changed)
    }

    async fn expire(
        &self,
        of: &Scope,
        cutoff: Timestamp,
        failure: &Failure,
    ) -> Result<Vec<Record>> {
        let claimed = self.in_flight();
        let own = self.own_shards();
        let keys =
            |all: &HashSet<Destination>| all.iter().map(|it| big(self.queue(it).0)).collect();
        let (named, wanted): (Vec<i64>, bool) = match of {
            Scope::All => (Vec::new(), false),
            Scope::Only(these) => (keys(these), true),
            Scope::Except(these) => (keys(these), false),
        };
        let args: [&(dyn ToSql + Sync); 6] =
            [&millis(cutoff), &claimed, &i64::from(STEP), &own, &named, &wanted];
        let old = self.query(&self.statements.old, &args).await?;
        let ids: Vec<_> =
            old.iter().map(|row| rows::id(row.get("seq"), row.get("queue"))).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let outcomes = self.frozen(self.fail(&ids, failure)).await?;
        let done = ids.iter().zip(outcomes).filter(|(_, outcome)| *outcome == 0);
        let seqs: Vec<_> = done.map(|(id, _)| rows::parts(*id).0).collect();
        self.records(&seqs).await
    }

    async fn purge(&self, over: Over) -> Result<u64> {
        let args: [&(dyn ToSql + Sync); 4] =
            [&self.slot, &millis(over.delivered), &millis(over.failed), &STEP];
        Ok(rows::count(self.query_one(&self.statements.purge, &args).await?.get(0)))
    }

    async fn mend(&self, after: Vec<u8>) -> Result<Mended> {
        let args: [&(dyn ToSql + Sync); 3] = [&millis(self.now()), &after, &STEP];
        let row = self.query_one(&self.statements.mend, &args).await?;
        let looked_at: i64 = row.get("looked_at");
        let keys: Vec<i64> = row.get("queues");
        let mended = keys.len() as u64;
        self.frozen(self.reload(&keys)).await?;
        let next = row.get::<_, Option<Vec<u8>>>("last").filter(|_| looked_at >= i64::from(STEP));
        Ok(Mended { mended, stuck: 0, next })
    }

    async fn import(&self, entries: Vec<Entry>) -> Result<u64> {
        let now = self.now();
        let (mut of_attempts, mut numbers, mut attempts) = (Vec::new(), Vec::new(), Vec::new());
        let mut records = Vec::with_capacity(entries.len());
        for entry in entries {
            let record = if entry.uncertain && entry.record.state_name() == StateName::Pending {
                let why = "recovered from a damaged store; it is unknown whether it was delivered";
                transition::fail(entry.record, None, Failure::new(ErrorKind::Cancelled, why), now)
            } else {
                entry.record
            };
            let before = |it: &&Attempt| it.number < record.attempt_count;
            for attempt in entry.attempts.iter().filter(before) {
                of_attempts.push(rows::parts(record.id).0);
                numbers.push(number(attempt.number));
                attempts.push(record::encode(attempt)?);
            }
            records.push(record);
        }
        let each = |part: fn(&Record) -> &str| -> Vec<&[u8]> {
            records.iter().map(|it| part(it).as_bytes()).collect()
        };
        let bytes = |part: &dyn Fn(&Record) -> Result<Option<Vec<u8>>>| {
            records.iter().map(part).collect::<Result<Vec<_>>>()
        };
        let times = |part: fn(&Record) -> Timestamp| -> Vec<i64> {
            records.iter().map(|it| millis(part(it))).collect()
        };
        let numbers_of = |part: fn(&Record) -> u32| -> Vec<i32> {
            records.iter().map(|it| number(part(it))).collect()
        };
        let seqs: Vec<_> = records.iter().map(|it| rows::parts(it.id).0).collect();
        let keys: Vec<_> = records.iter().map(|it| big(self.queue(&it.destination).0)).collect();
        let names: Vec<_> = records.iter().map(|it| it.destination.as_str()).collect();
        let events: Vec<_> =
            records.iter().map(|it| it.event_id.as_deref().map(str::as_bytes)).collect();
        let ended: Vec<_> = records.iter().map(|it| it.ended_at().map(millis)).collect();
        let status: Vec<_> = records.iter().map(|it| rows::status(it.state_name())).collect();
        let readiness: Vec<_> = records.iter().map(|it| rows::readiness(it.state)).collect();
        let kinds: Vec<_> = records.iter().map(rows::kind_of).collect();
        let args: [&(dyn ToSql + Sync); 24] = [
            &millis(now),
            &self.slot,
            &seqs,
            &keys,
            &names,
            &each(|it| &it.body.job_id),
            &each(|it| &it.body.job_id_fs),
            &events,
            &times(|it| it.created_at),
            &bytes(&|it| rows::accepted(it).map(Some))?,
            &status,
            &readiness,
            &times(rows::due),
            &numbers_of(|it| it.attempt_count),
            &numbers_of(|it| it.budget_attempts),
            &times(|it| it.budget_since),
            &numbers_of(|it| it.replays),
            &ended,
            &kinds,
            &bytes(&|it| rows::encoded(it.last_error.as_ref()))?,
            &bytes(&|it| rows::encoded(it.last_attempt.as_ref()))?,
            &of_attempts,
            &numbers,
            &attempts,
        ];
        let imported = self.query_one(&self.statements.import, &args).await?;
        // An imported callback may be due earlier than those read so far.
        self.queues.lock().forget_fronts();
        self.reload(&keys).await?;
        Ok(rows::count(imported.get(0)))
    }

    async fn ping(&self) -> Result<()> {
        let row = self.query_one(&self.statements.pending, &[]).await?;
        let (pending, max) = (rows::count(row.get(0)), self.settings.common.max_pending);
        if pending >= max {
            return Err(OutboxError::Full { pending, max });
        }
        Ok(())
    }
}

/// The seqs and queues of ids.
fn split(ids: &[CallbackId]) -> (Vec<i64>, Vec<i64>) {
    ids.iter().map(|id| rows::parts(*id)).unzip()
}

/// The different queues in the column `queue`.
fn keys_of(found: &[tokio_postgres::Row]) -> Vec<i64> {
    let mut keys: Vec<_> =
        found.iter().filter_map(|row| row.get::<_, Option<i64>>("queue")).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Sends the answer, and returns it as an error if the connection failed.
fn replied<T>(reply: super::command::Reply<T>, done: Result<T>) -> Result<()> {
    let broken = done.as_ref().err().filter(|error| error.is_away()).cloned();
    answer(reply, done);
    broken.map_or(Ok(()), Err)
}
