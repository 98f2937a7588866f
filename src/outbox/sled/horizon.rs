//! Which stored times are still to come.

use crate::clock::Timestamp;

/// What a stored time is compared with: now, and the latest time to which anything can have been put
/// off. A later one was stored while the clock was ahead, and counts as past.
#[derive(Debug, Clone, Copy)]
pub(super) struct Horizon {
    pub(super) now: Timestamp,
    pub(super) latest: Timestamp,
}

impl Horizon {
    /// Whether `at` is still to come.
    pub(super) fn is_later(&self, at: Timestamp) -> bool {
        at > self.now && at <= self.latest
    }
}
