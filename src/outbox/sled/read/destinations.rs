//! Destinations: their counters, and what is due. Those with pending callbacks and those that are paused are
//! in memory; those with failed callbacks only are read from the tree.

use std::{collections::HashSet, time::Duration};

use crate::{
    clock::Timestamp,
    outbox::{
        DestinationPage, DestinationQuery, DestinationSummary, Open,
        error::Result,
        horizon::Horizon,
        sled::{
            blocks::Pending,
            claim::queue::{DueSeen, Queue},
            keys::{self, QueueKey},
            read::listing::LIST_SCAN_LIMIT,
            rows::{self, QueueRow, decode},
            shared::store::Store,
        },
        views,
    },
};

/// Callbacks of a queue that are searched for the oldest due one.
const OLDEST_SCAN_LIMIT: usize = 256;

/// A destination as it was at one moment.
pub(crate) struct DestinationSnapshot {
    key: QueueKey,
    pub(crate) row: QueueRow,
    pub(crate) in_flight: u64,
    busy: HashSet<u64>,
    pub(crate) open: Option<Open>,
    /// No scheduled callback is due.
    no_scheduled_due: bool,
    first_fresh: Option<(u64, Timestamp)>,
    due_seen: Option<DueSeen>,
    /// `Queue::change` at that moment; `None` if the destination is not in memory.
    change: Option<u64>,
}

impl DestinationSnapshot {
    fn of(key: QueueKey, queue: &Queue, horizon: Horizon) -> Self {
        Self {
            key,
            row: queue.row.clone(),
            in_flight: queue.in_flight(),
            busy: queue.busy.keys().copied().collect(),
            open: queue.shown_open(),
            no_scheduled_due: queue.busy.is_empty() && !queue.may_have_scheduled(horizon),
            first_fresh: queue.first_fresh,
            due_seen: queue.due_seen,
            change: Some(queue.change),
        }
    }

    /// A destination that is not in memory.
    fn stored(key: QueueKey, row: QueueRow) -> Self {
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

    /// Whether what was read of the due index is what would be read now.
    fn is_still_so(&self, seen: &DueSeen, now: Timestamp) -> bool {
        (seen.from..seen.until).contains(&now)
            && seen.oldest.is_none_or(|(seq, _)| !self.busy.contains(&seq))
    }

    /// Remembers what was read, unless the queue has changed since this snapshot.
    fn remember(&self, store: &Store, what: impl FnOnce(&mut Queue)) {
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

/// The destinations in memory, and the number of those that are not: they have failed callbacks only.
pub(crate) fn in_memory(store: &Store, horizon: Horizon) -> (Vec<DestinationSnapshot>, u64) {
    let inner = store.queues.lock();
    let all = inner.queues.iter();
    let seen: Vec<_> =
        all.map(|(key, queue)| DestinationSnapshot::of(*key, queue, horizon)).collect();
    let counting = seen.iter().filter(|it| it.row.counts()).count() as u64;
    (seen, inner.destinations.saturating_sub(counting))
}

/// What is due of a destination.
pub(crate) struct DueCount {
    /// Callbacks that could be sent, or are being sent.
    pub(crate) ready: u64,
    /// When the oldest one became due that is not busy.
    pub(crate) oldest: Option<Timestamp>,
}

/// Counts what is due of a destination. `looked_at` counts rows over all destinations.
pub(crate) fn due(
    store: &Store,
    queue: &DestinationSnapshot,
    horizon: Horizon,
    looked_at: &mut usize,
) -> Result<DueCount> {
    let row = &queue.row;
    let mut due = DueCount { ready: row.fresh, oldest: None };
    if row.scheduled > 0 && !queue.no_scheduled_due {
        let seen = match queue.due_seen.filter(|seen| queue.is_still_so(seen, horizon.now)) {
            Some(seen) => seen,
            None => scheduled_due(store, queue, horizon, looked_at)?,
        };
        due.ready += seen.count;
        due.oldest = seen.oldest.map(|(_, at)| at.min(horizon.now));
    }
    if row.fresh > 0
        && let Some(created) = oldest_fresh(store, queue)?
    {
        due.oldest = Some(due.oldest.map_or(created, |known| created.min(known)));
    }
    Ok(due)
}

/// Reads what is due in the due index of a queue, and remembers it.
fn scheduled_due(
    store: &Store,
    queue: &DestinationSnapshot,
    horizon: Horizon,
    looked_at: &mut usize,
) -> Result<DueSeen> {
    let DestinationSnapshot { key, row, busy, .. } = queue;
    let mut seen = DueSeen { count: 0, oldest: None, from: horizon.now, until: Timestamp::MAX };
    let rows_from =
        |at| store.tree.range(keys::due(*key, at, 0)..=keys::due(*key, Timestamp::MAX, u64::MAX));
    let mut rows = rows_from(Timestamp::default());
    // With time, what was stored while the clock was ahead may no longer be due.
    let mut keeps = true;
    while let Some(entry) = rows.next() {
        let (entry, _) = entry?;
        let at = keys::due_time(&entry);
        if horizon.is_later(at) {
            // What lies after the horizon was scheduled while the clock was ahead, and is due.
            seen.until = seen.until.min(at);
            let beyond = horizon.latest.after(Duration::from_millis(1));
            if beyond <= horizon.latest {
                break;
            }
            rows = rows_from(beyond);
            continue;
        }
        if *looked_at >= LIST_SCAN_LIMIT {
            // At the limit, all scheduled ones of this destination count as due.
            seen.count = row.scheduled;
            return Ok(seen);
        }
        keeps &= at <= horizon.now;
        *looked_at += 1;
        seen.count += 1;
        let seq = keys::last_number(&entry);
        if seen.oldest.is_none() && !busy.contains(&seq) {
            seen.oldest = Some((seq, at));
        }
    }
    if keeps {
        queue.remember(store, |queue| queue.due_seen = Some(seen));
    }
    Ok(seen)
}

/// When the first fresh callback of a queue that is not busy was accepted.
fn oldest_fresh(store: &Store, queue: &DestinationSnapshot) -> Result<Option<Timestamp>> {
    let DestinationSnapshot { key, busy, first_fresh, .. } = queue;
    if let Some((_, created_at)) = first_fresh.filter(|(seq, _)| !busy.contains(seq)) {
        return Ok(Some(created_at));
    }
    let mut looked_at = 0;
    for row in store.tree.scan_prefix(keys::pending_prefix(*key)) {
        let (place, bytes) = row?;
        // Of a block that cannot be read, nothing is claimed.
        let Ok(pending) = Pending::decode(&place, &bytes) else { continue };
        for seq in pending.fresh.members(keys::last_number(&place)) {
            looked_at += 1;
            if looked_at > OLDEST_SCAN_LIMIT {
                return Ok(None);
            }
            if !busy.contains(&seq)
                && let Some(record) =
                    rows::readable(rows::Records::default().get(&store.tree, seq))?
            {
                queue.remember(store, |queue| queue.first_fresh = Some((seq, record.created_at)));
                return Ok(Some(record.created_at));
            }
        }
    }
    Ok(None)
}

/// Destinations with failed callbacks and no pending ones, which are not in memory: at most `most`, from the
/// first `scan_limit` rows.
pub(crate) fn only_failed(
    store: &Store,
    most: usize,
    scan_limit: usize,
    horizon: Horizon,
) -> Result<Vec<DestinationSummary>> {
    let mut found = Vec::new();
    if most == 0 {
        return Ok(found);
    }
    for row in store.tree.scan_prefix(keys::QUEUES).take(scan_limit) {
        let (key, bytes) = row?;
        let queue = QueueKey(keys::last_number(&key));
        let Some(row) = rows::readable(decode::<QueueRow>(&key, &bytes).map(Some))? else {
            continue;
        };
        if row.pending == 0 && row.counts() && !store.queues.lock().queues.contains_key(&queue) {
            found.push(DestinationSnapshot::stored(queue, row).summary(0, horizon));
            if found.len() >= most {
                break;
            }
        }
    }
    Ok(found)
}

/// One page of destinations.
pub(crate) fn page(
    store: &Store,
    query: &DestinationQuery,
    now: Timestamp,
) -> Result<DestinationPage> {
    let horizon = store.horizon(now);
    let (seen, others) = match &query.destination {
        None => in_memory(store, horizon),
        Some(wanted) => {
            let key = store.queue(wanted);
            let inner = store.queues.lock();
            let one = inner.queues.get(&key);
            (one.map(|it| DestinationSnapshot::of(key, it, horizon)).into_iter().collect(), 0)
        }
    };
    // What is due is counted for those on the page only.
    let shown = |it: &DestinationSnapshot| it.row.counts() && query.matches(&it.row.destination);
    let in_memory = seen.iter().enumerate().filter(|(_, it)| shown(it));
    let mut all: Vec<_> = in_memory.map(|(at, it)| (it.summary(0, horizon), Some(at))).collect();
    let stored = match &query.destination {
        None if others == 0 => Vec::new(),
        None => only_failed(store, usize::MAX, usize::MAX, horizon)?,
        Some(wanted) if all.is_empty() => {
            let queue = store.queue(wanted);
            let key = keys::queue(queue);
            let row = store.tree.get(&key)?.map(|bytes| decode(&key, &bytes)).transpose()?;
            row.map(|row| DestinationSnapshot::stored(queue, row).summary(0, horizon))
                .into_iter()
                .collect()
        }
        Some(_) => Vec::new(),
    };
    all.extend(stored.into_iter().filter(|it| query.matches(&it.destination)).map(|it| (it, None)));
    let idle = query.idle_besides(all.iter().map(|(it, _)| &it.destination));
    all.extend(idle.into_iter().map(|it| (it, None)));
    all.retain(|(it, _)| query.cursor.as_ref().is_none_or(|cursor| cursor.is_before(it)));
    let more = views::keep_first(&mut all, query.limit.max(1), |(it, _)| it);
    let mut looked_at = 0;
    for (it, at) in &mut all {
        if let Some(seen) = at.and_then(|at| seen.get(at)) {
            let ready = due(store, seen, horizon, &mut looked_at)?.ready;
            it.due = ready.saturating_sub(seen.in_flight);
        }
    }
    let all: Vec<_> = all.into_iter().map(|(it, _)| it).collect();
    let next = all.last().filter(|_| more).map(DestinationSummary::order);
    Ok(DestinationPage { destinations: all, next })
}
