//! The state of one destination in the delivery loop: its attempts in progress, when something is due,
//! and its breaker.

use super::{
    breaker::{Breaker, Change, Settings},
    pace::{Level, Pace},
    shares::Ticket,
};
use crate::{clock::Timestamp, delivery::outcome::DestinationHealth, outbox::Open};

/// One destination.
#[derive(Debug, Default)]
pub struct Lane {
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
    /// The level at which it waits until more slots are free.
    pub(crate) waits_at: Option<Level>,
    /// Another instance delivers to it, as far as is known: only attempts that have begun keep it.
    pub lost: bool,
    /// Its pace.
    pub(crate) pace: Pace,
    breaker: Breaker,
}

/// The state kept for an idle destination.
#[derive(Debug, Clone, Copy)]
pub struct Remembered {
    pace: Pace,
    breaker: Breaker,
}

impl Lane {
    /// A lane for an idle destination, with its remembered state.
    pub fn restored(remembered: Remembered) -> Self {
        let Remembered { pace, breaker } = remembered;
        Self { pace, breaker, ..Self::default() }
    }

    /// A lane for a destination of which nothing is remembered, with the breaker that the outbox reports.
    pub fn taken_over(open: Option<Open>, settings: &Settings, now: Timestamp) -> Self {
        let mut lane = Self::default();
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
        self.breaker = open
            .filter(|_| settings.failures > 0)
            .map_or_else(Breaker::default, |open| Breaker::left_open(open, settings, now));
    }

    /// The state to be kept when the destination is idle.
    pub fn remembered(&self) -> Remembered {
        Remembered { pace: self.pace, breaker: self.breaker }
    }

    /// How many more attempts the limits allow: `per_destination`, and the `spare` slots that may be
    /// taken while half of all slots stay free.
    fn allowed(&self, per_destination: usize, spare: usize) -> usize {
        let most = self.pace.most(per_destination, self.in_flight + spare);
        most.saturating_sub(self.in_flight)
    }

    /// Whether something is due at `now` that cannot start only because too few slots are free.
    pub fn lacks_slots(&self, per_destination: usize, spare: usize, now: Timestamp) -> bool {
        self.next_due.is_some_and(|due| due.max(self.not_before) <= now)
            && self.breaker.is_closed()
            && self.allowed(per_destination, spare) == 0
            && self.in_flight < per_destination
    }

    /// How many attempts may start now. While the breaker is open: one if a probe is due, else none. For
    /// `spare`, see [`Shares::spare`](super::shares::Shares::spare).
    pub fn room(&self, per_destination: usize, spare: usize, now: Timestamp) -> usize {
        if self.not_before > now {
            0
        } else if self.breaker.is_closed() {
            self.allowed(per_destination, spare)
        } else {
            usize::from(self.breaker.next_probe().is_some_and(|at| at <= now))
        }
    }

    /// When an attempt may start, unless an attempt in progress ends first. `None`: not before one has
    /// ended, or nothing is due.
    pub fn wake_at(&self, per_destination: usize, spare: usize) -> Option<Timestamp> {
        let due = self.next_due?.max(self.not_before);
        if self.breaker.is_closed() {
            (self.allowed(per_destination, spare) > 0).then_some(due)
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
    }

    /// An attempt starts.
    pub fn start(&mut self) {
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
        self.breaker.end(health, self.in_flight == 0, settings, now)
    }

    /// Closes the breaker, because an operator requests an attempt now. Returns whether it was open.
    pub fn close(&mut self) -> bool {
        !std::mem::take(&mut self.breaker).is_closed()
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
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn settings() -> Settings {
        Settings {
            failures: 3,
            initial_pause: Duration::from_secs(5),
            max_pause: Duration::from_secs(15),
        }
    }

    fn fail(lane: &mut Lane, now: Timestamp) -> Option<Change> {
        lane.start();
        lane.end(DestinationHealth::Failing, &settings(), now)
    }

    fn opened() -> Lane {
        let mut lane = Lane::default();
        lane.due(NOW);
        for _ in 0..2 {
            assert_eq!(fail(&mut lane, NOW), None);
        }
        assert!(matches!(fail(&mut lane, NOW), Some(Change::Opened(_))));
        assert_eq!(lane.open().unwrap().next_probe_at, NOW.after(Duration::from_secs(5)));
        lane
    }

    #[test]
    fn only_consecutive_failures_open_a_destination() {
        let mut lane = Lane::default();
        for _ in 0..10 {
            fail(&mut lane, NOW);
            fail(&mut lane, NOW);
            lane.start();
            lane.end(DestinationHealth::Working, &settings(), NOW);
        }
        assert!(lane.open().is_none());
        assert!(opened().open().is_some());
    }

    #[test]
    fn an_open_destination_gets_one_probe_at_a_time_with_growing_pauses() {
        let mut lane = opened();
        assert_eq!(lane.room(16, 0, NOW), 0);
        let mut now = NOW;
        for pause in [5, 10, 15, 15] {
            now = now.after(Duration::from_secs(pause));
            assert_eq!(lane.wake_at(16, 0), Some(now));
            assert_eq!(lane.room(16, 0, now), 1);
            lane.start();
            assert_eq!((lane.room(16, 0, now), lane.wake_at(16, 0)), (0, None));
            let change = lane.end(DestinationHealth::Failing, &settings(), now);
            assert!(matches!(change, Some(Change::Extended(_))), "{change:?}");
        }
        lane.start();
        let change = lane.end(DestinationHealth::Working, &settings(), now);
        assert_eq!(change, Some(Change::Closed));
        assert_eq!(lane.open(), None);
        assert_eq!(lane.room(16, 14, now), 14);
    }

    #[test]
    fn nothing_is_claimed_while_the_store_cannot_be_used_whatever_is_due() {
        let mut lane = Lane::default();
        let later = NOW.after(Duration::from_secs(1));
        lane.claim_again(later);
        lane.due(NOW);
        assert_eq!((lane.room(16, 16, NOW), lane.wake_at(16, 16)), (0, Some(later)));
        assert!(!lane.lacks_slots(16, 0, NOW), "slots are not what it lacks");
        assert_eq!(lane.room(16, 16, later), 16);
        lane.clock_went_back(NOW.before(Duration::from_hours(1)));
        assert_eq!(lane.room(16, 16, NOW.before(Duration::from_hours(1))), 16);
    }

    #[test]
    fn a_restored_lane_has_its_breaker_and_its_pace() {
        let mut known = opened();
        known.pace.ended(Duration::from_secs(20), DestinationHealth::Working);
        let lane = Lane::restored(known.remembered());
        assert_eq!((lane.open(), lane.pace), (known.open(), known.pace));
        assert!(lane.is_idle());
    }

    #[test]
    fn a_destination_that_is_taken_over_is_as_open_as_it_was_left() {
        let left = Open { since: NOW, next_probe_at: NOW.after(Duration::from_secs(9)) };
        let mut lane = Lane::taken_over(Some(left), &settings(), NOW);
        lane.due(NOW);
        assert_eq!((lane.open(), lane.wake_at(16, 16)), (Some(left), Some(left.next_probe_at)));
        lane.lose();
        assert!(lane.is_idle() && lane.lost);
        lane.come_back(None, &settings(), NOW);
        lane.due(NOW);
        assert_eq!((lane.lost, lane.room(16, 16, NOW)), (false, 16), "it has worked elsewhere");
        // The clock of whoever left it was ahead.
        let ahead = Open { since: NOW, next_probe_at: NOW.after(Duration::from_hours(9)) };
        let lane = Lane::taken_over(Some(ahead), &settings(), NOW);
        assert_eq!(lane.open().unwrap().next_probe_at, NOW.after(Duration::from_secs(15)));
    }

    #[test]
    fn an_aborted_probe_is_repeated() {
        let mut lane = opened();
        let now = NOW.after(Duration::from_secs(5));
        lane.start();
        lane.end(DestinationHealth::Unknown, &settings(), now);
        assert_eq!(lane.room(16, 0, now), 1);
    }

    #[test]
    fn an_older_attempt_without_an_outcome_permits_no_second_probe() {
        let mut lane = Lane::default();
        lane.due(NOW);
        lane.start();
        for _ in 0..3 {
            fail(&mut lane, NOW);
        }
        let now = NOW.after(Duration::from_secs(5));
        lane.start();
        lane.end(DestinationHealth::Unknown, &settings(), now);
        assert_eq!(lane.room(16, 0, now), 0, "the probe is in progress");
        lane.end(DestinationHealth::Unknown, &settings(), now);
        assert_eq!(lane.room(16, 0, now), 1);
    }

    #[test]
    fn zero_failures_disable_the_breaker() {
        let off = Settings { failures: 0, ..settings() };
        let mut lane = Lane::default();
        for _ in 0..100 {
            lane.start();
            assert_eq!(lane.end(DestinationHealth::Failing, &off, NOW), None);
        }
    }

    #[test]
    fn a_destination_lacks_slots_if_something_is_due_and_only_slots_are_missing() {
        let mut lane = Lane::default();
        (0..2).for_each(|_| lane.start());
        assert!(!lane.lacks_slots(16, 0, NOW), "nothing is due");
        lane.due(NOW);
        assert!(lane.lacks_slots(16, 0, NOW));
        assert_eq!([lane.wake_at(16, 0), lane.wake_at(16, 1)], [None, Some(NOW)]);
        assert!(!lane.lacks_slots(16, 0, NOW.before(Duration::from_millis(1))));
        assert!(!lane.lacks_slots(16, 1, NOW), "a slot is free");
        assert!(!lane.lacks_slots(2, 0, NOW), "that is its own limit");
        let mut open = opened();
        open.start();
        open.start();
        assert!(!open.lacks_slots(16, 0, NOW), "it waits for its probe");
    }
}
