//! Format 2: callbacks stay where they were stored, and share rows; every callback is in the indexes of its
//! job and directory until it is purged.
//!
//! Each step moves some callbacks to their new rows, in one atomic batch that removes the old ones. So an
//! interrupted migration continues with the callbacks that are left.

use std::time::{Duration, Instant};

use sled::Tree;

use super::{
    super::{
        commit::{shared_rows::SharedRows, write_set::WriteSet},
        keys::{self, QueueKey},
        rows::{QueueRow, Totals, decode},
    },
    format_1,
};
use crate::outbox::{Record, error::Result, record};

/// Callbacks, or destinations, that one step moves.
const STEP: usize = 4096;

/// How often the progress is logged.
const REPORT: Duration = Duration::from_secs(2);

/// See `outbox/sled/migrate.rs` for what a migration can rely on.
pub(super) fn up(tree: &Tree) -> Result<()> {
    let totals: Totals = match tree.get(keys::TOTALS)? {
        Some(bytes) => decode(keys::TOTALS, &bytes)?,
        // A new store.
        None => return Ok(()),
    };
    let all = totals.pending + totals.delivered + totals.failed;
    let (mut moved, mut reported) = (0, Instant::now());
    let report = |moved: u64| {
        tracing::info!(
            event.action = "store-migrating",
            callback.moved = moved,
            callback.count = all,
            "migrating the store to format 2: {moved} of {all} callbacks"
        );
    };
    report(0);
    for prefix in format_1::RECORDS {
        loop {
            let step = move_callbacks(tree, prefix, STEP)?;
            if step == 0 {
                break;
            }
            moved += step;
            if reported.elapsed() >= REPORT {
                report(moved);
                reported = Instant::now();
            }
        }
    }
    while move_queues(tree)? > 0 {}
    report(moved);
    Ok(())
}

/// Moves at most `step` callbacks, and returns their number.
fn move_callbacks(tree: &Tree, prefix: u8, step: usize) -> Result<u64> {
    let mut writes = WriteSet::new(tree);
    let mut shared = SharedRows::new(tree, u64::MAX);
    let mut moved = 0;
    for row in tree.scan_prefix([prefix]).take(step) {
        let (key, bytes) = row?;
        let record: Record = decode(&key, &bytes)?;
        let (seq, queue) = keys::parts(record.id);
        shared.put_record(&record)?;
        shared.insert(queue, &record)?;
        let value = queue.0.to_be_bytes();
        writes.put(keys::job(&record.body.job_id, seq), &value);
        writes.put(keys::directory(&record.body.job_id_fs, seq), &value);
        writes.remove(key.to_vec());
        moved += 1;
    }
    if moved > 0 {
        shared.seal(&mut writes)?;
        tree.apply_batch(writes.into_batch())?;
        tree.flush()?;
    }
    Ok(moved)
}

/// Moves some counters of destinations, and returns their number.
fn move_queues(tree: &Tree) -> Result<u64> {
    let mut writes = WriteSet::new(tree);
    let mut moved = 0;
    for row in tree.scan_prefix(format_1::QUEUES).take(STEP) {
        let (key, bytes) = row?;
        let old: format_1::QueueRow = decode(&key, &bytes)?;
        let new = QueueRow {
            destination: old.destination,
            pending: old.pending,
            fresh: old.fresh,
            scheduled: old.scheduled,
            failed: old.failed,
            hold_until: old.hold_until,
            paused_at: None,
        };
        let queue = QueueKey(keys::last_number(&key));
        writes.put(keys::queue(queue), record::encode_row(&new)?);
        writes.remove(key.to_vec());
        moved += 1;
    }
    if moved > 0 {
        tree.apply_batch(writes.into_batch())?;
        tree.flush()?;
    }
    Ok(moved)
}
