//! The store that commits, claims and reads share.

use std::{
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
};

use sled::{Db, Tree};

use crate::{
    callback::{CallbackId, Destination, DestinationMap},
    clock::{SharedClock, Timestamp},
    outbox::{
        ClaimOwner, Common, OutboxError, Record, StateName,
        horizon::Horizon,
        sled::{
            claim::queues::Queues,
            guard::guarded,
            keys::{self, QueueKey},
            rescue::witness::Unclosed,
            shared::{barrier::Barrier, commit_timer::CommitTimer},
        },
    },
};

/// The settings `outbox.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Size of sled's page cache, in bytes.
    pub cache_bytes: u64,
    /// Minimum free space on the data disk, in bytes.
    pub min_free_bytes: u64,
    /// Those of every store.
    pub common: Common,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cache_bytes: 67_108_864, min_free_bytes: 268_435_456, common: Common::default() }
    }
}

/// Maximum number of queue keys that are cached.
const KNOWN_QUEUES: usize = 4096;

/// The store and its shared memory.
pub(crate) struct Store {
    pub(crate) dir: PathBuf,
    pub(crate) db: Db,
    pub(crate) tree: Tree,
    pub(crate) salt: [u8; 16],
    pub(crate) queues: Queues,
    /// Commits from the apply on, for which reads wait.
    pub(crate) barrier: Barrier,
    /// Whole commits, which the health check times.
    pub(crate) commits: CommitTimer,
    pub(crate) known_queues: Mutex<DestinationMap<QueueKey>>,
    pub(crate) clock: SharedClock,
    pub(crate) settings: Settings,
    /// The last field, because fields are dropped in order, and sled must be closed first.
    pub(crate) unclosed: OnceLock<Unclosed>,
}

impl Store {
    /// The horizon at `now`.
    pub(crate) fn horizon(&self, now: Timestamp) -> Horizon {
        Horizon { now, latest: now.after(self.settings.common.longest_pause) }
    }

    /// The callback with its age counted from the last resume of its destination, if that is later and
    /// it is pending.
    pub(crate) fn with_resumed_age(&self, record: Record) -> Record {
        let queue = keys::parts(record.id).1;
        match self.queues.lock().queues.get(&queue) {
            Some(queue) if record.state_name() == StateName::Pending => {
                let budget_since = record.budget_since.max(queue.row.resumed_at);
                Record { budget_since, ..record }
            }
            _ => record,
        }
    }

    /// The queue of a destination. Its key is a hash that costs as much as a claim, so the recently
    /// used ones are cached.
    pub(crate) fn queue(&self, destination: &Destination) -> QueueKey {
        let mut known = self.known_queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = known.get(destination) {
            return *queue;
        }
        let queue = QueueKey::of(&self.salt, destination);
        if known.len() >= KNOWN_QUEUES {
            known.clear();
        }
        known.insert(destination.clone(), queue);
        queue
    }

    pub(crate) fn stopped(&self) -> Option<OutboxError> {
        let reason = self.queues.lock().broken.clone()?;
        Some(OutboxError::Stopped { dir: self.dir.clone(), reason })
    }

    /// Stops the store permanently. The first reason is kept.
    pub(crate) fn stop(&self, error: &OutboxError) -> OutboxError {
        let mut queues = self.queues.lock();
        let first = queues.broken.is_none();
        let describe = || match error {
            // A restart does not help if the same damage is read again.
            OutboxError::CorruptPage(_) | OutboxError::UnreadableRow { .. } => format!(
                "{error}. If it stops again, stop the service, `export --file callbacks.ndjson`, \
                 move {} away, and `import --file callbacks.ndjson`",
                self.dir.display()
            ),
            _ => error.to_string(),
        };
        let reason = queues.broken.get_or_insert_with(|| describe().into()).clone();
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

    /// Classifies an error of a read. sled also writes during reads, and after a failed write all its
    /// operations fail: then the store is stopped. Otherwise only the read has failed.
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

impl ClaimOwner for Store {
    fn release(&self, id: CallbackId, due: Timestamp) {
        let (seq, queue) = keys::parts(id);
        self.queues.release(queue, seq, due);
    }
}
