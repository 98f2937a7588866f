//! Publishing a batch after its sync.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

use crate::{
    clock::Timestamp,
    measure,
    outbox::sled::{
        claim::queue::Queue,
        commit::transaction::{Changed, Transaction},
        keys::QueueKey,
        rows::Totals,
        shared::store::Store,
    },
};

/// The changes of a batch to shared memory, to be made after its sync.
pub(crate) struct Published {
    totals: Totals,
    blocked: u64,
    rows: HashMap<QueueKey, Changed, RandomState>,
    to_free: Vec<(QueueKey, u64)>,
    signals: Vec<(QueueKey, Timestamp)>,
    retried: HashSet<QueueKey>,
    budgets: HashMap<QueueKey, Timestamp, RandomState>,
    /// Number of callbacks that were delivered, and that failed.
    ended: (u64, u64),
}

impl Published {
    /// Makes the batch visible to claims and the summary.
    ///
    /// Must be called after the sync: it raises `Totals::next_seq`, up to which claims read, and frees
    /// busy callbacks. If it were called earlier, a claim could return a callback that a power failure
    /// would undo.
    pub(crate) fn publish(self, store: &Store) {
        measure::ended(self.ended.0, self.ended.1);
        let mut inner = store.queues.lock();
        inner.totals = self.totals;
        inner.blocked = self.blocked;
        for (key, Changed { row, counted, lowest_fresh }) in &self.rows {
            match (counted, row.counts()) {
                (false, true) => inner.destinations += 1,
                (true, false) => inner.destinations -= 1,
                _ => {}
            }
            match inner.queues.get_mut(key) {
                Some(queue) => {
                    queue.row = row.clone();
                    if row.pending == 0 {
                        queue.open = None;
                    }
                    queue.changed(*lowest_fresh);
                    if *lowest_fresh < queue.window.from {
                        inner.look_from(*key, *lowest_fresh);
                    }
                }
                None if row.pending > 0 || row.paused_at.is_some() => {
                    inner.queues.insert(*key, Queue::new(row.clone()));
                }
                // Not kept in memory; it is read from the disk when needed.
                None => {}
            }
        }
        for (key, since) in self.budgets {
            if let Some(queue) = inner.queues.get_mut(&key) {
                queue.oldest = queue.oldest.min(since);
            }
        }
        let mut wake = !self.signals.is_empty();
        wake |= inner.free(self.to_free);
        for (queue, at) in self.signals {
            inner.signal(queue, at);
        }
        for queue in self.retried {
            inner.retry_now(queue);
            wake = true;
        }
        for queue in self.rows.keys() {
            inner.sweep(*queue);
        }
        drop(inner);
        if wake {
            store.queues.wake();
        }
    }
}

impl Transaction<'_> {
    /// Splits the transaction into its writes and what is published after their sync.
    pub(crate) fn into_parts(self) -> (sled::Batch, Published) {
        let published = Published {
            totals: self.totals,
            blocked: self.blocked,
            rows: self.rows,
            to_free: self.to_free,
            signals: self.signals,
            retried: self.retried,
            budgets: self.budgets,
            ended: (self.delivered.len() as u64, self.failed.len() as u64),
        };
        (self.writes.into_batch(), published)
    }
}
