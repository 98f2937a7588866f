//! Putting back what was exported.

use super::{
    batch::Batch,
    keys::{self, LaneKey},
};
use crate::outbox::{
    Entry, ErrorKind, Failure, OutboxError, Place, Record, State, StateName, record, transition,
};

type Result<T> = std::result::Result<T, OutboxError>;

impl Batch<'_> {
    /// Stores an entry under its own id; `false` where what is stored is as new. In a store of
    /// another identity the id is another one, and the order stays.
    pub(super) fn restore(&mut self, entry: Entry) -> Result<bool> {
        let seq = keys::seq_of(entry.record.id);
        let lane = LaneKey::of(&self.store.salt, &entry.record.destination);
        let mut record = Record { id: keys::id(seq, lane), ..entry.record };
        if entry.uncertain && record.state_name() == StateName::Pending {
            let why = "recovered from a damaged store: whether it was delivered is not known";
            let failure = Failure::new(ErrorKind::Cancelled, why);
            record = transition::fail(record, None, failure, self.now);
        }
        if let Some(known) = self.stored(lane, seq)? {
            if age(&known) >= age(&record) {
                return Ok(false);
            }
            self.forget_version(lane, &known)?;
        }
        self.totals.next_seq = self.totals.next_seq.max(seq.saturating_add(1));
        if let Some(event_id) = &record.event_id {
            self.txn.put(keys::event(event_id), record::encode_row(&record.id)?);
        }
        for attempt in entry.attempts.iter().filter(|it| it.number < record.attempt_count) {
            self.txn.put(keys::attempt(seq, attempt.number), record::encode_row(attempt)?);
        }
        match record.state {
            State::Pending(place) => {
                let place = self.place(&record.body.job_id, seq, place)?;
                self.put_pending(lane, &Record { state: State::Pending(place), ..record })?;
            }
            State::Delivered(at) | State::Failed(at) => {
                let state = record.state_name();
                if state == StateName::Failed {
                    self.totals.failed += 1;
                    self.row(lane, &record.destination)?.failed += 1;
                } else {
                    self.totals.delivered += 1;
                }
                let ended = (keys::finished_prefix(state), at);
                self.restored.entry(ended).or_default().push(seq);
                self.txn.put_record(keys::finished(state, seq), &record)?;
            }
        }
        Ok(true)
    }

    /// Where a restored callback stands among those of its job that are there so far.
    fn place(&mut self, job_id: &str, seq: u64, place: Place) -> Result<Place> {
        let first = match self.txn.first(&keys::job_line(job_id))? {
            None => true,
            Some((key, _)) => keys::last_number(&key) > seq && self.block_active(job_id)?,
        };
        Ok(match (first, place) {
            (true, Place::Blocked(not_before)) => Place::Scheduled(not_before),
            (true, place) => place,
            (false, Place::Fresh) => Place::Blocked(self.now),
            (false, Place::Scheduled(at) | Place::Blocked(at)) => Place::Blocked(at),
        })
    }

    fn stored(&self, lane: LaneKey, seq: u64) -> Result<Option<Record>> {
        for key in [
            keys::pending(lane, seq),
            keys::finished(StateName::Delivered, seq),
            keys::finished(StateName::Failed, seq),
        ] {
            if let Some(record) = self.txn.record(&key)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Takes an older version away. What is left in the retention index says nothing of a
    /// version that ended at another time.
    fn forget_version(&mut self, lane: LaneKey, known: &Record) -> Result<()> {
        let state = known.state_name();
        match state {
            StateName::Pending => {
                self.take_pending(lane, known)?;
                self.activate_first(&known.body.job_id)?;
            }
            StateName::Delivered => self.totals.delivered -= 1,
            StateName::Failed => {
                self.totals.failed -= 1;
                let row = self.row(lane, &known.destination)?;
                row.failed = row.failed.saturating_sub(1);
            }
        }
        if state != StateName::Pending {
            self.txn.remove(keys::finished(state, keys::seq_of(known.id)));
        }
        Ok(())
    }
}

/// Which of two versions of a callback is the later one.
fn age(record: &Record) -> (u32, u32, bool) {
    (record.replays, record.attempt_count, record.state_name() != StateName::Pending)
}
