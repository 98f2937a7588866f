//! A batch under construction. The committer applies all writes of a batch to it in order; nothing is
//! written to disk until all have been applied.
//!
//! # Invariant
//!
//! Of the pending callbacks of one job, exactly one is *active*, that is [`Readiness::Fresh`] or
//! [`Readiness::Scheduled`]: normally the first one, or a later one that was claimed while an earlier
//! one was replayed. All others are blocked.

use std::collections::{BTreeMap, HashMap, HashSet, hash_map};

use foldhash::fast::RandomState;

use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{
        Readiness, Record, State, StateName,
        error::Result,
        record,
        sled::{
            claim::queue::{Busy, Queue},
            commit::{shared_rows::SharedRows, write_set::WriteSet},
            keys::{self, QueueKey},
            rows::{QueueRow, Totals, decode},
            shared::store::Store,
        },
    },
};

/// The counters of a destination, changed by a batch.
pub(crate) struct Changed {
    pub(crate) row: QueueRow,
    /// Whether the destination had pending or failed callbacks before.
    pub(crate) counted: bool,
    /// The first callback that becomes fresh in this batch; claims start no later than it.
    pub(crate) lowest_fresh: u64,
}

/// The stored counters of a destination; also `None` if they cannot be read, so that one damaged row
/// does not stop all other callbacks.
fn stored_row(writes: &WriteSet<'_>, queue: QueueKey) -> Result<Option<QueueRow>> {
    let key = keys::queue(queue);
    let Some(bytes) = writes.get(&key)? else { return Ok(None) };
    Ok(decode(&key, &bytes).ok())
}

/// A batch under construction.
pub(crate) struct Transaction<'a> {
    pub(crate) store: &'a Store,
    pub(crate) writes: WriteSet<'a>,
    pub(crate) shared: SharedRows<'a>,
    pub(crate) now: Timestamp,
    pub(crate) totals: Totals,
    /// Number of blocked callbacks, with the changes so far.
    pub(crate) blocked: u64,
    pub(crate) rows: HashMap<QueueKey, Changed, RandomState>,
    /// Callbacks to be freed after the sync: those that this batch settles, and those that it marked
    /// busy.
    pub(crate) to_free: Vec<(QueueKey, u64)>,
    pub(crate) signals: Vec<(QueueKey, Timestamp)>,
    /// Destinations that an operator wants to be tried now.
    pub(crate) retried: HashSet<QueueKey>,
    /// By queue: the earliest `budget_since` of the callbacks that become pending.
    pub(crate) budgets: HashMap<QueueKey, Timestamp, RandomState>,
    /// By queue that was searched for old callbacks: `Queue::oldest` and `Queue::aged_to`.
    pub(crate) searched: Vec<(QueueKey, Timestamp, u64)>,
    pub(crate) delivered: Vec<u64>,
    pub(crate) failed: Vec<u64>,
    /// Imported callbacks that have ended, by (whether they failed, end time).
    pub(crate) restored: BTreeMap<(bool, Timestamp), Vec<u64>>,
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
            shared: SharedRows::new(&store.tree, totals.next_seq),
            now,
            totals,
            blocked,
            rows: HashMap::default(),
            to_free: Vec::new(),
            signals: Vec::new(),
            retried: HashSet::new(),
            budgets: HashMap::default(),
            searched: Vec::new(),
            delivered: Vec::new(),
            failed: Vec::new(),
            restored: BTreeMap::new(),
        }
    }

    /// Number of pending callbacks, with the changes so far.
    pub(crate) fn pending(&self) -> u64 {
        self.totals.pending
    }

    /// Whether nothing is changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.shared.is_empty()
    }

    /// Makes a callback pending: its set, its row in the due index, and the counters.
    pub(crate) fn put_pending(&mut self, queue: QueueKey, record: &Record) -> Result<()> {
        let seq = keys::seq_of(record.id);
        self.totals.pending += 1;
        let row = self.row(queue, &record.destination)?;
        row.pending += 1;
        match record.state {
            State::Pending(Readiness::Fresh) => {
                row.fresh += 1;
                self.note_fresh(queue, record)?;
            }
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
        self.shared.insert(queue, record)?;
        self.shared.put(record)
    }

    /// Makes the next claim start no later than this callback, if it is fresh.
    pub(crate) fn note_fresh(&mut self, queue: QueueKey, record: &Record) -> Result<()> {
        self.row(queue, &record.destination)?;
        if record.state == State::Pending(Readiness::Fresh)
            && let Some(changed) = self.rows.get_mut(&queue)
        {
            changed.lowest_fresh = changed.lowest_fresh.min(keys::seq_of(record.id));
        }
        Ok(())
    }

    /// Removes what [`Transaction::put_pending`] wrote.
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
        self.shared.remove_pending(queue, seq)
    }

    /// Writes the index rows of a callback: job, directory and event id.
    pub(crate) fn put_indexes(&mut self, queue: QueueKey, record: &Record) -> Result<()> {
        let seq = keys::seq_of(record.id);
        let value = queue.0.to_be_bytes();
        self.writes.put(keys::job(&record.body.job_id, seq), &value);
        self.writes.put(keys::directory(&record.body.job_id_fs, seq), &value);
        if let Some(event_id) = &record.event_id {
            self.writes.put(keys::event(event_id), record::encode(&record.id)?);
        }
        Ok(())
    }

    /// Ensures that the batch is committed even if only the counters of a destination have changed: its
    /// row must be written. Its value is written when the batch is sealed.
    pub(crate) fn require_commit(&mut self, queue: QueueKey) {
        self.writes.remove(keys::queue(queue));
    }

    /// Signals the destination as due at `at`.
    pub(crate) fn signal(&mut self, queue: QueueKey, at: Timestamp) {
        self.signals.push((queue, at));
    }

    /// Makes a callback ended: its set, its entry in the retention index, and the counters.
    pub(crate) fn put_ended(&mut self, queue: QueueKey, record: &Record) -> Result<()> {
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
        self.shared.insert(queue, record)?;
        self.shared.put(record)
    }

    /// Marks a callback busy until this batch is synced. Returns `false` if it is claimed.
    ///
    /// Must be called before a stored callback is changed. Otherwise the callback could be sent twice:
    /// a claim between the apply and the sync could return the changed callback, or a claim between the
    /// read and the apply the old version.
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
            // It was settled in this batch, so it is no longer claimed.
            Some(Busy::Claimed) if self.to_free.contains(&(queue, seq)) => true,
            Some(Busy::Claimed) => {
                in_memory.busy.insert(seq, Busy::Claimed);
                false
            }
            _ => {
                self.to_free.push((queue, seq));
                true
            }
        })
    }

    /// Discards the transaction before any of it is applied. It must not have settled anything: the outcome
    /// of an attempt would be lost.
    pub(crate) fn abandon(self) {
        let mut inner = self.store.queues.lock();
        let marked: Vec<_> = self.to_free.iter().map(|(queue, _)| *queue).collect();
        let wake = inner.free(self.to_free);
        for queue in marked {
            inner.sweep(queue);
        }
        drop(inner);
        if wake {
            self.store.queues.wake();
        }
    }

    /// Remembers how far the queues were searched for old callbacks, now that the writes of the batch were
    /// made: those that it expires are not found again.
    pub(crate) fn note_searched(&mut self) {
        let mut inner = self.store.queues.lock();
        for (queue, oldest, aged_to) in self.searched.drain(..) {
            if let Some(queue) = inner.queues.get_mut(&queue) {
                (queue.oldest, queue.aged_to) = (oldest, aged_to);
            }
        }
    }

    /// The counters of a destination, with the changes so far. If it has no pending callbacks, they are
    /// read from the disk.
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
                Ok(&mut place.insert(Changed { row, counted, lowest_fresh: u64::MAX }).row)
            }
        }
    }

    /// The same if possibly only the key of the destination is known; `None` if there is no such
    /// destination.
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

    /// Adds the rows written once per batch: counters and the retention index.
    pub(crate) fn seal(&mut self) -> Result<()> {
        for (state, seqs) in
            [(StateName::Delivered, &self.delivered), (StateName::Failed, &self.failed)]
        {
            if !seqs.is_empty() {
                let value: Vec<u8> = seqs.iter().flat_map(|seq| seq.to_be_bytes()).collect();
                let key = keys::ended_batch(state, self.now, self.totals.next_batch);
                self.writes.put(key, value);
            }
        }
        for ((failed, at), seqs) in &self.restored {
            let state = if *failed { StateName::Failed } else { StateName::Delivered };
            let value: Vec<u8> = seqs.iter().flat_map(|seq| seq.to_be_bytes()).collect();
            self.writes.put(keys::ended_batch(state, *at, self.totals.next_batch), value);
        }
        self.shared.seal(&mut self.writes)?;
        self.totals.next_batch += 1;
        for (queue, Changed { row, .. }) in &self.rows {
            if row.is_idle() {
                self.writes.remove(keys::queue(*queue));
            } else {
                self.writes.put(keys::queue(*queue), record::encode(row)?);
            }
        }
        self.writes.put(keys::TOTALS.to_vec(), record::encode(&self.totals)?);
        Ok(())
    }
}
