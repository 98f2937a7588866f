//! Storing new callbacks.

use std::sync::{PoisonError, atomic::Ordering};

use tokio::time::Instant;

use super::{
    command::{Enqueue, Unsure, answer, refuse},
    rows::{self, big},
    writer::Writer,
};
use crate::{
    callback::CallbackId,
    clock::Timestamp,
    measure,
    outbox::{Enqueued, NewCallback, OutboxError, Record, error::Result, ids, transition},
};

/// What one call of the function has answered.
enum Called {
    Stored(Vec<Enqueued>),
    /// There is no room; so many are pending.
    Full(u64),
    /// Near the limit of failed ones, what was stored before decides: to be tried one by one.
    OneByOne,
}

/// The outcomes of `enqueue_v1`.
const DUPLICATE: i32 = 1;
const NOT_KEPT: i32 = 2;
const FULL: i32 = 3;
const ONE_BY_ONE: i32 = 4;

impl Writer {
    /// Makes a call again whose answer was lost. The session in which it was made is over.
    pub(super) async fn enqueue_again(&self, unsure: Unsure) -> Result<()> {
        let Unsure { token, batches, error, since } = unsure;
        let again = self.enqueue_as(token, batches, since).await?;
        refuse(again, &error);
        Ok(())
    }

    /// Stores batches with one call, or if that is refused, one after the other. Returns those that have to
    /// be made again in their own order, because there may be no room for all.
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
                Err(OutboxError::Full { pending, max: self.settings.max_pending })
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

    /// With a batch that has callbacks that can never be sent, near the limit of failed ones. There is room
    /// for the others, or nothing would be stored.
    async fn one_by_one(&self, batch: &[&NewCallback]) -> Result<Vec<Enqueued>> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for new in batch {
            match self.call(&[new], token()).await? {
                Called::Stored(stored) => outcomes.extend(stored),
                Called::Full(pending) => {
                    return Err(OutboxError::Full { pending, max: self.settings.max_pending });
                }
                Called::OneByOne => return Err(unexpected()),
            }
        }
        Ok(outcomes)
    }

    async fn call(&self, batch: &[&NewCallback], token: i64) -> Result<Called> {
        let now = self.now();
        let records = batch.iter().map(|new| prepared(new, now)).collect::<Result<Vec<_>>>()?;
        let each = |part: fn(&Record) -> &str| -> Vec<&[u8]> {
            records.iter().map(|(record, _)| part(record).as_bytes()).collect()
        };
        let events: Vec<_> =
            batch.iter().map(|new| new.event_id.as_deref().map(str::as_bytes)).collect();
        let keys: Vec<_> = batch.iter().map(|new| big(self.queue(&new.destination).0)).collect();
        let names: Vec<_> = batch.iter().map(|new| new.destination.as_str()).collect();
        let refused: Vec<_> = records.iter().map(|(record, _)| rows::kind_of(record)).collect();
        let errors = records
            .iter()
            .map(|(record, _)| rows::encoded(record.last_error.as_ref()))
            .collect::<Result<Vec<_>>>()?;
        let accepted: Vec<_> = records.iter().map(|(_, accepted)| accepted.as_slice()).collect();
        let max = i64::try_from(self.settings.max_pending).unwrap_or(i64::MAX);
        let answered_before = self.answered.load(Ordering::Relaxed);
        let answered = self
            .query(
                &self.statements.enqueue,
                &[
                    &rows::millis(now),
                    &self.slot,
                    &max,
                    &events,
                    &each(|record| &record.body.job_id),
                    &each(|record| &record.body.job_id_fs),
                    &keys,
                    &names,
                    &refused,
                    &errors,
                    &accepted,
                    &token,
                    &answered_before,
                ],
            )
            .await?;
        match answered.first().map(|row| row.get::<_, i32>("outcome")) {
            Some(FULL) => return Ok(Called::Full(rows::count(answered[0].get("seq")))),
            Some(ONE_BY_ONE) => return Ok(Called::OneByOne),
            _ => {}
        }
        if answered.len() != batch.len() {
            return Err(unexpected());
        }
        self.answered.store(token, Ordering::Relaxed);
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut failed = 0;
        let mut queues = self.queues.lock();
        for (row, (record, _)) in answered.iter().zip(records) {
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
            // Of a destination of another instance, what is blocked is not told.
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
        Ok(Called::Stored(outcomes))
    }
}

/// A number for one call.
fn token() -> i64 {
    fastrand::i64(..)
}

/// The callback as it will be stored, but for its id, and its bytes.
fn prepared(new: &NewCallback, now: Timestamp) -> Result<(Record, Vec<u8>)> {
    let none = CallbackId::from_u128(0);
    let record = match &new.refusal {
        Some(_) => transition::refuse(new.clone(), none, now),
        None => transition::accept(new.clone(), none, now, true),
    };
    let accepted = rows::accepted(&record)?;
    Ok((record, accepted))
}

fn unexpected() -> OutboxError {
    OutboxError::Engine("the database gave an answer that does not fit the question".into())
}
