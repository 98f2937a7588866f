//! The messages that are sent to the committer.

use tokio::sync::oneshot;

use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
    outbox::{
        Cancelled, Enqueued, Entry, Failure, Mended, NewCallback, OutboxError, Over, Record, Scope,
        Sequence, Settlement, error::Result,
    },
};

/// Maximum number of callbacks in one batch, unless a single write has more.
pub(crate) const BATCH_LIMIT: usize = 2048;

/// Approximate maximum of what one batch writes, in bytes, unless a single write has more: other writes
/// wait for the batch, and it is held in memory.
pub(crate) const BATCH_BYTES: usize = 1024 * 1024;

/// Approximate bytes of the indexes of one callback, and of a change of it without its texts.
const INDEX_BYTES: usize = 128;

/// Receives the answer to a write.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// An outcome that was not committed.
pub(crate) type Uncommitted = (CallbackId, Settlement);

/// A write, with the receiver of its answer.
pub(crate) enum Write {
    Enqueue(Vec<NewCallback>, Sequence, Reply<Vec<Enqueued>>),
    Settle(Box<Record>, Box<Settlement>, Reply<Record>),
    /// Outcomes that were not committed, at a start.
    Recover(Vec<Uncommitted>, Reply<Vec<Record>>),
    Replay(Vec<CallbackId>, Reply<u64>),
    Cancel(Vec<CallbackId>, Reply<Vec<Cancelled>>),
    RetryNow(Vec<CallbackId>, Reply<u64>),
    Pause(Destination, bool, Reply<bool>),
    Expire(Scope, Timestamp, Failure, Reply<Vec<Record>>),
    Purge(Over, Reply<u64>),
    Mend(Vec<u8>, Reply<Mended>),
    Notify(Reply<u64>),
    Import(Vec<Entry>, Reply<u64>),
    Ping(Reply<()>),
}

/// Size of a write, or of several.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weight {
    pub(crate) callbacks: usize,
    /// Approximate.
    pub(crate) bytes: usize,
}

impl Weight {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { callbacks: self.callbacks + other.callbacks, bytes: self.bytes + other.bytes }
    }

    /// Whether this is not too much for one batch.
    pub(crate) fn fits(self) -> bool {
        self.callbacks <= BATCH_LIMIT && self.bytes <= BATCH_BYTES
    }
}

impl Write {
    pub(crate) fn weight(&self) -> Weight {
        let (callbacks, bytes) = match self {
            Self::Enqueue(batch, ..) => {
                (batch.len(), batch.iter().map(|new| INDEX_BYTES + new.text_bytes()).sum())
            }
            Self::Settle(_, settlement, _) => (1, INDEX_BYTES + settlement.text_bytes()),
            Self::Replay(ids, _) | Self::Cancel(ids, _) | Self::RetryNow(ids, _) => {
                (ids.len(), ids.len() * INDEX_BYTES)
            }
            Self::Recover(left, _) => (left.len(), BATCH_BYTES),
            Self::Import(entries, _) => (entries.len(), BATCH_BYTES),
            Self::Pause(..) | Self::Ping(_) => (1, 0),
            Self::Expire(..) | Self::Purge(..) | Self::Mend(..) | Self::Notify(_) => {
                (BATCH_LIMIT / 4, 0)
            }
        };
        Weight { callbacks: callbacks.max(1), bytes }
    }

    /// Whether it must be committed without delay. Only the job's next callback waits for an outcome.
    pub(crate) fn is_urgent(&self) -> bool {
        !matches!(self, Self::Settle(..))
    }

    /// Whether a part of the store's upkeep, which is tried again if it fails.
    pub(crate) fn is_upkeep(&self) -> bool {
        matches!(self, Self::Mend(..) | Self::Expire(..) | Self::Purge(..) | Self::Notify(_))
    }

    /// Answers with an error.
    pub(crate) fn refuse(self, error: OutboxError) {
        match self {
            Self::Enqueue(_, _, reply) => answer(reply, Err(error)),
            Self::Settle(_, _, reply) => answer(reply, Err(error)),
            Self::Recover(_, reply) => answer(reply, Err(error)),
            Self::Ping(reply) => answer(reply, Err(error)),
            Self::Replay(_, reply)
            | Self::RetryNow(_, reply)
            | Self::Purge(_, reply)
            | Self::Notify(reply)
            | Self::Import(_, reply) => {
                answer(reply, Err(error));
            }
            Self::Pause(_, _, reply) => answer(reply, Err(error)),
            Self::Cancel(_, reply) => answer(reply, Err(error)),
            Self::Expire(_, _, _, reply) => answer(reply, Err(error)),
            Self::Mend(_, reply) => answer(reply, Err(error)),
        }
    }
}

pub(crate) fn answer<T>(reply: Reply<T>, result: Result<T>) {
    // The caller may be gone, but the write has been made.
    drop(reply.send(result));
}
