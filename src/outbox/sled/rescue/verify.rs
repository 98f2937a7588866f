//! Verification: reads every row of a store once and checks that the rows are consistent. It runs only if
//! there is a reason.

use std::collections::HashMap;

use crate::outbox::{
    OutboxError, Readiness, Record, State,
    error::Result,
    sled::{
        keys::{self, QueueKey},
        rows::{QueueRow, Totals, decode},
    },
};

/// Verifies a store; the error says what is inconsistent.
pub(crate) fn run(tree: &sled::Tree) -> Result<()> {
    let inconsistent = |what: String| OutboxError::CorruptPage(what.into());
    let totals: Totals = match tree.get(keys::TOTALS)? {
        Some(bytes) => decode(keys::TOTALS, &bytes)?,
        None => Totals::default(),
    };
    let mut queues: HashMap<QueueKey, QueueRow> = HashMap::new();
    let mut count = [0_u64; 3];
    let mut due = 0_u64;
    for (state, prefix) in [b"p", b"f", b"x"].into_iter().enumerate() {
        for row in tree.scan_prefix(prefix) {
            let (key, bytes) = row?;
            let record: Record = decode(&key, &bytes)?;
            let (seq, queue) = keys::parts(record.id);
            count[state] += 1;
            let expected = match record.state {
                State::Pending(_) => keys::pending(queue, seq),
                _ => keys::finished(record.state_name(), seq),
            };
            if *key != expected[..] || seq >= totals.next_seq {
                return Err(inconsistent(format!("{} is stored under a wrong key", record.id)));
            }
            let own =
                queues.entry(queue).or_insert_with(|| QueueRow::new(record.destination.clone()));
            match record.state {
                State::Pending(place) => {
                    own.pending += 1;
                    if !tree.contains_key(keys::job(&record.body.job_id, seq))? {
                        return Err(inconsistent(format!("{} is not in the job index", record.id)));
                    }
                    match place {
                        Readiness::Fresh => own.fresh += 1,
                        Readiness::Scheduled(at) => {
                            own.scheduled += 1;
                            due += 1;
                            if !tree.contains_key(keys::due(queue, at, seq))? {
                                return Err(inconsistent(format!("{} is never due", record.id)));
                            }
                        }
                        Readiness::Blocked(_) => {}
                    }
                }
                State::Failed(_) => own.failed += 1,
                State::Delivered(_) => {}
            }
        }
    }
    if count != [totals.pending, totals.delivered, totals.failed] {
        return Err(inconsistent(format!(
            "there are {} pending, {} delivered and {} failed callbacks; expected {}, {} and {}",
            count[0], count[1], count[2], totals.pending, totals.delivered, totals.failed
        )));
    }
    check_jobs(tree)?;
    let in_line = tree.scan_prefix(b"j").count() as u64;
    let scheduled = tree.scan_prefix(b"d").count() as u64;
    if (in_line, scheduled) != (totals.pending, due) {
        return Err(inconsistent("the indexes are not consistent with the callbacks".into()));
    }
    for row in tree.scan_prefix(keys::QUEUES) {
        let (key, bytes) = row?;
        let stored: QueueRow = decode(&key, &bytes)?;
        let counted = queues.remove(&QueueKey(keys::last_number(&key)));
        let counted = counted.unwrap_or_else(|| QueueRow::new(stored.destination.clone()));
        if (QueueRow { hold_until: stored.hold_until, ..counted }) != stored {
            return Err(inconsistent(format!("the counters of {} are wrong", stored.destination)));
        }
    }
    match queues.into_values().find(|queue| queue.pending > 0 || queue.failed > 0) {
        Some(queue) => Err(inconsistent(format!("{} has no counters", queue.destination))),
        None => Ok(()),
    }
}

/// Of the pending callbacks of each job exactly one is active.
fn check_jobs(tree: &sled::Tree) -> Result<()> {
    let mut job: Option<(Vec<u8>, u64)> = None;
    let check = |job: Option<(Vec<u8>, u64)>| match job {
        Some((_, active)) if active != 1 => {
            let what = format!("a job has {active} active callbacks; expected one");
            Err(OutboxError::CorruptPage(what.into()))
        }
        _ => Ok(()),
    };
    for row in tree.scan_prefix(b"j") {
        let (key, value) = row?;
        let line = key[..key.len().saturating_sub(8)].to_vec();
        if job.as_ref().is_none_or(|(known, _)| *known != line) {
            check(job.replace((line, 0)))?;
        }
        let pending = keys::pending(QueueKey(keys::number(&value)), keys::last_number(&key));
        let Some(bytes) = tree.get(&pending)? else { continue };
        let record: Record = decode(&pending, &bytes)?;
        if let Some((_, active)) = &mut job {
            let blocked = matches!(record.state, State::Pending(Readiness::Blocked(_)));
            *active += u64::from(!blocked);
        }
    }
    check(job)
}
