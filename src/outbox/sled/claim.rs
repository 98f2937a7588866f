//! Taking what is due of one destination: the scan over its rows, and what was read ahead.
//!
//! A read of the tree waits while the committer applies a batch, and a seek costs more than the
//! rows behind it. So the fresh callbacks, which nearly all are, are read some at a time into a
//! [`Window`], and most claims touch no row. The invariant: a fresh callback before
//! [`Window::from`] is in the window, or busy. Whoever is about to change one that is in it
//! ([`Batch::mark`](super::batch::Batch::mark)) has the window forgotten, and it is read again.

use std::{collections::VecDeque, ops::RangeInclusive, time::Duration};

use sled::Tree;

use super::{
    guard::guarded,
    keys::{self, LaneKey},
    lanes::{Busy, Lane, is_later},
};
use crate::{
    clock::Timestamp,
    outbox::{
        OutboxError,
        record::{self, Place, Record, State},
    },
};

/// How many rows one claim looks at before it says "ask again".
const SCAN_LIMIT: usize = 1024;

/// How many callbacks are read ahead of all destinations' claims, so few that they are still in
/// the processor's cache when they are claimed; and which part of what is left one of them gets.
const ALL_WINDOWS: usize = 2048;
const PART: usize = 8;

/// A destination that takes longer for what was read ahead gets no more than it asks for.
const QUICK: Duration = Duration::from_millis(100);

/// The next fresh callbacks of a destination, in order.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// No fresh callback that nobody has lies before this one, but for those ahead.
    from: u64,
    ahead: VecDeque<Box<Record>>,
    /// How many were read the last time, and when.
    reach: usize,
    read_at: Timestamp,
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.ahead.len()
    }

    /// Whether this fresh callback is in it.
    pub(super) fn holds(&self, seq: u64) -> bool {
        let first = self.ahead.front().map(|record| keys::seq_of(record.id));
        first.is_some_and(|first| (first..self.from).contains(&seq))
    }

    /// Forgets what was read ahead; gives how many that were.
    pub(super) fn forget(&mut self) -> usize {
        if let Some(first) = self.ahead.front() {
            self.from = keys::seq_of(first.id);
        }
        let forgotten = self.ahead.len();
        self.ahead.clear();
        forgotten
    }

    /// A callback that was claimed is free again. The window has to be empty.
    pub(super) fn look_from(&mut self, seq: u64) {
        debug_assert!(self.ahead.is_empty(), "what is read again must not be there twice");
        self.from = self.from.min(seq);
    }

    /// How many a claim of `limit` reads where it finds the window half empty, or, while a batch
    /// is applied, empty: more and more, as long as they are soon gone and the windows of the
    /// `others` leave room.
    pub(super) fn reach(
        &mut self,
        limit: usize,
        others: usize,
        applying: bool,
        now: Timestamp,
    ) -> usize {
        let enough = if applying { 0 } else { self.reach / 2 };
        if self.ahead.len() > enough {
            return 0;
        }
        let quick = now.since(self.read_at) < QUICK;
        let wanted = if quick { 2 * self.reach } else { 0 };
        let room = ALL_WINDOWS.saturating_sub(others) / PART;
        self.reach = wanted.min(room).max(limit);
        self.read_at = now;
        self.reach
    }
}

/// What a claim found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Due callbacks, the longest due first.
    pub(super) records: Vec<Record>,
    /// When the lane has something due again; `None`: not before it is signalled.
    pub(super) next_due: Option<Timestamp>,
}

impl Found {
    /// Nothing, but perhaps then.
    pub(super) fn nothing_before(at: Timestamp) -> Self {
        Self { records: Vec::new(), next_due: Some(at) }
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
#[expect(clippy::struct_excessive_bools, reason = "four facts about a scan, none a state")]
pub(super) struct Source<'a> {
    tree: &'a Tree,
    key: LaneKey,
    /// From now to the latest moment to which anything is put off.
    later: RangeInclusive<Timestamp>,
    reach: usize,
    /// The due index: until now, and then what lies beyond the latest moment.
    due: sled::Iter,
    fresh: sled::Iter,
    next_due: Option<Box<Record>>,
    next_fresh: Option<Box<Record>>,
    due_later: Option<Timestamp>,
    due_done: bool,
    fresh_done: bool,
    /// Whether all scheduled ones looked at so far are somebody's.
    due_moves: bool,
    /// Whether everything looked at so far lies behind the cursor for good.
    cursor_moves: bool,
    looked_at: usize,
}

impl<'a> Source<'a> {
    pub(super) fn new(
        tree: &'a Tree,
        key: LaneKey,
        lane: &Lane,
        reach: usize,
        synced: u64,
        later: RangeInclusive<Timestamp>,
    ) -> Self {
        let none_due = lane.row.scheduled == 0 || is_later(lane.due_from, &later);
        Self {
            tree,
            key,
            later,
            reach,
            due: tree.scan_prefix(keys::due_lane(key)),
            fresh: tree.range(keys::pending(key, lane.window.from)..keys::pending(key, synced)),
            next_due: None,
            next_fresh: None,
            due_later: (lane.row.scheduled > 0 && none_due).then_some(lane.due_from),
            due_done: none_due,
            fresh_done: lane.row.fresh == 0,
            due_moves: true,
            cursor_moves: true,
            looked_at: 0,
        }
    }

    /// Takes at most `limit`.
    pub(super) fn claim(
        mut self,
        lane: &mut Lane,
        limit: usize,
        now: Timestamp,
    ) -> Result<Found, OutboxError> {
        let mut found = Found::nothing_before(now);
        let began = lane.window.from;
        while found.records.len() < limit {
            // A panic of the engine takes nothing with it of what was claimed before.
            match guarded(|| self.next(lane)) {
                Ok(Next::Record(record)) => {
                    lane.busy.insert(keys::seq_of(record.id), Busy::Claimed);
                    found.records.push(*record);
                }
                Ok(Next::Later(at)) => {
                    found.next_due = at;
                    break;
                }
                Ok(Next::Unknown) => {
                    // The next claim goes on where this one ends. Where that is no further, all
                    // that is in reach is somebody's, and to look again at once would keep the
                    // committer from the lock that it needs to make them free.
                    lane.starved = found.records.is_empty() && lane.window.from == began;
                    found.next_due = (!lane.starved).then_some(now);
                    break;
                }
                // What was taken before it is not lost; it is met again the next time.
                Err(_) if !found.records.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        // One that was not in the window is met again, since the cursor stands before it.
        if let Some(record) = self.next_fresh
            && keys::seq_of(record.id) < lane.window.from
        {
            lane.window.ahead.push_front(record);
        }
        Ok(found)
    }

    fn next(&mut self, lane: &mut Lane) -> Result<Next, OutboxError> {
        let mut unreadable = None;
        if self.next_due.is_none() {
            match self.advance_due(lane) {
                Ok(due) => self.next_due = due,
                Err(error) => unreadable = Some(error),
            }
        }
        if self.next_fresh.is_none() {
            match self.advance_fresh(lane) {
                Ok(fresh) => self.next_fresh = fresh,
                Err(error) => unreadable = Some(error),
            }
        }
        if let Some(error) = unreadable {
            // What there is of the other kind goes; the next claim meets it again.
            self.looked_at = SCAN_LIMIT;
            self.due_moves = false;
            if self.next_due.is_none() && self.next_fresh.is_none() {
                return Err(error);
            }
        }
        let since = |record: &Record| match record.state {
            // Since when it is due nobody knows.
            State::Pending(Place::Scheduled(due)) if due > *self.later.end() => {
                Timestamp::default()
            }
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
            return Ok(Next::Record(record));
        }
        let all = self.due_done && self.fresh_done;
        Ok(if all { Next::Later(self.due_later) } else { Next::Unknown })
    }

    fn advance_due(&mut self, lane: &mut Lane) -> Result<Option<Box<Record>>, OutboxError> {
        while !self.due_done && self.looked_at < SCAN_LIMIT {
            self.looked_at += 1;
            let Some(row) = self.due.next() else {
                self.due_done = true;
                break;
            };
            let (key, _) = row?;
            let (at, seq) = (keys::due_time(&key), keys::last_number(&key));
            match lane.busy.get(&seq) {
                Some(Busy::Claimed) => continue,
                Some(Busy::Committing) => {
                    self.due_moves = false;
                    continue;
                }
                None => {}
            }
            if is_later(at, &self.later) {
                self.due_later = Some(at);
                if self.due_moves {
                    lane.due_from = at;
                }
                // Whatever lies beyond is due as well; what lies in between is not looked at.
                self.due_done = *self.later.end() == Timestamp::MAX;
                let beyond = keys::due(self.key, *self.later.end(), u64::MAX);
                self.due = self.tree.range(beyond..keys::due(self.key, Timestamp::MAX, u64::MAX));
                self.due_moves = false;
                continue;
            }
            // It is taken by this claim or met by the next one.
            self.due_moves = false;
            let pending = keys::pending(self.key, seq);
            let Some(bytes) = self.tree.get(&pending)? else { continue };
            return decode(&pending, &bytes).map(Some);
        }
        Ok(None)
    }

    fn advance_fresh(&mut self, lane: &mut Lane) -> Result<Option<Box<Record>>, OutboxError> {
        let Lane { window, busy, .. } = lane;
        // What is read ahead is read once in a claim; after that, where there is nothing else.
        let reach = std::mem::take(&mut self.reach).max(1);
        while !self.fresh_done && self.looked_at < SCAN_LIMIT && window.len() < reach {
            self.looked_at += 1;
            let Some(row) = self.fresh.next() else {
                self.fresh_done = true;
                break;
            };
            let row = row.map_err(OutboxError::from);
            let read = row.and_then(|(key, bytes)| {
                let fresh = record::is_fresh(&bytes).then(|| decode(&key, &bytes));
                Ok((keys::last_number(&key), fresh.transpose()?))
            });
            let (seq, fresh) = match read {
                Ok(read) => read,
                // What lies before it goes first; the next claim meets it again.
                Err(_) if !window.ahead.is_empty() => {
                    self.looked_at = SCAN_LIMIT;
                    break;
                }
                Err(error) => return Err(error),
            };
            match (fresh, busy.get(&seq)) {
                (Some(record), None) => {
                    if !self.cursor_moves {
                        return Ok(Some(record));
                    }
                    window.ahead.push_back(record);
                    window.from = seq + 1;
                }
                // It may be claimable again without being signalled as fresh: look again.
                (_, Some(Busy::Committing)) => {
                    self.cursor_moves = false;
                    if !window.ahead.is_empty() {
                        break;
                    }
                }
                _ if self.cursor_moves => window.from = seq + 1,
                _ => {}
            }
        }
        Ok(window.ahead.pop_front())
    }
}

fn decode(key: &[u8], bytes: &[u8]) -> Result<Box<Record>, OutboxError> {
    record::decode(bytes).map(Box::new).map_err(|error| OutboxError::damaged(key, &error))
}
