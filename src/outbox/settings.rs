//! The settings that every store has.

use std::time::Duration;

use super::{notice::Notices, outcome_event::OutcomeEvents};

/// The settings of every store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// Maximum number of pending callbacks: `outbox.max_pending`.
    pub max_pending: u64,
    /// The longest time until a retry or the end of a hold. A later time was stored while the clock was
    /// ahead, and is treated as past.
    pub longest_pause: Duration,
    /// Where outcome events go, if anywhere.
    pub outcome_events: Option<OutcomeEvents>,
    /// The notices of failures, if enabled.
    pub notices: Option<Notices>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            max_pending: 10_000_000,
            longest_pause: Duration::MAX,
            outcome_events: None,
            notices: None,
        }
    }
}
