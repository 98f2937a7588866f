//! What was read ahead of a destination's claims.

use std::{collections::VecDeque, time::Duration};

use crate::{
    clock::Timestamp,
    outbox::{Record, sled::keys},
};

/// How many callbacks are read ahead of all destinations' claims, so few that they are still in
/// the processor's cache when they are claimed; and which part of what is left one of them gets.
const ALL_WINDOWS: usize = 2048;
const PART: usize = 8;

/// A destination that takes longer for what was read ahead gets no more than it asks for.
const QUICK: Duration = Duration::from_millis(100);

/// The next fresh callbacks of a destination, in order.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// No fresh callback that nobody has lies before this one, but for those ahead.
    pub(crate) from: u64,
    pub(crate) ahead: VecDeque<Box<Record>>,
    /// How many were read the last time, and when.
    reach: usize,
    read_at: Timestamp,
}

impl Window {
    pub(crate) fn len(&self) -> usize {
        self.ahead.len()
    }

    /// Whether this fresh callback is in it.
    pub(crate) fn holds(&self, seq: u64) -> bool {
        let first = self.ahead.front().map(|record| keys::seq_of(record.id));
        first.is_some_and(|first| (first..self.from).contains(&seq))
    }

    /// Forgets what was read ahead; gives how many that were.
    pub(crate) fn forget(&mut self) -> usize {
        if let Some(first) = self.ahead.front() {
            self.from = keys::seq_of(first.id);
        }
        let forgotten = self.ahead.len();
        self.ahead.clear();
        forgotten
    }

    /// A callback that was claimed is free again. The window has to be empty.
    pub(crate) fn look_from(&mut self, seq: u64) {
        debug_assert!(self.ahead.is_empty(), "what is read again must not be there twice");
        self.from = self.from.min(seq);
    }

    /// How many a claim of `limit` reads where it finds the window half empty, or, while a batch
    /// is applied, empty: more and more, as long as they are soon gone and the windows of the
    /// `others` leave room.
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
