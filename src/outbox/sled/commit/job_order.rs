//! The order of a job's callbacks. The invariant is in [`transaction`](super::transaction).

use crate::outbox::{
    Readiness, State,
    error::Result,
    sled::{
        commit::transaction::Transaction,
        keys::{self, QueueKey},
    },
    transition,
};

impl Transaction<'_> {
    /// Activates the first pending callback of a job, if it is blocked.
    pub(crate) fn activate_first(&mut self, job_id: &str) -> Result<()> {
        // Most jobs have no blocked callback, and a search would be a good part of a settlement's cost.
        if self.blocked == 0 {
            return Ok(());
        }
        while let Some((key, value)) = self.writes.first(&keys::job_prefix(job_id))? {
            let (seq, queue) = (keys::last_number(&key), QueueKey(keys::number(&value)));
            let pending = keys::pending(queue, seq);
            let Some(record) = self.writes.readable(&pending)? else {
                // A callback that cannot be read keeps its position: its job is stuck.
                if self.writes.get(&pending)?.is_some() {
                    break;
                }
                // The job must not wait for a callback that does not exist.
                tracing::error!(
                    event.action = "store-mended",
                    callback.id = %keys::id(seq, queue),
                    dpf.job_id = job_id,
                    "a row of the job index had no callback and was removed"
                );
                self.writes.remove(key.to_vec());
                continue;
            };
            if let State::Pending(Readiness::Blocked(_)) = record.state {
                self.mark(queue, seq, &record)?;
                self.take_pending(queue, &record)?;
                self.put_pending(queue, &transition::activate(record, self.now))?;
            }
            break;
        }
        Ok(())
    }

    /// Blocks the active callback of a job, because an earlier one was replayed. Returns `false` if it is
    /// claimed. It need not be the first one of the job: those before it were replayed while it was
    /// claimed.
    pub(crate) fn block_active(&mut self, job_id: &str) -> Result<bool> {
        let job = keys::job_prefix(job_id);
        let mut next = self.writes.first(&job)?;
        while let Some((key, value)) = next {
            let (seq, queue) = (keys::last_number(&key), QueueKey(keys::number(&value)));
            match self.writes.readable(&keys::pending(queue, seq))? {
                Some(record) if !matches!(record.state, State::Pending(Readiness::Blocked(_))) => {
                    if !self.mark(queue, seq, &record)? {
                        return Ok(false);
                    }
                    self.take_pending(queue, &record)?;
                    self.put_pending(queue, &transition::block(record))?;
                    return Ok(true);
                }
                _ => next = self.writes.first_behind(&job, Some(&key))?,
            }
        }
        Ok(true)
    }
}
