//! Which stored times are in the future.

use crate::clock::Timestamp;

/// The times with which a stored time is compared: now, and the latest time to which anything can have
/// been postponed. A later time was stored while the clock was ahead, and is treated as past.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Horizon {
    pub(crate) now: Timestamp,
    pub(crate) latest: Timestamp,
}

impl Horizon {
    /// Whether `at` is in the future.
    pub(crate) fn is_later(&self, at: Timestamp) -> bool {
        at > self.now && at <= self.latest
    }
}
