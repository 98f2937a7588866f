//! Reading: one callback, listings, the summary. It runs beside the committer and holds no
//! lock while it reads the tree; what it gives is as of some moment during the call.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    time::Duration,
};

use super::{
    Store,
    keys::{self, LaneKey},
    lanes::{Lane, LaneRow},
};
use crate::{
    callback::CallbackId,
    clock::Timestamp,
    outbox::{
        Attempt, DestinationSummary, Detail, OVERDUE, OutboxError, Page, Place, Query, Record,
        Standing, State, StateName, Summary, record,
    },
};

/// How many rows one page of a listing, or a summary, looks at.
const LIST_SCAN_LIMIT: usize = 100_000;

/// Up to how many runs keep their iterators while a listing is merged from them.
const RUNS_KEPT: usize = 64;

/// How many callbacks one step of the expiry ends.
const EXPIRE_STEP: usize = 512;

/// How many destinations a summary names.
const DESTINATIONS_SHOWN: usize = 1000;

/// How many rows are searched for destinations that have failed callbacks alone.
const DESTINATION_SCAN_LIMIT: usize = 20_000;

/// How many rows a lane is searched for its oldest due callback.
const OLDEST_SCAN_LIMIT: usize = 256;

type Result<T> = std::result::Result<T, OutboxError>;

fn decode(key: &[u8], bytes: &[u8]) -> Result<Record> {
    record::decode(bytes).map_err(|error| OutboxError::damaged(key, &error))
}

fn record_at(store: &Store, key: &[u8]) -> Result<Option<Record>> {
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

/// When the one ended that is kept longest of those in this state.
fn oldest_finished(store: &Store, state: StateName) -> Result<Option<Timestamp>> {
    // What was replayed leaves its row of the index behind.
    for row in store.tree.scan_prefix(keys::retention(state)).take(OLDEST_SCAN_LIMIT) {
        let (key, seqs) = row?;
        let finished_at = keys::finished_time(&key);
        for seq in seqs.chunks_exact(8).map(keys::number) {
            let kept = record_at(store, &keys::finished(state, seq))?;
            if kept.is_some_and(|it| it.finished_at() == Some(finished_at)) {
                return Ok(Some(finished_at));
            }
        }
    }
    Ok(None)
}

/// Destinations with failed callbacks and no pending ones: memory does not know them.
fn only_failed(
    store: &Store,
    known: &HashSet<LaneKey>,
    most: usize,
) -> Result<Vec<(LaneKey, LaneRow)>> {
    let mut found = Vec::new();
    for row in store.tree.scan_prefix(keys::LANES).take(DESTINATION_SCAN_LIMIT) {
        let (key, bytes) = row?;
        let lane = LaneKey(keys::last_number(&key));
        if known.contains(&lane) {
            continue;
        }
        let row: LaneRow =
            record::decode(&bytes).map_err(|error| OutboxError::damaged(&key, &error))?;
        if row.pending == 0 && row.counts() {
            found.push((lane, row));
            if found.len() >= most {
                break;
            }
        }
    }
    Ok(found)
}

/// The queue in numbers.
pub(super) fn summary(store: &Store, now: Timestamp) -> Result<Summary> {
    let (totals, destination_count, mut lanes) = {
        let inner = store.lanes.lock();
        let lanes: Vec<_> = inner
            .lanes
            .iter()
            .map(|(key, lane)| {
                let busy: HashSet<u64> = lane.busy.keys().copied().collect();
                // With nothing left to probe it with, whether it is open means nothing.
                let open = lane.open.filter(|_| lane.row.pending > 0);
                (*key, lane.row.clone(), lane.in_flight(), busy, open)
            })
            .collect();
        (inner.totals, inner.destinations, lanes)
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
    let later = now..=store.latest(now);
    let (mut ready, mut looked_at) = (0, 0);
    for (key, row, in_flight, busy, open) in &lanes {
        summary.in_flight += in_flight;
        let mut lane_ready = row.fresh;
        let mut oldest = None;
        if row.scheduled > 0 {
            let due_by = |from, to| {
                store.tree.range(keys::due(*key, from, 0)..=keys::due(*key, to, u64::MAX))
            };
            // What lies beyond was put off by a clock that was ahead.
            let beyond = later.end().after(Duration::from_millis(1));
            let beyond = (beyond > *later.end()).then(|| due_by(beyond, Timestamp::MAX));
            let mut due = 0;
            for entry in due_by(Timestamp::default(), now).chain(beyond.into_iter().flatten()) {
                if looked_at >= LIST_SCAN_LIMIT {
                    // With so many due, the others of this destination are taken for due as well.
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
            lane_ready += due;
        }
        if row.fresh > 0 {
            let rows = store.tree.scan_prefix(&keys::pending(*key, 0)[..9]);
            for entry in rows.take(OLDEST_SCAN_LIMIT) {
                let (entry, bytes) = entry?;
                if record::is_fresh(&bytes) && !busy.contains(&keys::last_number(&entry)) {
                    let created = decode(&entry, &bytes)?.created_at;
                    oldest = Some(oldest.map_or(created, |known| created.min(known)));
                    break;
                }
            }
        }
        ready += lane_ready;
        let free = open.is_none() && !row.is_held(&later);
        if free && oldest.is_some_and(|due| now.since(due) > OVERDUE) {
            summary.overdue += lane_ready.saturating_sub(*in_flight);
        }
        summary.oldest_due = match (summary.oldest_due, oldest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    // Read at different moments, the three may disagree by what moved meanwhile; they still
    // add up.
    summary.in_flight = summary.in_flight.min(summary.pending);
    summary.due = ready.saturating_sub(summary.in_flight).min(summary.pending - summary.in_flight);
    summary.waiting = summary.pending - summary.in_flight - summary.due;
    summary.overdue = summary.overdue.min(summary.due);
    summary.store_bytes = store.db.size_on_disk()?;
    lanes.retain(|(_, row, ..)| row.counts());
    if lanes.len() < DESTINATIONS_SHOWN {
        let known: HashSet<_> = lanes.iter().map(|(key, ..)| *key).collect();
        let only_failed = only_failed(store, &known, DESTINATIONS_SHOWN - lanes.len())?;
        lanes.extend(only_failed.into_iter().map(|(key, row)| (key, row, 0, HashSet::new(), None)));
    }
    summary.open_count = lanes.iter().filter(|(.., open)| open.is_some()).count() as u64;
    lanes.sort_by(|(_, a, ..), (_, b, ..)| {
        (b.pending, b.failed)
            .cmp(&(a.pending, a.failed))
            .then_with(|| a.destination.cmp(&b.destination))
    });
    lanes.truncate(DESTINATIONS_SHOWN);
    summary.destinations = lanes
        .into_iter()
        .map(|(_, row, in_flight, _, open)| DestinationSummary {
            hold_until: row.is_held(&later).then_some(row.hold_until),
            destination: row.destination,
            pending: row.pending,
            in_flight,
            failed: row.failed,
            open,
        })
        .collect();
    Ok(summary)
}
