//! Destinations that wait for a time.

use std::collections::BTreeSet;

use crate::{
    callback::{Destination, DestinationMap},
    clock::Timestamp,
};

/// One timer for each destination at most.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    sorted: BTreeSet<(Timestamp, Destination)>,
    times: DestinationMap<Timestamp>,
}

impl Timers {
    /// Wakes the destination at `at`. It must have no timer; see [`Timers::clear`].
    pub(crate) fn set(&mut self, destination: &Destination, at: Timestamp) {
        self.sorted.insert((at, destination.clone()));
        self.times.insert(destination.clone(), at);
    }

    /// Removes the destination's timer.
    pub(crate) fn clear(&mut self, destination: &Destination) {
        if let Some(at) = self.times.remove(destination) {
            self.sorted.remove(&(at, destination.clone()));
        }
    }

    /// When the first timer is due.
    pub(crate) fn first(&self) -> Option<Timestamp> {
        self.sorted.first().map(|(at, _)| *at)
    }

    /// Removes the timers that are due at `now`, the earliest first.
    pub(crate) fn take_due(&mut self, now: Timestamp) -> Vec<Destination> {
        let mut due = Vec::new();
        while let Some((at, destination)) = self.sorted.pop_first() {
            if at > now {
                self.sorted.insert((at, destination));
                break;
            }
            self.times.remove(&destination);
            due.push(destination);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_due_in_order_at_their_time_and_not_before() {
        let [a, b, c] =
            ["http://a", "http://b", "http://c"].map(|it| Destination::parse(it).unwrap());
        let at = Timestamp::from_millis;
        let mut timers = Timers::default();
        timers.set(&a, at(20));
        timers.set(&b, at(10));
        timers.set(&c, at(30));
        assert_eq!((timers.take_due(at(9)), timers.first()), (vec![], Some(at(10))));
        assert_eq!(timers.take_due(at(20)), [b, a]);
        assert_eq!((timers.take_due(at(29)), timers.first()), (vec![], Some(at(30))));
        assert_eq!((timers.take_due(at(30)), timers.first()), (vec![c], None));
        assert!(timers.times.is_empty(), "they are forgotten");
    }

    #[test]
    fn a_cleared_timer_is_never_due() {
        let destination = Destination::parse("http://a").unwrap();
        let mut timers = Timers::default();
        timers.set(&destination, Timestamp::from_millis(10));
        timers.clear(&destination);
        assert_eq!(timers.first(), None);
        timers.set(&destination, Timestamp::from_millis(30));
        assert!(timers.take_due(Timestamp::from_millis(20)).is_empty());
        assert_eq!(timers.take_due(Timestamp::from_millis(30)), [destination]);
    }
}
