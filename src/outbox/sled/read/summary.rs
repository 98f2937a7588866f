//! The summary. Most of it is in memory; due callbacks are counted in the due index, up to a limit.

use std::{cmp::Reverse, collections::HashSet, time::Duration};

use crate::{
    clock::Timestamp,
    outbox::{
        DestinationSummary, OVERDUE, Open, StateName, Summary,
        error::Result,
        sled::{
            blocks::Pending,
            horizon::Horizon,
            keys::{self, QueueKey},
            read::listing::LIST_SCAN_LIMIT,
            rows::{self, QueueRow, decode},
            shared::store::Store,
        },
    },
};

/// Maximum number of destinations in a summary.
const DESTINATIONS_SHOWN: usize = 1000;

/// Rows that are searched for destinations with failed callbacks only.
const DESTINATION_SCAN_LIMIT: usize = 20_000;

/// Rows of a queue that are searched for its oldest due callback.
const OLDEST_SCAN_LIMIT: usize = 256;

/// A destination in memory: its counters, the number of claimed callbacks, the busy ones, and its breaker.
type Seen = (QueueKey, QueueRow, u64, HashSet<u64>, Option<Open>);

/// When the oldest callback in this state ended.
fn oldest_finished(store: &Store, state: StateName) -> Result<Option<Timestamp>> {
    // A replay does not remove the row of the index.
    for row in store.tree.scan_prefix(keys::retention(state)).take(OLDEST_SCAN_LIMIT) {
        let (key, seqs) = row?;
        let finished_at = keys::finished_time(&key);
        for seq in seqs.chunks_exact(8).map(keys::number) {
            let kept = rows::callback(&store.tree, seq)?;
            let kept = kept.filter(|it| it.state_name() == state);
            if kept.is_some_and(|it| it.finished_at() == Some(finished_at)) {
                return Ok(Some(finished_at));
            }
        }
    }
    Ok(None)
}

/// Destinations with failed callbacks and no pending ones, which are not in memory.
fn only_failed(
    store: &Store,
    known: &HashSet<QueueKey>,
    most: usize,
) -> Result<Vec<(QueueKey, QueueRow)>> {
    let mut found = Vec::new();
    for row in store.tree.scan_prefix(keys::QUEUES).take(DESTINATION_SCAN_LIMIT) {
        let (key, bytes) = row?;
        let queue = QueueKey(keys::last_number(&key));
        if known.contains(&queue) {
            continue;
        }
        let row: QueueRow = decode(&key, &bytes)?;
        if row.pending == 0 && row.counts() {
            found.push((queue, row));
            if found.len() >= most {
                break;
            }
        }
    }
    Ok(found)
}

/// When the first fresh callback of a queue that is not busy was accepted.
fn oldest_fresh(store: &Store, queue: QueueKey, busy: &HashSet<u64>) -> Result<Option<Timestamp>> {
    let mut looked_at = 0;
    for row in store.tree.scan_prefix(keys::pending_prefix(queue)) {
        let (key, bytes) = row?;
        let fresh = Pending::decode(&key, &bytes)?.fresh;
        for seq in fresh.members(keys::last_number(&key)) {
            looked_at += 1;
            if looked_at > OLDEST_SCAN_LIMIT {
                return Ok(None);
            }
            if !busy.contains(&seq) {
                return Ok(rows::callback(&store.tree, seq)?.map(|it| it.created_at));
            }
        }
    }
    Ok(None)
}

/// Summary of the outbox.
pub(crate) fn of(store: &Store, now: Timestamp) -> Result<Summary> {
    let (totals, destination_count, mut queues) = {
        let inner = store.queues.lock();
        let queues: Vec<_> = inner
            .queues
            .iter()
            .map(|(key, queue)| {
                let busy: HashSet<u64> = queue.busy.keys().copied().collect();
                // Without pending callbacks, there is nothing to probe with.
                let open = queue.open.filter(|_| queue.row.pending > 0);
                (*key, queue.row.clone(), queue.in_flight(), busy, open)
            })
            .collect();
        (inner.totals, inner.destinations, queues)
    };
    let mut summary = Summary {
        pending: totals.pending,
        delivered: totals.delivered,
        failed: totals.failed,
        destination_count,
        oldest_delivered: oldest_finished(store, StateName::Delivered)?,
        oldest_failed: oldest_finished(store, StateName::Failed)?,
        ..Summary::default()
    };
    let horizon = store.horizon(now);
    let (mut ready, mut looked_at) = (0, 0);
    for (key, row, in_flight, busy, open) in &queues {
        summary.in_flight += in_flight;
        let mut queue_ready = row.fresh;
        let mut oldest = None;
        if row.scheduled > 0 {
            let due_by = |from, to| {
                store.tree.range(keys::due(*key, from, 0)..=keys::due(*key, to, u64::MAX))
            };
            // What lies after it was scheduled while the clock was ahead, and is due.
            let beyond = horizon.latest.after(Duration::from_millis(1));
            let beyond = (beyond > horizon.latest).then(|| due_by(beyond, Timestamp::MAX));
            let mut due = 0;
            for entry in due_by(Timestamp::default(), now).chain(beyond.into_iter().flatten()) {
                if looked_at >= LIST_SCAN_LIMIT {
                    // At the limit, all scheduled ones of this destination count as due.
                    due = row.scheduled;
                    break;
                }
                let (entry, _) = entry?;
                looked_at += 1;
                due += 1;
                if oldest.is_none() && !busy.contains(&keys::last_number(&entry)) {
                    oldest = Some(keys::due_time(&entry).min(now));
                }
            }
            queue_ready += due;
        }
        if row.fresh > 0 {
            if let Some(created) = oldest_fresh(store, *key, busy)? {
                oldest = Some(oldest.map_or(created, |known| created.min(known)));
            }
        }
        ready += queue_ready;
        let free = open.is_none() && !row.is_held(horizon);
        if free && oldest.is_some_and(|due| now.since(due) > OVERDUE) {
            summary.overdue += queue_ready.saturating_sub(*in_flight);
        }
        summary.oldest_due = match (summary.oldest_due, oldest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    // The three are read at different moments; this makes them add up to the pending ones.
    summary.in_flight = summary.in_flight.min(summary.pending);
    summary.due = ready.saturating_sub(summary.in_flight).min(summary.pending - summary.in_flight);
    summary.waiting = summary.pending - summary.in_flight - summary.due;
    summary.overdue = summary.overdue.min(summary.due);
    summary.store_bytes = store.db.size_on_disk()?;
    queues.retain(|(_, row, ..)| row.counts());
    summary.open_count = queues.iter().filter(|(.., open)| open.is_some()).count() as u64;
    summary.destinations = shown(store, queues, horizon)?;
    Ok(summary)
}

/// The destinations in a summary. Those that make no progress come first, because there may be more
/// than are shown.
fn shown(
    store: &Store,
    mut queues: Vec<Seen>,
    horizon: Horizon,
) -> Result<Vec<DestinationSummary>> {
    if queues.len() < DESTINATIONS_SHOWN {
        let known: HashSet<_> = queues.iter().map(|(key, ..)| *key).collect();
        let only_failed = only_failed(store, &known, DESTINATIONS_SHOWN - queues.len())?;
        queues
            .extend(only_failed.into_iter().map(|(key, row)| (key, row, 0, HashSet::new(), None)));
    }
    let stands_still = |row: &QueueRow, open: bool| match () {
        () if open => 0,
        () if row.is_held(horizon) => 1,
        () if row.pending > 0 && row.failed > 0 => 2,
        () => 3,
    };
    queues.sort_by_cached_key(|(_, row, .., open)| {
        let still = stands_still(row, open.is_some());
        (still, Reverse((row.pending, row.failed)), row.destination.clone())
    });
    queues.truncate(DESTINATIONS_SHOWN);
    let summary = |(_, row, in_flight, _, open): Seen| DestinationSummary {
        hold_until: row.is_held(horizon).then_some(row.hold_until),
        destination: row.destination,
        pending: row.pending,
        in_flight,
        failed: row.failed,
        open,
    };
    Ok(queues.into_iter().map(summary).collect())
}
