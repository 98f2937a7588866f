//! Which stored times are in the future.

use crate::clock::Timestamp;

/// The times with which a stored time is compared: now, and the latest time to which anything can have
/// been postponed. A later time was stored while the clock was ahead, and is treated as past.
#[derive(Debug, Clone, Copy)]
pub(super) struct Horizon {
    pub(super) now: Timestamp,
    pub(super) latest: Timestamp,
}

impl Horizon {
    /// Whether `at` is in the future.
    pub(super) fn is_later(&self, at: Timestamp) -> bool {
        at > self.now && at <= self.latest
    }
}
