//! Jobs that stand still: pending callbacks of which none would ever be claimed.
//!
//! The invariant at the top of [`batch`](super::batch) says that of a job's pending callbacks exactly
//! one is active. No code breaks it, but a row may be lost to damage that nothing else notices, and
//! then a job waits without a word until it expires. So all pending callbacks are looked at again and
//! again, a few with each call, and what can be proven is put right:
//!
//! - a row of a job's line without its callback goes;
//! - where all of a job's callbacks are blocked, the first one becomes active;
//! - of two active ones the earlier stays, unless the later one is under way;
//! - an active one gets its row in the due index, and a callback its row in the job's line;
//! - where something was put right, the destination's callbacks are counted anew.
//!
//! What cannot be read cannot be put right: its job is *stuck*, and is said to be.

use std::collections::BTreeMap;

use super::{
    batch::Batch,
    keys::{self, LaneKey},
};
use crate::{
    callback::Destination,
    outbox::{Mended, OutboxError, Place, Record, State, record, transition},
};

/// How many rows one step looks at, but for the rest of the last job.
const STEP: usize = 256;

/// A pending callback of a job.
type Found = (LaneKey, u64, Record);

/// What one step has done.
#[derive(Default)]
struct Work {
    mended: u64,
    stuck: u64,
    /// Where rows were missing; what counts them may be wrong as well.
    lanes: BTreeMap<LaneKey, Option<Destination>>,
}

type Result<T> = std::result::Result<T, OutboxError>;

impl Batch<'_> {
    /// Looks at the rows behind `after`: first the jobs' lines, then the callbacks.
    pub(super) fn mend(&mut self, after: &[u8]) -> Result<Mended> {
        let mut work = Work::default();
        let next = if after.first().is_none_or(|prefix| *prefix == b'j') {
            self.mend_jobs(after, &mut work)?.or_else(|| Some(b"p".to_vec()))
        } else {
            self.mend_callbacks(after, &mut work)?
        };
        for (lane, destination) in std::mem::take(&mut work.lanes) {
            self.recount(lane, destination)?;
        }
        Ok(Mended { mended: work.mended, stuck: work.stuck, next })
    }

    /// Goes over the lines of jobs; `None` at their end.
    ///
    /// A job is always looked at as a whole, as this batch leaves it: of a part of its callbacks all
    /// may well be blocked. So the next step begins behind the last job, not behind the last row: the
    /// job may have grown meanwhile.
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

    /// Looks at one job; says how many callbacks it has.
    fn mend_job(&mut self, job: &[u8], work: &mut Work) -> Result<usize> {
        let mut pending = Vec::new();
        let mut next = self.txn.first(job)?;
        while let Some((key, value)) = next {
            let (seq, lane) = (keys::last_number(&key), LaneKey(keys::number(&value)));
            match self.txn.record(&keys::pending(lane, seq)) {
                Ok(Some(record)) => pending.push((lane, seq, record)),
                Ok(None) => {
                    self.txn.remove(key.to_vec());
                    work.mended += 1;
                    work.lanes.entry(lane).or_default();
                }
                Err(OutboxError::Damaged { .. }) => {
                    work.stuck += 1;
                    return Ok(pending.len());
                }
                Err(error) => return Err(error),
            }
            next = self.txn.first_behind(job, Some(&key))?;
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

    /// Of callbacks that are all blocked, the first one becomes active.
    fn activate(&mut self, pending: Vec<Found>, work: &mut Work) -> Result<()> {
        if let Some((lane, seq, record)) = pending.into_iter().next()
            && self.mark(lane, seq, &record)?
        {
            work.mended += 1;
            work.lanes.insert(lane, Some(record.destination.clone()));
            self.take_pending(lane, &record)?;
            self.put_pending(lane, &transition::activate(record, self.now))?;
        }
        Ok(())
    }

    /// The one that is under way stays active, or the first one.
    fn block_all_but_one(&mut self, pending: Vec<Found>, work: &mut Work) -> Result<()> {
        let active = || pending.iter().filter(|it| is_active(&it.2));
        let under_way = |(lane, seq, _): &&Found| {
            self.store.lanes.lock().lanes.get(lane).is_some_and(|it| it.is_claimed(*seq))
        };
        let stays = active().find(under_way).or_else(|| active().next()).map(|it| it.1);
        for (lane, seq, record) in pending {
            if is_active(&record) && Some(seq) != stays && self.mark(lane, seq, &record)? {
                work.mended += 1;
                work.lanes.insert(lane, Some(record.destination.clone()));
                self.take_pending(lane, &record)?;
                self.put_pending(lane, &transition::block(record))?;
            }
        }
        Ok(())
    }

    /// Goes over the pending callbacks; `None` at their end.
    fn mend_callbacks(&mut self, after: &[u8], work: &mut Work) -> Result<Option<Vec<u8>>> {
        let from = [after, &[0]].concat();
        let mut last = None;
        for row in self.store.tree.range(from..vec![b'p' + 1]).take(STEP) {
            let key = row?.0.to_vec();
            last = Some(key.clone());
            let Some(bytes) = self.txn.get(&key)? else { continue };
            let Ok(record) = record::decode::<Record>(&bytes) else {
                work.stuck += 1;
                continue;
            };
            let (seq, lane) = keys::parts(record.id);
            let in_line = keys::job(&record.body.job_id, seq);
            if self.txn.get(&in_line)?.is_none() {
                work.lanes.insert(lane, Some(record.destination.clone()));
                self.txn.put(in_line, &lane.0.to_be_bytes());
                work.mended += 1;
            }
            if let State::Pending(Place::Scheduled(at)) = record.state
                && self.txn.get(&keys::due(lane, at, seq))?.is_none()
            {
                self.txn.put(keys::due(lane, at, seq), b"");
                self.signal(lane, at);
                work.mended += 1;
            }
        }
        Ok(last)
    }

    /// Counts the pending callbacks of a destination anew.
    fn recount(&mut self, lane: LaneKey, destination: Option<Destination>) -> Result<()> {
        let (mut pending, mut fresh, mut scheduled) = (0, 0, 0);
        self.txn.each(&keys::pending(lane, 0)[..9], |bytes| {
            pending += 1;
            match record::decode::<Record>(bytes).map(|record| record.state) {
                Ok(State::Pending(Place::Fresh)) => fresh += 1,
                Ok(State::Pending(Place::Scheduled(_))) => scheduled += 1,
                // One that cannot be read is nobody's.
                _ => {}
            }
        })?;
        let Some(row) = self.known_row(lane, destination)? else { return Ok(()) };
        let (counted, blocked) = (row.pending, row.blocked());
        (row.pending, row.fresh, row.scheduled) = (pending, fresh, scheduled);
        let now_blocked = row.blocked();
        self.totals.pending = (self.totals.pending + pending).saturating_sub(counted);
        self.blocked = (self.blocked + now_blocked).saturating_sub(blocked);
        Ok(())
    }
}

fn is_active(record: &Record) -> bool {
    !matches!(record.state, State::Pending(Place::Blocked(_)))
}

/// The first key behind all of a job's line.
fn behind(line: &[u8]) -> Vec<u8> {
    [line, &u64::MAX.to_be_bytes(), &[0]].concat()
}

/// The part of a key of a job's line that all of the job have.
fn line_of(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(8)]
}
