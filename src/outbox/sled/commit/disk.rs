//! The disk of the store: syncing, and free space.

use std::{fs::File, time::SystemTime};

use crate::outbox::{
    OutboxError,
    error::Result,
    sled::{fsync::sync_dir, rescue::witness::Witness, shared::store::Store},
};

/// The disk of the store.
pub(crate) struct Disk {
    dir: std::path::PathBuf,
    min_free: u64,
    log: Option<File>,
    blobs_synced: Option<SystemTime>,
    pub(crate) witness: Witness,
}

impl Disk {
    pub(crate) fn new(store: &Store, witness: Witness) -> Self {
        Self {
            witness,
            dir: store.dir.clone(),
            min_free: store.settings.min_free_bytes,
            log: None,
            blobs_synced: None,
        }
    }

    /// Syncs the log file, because `flush()` does not, and returns its length.
    pub(crate) fn sync(&mut self) -> std::io::Result<u64> {
        let log = match &mut self.log {
            Some(log) => log,
            none => none.insert(File::options().write(true).open(self.dir.join("db"))?),
        };
        log.sync_data()?;
        let len = log.metadata()?.len();
        // sled stores a value of 128 KiB or more in a separate file, and syncs it, but not its
        // directory entry.
        let blobs = self.dir.join("blobs");
        let changed = std::fs::metadata(&blobs).and_then(|it| it.modified()).ok();
        if changed != self.blobs_synced {
            sync_dir(&blobs)?;
            self.blobs_synced = changed;
        }
        Ok(len)
    }

    /// Records a clean close, now or when the store is dropped.
    pub(crate) fn close(self, store: &Store, batches: u64) {
        if let Some(unclosed) = self.witness.close(&self.dir, batches) {
            // It is set nowhere else.
            drop(store.unclosed.set(unclosed));
        }
    }

    pub(crate) fn free(&self) -> Result<()> {
        let free = fs4::available_space(&self.dir)
            .map_err(|error| OutboxError::Engine(error.to_string().into()))?;
        if free < self.min_free {
            return Err(OutboxError::DiskLow { free, min: self.min_free });
        }
        Ok(())
    }
}
