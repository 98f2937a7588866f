//! The queues of all destinations with pending callbacks: counters, busy callbacks, and signals.
//!
//! One mutex guards all of it. It is held for microseconds, or while one claim reads. Why a claim never
//! returns what a power failure could undo is in the [module](super).

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use foldhash::fast::RandomState;
use sled::Tree;
use tokio::sync::Notify;

use crate::{
    clock::Timestamp,
    outbox::{
        News,
        error::Result,
        horizon::Horizon,
        sled::{
            claim::{
                queue::Queue,
                scan::{self, Due, DueScan},
            },
            keys::{self, QueueKey},
            rows::{QueueRow, Totals, decode},
        },
    },
};

/// Maximum number of signals that are returned by one call.
const SIGNALS_AT_ONCE: usize = 1024;

/// When a postponed claim is due again, unless it is signalled earlier.
const POSTPONED_FOR: Duration = Duration::from_secs(1);

/// Maximum number of times in a row that a queue's claims are postponed; after that, a claim waits for
/// the commit.
const MAX_POSTPONED: u8 = 16;

/// The part that the mutex guards.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) totals: Totals,
    /// Number of pending callbacks that are [`Readiness::Blocked`](crate::outbox::Readiness::Blocked).
    pub(crate) blocked: u64,
    /// The destinations with pending callbacks, and those with a callback that is about to change.
    pub(crate) queues: HashMap<QueueKey, Queue, RandomState>,
    /// Number of destinations with pending or failed callbacks.
    pub(crate) destinations: u64,
    pub(crate) broken: Option<Arc<str>>,
    signals: HashMap<QueueKey, Timestamp, RandomState>,
    /// The queues that an operator wants to be tried now.
    retried: HashSet<QueueKey>,
    /// Number of callbacks in the windows of all queues.
    read_ahead: usize,
    /// Whether the committer is applying a batch, during which reads of the tree wait.
    applying: bool,
    /// The queues whose claims were postponed, to be signalled when the batch has been applied.
    postponed: Vec<QueueKey>,
}

impl Inner {
    /// Records that the queue has something due at `at`.
    pub(crate) fn signal(&mut self, queue: QueueKey, at: Timestamp) {
        let known = self.signals.entry(queue).or_insert(at);
        *known = at.min(*known);
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.due_from = queue.due_from.min(at);
        }
    }

    /// Records that an operator wants the queue to be tried now.
    pub(crate) fn retry_now(&mut self, queue: QueueKey) {
        self.signal(queue, Timestamp::default());
        self.retried.insert(queue);
    }

    /// Discards a queue's window, because a callback in it is about to change.
    pub(crate) fn forget_window(&mut self, queue: QueueKey) {
        if let Some(queue) = self.queues.get_mut(&queue) {
            self.read_ahead -= queue.window.forget();
        }
    }

    /// Moves the cursor of a queue back to a callback that is fresh again.
    pub(crate) fn look_from(&mut self, queue: QueueKey, seq: u64) {
        self.forget_window(queue);
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.window.look_from(seq);
        }
    }

    /// Frees callbacks that a batch has marked busy. Returns whether the loop has to be woken.
    pub(crate) fn free(&mut self, callbacks: Vec<(QueueKey, u64)>) -> bool {
        let mut wake = false;
        for (queue, seq) in callbacks {
            if self.queues.get_mut(&queue).is_some_and(|it| it.free(seq)) {
                self.signal(queue, Timestamp::default());
                wake = true;
            }
        }
        wake
    }

    /// Removes a queue that is no longer needed.
    pub(crate) fn sweep(&mut self, queue: QueueKey) {
        if self.queues.get(&queue).is_some_and(Queue::is_over) {
            self.forget_window(queue);
            self.queues.remove(&queue);
            self.signals.remove(&queue);
        }
    }
}

/// All destinations.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    inner: Mutex<Inner>,
    signalled: Notify,
}

impl Queues {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is complete before anything can panic, so the data behind a
        // poisoned lock is consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the caller of [`Queues::news`].
    pub(crate) fn wake(&self) {
        self.signalled.notify_one();
    }

    pub(crate) async fn news(&self) -> Vec<News> {
        loop {
            let taken = self.take_news();
            if !taken.is_empty() {
                return taken;
            }
            self.signalled.notified().await;
        }
    }

    fn take_news(&self) -> Vec<News> {
        let mut inner = self.lock();
        let Inner { retried, queues, .. } = &mut *inner;
        let mut news: Vec<_> = retried
            .drain()
            .filter_map(|queue| Some(News::RetryNow(queues.get(&queue)?.row.destination.clone())))
            .collect();
        let taken: Vec<_> =
            inner.signals.iter().take(SIGNALS_AT_ONCE).map(|(queue, at)| (*queue, *at)).collect();
        news.extend(taken.into_iter().filter_map(|(queue, at)| {
            inner.signals.remove(&queue);
            let destination = inner.queues.get(&queue)?.row.destination.clone();
            // The loop itself remembers breakers, and a restart closes them.
            Some(News::Due { destination, at, open: None })
        }));
        news
    }

    /// Claims at most `limit` due callbacks of a queue, in the order in which they became due.
    ///
    /// The mutex is held from the check for busy callbacks until the claimed ones are marked busy, so
    /// that `Transaction::mark` (in `commit/transaction.rs`) cannot run in between: a callback is
    /// either claimed, or about to change, never both.
    pub(crate) fn claim(
        &self,
        tree: &Tree,
        key: QueueKey,
        limit: usize,
        horizon: Horizon,
    ) -> Result<Due> {
        let now = horizon.now;
        let mut inner = self.lock();
        if inner.broken.is_some() {
            return Ok(Due::default());
        }
        let Inner { totals, queues, read_ahead, applying, postponed, .. } = &mut *inner;
        let Some(queue) = queues.get_mut(&key) else { return Ok(Due::default()) };
        if queue.row.paused_at.is_some() {
            return Ok(Due::default());
        }
        if queue.row.is_held(horizon) {
            return Ok(Due::nothing_before(queue.row.hold_until));
        }
        let may_postpone = *applying && queue.postponed_claims < MAX_POSTPONED;
        if may_postpone && queue.reads_to_claim(horizon) {
            queue.postponed_claims += 1;
            postponed.push(key);
            return Ok(Due::nothing_before(now.after(POSTPONED_FOR)));
        }
        let limit = match queue.window.len() {
            ahead @ 1.. if may_postpone => limit.min(ahead),
            _ => limit,
        };
        queue.postponed_claims = 0;
        let others = *read_ahead - queue.window.len();
        let reach = queue.window.reach(limit, others, *applying, now);
        let ahead = if reach == 0 { scan::claim_ahead(queue, limit, horizon) } else { None };
        let claims = ahead.map_or_else(
            || {
                let source = DueScan::new(tree, key, queue, reach, totals.next_seq, horizon);
                source.claim(queue, limit, now)
            },
            Ok,
        );
        *read_ahead = others + queue.window.len();
        claims
    }

    /// The committer starts applying a batch.
    pub(crate) fn apply_begins(&self) {
        self.lock().applying = true;
    }

    /// The committer has applied the batch, which is not synced yet.
    pub(crate) fn apply_ended(&self) {
        let mut inner = self.lock();
        inner.applying = false;
        let postponed = std::mem::take(&mut inner.postponed);
        for queue in &postponed {
            inner.signals.insert(*queue, Timestamp::default());
        }
        drop(inner);
        if !postponed.is_empty() {
            self.wake();
        }
    }

    /// Releases a claimed callback, which was due at `due`.
    pub(crate) fn release(&self, queue: QueueKey, seq: u64, due: Timestamp) {
        let mut inner = self.lock();
        if let Some(it) = inner.queues.get_mut(&queue) {
            it.free(seq);
            it.changed(seq);
            inner.look_from(queue, seq);
            inner.signal(queue, due);
            drop(inner);
            self.wake();
        }
    }
}

/// Loads the queues from the stored rows, and signals each one.
pub(crate) fn load(tree: &Tree) -> Result<Queues> {
    let mut inner = Inner::default();
    if let Some(bytes) = tree.get(keys::TOTALS)? {
        inner.totals = decode(keys::TOTALS, &bytes)?;
    }
    let mut due = BTreeSet::new();
    for row in tree.scan_prefix(keys::QUEUES) {
        let (key, bytes) = row?;
        let row: QueueRow = decode(&key, &bytes)?;
        let queue = QueueKey(keys::last_number(&key));
        inner.destinations += u64::from(row.counts());
        if row.pending > 0 || row.paused_at.is_some() {
            due.insert(queue);
            inner.blocked += row.blocked();
            inner.queues.insert(queue, Queue::new(row));
        }
    }
    for queue in due {
        inner.signal(queue, Timestamp::default());
    }
    Ok(Queues { inner: Mutex::new(inner), ..Queues::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        callback::{Body, Destination},
        outbox::{
            NewCallback, record,
            sled::blocks::{self, Pending},
            transition,
        },
    };

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const HORIZON: Horizon = Horizon { now: NOW, latest: Timestamp::MAX };
    const QUEUE: QueueKey = QueueKey(1);

    /// One stored fresh callback, and the queues that contain it.
    fn stored() -> (sled::Db, Queues, Destination) {
        let destination = Destination::parse("http://receiver").unwrap();
        let url = "http://receiver/".to_owned().into();
        let new = NewCallback {
            event_id: None,
            body: Body::example(),
            url,
            destination: destination.clone(),
            trace: None,
            refusal: None,
        };
        let db = sled::Config::new().temporary(true).open().unwrap();
        let stored = transition::accept(new, keys::id(0, QUEUE), NOW, true);
        let mut records = blocks::new_row();
        blocks::add_entry(&mut records, 0, &record::encode(&stored).unwrap());
        db.insert(keys::record(0), records).unwrap();
        let mut pending = Pending::default();
        pending.fresh.insert(0);
        db.insert(keys::pending(QUEUE, 0), pending.encode()).unwrap();
        let queues = Queues::default();
        let row = QueueRow { pending: 1, fresh: 1, ..QueueRow::new(destination.clone()) };
        let mut inner = queues.lock();
        inner.totals.next_seq = 1;
        inner.queues.insert(QUEUE, Queue::new(row));
        drop(inner);
        (db, queues, destination)
    }

    #[test]
    fn a_claim_during_a_batch_is_postponed_and_signalled() {
        let (db, queues, destination) = stored();
        queues.apply_begins();
        let postponed = queues.claim(&db, QUEUE, 1, HORIZON).unwrap();
        assert!(postponed.records.is_empty());
        assert!(postponed.next_due.is_some(), "the loop would forget the destination");
        assert!(queues.take_news().is_empty());
        queues.apply_ended();
        assert_eq!(
            queues.take_news(),
            [News::Due { destination, at: Timestamp::default(), open: None }]
        );
        assert_eq!(queues.claim(&db, QUEUE, 1, HORIZON).unwrap().records.len(), 1);
    }

    #[test]
    fn a_claim_is_not_postponed_for_ever() {
        let (db, queues, _) = stored();
        for _ in 0..MAX_POSTPONED {
            queues.apply_begins();
            assert!(queues.claim(&db, QUEUE, 1, HORIZON).unwrap().records.is_empty());
            queues.apply_ended();
        }
        queues.apply_begins();
        assert_eq!(queues.claim(&db, QUEUE, 1, HORIZON).unwrap().records.len(), 1);
    }
}
