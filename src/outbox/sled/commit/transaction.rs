//! What one batch of writes changes. The committer runs the commands of a batch through
//! here, one after the other; nothing reaches the disk before all have run.
//!
//! The invariant that every function keeps: of the pending callbacks of one job exactly one
//! is *active*, that is [`Readiness::Fresh`] or [`Readiness::Scheduled`]; it is the first of the line,
//! or one that was in flight when an earlier one was replayed. All others are blocked.

use std::collections::{BTreeMap, HashMap, hash_map};

use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{
        Readiness, Record, State, StateName,
        error::Result,
        record,
        sled::{
            claim::queue::{Busy, Queue},
            commit::write_set::WriteSet,
            keys::{self, QueueKey},
            rows::{QueueRow, Totals, decode},
            shared::store::Store,
        },
    },
};

/// The counters of a destination that a batch changes.
pub(crate) struct Changed {
    pub(crate) row: QueueRow,
    /// Whether it was one of the destinations with pending or failed ones before.
    pub(crate) counted: bool,
}

/// The stored counters of a destination.
fn stored_row(writes: &WriteSet<'_>, queue: QueueKey) -> Result<Option<QueueRow>> {
    let key = keys::queue(queue);
    let Some(bytes) = writes.get(&key)? else { return Ok(None) };
    decode(&key, &bytes).map(Some)
}

/// A batch in the making.
pub(crate) struct Transaction<'a> {
    pub(crate) store: &'a Store,
    pub(crate) writes: WriteSet<'a>,
    pub(crate) now: Timestamp,
    pub(crate) totals: Totals,
    /// Blocked ones, after what this batch did so far.
    pub(crate) blocked: u64,
    pub(crate) rows: HashMap<QueueKey, Changed>,
    /// What the sync makes free: claimed until now, or busy because of this batch.
    pub(crate) released: Vec<(QueueKey, u64)>,
    pub(crate) signals: Vec<(QueueKey, Timestamp)>,
    /// When the budget began of what becomes pending, the earliest of each queue.
    pub(crate) budgets: HashMap<QueueKey, Timestamp>,
    pub(crate) delivered: Vec<u64>,
    pub(crate) failed: Vec<u64>,
    /// What was restored as ended, by when it ended.
    pub(crate) restored: BTreeMap<(u8, Timestamp), Vec<u64>>,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(store: &'a Store, now: Timestamp) -> Self {
        let (totals, blocked) = {
            let inner = store.queues.lock();
            (inner.totals, inner.blocked)
        };
        Self {
            store,
            writes: WriteSet::new(&store.tree),
            now,
            totals,
            blocked,
            rows: HashMap::new(),
            released: Vec::new(),
            signals: Vec::new(),
            budgets: HashMap::new(),
            delivered: Vec::new(),
            failed: Vec::new(),
            restored: BTreeMap::new(),
        }
    }

    /// How many are pending after what this batch did so far.
    pub(crate) fn pending(&self) -> u64 {
        self.totals.pending
    }

    /// Writes the pending record, its place in the job's line and, where it has one, in the
    /// due index.
    pub(crate) fn put_pending(&mut self, queue: QueueKey, record: &Record) -> Result<()> {
        let seq = keys::seq_of(record.id);
        self.totals.pending += 1;
        let row = self.row(queue, &record.destination)?;
        row.pending += 1;
        match record.state {
            State::Pending(Readiness::Fresh) => row.fresh += 1,
            State::Pending(Readiness::Scheduled(_)) => row.scheduled += 1,
            _ => self.blocked += 1,
        }
        let oldest = self.budgets.entry(queue).or_insert(record.budget_since);
        *oldest = record.budget_since.min(*oldest);
        match record.state {
            State::Pending(Readiness::Fresh) => self.signals.push((queue, record.created_at)),
            State::Pending(Readiness::Scheduled(at)) => {
                self.writes.put(keys::due(queue, at, seq), b"");
                self.signals.push((queue, at));
            }
            _ => {}
        }
        self.writes.put(keys::job(&record.body.job_id, seq), &queue.0.to_be_bytes());
        self.writes.put_record(keys::pending(queue, seq), record)
    }

    /// Takes away all that [`Transaction::put_pending`] wrote.
    pub(crate) fn take_pending(&mut self, queue: QueueKey, record: &Record) -> Result<()> {
        let seq = keys::seq_of(record.id);
        self.totals.pending -= 1;
        let row = self.row(queue, &record.destination)?;
        row.pending = row.pending.saturating_sub(1);
        match record.state {
            State::Pending(Readiness::Fresh) => row.fresh = row.fresh.saturating_sub(1),
            State::Pending(Readiness::Scheduled(at)) => {
                row.scheduled = row.scheduled.saturating_sub(1);
                self.writes.remove(keys::due(queue, at, seq));
            }
            _ => self.blocked = self.blocked.saturating_sub(1),
        }
        self.writes.remove(keys::job(&record.body.job_id, seq));
        self.writes.remove(keys::pending(queue, seq));
        Ok(())
    }

    /// Has the destination looked at when `at` has come.
    pub(crate) fn signal(&mut self, queue: QueueKey, at: Timestamp) {
        self.signals.push((queue, at));
    }

    pub(crate) fn put_finished(&mut self, queue: QueueKey, record: &Record) -> Result<()> {
        let seq = keys::seq_of(record.id);
        let state = record.state_name();
        if state == StateName::Failed {
            self.totals.failed += 1;
            self.row(queue, &record.destination)?.failed += 1;
            self.failed.push(seq);
        } else {
            self.totals.delivered += 1;
            self.delivered.push(seq);
        }
        self.writes.put_record(keys::finished(state, seq), record)
    }

    /// Keeps a callback from being claimed until this batch is on the disk; `false` where it
    /// is claimed already.
    pub(crate) fn mark(&mut self, queue: QueueKey, seq: u64, record: &Record) -> Result<bool> {
        let row = self.row(queue, &record.destination)?.clone();
        let mut inner = self.store.queues.lock();
        if record.state == State::Pending(Readiness::Fresh)
            && inner.queues.get(&queue).is_some_and(|it| it.window.holds(seq))
        {
            inner.forget_window(queue);
        }
        let in_memory = inner.queues.entry(queue).or_insert_with(|| Queue::new(row));
        Ok(match in_memory.busy.insert(seq, Busy::Committing) {
            // Settled in this very batch: it is not under way any more.
            Some(Busy::Claimed) if self.released.contains(&(queue, seq)) => true,
            Some(Busy::Claimed) => {
                in_memory.busy.insert(seq, Busy::Claimed);
                false
            }
            _ => {
                self.released.push((queue, seq));
                true
            }
        })
    }

    /// The counters of a destination, as this batch has them. Those of one that has nothing pending
    /// are on the disk alone.
    pub(crate) fn row(
        &mut self,
        queue: QueueKey,
        destination: &Destination,
    ) -> Result<&mut QueueRow> {
        match self.rows.entry(queue) {
            hash_map::Entry::Occupied(row) => Ok(&mut row.into_mut().row),
            hash_map::Entry::Vacant(place) => {
                let known = self.store.queues.lock().queues.get(&queue).map(|it| it.row.clone());
                let known = match known {
                    Some(row) => Some(row),
                    None => stored_row(&self.writes, queue)?,
                };
                let counted = known.as_ref().is_some_and(QueueRow::counts);
                let row = known.unwrap_or_else(|| QueueRow::new(destination.clone()));
                Ok(&mut place.insert(Changed { row, counted }).row)
            }
        }
    }

    /// The same for one of which perhaps no callback is at hand; `None` where it is not known at all.
    pub(crate) fn known_row(
        &mut self,
        queue: QueueKey,
        destination: Option<Destination>,
    ) -> Result<Option<&mut QueueRow>> {
        let known =
            || self.store.queues.lock().queues.get(&queue).map(|it| it.row.destination.clone());
        let destination = match destination.or_else(known) {
            Some(destination) => destination,
            None => match stored_row(&self.writes, queue)? {
                Some(row) => row.destination,
                None => return Ok(None),
            },
        };
        self.row(queue, &destination).map(Some)
    }

    /// Adds the rows that a batch has once: counters and the retention index.
    pub(crate) fn seal(&mut self) -> Result<()> {
        for (state, seqs) in
            [(StateName::Delivered, &self.delivered), (StateName::Failed, &self.failed)]
        {
            if !seqs.is_empty() {
                let value: Vec<u8> = seqs.iter().flat_map(|seq| seq.to_be_bytes()).collect();
                let key = keys::finished_batch(state, self.now, self.totals.next_batch);
                self.writes.put(key, value);
            }
        }
        for ((state, at), seqs) in &self.restored {
            let value: Vec<u8> = seqs.iter().flat_map(|seq| seq.to_be_bytes()).collect();
            self.writes.put(keys::retention_row(*state, *at, self.totals.next_batch), value);
        }
        self.totals.next_batch += 1;
        for (queue, Changed { row, .. }) in &self.rows {
            if row.is_idle() {
                self.writes.remove(keys::queue(*queue));
            } else {
                self.writes.put(keys::queue(*queue), record::encode_row(row)?);
            }
        }
        self.writes.put(keys::TOTALS.to_vec(), record::encode_row(&self.totals)?);
        Ok(())
    }
}
