//! The line of a job: who goes next. The invariant is at the top of [`batch`](crate::outbox::sled::commit::transaction).

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
    /// The first of the job's line goes next.
    pub(crate) fn activate_first(&mut self, job_id: &str) -> Result<()> {
        // Most callbacks have none behind them, and to search a line is a good part of what a
        // settlement costs.
        if self.blocked == 0 {
            return Ok(());
        }
        while let Some((key, value)) = self.writes.first(&keys::job_prefix(job_id))? {
            let (seq, queue) = (keys::last_number(&key), QueueKey(keys::number(&value)));
            let Some(record) = self.writes.record(&keys::pending(queue, seq))? else {
                // The job must not wait for what is not there.
                tracing::error!(
                    event.action = "store-mended",
                    callback.id = %keys::id(seq, queue),
                    dpf.job_id = job_id,
                    "a row of the job's line had no callback and was removed"
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

    /// Blocks the active one of a job because an earlier one comes back; `false` where it is
    /// under way. It need not be the first of the line: those before it were replayed while it
    /// was under way.
    pub(crate) fn block_active(&mut self, job_id: &str) -> Result<bool> {
        let job = keys::job_prefix(job_id);
        let mut next = self.writes.first(&job)?;
        while let Some((key, value)) = next {
            let (seq, queue) = (keys::last_number(&key), QueueKey(keys::number(&value)));
            match self.writes.record(&keys::pending(queue, seq))? {
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
