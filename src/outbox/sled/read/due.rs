//! What is due of each destination: scheduled callbacks are counted in the due index, and the oldest due
//! callback is looked for.
//!
//! What was read is remembered with the queue until it changes. When many have changed since the last
//! summary, they are not all read again.

use std::time::Duration;

use crate::{
    clock::Timestamp,
    outbox::{
        error::Result,
        horizon::Horizon,
        sled::{
            blocks::Pending,
            claim::queue::{DueSeen, FirstFresh},
            keys,
            read::{due_index::DueIndex, listing::LIST_SCAN_LIMIT, snapshot::DestinationSnapshot},
            rows,
            shared::store::Store,
        },
    },
};

/// Callbacks of a queue that are searched for the oldest due one.
const OLDEST_SCAN_LIMIT: usize = 256;

/// Maximum number of queues whose first fresh callback one summary looks for again. Each costs a seek and a
/// callback, which is seldom in memory.
const FRESH_AGAIN: usize = 200;

/// What is due of a destination.
pub(crate) struct DueCount {
    /// Callbacks that could be sent, or are being sent.
    pub(crate) ready: u64,
    /// When the oldest one became due that is not busy.
    pub(crate) oldest: Option<Timestamp>,
}

impl DueCount {
    fn note(&mut self, due: Option<Timestamp>) {
        self.oldest = self.oldest.into_iter().chain(due).min();
    }
}

/// Reads what is due of one destination after the other.
pub(crate) struct DueReader<'a> {
    store: &'a Store,
    horizon: Horizon,
    /// Rows of the due index over all destinations.
    looked_at: usize,
    index: DueIndex<'a>,
}

impl<'a> DueReader<'a> {
    pub(crate) fn new(store: &'a Store, horizon: Horizon) -> Self {
        Self { store, horizon, looked_at: 0, index: DueIndex::new(&store.tree) }
    }

    /// What is due of these destinations, in the same order. They are quickest in the order of their keys.
    ///
    /// If more than [`FRESH_AGAIN`] destinations have changed, some of the times are those of a callback
    /// before the oldest one.
    pub(crate) fn all(mut self, queues: &[DestinationSnapshot]) -> Result<Vec<DueCount>> {
        let mut all = Vec::with_capacity(queues.len());
        let mut passed = Vec::new();
        for (at, queue) in queues.iter().enumerate() {
            let mut due = self.scheduled(queue)?;
            match queue.first_fresh {
                // Everything that is due is in flight.
                _ if due.ready <= queue.in_flight => {}
                _ if queue.row.fresh == 0 => {}
                Some(FirstFresh { created_at, is_passed: false, .. }) => due.note(Some(created_at)),
                Some(first) => passed.push((first.created_at, at)),
                None => due.note(self.oldest_fresh(queue)?),
            }
            all.push(due);
        }
        // Those that may have the oldest ones come first.
        passed.sort_unstable();
        for (n, (at_least, at)) in passed.into_iter().enumerate() {
            let read = n < FRESH_AGAIN;
            let oldest = if read { self.oldest_fresh(&queues[at])? } else { Some(at_least) };
            all[at].note(oldest);
        }
        Ok(all)
    }

    /// Counts what is due of a destination. The oldest one is the oldest scheduled one.
    pub(crate) fn scheduled(&mut self, queue: &DestinationSnapshot) -> Result<DueCount> {
        let now = self.horizon.now;
        let mut due = DueCount { ready: queue.row.fresh, oldest: None };
        if queue.row.scheduled > 0 && !queue.no_scheduled_due {
            let is_still_so = |seen: &DueSeen| {
                (seen.from..seen.until).contains(&now)
                    && seen.oldest.is_none_or(|(seq, _)| !queue.busy.contains(&seq))
            };
            let seen = match queue.due_seen.filter(is_still_so) {
                Some(seen) => seen,
                None => self.read_scheduled(queue)?,
            };
            due.ready += seen.count;
            due.note(seen.oldest.map(|(_, at)| at.min(now)));
        }
        Ok(due)
    }

    /// Reads what is due in the due index of a queue, and remembers it.
    fn read_scheduled(&mut self, queue: &DestinationSnapshot) -> Result<DueSeen> {
        let (store, horizon) = (self.store, self.horizon);
        let DestinationSnapshot { key, busy, .. } = queue;
        let mut seen = DueSeen { count: 0, oldest: None, from: horizon.now, until: Timestamp::MAX };
        let mut row = self.index.first(*key, Timestamp::default())?;
        // With time, what was stored while the clock was ahead may no longer be due.
        let mut keeps = true;
        while let Some(entry) = row {
            let at = keys::due_time(&entry);
            if horizon.is_later(at) {
                // What lies after the horizon was scheduled while the clock was ahead, and is due.
                seen.until = seen.until.min(at);
                let beyond = horizon.latest.after(Duration::from_millis(1));
                if beyond <= horizon.latest {
                    break;
                }
                row = self.index.first(*key, beyond)?;
                continue;
            }
            if self.looked_at >= LIST_SCAN_LIMIT {
                // At the limit, all scheduled ones of this destination count as due.
                seen.count = queue.row.scheduled;
                return Ok(seen);
            }
            keeps &= at <= horizon.now;
            self.looked_at += 1;
            seen.count += 1;
            let seq = keys::last_number(&entry);
            if seen.oldest.is_none() && !busy.contains(&seq) {
                seen.oldest = Some((seq, at));
            }
            row = self.index.next()?;
        }
        if keeps {
            queue.remember(store, |queue| queue.due_seen = Some(seen));
        }
        Ok(seen)
    }

    /// When the first fresh callback of a queue that is not busy was accepted.
    fn oldest_fresh(&self, queue: &DestinationSnapshot) -> Result<Option<Timestamp>> {
        let mut looked_at = 0;
        for row in self.store.tree.scan_prefix(keys::pending_prefix(queue.key)) {
            let (place, bytes) = row?;
            // Of a block that cannot be read, nothing is claimed.
            let Ok(pending) = Pending::decode(&place, &bytes) else { continue };
            for seq in pending.fresh.members(keys::last_number(&place)) {
                looked_at += 1;
                if looked_at > OLDEST_SCAN_LIMIT {
                    return Ok(None);
                }
                if !queue.busy.contains(&seq)
                    && let Some(record) =
                        rows::readable(rows::Records::default().get(&self.store.tree, seq))?
                {
                    let created_at = record.created_at;
                    let first = FirstFresh { seq, created_at, is_passed: false };
                    queue.remember(self.store, |queue| queue.first_fresh = Some(first));
                    return Ok(Some(created_at));
                }
            }
        }
        Ok(None)
    }
}
