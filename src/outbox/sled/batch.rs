//! What one batch of writes changes. The committer runs the commands of a batch through
//! here, one after the other; nothing reaches the disk before all have run.
//!
//! The invariant that every function keeps: of the pending callbacks of one job exactly one
//! is *active*, that is [`Place::Fresh`] or [`Place::Scheduled`]; it is the first of the line,
//! or one that was in flight when an earlier one was replayed. All others are blocked.

use std::collections::{BTreeMap, HashMap, HashSet, hash_map::Entry};

use super::{
    Store,
    keys::{self, LaneKey},
    lanes::{Busy, Lane, LaneRow, Totals},
    txn::Txn,
};
use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
    measure,
    outbox::{
        Cancelled, Enqueued, Failure, NewCallback, OutboxError, Place, Record, Settlement, State,
        StateName, record, transition,
    },
};

/// How many attempts before the last one are kept of a callback.
const ATTEMPTS_KEPT: u32 = 1000;

type Result<T> = std::result::Result<T, OutboxError>;

/// The counters of a destination that a batch changes.
struct Changed {
    row: LaneRow,
    /// Whether it was one of the destinations with pending or failed ones before.
    counted: bool,
}

/// The stored counters of a destination.
fn stored_row(txn: &Txn<'_>, lane: LaneKey) -> Result<Option<LaneRow>> {
    let key = keys::lane(lane);
    let Some(bytes) = txn.get(&key)? else { return Ok(None) };
    record::decode(&bytes).map(Some).map_err(|error| OutboxError::damaged(&key, &error))
}

/// A batch in the making.
pub(super) struct Batch<'a> {
    pub(super) store: &'a Store,
    pub(super) txn: Txn<'a>,
    pub(super) now: Timestamp,
    pub(super) totals: Totals,
    /// Blocked ones, after what this batch did so far.
    pub(super) blocked: u64,
    rows: HashMap<LaneKey, Changed>,
    /// What is busy because of this batch, or was claimed until now.
    settled: Vec<(LaneKey, u64)>,
    signals: Vec<(LaneKey, Timestamp)>,
    /// When the budget began of what becomes pending, the earliest of each lane.
    budgets: HashMap<LaneKey, Timestamp>,
    delivered: Vec<u64>,
    failed: Vec<u64>,
    /// What was restored as ended, by when it ended.
    pub(super) restored: BTreeMap<(u8, Timestamp), Vec<u64>>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(store: &'a Store, now: Timestamp) -> Self {
        let (totals, blocked) = {
            let inner = store.lanes.lock();
            (inner.totals, inner.blocked)
        };
        Self {
            store,
            txn: Txn::new(&store.tree),
            now,
            totals,
            blocked,
            rows: HashMap::new(),
            settled: Vec::new(),
            signals: Vec::new(),
            budgets: HashMap::new(),
            delivered: Vec::new(),
            failed: Vec::new(),
            restored: BTreeMap::new(),
        }
    }

    /// How many are pending after what this batch did so far.
    pub(super) fn pending(&self) -> u64 {
        self.totals.pending
    }

    /// How many of these would be pending, and whether any of them would be stored at all: what is
    /// known already is not stored again.
    pub(super) fn wanted(&self, batch: &[NewCallback]) -> Result<(u64, bool)> {
        let (mut pending, mut stored) = (0, false);
        let mut keys = HashSet::new();
        for new in batch {
            if let Some(event_id) = &new.event_id
                && (!keys.insert(event_id) || self.txn.get(&keys::event(event_id))?.is_some())
            {
                continue;
            }
            stored = true;
            pending += u64::from(new.refusal.is_none());
        }
        Ok((pending, stored))
    }

    /// Stores a new callback.
    pub(super) fn enqueue(&mut self, new: NewCallback) -> Result<Enqueued> {
        let event_key = new.event_id.as_deref().map(keys::event);
        if let Some(key) = &event_key
            && let Some(known) = self.txn.get(key)?
        {
            let id = record::decode(&known).map_err(|e| OutboxError::damaged(key, &e))?;
            return Ok(Enqueued::Duplicate(id));
        }
        // Whoever writes URLs must not fill the disk with them.
        if new.refusal.is_some() && self.totals.failed >= self.store.settings.max_pending {
            return Ok(Enqueued::NotKept);
        }
        let lane = LaneKey::of(&self.store.salt, &new.destination);
        let seq = self.totals.next_seq;
        self.totals.next_seq += 1;
        let id = keys::id(seq, lane);
        if let Some(key) = event_key {
            self.txn.put(key, record::encode_row(&id)?);
        }
        if new.refusal.is_some() {
            let record = transition::refuse(new, id, self.now);
            self.put_finished(lane, &record)?;
        } else {
            let first = self.txn.first(&keys::job_line(&new.body.job_id))?.is_none();
            let record = transition::accept(new, id, self.now, first);
            self.put_pending(lane, &record)?;
        }
        Ok(Enqueued::Stored(id))
    }

    /// Records how a claimed callback's attempt ended.
    pub(super) fn settle(&mut self, record: Record, settlement: Settlement) -> Result<Record> {
        let (seq, lane) = keys::parts(record.id);
        let job_id = record.body.job_id.clone();
        self.settled.push((lane, seq));
        self.take_pending(lane, &record)?;
        if let Some(last) =
            record.last_attempt.as_ref().filter(|_| settlement_attempts(&settlement))
        {
            self.txn.put(keys::attempt(seq, last.number), record::encode_row(last)?);
            if let Some(oldest) = last.number.checked_sub(ATTEMPTS_KEPT) {
                self.txn.remove(keys::attempt(seq, oldest));
            }
        }
        let record = match settlement {
            Settlement::Delivered(attempt) => {
                let record = transition::deliver(record, attempt, self.now);
                self.put_finished(lane, &record)?;
                record
            }
            Settlement::Failed { attempt, failure, hold } => {
                self.hold(lane, &record, hold)?;
                let record = transition::fail(record, attempt, failure, self.now);
                self.put_finished(lane, &record)?;
                record
            }
            Settlement::Retry { attempt, due, hold } => {
                self.hold(lane, &record, hold)?;
                // An earlier one may have been replayed meanwhile: then that one is next.
                let first = self
                    .txn
                    .first(&keys::job_line(&job_id))?
                    .is_none_or(|(key, _)| keys::last_number(&key) > seq);
                let record = transition::retry(record, attempt, due, first);
                self.put_pending(lane, &record)?;
                record
            }
        };
        self.activate_first(&job_id)?;
        Ok(record)
    }

    fn hold(&mut self, lane: LaneKey, record: &Record, hold: Option<Timestamp>) -> Result<()> {
        if let Some(until) = hold {
            let later = self.now..=self.store.latest(self.now);
            let row = self.row(lane, &record.destination)?;
            let known = if row.is_held(&later) { row.hold_until } else { Timestamp::default() };
            row.hold_until = known.max(until);
        }
        Ok(())
    }

    /// Makes a failed callback pending again; `false` when it is not failed.
    pub(super) fn replay(&mut self, id: CallbackId) -> Result<bool> {
        let (seq, lane) = keys::parts(id);
        let key = keys::finished(StateName::Failed, seq);
        let Some(record) = self.txn.record(&key)?.filter(|record| record.id == id) else {
            return Ok(false);
        };
        self.mark(lane, seq, &record)?;
        self.txn.remove(key);
        self.totals.failed -= 1;
        let row = self.row(lane, &record.destination)?;
        row.failed = row.failed.saturating_sub(1);
        let first = match self.txn.first(&keys::job_line(&record.body.job_id))? {
            None => true,
            Some((head, _)) => {
                keys::last_number(&head) > seq && self.block_active(&record.body.job_id)?
            }
        };
        let record = transition::replay(record, self.now, first);
        self.put_pending(lane, &record)?;
        Ok(true)
    }

    /// Ends a pending callback that nobody delivers just now.
    pub(super) fn cancel(&mut self, id: CallbackId, failure: Failure) -> Result<Cancelled> {
        let (seq, lane) = keys::parts(id);
        let Some(record) = self.txn.record(&keys::pending(lane, seq))? else {
            for state in [StateName::Delivered, StateName::Failed] {
                let known = self.txn.record(&keys::finished(state, seq))?;
                if known.is_some_and(|record| record.id == id) {
                    return Ok(Cancelled::NotPending);
                }
            }
            return Ok(Cancelled::Unknown);
        };
        if !self.mark(lane, seq, &record)? {
            return Ok(Cancelled::InFlight);
        }
        self.end(lane, record, failure)?;
        Ok(Cancelled::Done)
    }

    /// Ends a pending callback whose budget began before `cutoff`, unless it is in flight.
    pub(super) fn expire(
        &mut self,
        id: CallbackId,
        cutoff: Timestamp,
        failure: &Failure,
    ) -> Result<Option<Record>> {
        let (seq, lane) = keys::parts(id);
        match self.txn.record(&keys::pending(lane, seq))? {
            Some(record) if record.budget_since < cutoff && self.mark(lane, seq, &record)? => {
                self.end(lane, record, failure.clone()).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn end(&mut self, lane: LaneKey, record: Record, failure: Failure) -> Result<Record> {
        let was_active = !matches!(record.state, State::Pending(Place::Blocked(_)));
        self.take_pending(lane, &record)?;
        let record = transition::fail(record, None, failure, self.now);
        self.put_finished(lane, &record)?;
        if was_active {
            self.activate_first(&record.body.job_id)?;
        }
        Ok(record)
    }

    /// Writes the pending record, its place in the job's line and, where it has one, in the
    /// due index.
    pub(super) fn put_pending(&mut self, lane: LaneKey, record: &Record) -> Result<()> {
        let seq = keys::seq_of(record.id);
        self.totals.pending += 1;
        let row = self.row(lane, &record.destination)?;
        row.pending += 1;
        match record.state {
            State::Pending(Place::Fresh) => row.fresh += 1,
            State::Pending(Place::Scheduled(_)) => row.scheduled += 1,
            _ => self.blocked += 1,
        }
        let oldest = self.budgets.entry(lane).or_insert(record.budget_since);
        *oldest = record.budget_since.min(*oldest);
        match record.state {
            State::Pending(Place::Fresh) => self.signals.push((lane, record.created_at)),
            State::Pending(Place::Scheduled(at)) => {
                self.txn.put(keys::due(lane, at, seq), b"");
                self.signals.push((lane, at));
            }
            _ => {}
        }
        self.txn.put(keys::job(&record.body.job_id, seq), &lane.0.to_be_bytes());
        self.txn.put_record(keys::pending(lane, seq), record)
    }

    /// Takes away all that [`Batch::put_pending`] wrote.
    pub(super) fn take_pending(&mut self, lane: LaneKey, record: &Record) -> Result<()> {
        let seq = keys::seq_of(record.id);
        self.totals.pending -= 1;
        let row = self.row(lane, &record.destination)?;
        row.pending = row.pending.saturating_sub(1);
        match record.state {
            State::Pending(Place::Fresh) => row.fresh = row.fresh.saturating_sub(1),
            State::Pending(Place::Scheduled(at)) => {
                row.scheduled = row.scheduled.saturating_sub(1);
                self.txn.remove(keys::due(lane, at, seq));
            }
            _ => self.blocked = self.blocked.saturating_sub(1),
        }
        self.txn.remove(keys::job(&record.body.job_id, seq));
        self.txn.remove(keys::pending(lane, seq));
        Ok(())
    }

    /// Has the destination looked at when `at` has come.
    pub(super) fn signal(&mut self, lane: LaneKey, at: Timestamp) {
        self.signals.push((lane, at));
    }

    fn put_finished(&mut self, lane: LaneKey, record: &Record) -> Result<()> {
        let seq = keys::seq_of(record.id);
        let state = record.state_name();
        if state == StateName::Failed {
            self.totals.failed += 1;
            self.row(lane, &record.destination)?.failed += 1;
            self.failed.push(seq);
        } else {
            self.totals.delivered += 1;
            self.delivered.push(seq);
        }
        self.txn.put_record(keys::finished(state, seq), record)
    }

    /// Keeps a callback from being claimed until this batch is on the disk; `false` where it
    /// is claimed already.
    pub(super) fn mark(&mut self, lane: LaneKey, seq: u64, record: &Record) -> Result<bool> {
        let row = self.row(lane, &record.destination)?.clone();
        let mut inner = self.store.lanes.lock();
        if record.state == State::Pending(Place::Fresh)
            && inner.lanes.get(&lane).is_some_and(|it| it.window.holds(seq))
        {
            inner.forget_window(lane);
        }
        let lane_in_memory = inner.lanes.entry(lane).or_insert_with(|| Lane::new(row));
        Ok(match lane_in_memory.busy.insert(seq, Busy::Committing) {
            // Settled in this very batch: it is not under way any more.
            Some(Busy::Claimed) if self.settled.contains(&(lane, seq)) => true,
            Some(Busy::Claimed) => {
                lane_in_memory.busy.insert(seq, Busy::Claimed);
                false
            }
            _ => {
                self.settled.push((lane, seq));
                true
            }
        })
    }

    /// The counters of a destination, as this batch has them. Those of one that has nothing pending
    /// are on the disk alone.
    pub(super) fn row(&mut self, lane: LaneKey, destination: &Destination) -> Result<&mut LaneRow> {
        match self.rows.entry(lane) {
            Entry::Occupied(row) => Ok(&mut row.into_mut().row),
            Entry::Vacant(place) => {
                let known = self.store.lanes.lock().lanes.get(&lane).map(|it| it.row.clone());
                let known = match known {
                    Some(row) => Some(row),
                    None => stored_row(&self.txn, lane)?,
                };
                let counted = known.as_ref().is_some_and(LaneRow::counts);
                let row = known.unwrap_or_else(|| LaneRow::new(destination.clone()));
                Ok(&mut place.insert(Changed { row, counted }).row)
            }
        }
    }

    /// The same for one of which perhaps no callback is at hand; `None` where it is not known at all.
    pub(super) fn known_row(
        &mut self,
        lane: LaneKey,
        destination: Option<Destination>,
    ) -> Result<Option<&mut LaneRow>> {
        let known =
            || self.store.lanes.lock().lanes.get(&lane).map(|it| it.row.destination.clone());
        let destination = match destination.or_else(known) {
            Some(destination) => destination,
            None => match stored_row(&self.txn, lane)? {
                Some(row) => row.destination,
                None => return Ok(None),
            },
        };
        self.row(lane, &destination).map(Some)
    }

    /// Adds the rows that a batch has once: counters and the retention index.
    pub(super) fn seal(&mut self) -> Result<()> {
        for (state, seqs) in
            [(StateName::Delivered, &self.delivered), (StateName::Failed, &self.failed)]
        {
            if !seqs.is_empty() {
                let value: Vec<u8> = seqs.iter().flat_map(|seq| seq.to_be_bytes()).collect();
                let key = keys::finished_batch(state, self.now, self.totals.next_batch);
                self.txn.put(key, value);
            }
        }
        for ((state, at), seqs) in &self.restored {
            let value: Vec<u8> = seqs.iter().flat_map(|seq| seq.to_be_bytes()).collect();
            self.txn.put(keys::retention_row(*state, *at, self.totals.next_batch), value);
        }
        self.totals.next_batch += 1;
        for (lane, Changed { row, .. }) in &self.rows {
            if row.is_idle() {
                self.txn.remove(keys::lane(*lane));
            } else {
                self.txn.put(keys::lane(*lane), record::encode_row(row)?);
            }
        }
        self.txn.put(keys::TOTALS.to_vec(), record::encode_row(&self.totals)?);
        Ok(())
    }

    /// Takes the writes out; what is left is what memory has to learn after the sync.
    pub(super) fn split(self) -> (sled::Batch, Published) {
        let published = Published {
            totals: self.totals,
            blocked: self.blocked,
            rows: self.rows,
            settled: self.settled,
            signals: self.signals,
            budgets: self.budgets,
            ended: (self.delivered.len() as u64, self.failed.len() as u64),
        };
        (self.txn.into_batch(), published)
    }
}

/// Whether the settlement brings an attempt, so that the last one becomes an earlier one.
fn settlement_attempts(settlement: &Settlement) -> bool {
    !matches!(settlement, Settlement::Failed { attempt: None, .. })
}

/// What memory learns once the disk has the batch.
pub(super) struct Published {
    totals: Totals,
    blocked: u64,
    rows: HashMap<LaneKey, Changed>,
    settled: Vec<(LaneKey, u64)>,
    signals: Vec<(LaneKey, Timestamp)>,
    budgets: HashMap<LaneKey, Timestamp>,
    /// How many were delivered, and how many have finally failed.
    ended: (u64, u64),
}

impl Published {
    /// Makes the batch visible to claims and the summary.
    pub(super) fn publish(self, store: &Store) {
        measure::ended(self.ended.0, self.ended.1);
        store.moves.note(&self.settled);
        let mut inner = store.lanes.lock();
        inner.totals = self.totals;
        inner.blocked = self.blocked;
        for (key, Changed { row, counted }) in &self.rows {
            match (counted, row.counts()) {
                (false, true) => inner.destinations += 1,
                (true, false) => inner.destinations -= 1,
                _ => {}
            }
            match inner.lanes.get_mut(key) {
                Some(lane) => lane.row = row.clone(),
                None if row.pending > 0 => {
                    inner.lanes.insert(*key, Lane::new(row.clone()));
                }
                // It is read from the disk when it is asked for.
                None => {}
            }
        }
        for (key, since) in self.budgets {
            if let Some(lane) = inner.lanes.get_mut(&key) {
                lane.oldest = lane.oldest.min(since);
            }
        }
        let mut wake = !self.signals.is_empty();
        for (key, seq) in self.settled {
            if inner.lanes.get_mut(&key).is_some_and(|lane| lane.free(seq)) {
                inner.signal(key, Timestamp::default());
                wake = true;
            }
        }
        for (lane, at) in self.signals {
            inner.signal(lane, at);
        }
        for lane in self.rows.keys() {
            inner.sweep(*lane);
        }
        drop(inner);
        if wake {
            store.lanes.wake();
        }
    }
}
