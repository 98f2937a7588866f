//! The breaker of one destination: after `breaker.failures` consecutive failures, only one probe is sent
//! after each pause.
//!
//! ```text
//!           `failures` in a row                 the pause is over
//!  Closed ───────────────────────► Open ─────────────────────────► one probe
//!    ▲                              ▲ │                               │
//!    └──────── working ─────────────┼─┘ ◄──── failed: longer pause ───┤
//!    └──────────────────────────────┴──────── working ────────────────┘
//! ```
//!
//! What counts as a failure of the *destination* is in
//! [`DestinationHealth`].

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

impl Default for Breaker {
    fn default() -> Self {
        Self(State::Closed { failures: 0 })
    }
}

impl Breaker {
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

    /// An attempt has ended; `last` if no other one is in progress. Returns whether the breaker has opened,
    /// closed or extended its pause.
    pub fn end(
        &mut self,
        health: DestinationHealth,
        last: bool,
        settings: &Settings,
        now: Timestamp,
    ) -> bool {
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
        self.0 != before
            && matches!((before, self.0), (State::Open { .. }, _) | (_, State::Open { .. }))
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
        assert!(!breaker.end(DestinationHealth::Failing, false, &settings, now));
        assert_eq!(breaker.next_probe(), None, "the probe is in progress");
        assert!(breaker.end(DestinationHealth::Failing, true, &settings, now));
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
