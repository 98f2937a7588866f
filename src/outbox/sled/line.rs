//! The line of a job: who goes next. The invariant is at the top of [`batch`](super::batch).

use super::{
    batch::Batch,
    keys::{self, LaneKey},
};
use crate::outbox::{OutboxError, Place, State, transition};

type Result<T> = std::result::Result<T, OutboxError>;

impl Batch<'_> {
    /// The first of the job's line goes next.
    pub(super) fn activate_first(&mut self, job_id: &str) -> Result<()> {
        // Most callbacks have none behind them, and to search a line is a good part of what a
        // settlement costs.
        if self.blocked == 0 {
            return Ok(());
        }
        while let Some((key, value)) = self.txn.first(&keys::job_line(job_id))? {
            let (seq, lane) = (keys::last_number(&key), LaneKey(keys::number(&value)));
            let Some(record) = self.txn.record(&keys::pending(lane, seq))? else {
                // The job must not wait for what is not there.
                tracing::error!(
                    event.action = "store-mended",
                    callback.id = %keys::id(seq, lane),
                    dpf.job_id = job_id,
                    "a row of the job's line had no callback and was removed"
                );
                self.txn.remove(key.to_vec());
                continue;
            };
            if let State::Pending(Place::Blocked(_)) = record.state {
                self.mark(lane, seq, &record)?;
                self.take_pending(lane, &record)?;
                self.put_pending(lane, &transition::activate(record, self.now))?;
            }
            break;
        }
        Ok(())
    }

    /// Blocks the active one of a job because an earlier one comes back; `false` where it is
    /// under way. It need not be the first of the line: those before it were replayed while it
    /// was under way.
    pub(super) fn block_active(&mut self, job_id: &str) -> Result<bool> {
        let job = keys::job_line(job_id);
        let mut next = self.txn.first(&job)?;
        while let Some((key, value)) = next {
            let (seq, lane) = (keys::last_number(&key), LaneKey(keys::number(&value)));
            match self.txn.record(&keys::pending(lane, seq))? {
                Some(record) if !matches!(record.state, State::Pending(Place::Blocked(_))) => {
                    if !self.mark(lane, seq, &record)? {
                        return Ok(false);
                    }
                    self.take_pending(lane, &record)?;
                    self.put_pending(lane, &transition::block(record))?;
                    return Ok(true);
                }
                _ => next = self.txn.first_behind(&job, Some(&key))?,
            }
        }
        Ok(true)
    }
}
