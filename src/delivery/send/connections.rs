//! Limits the number of destinations to which idle connections are kept.
//!
//! Three limits apply to idle connections: [`IDLE_TIMEOUT`], the number of destinations
//! ([`Connections`]), and the number of connections to one destination (`idle_per_destination` in the
//! settings of the client, from `delivery.per_destination`). The client's pool applies the first and
//! the last (`connecting.rs`).

use std::time::Duration;

use tokio::time::Instant;

use crate::callback::{Destination, DestinationMap};

/// How long an idle connection is kept.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of destinations to which connections are kept. A higher limit could exceed the number
/// of open files that a process may have.
const MAX_DESTINATIONS: usize = 256;

/// The destinations to which connections are kept, and when an attempt to each last began.
#[derive(Debug, Default)]
pub(crate) struct Connections(DestinationMap<Instant>);

impl Connections {
    /// An attempt begins. Returns whether its connection is kept for later attempts; otherwise it is
    /// closed after the response.
    pub(crate) fn keep(&mut self, destination: &Destination, now: Instant) -> bool {
        if self.0.len() >= MAX_DESTINATIONS && !self.0.contains_key(destination) {
            self.0.retain(|_, began| now.duration_since(*began) < IDLE_TIMEOUT);
            if self.0.len() >= MAX_DESTINATIONS {
                return false;
            }
        }
        self.0.insert(destination.clone(), now);
        true
    }

    /// An attempt failed, so its connection is gone, and another destination may take its place.
    pub(crate) fn lost(&mut self, destination: &Destination) {
        self.0.remove(destination);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(number: usize) -> Destination {
        Destination::parse(&format!("http://h{number}")).unwrap()
    }

    /// As many destinations as connections are kept to, all with an attempt that began at `now`.
    fn full(now: Instant) -> Connections {
        let mut connections = Connections::default();
        assert!((0..MAX_DESTINATIONS).all(|number| connections.keep(&destination(number), now)));
        connections
    }

    #[test]
    fn connections_are_kept_to_a_limited_number_of_destinations() {
        let now = Instant::now();
        let mut connections = full(now);
        let other = destination(MAX_DESTINATIONS);
        assert!(!connections.keep(&other, now));
        assert!(connections.keep(&destination(0), now), "it is one of them");
        connections.lost(&destination(1));
        assert!(connections.keep(&other, now), "a place is free");
    }

    #[test]
    fn a_destination_has_its_place_until_its_idle_connections_are_closed() {
        let begin = Instant::now();
        let mut connections = full(begin);
        let other = destination(MAX_DESTINATIONS);
        let now = begin + IDLE_TIMEOUT;
        assert!(connections.keep(&destination(0), now));
        assert!(!connections.keep(&other, now - Duration::from_millis(1)));
        assert!(connections.keep(&other, now));
        assert_eq!(connections.0.len(), 2, "only those with an attempt since");
    }
}
