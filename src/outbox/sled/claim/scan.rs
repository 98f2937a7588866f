//! The scan for due callbacks of one destination: a merge of the due index and the fresh callbacks.
//!
//! A read of the tree waits while the committer applies a batch, and a seek costs more than reading the
//! rows after it. Therefore fresh callbacks, which are the most frequent ones, are read ahead into a
//! [`Window`](super::window::Window), and most claims read no row. The invariant: a fresh callback
//! before `Window::from` is in the window, or busy. `Transaction::mark` (in `commit/transaction.rs`)
//! discards the window of a callback that is about to change.

use sled::Tree;

use crate::{
    clock::Timestamp,
    outbox::{
        Readiness, Record, State,
        error::Result,
        horizon::Horizon,
        record::Progress,
        sled::{
            blocks::{Pending, SET, Set},
            claim::queue::{Busy, Queue},
            guard::guarded,
            keys::{self, QueueKey},
            rows::{self, Records},
        },
    },
};

/// Maximum number of rows that one claim reads before it returns.
const SCAN_LIMIT: usize = 1024;

/// Result of a claim.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// Due callbacks, in the order in which they became due.
    #[expect(
        clippy::vec_box,
        reason = "the records in a window are boxed, and a claim keeps the box"
    )]
    pub(crate) records: Vec<Box<Record>>,
    /// When the queue has something due again; `None`: not before it is signalled.
    pub(crate) next_due: Option<Timestamp>,
}

impl Due {
    /// Nothing is due before this time.
    pub(crate) fn nothing_before(at: Timestamp) -> Self {
        Self { records: Vec::new(), next_due: Some(at) }
    }
}

/// Claims `limit` callbacks from the window; `None` if scheduled callbacks may be due, or the window
/// has fewer.
pub(crate) fn claim_ahead(queue: &mut Queue, limit: usize, horizon: Horizon) -> Option<Due> {
    if limit == 0 || queue.may_have_scheduled(horizon) || queue.window.len() < limit {
        return None;
    }
    let mut found = Due::nothing_before(horizon.now);
    while found.records.len() < limit
        && let Some(mut record) = queue.window.ahead.pop_front()
    {
        queue.claim(&mut record);
        found.records.push(record);
    }
    Some(found)
}

enum Next {
    /// Due and not busy.
    Record(Box<Record>),
    /// Nothing is due before this time.
    Later(Option<Timestamp>),
    /// The scan ended at its limit without a result.
    Unknown,
}

/// The merge of the due index and the fresh callbacks, by the time at which they became due.
#[expect(clippy::struct_excessive_bools, reason = "four facts about a scan, none a state")]
pub(crate) struct DueScan<'a> {
    tree: &'a Tree,
    key: QueueKey,
    horizon: Horizon,
    reach: usize,
    /// The due index: first up to now, then after [`Horizon::latest`].
    due: sled::Iter,
    /// The blocks of the queue from the cursor on, and the fresh callbacks of the block that was read
    /// last.
    blocks: sled::Iter,
    fresh: Option<(u64, Set)>,
    records: Records,
    visible_end: u64,
    next_due: Option<Box<Record>>,
    next_fresh: Option<Box<Record>>,
    due_later: Option<Timestamp>,
    due_done: bool,
    fresh_done: bool,
    /// Whether `due_from` may be raised: all scheduled callbacks so far are claimed.
    due_moves: bool,
    /// Whether the cursor can move past everything so far.
    cursor_moves: bool,
    /// The fresh callbacks before this seq have been scanned.
    passed: u64,
    looked_at: usize,
}

impl<'a> DueScan<'a> {
    pub(crate) fn new(
        tree: &'a Tree,
        key: QueueKey,
        queue: &Queue,
        reach: usize,
        visible_end: u64,
        horizon: Horizon,
    ) -> Self {
        let none_due = queue.row.scheduled == 0 || horizon.is_later(queue.due_from);
        Self {
            tree,
            key,
            horizon,
            reach,
            due: tree.scan_prefix(keys::due_prefix(key)),
            blocks: tree.range(
                keys::pending(key, queue.window.from / SET)..=keys::pending(key, visible_end / SET),
            ),
            fresh: None,
            records: Records::default(),
            visible_end,
            next_due: None,
            next_fresh: None,
            due_later: (queue.row.scheduled > 0 && none_due).then_some(queue.due_from),
            due_done: none_due,
            fresh_done: queue.row.fresh == 0,
            due_moves: true,
            cursor_moves: true,
            passed: 0,
            looked_at: 0,
        }
    }

    /// Claims at most `limit` callbacks.
    pub(crate) fn claim(mut self, queue: &mut Queue, limit: usize, now: Timestamp) -> Result<Due> {
        let mut found = Due::nothing_before(now);
        let began = queue.window.from;
        while found.records.len() < limit {
            // If sled panics, the earlier claims are kept.
            match guarded(|| self.next(queue)) {
                Ok(Next::Record(mut record)) => {
                    queue.claim(&mut record);
                    found.records.push(record);
                }
                Ok(Next::Later(at)) => {
                    found.next_due = at;
                    break;
                }
                Ok(Next::Unknown) => {
                    // The next claim continues where this one ends. If the cursor has not moved,
                    // everything in reach is busy. Claiming again immediately would then keep the
                    // committer from the mutex that it needs to free them.
                    queue.starved = found.records.is_empty() && queue.window.from == began;
                    found.next_due = (!queue.starved).then_some(now);
                    break;
                }
                // The next claim returns the error again.
                Err(_) if !found.records.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        // A callback at or after the cursor is read again by the next claim.
        if let Some(record) = self.next_fresh
            && keys::seq_of(record.id) < queue.window.from
        {
            queue.window.ahead.push_front(record);
        }
        Ok(found)
    }

    fn next(&mut self, queue: &mut Queue) -> Result<Next> {
        let mut unreadable = None;
        if self.next_due.is_none() {
            match self.advance_due(queue) {
                Ok(due) => self.next_due = due,
                Err(error) => unreadable = Some(error),
            }
        }
        if self.next_fresh.is_none() {
            match self.advance_fresh(queue) {
                Ok(fresh) => self.next_fresh = fresh,
                Err(error) => unreadable = Some(error),
            }
        }
        if let Some(error) = unreadable {
            // The other source is used up first; the next claim returns the error again.
            self.looked_at = SCAN_LIMIT;
            self.due_moves = false;
            if self.next_due.is_none() && self.next_fresh.is_none() {
                return Err(error);
            }
        }
        let since = |record: &Record| match record.state {
            // It was scheduled by a clock that was ahead, so it is unknown when it became due.
            State::Pending(Readiness::Scheduled(due)) if due > self.horizon.latest => {
                Timestamp::default()
            }
            State::Pending(Readiness::Scheduled(due)) => due,
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

    fn advance_due(&mut self, queue: &mut Queue) -> Result<Option<Box<Record>>> {
        while !self.due_done && self.looked_at < SCAN_LIMIT {
            self.looked_at += 1;
            let Some(row) = self.due.next() else {
                self.due_done = true;
                break;
            };
            let (key, _) = row?;
            let (at, seq) = (keys::due_time(&key), keys::last_number(&key));
            match queue.busy.get(&seq) {
                Some(Busy::Claimed) => continue,
                Some(Busy::Committing) => {
                    self.due_moves = false;
                    continue;
                }
                None => {}
            }
            if self.horizon.is_later(at) {
                self.due_later = Some(at);
                if self.due_moves {
                    queue.due_from = at;
                }
                // Rows after the latest time are also due; the rows in between are skipped.
                self.due_done = self.horizon.latest == Timestamp::MAX;
                let beyond = keys::due(self.key, self.horizon.latest, u64::MAX);
                self.due = self.tree.range(beyond..keys::due(self.key, Timestamp::MAX, u64::MAX));
                self.due_moves = false;
                continue;
            }
            // It is claimed now, or read again by the next claim.
            self.due_moves = false;
            if let Some(record) = self.read(seq, rows::progress(self.tree, seq))? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// A callback with this progress. A callback that is missing or cannot be read is skipped, so that
    /// it does not keep others from being sent; the search for stuck callbacks reports it.
    fn read(
        &mut self,
        seq: u64,
        progress: Result<Option<Progress>>,
    ) -> Result<Option<Box<Record>>> {
        let read = progress.and_then(|progress| {
            let record = self.records.get(self.tree, seq)?;
            Ok(record.map(|record| Box::new(record.with(progress))))
        });
        rows::readable(read)
    }

    /// The next fresh callback at or after the cursor; `None` at the end.
    fn next_fresh_seq(&mut self, from: u64) -> Result<Option<u64>> {
        loop {
            if let Some((block, set)) = &self.fresh
                && let Some(seq) = set.next(*block, from)
            {
                return Ok((seq < self.visible_end).then_some(seq));
            }
            let Some(row) = self.blocks.next() else { return Ok(None) };
            let (key, bytes) = row?;
            // No callback of a block that cannot be read is claimed.
            let fresh = Pending::decode(&key, &bytes).map(|it| it.fresh).unwrap_or_default();
            self.fresh = Some((keys::last_number(&key), fresh));
        }
    }

    fn advance_fresh(&mut self, queue: &mut Queue) -> Result<Option<Box<Record>>> {
        let Queue { window, busy, .. } = queue;
        // A claim reads ahead once; after that, it reads only the callbacks that it needs.
        let reach = std::mem::take(&mut self.reach).max(1);
        while !self.fresh_done && self.looked_at < SCAN_LIMIT && window.len() < reach {
            self.looked_at += 1;
            let from = self.passed.max(window.from);
            let Some(seq) = self.next_fresh_seq(from)? else {
                self.fresh_done = true;
                if self.cursor_moves {
                    window.from = window.from.max(self.visible_end);
                }
                break;
            };
            self.passed = seq + 1;
            match busy.get(&seq) {
                // It may become claimable without a signal, so the cursor stays before it.
                Some(Busy::Committing) => {
                    self.cursor_moves = false;
                    if !window.ahead.is_empty() {
                        break;
                    }
                    continue;
                }
                Some(Busy::Claimed) => {}
                None => match self.read(seq, Ok(None)) {
                    Ok(Some(record)) if !self.cursor_moves => return Ok(Some(record)),
                    Ok(Some(record)) => window.ahead.push_back(record),
                    Ok(None) => {}
                    // The callbacks that were read before are claimed first; the next claim returns the
                    // error again.
                    Err(_) if !window.ahead.is_empty() => {
                        self.looked_at = SCAN_LIMIT;
                        break;
                    }
                    Err(error) => return Err(error),
                },
            }
            if self.cursor_moves {
                window.from = seq + 1;
            }
        }
        Ok(window.ahead.pop_front())
    }
}
