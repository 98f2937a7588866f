//! How many attempts a destination may have at once and in a second.

use std::time::Duration;

use crate::clock::Timestamp;

/// Tolerance for rounding, in milliseconds and in tokens.
const NEARLY: f64 = 1e-6;

/// Tokens accrued within this time, in seconds, are kept in addition to the burst: timers are late by a
/// millisecond or two, and at a high rate the tokens of that time would be lost. So the first attempt after a
/// burst is this much early.
const LATE: f64 = 0.005;

/// The limits of one destination.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Maximum number of concurrent attempts.
    pub concurrency: usize,
    /// Maximum number of attempts in a second; `None` for no limit.
    pub rate: Option<Rate>,
}

/// A rate, which a token bucket enforces.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Attempts per second; above 0.
    pub per_second: f64,
    /// How many attempts may start at once after a pause; at least 1.
    pub burst: u32,
}

/// A token bucket: each attempt takes a token, and tokens come at the rate's pace. It is full at first.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Bucket {
    /// Tokens that were taken and have not come again yet.
    missing: f64,
    /// When `missing` was right.
    at: Timestamp,
}

impl Bucket {
    fn missing(self, rate: Rate, now: Timestamp) -> f64 {
        let come = rate.per_second * now.since(self.at).as_secs_f64();
        (self.missing - come).max(-LATE * rate.per_second)
    }

    /// How many attempts may start now.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the number is not negative, and a cast saturates"
    )]
    pub(crate) fn room(self, rate: Rate, now: Timestamp) -> usize {
        let nearly = NEARLY + NEARLY * rate.per_second / 500.0;
        (f64::from(rate.burst) - self.missing(rate, now) + nearly).max(0.0) as usize
    }

    /// When the next attempt may start; the beginning of time if one may start now and always could.
    pub(crate) fn next(self, rate: Rate) -> Timestamp {
        let lacks = self.missing - f64::from(rate.burst) + 1.0;
        if lacks <= NEARLY {
            return self.at;
        }
        let millis = (lacks / rate.per_second * 1000.0 - NEARLY).ceil().max(1.0);
        let pause = Duration::from_secs_f64(millis / 1000.0);
        // A time has whole milliseconds, and this one must not be cut off.
        self.at.after(pause + Duration::from_micros(1))
    }

    /// An attempt starts.
    pub(crate) fn take(&mut self, rate: Rate, now: Timestamp) {
        // More than `burst` are missing only if the limit was lowered since.
        let missing = self.missing(rate, now).min(f64::from(rate.burst)) + 1.0;
        *self = Self { missing, at: now };
    }

    /// The clock has gone back.
    pub(crate) fn clock_went_back(&mut self, now: Timestamp) {
        self.at = self.at.min(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_000_000);

    /// When attempts start if as many are made as may be, in milliseconds.
    fn starts(rate: Rate, count: usize) -> Vec<u64> {
        let (mut bucket, mut now, mut starts) = (Bucket::default(), START, Vec::new());
        while starts.len() < count {
            for _ in 0..bucket.room(rate, now) {
                bucket.take(rate, now);
                starts.push(now.as_millis() - START.as_millis());
            }
            assert!(bucket.next(rate) > now, "it would be asked again at once");
            now = bucket.next(rate);
        }
        starts
    }

    #[test]
    fn attempts_start_at_the_rates_pace_after_the_burst() {
        assert_eq!(starts(Rate { per_second: 5.0, burst: 1 }, 4), [0, 195, 395, 595]);
        assert_eq!(starts(Rate { per_second: 2.0, burst: 3 }, 6), [0, 0, 0, 495, 995, 1495]);
        assert_eq!(starts(Rate { per_second: 0.1, burst: 1 }, 3), [0, 9995, 19_995]);
        assert_eq!(starts(Rate { per_second: 3000.0, burst: 1 }, 3001)[3000], 995);
    }

    #[test]
    fn rounding_starts_no_attempt_early_and_delays_none() {
        let most = |per_second| Bucket::default().room(Rate { per_second, burst: 1 }, START);
        assert_eq!([most(3000.0), most(2999.6)], [16, 15]);
        // The next time is a millionth of a millisecond after a whole millisecond, which is that time.
        let rate = Rate { per_second: 2000.0 / 1.000_000_9, burst: 1 };
        let mut bucket = Bucket::default();
        (0..20).for_each(|_| bucket.take(rate, START));
        let next = bucket.next(rate);
        assert_eq!((next, bucket.room(rate, next)), (START.after(Duration::from_millis(1)), 1));
    }

    #[test]
    fn a_pause_gives_no_more_than_the_burst() {
        let rate = Rate { per_second: 10.0, burst: 4 };
        let mut bucket = Bucket::default();
        bucket.take(rate, START);
        assert_eq!(bucket.room(rate, START), 3);
        assert_eq!(bucket.room(rate, START.after(Duration::from_hours(1))), 4);
    }

    #[test]
    fn after_a_backward_jump_the_pace_is_kept() {
        let rate = Rate { per_second: 1.0, burst: 1 };
        let mut bucket = Bucket::default();
        bucket.take(rate, START);
        let now = START.before(Duration::from_hours(1));
        bucket.clock_went_back(now);
        assert_eq!(
            (bucket.room(rate, now), bucket.next(rate)),
            (0, now.after(Duration::from_millis(995)))
        );
    }

    #[test]
    fn a_lowered_limit_is_in_effect_after_one_more_attempt() {
        let mut bucket = Bucket::default();
        let wide = Rate { per_second: 1.0, burst: 100 };
        (0..100).for_each(|_| bucket.take(wide, START));
        let narrow = Rate { per_second: 1.0, burst: 1 };
        bucket.take(narrow, START);
        assert_eq!(bucket.room(narrow, START.after(Duration::from_secs(2))), 1);
    }
}
