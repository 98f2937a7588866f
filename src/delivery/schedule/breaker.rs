//! The breaker of one destination: after `breaker.failures` consecutive failures, only one probe is sent
//! after each pause.
//!
//! ```text
//!            `failures` in a row             the pause is over
//!  Closed ───────────────────────► Open ───────────────────────► Probing
//!    ▲ ▲                           │  ▲                           │  │
//!    │ └─── an attempt works ──────┘  └─ it fails: longer pause ──┘  │
//!    └──────────────────── the probe works ──────────────────────────┘
//! ```
//!
//! Any attempt that works closes the breaker, also one that began before it opened. So does an operator's
//! *retry now*, and a restart, because the breaker is not stored. What counts as a failure of the
//! *destination* is in [`DestinationHealth`].
//!
//! When the breaker closes, callbacks that were never tried are sent immediately. Callbacks that have
//! failed before wait until their own next attempt is due; only *retry now* makes them due. The lane then
//! begins with one attempt in flight, and doubles the number with each round of successes
//! ([`lane`](super::lane)).

use std::time::Duration;

use crate::{clock::Timestamp, delivery::outcome::DestinationHealth, outbox::Open};

/// The settings `breaker.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Number of consecutive failures that open a destination; 0 disables the breaker.
    pub failures: u32,
    /// Pause before the first probe.
    pub initial_pause: Duration,
    /// Longest pause between two probes.
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

/// Whether a destination is open. It starts closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { open: Open, pause: Duration, probing: bool },
}

/// What the end of an attempt has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The breaker has opened.
    Opened(Open),
    /// A probe has failed, and the next pause has begun.
    Extended(Open),
    /// The destination works, and the breaker has closed.
    Closed,
}

impl Default for Breaker {
    fn default() -> Self {
        Self(State::Closed { failures: 0 })
    }
}

impl Breaker {
    /// An open breaker, as the previous owner of the destination left it.
    pub fn left_open(open: Open, settings: &Settings, now: Timestamp) -> Self {
        // A later time was stored while the clock was ahead.
        let next_probe_at = open.next_probe_at.min(now.after(settings.max_pause));
        let open = Open { next_probe_at, ..open };
        let pause = settings.initial_pause.max(next_probe_at.since(now)).min(settings.max_pause);
        Self(State::Open { open, pause, probing: false })
    }

    /// Whether attempts are not restricted.
    pub fn is_closed(&self) -> bool {
        matches!(self.0, State::Closed { .. })
    }

    /// Since when it is open, and when the next probe may be sent; `None` if it is closed.
    pub fn open(&self) -> Option<Open> {
        match self.0 {
            State::Open { open, .. } => Some(open),
            State::Closed { .. } => None,
        }
    }

    /// When the next probe may be sent; `None` if it is closed, or a probe is in progress.
    pub fn next_probe(&self) -> Option<Timestamp> {
        match self.0 {
            State::Open { open, probing: false, .. } => Some(open.next_probe_at),
            State::Open { .. } | State::Closed { .. } => None,
        }
    }

    /// The clock has gone back: the next probe is sent now.
    pub fn clock_went_back(&mut self, now: Timestamp) {
        if let State::Open { open, .. } = &mut self.0 {
            open.next_probe_at = open.next_probe_at.min(now);
            open.since = open.since.min(now);
        }
    }

    /// An attempt starts, which is a probe if the breaker is open.
    pub fn start(&mut self) {
        if let State::Open { probing, .. } = &mut self.0 {
            *probing = true;
        }
    }

    /// An attempt has ended; `last` if no other attempt is in progress. Returns what this has changed.
    pub fn end(
        &mut self,
        health: DestinationHealth,
        last: bool,
        settings: &Settings,
        now: Timestamp,
    ) -> Option<Change> {
        use DestinationHealth::{Failing, Unknown, Working};
        let before = self.0;
        self.0 = match (before, health) {
            (_, Working) => State::Closed { failures: 0 },
            (State::Closed { failures }, Failing) => {
                let failures = failures.saturating_add(1);
                if settings.failures > 0 && failures >= settings.failures {
                    let pause = settings.initial_pause;
                    let open = Open { since: now, next_probe_at: now.after(pause) };
                    State::Open { open, pause, probing: false }
                } else {
                    State::Closed { failures }
                }
            }
            // Attempts that began before it opened may still fail while the probe is in progress. The
            // pause is extended once, when the last of them all has failed.
            (State::Open { open, pause, probing: true }, Failing) if last => {
                let pause = pause.saturating_mul(2).min(settings.max_pause);
                let open = Open { next_probe_at: now.after(pause), ..open };
                State::Open { open, pause, probing: false }
            }
            // Without an outcome, another probe may be sent, but not while one may be in progress.
            (State::Open { open, pause, .. }, Unknown) if last => {
                State::Open { open, pause, probing: false }
            }
            (unchanged, _) => unchanged,
        };
        match (before, self.0) {
            (State::Closed { .. }, State::Open { open, .. }) => Some(Change::Opened(open)),
            (State::Open { .. }, State::Closed { .. }) => Some(Change::Closed),
            (State::Open { open: before, .. }, State::Open { open, .. }) if open != before => {
                Some(Change::Extended(open))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn opened(settings: &Settings) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..settings.failures {
            breaker.end(DestinationHealth::Failing, false, settings, NOW);
        }
        assert!(breaker.open().is_some());
        breaker
    }

    #[test]
    fn an_older_attempt_that_fails_does_not_extend_the_pause() {
        let settings = Settings::default();
        let mut breaker = opened(&settings);
        let now = NOW.after(settings.initial_pause);
        breaker.start();
        assert_eq!(breaker.end(DestinationHealth::Failing, false, &settings, now), None);
        assert_eq!(breaker.next_probe(), None, "the probe is in progress");
        let change = breaker.end(DestinationHealth::Failing, true, &settings, now);
        assert!(matches!(change, Some(Change::Extended(_))), "{change:?}");
        assert_eq!(breaker.next_probe(), Some(now.after(2 * settings.initial_pause)));
    }

    #[test]
    fn after_a_backward_jump_the_next_probe_is_due() {
        let mut breaker = opened(&Settings::default());
        let now = NOW.before(Duration::from_secs(60));
        breaker.clock_went_back(now);
        assert_eq!(breaker.next_probe(), Some(now));
        assert_eq!(breaker.open().unwrap().since, now);
    }
}
