//! Taking what is due of one destination: the scan over its rows, and what was read ahead.
//!
//! A read of the tree waits while the committer applies a batch, and a seek costs more than the
//! rows behind it. So the fresh callbacks, which nearly all are, are read some at a time into a
//! [`Window`], and most claims touch no row. The invariant: a fresh callback before
//! [`Window::from`] is in the window, or busy. Whoever is about to change one that is in it
//! ([`Transaction::mark`](crate::outbox::sled::commit::transaction::Transaction::mark)) has the window forgotten, and it is read again.

use sled::Tree;

use crate::{
    clock::Timestamp,
    outbox::{
        OutboxError, Readiness, Record, State,
        error::Result,
        record,
        sled::{
            claim::queue::{Busy, Queue},
            guard::guarded,
            horizon::Horizon,
            keys::{self, QueueKey},
            rows::decode,
        },
    },
};

/// How many rows one claim looks at before it says "ask again".
const SCAN_LIMIT: usize = 1024;

/// What a claim found.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// Due callbacks, the longest due first.
    pub(crate) records: Vec<Record>,
    /// When the queue has something due again; `None`: not before it is signalled.
    pub(crate) next_due: Option<Timestamp>,
}

impl Due {
    /// Nothing, but perhaps then.
    pub(crate) fn nothing_before(at: Timestamp) -> Self {
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
pub(crate) struct DueScan<'a> {
    tree: &'a Tree,
    key: QueueKey,
    horizon: Horizon,
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
            fresh: tree
                .range(keys::pending(key, queue.window.from)..keys::pending(key, visible_end)),
            next_due: None,
            next_fresh: None,
            due_later: (queue.row.scheduled > 0 && none_due).then_some(queue.due_from),
            due_done: none_due,
            fresh_done: queue.row.fresh == 0,
            due_moves: true,
            cursor_moves: true,
            looked_at: 0,
        }
    }

    /// Takes at most `limit`.
    pub(crate) fn claim(mut self, queue: &mut Queue, limit: usize, now: Timestamp) -> Result<Due> {
        let mut found = Due::nothing_before(now);
        let began = queue.window.from;
        while found.records.len() < limit {
            // A panic of the engine takes nothing with it of what was claimed before.
            match guarded(|| self.next(queue)) {
                Ok(Next::Record(record)) => {
                    queue.busy.insert(keys::seq_of(record.id), Busy::Claimed);
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
                    queue.starved = found.records.is_empty() && queue.window.from == began;
                    found.next_due = (!queue.starved).then_some(now);
                    break;
                }
                // What was taken before it is not lost; it is met again the next time.
                Err(_) if !found.records.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        // One that was not in the window is met again, since the cursor stands before it.
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
            // What there is of the other kind goes; the next claim meets it again.
            self.looked_at = SCAN_LIMIT;
            self.due_moves = false;
            if self.next_due.is_none() && self.next_fresh.is_none() {
                return Err(error);
            }
        }
        let since = |record: &Record| match record.state {
            // Since when it is due nobody knows.
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
                // Whatever lies beyond is due as well; what lies in between is not looked at.
                self.due_done = self.horizon.latest == Timestamp::MAX;
                let beyond = keys::due(self.key, self.horizon.latest, u64::MAX);
                self.due = self.tree.range(beyond..keys::due(self.key, Timestamp::MAX, u64::MAX));
                self.due_moves = false;
                continue;
            }
            // It is taken by this claim or met by the next one.
            self.due_moves = false;
            let pending = keys::pending(self.key, seq);
            let Some(bytes) = self.tree.get(&pending)? else { continue };
            return decode(&pending, &bytes).map(Box::new).map(Some);
        }
        Ok(None)
    }

    fn advance_fresh(&mut self, queue: &mut Queue) -> Result<Option<Box<Record>>> {
        let Queue { window, busy, .. } = queue;
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
                let fresh = record::is_fresh(&bytes).then(|| decode(&key, &bytes).map(Box::new));
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
