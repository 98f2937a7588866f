//! The order of a job's callbacks. The invariant is in [`transaction`](super::transaction).
//!
//! The job index contains all callbacks of a job until they are purged, so a search for pending ones
//! has to skip those that have ended. If there are many, it stores the position of the first pending
//! one, so that they are skipped only once.

use crate::outbox::{
    OutboxError,
    error::Result,
    sled::{
        commit::transaction::Transaction,
        keys::{self, QueueKey},
    },
    transition,
};

/// Number of ended callbacks skipped before the stored start position is read.
const PASSED: u32 = 4;

/// Number of ended callbacks skipped before a start position is stored.
const MANY_PASSED: u32 = 32;

impl Transaction<'_> {
    /// The first pending callback of a job, or the first one after `after`.
    pub(crate) fn first_pending(
        &mut self,
        job_id: &str,
        after: Option<u64>,
    ) -> Result<Option<(u64, QueueKey)>> {
        let job = keys::job_prefix(job_id);
        let mut at = after.map(|seq| keys::job(job_id, seq));
        let mut passed = 0;
        let mut begin = 0;
        let found = loop {
            let Some((key, value)) = self.writes.first_after(&job, at.as_deref())? else {
                break None;
            };
            let (seq, queue) = (keys::last_number(&key), QueueKey(keys::number(&value)));
            if self.shared.is_pending(queue, seq)? {
                break Some((seq, queue));
            }
            passed += 1;
            at = Some(key.to_vec());
            if passed == PASSED && after.is_none() {
                begin = self.job_begin(job_id)?;
                if begin > seq + 1 {
                    at = Some(keys::job(job_id, begin - 1));
                }
            }
        };
        if passed >= MANY_PASSED && after.is_none() {
            let last = at.as_deref().map_or(0, keys::last_number);
            let known = found.map_or(last + 1, |(seq, _)| seq);
            if known > begin {
                self.writes.put(keys::job_begin(job_id), &known.to_be_bytes());
            }
        }
        Ok(found)
    }

    /// The lower bound for the pending callbacks of a job.
    fn job_begin(&self, job_id: &str) -> Result<u64> {
        let row = self.writes.get(&keys::job_begin(job_id))?;
        Ok(row.map_or(0, |row| keys::number(&row)))
    }

    /// Lowers the stored start position of a job because this callback is pending again.
    pub(crate) fn lower_job_begin(&mut self, job_id: &str, seq: u64) -> Result<()> {
        if self.job_begin(job_id)? > seq {
            self.writes.put(keys::job_begin(job_id), &seq.to_be_bytes());
        }
        Ok(())
    }

    /// Activates the first pending callback of a job, if it is blocked.
    pub(crate) fn activate_first(&mut self, job_id: &str) -> Result<()> {
        // Usually nothing is blocked; the search would be a large part of a settlement's cost.
        if self.blocked == 0 {
            return Ok(());
        }
        while let Some((seq, queue)) = self.first_pending(job_id, None)? {
            let record = match self.shared.callback(seq) {
                Ok(Some(record)) => record,
                Ok(None) => {
                    // The job must not wait for a callback that does not exist.
                    tracing::error!(
                        event.action = "store-mended",
                        callback.id = %keys::id(seq, queue),
                        dpf.job_id = job_id,
                        "a pending callback had no record and was removed"
                    );
                    self.shared.remove_pending(queue, seq)?;
                    continue;
                }
                // A callback that cannot be read keeps its position, and its job is stuck.
                Err(OutboxError::UnreadableRow { .. }) => break,
                Err(error) => return Err(error),
            };
            if record.is_blocked() {
                self.mark(queue, seq, &record)?;
                self.take_pending(queue, &record)?;
                self.put_pending(queue, &transition::activate(record, self.now))?;
            }
            break;
        }
        Ok(())
    }

    /// Blocks the active callback of a job, because an earlier one was replayed. Returns `false` if it
    /// is claimed. The active callback need not be the first pending one: earlier ones may have been
    /// replayed while it was claimed.
    pub(crate) fn block_active(&mut self, job_id: &str) -> Result<bool> {
        let mut after = None;
        while let Some((seq, queue)) = self.first_pending(job_id, after)? {
            match self.shared.readable_pending(queue, seq)? {
                Some(record) if !record.is_blocked() => {
                    if !self.mark(queue, seq, &record)? {
                        return Ok(false);
                    }
                    self.take_pending(queue, &record)?;
                    self.put_pending(queue, &transition::block(record))?;
                    return Ok(true);
                }
                _ => after = Some(seq),
            }
        }
        Ok(true)
    }
}
