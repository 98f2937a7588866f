//! Repair of stuck jobs: pending callbacks that would never be claimed.
//!
//! By the invariant in [`transaction`](super::transaction), exactly one pending callback of a job is
//! active. No code violates it, but damage that nothing else detects may lose a row, and the job would
//! then wait without an attempt. So all pending callbacks are checked again and again, a few with each call,
//! and what can be proven is repaired:
//!
//! - A row of the job index without its callback is removed.
//! - If all callbacks of a job are blocked, the first one is activated.
//! - Of two active callbacks, the earlier one stays active, unless the later one is claimed.
//! - A missing row of the due index or of the job index is written.
//! - After a repair, the destination's callbacks are counted again.
//!
//! A job with a row that cannot be read cannot be repaired: it is *stuck*, and reported.

use std::collections::BTreeMap;

use crate::{
    callback::Destination,
    outbox::{
        Mended, OutboxError, Readiness, Record, State,
        error::Result,
        record,
        sled::{
            commit::transaction::Transaction,
            keys::{self, QueueKey},
        },
        transition,
    },
};

/// Rows that one step checks, plus the rest of the last job.
const STEP: usize = 256;

/// A pending callback of a job.
type Found = (QueueKey, u64, Record);

/// The result of one step.
#[derive(Default)]
struct Work {
    mended: u64,
    stuck: u64,
    /// Queues with repairs, whose counters may be wrong as well.
    queues: BTreeMap<QueueKey, Option<Destination>>,
}

impl Transaction<'_> {
    /// Checks the rows after `after`: first the job index, then the callbacks.
    pub(crate) fn mend(&mut self, after: &[u8]) -> Result<Mended> {
        let mut work = Work::default();
        let next = if after.first().is_none_or(|prefix| *prefix == b'j') {
            self.mend_jobs(after, &mut work)?.or_else(|| Some(b"p".to_vec()))
        } else {
            self.mend_callbacks(after, &mut work)?
        };
        for (queue, destination) in std::mem::take(&mut work.queues) {
            self.recount(queue, destination)?;
        }
        Ok(Mended { mended: work.mended, stuck: work.stuck, next })
    }

    /// Checks the job index; `None` at its end.
    ///
    /// A job is always checked as a whole, as this transaction leaves it, because all callbacks in a part
    /// of it may be blocked. So the next step continues after the last job, not after the last row, which
    /// may not be the job's last one by then.
    fn mend_jobs(&mut self, after: &[u8], work: &mut Work) -> Result<Option<Vec<u8>>> {
        let mut from = if after.is_empty() { b"j".to_vec() } else { behind(line_of(after)) };
        let mut looked_at = 0;
        while let Some(row) = self.store.tree.range(from..vec![b'j' + 1]).next() {
            let (key, _) = row?;
            looked_at += self.mend_job(line_of(&key), work)?.max(1);
            if looked_at >= STEP {
                return Ok(Some(key.to_vec()));
            }
            from = behind(line_of(&key));
        }
        Ok(None)
    }

    /// Checks one job, and returns the number of its callbacks.
    fn mend_job(&mut self, job: &[u8], work: &mut Work) -> Result<usize> {
        let mut pending = Vec::new();
        let mut next = self.writes.first(job)?;
        while let Some((key, value)) = next {
            let (seq, queue) = (keys::last_number(&key), QueueKey(keys::number(&value)));
            match self.writes.record(&keys::pending(queue, seq)) {
                Ok(Some(record)) => pending.push((queue, seq, record)),
                Ok(None) => {
                    self.writes.remove(key.to_vec());
                    work.mended += 1;
                    work.queues.entry(queue).or_default();
                }
                Err(OutboxError::UnreadableRow { .. }) => {
                    work.stuck += 1;
                    return Ok(pending.len());
                }
                Err(error) => return Err(error),
            }
            next = self.writes.first_behind(job, Some(&key))?;
        }
        let callbacks = pending.len();
        let active = pending.iter().filter(|it| is_active(&it.2)).count();
        match active {
            0 => self.activate(pending, work)?,
            1 => {}
            _ => self.block_all_but_one(pending, work)?,
        }
        Ok(callbacks)
    }

    /// All callbacks are blocked: activates the first one.
    fn activate(&mut self, pending: Vec<Found>, work: &mut Work) -> Result<()> {
        if let Some((queue, seq, record)) = pending.into_iter().next()
            && self.mark(queue, seq, &record)?
        {
            work.mended += 1;
            work.queues.insert(queue, Some(record.destination.clone()));
            self.take_pending(queue, &record)?;
            self.put_pending(queue, &transition::activate(record, self.now))?;
        }
        Ok(())
    }

    /// Several callbacks are active: keeps the claimed one, or the first one.
    fn block_all_but_one(&mut self, pending: Vec<Found>, work: &mut Work) -> Result<()> {
        let active = || pending.iter().filter(|it| is_active(&it.2));
        let under_way = |(queue, seq, _): &&Found| {
            self.store.queues.lock().queues.get(queue).is_some_and(|it| it.is_claimed(*seq))
        };
        let stays = active().find(under_way).or_else(|| active().next()).map(|it| it.1);
        for (queue, seq, record) in pending {
            if is_active(&record) && Some(seq) != stays && self.mark(queue, seq, &record)? {
                work.mended += 1;
                work.queues.insert(queue, Some(record.destination.clone()));
                self.take_pending(queue, &record)?;
                self.put_pending(queue, &transition::block(record))?;
            }
        }
        Ok(())
    }

    /// Checks the pending callbacks; `None` at their end.
    fn mend_callbacks(&mut self, after: &[u8], work: &mut Work) -> Result<Option<Vec<u8>>> {
        let from = [after, &[0]].concat();
        let mut last = None;
        for row in self.store.tree.range(from..vec![b'p' + 1]).take(STEP) {
            let key = row?.0.to_vec();
            last = Some(key.clone());
            let Some(bytes) = self.writes.get(&key)? else { continue };
            let Ok(record) = record::decode::<Record>(&bytes) else {
                work.stuck += 1;
                continue;
            };
            let (seq, queue) = keys::parts(record.id);
            let in_line = keys::job(&record.body.job_id, seq);
            if self.writes.get(&in_line)?.is_none() {
                work.queues.insert(queue, Some(record.destination.clone()));
                self.writes.put(in_line, &queue.0.to_be_bytes());
                work.mended += 1;
            }
            if let State::Pending(Readiness::Scheduled(at)) = record.state
                && self.writes.get(&keys::due(queue, at, seq))?.is_none()
            {
                self.writes.put(keys::due(queue, at, seq), b"");
                self.signal(queue, at);
                work.mended += 1;
            }
        }
        Ok(last)
    }

    /// Counts the pending callbacks of a destination.
    fn recount(&mut self, queue: QueueKey, destination: Option<Destination>) -> Result<()> {
        let (mut pending, mut fresh, mut scheduled) = (0, 0, 0);
        self.writes.each(&keys::pending(queue, 0)[..9], |bytes| {
            pending += 1;
            match record::decode::<Record>(bytes).map(|record| record.state) {
                Ok(State::Pending(Readiness::Fresh)) => fresh += 1,
                Ok(State::Pending(Readiness::Scheduled(_))) => scheduled += 1,
                // One that cannot be read is never claimed.
                _ => {}
            }
        })?;
        let Some(row) = self.known_row(queue, destination)? else { return Ok(()) };
        let (counted, blocked) = (row.pending, row.blocked());
        (row.pending, row.fresh, row.scheduled) = (pending, fresh, scheduled);
        let now_blocked = row.blocked();
        self.totals.pending = (self.totals.pending + pending).saturating_sub(counted);
        self.blocked = (self.blocked + now_blocked).saturating_sub(blocked);
        Ok(())
    }
}

fn is_active(record: &Record) -> bool {
    !matches!(record.state, State::Pending(Readiness::Blocked(_)))
}

/// The first key after all rows of a job.
fn behind(line: &[u8]) -> Vec<u8> {
    [line, &u64::MAX.to_be_bytes(), &[0]].concat()
}

/// The prefix that all keys of a job have in the job index.
fn line_of(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(8)]
}
