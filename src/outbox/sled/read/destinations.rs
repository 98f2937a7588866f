//! Destinations and their counters. Those with pending callbacks and those that are paused are in memory;
//! those with failed callbacks only are read from the tree.

use crate::{
    clock::Timestamp,
    outbox::{
        DestinationPage, DestinationQuery, DestinationSummary,
        error::Result,
        horizon::Horizon,
        sled::{
            keys::{self, QueueKey},
            read::{
                due::DueReader,
                snapshot::{self, DestinationSnapshot},
            },
            rows::{self, QueueRow, decode},
            shared::store::Store,
        },
        views,
    },
};

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
        None => snapshot::in_memory(store, horizon),
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
    let mut reader = DueReader::new(store, horizon);
    for (it, at) in &mut all {
        if let Some(seen) = at.and_then(|at| seen.get(at)) {
            it.due = reader.scheduled(seen)?.ready.saturating_sub(seen.in_flight);
        }
    }
    let all: Vec<_> = all.into_iter().map(|(it, _)| it).collect();
    let next = all.last().filter(|_| more).map(DestinationSummary::order);
    Ok(DestinationPage { destinations: all, next })
}
