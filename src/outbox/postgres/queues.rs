//! All queues, and the signals about them for the delivery loop.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use foldhash::fast::RandomState;
use tokio::sync::Notify;

use super::{
    claimant::Claimant,
    notifications::Notification,
    queue::{Place, Queue, ReadAhead},
    rows::big,
    shard::{SHARDS, ShardState, shard_of},
};
use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
    measure,
    outbox::{
        Claim, ClaimOwner, Claims, News, Open, Record, Validity,
        horizon::Horizon,
        ids::{self, QueueKey},
    },
};

/// Maximum number of signals that are returned by one call.
const SIGNALS_AT_ONCE: usize = 1024;

/// Maximum number of callbacks that all queues read ahead, and that one queue does.
const AHEAD: usize = 32_768;
const AHEAD_OF_ONE: usize = 256;

/// The state behind the mutex.
#[derive(Debug)]
pub(super) struct Inner {
    /// `None` while there is no session.
    claimant: Option<Arc<Claimant>>,
    /// The claimant of the previous session, until another one begins.
    before: Option<Arc<Claimant>>,
    pub(super) shards: [ShardState; SHARDS],
    /// Whether no other instance is running.
    pub(super) is_alone: bool,
    /// Destinations of other instances of which rows have changed, and callbacks of them that have become
    /// active.
    pub(super) changed: BTreeSet<Notification>,
    /// Breakers that have opened or closed since they were last stored.
    pub(super) opened: HashMap<QueueKey, Option<Open>, RandomState>,
    /// Breakers as the previous owners left them.
    taken_over: HashMap<QueueKey, Open, RandomState>,
    pub(super) queues: HashMap<QueueKey, Queue, RandomState>,
    signals: HashMap<QueueKey, Timestamp, RandomState>,
    retried: HashSet<QueueKey>,
    lost: Vec<Destination>,
    /// Whether an action is in progress, so that nothing may be claimed.
    frozen: bool,
    /// Queues whose claims were refused because of it.
    postponed: HashSet<QueueKey>,
    /// Queues to be filled.
    wanted: Vec<QueueKey>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            claimant: None,
            before: None,
            shards: [ShardState::Foreign; SHARDS],
            is_alone: true,
            changed: BTreeSet::new(),
            opened: HashMap::default(),
            taken_over: HashMap::default(),
            queues: HashMap::default(),
            signals: HashMap::default(),
            retried: HashSet::new(),
            lost: Vec::new(),
            frozen: false,
            postponed: HashSet::new(),
            wanted: Vec::new(),
        }
    }
}

impl Inner {
    /// Whether this instance delivers to a destination.
    pub(super) fn owns(&self, key: QueueKey) -> bool {
        self.shards[shard_of(key)] == ShardState::Owned
    }

    /// Whether this instance owns the first shard. Its owner does what only one instance may do.
    pub(super) fn leads(&self) -> bool {
        self.shards[0] == ShardState::Owned
    }

    /// The number of shards that this instance owns or is about to own.
    pub(super) fn shards_owned(&self) -> usize {
        let counts = |it: &&ShardState| matches!(it, ShardState::Owned | ShardState::Waiting(_));
        self.shards.iter().filter(counts).count()
    }

    /// The shards of this instance.
    pub(super) fn own_shards(&self) -> Vec<i32> {
        let own = (0..).zip(&self.shards).filter(|(_, state)| **state == ShardState::Owned);
        own.map(|(shard, _)| shard).collect()
    }

    /// Whether a shard can be released: nothing of it is in flight.
    pub(super) fn is_drained(&self, shard: usize) -> bool {
        let mut queues = self.queues.iter().filter(|(key, _)| shard_of(**key) == shard);
        self.shards[shard] == ShardState::Draining
            && queues.all(|(_, queue)| queue.in_flight().next().is_none())
    }

    /// Releases a shard.
    pub(super) fn lose(&mut self, shard: usize) {
        self.shards[shard] = ShardState::Foreign;
        let keys: Vec<_> =
            self.queues.keys().copied().filter(|key| shard_of(*key) == shard).collect();
        for key in keys {
            self.signals.remove(&key);
            self.taken_over.remove(&key);
            self.lost.extend(self.queues.remove(&key).map(|queue| queue.destination));
        }
    }

    /// Forgets queues of destinations that have no callbacks.
    pub(super) fn forget_idle(&mut self) {
        self.queues.retain(|_, queue| !queue.is_idle());
    }

    /// How many callbacks each queue reads ahead.
    pub(super) fn window(&self) -> usize {
        (AHEAD / self.queues.len().max(1)).clamp(2, AHEAD_OF_ONE)
    }

    /// Reports that a queue has something due at `at`.
    pub(super) fn signal(&mut self, key: QueueKey, at: Timestamp) {
        let known = self.signals.entry(key).or_insert(at);
        *known = at.min(*known);
    }

    /// The queue of a destination, created if needed; `None` if another instance owns it, which is notified
    /// then.
    pub(super) fn queue(&mut self, key: QueueKey, destination: &Destination) -> Option<&mut Queue> {
        if !self.owns(key) {
            self.changed.insert(Notification::Changed(key));
            return None;
        }
        Some(self.queues.entry(key).or_insert_with(|| Queue::new(destination.clone())))
    }

    /// Adds a callback of this destination that has become active.
    pub(super) fn activated(&mut self, key: QueueKey, record: Record) {
        let place = Queue::place(&record);
        if !self.owns(key) {
            self.changed.insert(Notification::Active(big(place.1)));
            return;
        }
        let (destination, window) = (record.destination.clone(), self.window());
        if let Some(queue) = self.queue(key, &destination) {
            queue.set_pending(true);
            queue.insert(place, Box::new(record), window);
            self.signal(key, place.0);
        }
    }

    /// Sets whether the destination has pending callbacks. Without them, its breaker is closed.
    pub(super) fn set_pending(&mut self, key: QueueKey, has_pending: bool) {
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.set_pending(has_pending);
            self.note_open(key);
        }
    }

    /// Records that the breaker of a destination opens or closes.
    pub(super) fn set_open(&mut self, key: QueueKey, open: Option<Open>) {
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.set_open(open);
            self.note_open(key);
        }
    }

    fn note_open(&mut self, key: QueueKey) {
        if let Some(queue) = self.queues.get_mut(&key)
            && queue.stored_open != queue.open()
        {
            queue.stored_open = queue.open();
            self.opened.insert(key, queue.open());
        }
    }

    /// Records the breaker of a destination as the previous owner left it.
    pub(super) fn take_over(&mut self, key: QueueKey, open: Open) {
        self.taken_over.insert(key, open);
        self.set_open(key, Some(open));
    }

    /// An operator requests that a destination be tried now.
    pub(super) fn retry_now(&mut self, key: QueueKey) {
        self.signal(key, Timestamp::default());
        self.retried.insert(key);
    }

    /// Resets the lower bounds of the due times: an active callback may be due at any time.
    pub(super) fn forget_fronts(&mut self) {
        self.queues.values_mut().for_each(Queue::forget_front);
    }

    /// Adds what was read for a queue.
    pub(super) fn filled(
        &mut self,
        (key, from): (QueueKey, Place),
        read: ReadAhead,
        window: usize,
        now: Timestamp,
    ) {
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.filled(read, window, from, now);
            if let Some(due) = queue.first_due() {
                self.signal(key, due);
            }
        }
    }

    /// The seqs of everything that is in flight.
    pub(super) fn in_flight(&self) -> Vec<i64> {
        self.queues.values().flat_map(Queue::in_flight).map(big).collect()
    }

    /// Begins a session. Attempts of the previous one are dropped before anything is claimed again.
    pub(super) fn begin(&mut self, claimant: Arc<Claimant>) {
        if let Some(before) = self.before.take() {
            before.supersede();
        }
        self.claimant = Some(claimant);
    }

    /// Ends the session: all claims are lost, and the queues are read again.
    pub(super) fn lose_all(&mut self) {
        measure::shards_lost(self.shards_owned());
        self.before = self.claimant.take().or(self.before.take());
        self.shards = [ShardState::Foreign; SHARDS];
        self.changed.clear();
        self.opened.clear();
        self.taken_over.clear();
        self.lost.extend(self.queues.drain().map(|(_, queue)| queue.destination));
        self.signals.clear();
        self.retried.clear();
        self.postponed.clear();
        self.wanted.clear();
        self.frozen = false;
    }
}

/// All queues.
#[derive(Debug, Default)]
pub(super) struct Queues {
    inner: Mutex<Inner>,
    news: Notify,
    /// Wakes the writer, to fill queues.
    pub(super) fill: Notify,
}

impl Queues {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic cannot leave a change under the lock incomplete.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the caller of [`Queues::news`].
    pub(super) fn wake(&self) {
        self.news.notify_one();
    }

    pub(super) async fn news(&self) -> Vec<News> {
        loop {
            let taken = self.take_news();
            if !taken.is_empty() {
                return taken;
            }
            self.news.notified().await;
        }
    }

    fn take_news(&self) -> Vec<News> {
        let mut inner = self.lock();
        let mut news: Vec<_> = inner.lost.drain(..).map(News::Lost).collect();
        let retried = std::mem::take(&mut inner.retried);
        let known = |key: &QueueKey| Some(inner.queues.get(key)?.destination.clone());
        news.extend(retried.iter().filter_map(known).map(News::RetryNow));
        let taken: Vec<_> = inner.signals.keys().take(SIGNALS_AT_ONCE).copied().collect();
        for key in taken {
            let open = inner.taken_over.remove(&key);
            if let (Some(at), Some(queue)) = (inner.signals.remove(&key), inner.queues.get(&key)) {
                news.push(News::Due { destination: queue.destination.clone(), at, open });
            }
        }
        news
    }

    /// Claims at most `limit` due callbacks of a queue, in the order in which they became due.
    pub(super) fn claim(&self, key: QueueKey, limit: usize, horizon: Horizon) -> Claims {
        let mut inner = self.lock();
        let window = inner.window();
        let is_owned = inner.owns(key);
        let Inner { claimant, queues, frozen, postponed, wanted, .. } = &mut *inner;
        // The queue belongs to a shard that is being released, and is reported as lost soon.
        let Some(claimant) = claimant.as_ref().filter(|_| is_owned) else {
            return Claims::default();
        };
        let Some(queue) = queues.get_mut(&key) else { return Claims::default() };
        if queue.paused_at.is_some() {
            return Claims::default();
        }
        if *frozen {
            postponed.insert(key);
            return Claims::default();
        }
        if horizon.is_later(queue.hold_until) {
            return Claims { next_due: Some(queue.hold_until), ..Claims::default() };
        }
        let owner: Weak<dyn ClaimOwner> = Arc::downgrade(claimant) as _;
        let claim = |record: Record| {
            let validity = Validity::while_owned(Arc::clone(claimant) as _);
            Claim::new(Box::new(record), owner.clone(), validity)
        };
        let claimed = queue.claim(limit, horizon).into_iter().map(claim).collect();
        // If nothing is left, the queue is reported when more has been read.
        let next_due = queue.first_due();
        if queue.wants_more(window) {
            wanted.push(key);
            self.fill.notify_one();
        }
        Claims { claimed, next_due }
    }

    /// Releases a claimed callback.
    pub(super) fn release_now(&self, key: QueueKey, seq: u64, due: Timestamp) {
        let mut inner = self.lock();
        let window = inner.window();
        if inner.queues.get_mut(&key).is_some_and(|queue| queue.release(seq, window)) {
            inner.signal(key, due);
            drop(inner);
            self.wake();
        }
    }

    /// Suspends claims until [`Queues::thaw`].
    pub(super) fn freeze(&self) {
        self.lock().frozen = true;
    }

    /// Resumes claims.
    pub(super) fn thaw(&self) {
        let mut inner = self.lock();
        inner.frozen = false;
        for key in std::mem::take(&mut inner.postponed) {
            inner.signal(key, Timestamp::default());
        }
        drop(inner);
        self.wake();
    }

    /// The queues to be filled, with the position from which to read.
    pub(super) fn take_wanted(&self) -> Vec<(QueueKey, Place)> {
        let mut inner = self.lock();
        let wanted = std::mem::take(&mut inner.wanted);
        let from = |key: QueueKey| Some((key, inner.queues.get(&key)?.fill_from()?));
        wanted.into_iter().filter_map(from).collect()
    }
}

impl ClaimOwner for Queues {
    fn release(&self, id: CallbackId, due: Timestamp) {
        let (seq, key) = ids::parts(id);
        self.release_now(key, seq, due);
    }
}
