//! What happened in the last minutes, in memory: the rates and charts that an operator sees. Attempts of the
//! last hour by destination, and everything together of the last day.
//!
//! Counted for the whole process, as [`measure`](crate::measure) does, and lost with it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use foldhash::fast::RandomState;

use crate::{
    callback::Destination,
    clock::{Clock as _, SystemClock, Timestamp},
};

/// Minutes that are kept of each destination.
const HOUR: usize = 60;

/// Minutes that are kept of everything together.
pub const DAY: usize = 24 * HOUR;

/// Complete minutes over which a rate is the mean; the current one is added.
const WINDOW: u64 = 5;

/// Destinations that are kept. Those that had no attempt for the longest time are forgotten first.
const DESTINATIONS: usize = 4096;

/// Characters of an error's message that are kept.
const MESSAGE: usize = 200;

const MILLIS: u64 = 60_000;

/// Attempts per minute, as a mean of the last five minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Those that delivered a callback.
    pub delivered: f64,
    /// All others.
    pub failed: f64,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The kind of error.
    pub kind: &'static str,
    /// The status of the response, if there was one.
    pub status: Option<u16>,
    /// The message, without secrets.
    pub message: String,
    /// Whether it counts against the destination, and not only against this callback.
    pub of_destination: bool,
}

/// How the last attempts at a destination ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempts {
    /// When the last callback was delivered.
    pub delivered_at: Option<Timestamp>,
    /// When the first of the attempts ended that have failed since then.
    pub failing_since: Option<Timestamp>,
    /// Why the last attempt failed; `None` if it did not.
    pub error: Option<Reason>,
}

impl Attempts {
    /// Whether the destination appears not to work: its last attempt failed, and either the failure counts
    /// against the destination, or no attempt has ever succeeded.
    pub fn are_failing(&self) -> bool {
        let failed = |error: &Reason| error.of_destination || self.delivered_at.is_none();
        self.error.as_ref().is_some_and(failed)
    }

    fn count(&mut self, error: Option<Reason>, at: Timestamp) {
        match error {
            Some(reason) => {
                self.failing_since.get_or_insert(at);
                let message = reason.message.chars().take(MESSAGE).collect();
                self.error = Some(Reason { message, ..reason });
            }
            None => *self = Self { delivered_at: Some(at), ..Self::default() },
        }
    }
}

/// What happened in one minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Minute {
    /// Minutes since 1970.
    number: u64,
    /// Callbacks that were accepted; only of everything together.
    pub accepted: u32,
    /// Callbacks that were delivered.
    pub delivered: u32,
    /// Attempts that failed.
    pub failed: u32,
}

impl Minute {
    fn add(&mut self, delivered: bool) {
        let count = if delivered { &mut self.delivered } else { &mut self.failed };
        *count = count.saturating_add(1);
    }
}

/// The last minutes. The clock may jump, so each has its number.
#[derive(Debug, Clone)]
struct Ring<const N: usize> {
    minutes: [Minute; N],
    latest: u64,
}

impl<const N: usize> Ring<N> {
    const EMPTY: Self = Self {
        minutes: [Minute { number: 0, accepted: 0, delivered: 0, failed: 0 }; N],
        latest: 0,
    };

    fn place(number: u64) -> usize {
        usize::try_from(number % N as u64).unwrap_or(0)
    }

    fn at(&mut self, at: Timestamp) -> &mut Minute {
        let number = at.minute();
        self.latest = number;
        let minute = &mut self.minutes[Self::place(number)];
        if minute.number != number {
            *minute = Minute { number, ..Minute::default() };
        }
        minute
    }

    /// The last `count` minutes, oldest first; the last one is not over.
    fn last(&self, count: usize, now: Timestamp) -> Vec<Minute> {
        let current = now.minute();
        let of = |number: u64| {
            let minute = self.minutes[Self::place(number)];
            if minute.number == number { minute } else { Minute { number, ..Minute::default() } }
        };
        (0..count as u64).rev().map(|ago| of(current.saturating_sub(ago))).collect()
    }
}

/// What is kept of one destination.
#[derive(Debug)]
struct Known {
    ring: Ring<HOUR>,
    attempts: Attempts,
}

#[derive(Debug, Default)]
struct Recent {
    /// When the first attempt was counted.
    since: Option<Timestamp>,
    /// From when on delivered callbacks are counted.
    from: Option<Timestamp>,
    /// When destinations were last forgotten.
    forgot: Option<Timestamp>,
    all: Option<Box<Ring<DAY>>>,
    destinations: HashMap<Destination, Box<Known>, RandomState>,
}

static RECENT: LazyLock<Mutex<Recent>> = LazyLock::new(Mutex::default);

fn recent() -> MutexGuard<'static, Recent> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of callbacks that were delivered before the process started, by minute
/// ([`Timestamp::minute`]), and from when on that is known.
pub fn delivered_before(from: Timestamp, minutes: &BTreeMap<u64, u64>) {
    // An older minute would take the place of one in the ring.
    let oldest = SystemClock.now().minute().saturating_sub(DAY as u64 - 1);
    let mut recent = recent();
    recent.from = Some(from);
    for (number, delivered) in minutes.range(oldest..) {
        let minute = recent.all().at(Timestamp::from_millis(number * MILLIS));
        // Those that were delivered since the start are in both.
        minute.delivered = minute.delivered.max(u32::try_from(*delivered).unwrap_or(u32::MAX));
    }
}

/// From when on delivered callbacks are counted.
pub fn delivered_from() -> Option<Timestamp> {
    recent().from
}

/// A callback was accepted.
pub fn accepted() {
    let now = SystemClock.now();
    let mut recent = recent();
    let minute = recent.all().at(now);
    minute.accepted = minute.accepted.saturating_add(1);
}

/// An attempt to a destination ended: why it failed, or `None` if the callback was delivered.
pub fn attempt(destination: &Destination, error: Option<Reason>, at: Timestamp) {
    recent().count(destination, error, at);
}

/// No attempt can be made at a destination, and why.
pub fn held_up(destination: &Destination, reason: Reason, at: Timestamp) {
    if let Some(known) = recent().known(destination, at) {
        known.attempts.count(Some(reason), at);
    }
}

/// How the last attempts at a destination ended; `None` if none is remembered.
pub fn attempts_of(destination: &Destination) -> Option<Attempts> {
    recent().destinations.get(destination).map(|known| known.attempts.clone())
}

/// From when on the attempts at every destination are remembered; `None` if that is since the start.
pub fn remembered_since() -> Option<Timestamp> {
    recent().forgot
}

/// The destinations of which attempts are remembered, in no order.
pub fn destinations() -> Vec<Destination> {
    recent().destinations.keys().cloned().collect()
}

/// The rates of a destination.
pub fn rates(destination: &Destination, now: Timestamp) -> Rates {
    recent().rates(destination, now)
}

/// The last `count` minutes of a destination, 60 at most, oldest first.
pub fn minutes_of(destination: &Destination, count: usize, now: Timestamp) -> Vec<Minute> {
    let recent = recent();
    let known = recent.destinations.get(destination);
    known.map_or_else(Vec::new, |known| known.ring.last(count.min(HOUR), now))
}

/// The last `count` minutes of everything together, [`DAY`] at most, oldest first.
pub fn minutes(count: usize, now: Timestamp) -> Vec<Minute> {
    recent().all().last(count.min(DAY), now)
}

impl Recent {
    fn all(&mut self) -> &mut Ring<DAY> {
        self.all.get_or_insert_with(|| Box::new(Ring::EMPTY))
    }

    fn count(&mut self, destination: &Destination, error: Option<Reason>, at: Timestamp) {
        self.since.get_or_insert(at);
        self.all().at(at).add(error.is_none());
        if let Some(known) = self.known(destination, at) {
            known.ring.at(at).add(error.is_none());
            known.attempts.count(error, at);
        }
    }

    /// The recorded attempts of a destination, created if there are none.
    fn known(&mut self, destination: &Destination, at: Timestamp) -> Option<&mut Known> {
        if !self.destinations.contains_key(destination) {
            if self.destinations.len() >= DESTINATIONS {
                self.forget_some();
                self.forgot = Some(at);
            }
            let known = Known { ring: Ring::EMPTY, attempts: Attempts::default() };
            self.destinations.insert(destination.clone(), Box::new(known));
        }
        self.destinations.get_mut(destination).map(|known| &mut **known)
    }

    /// Forgets the older half, so that this is seldom done.
    fn forget_some(&mut self) {
        let mut latest: Vec<_> = self.destinations.values().map(|it| it.ring.latest).collect();
        latest.sort_unstable();
        let middle = latest.get(latest.len() / 2).copied().unwrap_or(0);
        self.destinations.retain(|_, it| it.ring.latest > middle);
    }

    fn rates(&self, destination: &Destination, now: Timestamp) -> Rates {
        let (Some(since), Some(known)) = (self.since, self.destinations.get(destination)) else {
            return Rates::default();
        };
        let current = now.minute();
        let window = current.saturating_sub(WINDOW)..=current;
        let counted = known.ring.minutes.iter().filter(|minute| window.contains(&minute.number));
        let (delivered, failed) = counted.fold((0, 0), |(delivered, failed), minute| {
            (delivered + u64::from(minute.delivered), failed + u64::from(minute.failed))
        });
        // Of a process that has just started, there is no more than its first minute.
        let lasted = (WINDOW * MILLIS + now.as_millis() % MILLIS)
            .min(u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX))
            .max(MILLIS);
        #[expect(clippy::cast_precision_loss, reason = "a rate needs its first digits only")]
        let rate = |count: u64| (count * MILLIS * 10 / lasted) as f64 / 10.0;
        Rates { delivered: rate(delivered), failed: rate(failed) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_700_000_040_000);

    fn at(seconds: u64) -> Timestamp {
        START.after(Duration::from_secs(seconds))
    }

    fn error() -> Reason {
        let message = "e".repeat(1000);
        Reason { kind: "status", status: Some(503), message, of_destination: true }
    }

    fn destination(n: usize) -> Destination {
        Destination::parse(&format!("http://h{n}:80")).unwrap()
    }

    #[test]
    fn rates_are_means_of_the_last_five_minutes() {
        let (mut recent, one) = (Recent::default(), destination(1));
        for second in 0..600 {
            recent.count(&one, None, at(second));
            if second % 6 == 0 {
                recent.count(&one, Some(error()), at(second));
            }
        }
        assert_eq!(recent.rates(&one, at(600)), Rates { delivered: 60.0, failed: 10.0 });
        assert_eq!(recent.rates(&destination(2), at(600)), Rates::default());
        assert_eq!(recent.rates(&one, at(1200)), Rates::default());
        // Setting the clock back discards the counts.
        recent.count(&one, None, at(0));
        assert_eq!(recent.rates(&one, at(1)), Rates { delivered: 61.0, failed: 10.0 });
    }

    #[test]
    fn a_process_that_has_just_started_has_one_minute_at_least() {
        let (mut recent, one) = (Recent::default(), destination(1));
        for _ in 0..30 {
            recent.count(&one, None, at(0));
        }
        assert_eq!(recent.rates(&one, at(1)), Rates { delivered: 30.0, failed: 0.0 });
        assert_eq!(recent.rates(&one, at(120)), Rates { delivered: 15.0, failed: 0.0 });
    }

    #[test]
    fn the_last_minutes_are_in_order_and_old_ones_are_empty() {
        let (mut recent, one) = (Recent::default(), destination(1));
        for minute in [0, 1, 3] {
            recent.count(&one, (minute == 1).then(error), at(60 * minute));
        }
        let counts = |minutes: Vec<Minute>| -> Vec<_> {
            minutes.iter().map(|it| (it.delivered, it.failed)).collect()
        };
        let expected = [(1, 0), (0, 1), (0, 0), (1, 0)];
        assert_eq!(counts(recent.all().last(4, at(200))), expected);
        assert_eq!(counts(recent.destinations[&one].ring.last(4, at(200))), expected);
        let later = at(60 * DAY as u64);
        assert_eq!(counts(recent.all().last(4, later)), [(0, 0); 4]);
    }

    #[test]
    fn destinations_without_recent_attempts_are_forgotten_first() {
        let mut recent = Recent::default();
        for n in 0..DESTINATIONS {
            recent.count(&destination(n), None, at(60 * (n / 1024) as u64));
        }
        recent.count(&destination(DESTINATIONS), None, at(240));
        assert!(recent.destinations.len() <= DESTINATIONS / 2);
        assert!(recent.rates(&destination(DESTINATIONS - 1), at(240)).delivered > 0.0);
        assert_eq!(recent.rates(&destination(0), at(240)), Rates::default());
    }

    #[test]
    fn a_destination_fails_since_the_first_failure_after_a_delivery() {
        let (mut recent, one) = (Recent::default(), destination(1));
        let of = |recent: &Recent| recent.destinations[&one].attempts.clone();
        let refused = || Some(Reason { of_destination: false, ..error() });
        recent.count(&one, refused(), at(1));
        assert!(of(&recent).are_failing(), "nothing else is known of it");
        recent.count(&one, None, at(2));
        recent.count(&one, refused(), at(3));
        assert!(!of(&recent).are_failing(), "it refused one callback");
        recent.count(&one, Some(error()), at(4));
        let known = of(&recent);
        assert!(known.are_failing());
        assert_eq!((known.failing_since, known.delivered_at), (Some(at(3)), Some(at(2))));
        assert_eq!(known.error.unwrap().message.len(), MESSAGE);
        recent.count(&one, None, at(5));
        assert_eq!(of(&recent), Attempts { delivered_at: Some(at(5)), ..Attempts::default() });
    }
}
