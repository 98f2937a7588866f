//! The window of a queue: callbacks that were read ahead of their claims.

use std::{collections::VecDeque, time::Duration};

use crate::{
    clock::Timestamp,
    outbox::{Record, sled::keys},
};

/// Maximum number of callbacks in all windows, few enough to stay in the processor's cache until they
/// are claimed, and the fraction of the remaining room that one window may use.
const ALL_WINDOWS: usize = 2048;
const PART: usize = 8;

/// If a window lasts longer than this, nothing is read ahead.
const QUICK: Duration = Duration::from_millis(100);

/// The next fresh callbacks of a queue, in order.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// The cursor: every fresh callback before this seq is in the window, or busy.
    pub(crate) from: u64,
    pub(crate) ahead: VecDeque<Box<Record>>,
    /// Number of callbacks that were read ahead the last time, and when.
    reach: usize,
    read_at: Timestamp,
}

impl Window {
    pub(crate) fn len(&self) -> usize {
        self.ahead.len()
    }

    /// Whether this callback is in the window.
    pub(crate) fn holds(&self, seq: u64) -> bool {
        let first = self.ahead.front().map(|record| keys::seq_of(record.id));
        first.is_some_and(|first| (first..self.from).contains(&seq))
    }

    /// Discards the window and returns how many callbacks were in it.
    pub(crate) fn forget(&mut self) -> usize {
        if let Some(first) = self.ahead.front() {
            self.from = keys::seq_of(first.id);
        }
        let forgotten = self.ahead.len();
        self.ahead.clear();
        forgotten
    }

    /// Moves the cursor back, because a claimed callback was released. The window must be empty.
    pub(crate) fn look_from(&mut self, seq: u64) {
        debug_assert!(
            self.ahead.is_empty(),
            "callbacks that are read again must not be in the window"
        );
        self.from = self.from.min(seq);
    }

    /// How many callbacks a claim of `limit` reads ahead. 0 unless the window is half empty, or, while
    /// a batch is being applied, empty. The number doubles while windows are used up quickly and the
    /// windows of `others` leave room.
    pub(crate) fn reach(
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
