//! The summary. Most of it is in memory; due callbacks are counted in the due index, up to a limit.

use crate::{
    clock::Timestamp,
    outbox::{
        OVERDUE, StateName, Summary,
        error::Result,
        sled::{
            keys,
            read::{
                destinations::only_failed,
                due::{DueCount, DueReader},
                snapshot,
            },
            rows,
            shared::store::Store,
        },
        views,
    },
};

/// Maximum number of destinations in a summary.
const DESTINATIONS_SHOWN: usize = 1000;

/// Number of rows that are searched for destinations that have only failed callbacks.
const DESTINATION_SCAN_LIMIT: usize = 20_000;

/// Number of rows of the retention index that are searched for the oldest ended callback.
const OLDEST_SCAN_LIMIT: usize = 256;

/// When the oldest callback in this state ended.
fn oldest_ended(store: &Store, state: StateName) -> Result<Option<Timestamp>> {
    // A replay does not remove the row of the index.
    for row in store.tree.scan_prefix(keys::retention(state)).take(OLDEST_SCAN_LIMIT) {
        let (key, seqs) = row?;
        let ended_at = keys::ended_time(&key);
        for seq in seqs.chunks_exact(8).map(keys::number) {
            let kept = rows::readable(rows::callback(&store.tree, seq))?;
            let kept = kept.filter(|it| it.state_name() == state);
            if kept.is_some_and(|it| it.ended_at() == Some(ended_at)) {
                return Ok(Some(ended_at));
            }
        }
    }
    Ok(None)
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.into_iter().chain(b).min()
}

/// Summary of the outbox.
pub(crate) fn of(store: &Store, now: Timestamp) -> Result<Summary> {
    let (totals, destination_count) = {
        let inner = store.queues.lock();
        (inner.totals, inner.destinations)
    };
    let horizon = store.horizon(now);
    let mut summary = Summary {
        pending: totals.pending,
        delivered: totals.delivered,
        failed: totals.failed,
        destination_count,
        oldest_delivered: oldest_ended(store, StateName::Delivered)?,
        oldest_failed: oldest_ended(store, StateName::Failed)?,
        ..Summary::default()
    };
    let mut ready = 0;
    let mut all = Vec::new();
    let (seen, others) = snapshot::in_memory(store, horizon);
    let due = DueReader::new(store, horizon).all(&seen)?;
    for (queue, DueCount { ready: queue_ready, oldest }) in seen.iter().zip(due) {
        let in_flight = queue.in_flight;
        summary.in_flight += in_flight;
        ready += queue_ready;
        let free =
            queue.open.is_none() && !queue.row.is_held(horizon) && queue.row.paused_at.is_none();
        if free && oldest.is_some_and(|due| now.since(due) > OVERDUE) {
            summary.overdue += queue_ready.saturating_sub(in_flight);
        }
        summary.oldest_due = earlier(summary.oldest_due, oldest);
        if queue.row.paused_at.is_some() {
            summary.due_paused += queue_ready.saturating_sub(in_flight);
        } else {
            summary.oldest_due_unpaused = earlier(summary.oldest_due_unpaused, oldest);
        }
        if queue.row.counts() {
            all.push(queue.summary(queue_ready, horizon));
        }
    }
    // The three are read at different moments; this makes their sum the number of pending callbacks.
    summary.in_flight = summary.in_flight.min(summary.pending);
    summary.due = ready.saturating_sub(summary.in_flight).min(summary.pending - summary.in_flight);
    summary.waiting = summary.pending - summary.in_flight - summary.due;
    summary.overdue = summary.overdue.min(summary.due);
    summary.due_paused = summary.due_paused.min(summary.due);
    summary.store_bytes = store.db.size_on_disk()?;
    summary.open_count = all.iter().filter(|it| it.open.is_some()).count() as u64;
    summary.paused_count = all.iter().filter(|it| it.paused_at.is_some()).count() as u64;
    if others > 0 && all.len() < DESTINATIONS_SHOWN {
        let most = DESTINATIONS_SHOWN - all.len();
        all.extend(only_failed(store, most, DESTINATION_SCAN_LIMIT, horizon)?);
    }
    // Destinations that receive nothing come first, because there may be more than are shown.
    views::keep_first(&mut all, DESTINATIONS_SHOWN, |it| it);
    summary.destinations = all;
    Ok(summary)
}
