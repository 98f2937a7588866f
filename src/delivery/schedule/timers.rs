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
