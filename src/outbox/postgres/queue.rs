//! The queue of one destination: its first active callbacks, which are read ahead.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use foldhash::fast::RandomState;

use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{Open, Record, horizon::Horizon, ids},
};

/// The position of an active callback: when it is due, and its seq.
pub(super) type Place = (Timestamp, u64);

/// The position before all callbacks.
pub(super) const BEGIN: Place = (Timestamp::from_millis(0), 0);

/// A callback that becomes active is due then or later. But its commit may take a while, and clocks may
/// differ.
const MARGIN: Duration = Duration::from_mins(2);

/// Callbacks that were read for a queue.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    pub(super) callbacks: Vec<(Place, Box<Record>)>,
    /// Their number, including those that cannot be decoded, and the position of the last one.
    pub(super) count: usize,
    pub(super) last: Place,
}

/// A queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) destination: Destination,
    pub(super) paused_at: Option<Timestamp>,
    pub(super) resumed_at: Timestamp,
    pub(super) hold_until: Timestamp,
    open: Option<Open>,
    /// The same as it is stored, or about to be stored.
    pub(super) stored_open: Option<Open>,
    has_pending: bool,
    /// Not claimed.
    window: BTreeMap<Place, Box<Record>>,
    /// No active callback is due before this time. While a snapshot is held open, PostgreSQL cannot remove
    /// the index entries of callbacks that are no longer active, and a read from the beginning passes over
    /// all of them.
    front: Timestamp,
    /// The position up to which each active callback is in the window or claimed; `None`: all are.
    known_to: Option<Place>,
    claimed: HashMap<u64, (Place, Box<Record>), RandomState>,
    /// The next callbacks are being read, or about to be.
    filling: bool,
    /// Whether the next read replaces the window instead of extending it.
    is_stale: bool,
}

impl Queue {
    /// A queue of which nothing has been read yet.
    pub(super) fn unread(destination: Destination) -> Self {
        Self {
            destination,
            paused_at: None,
            resumed_at: Timestamp::default(),
            hold_until: Timestamp::default(),
            open: None,
            stored_open: None,
            has_pending: true,
            window: BTreeMap::new(),
            front: Timestamp::default(),
            known_to: Some(BEGIN),
            claimed: HashMap::default(),
            filling: false,
            is_stale: false,
        }
    }

    /// The queue of a destination that has no callbacks.
    pub(super) fn new(destination: Destination) -> Self {
        Self { known_to: None, has_pending: false, ..Self::unread(destination) }
    }

    /// Whether it has pending callbacks. Without them, there is nothing to probe with, and it is not open.
    pub(super) fn set_pending(&mut self, has_pending: bool) {
        self.has_pending = has_pending;
        self.set_open(self.open);
    }

    pub(super) fn set_open(&mut self, open: Option<Open>) {
        self.open = open.filter(|_| self.has_pending);
    }

    /// Whether it can be forgotten: a new queue would be in the same state.
    pub(super) fn is_idle(&self) -> bool {
        let is_plain = self.paused_at.is_none()
            && self.hold_until == Timestamp::default()
            && self.resumed_at == Timestamp::default();
        let is_empty = self.window.is_empty() && self.claimed.is_empty() && self.known_to.is_none();
        is_plain && is_empty && !self.has_pending && !self.filling
    }

    pub(super) fn open(&self) -> Option<Open> {
        self.open
    }

    /// Adds a callback that has become active. At most `window` are read ahead.
    pub(super) fn insert(&mut self, place: Place, record: Box<Record>, window: usize) {
        if self.known_to.is_some_and(|known| place > known) || self.claimed.contains_key(&place.1) {
            return;
        }
        self.window.insert(place, record);
        while self.window.len() > window {
            self.window.pop_last();
            self.known_to = self.window.last_key_value().map(|(place, _)| *place);
        }
    }

    /// The position before all active callbacks.
    pub(super) fn begin(&self, now: Timestamp) -> Place {
        (self.front.min(now.before(MARGIN)), 0)
    }

    /// Resets the lower bound of the due times: an active callback may be due at any time.
    pub(super) fn forget_front(&mut self) {
        self.front = Timestamp::default();
    }

    /// Adds what was read at `now` after this position, [`Queue::fill_from`] or [`Queue::begin`]: `window`
    /// callbacks, or fewer if there are no more.
    pub(super) fn filled(&mut self, read: ReadAhead, window: usize, from: Place, now: Timestamp) {
        self.filling = false;
        if std::mem::take(&mut self.is_stale) {
            self.window.clear();
        }
        self.known_to = Some(read.last).filter(|_| read.count >= window);
        self.has_pending |= read.count > 0;
        for (place, record) in read.callbacks {
            if !self.claimed.contains_key(&place.1) {
                self.window.insert(place, record);
            }
        }
        // No callback has this seq: it was read from the beginning.
        if from.1 == 0 {
            let claimed = self.claimed.values().map(|((due, _), _)| *due);
            let first = claimed.chain(self.first_due()).chain([now]).min().unwrap_or(now);
            self.front = first.before(MARGIN);
        }
    }

    /// Marks that rows have changed, so that the queue is read from the beginning.
    pub(super) fn forget(&mut self) {
        self.is_stale = true;
    }

    /// Whether more must be read, because less than half of the window is left. If so, the read counts as
    /// begun.
    pub(super) fn wants_more(&mut self, window: usize) -> bool {
        let wants =
            self.known_to.is_some() && self.window.len() < window.div_ceil(2) && !self.filling;
        self.filling |= wants;
        wants
    }

    /// The position at which to continue reading; `None` if everything has been read.
    pub(super) fn fill_from(&self) -> Option<Place> {
        self.known_to
    }

    /// When the next callback is due, as far as has been read.
    pub(super) fn first_due(&self) -> Option<Timestamp> {
        self.window.first_key_value().map(|((due, _), _)| *due)
    }

    /// Claims the first callbacks that are due.
    pub(super) fn claim(&mut self, limit: usize, horizon: Horizon) -> Vec<Record> {
        let mut claimed = Vec::new();
        while claimed.len() < limit {
            let due = |(due, _): &Place| !horizon.is_later(*due);
            // A callback postponed beyond the horizon is also due, and sorts last.
            let first = self.window.first_key_value().map(|(place, _)| *place).filter(due);
            let last = || self.window.last_key_value().map(|(place, _)| *place).filter(due);
            let Some(place) = first.or_else(last) else { break };
            let Some(mut record) = self.window.remove(&place) else { break };
            record.budget_since = record.budget_since.max(self.resumed_at);
            self.claimed.insert(place.1, (place, record.clone()));
            claimed.push(*record);
        }
        claimed
    }

    /// Ends a claim whose outcome is recorded.
    pub(super) fn settled(&mut self, seq: u64) {
        self.claimed.remove(&seq);
    }

    /// Releases a claimed callback. Returns whether it was claimed.
    pub(super) fn release(&mut self, seq: u64, window: usize) -> bool {
        let Some((place, record)) = self.claimed.remove(&seq) else { return false };
        self.insert(place, record, window);
        true
    }

    pub(super) fn is_claimed(&self, seq: u64) -> bool {
        self.claimed.contains_key(&seq)
    }

    pub(super) fn in_flight(&self) -> impl Iterator<Item = u64> {
        self.claimed.keys().copied()
    }

    /// The position of an active callback.
    pub(super) fn place(record: &Record) -> Place {
        (super::rows::due(record), ids::seq_of(record.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        callback::{Body, CallbackId},
        outbox::{NewCallback, transition},
    };

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn callback(seq: u64, due: Timestamp) -> (Place, Box<Record>) {
        let new = NewCallback {
            event_id: None,
            body: Body::example(),
            url: String::new().into(),
            destination: Destination::none(),
            trace: None,
            refusal: None,
        };
        let id = CallbackId::from_u128(u128::from(seq) << 64);
        let record = Box::new(transition::accept(new, id, due, true));
        ((due, seq), record)
    }

    /// What is read from the beginning.
    fn read(queue: &mut Queue, callbacks: Vec<(Place, Box<Record>)>, now: Timestamp) -> Place {
        let from = queue.begin(now);
        let last = callbacks.last().map(|(place, _)| *place).unwrap_or_default();
        queue.forget();
        queue.filled(ReadAhead { count: callbacks.len(), callbacks, last }, 10, from, now);
        from
    }

    #[test]
    fn a_queue_is_read_again_from_the_first_possible_position() {
        let horizon = Horizon { now: NOW, latest: Timestamp::MAX };
        let (hour, minute) = (Duration::from_hours(1), Duration::from_mins(1));
        let old = NOW.before(hour);
        let mut queue = Queue::unread(Destination::none());
        assert_eq!(read(&mut queue, vec![callback(1, old), callback(2, NOW)], NOW), BEGIN);
        // Not after the first callback, whether it waits or is in flight.
        assert_eq!(read(&mut queue, vec![callback(1, old)], NOW).0, old.before(MARGIN));
        assert_eq!(queue.claim(1, horizon).len(), 1);
        assert_eq!(read(&mut queue, Vec::new(), NOW).0, old.before(MARGIN));
        queue.settled(1);
        read(&mut queue, Vec::new(), NOW);
        // What is committed late is found, also after the clock has gone back.
        let later = NOW.after(minute);
        assert_eq!(read(&mut queue, Vec::new(), later).0, NOW.before(MARGIN));
        assert_eq!(read(&mut queue, Vec::new(), old).0, old.before(MARGIN));
        queue.forget_front();
        assert_eq!(queue.begin(NOW), BEGIN);
    }
}
