//! The queue of one destination, in memory.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::fast::RandomState;

use crate::{
    clock::Timestamp,
    outbox::{
        Open, Readiness, Record, State,
        horizon::Horizon,
        sled::{claim::window::Window, keys, rows::QueueRow},
    },
};

/// Why a callback cannot be claimed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Busy {
    /// It is claimed.
    Claimed,
    /// A batch that is not synced yet changes it.
    Committing,
}

/// The number of the next change of any queue. It is global, because a queue may be removed and created again
/// while it is read.
fn next_change() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// What the summary has read of a queue's due index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DueSeen {
    /// Scheduled callbacks that are due, busy or not.
    pub(crate) count: u64,
    /// The first of them that was not busy, and when it became due.
    pub(crate) oldest: Option<(u64, Timestamp)>,
    /// Time alone changes nothing from then on …
    pub(crate) from: Timestamp,
    /// … until the next one is due.
    pub(crate) until: Timestamp,
}

/// What is known of the first fresh callback of a queue that is not busy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FirstFresh {
    pub(crate) seq: u64,
    pub(crate) created_at: Timestamp,
    /// It has been claimed or changed since: the first one is now this one or a later one.
    pub(crate) is_passed: bool,
}

/// The queue of one destination, in memory.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) row: QueueRow,
    pub(crate) busy: HashMap<u64, Busy, RandomState>,
    pub(crate) open: Option<Open>,
    pub(crate) window: Window,
    /// Every scheduled callback that is not busy is due at this time or later.
    pub(crate) due_from: Timestamp,
    /// The budget of every pending callback before `aged_to` began at this time or later.
    pub(crate) oldest: Timestamp,
    pub(crate) aged_to: u64,
    /// `None` until a claim or the summary has read one.
    pub(crate) first_fresh: Option<FirstFresh>,
    /// What the summary has read of the due index since the last change.
    pub(crate) due_seen: Option<DueSeen>,
    /// What a listing has read of the due index since the last change, if that is not much.
    pub(crate) scheduled_seen: Option<Arc<[u64]>>,
    /// The last change after which one of these three may have been another one. No two changes of
    /// any queues have the same number.
    pub(crate) change: u64,
    /// The last claim found only busy callbacks. The queue is signalled when one of them is freed.
    pub(crate) starved: bool,
    /// Number of claims that were postponed in a row.
    pub(crate) postponed_claims: u8,
}

impl Queue {
    pub(crate) fn new(row: QueueRow) -> Self {
        Self {
            busy: HashMap::default(),
            open: None,
            window: Window::default(),
            row,
            due_from: Timestamp::default(),
            oldest: Timestamp::MAX,
            aged_to: 0,
            first_fresh: None,
            due_seen: None,
            scheduled_seen: None,
            change: next_change(),
            starved: false,
            postponed_claims: 0,
        }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.claimed().count() as u64
    }

    /// Frees a busy callback. Returns whether the queue has to be signalled.
    ///
    /// One that was claimed is not fresh afterwards: if it is, the caller says so with [`Self::changed`].
    pub(crate) fn free(&mut self, seq: u64) -> bool {
        let was = self.busy.remove(&seq);
        self.changed(if was == Some(Busy::Claimed) { u64::MAX } else { seq });
        if let Some(first) = &mut self.first_fresh {
            first.is_passed |= first.seq == seq;
        }
        was.is_some() && std::mem::take(&mut self.starved)
    }

    /// Forgets what was read of the due index, and the first fresh callback if it may be this one now.
    pub(crate) fn changed(&mut self, seq: u64) {
        self.change = next_change();
        self.due_seen = None;
        self.scheduled_seen = None;
        self.first_fresh = self.first_fresh.filter(|first| first.seq < seq);
    }

    /// Marks a callback as claimed that is due and not busy.
    pub(crate) fn claim(&mut self, record: &mut Record) {
        let seq = keys::seq_of(record.id);
        self.busy.insert(seq, Busy::Claimed);
        if record.state == State::Pending(Readiness::Fresh) {
            // Fresh callbacks are claimed in order.
            let created_at = record.created_at;
            self.first_fresh = Some(FirstFresh { seq, created_at, is_passed: true });
        }
        record.budget_since = record.budget_since.max(self.row.resumed_at);
    }

    /// The first fresh callback, without a read.
    pub(crate) fn known_first_fresh(&self) -> Option<FirstFresh> {
        let ahead = self.window.ahead.front().map(|record| FirstFresh {
            seq: keys::seq_of(record.id),
            created_at: record.created_at,
            is_passed: false,
        });
        let mut first = ahead.or(self.first_fresh)?;
        first.is_passed |= self.busy.contains_key(&first.seq);
        Some(first)
    }

    /// Its breaker, if it is open. Without pending callbacks, there is nothing to probe with.
    pub(crate) fn shown_open(&self) -> Option<Open> {
        self.open.filter(|_| self.row.pending > 0)
    }

    /// Whether it is no longer needed in memory.
    pub(crate) fn is_over(&self) -> bool {
        self.row.pending == 0 && self.row.paused_at.is_none() && self.busy.is_empty()
    }

    /// Whether a scheduled callback may be due.
    pub(crate) fn may_have_scheduled(&self, horizon: Horizon) -> bool {
        self.row.scheduled > 0 && !horizon.is_later(self.due_from)
    }

    /// Whether a claim now has to read the tree.
    pub(crate) fn reads_to_claim(&self, horizon: Horizon) -> bool {
        self.may_have_scheduled(horizon) || (self.row.fresh > 0 && self.window.len() == 0)
    }

    /// The claimed callbacks, in no order.
    pub(crate) fn claimed(&self) -> impl Iterator<Item = u64> {
        self.busy.iter().filter(|(_, busy)| **busy == Busy::Claimed).map(|(seq, _)| *seq)
    }

    pub(crate) fn is_claimed(&self, seq: u64) -> bool {
        self.busy.get(&seq) == Some(&Busy::Claimed)
    }
}
