//! Purge. The retention index has one row for each batch that ended callbacks, oldest first, so the
//! purge reads only callbacks whose retention is over.

use crate::{
    clock::Timestamp,
    outbox::{
        Over, StateName,
        error::Result,
        sled::{commit::transaction::Transaction, keys},
    },
};

/// Approximate number of callbacks that one step removes. Approximate because a row of the index is
/// always processed as a whole.
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
                let ended_at = keys::ended_time(&key);
                if ended_at > cutoff {
                    break;
                }
                for seq in seqs.chunks_exact(8).map(keys::number) {
                    purged += u64::from(self.forget(state, seq, ended_at)?);
                }
                self.writes.remove(key.to_vec());
            }
        }
        Ok(purged)
    }

    fn forget(&mut self, state: StateName, seq: u64, ended_at: Timestamp) -> Result<bool> {
        let Some(record) = self.shared.readable(seq)? else {
            return self.forget_unreadable(state, seq);
        };
        // It was replayed and ended again, so a later row of the index lists it.
        if record.state_name() != state || record.ended_at() != Some(ended_at) {
            return Ok(false);
        }
        self.remove(state, seq)?;
        if let Some(event_id) = &record.event_id {
            self.writes.remove(keys::event(event_id));
        }
        self.writes.remove(keys::directory(&record.body.job_id_fs, seq));
        let job_id = &record.body.job_id;
        self.writes.remove(keys::job(job_id, seq));
        if self.writes.first(&keys::job_prefix(job_id))?.is_none()
            && self.writes.get(&keys::job_begin(job_id))?.is_some()
        {
            self.writes.remove(keys::job_begin(job_id));
        }
        if record.attempt_count > 1 {
            self.forget_attempts(seq)?;
        }
        if state == StateName::Failed {
            let row = self.row(keys::parts(record.id).1, &record.destination)?;
            row.failed = row.failed.saturating_sub(1);
        }
        Ok(true)
    }

    /// Removes a record that cannot be read, so that it is not kept for ever. Its event id, its rows in
    /// the indexes and the counter of its destination are unknown and stay.
    fn forget_unreadable(&mut self, state: StateName, seq: u64) -> Result<bool> {
        if !self.shared.is_ended(state, seq)? {
            return Ok(false);
        }
        self.remove(state, seq)?;
        self.forget_attempts(seq)?;
        Ok(true)
    }

    fn remove(&mut self, state: StateName, seq: u64) -> Result<()> {
        self.shared.remove(seq);
        self.shared.remove_ended(state, seq)?;
        let total = match state {
            StateName::Failed => &mut self.totals.failed,
            _ => &mut self.totals.delivered,
        };
        *total = total.saturating_sub(1);
        Ok(())
    }

    fn forget_attempts(&mut self, seq: u64) -> Result<()> {
        for row in self.store.tree.scan_prefix(keys::attempts(seq)) {
            self.writes.remove(row?.0.to_vec());
        }
        Ok(())
    }
}
