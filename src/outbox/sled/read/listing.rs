//! Listings: pages of callbacks in order of acceptance, merged from sorted runs of rows.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
};

use crate::{
    callback::CallbackId,
    outbox::{
        Detail, Page, Query, Record, StateName,
        error::Result,
        sled::{
            keys::{self, QueueKey},
            read::lookup::{get, standing},
            rows::decode,
            shared::store::Store,
        },
    },
};

/// Rows that one page of a listing, or a summary, reads.
pub(crate) const LIST_SCAN_LIMIT: usize = 100_000;

/// Maximum number of runs that keep an iterator.
const RUNS_KEPT: usize = 64;

/// A sorted run of rows that a listing is merged from.
struct Run<'a> {
    store: &'a Store,
    prefix: Vec<u8>,
    oldest_first: bool,
    /// Seq of the last row; `None` at the beginning.
    position: Option<u64>,
    /// The iterator, which keeps a page of the tree in memory. With too many runs, none is kept.
    rows: Option<sled::Iter>,
}

impl<'a> Run<'a> {
    fn new(store: &'a Store, prefix: &[u8], query: &Query) -> Self {
        Self {
            store,
            prefix: prefix.to_vec(),
            oldest_first: query.oldest_first,
            position: query.cursor.map(keys::seq_of),
            rows: None,
        }
    }

    fn rows(&self) -> sled::Iter {
        let bound = |seq: u64| [self.prefix.as_slice(), &seq.to_be_bytes()].concat();
        match (self.position, self.oldest_first) {
            (None, _) => self.store.tree.scan_prefix(&self.prefix),
            (Some(seq), true) => {
                self.store.tree.range(bound(seq.saturating_add(1))..=bound(u64::MAX))
            }
            (Some(seq), false) => self.store.tree.range(bound(0)..bound(seq)),
        }
    }

    fn next(&mut self, keep: bool) -> Result<Option<(sled::IVec, sled::IVec)>> {
        let mut rows = self.rows.take().unwrap_or_else(|| self.rows());
        let next = if self.oldest_first { rows.next() } else { rows.next_back() }.transpose()?;
        self.position = next.as_ref().map(|(key, _)| keys::last_number(key)).or(self.position);
        self.rows = keep.then_some(rows);
        Ok(next)
    }
}

/// One page of a listing. Callbacks that moved between runs meanwhile are looked up again.
pub(crate) fn list(store: &Store, query: &Query) -> Result<Page> {
    let moved = store.moves.watch();
    let mut page = merged(store, query)?;
    // After this, every move during the merge has been noted.
    store.barrier.wait();
    let order = |id: CallbackId| {
        let seq = keys::seq_of(id);
        if query.oldest_first { seq } else { u64::MAX - seq }
    };
    let (from, to) = (query.cursor.map(order), page.next.map(order));
    let within = |id: &CallbackId| {
        let at = order(*id);
        from.is_none_or(|from| at > from) && to.is_none_or(|to| at <= to)
    };
    let mut seen: HashSet<_> = page.callbacks.iter().map(|it| it.record.id).collect();
    for id in moved.take().into_iter().filter(within) {
        if seen.insert(id)
            && let Some(Detail { standing, .. }) = get(store, id)?
            && query.matches(&standing.record)
            && query.state.is_none_or(|state| state == standing.record.state_name())
        {
            page.callbacks.push(standing);
        }
    }
    page.callbacks.sort_by_key(|it| order(it.record.id));
    if page.callbacks.len() > query.limit.max(1) {
        page.callbacks.truncate(query.limit.max(1));
        page.next = page.callbacks.last().map(|it| it.record.id);
    }
    Ok(page)
}

/// The merge of the runs that can contain matching callbacks.
fn merged(store: &Store, query: &Query) -> Result<Page> {
    let mut runs = Vec::new();
    for state in [StateName::Delivered, StateName::Failed] {
        if query.state.is_none_or(|wanted| wanted == state) {
            runs.push(Run::new(store, &[keys::finished_prefix(state)], query));
        }
    }
    if query.state.is_none_or(|wanted| wanted == StateName::Pending) {
        for queue in pending_queues(store, query)? {
            runs.push(Run::new(store, &keys::pending(queue, 0)[..9], query));
        }
    }
    // The max-heap returns the latest first; with inverted keys, the oldest.
    let order = |seq: u64| if query.oldest_first { u64::MAX - seq } else { seq };
    let keep = runs.len() <= RUNS_KEPT;
    let mut heads = BinaryHeap::new();
    let mut held = Vec::with_capacity(runs.len());
    for (index, run) in runs.iter_mut().enumerate() {
        let row = run.next(keep)?;
        if let Some((key, _)) = &row {
            heads.push((order(keys::last_number(key)), Reverse(index)));
        }
        held.push(row);
    }
    let mut page = Page::default();
    let mut looked_at = 0;
    let mut seen = HashSet::new();
    while let Some((_, Reverse(index))) = heads.pop() {
        let Some((key, bytes)) = held[index].take() else { continue };
        if let Some(row) = runs[index].next(keep)? {
            heads.push((order(keys::last_number(&row.0)), Reverse(index)));
            held[index] = Some(row);
        }
        let record: Record = decode(&key, &bytes)?;
        let id = record.id;
        looked_at += 1;
        if query.matches(&record) && seen.insert(id) {
            page.callbacks.push(standing(store, record)?);
        }
        if page.callbacks.len() >= query.limit.max(1) || looked_at >= LIST_SCAN_LIMIT {
            page.next = (!heads.is_empty()).then_some(id);
            break;
        }
    }
    Ok(page)
}

/// The queues that can contain matching pending callbacks.
fn pending_queues(store: &Store, query: &Query) -> Result<Vec<QueueKey>> {
    if let Some(job_id) = &query.job_id {
        let mut queues = HashSet::new();
        for row in store.tree.scan_prefix(keys::job_prefix(job_id)) {
            queues.insert(QueueKey(keys::number(&row?.1)));
        }
        return Ok(queues.into_iter().collect());
    }
    if let Some(destination) = &query.destination {
        return Ok(vec![QueueKey::of(&store.salt, destination)]);
    }
    let inner = store.queues.lock();
    Ok(inner.queues.iter().filter(|(_, it)| it.row.pending > 0).map(|(key, _)| *key).collect())
}
