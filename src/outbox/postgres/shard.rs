//! A shard: a part of the destinations, which one instance delivers to.

use std::time::Duration;

use crate::outbox::ids::QueueKey;

/// Number of shards. The schema has a row for each.
pub(super) const SHARDS: usize = 64;

/// The shard of a destination.
#[expect(clippy::cast_possible_truncation, reason = "less than 64")]
pub(super) const fn shard_of(key: QueueKey) -> usize {
    (key.0 % SHARDS as u64) as usize
}

/// Whose a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShardState {
    /// Another instance's, or nobody's.
    Foreign,
    /// Locked, and left alone until this [`uptime`](super::claimant::uptime).
    Waiting(Duration),
    /// This instance's.
    Owned,
    /// Nothing more is claimed, and it is let go when nothing is in flight.
    Draining,
}
