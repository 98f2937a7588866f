//! What is known of the destinations in memory: counters, who is claimed, who is in a batch
//! that is not on the disk yet, and who has to be told of something due.
//!
//! One mutex guards it all and is held for microseconds, or while one claim reads. The committer
//! marks a callback as busy *before* it applies a change of it and takes the mark away only after
//! the sync; a claim passes over what is busy. That is why nobody is ever handed something that a
//! power cut could undo, or that is about to change.

use std::{
    collections::{BTreeSet, HashMap},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sled::Tree;
use tokio::sync::Notify;

use super::{
    claim::{Found, Source, Window},
    keys::{self, LaneKey},
};
use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{Open, OutboxError, record},
};

/// How many signals are handed out at once.
const SIGNALS_AT_ONCE: usize = 1024;

/// When a claim that was put off is made again, if nothing is heard before. It is.
const PUT_OFF: Duration = Duration::from_secs(1);

/// How often one lane's claim is put off; after that it waits.
const PUT_OFF_AT_MOST: u8 = 16;

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
    /// Of the pending ones, those that are [`Place::Fresh`](record::Place::Fresh).
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

    /// Whether nothing goes to the destination now; see [`is_later`].
    pub(super) fn is_held(&self, later: &RangeInclusive<Timestamp>) -> bool {
        is_later(self.hold_until, later)
    }

    pub(super) fn blocked(&self) -> u64 {
        self.pending.saturating_sub(self.fresh).saturating_sub(self.scheduled)
    }

    /// Whether it is one of the destinations with pending or failed callbacks.
    pub(super) fn counts(&self) -> bool {
        !self.destination.is_none() && !self.is_idle()
    }

    /// Nothing is left that would need the row.
    pub(super) fn is_idle(&self) -> bool {
        self.pending == 0 && self.failed == 0
    }
}

/// Whether `at` is still to come. `later` begins now and ends with the latest moment to which
/// anything is put off: what lies beyond it was put off by a clock that was ahead.
pub(super) fn is_later(at: Timestamp, later: &RangeInclusive<Timestamp>) -> bool {
    at > *later.start() && at <= *later.end()
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
    pub(super) window: Window,
    /// No scheduled callback that nobody has is due before this time.
    pub(super) due_from: Timestamp,
    /// No budget of the pending callbacks in front of `aged_to` began before this time.
    pub(super) oldest: Timestamp,
    pub(super) aged_to: u64,
    /// A claim met nothing but busy ones as far as it looked; who makes one of them free
    /// signals the lane.
    pub(super) starved: bool,
    /// How many of its claims were put off, one after the other.
    put_off: u8,
}

impl Lane {
    pub(super) fn new(row: LaneRow) -> Self {
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

    pub(super) fn in_flight(&self) -> u64 {
        self.busy.values().filter(|busy| **busy == Busy::Claimed).count() as u64
    }

    /// A callback is not busy any more; `true` where somebody has to be told.
    pub(super) fn free(&mut self, seq: u64) -> bool {
        self.busy.remove(&seq).is_some() && std::mem::take(&mut self.starved)
    }

    /// Whether a claim now has to read the tree.
    fn reads_to_claim(&self, later: &RangeInclusive<Timestamp>) -> bool {
        let scheduled = self.row.scheduled > 0 && !is_later(self.due_from, later);
        scheduled || (self.row.fresh > 0 && self.window.len() == 0)
    }

    pub(super) fn is_claimed(&self, seq: u64) -> bool {
        self.busy.get(&seq) == Some(&Busy::Claimed)
    }
}

/// The part that the mutex guards.
#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) totals: Totals,
    /// How many of the pending ones are [`Place::Blocked`](record::Place::Blocked), that is, how many have to be found
    /// when one before them ends.
    pub(super) blocked: u64,
    /// The destinations with pending callbacks, and those of which one is about to change.
    pub(super) lanes: HashMap<LaneKey, Lane>,
    /// How many destinations have pending or failed ones.
    pub(super) destinations: u64,
    pub(super) broken: Option<Arc<str>>,
    signals: HashMap<LaneKey, Timestamp>,
    /// How many callbacks lie in the windows of all lanes.
    read_ahead: usize,
    /// The committer applies a batch, and whoever reads the tree waits for it.
    applying: bool,
    /// The lanes whose claims do not wait for that, and are signalled behind it.
    put_off: Vec<LaneKey>,
}

impl Inner {
    /// Notes that the lane has something due at `at`.
    pub(super) fn signal(&mut self, lane: LaneKey, at: Timestamp) {
        let known = self.signals.entry(lane).or_insert(at);
        *known = at.min(*known);
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.due_from = lane.due_from.min(at);
        }
    }

    /// Forgets what was read ahead of a lane's claims, since it is about to change.
    pub(super) fn forget_window(&mut self, lane: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            self.read_ahead -= lane.window.forget();
        }
    }

    /// Forgets a lane that nothing needs any more.
    pub(super) fn sweep(&mut self, lane: LaneKey) {
        if self.lanes.get(&lane).is_some_and(|it| it.row.pending == 0 && it.busy.is_empty()) {
            self.forget_window(lane);
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
    /// ones, whichever is due longer. What is put off to a moment in `later`, which begins now, is
    /// not due.
    pub(super) fn claim(
        &self,
        tree: &Tree,
        key: LaneKey,
        limit: usize,
        later: RangeInclusive<Timestamp>,
    ) -> Result<Found, OutboxError> {
        let now = *later.start();
        let mut inner = self.lock();
        if inner.broken.is_some() {
            return Ok(Found::default());
        }
        let Inner { totals, lanes, read_ahead, applying, put_off, .. } = &mut *inner;
        let Some(lane) = lanes.get_mut(&key) else { return Ok(Found::default()) };
        if lane.row.is_held(&later) {
            return Ok(Found::nothing_before(lane.row.hold_until));
        }
        let may_put_off = *applying && lane.put_off < PUT_OFF_AT_MOST;
        if may_put_off && lane.reads_to_claim(&later) {
            lane.put_off += 1;
            put_off.push(key);
            return Ok(Found::nothing_before(now.after(PUT_OFF)));
        }
        let limit = match lane.window.len() {
            ahead @ 1.. if may_put_off => limit.min(ahead),
            _ => limit,
        };
        lane.put_off = 0;
        let others = *read_ahead - lane.window.len();
        let reach = lane.window.reach(limit, others, *applying, now);
        let source = Source::new(tree, key, lane, reach, totals.next_seq, later);
        let claims = source.claim(lane, limit, now);
        *read_ahead = others + lane.window.len();
        claims
    }

    /// The committer begins to apply a batch.
    pub(super) fn apply_begins(&self) {
        self.lock().applying = true;
    }

    /// It has applied it, which does not say that the disk has it.
    pub(super) fn apply_ended(&self) {
        let mut inner = self.lock();
        inner.applying = false;
        let put_off = std::mem::take(&mut inner.put_off);
        for lane in &put_off {
            inner.signals.insert(*lane, Timestamp::default());
        }
        drop(inner);
        if !put_off.is_empty() {
            self.wake();
        }
    }

    /// Gives a claim back.
    pub(super) fn release(&self, lane: LaneKey, seq: u64, due: Timestamp) {
        let mut inner = self.lock();
        if let Some(it) = inner.lanes.get_mut(&lane) {
            it.free(seq);
            inner.forget_window(lane);
            if let Some(it) = inner.lanes.get_mut(&lane) {
                it.window.look_from(seq);
            }
            inner.signal(lane, due);
            drop(inner);
            self.wake();
        }
    }
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
        inner.destinations += u64::from(row.counts());
        if row.pending > 0 {
            due.insert(lane);
            inner.blocked += row.blocked();
            inner.lanes.insert(lane, Lane::new(row));
        }
    }
    for lane in due {
        inner.signal(lane, Timestamp::default());
    }
    Ok(Lanes { inner: Mutex::new(inner), ..Lanes::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        callback::{Body, JobState},
        outbox::{NewCallback, transition},
    };

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const LATER: RangeInclusive<Timestamp> = NOW..=Timestamp::MAX;
    const LANE: LaneKey = LaneKey(1);

    /// One fresh callback, stored, and the lanes that know of it.
    fn stored() -> (sled::Db, Lanes, Destination) {
        let destination = Destination::parse("http://receiver").unwrap();
        let body = Body {
            job_id: "1".into(),
            job_id_fs: "1".into(),
            job_state: JobState::Finished,
            exit_status: None,
            error_reason: None,
            dpf_tracker_url: None,
        };
        let url = "http://receiver/".to_owned().into();
        let new = NewCallback {
            event_id: None,
            body,
            url,
            destination: destination.clone(),
            refusal: None,
        };
        let db = sled::Config::new().temporary(true).open().unwrap();
        let stored = transition::accept(new, keys::id(0, LANE), NOW, true);
        db.insert(keys::pending(LANE, 0), record::encode(&stored).unwrap()).unwrap();
        let lanes = Lanes::default();
        let row = LaneRow { pending: 1, fresh: 1, ..LaneRow::new(destination.clone()) };
        let mut inner = lanes.lock();
        inner.totals.next_seq = 1;
        inner.lanes.insert(LANE, Lane::new(row));
        drop(inner);
        (db, lanes, destination)
    }

    #[test]
    fn a_claim_does_not_wait_for_a_batch_and_is_signalled_behind_it() {
        let (db, lanes, destination) = stored();
        lanes.apply_begins();
        let put_off = lanes.claim(&db, LANE, 1, LATER).unwrap();
        assert!(put_off.records.is_empty());
        assert!(put_off.next_due.is_some(), "the loop would forget the destination");
        assert!(lanes.take_signals().is_empty());
        lanes.apply_ended();
        assert_eq!(lanes.take_signals(), [(destination, Timestamp::default())]);
        assert_eq!(lanes.claim(&db, LANE, 1, LATER).unwrap().records.len(), 1);
    }

    #[test]
    fn a_claim_that_meets_one_batch_after_the_other_is_served_in_the_end() {
        let (db, lanes, _) = stored();
        for _ in 0..PUT_OFF_AT_MOST {
            lanes.apply_begins();
            assert!(lanes.claim(&db, LANE, 1, LATER).unwrap().records.is_empty());
            lanes.apply_ended();
        }
        lanes.apply_begins();
        assert_eq!(lanes.claim(&db, LANE, 1, LATER).unwrap().records.len(), 1);
    }
}
