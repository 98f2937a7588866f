//! Listings: pages of callbacks in order of acceptance.
//!
//! A page reads one *run* of callbacks in order, or a merge of several: the records, the set of a
//! state, the pending callbacks of a destination, or the index of a job or a directory. The filters
//! determine which run is the shortest; every filter is then applied to each callback.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    ops::RangeInclusive,
    sync::Arc,
};

use crate::{
    clock::Timestamp,
    outbox::{
        Page, Query, Record, Stage, StateName,
        error::Result,
        sled::{
            blocks::{self, Pending, RECORDS, SET},
            keys::{self, QueueKey},
            read::{due_index::DueIndex, lookup::status},
            rows,
            shared::store::Store,
        },
    },
};

/// Maximum number of callbacks that one page of a listing, or a summary, reads.
pub(crate) const LIST_SCAN_LIMIT: usize = 100_000;

/// Maximum number of runs that keep an iterator.
const RUNS_KEPT: usize = 64;

/// Maximum number of callbacks in the due index that a queue remembers.
const SEQS_REMEMBERED: usize = 16;

/// The rows that a run reads.
#[derive(Clone)]
enum Source {
    /// All callbacks.
    Records,
    /// The callbacks that ended in this state.
    Ended(StateName),
    /// The pending callbacks of a queue; with `true`, without those that were never postponed.
    Pending(QueueKey, bool),
    /// The index of a job or directory, with this prefix.
    Index(Vec<u8>),
    /// Those of a queue that are due at a certain time, which were read from the due index.
    Scheduled(Arc<[u64]>),
    /// The callbacks that are claimed, which only memory knows: those of a destination, or all.
    Claimed(Option<QueueKey>),
}

/// Callbacks in order.
struct Run<'a> {
    store: &'a Store,
    source: Source,
    oldest_first: bool,
    /// The seqs that are left.
    left: RangeInclusive<u64>,
    /// The callbacks of the row that was read last, in the order of the listing.
    ahead: VecDeque<u64>,
    /// The iterator, which keeps a page of the tree in memory. With too many runs, none is kept.
    rows: Option<sled::Iter>,
}

impl<'a> Run<'a> {
    fn new(store: &'a Store, source: Source, query: &Query) -> Self {
        let left = match (query.cursor.map(keys::seq_of), query.oldest_first) {
            (None, _) => 0..=u64::MAX,
            (Some(seq), true) => seq.saturating_add(1)..=u64::MAX,
            (Some(0), false) => RangeInclusive::new(1, 0),
            (Some(seq), false) => 0..=seq - 1,
        };
        let oldest_first = query.oldest_first;
        let mut ahead = match &source {
            Source::Claimed(queue) => claimed(store, *queue),
            Source::Scheduled(seqs) => seqs.to_vec(),
            _ => Vec::new(),
        };
        ahead.retain(|seq| left.contains(seq));
        ahead.sort_unstable();
        Self { store, source, oldest_first, left, ahead: ahead.into(), rows: None }
    }

    /// The rows that may contain callbacks that are left; `None` if no row is read.
    fn rows(&self) -> Option<sled::Iter> {
        let (from, to) = (*self.left.start(), *self.left.end());
        let tree = &self.store.tree;
        Some(match &self.source {
            Source::Records => {
                tree.range(keys::record(from / RECORDS * RECORDS)..=keys::record(to))
            }
            Source::Ended(state) => {
                tree.range(keys::ended(*state, from / SET)..=keys::ended(*state, to / SET))
            }
            Source::Pending(queue, _) => {
                tree.range(keys::pending(*queue, from / SET)..=keys::pending(*queue, to / SET))
            }
            Source::Index(prefix) => {
                let bound = |seq: u64| [prefix.as_slice(), &seq.to_be_bytes()].concat();
                tree.range(bound(from)..=bound(to))
            }
            Source::Claimed(_) | Source::Scheduled(_) => return None,
        })
    }

    /// The callbacks of a row, in order of acceptance.
    fn of(&self, key: &[u8], bytes: &[u8]) -> Result<Vec<u64>> {
        let at = keys::last_number(key);
        Ok(match &self.source {
            Source::Index(_) | Source::Claimed(_) | Source::Scheduled(_) => vec![at],
            Source::Ended(_) => {
                let [set] = blocks::decode_sets(key, bytes)?;
                set.members(at).collect()
            }
            Source::Pending(_, postponed) => {
                let pending = Pending::decode(key, bytes)?;
                let set = if *postponed { pending.others } else { pending.all() };
                set.members(at).collect()
            }
            // All of its block, because imported records may be in separate rows.
            Source::Records => {
                rows::entries_of(&self.store.tree, at / RECORDS)?.0.into_keys().collect()
            }
        })
    }

    fn next(&mut self, keep: bool) -> Result<Option<u64>> {
        while self.ahead.is_empty() {
            if self.left.is_empty() {
                return Ok(None);
            }
            let Some(mut rows) = self.rows.take().or_else(|| self.rows()) else { return Ok(None) };
            let row = if self.oldest_first { rows.next() } else { rows.next_back() };
            let Some(row) = row else { return Ok(None) };
            self.rows = keep.then_some(rows);
            let (key, bytes) = row?;
            // A row that cannot be read does not hide other callbacks.
            let found = rows::or_empty(self.of(&key, &bytes))?;
            self.ahead.extend(found.into_iter().filter(|seq| self.left.contains(seq)));
            if self.ahead.is_empty() && !keep {
                // Skip this row, so that it is not read again.
                self.pass_row(&key);
            }
        }
        let next = if self.oldest_first { self.ahead.pop_front() } else { self.ahead.pop_back() };
        if let Some(seq) = next {
            self.pass(seq);
        }
        Ok(next)
    }

    fn pass(&mut self, seq: u64) {
        self.left = match self.oldest_first {
            true => seq.saturating_add(1)..=*self.left.end(),
            false if seq == 0 => RangeInclusive::new(1, 0),
            false => *self.left.start()..=seq - 1,
        };
    }

    fn pass_row(&mut self, key: &[u8]) {
        let at = keys::last_number(key);
        let (first, last) = match self.source {
            Source::Index(_) | Source::Claimed(_) | Source::Scheduled(_) => (at, at),
            Source::Ended(_) | Source::Pending(..) => (at * SET, at * SET + (SET - 1)),
            Source::Records => (at - at % RECORDS, at - at % RECORDS + (RECORDS - 1)),
        };
        self.pass(if self.oldest_first { last } else { first });
    }
}

/// The claimed callbacks of a queue or of all.
fn claimed(store: &Store, queue: Option<QueueKey>) -> Vec<u64> {
    let inner = store.queues.lock();
    let wanted = inner.queues.iter().filter(|(key, _)| queue.is_none_or(|wanted| wanted == **key));
    wanted.flat_map(|(_, it)| it.claimed()).collect()
}

/// One page of a listing.
pub(crate) fn list(store: &Store, query: &Query) -> Result<Page> {
    let sources = sources(store, query)?.into_iter();
    let mut runs: Vec<_> = sources.map(|source| Run::new(store, source, query)).collect();
    // The max-heap returns the latest first; with inverted numbers, the oldest.
    let order = |seq: u64| if query.oldest_first { u64::MAX - seq } else { seq };
    let keep = runs.len() <= RUNS_KEPT;
    let mut heads = BinaryHeap::new();
    for (index, run) in runs.iter_mut().enumerate() {
        if let Some(seq) = run.next(keep)? {
            heads.push((order(seq), Reverse(index)));
        }
    }
    let mut page = Page::default();
    let mut looked_at = 0;
    let mut reader = Reader { store, records: rows::Records::default() };
    while let Some((at, Reverse(index))) = heads.pop() {
        let seq = order(at);
        if let Some(next) = runs[index].next(keep)? {
            heads.push((order(next), Reverse(index)));
        }
        looked_at += 1;
        let found = reader.get(seq)?;
        let id = found.as_ref().map(|record| record.id);
        if let Some(record) = found
            && query.criteria.matches(&record)
            && query.state.is_none_or(|state| state == record.state_name())
        {
            let status = status(store, record)?;
            if query.criteria.stage.is_none_or(|stage| status.stage == Some(stage)) {
                page.callbacks.push(status);
            }
        }
        if page.callbacks.len() >= query.limit.max(1) || looked_at >= LIST_SCAN_LIMIT {
            // Only the position matters in a cursor.
            let id = id.unwrap_or_else(|| keys::id(seq, QueueKey(0)));
            page.next = (!heads.is_empty()).then_some(id);
            break;
        }
    }
    Ok(page)
}

/// Reads callbacks; neighbours are read from the same rows. A callback that cannot be read is skipped.
struct Reader<'a> {
    store: &'a Store,
    records: rows::Records,
}

impl Reader<'_> {
    fn get(&mut self, seq: u64) -> Result<Option<Record>> {
        rows::readable(self.read(seq))
    }

    fn read(&mut self, seq: u64) -> Result<Option<Record>> {
        let tree = &self.store.tree;
        match rows::progress(tree, seq)? {
            Some(progress) => {
                Ok(self.records.get(tree, seq)?.map(|record| record.with(Some(progress))))
            }
            // The records may have been read before it was purged.
            None => rows::callback(tree, seq),
        }
    }
}

/// The runs that together contain all matching callbacks.
fn sources(store: &Store, query: &Query) -> Result<Vec<Source>> {
    if let Some(job_id) = &query.criteria.job_id {
        return Ok(vec![Source::Index(keys::job_prefix(job_id))]);
    }
    if let Some(job_id_fs) = &query.criteria.job_id_fs {
        return Ok(vec![Source::Index(keys::directory_prefix(job_id_fs))]);
    }
    let queue = query.criteria.destination.as_ref().map(|destination| store.queue(destination));
    if query.criteria.stage == Some(Stage::InFlight) {
        return Ok(vec![Source::Claimed(queue)]);
    }
    // What waits was postponed: for its next attempt, or for another callback of its job.
    let postponed = query.criteria.stage == Some(Stage::Waiting);
    let state = query.criteria.stage.map_or(query.state, |_| Some(StateName::Pending));
    let only_ended = query.criteria.ended_since.is_some() || query.criteria.ended_until.is_some();
    Ok(match state {
        None if only_ended => {
            vec![Source::Ended(StateName::Delivered), Source::Ended(StateName::Failed)]
        }
        None => vec![Source::Records],
        Some(StateName::Pending) if only_ended => Vec::new(),
        Some(StateName::Pending) => match queue {
            Some(queue) => vec![Source::Pending(queue, postponed)],
            None if postponed => all_postponed(store)?,
            None => all_pending(store),
        },
        Some(state) => vec![Source::Ended(state)],
    })
}

/// The pending callbacks of all queues.
fn all_pending(store: &Store) -> Vec<Source> {
    let inner = store.queues.lock();
    let pending = inner.queues.iter().filter(|(_, it)| it.row.pending > 0);
    pending.map(|(key, _)| Source::Pending(*key, false)).collect()
}

/// The postponed callbacks of all queues.
fn all_postponed(store: &Store) -> Result<Vec<Source>> {
    let inner = store.queues.lock();
    let queues = inner.queues.iter().filter(|(_, it)| it.row.pending > it.row.fresh);
    let queues: Vec<_> = queues.collect();
    let scheduled: u64 = queues.iter().map(|(_, it)| it.row.scheduled).sum();
    let reads_due_index = scheduled <= LIST_SCAN_LIMIT as u64;
    let (scheduled, others): (Vec<_>, Vec<_>) =
        queues.into_iter().partition(|(_, it)| reads_due_index && it.row.blocked() == 0);
    // Others may be in few of many rows. Where that could be too many to read, fresh ones are read as well,
    // because what is read of these is limited.
    let pending: u64 = others.iter().map(|(_, it)| it.row.pending).sum();
    let few = others.len() <= RUNS_KEPT || pending <= LIST_SCAN_LIMIT as u64;
    let others: Vec<_> = others.into_iter().map(|(key, _)| Source::Pending(*key, few)).collect();
    let scheduled = scheduled.into_iter();
    let scheduled: Vec<_> = scheduled
        .map(|(key, it)| KnownDue {
            queue: *key,
            change: it.change,
            seen: it.scheduled_seen.clone(),
        })
        .collect();
    drop(inner);
    let found = read_scheduled(store, scheduled)?;
    Ok(found.into_iter().map(Source::Scheduled).chain(others).collect())
}

/// What is known of a queue's callbacks in the due index after this change of the queue.
struct KnownDue {
    queue: QueueKey,
    change: u64,
    seen: Option<Arc<[u64]>>,
}

/// The callbacks of queues in the due index. What is read is remembered unless the queue has changed since.
fn read_scheduled(store: &Store, mut queues: Vec<KnownDue>) -> Result<Vec<Arc<[u64]>>> {
    // The due index is quickest in this order.
    queues.sort_unstable_by_key(|it| it.queue);
    let mut due_index = DueIndex::new(&store.tree);
    let mut all = Vec::with_capacity(queues.len());
    let mut read = Vec::new();
    for KnownDue { queue, change, seen } in queues {
        if let Some(seen) = seen {
            all.push(seen);
            continue;
        }
        let mut found = Vec::new();
        let mut row = due_index.first(queue, Timestamp::default())?;
        while let Some(key) = row {
            found.push(keys::last_number(&key));
            row = due_index.next()?;
        }
        let found: Arc<[u64]> = found.into();
        if found.len() <= SEQS_REMEMBERED {
            read.push((queue, change, Arc::clone(&found)));
        }
        all.push(found);
    }
    let mut inner = store.queues.lock();
    for (key, change, found) in read {
        if let Some(queue) = inner.queues.get_mut(&key)
            && queue.change == change
        {
            queue.scheduled_seen = Some(found);
        }
    }
    Ok(all)
}
