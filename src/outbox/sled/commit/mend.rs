//! Repair of stuck jobs: pending callbacks that would never be claimed.
//!
//! By the invariant in [`transaction`](super::transaction), exactly one pending callback of a job is
//! active. The code maintains this, but undetected damage can lose a row, and the job would then never
//! be sent. Therefore all callbacks are checked repeatedly, a few with each call, and the following
//! cases are repaired:
//!
//! - A callback without a record is removed from the set of pending ones.
//! - A callback that is missing in the set of its state is added to it.
//! - A missing row of the due index or of the job index is written.
//! - If all callbacks of a job are blocked, the first one is activated.
//! - Of two active callbacks, the earlier one stays active, unless the later one is claimed.
//! - After a repair, the destination's callbacks are counted again.
//!
//! A job with a row that cannot be read cannot be repaired: it is *stuck*, and reported. Its callbacks
//! fail as expired after `retry.max_age`, except those that cannot be read themselves.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    callback::Destination,
    outbox::{
        Mended, OutboxError, Readiness, Record, State, StateName,
        error::Result,
        sled::{
            blocks::{self, RECORDS, SET},
            commit::transaction::Transaction,
            keys::{self, QueueKey},
        },
        transition,
    },
};

/// Number of record rows checked per step (with the other callbacks of the jobs found in them). A row
/// has up to 16 records. Kept small because other writes wait for the step.
const STEP: usize = 16;

/// A pending callback of a job.
type Found = (QueueKey, u64, Record);

/// The result of one step.
#[derive(Default)]
struct Work {
    mended: u64,
    stuck: u64,
    /// Queues with repairs, whose counters may also be wrong.
    queues: BTreeMap<QueueKey, Option<Destination>>,
}

impl Transaction<'_> {
    /// Checks the rows after `after`: first the sets of pending callbacks, then the records.
    pub(crate) fn mend(&mut self, after: &[u8]) -> Result<Mended> {
        let mut work = Work::default();
        let next = if after.first().is_none_or(|prefix| *prefix == keys::PENDING_PREFIX) {
            self.mend_sets(after, &mut work)?.or_else(|| Some(vec![keys::RECORD_PREFIX]))
        } else {
            self.mend_records(after, &mut work)?
        };
        for (queue, destination) in std::mem::take(&mut work.queues) {
            self.recount(queue, destination)?;
        }
        Ok(Mended { mended: work.mended, stuck: work.stuck, next })
    }

    /// Checks that each pending callback has a record; `None` at the end.
    fn mend_sets(&mut self, after: &[u8], work: &mut Work) -> Result<Option<Vec<u8>>> {
        let from = if after.is_empty() { vec![keys::PENDING_PREFIX] } else { next_key(after) };
        let mut last = None;
        // One row, which has up to 1,024 callbacks.
        for row in self.store.tree.range(from..vec![keys::PENDING_PREFIX + 1]).take(1) {
            let (key, bytes) = row?;
            last = Some(key.to_vec());
            if blocks::Pending::decode(&key, &bytes).is_err() {
                work.stuck += 1;
                continue;
            }
            let (queue, block) = (keys::pending_queue(&key), keys::last_number(&key));
            let pending = self.shared.pending(queue, block * SET)?.all();
            for seq in pending.members(block) {
                if matches!(self.shared.callback(seq), Ok(None)) {
                    self.shared.remove_pending(queue, seq)?;
                    work.mended += 1;
                    work.queues.entry(queue).or_default();
                }
            }
        }
        Ok(last)
    }

    /// Checks that each callback is in its set and indexes, and that each job has one active callback;
    /// `None` at the end.
    fn mend_records(&mut self, after: &[u8], work: &mut Work) -> Result<Option<Vec<u8>>> {
        let mut last = None;
        for row in self.store.tree.range(next_key(after)..vec![keys::RECORD_PREFIX + 1]).take(STEP)
        {
            let (key, bytes) = row?;
            last = Some(key.to_vec());
            let Ok(entries) = blocks::entries(&key, &bytes) else {
                work.stuck += 1;
                continue;
            };
            let first = keys::last_number(&key) / RECORDS * RECORDS;
            let seqs: BTreeSet<_> =
                entries.iter().map(|entry| first + u64::from(entry.offset)).collect();
            for seq in seqs {
                self.mend_callback(seq, work)?;
            }
        }
        Ok(last)
    }

    fn mend_callback(&mut self, seq: u64, work: &mut Work) -> Result<()> {
        let delivered = self.shared.is_ended(StateName::Delivered, seq)?;
        let ended = delivered || self.shared.is_ended(StateName::Failed, seq)?;
        let record = match self.shared.callback(seq) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(()),
            Err(OutboxError::UnreadableRow { .. }) => {
                work.stuck += u64::from(!ended);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let queue = keys::parts(record.id).1;
        let State::Pending(readiness) = record.state else {
            if self.shared.is_pending(queue, seq)? {
                self.shared.remove_pending(queue, seq)?;
                work.queues.insert(queue, Some(record.destination.clone()));
            }
            if self.shared.insert_if_missing(queue, &record)? {
                work.mended += 1;
            }
            return Ok(());
        };
        if ended {
            // According to the set it has ended, but its outcome is missing.
            work.stuck += 1;
            return Ok(());
        }
        if !self.shared.is_pending(queue, seq)? {
            // It must not be claimed before this batch is synced.
            self.mark(queue, seq, &record)?;
            self.shared.insert(queue, &record)?;
            self.note_fresh(queue, &record)?;
            self.lower_job_begin(&record.body.job_id, seq)?;
            work.queues.insert(queue, Some(record.destination.clone()));
            work.mended += 1;
        }
        let in_job = keys::job(&record.body.job_id, seq);
        if self.writes.get(&in_job)?.is_none() {
            work.queues.insert(queue, Some(record.destination.clone()));
            self.writes.put(in_job, &queue.0.to_be_bytes());
            self.lower_job_begin(&record.body.job_id, seq)?;
            work.mended += 1;
        }
        if let Readiness::Scheduled(at) = readiness
            && self.writes.get(&keys::due(queue, at, seq))?.is_none()
        {
            self.writes.put(keys::due(queue, at, seq), b"");
            self.signal(queue, at);
            work.mended += 1;
        }
        // Check the job only once: when its first pending callback is reached.
        if self.first_pending(&record.body.job_id, None)?.is_some_and(|(first, _)| first == seq) {
            self.mend_job(&record.body.job_id, work)?;
        }
        Ok(())
    }

    /// Checks that one callback of a job is active.
    ///
    /// A job is always checked as a whole, with the changes of this transaction, because all callbacks
    /// in a part of it may be blocked.
    fn mend_job(&mut self, job_id: &str, work: &mut Work) -> Result<()> {
        let mut pending = Vec::new();
        let mut next = self.first_pending(job_id, None)?;
        while let Some((seq, queue)) = next {
            match self.shared.callback(seq) {
                Ok(Some(record)) => pending.push((queue, seq, record)),
                Ok(None) => {}
                // It is counted as stuck when the scan reaches it.
                Err(OutboxError::UnreadableRow { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
            next = self.first_pending(job_id, Some(seq))?;
        }
        let active = pending.iter().filter(|it| is_active(&it.2)).count();
        match active {
            0 => self.activate(pending, work),
            1 => Ok(()),
            _ => self.block_all_but_one(pending, work),
        }
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
        let in_flight = |(queue, seq, _): &&Found| {
            self.store.queues.lock().queues.get(queue).is_some_and(|it| it.is_claimed(*seq))
        };
        let stays = active().find(in_flight).or_else(|| active().next()).map(|it| it.1);
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

    /// Counts the pending callbacks of a destination.
    fn recount(&mut self, queue: QueueKey, destination: Option<Destination>) -> Result<()> {
        let (mut pending, mut fresh, mut scheduled) = (0, 0, 0);
        for block in self.shared.blocks_of(queue)? {
            let it = self.shared.pending(queue, block * SET)?;
            pending += it.all().len();
            fresh += it.fresh.len();
            for seq in it.others.members(block) {
                // A callback that cannot be read is never claimed.
                if let Some(record) = self.shared.readable(seq)?
                    && matches!(record.state, State::Pending(Readiness::Scheduled(_)))
                {
                    scheduled += 1;
                }
            }
        }
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
    !record.is_blocked()
}

/// The first key after this one.
fn next_key(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
