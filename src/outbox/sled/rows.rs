//! The rows with counters, of the whole store and of each destination.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::horizon::Horizon;
use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{
        error::{OutboxError, Result},
        record,
    },
};

/// The counters of the whole store: one row, written with every batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    /// The seq of the next callback.
    pub(super) next_seq: u64,
    /// The number of the next batch.
    pub(super) next_batch: u64,
    pub(super) pending: u64,
    pub(super) delivered: u64,
    pub(super) failed: u64,
}

/// The stored counters of one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueueRow {
    pub(super) destination: Destination,
    pub(super) pending: u64,
    /// Pending callbacks that are [`Readiness::Fresh`](record::Readiness::Fresh).
    pub(super) fresh: u64,
    /// Pending callbacks that are [`Readiness::Scheduled`](record::Readiness::Scheduled).
    pub(super) scheduled: u64,
    pub(super) failed: u64,
    /// Until when `Retry-After` holds the destination.
    pub(super) hold_until: Timestamp,
}

impl QueueRow {
    pub(super) fn new(destination: Destination) -> Self {
        Self {
            destination,
            pending: 0,
            fresh: 0,
            scheduled: 0,
            failed: 0,
            hold_until: Timestamp::default(),
        }
    }

    /// Whether nothing is sent to the destination now.
    pub(super) fn is_held(&self, horizon: Horizon) -> bool {
        horizon.is_later(self.hold_until)
    }

    pub(super) fn blocked(&self) -> u64 {
        self.pending.saturating_sub(self.fresh).saturating_sub(self.scheduled)
    }

    /// Whether it is one of the destinations with pending or failed callbacks.
    pub(super) fn counts(&self) -> bool {
        !self.destination.is_none() && !self.is_idle()
    }

    /// Whether the row is not needed any more.
    pub(super) fn is_idle(&self) -> bool {
        self.pending == 0 && self.failed == 0
    }
}

/// Reads the value of the row with this key.
pub(super) fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T> {
    record::decode(bytes).map_err(|error| OutboxError::UnreadableRow {
        key: data_encoding::HEXLOWER.encode(key),
        reason: error.to_string().into(),
    })
}
