//! What the committer thread, claims and readers of one store share.

use std::{path::PathBuf, time::Duration};

use sled::{Db, Tree};

use crate::{
    callback::CallbackId,
    clock::{SharedClock, Timestamp},
    outbox::{
        Holder, OutboxError,
        sled::{
            claim::queues::Queues,
            guard::guarded,
            horizon::Horizon,
            keys,
            shared::{backward::Backward, barrier::Barrier, moves::Moves},
        },
    },
};

/// The settings of the store (contract, 6: `outbox.*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The engine's page cache, in bytes.
    pub cache_bytes: u64,
    /// How many callbacks may be pending.
    pub max_pending: u64,
    /// How many bytes have to stay free on the data disk.
    pub min_free_bytes: u64,
    /// How far ahead anything is ever put off. What is due or held beyond that was put off by a
    /// clock that was ahead and has gone back since: it is due, or not held, now.
    pub longest_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache_bytes: 67_108_864,
            max_pending: 10_000_000,
            min_free_bytes: 268_435_456,
            longest_pause: Duration::MAX,
        }
    }
}

/// What the threads share.
pub(crate) struct Store {
    pub(crate) dir: PathBuf,
    pub(crate) db: Db,
    pub(crate) tree: Tree,
    pub(crate) salt: [u8; 16],
    pub(crate) queues: Queues,
    pub(crate) barrier: Barrier,
    /// Each commit from the time that it gives to what it changes.
    pub(crate) commits: Barrier,
    pub(crate) moves: Moves,
    pub(crate) backward: Backward,
    pub(crate) clock: SharedClock,
    pub(crate) settings: Settings,
}

impl Store {
    /// What a stored time is compared with at `now`.
    pub(crate) fn horizon(&self, now: Timestamp) -> Horizon {
        Horizon { now, latest: now.after(self.settings.longest_pause) }
    }

    pub(crate) fn stopped(&self) -> Option<OutboxError> {
        let reason = self.queues.lock().broken.clone()?;
        Some(OutboxError::Stopped { dir: self.dir.clone(), reason })
    }

    /// Stops the store for good; the first reason stays.
    pub(crate) fn stop(&self, error: &OutboxError) -> OutboxError {
        let mut queues = self.queues.lock();
        let first = queues.broken.is_none();
        let said = || match error {
            // A new start does not help where it is met again.
            OutboxError::CorruptPage(_) | OutboxError::UnreadableRow { .. } => format!(
                "{error}. If it stops again, stop the service, `export --file callbacks.ndjson`, \
                 move {} away, and `import --file callbacks.ndjson`",
                self.dir.display()
            ),
            _ => error.to_string(),
        };
        let reason = queues.broken.get_or_insert_with(|| said().into()).clone();
        drop(queues);
        if first {
            tracing::error!(
                event.action = "store-stopped",
                error.message = %reason,
                "the store has stopped; restart the service"
            );
        }
        OutboxError::Stopped { dir: self.dir.clone(), reason }
    }

    /// What an error means that somebody has met who only reads. sled writes there as well, and
    /// once a write of its own has failed, it fails at everything: then the store has stopped.
    /// Otherwise the error is that of one read, and stops nothing.
    pub(crate) fn classify(&self, error: OutboxError) -> OutboxError {
        if let Some(broken) = self.stopped() {
            return broken;
        }
        if !matches!(error, OutboxError::Engine(_)) {
            return error;
        }
        let flushed = guarded(|| Ok(self.db.flush()?));
        flushed.map_or_else(|cause| self.stop(&cause), |_| error)
    }
}

impl Holder for Store {
    fn give_back(&self, id: CallbackId, due: Timestamp) {
        let (seq, queue) = keys::parts(id);
        self.queues.release(queue, seq, due);
    }
}
