//! Import.

use crate::outbox::{
    Entry, ErrorKind, Failure, Readiness, Record, State, StateName,
    error::Result,
    record,
    sled::{
        commit::transaction::Transaction,
        keys::{self, QueueKey},
    },
    transition,
};

impl Transaction<'_> {
    /// Stores an entry under its own id. Returns `false` if the stored version is at least as new. In a
    /// store with another identity, the id changes and the order is kept.
    pub(crate) fn restore(&mut self, entry: Entry) -> Result<bool> {
        let seq = keys::seq_of(entry.record.id);
        let queue = self.store.queue(&entry.record.destination);
        let mut record = Record { id: keys::id(seq, queue), ..entry.record };
        if entry.uncertain && record.state_name() == StateName::Pending {
            let why = "recovered from a damaged store; it is unknown whether it was delivered";
            let failure = Failure::new(ErrorKind::Cancelled, why);
            record = transition::fail(record, None, failure, self.now);
        }
        if let Some(known) = self.shared.readable(seq)? {
            if age(&known) >= age(&record) {
                return Ok(false);
            }
            self.forget_version(queue, &known)?;
        }
        self.totals.next_seq = self.totals.next_seq.max(seq.saturating_add(1));
        self.put_indexes(queue, &record)?;
        for attempt in entry.attempts.iter().filter(|it| it.number < record.attempt_count) {
            self.writes.put(keys::attempt(seq, attempt.number), record::encode(attempt)?);
        }
        match record.state {
            State::Pending(place) => {
                let place = self.place(&record, place)?;
                let record = Record { state: State::Pending(place), ..record };
                self.shared.put_record(&record)?;
                self.lower_job_begin(&record.body.job_id, seq)?;
                self.put_pending(queue, &record)?;
            }
            State::Delivered(at) | State::Failed(at) => {
                let state = record.state_name();
                if state == StateName::Failed {
                    self.totals.failed += 1;
                    self.row(queue, &record.destination)?.failed += 1;
                } else {
                    self.totals.delivered += 1;
                }
                let ended = (state == StateName::Failed, at);
                self.restored.entry(ended).or_default().push(seq);
                self.shared.put_record(&record)?;
                self.shared.insert(queue, &record)?;
            }
        }
        Ok(true)
    }

    /// The readiness of an imported callback, given the callbacks of its job imported so far.
    fn place(&mut self, record: &Record, place: Readiness) -> Result<Readiness> {
        let (job_id, seq) = (&record.body.job_id, keys::seq_of(record.id));
        let first = match self.first_pending(job_id, None)? {
            None => true,
            Some((first, _)) => first > seq && self.block_active(job_id)?,
        };
        Ok(match (first, place) {
            (true, Readiness::Blocked(not_before)) => Readiness::Scheduled(not_before),
            (true, place) => place,
            (false, Readiness::Fresh) => Readiness::Blocked(self.now),
            (false, Readiness::Scheduled(at) | Readiness::Blocked(at)) => Readiness::Blocked(at),
        })
    }

    /// Removes an older version. Its entry in the retention index can stay; it is ignored because the
    /// end time differs.
    fn forget_version(&mut self, queue: QueueKey, known: &Record) -> Result<()> {
        let (state, seq) = (known.state_name(), keys::seq_of(known.id));
        match state {
            StateName::Pending => {
                self.take_pending(queue, known)?;
                self.activate_first(&known.body.job_id)?;
            }
            StateName::Delivered => {
                self.shared.remove_ended(state, seq)?;
                self.totals.delivered = self.totals.delivered.saturating_sub(1);
            }
            StateName::Failed => {
                self.shared.remove_ended(state, seq)?;
                self.totals.failed = self.totals.failed.saturating_sub(1);
                let row = self.row(queue, &known.destination)?;
                row.failed = row.failed.saturating_sub(1);
            }
        }
        Ok(())
    }
}

/// The age of a version: of two versions of a callback, the later one compares greater.
fn age(record: &Record) -> (u32, u32, bool) {
    (record.replays, record.attempt_count, record.state_name() != StateName::Pending)
}
