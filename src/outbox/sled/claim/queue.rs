//! One destination in memory.

use std::collections::HashMap;

use crate::{
    clock::Timestamp,
    outbox::{
        Open,
        sled::{claim::window::Window, horizon::Horizon, rows::QueueRow},
    },
};

/// Why a callback cannot be claimed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Busy {
    /// Somebody delivers it.
    Claimed,
    /// A batch that is not synced yet changes it.
    Committing,
}

/// One destination in memory.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) row: QueueRow,
    pub(crate) busy: HashMap<u64, Busy>,
    pub(crate) open: Option<Open>,
    pub(crate) window: Window,
    /// No scheduled callback that nobody has is due before this time.
    pub(crate) due_from: Timestamp,
    /// No budget of the pending callbacks in front of `aged_to` began before this time.
    pub(crate) oldest: Timestamp,
    pub(crate) aged_to: u64,
    /// A claim met nothing but busy ones as far as it looked; who makes one of them free
    /// signals the queue.
    pub(crate) starved: bool,
    /// How many of its claims were put off, one after the other.
    pub(crate) put_off: u8,
}

impl Queue {
    pub(crate) fn new(row: QueueRow) -> Self {
        Self {
            row,
            busy: HashMap::new(),
            open: None,
            window: Window::default(),
            due_from: Timestamp::default(),
            oldest: Timestamp::MAX,
            aged_to: 0,
            starved: false,
            put_off: 0,
        }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.busy.values().filter(|busy| **busy == Busy::Claimed).count() as u64
    }

    /// A callback is not busy any more; `true` where somebody has to be told.
    pub(crate) fn free(&mut self, seq: u64) -> bool {
        self.busy.remove(&seq).is_some() && std::mem::take(&mut self.starved)
    }

    /// Whether a claim now has to read the tree.
    pub(crate) fn reads_to_claim(&self, horizon: Horizon) -> bool {
        let scheduled = self.row.scheduled > 0 && !horizon.is_later(self.due_from);
        scheduled || (self.row.fresh > 0 && self.window.len() == 0)
    }

    pub(crate) fn is_claimed(&self, seq: u64) -> bool {
        self.busy.get(&seq) == Some(&Busy::Claimed)
    }
}
