//! Verification: reads every row of a store once and checks that the rows are consistent. It runs only if
//! there is a reason.

use std::collections::HashMap;

use sled::Tree;

use crate::outbox::{
    OutboxError, Readiness, Record, State, StateName,
    error::Result,
    sled::{
        blocks::{self, Pending, RECORDS, SET},
        keys::{self, QueueKey},
        migrate::format_1,
        rows::{self, QueueRow, Totals, decode},
    },
};

/// The totals of the callbacks.
#[derive(Default)]
struct Counted {
    queues: HashMap<QueueKey, QueueRow>,
    /// Pending, delivered and failed, in this format.
    states: [u64; 3],
    /// The same in format 1, before or during the migration.
    old_states: [u64; 3],
    due: u64,
    /// Active callbacks of each job with pending ones.
    active: HashMap<String, u64>,
}

/// Verifies a store; the error describes the inconsistency.
pub(crate) fn run(tree: &Tree) -> Result<()> {
    let totals: Totals = match tree.get(keys::TOTALS)? {
        Some(bytes) => decode(keys::TOTALS, &bytes)?,
        None => Totals::default(),
    };
    let mut counted = Counted::default();
    for row in tree.scan_prefix([keys::RECORD_PREFIX]) {
        let (key, bytes) = row?;
        let first = keys::last_number(&key) / RECORDS * RECORDS;
        for entry in blocks::entries(&key, &bytes)? {
            let seq = first + u64::from(entry.offset);
            let Some(record) = rows::callback(tree, seq)? else { continue };
            if keys::seq_of(record.id) != seq || seq >= totals.next_seq {
                return Err(wrong_key(&record));
            }
            check_one(tree, &record, &mut counted)?;
        }
    }
    for (at, prefix) in format_1::RECORDS.into_iter().enumerate() {
        for row in tree.scan_prefix([prefix]) {
            let (key, bytes) = row?;
            let record: Record = decode(&key, &bytes)?;
            if *key != format_1::key_of(&record)[..] || keys::seq_of(record.id) >= totals.next_seq {
                return Err(wrong_key(&record));
            }
            counted.old_states[at] += 1;
            count(tree, &record, &mut counted)?;
        }
    }
    let stored = [totals.pending, totals.delivered, totals.failed];
    let found: [u64; 3] = std::array::from_fn(|at| counted.states[at] + counted.old_states[at]);
    if found != stored {
        return Err(inconsistent(format!(
            "there are {} pending, {} delivered and {} failed callbacks; expected {}, {} and {}",
            found[0], found[1], found[2], stored[0], stored[1], stored[2]
        )));
    }
    if let Some((job_id, active)) = counted.active.iter().find(|(_, active)| **active != 1) {
        return Err(inconsistent(format!(
            "job {job_id:?} has {active} active callbacks; expected one"
        )));
    }
    let sets = [
        count_pending(tree)?,
        count_ended(tree, StateName::Delivered)?,
        count_ended(tree, StateName::Failed)?,
    ];
    let scheduled = tree.scan_prefix(b"d").count() as u64;
    if sets != counted.states || scheduled != counted.due {
        return Err(inconsistent("the indexes are not consistent with the callbacks".into()));
    }
    check_queues(tree, counted.queues)
}

fn wrong_key(record: &Record) -> OutboxError {
    inconsistent(format!("{} is stored under a wrong key", record.id))
}

fn inconsistent(what: String) -> OutboxError {
    OutboxError::CorruptPage(what.into())
}

/// Checks that a callback is in its set and indexes, and counts it.
fn check_one(tree: &Tree, record: &Record, counted: &mut Counted) -> Result<()> {
    let (seq, queue) = keys::parts(record.id);
    if !tree.contains_key(keys::job(&record.body.job_id, seq))? {
        return Err(missing(record, "in the job index"));
    }
    if !tree.contains_key(keys::directory(&record.body.job_id_fs, seq))? {
        return Err(missing(record, "in the directory index"));
    }
    match record.state {
        State::Pending(readiness) => {
            counted.states[0] += 1;
            let pending = rows::pending(tree, queue, seq / SET)?;
            let (fresh, other) = (pending.fresh.contains(seq), pending.others.contains(seq));
            if (fresh, other) != (readiness == Readiness::Fresh, readiness != Readiness::Fresh) {
                return Err(missing(record, "among the pending callbacks of its destination"));
            }
        }
        State::Delivered(_) | State::Failed(_) => {
            let state = record.state_name();
            counted.states[if state == StateName::Failed { 2 } else { 1 }] += 1;
            if !rows::ended(tree, state, seq / SET)?.contains(seq) {
                return Err(missing(record, "among the callbacks that ended"));
            }
        }
    }
    count(tree, record, counted)
}

/// Counts a callback, and checks that it is in the due index or job index if it is pending.
fn count(tree: &Tree, record: &Record, counted: &mut Counted) -> Result<()> {
    let (seq, queue) = keys::parts(record.id);
    let own =
        counted.queues.entry(queue).or_insert_with(|| QueueRow::new(record.destination.clone()));
    let State::Pending(readiness) = record.state else {
        own.failed += u64::from(record.state_name() == StateName::Failed);
        return Ok(());
    };
    own.pending += 1;
    if !tree.contains_key(keys::job(&record.body.job_id, seq))? {
        return Err(missing(record, "in the job index"));
    }
    let active = counted.active.entry(record.body.job_id.clone()).or_default();
    match readiness {
        Readiness::Fresh => {
            *active += 1;
            own.fresh += 1;
        }
        Readiness::Scheduled(at) => {
            *active += 1;
            own.scheduled += 1;
            counted.due += 1;
            if !tree.contains_key(keys::due(queue, at, seq))? {
                return Err(missing(record, "in the due index"));
            }
        }
        Readiness::Blocked(_) => {}
    }
    Ok(())
}

fn missing(record: &Record, what: &str) -> OutboxError {
    inconsistent(format!("{} is not {what}", record.id))
}

fn count_pending(tree: &Tree) -> Result<u64> {
    tree.scan_prefix(b"b").try_fold(0, |count, row| {
        let (key, bytes) = row?;
        Ok(count + Pending::decode(&key, &bytes)?.all().len())
    })
}

fn count_ended(tree: &Tree, state: StateName) -> Result<u64> {
    tree.scan_prefix([keys::ended_prefix(state)]).try_fold(0, |count, row| {
        let (key, bytes) = row?;
        let [set] = blocks::decode_sets(&key, &bytes)?;
        Ok(count + set.len())
    })
}

/// Checks the counters of each destination.
fn check_queues(tree: &Tree, mut queues: HashMap<QueueKey, QueueRow>) -> Result<()> {
    let old = tree.scan_prefix(format_1::QUEUES);
    for row in tree.scan_prefix(keys::QUEUES).chain(old) {
        let (key, bytes) = row?;
        let stored: QueueRow = if key.starts_with(keys::QUEUES) {
            decode(&key, &bytes)?
        } else {
            decode::<format_1::QueueRow>(&key, &bytes)?.into()
        };
        let counted = queues.remove(&QueueKey(keys::last_number(&key)));
        let counted = counted.unwrap_or_else(|| QueueRow::new(stored.destination.clone()));
        let expected = QueueRow {
            hold_until: stored.hold_until,
            paused_at: stored.paused_at,
            resumed_at: stored.resumed_at,
            ..counted
        };
        if expected != stored {
            return Err(inconsistent(format!("the counters of {} are wrong", stored.destination)));
        }
    }
    match queues.into_values().find(|queue| queue.pending > 0 || queue.failed > 0) {
        Some(queue) => Err(inconsistent(format!("{} has no counters", queue.destination))),
        None => Ok(()),
    }
}
