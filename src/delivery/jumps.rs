//! Jumps of the system clock. Stored times are system-clock times, so these rules apply:
//!
//! - **Forward**: time skipped by a jump does not count toward a callback's age or retention. Callbacks
//!   accepted after the jump are not affected. A jump that is reversed no longer counts.
//! - **Back**: nothing waits longer than the settings allow. A callback that is due later than the
//!   longest pause from now was scheduled while the clock was ahead, and is treated as due now.
//! - **While the service was not running**, a jump cannot be distinguished from elapsed time. Therefore
//!   nothing expires without an attempt in the first minutes: each overdue callback gets one attempt,
//!   and expires with its outcome.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::clock::{SharedClock, Timestamp};

/// A difference between system clock and monotonic clock above this is a jump.
const TOLERANCE: Duration = Duration::from_secs(30);

/// The jumps of a clock.
#[derive(Debug)]
pub struct Jumps {
    clock: SharedClock,
    begin: Instant,
    /// How long after `begin` nothing expires without an attempt.
    grace: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    at: Timestamp,
    passed: Instant,
    back: u64,
    /// The time after each forward jump, and its size.
    forward: Vec<(Timestamp, Duration)>,
}

impl Jumps {
    /// Starts observing `clock`. For `grace`, nothing expires without an attempt.
    pub fn new(clock: SharedClock, grace: Duration) -> Self {
        let begin = Instant::now();
        let seen = Seen { at: clock.now(), passed: begin, back: 0, forward: Vec::new() };
        Self { clock, begin, grace, seen: Mutex::new(seen) }
    }

    /// Checks for a jump and returns the time.
    fn look(&self) -> (Timestamp, MutexGuard<'_, Seen>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        seen.look(now, Instant::now());
        (now, seen)
    }

    /// Number of backward jumps.
    pub fn back(&self) -> u64 {
        self.look().1.back
    }

    /// The time, and how much of the time since `since` was skipped by jumps.
    pub fn skipped(&self, since: Timestamp) -> (Timestamp, Duration) {
        let (now, seen) = self.look();
        (now, seen.skipped(since))
    }

    /// The time `age` ago, not counting skipped time.
    pub fn ago(&self, age: Duration) -> Timestamp {
        let (now, seen) = self.look();
        seen.ago(now, age)
    }

    /// Whether a callback may expire without another attempt.
    pub fn may_expire(&self) -> bool {
        self.begin.elapsed() >= self.grace
    }
}

impl Seen {
    fn skipped(&self, since: Timestamp) -> Duration {
        let later = self.forward.iter().filter(|(after, _)| since < *after);
        later.fold(Duration::ZERO, |sum, (_, far)| sum.saturating_add(*far))
    }

    fn ago(&self, now: Timestamp, age: Duration) -> Timestamp {
        let mut at = now.before(age);
        // Each jump after `at` moves `at` further back, where more jumps may lie after it.
        loop {
            let further = now.before(age.saturating_add(self.skipped(at)));
            if further >= at {
                return at;
            }
            at = further;
        }
    }

    fn look(&mut self, now: Timestamp, passed: Instant) {
        let expected = self.at.after(passed.saturating_duration_since(self.passed));
        (self.at, self.passed) = (now, passed);
        let (ahead, behind) = (now.since(expected), expected.since(now));
        if ahead > TOLERANCE {
            self.forward.push((now, ahead));
        } else if behind > TOLERANCE {
            self.back += 1;
            self.take_back(now);
        } else {
            return;
        }
        tracing::warn!(
            event.action = "clock-jumped",
            event.reason = if ahead > TOLERANCE { "forward" } else { "back" },
            event.duration = u64::try_from(ahead.max(behind).as_nanos()).unwrap_or(u64::MAX),
            "the system clock has jumped"
        );
    }

    /// Discards skipped time that a backward jump has undone.
    fn take_back(&mut self, now: Timestamp) {
        self.forward.retain_mut(|(after, far)| {
            if *after > now {
                (*after, *far) = (now, now.since(after.before(*far)));
            }
            *far > Duration::ZERO
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn nothing_expires_without_an_attempt_within_the_grace() {
        let clock = || crate::clock::ManualClock::at(START);
        assert!(!Jumps::new(clock(), HOUR).may_expire());
        assert!(Jumps::new(clock(), Duration::ZERO).may_expire());
    }

    #[test]
    fn small_deviations_of_the_clock_are_not_jumps() {
        let begin = Instant::now();
        let mut seen = Seen { at: START, passed: begin, back: 0, forward: Vec::new() };
        // Eight hours without a check, and clock corrections within the tolerance.
        seen.look(START.after(8 * HOUR), begin + 8 * HOUR);
        seen.look(START.after(8 * HOUR + TOLERANCE), begin + 8 * HOUR);
        seen.look(START.after(8 * HOUR), begin + 8 * HOUR);
        assert_eq!((seen.back, seen.forward.len()), (0, 0));
        seen.look(START.after(9 * HOUR), begin + 8 * HOUR);
        assert_eq!(seen.forward, [(START.after(9 * HOUR), HOUR)]);
        seen.look(START.after(5 * HOUR), begin + 8 * HOUR);
        assert_eq!((seen.back, seen.forward.len()), (1, 0));
    }

    #[test]
    fn a_reversed_jump_counts_only_for_what_is_not_reversed() {
        let begin = Instant::now();
        let mut seen = Seen { at: START, passed: begin, back: 0, forward: Vec::new() };
        seen.look(START.after(9 * HOUR), begin);
        assert_eq!(seen.skipped(START), 9 * HOUR);
        seen.look(START.after(4 * HOUR), begin);
        assert_eq!(
            (seen.skipped(START), seen.skipped(START.after(4 * HOUR))),
            (4 * HOUR, Duration::ZERO)
        );
        seen.look(START.before(HOUR), begin);
        assert_eq!(seen.skipped(Timestamp::default()), Duration::ZERO);
    }

    #[test]
    fn a_jump_affects_only_what_was_accepted_before_it() {
        let begin = Instant::now();
        let mut seen = Seen { at: START, passed: begin, back: 0, forward: Vec::new() };
        let jump = START.after(500_000 * HOUR);
        seen.look(jump, begin);
        // Half of the time is before the jump.
        assert_eq!(seen.ago(jump.after(HOUR), 2 * HOUR), START.before(HOUR));
        assert_eq!(seen.ago(jump.after(2 * HOUR), HOUR), jump.after(HOUR));
        assert_eq!(seen.ago(jump.after(HOUR), HOUR), jump);
    }

    #[test]
    fn asking_for_an_age_detects_a_jump() {
        let clock = crate::clock::ManualClock::at(START);
        let jumps = Jumps::new(clock.clone(), Duration::ZERO);
        clock.advance(100 * HOUR);
        let (now, skipped) = jumps.skipped(START);
        assert!(now.before(skipped).since(START) < HOUR, "{skipped:?}");
        clock.advance(100 * HOUR);
        assert!(jumps.ago(HOUR) < START);
    }
}
