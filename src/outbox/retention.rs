//! Retention of ended callbacks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// How long ended callbacks are kept: the settings `retention.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Delivered callbacks.
    pub delivered: Duration,
    /// Failed callbacks.
    pub failed: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self { delivered: 7 * DAY, failed: 30 * DAY }
    }
}

impl Retention {
    /// The times up to which ended callbacks are removed; `ago` returns the time this long ago.
    pub fn over(self, ago: impl Fn(Duration) -> Timestamp) -> Over {
        Over { delivered: ago(self.delivered), failed: ago(self.failed) }
    }
}

/// Callbacks that ended at these times or earlier are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Delivered callbacks.
    pub delivered: Timestamp,
    /// Failed callbacks.
    pub failed: Timestamp,
}
