//! What each write changes: enqueue, settle, replay, cancel.

use std::collections::HashSet;

use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
    outbox::{
        Cancelled, Enqueued, ErrorKind, Failure, NewCallback, Record, Settlement, StateName,
        error::Result,
        record,
        sled::{
            commit::transaction::Transaction,
            keys::{self, QueueKey},
            rows::decode,
        },
        transition,
    },
};

/// Maximum number of attempts of a callback that are kept, in addition to the last one.
const ATTEMPTS_KEPT: u32 = 1000;

impl Transaction<'_> {
    /// How many of these callbacks would become pending, and whether any would be stored. Duplicates
    /// are not.
    pub(crate) fn wanted(&self, batch: &[NewCallback]) -> Result<(u64, bool)> {
        let (mut pending, mut stored) = (0, false);
        let mut keys = HashSet::new();
        for new in batch {
            if let Some(event_id) = &new.event_id
                && (!keys.insert(event_id) || self.writes.get(&keys::event(event_id))?.is_some())
            {
                continue;
            }
            stored = true;
            pending += u64::from(new.refusal.is_none());
        }
        Ok((pending, stored))
    }

    /// Stores a new callback.
    pub(crate) fn enqueue(&mut self, new: NewCallback) -> Result<Enqueued> {
        let event_key = new.event_id.as_deref().map(keys::event);
        if let Some(key) = &event_key
            && let Some(known) = self.writes.get(key)?
        {
            // If the row cannot be read, accept the event: a repeated callback is better than a lost
            // one.
            if let Ok(id) = decode(key, &known) {
                return Ok(Enqueued::Duplicate(id));
            }
        }
        // Invalid URLs must not fill the disk.
        if new.refusal.is_some() && self.totals.failed >= self.store.settings.common.max_pending {
            return Ok(Enqueued::NotKept);
        }
        let queue = self.store.queue(&new.destination);
        let seq = self.totals.next_seq;
        self.totals.next_seq += 1;
        let id = keys::id(seq, queue);
        if new.refusal.is_some() {
            let record = transition::refuse(new, id, self.now);
            self.put_indexes(queue, &record)?;
            self.put_ended(queue, &record)?;
            self.report(&record)?;
        } else {
            let first = self.first_pending(&new.body.job_id, None)?.is_none();
            let record = transition::accept(new, id, self.now, first);
            self.put_indexes(queue, &record)?;
            self.put_pending(queue, &record)?;
        }
        Ok(Enqueued::Stored(id))
    }

    /// Records the outcome of an attempt.
    pub(crate) fn settle(&mut self, record: Record, settlement: Settlement) -> Result<Record> {
        let (seq, queue) = keys::parts(record.id);
        let job_id = record.body.job_id.clone();
        let began = record.budget_since;
        let record = self.with_resumed_age(queue, record)?;
        self.to_free.push((queue, seq));
        let row = self.row(queue, &record.destination)?;
        let settlement = match settlement {
            // The decision was based on the age at the time of the claim; the destination has been
            // paused or resumed since.
            Settlement::Failed { attempt, failure, hold }
                if failure.kind == ErrorKind::Expired
                    && (row.paused_at.is_some() || record.budget_since > began) =>
            {
                let Some(attempt) = attempt else {
                    self.require_commit(queue);
                    self.note_fresh(queue, &record)?;
                    self.signal(queue, self.now);
                    return Ok(record);
                };
                Settlement::Retry { attempt, due: self.now, hold }
            }
            settlement => settlement,
        };
        self.take_pending(queue, &record)?;
        if let Some(last) = record.last_attempt.as_ref().filter(|_| settlement.attempt().is_some())
        {
            self.writes.put(keys::attempt(seq, last.number), record::encode(last)?);
            if let Some(oldest) = last.number.checked_sub(ATTEMPTS_KEPT) {
                self.writes.remove(keys::attempt(seq, oldest));
            }
        }
        let record = match settlement {
            Settlement::Delivered(attempt) => {
                let record = transition::deliver(record, attempt, self.now);
                self.put_ended(queue, &record)?;
                record
            }
            Settlement::Failed { attempt, failure, hold } => {
                self.hold(queue, &record, hold)?;
                let record = transition::fail(record, attempt, failure, self.now);
                self.put_ended(queue, &record)?;
                record
            }
            Settlement::Retry { attempt, due, hold } => {
                self.hold(queue, &record, hold)?;
                // If an earlier callback was replayed in the meantime, it is sent first.
                let first = self.first_pending(&job_id, None)?.is_none_or(|(first, _)| first > seq);
                let record = transition::retry(record, attempt, due, first);
                self.put_pending(queue, &record)?;
                record
            }
        };
        self.activate_first(&job_id)?;
        self.report(&record)?;
        Ok(record)
    }

    /// Stores the outcome event of a callback that has ended, if there is one, and counts its failure.
    fn report(&mut self, record: &Record) -> Result<()> {
        self.note_failure(record)?;
        let events = self.store.settings.common.outcome_events.as_ref();
        match events.and_then(|events| events.about(record)) {
            Some(event) => self.enqueue(event).map(drop),
            None => Ok(()),
        }
    }

    /// Records the outcome of an attempt that a killed process has not committed, if it was the callback's
    /// next one.
    pub(crate) fn recover(
        &mut self,
        id: CallbackId,
        outcome: Settlement,
    ) -> Result<Option<Record>> {
        let (seq, queue) = keys::parts(id);
        let number = outcome.attempt().map(|attempt| attempt.number);
        let found = self.shared.readable_pending(queue, seq)?.filter(|record| {
            record.id == id && !record.is_blocked() && number == Some(record.next_attempt())
        });
        found.map(|record| self.settle(record, outcome)).transpose()
    }

    fn hold(&mut self, queue: QueueKey, record: &Record, hold: Option<Timestamp>) -> Result<()> {
        if let Some(until) = hold {
            let horizon = self.store.horizon(self.now);
            let row = self.row(queue, &record.destination)?;
            let known = if row.is_held(horizon) { row.hold_until } else { Timestamp::default() };
            row.hold_until = known.max(until);
        }
        Ok(())
    }

    /// Makes a failed callback pending again. Returns `false` if it is not failed.
    pub(crate) fn replay(&mut self, id: CallbackId) -> Result<bool> {
        let (seq, queue) = keys::parts(id);
        let found = self.shared.readable(seq)?;
        let Some(record) = found.filter(|it| it.id == id && it.state_name() == StateName::Failed)
        else {
            return Ok(false);
        };
        self.mark(queue, seq, &record)?;
        self.shared.remove_ended(StateName::Failed, seq)?;
        self.totals.failed = self.totals.failed.saturating_sub(1);
        let row = self.row(queue, &record.destination)?;
        row.failed = row.failed.saturating_sub(1);
        let first = match self.first_pending(&record.body.job_id, None)? {
            None => true,
            Some((first, _)) => first > seq && self.block_active(&record.body.job_id)?,
        };
        self.lower_job_begin(&record.body.job_id, seq)?;
        let record = transition::replay(record, self.now, first);
        self.put_pending(queue, &record)?;
        Ok(true)
    }

    /// Cancels a pending callback that is not claimed.
    pub(crate) fn cancel(&mut self, id: CallbackId, failure: Failure) -> Result<Cancelled> {
        let (seq, queue) = keys::parts(id);
        let Some(record) = self.shared.readable(seq)?.filter(|it| it.id == id) else {
            return Ok(Cancelled::Unknown);
        };
        if record.state_name() != StateName::Pending {
            return Ok(Cancelled::NotPending);
        }
        if !self.mark(queue, seq, &record)? {
            return Ok(Cancelled::InFlight);
        }
        self.end(queue, record, failure)?;
        Ok(Cancelled::Done)
    }

    /// Makes a pending callback due now. Returns `false` if it is blocked or claimed, or if its
    /// destination is paused.
    pub(crate) fn retry_now(&mut self, id: CallbackId) -> Result<bool> {
        let (seq, queue) = keys::parts(id);
        let Some(record) = self.shared.readable_pending(queue, seq)? else { return Ok(false) };
        let row = self.row(queue, &record.destination)?;
        row.hold_until = Timestamp::default();
        let paused = row.paused_at.is_some();
        self.require_commit(queue);
        self.retried.insert(queue);
        if !self.mark(queue, seq, &record)? {
            return Ok(false);
        }
        let due = !record.is_blocked();
        let changed = transition::retry_now(record.clone(), self.now);
        if changed != record {
            self.take_pending(queue, &record)?;
            self.put_pending(queue, &changed)?;
        }
        Ok(due && !paused)
    }

    /// Pauses or resumes a destination. Returns whether that changes anything.
    pub(crate) fn pause(&mut self, destination: &Destination, paused: bool) -> Result<bool> {
        let queue = self.store.queue(destination);
        let now = self.now;
        let row = self.row(queue, destination)?;
        if row.paused_at.is_some() == paused {
            return Ok(false);
        }
        row.paused_at = paused.then_some(now);
        if !paused {
            row.resumed_at = now;
            self.signal(queue, Timestamp::default());
        }
        self.require_commit(queue);
        Ok(true)
    }

    /// Fails a pending callback whose budget began before `cutoff`, unless it is claimed.
    pub(crate) fn expire(
        &mut self,
        id: CallbackId,
        cutoff: Timestamp,
        failure: &Failure,
    ) -> Result<Option<Record>> {
        let (seq, queue) = keys::parts(id);
        match self.shared.readable_pending(queue, seq)? {
            Some(record) if self.row(queue, &record.destination)?.is_younger(cutoff) => Ok(None),
            Some(record) if record.budget_since < cutoff && self.mark(queue, seq, &record)? => {
                self.end(queue, record, failure.clone()).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The callback with its age counted from the last resume of its destination, if that is later.
    fn with_resumed_age(&mut self, queue: QueueKey, record: Record) -> Result<Record> {
        let resumed_at = self.row(queue, &record.destination)?.resumed_at;
        Ok(Record { budget_since: record.budget_since.max(resumed_at), ..record })
    }

    fn end(&mut self, queue: QueueKey, record: Record, failure: Failure) -> Result<Record> {
        let was_active = !record.is_blocked();
        self.take_pending(queue, &record)?;
        let record = self.with_resumed_age(queue, record)?;
        let record = transition::fail(record, None, failure, self.now);
        self.put_ended(queue, &record)?;
        if was_active {
            self.activate_first(&record.body.job_id)?;
        }
        self.report(&record)?;
        Ok(record)
    }
}
