//! One destination as the dispatcher sees it: how many attempts run, when something is due,
//! and the breaker.
//!
//! ```text
//!           `failures` in a row                 the pause is over
//!  Closed ───────────────────────► Open ─────────────────────────► one probe
//!    ▲                              ▲ │                               │
//!    └──────── any answer ──────────┼─┘ ◄──── failed: longer pause ───┤
//!    └──────────────────────────────┴──────── any answer ─────────────┘
//! ```
//!
//! What counts as a failure of the *destination* is no answer (no connection, DNS, TLS, a
//! time-out, a broken body) and the statuses by which a server says that it cannot cope:
//! 408, 429 and 5xx. Any other status shows that it is there, whatever it thinks of this one
//! callback.

use std::time::Duration;

use super::{
    pace::{Level, Pace},
    shares::Place,
};
use crate::{clock::Timestamp, outbox::Open};

/// The settings of `breaker.*` (contract, 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How many failures in a row open a destination; 0 turns the breaker off.
    pub failures: u32,
    /// The pause before the first probe.
    pub initial_pause: Duration,
    /// The longest pause between two probes.
    pub max_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures: 5,
            initial_pause: Duration::from_secs(5),
            max_pause: Duration::from_mins(5),
        }
    }
}

/// Whether the destination answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It did, with whatever status.
    Answered,
    /// It did not, or said that it cannot cope.
    Failing,
    /// Nothing was learnt: no attempt was made, or it was broken off by us.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breaker {
    Closed { failures: u32 },
    Open { open: Open, pause: Duration, probing: bool },
}

/// One destination.
#[derive(Debug)]
pub struct Lane {
    /// Attempts under way.
    pub in_flight: usize,
    /// Attempts that ended and are not recorded yet, and those under way.
    pub unsettled: usize,
    /// When the outbox has something due.
    pub next_due: Option<Timestamp>,
    /// Where it stands among those to be served.
    pub(super) place: Option<Place>,
    /// The level at which it waits until more slots are free.
    pub(super) limited: Option<Level>,
    /// How quick it is.
    pub(super) pace: Pace,
    breaker: Breaker,
}

/// What is remembered of a destination for which there is nothing to do.
#[derive(Debug, Clone, Copy)]
pub struct Remembered {
    pace: Pace,
    breaker: Breaker,
}

impl Lane {
    /// A destination of which nothing is known.
    pub fn new() -> Self {
        Self {
            in_flight: 0,
            unsettled: 0,
            next_due: None,
            place: None,
            limited: None,
            pace: Pace::default(),
            breaker: Breaker::Closed { failures: 0 },
        }
    }

    /// A destination of which this is remembered.
    pub fn again(remembered: Remembered) -> Self {
        let Remembered { pace, breaker } = remembered;
        Self { pace, breaker, ..Self::new() }
    }

    /// What is worth to be remembered of it.
    pub fn remembered(&self) -> Remembered {
        Remembered { pace: self.pace, breaker: self.breaker }
    }

    /// How many more attempts may be under way, where its limit is `per_destination` and `spare`
    /// slots may be taken that leave half of all free.
    fn may_start(&self, per_destination: usize, spare: usize) -> usize {
        let most = self.pace.most(per_destination, self.in_flight + spare);
        most.saturating_sub(self.in_flight)
    }

    /// Whether it has something due at `now` and may start nothing only because too few slots are
    /// free.
    pub fn is_limited(&self, per_destination: usize, spare: usize, now: Timestamp) -> bool {
        self.next_due.is_some_and(|due| due <= now)
            && matches!(self.breaker, Breaker::Closed { .. })
            && self.may_start(per_destination, spare) == 0
            && self.in_flight < per_destination
    }

    /// How many attempts may start now; see [`Lane::is_limited`] for `spare`.
    pub fn room(&self, per_destination: usize, spare: usize, now: Timestamp) -> usize {
        match self.breaker {
            Breaker::Closed { .. } => self.may_start(per_destination, spare),
            Breaker::Open { open, probing, .. } => {
                usize::from(!probing && open.next_probe_at <= now)
            }
        }
    }

    /// When there is something to do for it, unless an attempt ends first; `None`: nothing, or
    /// only once one has ended.
    pub fn wake_at(&self, per_destination: usize, spare: usize) -> Option<Timestamp> {
        let due = self.next_due?;
        match self.breaker {
            Breaker::Closed { .. } => (self.may_start(per_destination, spare) > 0).then_some(due),
            Breaker::Open { probing: true, .. } => None,
            Breaker::Open { open, .. } => Some(due.max(open.next_probe_at)),
        }
    }

    /// Notes that something is due at `at`.
    pub fn due(&mut self, at: Timestamp) {
        self.next_due = Some(self.next_due.map_or(at, |known| known.min(at)));
    }

    /// The clock has gone back: what is known of times says nothing any more. Whoever asks the
    /// outbox hears what is due, and an open destination is probed now.
    pub fn clock_went_back(&mut self, now: Timestamp) {
        self.next_due = self.next_due.map(|_| now);
        if let Breaker::Open { open, .. } = &mut self.breaker {
            open.next_probe_at = open.next_probe_at.min(now);
            open.since = open.since.min(now);
        }
    }

    /// An attempt starts.
    pub fn start(&mut self) {
        self.in_flight += 1;
        self.unsettled += 1;
        if let Breaker::Open { probing, .. } = &mut self.breaker {
            *probing = true;
        }
    }

    /// An attempt has ended. Says whether the breaker has changed.
    pub fn end(&mut self, health: Health, settings: &Settings, now: Timestamp) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let before = self.breaker;
        self.breaker = match (self.breaker, health) {
            (Breaker::Closed { .. }, Health::Answered) => Breaker::Closed { failures: 0 },
            (Breaker::Closed { failures }, Health::Failing) => {
                let failures = failures.saturating_add(1);
                if settings.failures > 0 && failures >= settings.failures {
                    let pause = settings.initial_pause;
                    let open = Open { since: now, next_probe_at: now.after(pause) };
                    Breaker::Open { open, pause, probing: false }
                } else {
                    Breaker::Closed { failures }
                }
            }
            (Breaker::Open { .. }, Health::Answered) => Breaker::Closed { failures: 0 },
            (Breaker::Open { open, pause, probing: true }, Health::Failing)
                // Those that were under way when it opened say nothing new.
                if self.in_flight == 0 =>
            {
                let pause = pause.saturating_mul(2).min(settings.max_pause);
                let open = Open { next_probe_at: now.after(pause), ..open };
                Breaker::Open { open, pause, probing: false }
            }
            (Breaker::Open { open, pause, .. }, Health::Unknown) => {
                Breaker::Open { open, pause, probing: false }
            }
            (unchanged, _) => unchanged,
        };
        self.breaker != before && (self.is_open() || matches!(before, Breaker::Open { .. }))
    }

    /// Its breaker, when it is open.
    pub fn open(&self) -> Option<Open> {
        match self.breaker {
            Breaker::Open { open, .. } => Some(open),
            Breaker::Closed { .. } => None,
        }
    }

    fn is_open(&self) -> bool {
        self.open().is_some()
    }

    /// Whether there is nothing to do for it.
    pub fn is_idle(&self) -> bool {
        self.unsettled == 0 && self.next_due.is_none() && self.place.is_none()
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn settings() -> Settings {
        Settings {
            failures: 3,
            initial_pause: Duration::from_secs(5),
            max_pause: Duration::from_secs(15),
        }
    }

    fn fail(lane: &mut Lane, now: Timestamp) -> bool {
        lane.start();
        lane.end(Health::Failing, &settings(), now)
    }

    fn opened() -> Lane {
        let mut lane = Lane::new();
        lane.due(NOW);
        for _ in 0..2 {
            assert!(!fail(&mut lane, NOW));
        }
        assert!(fail(&mut lane, NOW));
        assert_eq!(lane.open().unwrap().next_probe_at, NOW.after(Duration::from_secs(5)));
        lane
    }

    #[test]
    fn failures_in_a_row_open_a_destination_and_an_answer_in_between_does_not() {
        let mut lane = Lane::new();
        for _ in 0..10 {
            fail(&mut lane, NOW);
            fail(&mut lane, NOW);
            lane.start();
            lane.end(Health::Answered, &settings(), NOW);
        }
        assert!(!lane.is_open());
        assert!(opened().is_open());
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
            assert!(lane.end(Health::Failing, &settings(), now));
        }
        lane.start();
        assert!(lane.end(Health::Answered, &settings(), now));
        assert_eq!(lane.open(), None);
        assert_eq!(lane.room(16, 14, now), 14);
    }

    #[test]
    fn what_is_remembered_of_a_destination_is_its_breaker() {
        let lane = Lane::again(opened().remembered());
        assert_eq!(lane.open(), opened().open());
        assert!(lane.is_idle());
    }

    #[test]
    fn a_probe_that_we_broke_off_is_made_again() {
        let mut lane = opened();
        let now = NOW.after(Duration::from_secs(5));
        lane.start();
        lane.end(Health::Unknown, &settings(), now);
        assert_eq!(lane.room(16, 0, now), 1);
    }

    #[test]
    fn no_failures_turn_the_breaker_off() {
        let off = Settings { failures: 0, ..settings() };
        let mut lane = Lane::new();
        for _ in 0..100 {
            lane.start();
            assert!(!lane.end(Health::Failing, &off, NOW));
        }
    }
}
