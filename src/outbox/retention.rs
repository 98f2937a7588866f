//! Retention of ended callbacks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// How long ended callbacks are kept: the settings `retention.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Delivered ones.
    pub delivered: Duration,
    /// Failed ones.
    pub failed: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self { delivered: 7 * DAY, failed: 30 * DAY }
    }
}

impl Retention {
    /// The times up to which ended callbacks are removed at `now`.
    pub fn over(self, now: Timestamp) -> Over {
        Over { delivered: now.before(self.delivered), failed: now.before(self.failed) }
    }
}

/// Callbacks that ended at these times or earlier are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Delivered ones.
    pub delivered: Timestamp,
    /// Failed ones.
    pub failed: Timestamp,
}
