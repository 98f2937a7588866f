//! The state of one destination in the delivery loop: its attempts in progress, when something is due,
//! its limits and its breaker.

use super::{
    breaker::{Breaker, Change, Settings},
    limits::{Bucket, Limits},
    pace::{Level, Pace},
    shares::Ticket,
};
use crate::{clock::Timestamp, delivery::outcome::DestinationHealth, outbox::Open};

/// One destination.
#[derive(Debug)]
pub struct Lane {
    /// How many attempts it may have.
    pub limits: Limits,
    /// Attempts in progress.
    pub in_flight: usize,
    /// Attempts whose outcome is not durable yet: those in progress, and those waiting for the disk.
    pub unsettled: usize,
    /// When the outbox has something due.
    pub next_due: Option<Timestamp>,
    /// Nothing is claimed before, because the store could not be used.
    pub not_before: Timestamp,
    /// Its position among the destinations that wait for a turn.
    pub(crate) ticket: Option<Ticket>,
    /// The level at which it waits for free slots.
    pub(crate) waits_at: Option<Level>,
    /// Whether another instance has taken it over. The lane then exists only until its attempts end.
    pub lost: bool,
    /// Its pace.
    pub(crate) pace: Pace,
    breaker: Breaker,
    bucket: Bucket,
    /// Since its breaker has closed; `None` if its concurrency is not limited any more.
    start: Option<SlowStart>,
}

/// The state kept for an idle destination.
#[derive(Debug, Clone, Copy)]
pub struct Remembered {
    pace: Pace,
    breaker: Breaker,
    bucket: Bucket,
    start: Option<SlowStart>,
}

/// A destination that works again begins with one attempt in flight. The number doubles with each round of
/// successes, so that a receiver that has just come back is not brought down by all that waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SlowStart {
    /// Maximum number of attempts in flight.
    limit: usize,
    /// Successes in this round.
    worked: usize,
}

impl SlowStart {
    const BEGIN: Self = Self { limit: 1, worked: 0 };

    /// An attempt has ended. `None` if the limit has reached `most`.
    fn after(self, health: DestinationHealth, most: usize) -> Option<Self> {
        let worked = match health {
            DestinationHealth::Working => self.worked + 1,
            // The round begins again.
            DestinationHealth::Failing => 0,
            DestinationHealth::Unknown => self.worked,
        };
        let next = if worked < self.limit {
            Self { worked, ..self }
        } else {
            Self { limit: self.limit.saturating_mul(2), worked: 0 }
        };
        (next.limit < most).then_some(next)
    }
}

impl Lane {
    /// A lane for a new destination.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            in_flight: 0,
            unsettled: 0,
            next_due: None,
            not_before: Timestamp::default(),
            ticket: None,
            waits_at: None,
            lost: false,
            pace: Pace::default(),
            breaker: Breaker::default(),
            bucket: Bucket::default(),
            start: None,
        }
    }

    /// A lane for an idle destination, with its remembered state.
    pub fn restored(limits: Limits, remembered: Remembered) -> Self {
        let Remembered { pace, breaker, bucket, start } = remembered;
        Self { pace, breaker, bucket, start, ..Self::new(limits) }
    }

    /// A lane for a destination without remembered state, with the breaker that the outbox reports.
    pub fn taken_over(
        limits: Limits,
        open: Option<Open>,
        settings: &Settings,
        now: Timestamp,
    ) -> Self {
        let mut lane = Self::new(limits);
        lane.come_back(open, settings, now);
        lane
    }

    /// Another instance delivers to the destination from now on.
    pub fn lose(&mut self) {
        (self.next_due, self.ticket, self.waits_at) = (None, None, None);
        self.not_before = Timestamp::default();
        self.lost = true;
    }

    /// The destination is this instance's (again). The breaker is the one that was reported.
    pub fn come_back(&mut self, open: Option<Open>, settings: &Settings, now: Timestamp) {
        self.lost = false;
        self.start = None;
        self.breaker = open
            .filter(|_| settings.failures > 0)
            .map_or_else(Breaker::default, |open| Breaker::left_open(open, settings, now));
    }

    /// The state to be kept when the destination is idle.
    pub fn remembered(&self) -> Remembered {
        Remembered {
            pace: self.pace,
            breaker: self.breaker,
            bucket: self.bucket,
            start: self.start,
        }
    }

    /// Maximum number of concurrent attempts.
    fn concurrency(&self) -> usize {
        let most = self.limits.concurrency;
        self.start.map_or(most, |start| start.limit.min(most))
    }

    /// How many more concurrent attempts the limits allow: its own, and the `spare` slots that may be
    /// taken while half of all slots stay free.
    fn allowed(&self, spare: usize) -> usize {
        let most = self.pace.most(self.concurrency(), self.in_flight + spare);
        most.saturating_sub(self.in_flight)
    }

    /// Nothing is claimed before, because the store could not be used or the rate is limited.
    fn earliest(&self) -> Timestamp {
        let next = self.limits.rate.map(|rate| self.bucket.next(rate)).unwrap_or_default();
        self.not_before.max(next)
    }

    /// Whether something is due at `now` that cannot start only because too few slots are free.
    pub fn lacks_slots(&self, spare: usize, now: Timestamp) -> bool {
        self.next_due.is_some_and(|due| due.max(self.earliest()) <= now)
            && self.breaker.is_closed()
            && self.allowed(spare) == 0
            && self.in_flight < self.concurrency()
    }

    /// How many attempts may start now. While the breaker is open: one if a probe is due, else none. For
    /// `spare`, see [`Shares::spare`](super::shares::Shares::spare).
    pub fn room(&self, spare: usize, now: Timestamp) -> usize {
        if self.not_before > now {
            return 0;
        }
        let allowed = if self.breaker.is_closed() {
            self.allowed(spare)
        } else {
            usize::from(self.breaker.next_probe().is_some_and(|at| at <= now))
        };
        self.limits.rate.map_or(allowed, |rate| allowed.min(self.bucket.room(rate, now)))
    }

    /// When an attempt may start, unless an attempt in progress ends first. `None`: not before one has
    /// ended, or nothing is due.
    pub fn wake_at(&self, spare: usize) -> Option<Timestamp> {
        let due = self.next_due?.max(self.earliest());
        if self.breaker.is_closed() {
            (self.allowed(spare) > 0).then_some(due)
        } else {
            self.breaker.next_probe().map(|at| due.max(at))
        }
    }

    /// Something is due at `at`.
    pub fn due(&mut self, at: Timestamp) {
        self.next_due = Some(self.next_due.map_or(at, |known| known.min(at)));
    }

    /// The store could not be used: what is due is claimed again at `at`, and not before.
    pub fn claim_again(&mut self, at: Timestamp) {
        self.due(at);
        self.not_before = at;
    }

    /// The clock has gone back, so the known times may be far in the future: due callbacks are claimed
    /// again and an open destination is probed, now.
    pub fn clock_went_back(&mut self, now: Timestamp) {
        self.next_due = self.next_due.map(|_| now);
        self.not_before = Timestamp::default();
        self.breaker.clock_went_back(now);
        self.bucket.clock_went_back(now);
    }

    /// An attempt starts.
    pub fn start(&mut self, now: Timestamp) {
        if let Some(rate) = self.limits.rate {
            self.bucket.take(rate, now);
        }
        self.in_flight += 1;
        self.unsettled += 1;
        self.breaker.start();
    }

    /// An attempt has ended. Returns what this has changed of the breaker.
    pub fn end(
        &mut self,
        health: DestinationHealth,
        settings: &Settings,
        now: Timestamp,
    ) -> Option<Change> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let change = self.breaker.end(health, self.in_flight == 0, settings, now);
        self.start = match (change, self.start) {
            (Some(Change::Closed), _) => Some(SlowStart::BEGIN),
            (_, start) => start.and_then(|it| it.after(health, self.limits.concurrency)),
        };
        change
    }

    /// Closes the breaker, because an operator requests an attempt now. Returns whether it was open.
    pub fn close(&mut self) -> bool {
        let was_open = !std::mem::take(&mut self.breaker).is_closed();
        if was_open {
            self.start = Some(SlowStart::BEGIN);
        }
        was_open
    }

    /// Its breaker, if it is open.
    pub fn open(&self) -> Option<Open> {
        self.breaker.open()
    }

    /// Whether there is nothing to do for it.
    pub fn is_idle(&self) -> bool {
        self.unsettled == 0 && self.next_due.is_none() && self.ticket.is_none()
    }
}

#[cfg(test)]
mod tests;
