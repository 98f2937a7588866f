//! Purge. The retention index has one row for each batch that ended callbacks, oldest first, so the purge
//! reads nothing whose retention is not over.

use crate::{
    clock::Timestamp,
    outbox::{
        Over, StateName,
        error::Result,
        sled::{commit::transaction::Transaction, keys},
    },
};

/// Approximate number of callbacks that one step removes: a row of the index is not divided.
const PURGE_STEP: u64 = 512;

impl Transaction<'_> {
    /// Removes ended callbacks whose retention is over.
    pub(crate) fn purge(&mut self, over: Over) -> Result<u64> {
        let mut purged = 0;
        for (state, cutoff) in
            [(StateName::Delivered, over.delivered), (StateName::Failed, over.failed)]
        {
            while purged < PURGE_STEP {
                let Some((key, seqs)) = self.writes.first(&keys::retention(state))? else { break };
                let finished_at = keys::finished_time(&key);
                if finished_at > cutoff {
                    break;
                }
                for seq in seqs.chunks_exact(8).map(keys::number) {
                    purged += u64::from(self.forget(state, seq, finished_at)?);
                }
                self.writes.remove(key.to_vec());
            }
        }
        Ok(purged)
    }

    fn forget(&mut self, state: StateName, seq: u64, finished_at: Timestamp) -> Result<bool> {
        let key = keys::finished(state, seq);
        let Some(record) = self.writes.readable(&key)? else {
            return self.forget_unreadable(state, key, seq);
        };
        // It was replayed and has ended again: a later row of the index has it.
        if record.finished_at() != Some(finished_at) {
            return Ok(false);
        }
        self.writes.remove(key);
        if let Some(event_id) = &record.event_id {
            self.writes.remove(keys::event(event_id));
        }
        if record.attempt_count > 1 {
            self.forget_attempts(seq)?;
        }
        if state == StateName::Failed {
            self.totals.failed -= 1;
            let row = self.row(keys::parts(record.id).1, &record.destination)?;
            row.failed = row.failed.saturating_sub(1);
        } else {
            self.totals.delivered -= 1;
        }
        Ok(true)
    }

    /// Removes a record that cannot be read, so that it does not stay for ever. Its event id and the
    /// counter of its destination are unknown and stay.
    fn forget_unreadable(&mut self, state: StateName, key: Vec<u8>, seq: u64) -> Result<bool> {
        if self.writes.get(&key)?.is_none() {
            return Ok(false);
        }
        self.writes.remove(key);
        self.forget_attempts(seq)?;
        match state {
            StateName::Failed => self.totals.failed = self.totals.failed.saturating_sub(1),
            _ => self.totals.delivered = self.totals.delivered.saturating_sub(1),
        }
        Ok(true)
    }

    fn forget_attempts(&mut self, seq: u64) -> Result<()> {
        for row in self.store.tree.scan_prefix(keys::attempts(seq)) {
            self.writes.remove(row?.0.to_vec());
        }
        Ok(())
    }
}
