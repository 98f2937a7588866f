//! How fast a destination is: how long its recent attempts have held their slots.

use std::time::Duration;

use crate::delivery::outcome::DestinationHealth;

/// The longest slot time of each level but the last.
pub(crate) const BOUNDS: [Duration; LEVELS - 1] =
    [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(10)];

pub(crate) const LEVELS: usize = 4;

/// The level of a new destination.
pub(crate) const NEW: Level = Level(1);

/// The first level of slow and failing destinations.
pub(crate) const SLOW: Level = Level(2);

/// Slots of a destination while less than half of all slots are free.
pub(crate) const AT_FIRST: usize = 2;

/// Minimum slot time of a failed attempt.
const FAILED: Duration = Duration::from_secs(2);

/// How long after an attempt to a fast destination another one is expected.
pub(crate) const EXPECTED: Duration = Duration::from_millis(100);

/// How slow a destination is; 0 is the fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(pub(crate) usize);

/// How long a destination's recent attempts have held their slots; `None` if unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pace(Option<Duration>);

impl Pace {
    pub(crate) fn level(self) -> Level {
        let Some(held) = self.0 else { return NEW };
        Level(BOUNDS.iter().filter(|bound| held >= **bound).count())
    }

    /// Maximum number of slots, given the limit `most` and the number `could` that would leave half of
    /// all slots free.
    /// A slow destination is limited by its level only.
    pub(crate) fn most(self, most: usize, could: usize) -> usize {
        if self.level() >= SLOW { most } else { most.min(could.max(AT_FIRST)) }
    }

    /// An attempt has ended. It has the same weight as all earlier attempts together.
    pub(crate) fn ended(&mut self, took: Duration, health: DestinationHealth) {
        let took = match health {
            DestinationHealth::Working => took,
            DestinationHealth::Failing => took.max(FAILED),
            DestinationHealth::Unknown => return,
        };
        self.0 = Some(self.0.map_or(took, |before| (before + took) / 2));
    }

    /// An attempt has been in progress for this long. A new destination, which may need some time for
    /// its first connection, stays new until it is slow.
    pub(crate) fn at_least(&mut self, so_far: Duration) {
        if self.0.is_some() || so_far >= BOUNDS[SLOW.0 - 1] {
            self.0 = self.0.max(Some(so_far));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(1);

    fn answering(took: Duration) -> Level {
        let mut pace = Pace::default();
        pace.ended(took, DestinationHealth::Working);
        pace.level()
    }

    fn failing() -> Level {
        let mut pace = Pace::default();
        pace.ended(QUICK, DestinationHealth::Failing);
        pace.level()
    }

    #[test]
    fn the_level_follows_recent_slot_times_and_failures() {
        let seconds = |n| answering(Duration::from_secs(n));
        assert_eq!([answering(QUICK), seconds(1), seconds(10)], [Level(0), Level(2), Level(3)]);
        assert_eq!(answering(Duration::from_millis(500)), NEW);
        assert_eq!(failing(), SLOW);
        let mut pace = Pace::default();
        pace.ended(QUICK, DestinationHealth::Failing);
        let answers = (1..100).find(|_| {
            pace.ended(QUICK, DestinationHealth::Working);
            pace.level() == Level(0)
        });
        assert_eq!(answers, Some(5));
    }

    #[test]
    fn a_destination_holds_few_slots_while_less_than_half_are_free() {
        let mut pace = Pace::default();
        for _ in 0..2 {
            assert_eq!([pace.most(16, 0), pace.most(16, 9), pace.most(1, 9)], [AT_FIRST, 9, 1]);
            pace.ended(QUICK, DestinationHealth::Working);
        }
        pace.at_least(BOUNDS[1]);
        assert_eq!(pace.most(16, 0), 16, "its level limits it");
    }

    #[test]
    fn a_new_destination_is_slow_when_its_first_attempt_takes_long() {
        let mut pace = Pace::default();
        pace.at_least(BOUNDS[0]);
        assert_eq!((pace.level(), pace.most(16, 0)), (NEW, AT_FIRST));
        pace.at_least(BOUNDS[1]);
        assert_eq!(pace.level(), SLOW);
    }
}
