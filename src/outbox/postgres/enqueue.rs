//! Storing new callbacks.

use std::sync::{PoisonError, atomic::Ordering};

use tokio::time::Instant;
use tokio_postgres::Row;

use super::{
    command::{Enqueue, Unsure, answer, refuse},
    rows::{self, big},
    storing::{Prepared, Storing},
    writer::Writer,
};
use crate::{
    callback::CallbackId,
    measure,
    outbox::{Enqueued, NewCallback, OutboxError, Record, error::Result, ids},
};

/// The result of one call of the function.
pub(super) enum Called {
    Stored(Vec<Enqueued>),
    /// The limit of pending callbacks is reached; the number of pending ones.
    Full(u64),
    /// Near the limit of failed callbacks, each one must be stored by itself.
    OneByOne,
}

/// The outcomes of `enqueue_v1`.
const DUPLICATE: i32 = 1;
const NOT_KEPT: i32 = 2;
const FULL: i32 = 3;
const ONE_BY_ONE: i32 = 4;

impl Writer {
    /// Repeats a call whose answer was lost. The session in which it was made is over.
    pub(super) async fn enqueue_again(&self, unsure: Unsure) -> Result<()> {
        let Unsure { token, batches, error, since } = unsure;
        let again = self.enqueue_as(token, batches, since).await?;
        refuse(again, &error);
        Ok(())
    }

    /// Stores batches with one call, or if that is refused, one after the other. Returns those that must be
    /// repeated in their own order, because there may not be room for all.
    pub(super) async fn enqueue(&self, enqueues: Vec<Enqueue>) -> Result<Vec<Enqueue>> {
        let mut open = Vec::with_capacity(enqueues.len());
        for it in enqueues {
            match it.sequence.refused() {
                Some(error) => answer(it.reply, Err(error)),
                None => open.push(it),
            }
        }
        if open.iter().all(|it| it.batch.is_empty()) {
            open.into_iter().for_each(|it| answer(it.reply, Ok(Vec::new())));
            return Ok(Vec::new());
        }
        self.enqueue_as(token(), open, Instant::now()).await
    }

    async fn enqueue_as(
        &self,
        token: i64,
        open: Vec<Enqueue>,
        since: Instant,
    ) -> Result<Vec<Enqueue>> {
        let all: Vec<_> = open.iter().flat_map(|it| &it.batch).collect();
        match self.call(&all, token).await {
            Ok(Called::Stored(outcomes)) => {
                let mut outcomes = outcomes.into_iter();
                for it in open {
                    let own = outcomes.by_ref().take(it.batch.len()).collect();
                    answer(it.reply, Ok(own));
                }
                Ok(Vec::new())
            }
            Ok(Called::Full(_) | Called::OneByOne) => Ok(open),
            Err(error @ OutboxError::Unsure(_)) => {
                let unsure = Unsure { token, batches: open, error: error.clone(), since };
                self.unsure.lock().unwrap_or_else(PoisonError::into_inner).replace(unsure);
                Err(error)
            }
            Err(error) => {
                refuse(open, &error);
                if error.is_away() { Err(error) } else { Ok(Vec::new()) }
            }
        }
    }

    /// Stores one batch.
    pub(super) async fn enqueue_alone(&self, it: Enqueue) -> Result<()> {
        if let Some(error) = it.sequence.refused() {
            answer(it.reply, Err(error));
            return Ok(());
        }
        let all: Vec<_> = it.batch.iter().collect();
        let stored = match self.call(&all, token()).await {
            Ok(Called::Stored(outcomes)) => Ok(outcomes),
            Ok(Called::Full(pending)) => {
                Err(OutboxError::Full { pending, max: self.settings.common.max_pending })
            }
            Ok(Called::OneByOne) => self.one_by_one(&all).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &stored {
            it.sequence.refuse(error);
        }
        let broken = stored.as_ref().err().filter(|it| it.is_away()).cloned();
        answer(it.reply, stored);
        broken.map_or(Ok(()), Err)
    }

    /// Stores the callbacks of a batch one by one, near the limit of failed callbacks. There is room for
    /// those that can be sent, or nothing would be stored.
    async fn one_by_one(&self, batch: &[&NewCallback]) -> Result<Vec<Enqueued>> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for new in batch {
            match self.call(&[new], token()).await? {
                Called::Stored(stored) => outcomes.extend(stored),
                Called::Full(pending) => {
                    return Err(OutboxError::Full {
                        pending,
                        max: self.settings.common.max_pending,
                    });
                }
                Called::OneByOne => return Err(unexpected()),
            }
        }
        Ok(outcomes)
    }

    /// Stores callbacks that the service itself creates, with one call.
    pub(super) async fn call_anew(&self, batch: &[&NewCallback]) -> Result<Called> {
        self.call(batch, token()).await
    }

    async fn call(&self, batch: &[&NewCallback], token: i64) -> Result<Called> {
        let now = self.now();
        let given = self.ids_to_report(batch).await?;
        let prepared = batch.iter().zip(given).map(|(new, given)| Prepared::new(new, given, now));
        let records = prepared.collect::<Result<Vec<_>>>()?;
        let refused = records.iter().map(|it| &it.record).filter(|it| it.ended_at().is_some());
        let events = self.events_about(refused, now)?;
        let storing =
            Storing::new(self, &records, now, self.settings.common.max_pending, Some(token))?;
        let statements = (&self.statements.enqueue, &self.statements.with_events.enqueue);
        let mut answered = self.query_with_events(statements, storing.args(), &events, now).await?;
        let of_events: Vec<_> = answered
            .extract_if(.., |row| row.get::<_, Option<i64>>("ord").is_none())
            .filter(|row| row.get::<_, Option<i16>>("readiness") == Some(0))
            .filter_map(|row| row.get("seq"))
            .collect();
        match answered.first().map(|row| row.get::<_, i32>("outcome")) {
            Some(FULL) => return Ok(Called::Full(rows::count(answered[0].get("seq")))),
            Some(ONE_BY_ONE) => return Ok(Called::OneByOne),
            _ => {}
        }
        if answered.len() != batch.len() {
            return Err(unexpected());
        }
        self.answered.store(token, Ordering::Relaxed);
        let outcomes = self.stored(&answered, records)?;
        self.load_active(&of_events).await?;
        Ok(Called::Stored(outcomes))
    }

    /// Updates the queues after callbacks were stored, except for duplicates.
    fn stored(&self, answered: &[Row], records: Vec<Prepared>) -> Result<Vec<Enqueued>> {
        let mut outcomes = Vec::with_capacity(answered.len());
        let mut failed = 0;
        let mut queues = self.queues.lock();
        for (row, Prepared { record, .. }) in answered.iter().zip(records) {
            let outcome: i32 = row.get("outcome");
            if outcome == NOT_KEPT {
                outcomes.push(Enqueued::NotKept);
                continue;
            }
            let (Some(seq), Some(key)) = (row.get::<_, Option<i64>>("seq"), row.get("queue"))
            else {
                return Err(unexpected());
            };
            let id = rows::id(seq, key);
            if outcome == DUPLICATE {
                outcomes.push(Enqueued::Duplicate(id));
                continue;
            }
            outcomes.push(Enqueued::Stored(id));
            let key = ids::parts(id).1;
            let destination = record.destination.clone();
            let readiness: Option<i16> = row.get("readiness");
            // The owner of another instance's destination needs no notification of a blocked callback.
            if readiness.is_some()
                && queues.owns(key)
                && let Some(queue) = queues.queue(key, &destination)
            {
                queue.set_pending(true);
            }
            failed += u64::from(readiness.is_none());
            if readiness == Some(0) {
                queues.activated(key, Record { id, ..record });
            }
        }
        drop(queues);
        measure::ended(0, failed);
        self.queues.wake();
        Ok(outcomes)
    }

    /// The ids of callbacks whose end is reported with the same call, because they can never be sent.
    async fn ids_to_report(&self, batch: &[&NewCallback]) -> Result<Vec<Option<CallbackId>>> {
        let is_reported = |new: &NewCallback| {
            new.refusal.is_some() && self.settings.common.outcome_events.is_some()
        };
        let count = batch.iter().filter(|new| is_reported(new)).count();
        if count == 0 {
            return Ok(vec![None; batch.len()]);
        }
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let found = self.query(&self.statements.with_events.next_seqs, &[&count]).await?;
        let mut seqs = found.iter().map(|row| row.get::<_, i64>(0));
        let id = |new: &&NewCallback| {
            let seq = if is_reported(new) { seqs.next() } else { None }?;
            Some(rows::id(seq, big(self.queue(&new.destination).0)))
        };
        Ok(batch.iter().map(id).collect())
    }
}

/// A number that identifies one call.
fn token() -> i64 {
    fastrand::i64(..)
}

fn unexpected() -> OutboxError {
    OutboxError::Engine("the database returned a result that does not match the call".into())
}
