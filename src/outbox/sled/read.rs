//! Reading: one callback, listings, what is too old. It runs beside the committer and holds no
//! lock while it reads the tree; what it gives is as of some moment during the call.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
};

use super::{
    Store,
    keys::{self, LaneKey},
    lanes::Lane,
};
use crate::{
    callback::CallbackId,
    clock::Timestamp,
    outbox::{
        Attempt, Detail, OutboxError, Page, Place, Query, Record, Standing, State, StateName,
        record,
    },
};

/// How many rows one page of a listing, or a summary, looks at.
pub(super) const LIST_SCAN_LIMIT: usize = 100_000;

/// Up to how many runs keep their iterators while a listing is merged from them.
const RUNS_KEPT: usize = 64;

/// How many callbacks one step of the expiry ends.
const EXPIRE_STEP: usize = 512;

type Result<T> = std::result::Result<T, OutboxError>;

pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Result<Record> {
    record::decode(bytes).map_err(|error| OutboxError::damaged(key, &error))
}

pub(super) fn record_at(store: &Store, key: &[u8]) -> Result<Option<Record>> {
    store.tree.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// One callback with all its attempts.
pub(super) fn get(store: &Store, id: CallbackId) -> Result<Option<Detail>> {
    let (seq, lane) = keys::parts(id);
    let places = [
        keys::pending(lane, seq),
        keys::finished(StateName::Delivered, seq),
        keys::finished(StateName::Failed, seq),
        // Once more: it may have been replayed between the look-ups.
        keys::pending(lane, seq),
    ];
    for key in places {
        let Some(record) = record_at(store, &key)?.filter(|record| record.id == id) else {
            continue;
        };
        let attempts = attempts(store, &record)?;
        return Ok(Some(Detail { standing: standing(store, record)?, attempts }));
    }
    Ok(None)
}

/// The attempts of a callback, the first one first.
pub(super) fn attempts(store: &Store, record: &Record) -> Result<Vec<Attempt>> {
    let mut attempts = Vec::new();
    if record.attempt_count > 1 {
        for row in store.tree.scan_prefix(keys::attempts(keys::seq_of(record.id))) {
            let (key, bytes) = row?;
            let attempt: Attempt =
                record::decode(&bytes).map_err(|error| OutboxError::damaged(&key, &error))?;
            attempts.push(attempt);
        }
    }
    attempts.extend(record.last_attempt.clone());
    attempts.dedup_by_key(|attempt| attempt.number);
    Ok(attempts)
}

fn standing(store: &Store, record: Record) -> Result<Standing> {
    let waiting_for = waiting_for(store, &record)?;
    let blocked = matches!(record.state, State::Pending(Place::Blocked(_)));
    let stuck = blocked && waiting_for.is_none();
    let (seq, lane) = keys::parts(record.id);
    let in_flight = record.state_name() == StateName::Pending
        && store.lanes.lock().lanes.get(&lane).is_some_and(|lane| lane.is_claimed(seq));
    Ok(Standing { record, waiting_for, in_flight, stuck })
}

/// What has to end first: the pending callback of the same job that comes right before this
/// one; for the first of the job, the one that is under way.
fn waiting_for(store: &Store, record: &Record) -> Result<Option<CallbackId>> {
    let is_blocked = |record: &Record| matches!(record.state, State::Pending(Place::Blocked(_)));
    if !is_blocked(record) {
        return Ok(None);
    }
    let (job, seq) = (keys::job_line(&record.body.job_id), keys::seq_of(record.id));
    let own = keys::job(&record.body.job_id, seq);
    if let Some((key, lane)) = store.tree.range(job.clone()..own).next_back().transpose()? {
        return Ok(Some(keys::id(keys::last_number(&key), LaneKey(keys::number(&lane)))));
    }
    // A replayed one waits for a later one that was under way; those between them were
    // replayed as well, and wait too.
    for row in store.tree.range(keys::job(&record.body.job_id, seq + 1)..) {
        let (key, lane) = row?;
        if !key.starts_with(&job) {
            break;
        }
        let (later, lane) = (keys::last_number(&key), LaneKey(keys::number(&lane)));
        if record_at(store, &keys::pending(lane, later))?.is_some_and(|it| !is_blocked(&it)) {
            return Ok(Some(keys::id(later, lane)));
        }
    }
    Ok(None)
}

/// A sorted run of rows that a listing is merged from.
struct Run<'a> {
    store: &'a Store,
    prefix: Vec<u8>,
    oldest_first: bool,
    /// Where it goes on; `None` at its beginning.
    position: Option<u64>,
    /// An iterator holds a page of the tree; with very many runs none is kept.
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

/// One page of a listing: the runs of the states and lanes that can hold what is asked for,
/// merged by order of acceptance.
pub(super) fn list(store: &Store, query: &Query) -> Result<Page> {
    let moved = store.moves.watch();
    let mut page = merged(store, query)?;
    // What has been written meanwhile is noted by then.
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
            && matches(&standing.record, query)
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

/// The page as the runs have it while they change.
fn merged(store: &Store, query: &Query) -> Result<Page> {
    let mut runs = Vec::new();
    for state in [StateName::Delivered, StateName::Failed] {
        if query.state.is_none_or(|wanted| wanted == state) {
            runs.push(Run::new(store, &[keys::finished_prefix(state)], query));
        }
    }
    if query.state.is_none_or(|wanted| wanted == StateName::Pending) {
        for lane in pending_lanes(store, query)? {
            runs.push(Run::new(store, &keys::pending(lane, 0)[..9], query));
        }
    }
    // Seen as a max-heap the latest comes out first; turned round, the oldest.
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
        let record = decode(&key, &bytes)?;
        let id = record.id;
        looked_at += 1;
        if matches(&record, query) && seen.insert(id) {
            page.callbacks.push(standing(store, record)?);
        }
        if page.callbacks.len() >= query.limit.max(1) || looked_at >= LIST_SCAN_LIMIT {
            page.next = (!heads.is_empty()).then_some(id);
            break;
        }
    }
    Ok(page)
}

/// The lanes in which pending callbacks may answer the query.
fn pending_lanes(store: &Store, query: &Query) -> Result<Vec<LaneKey>> {
    if let Some(job_id) = &query.job_id {
        let mut lanes = HashSet::new();
        for row in store.tree.scan_prefix(keys::job_line(job_id)) {
            lanes.insert(LaneKey(keys::number(&row?.1)));
        }
        return Ok(lanes.into_iter().collect());
    }
    if let Some(destination) = &query.destination {
        return Ok(vec![LaneKey::of(&store.salt, destination)]);
    }
    let inner = store.lanes.lock();
    Ok(inner.lanes.iter().filter(|(_, it)| it.row.pending > 0).map(|(key, _)| *key).collect())
}

fn matches(record: &Record, query: &Query) -> bool {
    query.destination.as_ref().is_none_or(|wanted| record.destination == *wanted)
        && query.job_id.as_ref().is_none_or(|wanted| record.body.job_id == *wanted)
        && query.since.is_none_or(|since| record.created_at >= since)
}

/// Hands the pending callbacks whose budget began before `cutoff` to `end`, until enough of
/// them have ended, and gives those. Only `end` knows which are in flight after what the batch
/// in the making has settled.
pub(super) fn expired(
    store: &Store,
    cutoff: Timestamp,
    now: Timestamp,
    mut end: impl FnMut(CallbackId) -> Result<Option<Record>>,
) -> Result<Vec<Record>> {
    // Where the rows have not been looked at, or are older than that by now.
    let from = |lane: &Lane| {
        if lane.oldest < cutoff {
            return Some((0, Timestamp::MAX));
        }
        (lane.aged_to < u64::MAX).then_some((lane.aged_to, lane.oldest))
    };
    let lanes: Vec<_> = {
        let inner = store.lanes.lock();
        let pending = inner.lanes.iter().filter(|(_, lane)| lane.row.pending > 0);
        pending.filter_map(|(key, lane)| Some((*key, from(lane)?))).collect()
    };
    let mut ended = Vec::new();
    for (lane, (from, mut oldest)) in lanes {
        let mut aged_to = u64::MAX;
        for row in store.tree.range(keys::pending(lane, from)..keys::pending(lane, u64::MAX)) {
            let (key, bytes) = row?;
            let record = decode(&key, &bytes)?;
            let seq = keys::seq_of(record.id);
            if record.budget_since < cutoff
                && let Some(record) = end(record.id)?
            {
                ended.push(record);
                if ended.len() >= EXPIRE_STEP {
                    aged_to = seq + 1;
                    break;
                }
                continue;
            }
            oldest = oldest.min(record.budget_since);
            // A lane is in order of acceptance, and no budget begins before it. Only what a
            // clock that was ahead has accepted stands before older ones.
            if (cutoff..=now).contains(&record.created_at) {
                oldest = oldest.min(record.created_at);
                break;
            }
        }
        if let Some(lane) = store.lanes.lock().lanes.get_mut(&lane) {
            (lane.oldest, lane.aged_to) = (oldest, aged_to);
        }
        if ended.len() >= EXPIRE_STEP {
            break;
        }
    }
    Ok(ended)
}
