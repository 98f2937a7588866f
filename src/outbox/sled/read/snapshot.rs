//! The destinations in memory, as they were at one moment.

use std::collections::HashSet;

use crate::outbox::{
    DestinationSummary, Open,
    horizon::Horizon,
    sled::{
        claim::queue::{DueSeen, FirstFresh, Queue},
        keys::QueueKey,
        rows::QueueRow,
        shared::store::Store,
    },
};

/// A destination as it was at one moment.
pub(crate) struct DestinationSnapshot {
    pub(super) key: QueueKey,
    pub(crate) row: QueueRow,
    pub(crate) in_flight: u64,
    pub(super) busy: HashSet<u64>,
    pub(crate) open: Option<Open>,
    /// No scheduled callback is due.
    pub(super) no_scheduled_due: bool,
    pub(super) first_fresh: Option<FirstFresh>,
    pub(super) due_seen: Option<DueSeen>,
    /// `Queue::change` at that moment; `None` if the destination is not in memory.
    change: Option<u64>,
}

impl DestinationSnapshot {
    pub(super) fn of(key: QueueKey, queue: &Queue, horizon: Horizon) -> Self {
        Self {
            key,
            row: queue.row.clone(),
            in_flight: queue.in_flight(),
            busy: queue.busy.keys().copied().collect(),
            open: queue.shown_open(),
            no_scheduled_due: queue.busy.is_empty() && !queue.may_have_scheduled(horizon),
            first_fresh: queue.known_first_fresh(),
            due_seen: queue.due_seen,
            change: Some(queue.change),
        }
    }

    /// A destination that is not in memory.
    pub(super) fn stored(key: QueueKey, row: QueueRow) -> Self {
        Self {
            key,
            row,
            in_flight: 0,
            busy: HashSet::new(),
            open: None,
            no_scheduled_due: false,
            first_fresh: None,
            due_seen: None,
            change: None,
        }
    }

    /// Remembers what was read, unless the queue has changed since this snapshot.
    pub(super) fn remember(&self, store: &Store, what: impl FnOnce(&mut Queue)) {
        let mut inner = store.queues.lock();
        if let Some(queue) = inner.queues.get_mut(&self.key)
            && Some(queue.change) == self.change
        {
            what(queue);
        }
    }

    /// Its summary, with the number of callbacks that could be sent or are being sent.
    pub(crate) fn summary(&self, ready: u64, horizon: Horizon) -> DestinationSummary {
        let Self { row, in_flight, open, .. } = self;
        DestinationSummary {
            hold_until: row.is_held(horizon).then_some(row.hold_until),
            paused_at: row.paused_at,
            destination: row.destination.clone(),
            pending: row.pending,
            due: ready.saturating_sub(*in_flight),
            in_flight: *in_flight,
            failed: row.failed,
            open: *open,
        }
    }
}

/// The destinations in memory, in the order of their keys, and the number of those that are not: they have
/// failed callbacks only.
pub(crate) fn in_memory(store: &Store, horizon: Horizon) -> (Vec<DestinationSnapshot>, u64) {
    let inner = store.queues.lock();
    let all = inner.queues.iter();
    let mut seen: Vec<_> =
        all.map(|(key, queue)| DestinationSnapshot::of(*key, queue, horizon)).collect();
    let counting = seen.iter().filter(|it| it.row.counts()).count() as u64;
    let others = inner.destinations.saturating_sub(counting);
    drop(inner);
    seen.sort_unstable_by_key(|it| it.key);
    (seen, others)
}
