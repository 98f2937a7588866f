//! Destinations: their counters, and what is due. Those with pending callbacks and those that are paused are
//! in memory; those with failed callbacks only are read from the tree.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    clock::Timestamp,
    outbox::{
        DestinationPage, DestinationQuery, DestinationSummary, Open,
        error::Result,
        horizon::Horizon,
        sled::{
            blocks::Pending,
            keys::{self, QueueKey},
            read::listing::LIST_SCAN_LIMIT,
            rows::{self, QueueRow, decode},
            shared::store::Store,
        },
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
    /// `Queue::change` at that moment; `None` if the destination is not in memory.
    change: Option<u64>,
}

impl DestinationSnapshot {
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
            change: None,
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

/// The destinations in memory.
pub(crate) fn in_memory(store: &Store, horizon: Horizon) -> Vec<DestinationSnapshot> {
    let inner = store.queues.lock();
    let seen = inner.queues.iter().map(|(key, queue)| DestinationSnapshot {
        key: *key,
        row: queue.row.clone(),
        in_flight: queue.in_flight(),
        busy: queue.busy.keys().copied().collect(),
        // Without pending callbacks, there is nothing to probe with.
        open: queue.open.filter(|_| queue.row.pending > 0),
        no_scheduled_due: queue.busy.is_empty() && !queue.may_have_scheduled(horizon),
        first_fresh: queue.first_fresh,
        change: Some(queue.change),
    });
    seen.collect()
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
    let DestinationSnapshot { key, row, busy, .. } = queue;
    let now = horizon.now;
    let mut due = DueCount { ready: row.fresh, oldest: None };
    if row.scheduled > 0 && !queue.no_scheduled_due {
        let due_by =
            |from, to| store.tree.range(keys::due(*key, from, 0)..=keys::due(*key, to, u64::MAX));
        // What lies after it was scheduled while the clock was ahead, and is due.
        let beyond = horizon.latest.after(Duration::from_millis(1));
        let beyond = (beyond > horizon.latest).then(|| due_by(beyond, Timestamp::MAX));
        let mut scheduled = 0;
        for entry in due_by(Timestamp::default(), now).chain(beyond.into_iter().flatten()) {
            if *looked_at >= LIST_SCAN_LIMIT {
                // At the limit, all scheduled ones of this destination count as due.
                scheduled = row.scheduled;
                break;
            }
            let (entry, _) = entry?;
            *looked_at += 1;
            scheduled += 1;
            if due.oldest.is_none() && !busy.contains(&keys::last_number(&entry)) {
                due.oldest = Some(keys::due_time(&entry).min(now));
            }
        }
        due.ready += scheduled;
    }
    if row.fresh > 0
        && let Some(created) = oldest_fresh(store, queue)?
    {
        due.oldest = Some(due.oldest.map_or(created, |known| created.min(known)));
    }
    Ok(due)
}

/// When the first fresh callback of a queue that is not busy was accepted.
fn oldest_fresh(store: &Store, queue: &DestinationSnapshot) -> Result<Option<Timestamp>> {
    let DestinationSnapshot { key, busy, first_fresh, change, .. } = queue;
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
                let mut inner = store.queues.lock();
                if let Some(queue) = inner.queues.get_mut(key)
                    && Some(queue.change) == *change
                {
                    queue.first_fresh = Some((seq, record.created_at));
                }
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
    let mut seen = in_memory(store, horizon);
    seen.retain(|it| it.row.counts() && query.matches(&it.row.destination));
    // What is due is counted for those on the page only.
    let mut all: Vec<_> = seen.iter().map(|it| it.summary(0, horizon)).collect();
    let seen: HashMap<_, _> = seen.into_iter().map(|it| (it.row.destination.clone(), it)).collect();
    match &query.destination {
        None => all.extend(only_failed(store, usize::MAX, usize::MAX, horizon)?),
        Some(wanted) if all.is_empty() => {
            let queue = store.queue(wanted);
            let key = keys::queue(queue);
            if let Some(bytes) = store.tree.get(&key)? {
                all.push(
                    DestinationSnapshot::stored(queue, decode(&key, &bytes)?).summary(0, horizon),
                );
            }
        }
        Some(_) => {}
    }
    all.retain(|it| query.matches(&it.destination));
    all.retain(|it| query.cursor.as_ref().is_none_or(|cursor| it.order() > *cursor));
    all.sort_by_cached_key(DestinationSummary::order);
    let more = all.len() > query.limit.max(1);
    all.truncate(query.limit.max(1));
    let mut looked_at = 0;
    for it in &mut all {
        if let Some(seen) = seen.get(&it.destination) {
            let ready = due(store, seen, horizon, &mut looked_at)?.ready;
            it.due = ready.saturating_sub(seen.in_flight);
        }
    }
    let next = all.last().filter(|_| more).map(DestinationSummary::order);
    Ok(DestinationPage { destinations: all, next })
}
