//! Windows of failures, which become notices.

use crate::outbox::{
    Record,
    error::Result,
    notice::FailureWindow,
    record,
    sled::{
        commit::transaction::Transaction,
        keys::{self, QueueKey},
        rows::{decode, readable},
    },
};

/// Maximum number of windows that one step turns into notices.
const STEP: usize = 512;

impl Transaction<'_> {
    /// Counts the failure of a callback in the window of its destination.
    pub(super) fn note_failure(&mut self, record: &Record) -> Result<()> {
        let store = self.store;
        let Some(notices) = &store.settings.common.notices else { return Ok(()) };
        let Some(new) = FailureWindow::of(record, self.now) else { return Ok(()) };
        let key = keys::window(keys::parts(record.id).1);
        let window = match self.window(&key)? {
            Some(window) if notices.is_over(&window, self.now) => {
                self.enqueue(notices.about(&window))?;
                new
            }
            Some(window) => window.with(new),
            None => new,
        };
        self.writes.put(key, record::encode(&window)?);
        Ok(())
    }

    /// Stores the notices about windows that are over, a bounded number, and returns how many.
    pub(crate) fn notify(&mut self) -> Result<u64> {
        let store = self.store;
        let Some(notices) = &store.settings.common.notices else { return Ok(0) };
        let mut stored = 0;
        for key in store.tree.scan_prefix(keys::WINDOWS).keys() {
            let key = keys::window(QueueKey(keys::last_number(&key?)));
            let Some(window) = self.window(&key)? else { continue };
            if notices.is_over(&window, self.now) {
                self.enqueue(notices.about(&window))?;
                self.writes.remove(key);
                stored += 1;
                if stored >= STEP {
                    break;
                }
            }
        }
        Ok(stored as u64)
    }

    /// A window that cannot be read is lost, and stops nothing.
    fn window(&self, key: &[u8]) -> Result<Option<FailureWindow>> {
        readable(self.writes.get(key)?.map(|bytes| decode(key, &bytes)).transpose())
    }
}
