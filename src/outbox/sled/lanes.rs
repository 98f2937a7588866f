//! What is known of the destinations in memory: counters, who is claimed, who is in a batch
//! that is not on the disk yet, and who has to be told of something due.
//!
//! One mutex guards it all and is held for microseconds. The committer marks a callback as
//! busy *before* it applies a change of it and takes the mark away only after the sync; a
//! claim passes over what is busy. That is why nobody is ever handed something that a power
//! cut could undo, or that is about to change.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use sled::Tree;
use tokio::sync::Notify;

use super::keys::{self, LaneKey};
use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{
        Claim, Claims, Open, OutboxError,
        record::{self, Place, Record, State},
    },
};

/// How many rows one claim looks at before it says "ask again".
const SCAN_LIMIT: usize = 1024;

/// How many signals are handed out at once.
const SIGNALS_AT_ONCE: usize = 1024;

/// The counters of the whole store; one row, written with every batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    /// The place in the order of acceptance that the next callback gets.
    pub(super) next_seq: u64,
    /// The number of the next batch.
    pub(super) next_batch: u64,
    pub(super) pending: u64,
    pub(super) delivered: u64,
    pub(super) failed: u64,
}

/// The stored counters of one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LaneRow {
    pub(super) destination: Destination,
    pub(super) pending: u64,
    /// Of the pending ones, those that are [`Place::Fresh`].
    pub(super) fresh: u64,
    /// Of the pending ones, those that have a row in the due index.
    pub(super) scheduled: u64,
    pub(super) failed: u64,
    /// Until when `Retry-After` holds the destination.
    pub(super) hold_until: Timestamp,
}

impl LaneRow {
    pub(super) fn new(destination: Destination) -> Self {
        Self {
            destination,
            pending: 0,
            fresh: 0,
            scheduled: 0,
            failed: 0,
            hold_until: Timestamp::default(),
        }
    }

    /// Nothing is left that would need the row.
    pub(super) fn is_idle(&self) -> bool {
        self.pending == 0 && self.failed == 0
    }
}

/// Why a callback cannot be claimed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    /// Somebody delivers it.
    Claimed,
    /// A batch that is not synced yet changes it.
    Committing,
}

/// One destination in memory.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) row: LaneRow,
    pub(super) busy: HashMap<u64, Busy>,
    pub(super) open: Option<Open>,
    /// No unclaimed fresh callback lies before this one.
    fresh_from: u64,
    /// A claim met nothing but busy ones as far as it looked; who makes one of them free
    /// signals the lane.
    starved: bool,
}

impl Lane {
    pub(super) fn new(row: LaneRow) -> Self {
        Self { row, busy: HashMap::new(), open: None, fresh_from: 0, starved: false }
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.busy.values().filter(|busy| **busy == Busy::Claimed).count() as u64
    }

    /// A callback is not busy any more; `true` where somebody has to be told.
    pub(super) fn free(&mut self, seq: u64) -> bool {
        self.busy.remove(&seq).is_some() && std::mem::take(&mut self.starved)
    }

    pub(super) fn is_claimed(&self, seq: u64) -> bool {
        self.busy.get(&seq) == Some(&Busy::Claimed)
    }
}

/// The part that the mutex guards.
#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) totals: Totals,
    pub(super) lanes: HashMap<LaneKey, Lane>,
    pub(super) broken: Option<Arc<str>>,
    signals: HashMap<LaneKey, Timestamp>,
}

impl Inner {
    /// Notes that the lane has something due at `at`.
    pub(super) fn signal(&mut self, lane: LaneKey, at: Timestamp) {
        let known = self.signals.entry(lane).or_insert(at);
        *known = at.min(*known);
    }

    /// Forgets a lane that nothing needs any more.
    pub(super) fn sweep(&mut self, lane: LaneKey) {
        if self.lanes.get(&lane).is_some_and(|it| it.row.is_idle() && it.busy.is_empty()) {
            self.lanes.remove(&lane);
            self.signals.remove(&lane);
        }
    }
}

/// All destinations.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    inner: Mutex<Inner>,
    signalled: Notify,
}

impl Lanes {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is complete before anything can panic, so what a
        // poisoned lock guards is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits in [`Lanes::signalled`].
    pub(super) fn wake(&self) {
        self.signalled.notify_one();
    }

    pub(super) async fn signalled(&self) -> Vec<(Destination, Timestamp)> {
        loop {
            let taken = self.take_signals();
            if !taken.is_empty() {
                return taken;
            }
            self.signalled.notified().await;
        }
    }

    fn take_signals(&self) -> Vec<(Destination, Timestamp)> {
        let mut inner = self.lock();
        let taken: Vec<_> =
            inner.signals.iter().take(SIGNALS_AT_ONCE).map(|(lane, at)| (*lane, *at)).collect();
        taken
            .into_iter()
            .filter_map(|(lane, at)| {
                inner.signals.remove(&lane);
                Some((inner.lanes.get(&lane)?.row.destination.clone(), at))
            })
            .collect()
    }

    /// Takes at most `limit` due callbacks of the lane: from the due index and from the fresh
    /// ones, whichever is due longer.
    pub(super) fn claim(
        &self,
        tree: &Tree,
        key: LaneKey,
        limit: usize,
        now: Timestamp,
    ) -> Result<Claims, OutboxError> {
        let mut inner = self.lock();
        if inner.broken.is_some() {
            return Ok(Claims::default());
        }
        let synced = inner.totals.next_seq;
        let Some(lane) = inner.lanes.get_mut(&key) else { return Ok(Claims::default()) };
        if lane.row.hold_until > now {
            return Ok(Claims { claimed: Vec::new(), next_due: Some(lane.row.hold_until) });
        }
        let mut source = Source::new(tree, key, lane, synced, now);
        let mut claims = Claims::default();
        while claims.claimed.len() < limit {
            match source.next(lane)? {
                Next::Record(record) => {
                    lane.busy.insert(keys::seq_of(record.id), Busy::Claimed);
                    claims.claimed.push(Claim { record: *record });
                }
                Next::Later(at) => {
                    claims.next_due = at;
                    return Ok(claims);
                }
                Next::Unknown => {
                    // To look again at once would keep the committer from the lock that it
                    // needs to make them free.
                    lane.starved = claims.claimed.is_empty();
                    claims.next_due = (!lane.starved).then_some(now);
                    return Ok(claims);
                }
            }
        }
        claims.next_due = Some(now);
        Ok(claims)
    }

    /// Gives a claim back.
    pub(super) fn release(&self, lane: LaneKey, seq: u64, due: Timestamp) {
        let mut inner = self.lock();
        if let Some(it) = inner.lanes.get_mut(&lane) {
            it.free(seq);
            it.fresh_from = it.fresh_from.min(seq);
            inner.signal(lane, due);
            drop(inner);
            self.wake();
        }
    }
}

enum Next {
    /// Due, and nobody's.
    Record(Box<Record>),
    /// Nothing is due before this time.
    Later(Option<Timestamp>),
    /// Nothing free was found as far as the scan went.
    Unknown,
}

/// The two sorted sources of due callbacks, merged by the time since when they are due.
struct Source<'a> {
    tree: &'a Tree,
    key: LaneKey,
    now: Timestamp,
    due: sled::Iter,
    fresh: sled::Iter,
    next_due: Option<Box<Record>>,
    next_fresh: Option<Box<Record>>,
    due_later: Option<Timestamp>,
    due_done: bool,
    fresh_done: bool,
    /// Whether everything looked at so far lies behind the cursor for good.
    cursor_moves: bool,
    looked_at: usize,
}

impl<'a> Source<'a> {
    fn new(tree: &'a Tree, key: LaneKey, lane: &Lane, synced: u64, now: Timestamp) -> Self {
        Self {
            tree,
            key,
            now,
            due: tree.scan_prefix(keys::due_lane(key)),
            fresh: tree.range(keys::pending(key, lane.fresh_from)..keys::pending(key, synced)),
            next_due: None,
            next_fresh: None,
            due_later: None,
            due_done: lane.row.scheduled == 0,
            fresh_done: lane.row.fresh == 0,
            cursor_moves: true,
            looked_at: 0,
        }
    }

    fn next(&mut self, lane: &mut Lane) -> Result<Next, OutboxError> {
        if self.next_due.is_none() {
            self.next_due = self.advance_due(lane)?;
        }
        if self.next_fresh.is_none() {
            self.next_fresh = self.advance_fresh(lane)?;
        }
        let since = |record: &Record| match record.state {
            State::Pending(Place::Scheduled(due)) => due,
            _ => record.created_at,
        };
        let due_first = match (&self.next_due, &self.next_fresh) {
            (Some(due), Some(fresh)) => since(due) <= since(fresh),
            (due, _) => due.is_some(),
        };
        if due_first && let Some(record) = self.next_due.take() {
            return Ok(Next::Record(record));
        }
        if let Some(record) = self.next_fresh.take() {
            if self.cursor_moves {
                lane.fresh_from = keys::seq_of(record.id) + 1;
            }
            return Ok(Next::Record(record));
        }
        let all = self.due_done && self.fresh_done;
        Ok(if all { Next::Later(self.due_later) } else { Next::Unknown })
    }

    fn advance_due(&mut self, lane: &Lane) -> Result<Option<Box<Record>>, OutboxError> {
        while !self.due_done && self.looked_at < SCAN_LIMIT {
            self.looked_at += 1;
            let Some(row) = self.due.next() else {
                self.due_done = true;
                break;
            };
            let (key, _) = row?;
            let (at, seq) = (keys::due_time(&key), keys::last_number(&key));
            if lane.busy.contains_key(&seq) {
                continue;
            }
            if at > self.now {
                self.due_later = Some(at);
                self.due_done = true;
                break;
            }
            let pending = keys::pending(self.key, seq);
            let Some(bytes) = self.tree.get(&pending)? else { continue };
            return decode(&pending, &bytes).map(Some);
        }
        Ok(None)
    }

    fn advance_fresh(&mut self, lane: &mut Lane) -> Result<Option<Box<Record>>, OutboxError> {
        while !self.fresh_done && self.looked_at < SCAN_LIMIT {
            self.looked_at += 1;
            let Some(row) = self.fresh.next() else {
                self.fresh_done = true;
                break;
            };
            let (key, bytes) = row?;
            let seq = keys::last_number(&key);
            match (record::is_fresh(&bytes), lane.busy.get(&seq)) {
                (true, None) => return decode(&key, &bytes).map(Some),
                // It may be claimable again without being signalled as fresh: look again.
                (_, Some(Busy::Committing)) => self.cursor_moves = false,
                _ if self.cursor_moves => lane.fresh_from = seq + 1,
                _ => {}
            }
        }
        Ok(None)
    }
}

fn decode(key: &[u8], bytes: &[u8]) -> Result<Box<Record>, OutboxError> {
    record::decode(bytes).map(Box::new).map_err(|error| OutboxError::damaged(key, &error))
}

/// The lanes of a tree, from its stored rows, each signalled as due.
pub(super) fn load(tree: &Tree) -> Result<Lanes, OutboxError> {
    let mut inner = Inner::default();
    if let Some(bytes) = tree.get(keys::TOTALS)? {
        inner.totals =
            record::decode(&bytes).map_err(|e| OutboxError::damaged(keys::TOTALS, &e))?;
    }
    let mut due = BTreeSet::new();
    for row in tree.scan_prefix(keys::LANES) {
        let (key, bytes) = row?;
        let row: LaneRow = record::decode(&bytes).map_err(|e| OutboxError::damaged(&key, &e))?;
        let lane = LaneKey(keys::last_number(&key));
        if row.pending > 0 {
            due.insert(lane);
        }
        inner.lanes.insert(lane, Lane::new(row));
    }
    for lane in due {
        inner.signal(lane, Timestamp::default());
    }
    Ok(Lanes { inner: Mutex::new(inner), signalled: Notify::new() })
}
