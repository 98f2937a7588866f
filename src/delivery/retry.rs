//! The retry decision: whether a callback is delivered, retried and when, or failed
//! (docs/receiving-callbacks.md). Pure: time and randomness are arguments.
//!
//! Only this file uses the `backoff` crate, which is unmaintained.

use std::{borrow::Cow, collections::BTreeSet, time::Duration};

use backoff::backoff::Backoff as _;

use super::outcome::{Outcome, Verdict};
use crate::{
    clock::Timestamp,
    outbox::{ErrorKind, Failure, Record, Settlement},
};

/// Tolerance for small corrections of the clock.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);

/// The settings `retry.*`.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Pause after the first failed attempt.
    pub initial_interval: Duration,
    /// Factor from one pause to the next; at least 1.
    pub multiplier: f64,
    /// Longest pause, without jitter.
    pub max_interval: Duration,
    /// Random variation of a pause, as a fraction of it: 0 to 1.
    pub jitter: f64,
    /// How long a callback is retried after its acceptance or last replay.
    pub max_age: Duration,
    /// Maximum number of attempts; 0 means no limit.
    pub max_attempts: u32,
    /// Longest `Retry-After` that is honored.
    pub max_retry_after: Duration,
    /// Statuses after which a callback is not retried.
    pub final_statuses: BTreeSet<u16>,
    /// The keys of the two limits, for messages.
    pub keys: Keys,
}

/// Where the limits of a callback are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The key of `max_age`.
    pub max_age: Cow<'static, str>,
    /// The key of `max_attempts`.
    pub max_attempts: Cow<'static, str>,
}

impl Default for Keys {
    fn default() -> Self {
        Self { max_age: "retry.max_age".into(), max_attempts: "retry.max_attempts".into() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            initial_interval: Duration::from_secs(5),
            multiplier: 2.0,
            max_interval: Duration::from_secs(15 * 60),
            jitter: 0.2,
            max_age: Duration::from_hours(72),
            max_attempts: 0,
            max_retry_after: Duration::from_hours(1),
            final_statuses: BTreeSet::from([400, 405, 410, 411, 413, 414, 415, 422, 431, 501, 505]),
            keys: Keys::default(),
        }
    }
}

impl Settings {
    /// The reason why no further attempt may be made, if there is one. The age is ignored unless
    /// `may_expire`.
    pub fn over(&self, record: &Record, now: Timestamp, may_expire: bool) -> Option<Failure> {
        if self.max_attempts > 0 && record.budget_attempts >= self.max_attempts {
            return Some(self.exhausted());
        }
        let expired = may_expire && now >= record.budget_since.after(self.max_age);
        expired.then(|| self.expired())
    }

    /// The longest time that a callback waits for its next attempt, plus a minute of tolerance for small
    /// corrections of the clock.
    pub fn longest_pause(&self) -> Duration {
        let pause = self.max_interval.mul_f64(1.0 + self.jitter).max(self.max_retry_after);
        pause + CLOCK_TOLERANCE
    }

    /// The failure of a callback that is older than `retry.max_age`.
    pub fn expired(&self) -> Failure {
        let age = humantime::format_duration(self.max_age);
        Failure::new(
            ErrorKind::Expired,
            format!("not delivered within {age} ({})", self.keys.max_age),
        )
    }

    fn exhausted(&self) -> Failure {
        let tries = self.max_attempts;
        let message = format!("not delivered by {tries} attempts ({})", self.keys.max_attempts);
        Failure::new(ErrorKind::Exhausted, message)
    }

    /// Decides whether the callback is delivered, retried or failed.
    pub fn decide(
        &self,
        record: &Record,
        outcome: Outcome,
        now: Timestamp,
        random: &mut fastrand::Rng,
    ) -> Settlement {
        let Outcome { attempt, verdict, retry_after } = outcome;
        let requested = retry_after.map(|pause| pause.min(self.max_retry_after));
        let hold = requested
            .filter(|_| matches!(attempt.status, Some(429 | 503)))
            .map(|pause| now.after(pause));
        match (verdict, attempt.error.clone()) {
            (Verdict::Success, _) | (_, None) => Settlement::Delivered(attempt),
            (Verdict::Final, Some(failure)) => {
                Settlement::Failed { attempt: Some(attempt), failure, hold }
            }
            (Verdict::Transient, Some(_)) => {
                let failures = record.budget_attempts.saturating_add(1);
                if self.max_attempts > 0 && failures >= self.max_attempts {
                    let failure = self.exhausted();
                    return Settlement::Failed { attempt: Some(attempt), failure, hold };
                }
                let end = record.budget_since.after(self.max_age);
                if now >= end {
                    let failure = self.expired();
                    return Settlement::Failed { attempt: Some(attempt), failure, hold };
                }
                let pause = self.pause(failures, random).max(requested.unwrap_or_default());
                // Do not schedule a retry after the maximum age; it would only find the callback
                // expired.
                Settlement::Retry { attempt, due: now.after(pause).min(end), hold }
            }
        }
    }

    /// The pause after this many consecutive failures, which is at least 1.
    pub fn pause(&self, failures: u32, random: &mut fastrand::Rng) -> Duration {
        let mut intervals = backoff::ExponentialBackoff {
            current_interval: self.initial_interval,
            initial_interval: self.initial_interval,
            // Jitter is added below, where the randomness can be seeded.
            randomization_factor: 0.0,
            multiplier: self.multiplier,
            max_interval: self.max_interval,
            max_elapsed_time: None,
            ..backoff::ExponentialBackoff::default()
        };
        let mut interval = self.initial_interval;
        for _ in 0..failures {
            interval = intervals.next_backoff().unwrap_or(self.max_interval);
            if interval >= self.max_interval {
                break;
            }
        }
        let stray = self.jitter * (2.0 * random.f64() - 1.0);
        interval.min(self.max_interval).mul_f64((1.0 + stray).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        callback::{Body, CallbackId, Destination},
        outbox::{Attempt, Readiness, State},
    };

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn record(budget_attempts: u32) -> Record {
        Record {
            id: CallbackId::from_u128(1),
            event_id: None,
            body: Body::example(),
            url: "http://h/".to_owned().into(),
            destination: Destination::none(),
            created_at: START,
            state: State::Pending(Readiness::Fresh),
            attempt_count: budget_attempts,
            budget_attempts,
            budget_since: START,
            replays: 0,
            last_error: None,
            last_attempt: None,
            trace: None,
        }
    }

    fn failed(status: u16, verdict: Verdict, retry_after: Option<u64>) -> Outcome {
        let failure = Failure { status: Some(status), ..Failure::new(ErrorKind::Status, "no") };
        Outcome {
            attempt: Attempt {
                number: 1,
                started_at: START,
                duration_ms: 1,
                status: Some(status),
                error: Some(failure),
                peer: None,
                response_excerpt: None,
            },
            verdict,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn decide(
        settings: &Settings,
        record: &Record,
        outcome: Outcome,
        now: Timestamp,
    ) -> Settlement {
        settings.decide(record, outcome, now, &mut fastrand::Rng::with_seed(7))
    }

    fn exact() -> Settings {
        Settings { jitter: 0.0, ..Settings::default() }
    }

    #[test]
    fn pauses_double_from_the_first_to_the_longest() {
        let mut random = fastrand::Rng::with_seed(1);
        let seconds = (1..=10).map(|n| exact().pause(n, &mut random).as_millis().div_ceil(1000));
        let expected = [5, 10, 20, 40, 80, 160, 320, 640, 900, 900];
        assert!(seconds.eq(expected));
    }

    #[test]
    fn the_longest_pause_is_that_with_jitter_or_a_retry_after_and_a_minute_more() {
        let settings = Settings { max_retry_after: Duration::ZERO, ..Settings::default() };
        assert_eq!(settings.longest_pause(), Duration::from_mins(15 + 3 + 1));
        assert_eq!(Settings::default().longest_pause(), Duration::from_mins(60 + 1));
    }

    #[test]
    fn a_retry_after_is_honored_and_holds_the_destination_on_429_and_503() {
        for (status, holds) in [(503, true), (429, true), (500, false)] {
            let outcome = failed(status, Verdict::Transient, Some(60));
            let Settlement::Retry { due, hold, .. } = decide(&exact(), &record(0), outcome, START)
            else {
                panic!()
            };
            assert_eq!(due, START.after(Duration::from_mins(1)));
            assert_eq!(hold, holds.then_some(due));
        }
        let outcome = failed(503, Verdict::Transient, Some(1_000_000));
        let Settlement::Retry { due, .. } = decide(&exact(), &record(0), outcome, START) else {
            panic!()
        };
        assert_eq!(due, START.after(Duration::from_hours(1)), "retry.max_retry_after bounds it");
    }

    #[test]
    fn a_retry_after_holds_the_destination_even_without_a_retry() {
        let held = |settings: &Settings, verdict, now| {
            let outcome = failed(503, verdict, Some(60));
            let Settlement::Failed { hold, .. } = decide(settings, &record(0), outcome, now) else {
                panic!()
            };
            hold == Some(now.after(Duration::from_mins(1)))
        };
        assert!(held(&Settings { max_attempts: 1, ..exact() }, Verdict::Transient, START));
        assert!(held(&exact(), Verdict::Transient, START.after(exact().max_age)));
        assert!(held(&exact(), Verdict::Final, START));
    }

    #[test]
    fn the_last_attempt_of_the_budget_fails_as_exhausted() {
        let settings = Settings { max_attempts: 3, ..exact() };
        for (made, ends) in [(1, false), (2, true)] {
            let outcome = failed(500, Verdict::Transient, None);
            let settlement = decide(&settings, &record(made), outcome, START);
            let exhausted = matches!(&settlement, Settlement::Failed { failure, .. }
                if failure.kind == ErrorKind::Exhausted);
            assert_eq!(exhausted, ends, "{settlement:?}");
        }
    }

    #[test]
    fn a_callback_is_over_after_its_attempts_or_its_age() {
        let over = |max_attempts, attempts, age, may_expire| {
            let settings = Settings { max_attempts, ..Settings::default() };
            let now = START.after(age);
            settings.over(&record(attempts), now, may_expire).map(|failure| failure.kind)
        };
        let age = Settings::default().max_age;
        let (young, millisecond) = (Duration::ZERO, Duration::from_millis(1));
        assert_eq!(over(0, 99, young, true), None, "no limit");
        assert_eq!(over(3, 2, young, true), None);
        assert_eq!(over(3, 3, young, false), Some(ErrorKind::Exhausted));
        assert_eq!(over(0, 0, age.saturating_sub(millisecond), true), None);
        assert_eq!(over(0, 0, age, true), Some(ErrorKind::Expired));
        assert_eq!(over(0, 0, age, false), None);
    }

    #[test]
    fn no_retry_is_due_after_the_maximum_age() {
        let settings = exact();
        let end = START.after(settings.max_age);
        let late = end.before(Duration::from_secs(1));
        let outcome = failed(500, Verdict::Transient, None);
        let Settlement::Retry { due, .. } = decide(&settings, &record(9), outcome, late) else {
            panic!()
        };
        assert_eq!(due, end);
        assert_eq!(settings.over(&record(9), end, false), None, "it has not been tried");
        assert_eq!(settings.over(&record(9), late, true), None);
        assert_eq!(
            settings.over(&record(9), end, true).map(|it| it.kind),
            Some(ErrorKind::Expired)
        );
    }

    #[test]
    fn a_final_status_fails_the_callback_at_once() {
        let settlement = decide(&exact(), &record(0), failed(400, Verdict::Final, None), START);
        assert!(
            matches!(settlement, Settlement::Failed { failure, .. } if failure.status == Some(400))
        );
    }

    proptest! {
        #[test]
        fn a_pause_stays_within_its_jitter_for_any_settings(
            initial in 1_u64..100_000, times in 1_u64..1000, multiplier in 1.0_f64..10.0,
            jitter in 0.0_f64..=1.0, failures in 1_u32..10_000, seed: u64,
        ) {
            let settings = Settings {
                initial_interval: Duration::from_millis(initial),
                multiplier,
                max_interval: Duration::from_millis(initial.saturating_mul(times)),
                jitter,
                ..Settings::default()
            };
            let pause = settings.pause(failures, &mut fastrand::Rng::with_seed(seed));
            let slack = Duration::from_millis(1);
            prop_assert!(pause <= settings.max_interval.mul_f64(1.0 + jitter) + slack);
            prop_assert!(pause + slack >= settings.initial_interval.mul_f64(1.0 - jitter));
        }
    }
}
