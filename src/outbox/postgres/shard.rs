//! A shard: a part of the destinations, to which one instance delivers.

use std::time::Duration;

use crate::outbox::ids::QueueKey;

/// Number of shards. The schema has a row for each.
pub(super) const SHARDS: usize = 64;

/// The shard of a destination.
#[expect(clippy::cast_possible_truncation, reason = "less than 64")]
pub(super) const fn shard_of(key: QueueKey) -> usize {
    (key.0 % SHARDS as u64) as usize
}

/// The ownership of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShardState {
    /// Owned by another instance, or by none.
    Foreign,
    /// Locked, but not used until this [`uptime`](super::claimant::uptime).
    Waiting(Duration),
    /// Owned by this instance.
    Owned,
    /// Nothing more is claimed, and it is released when nothing is in flight.
    Draining,
}
