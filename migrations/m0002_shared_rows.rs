//! Format 2: callbacks stay where they were stored, and share rows; every callback is in the indexes of its
//! job and directory until it is purged.
//!
//! Each step moves some callbacks to their new rows, in one atomic batch that removes the old ones. So an
//! interrupted migration continues with the callbacks that are left.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::{Duration, Instant},
};

use sled::{IVec, Tree};

use super::{
    super::{
        blocks::{self, Pending},
        commit::{shared_rows::SharedRows, write_set::WriteSet},
        keys::{self, QueueKey},
        rows::{QueueRow, Records, Totals, decode},
    },
    format_1,
};
use crate::outbox::{Record, StateName, error::Result, record};

/// Callbacks, or destinations, that one step moves. Few enough that a step usually fits into one segment of
/// sled's log: of a batch over several segments, a power failure may leave a later one without an earlier
/// one, from which sled does not recover.
const STEP: usize = 256;

/// How often the progress is logged.
const REPORT: Duration = Duration::from_secs(2);

/// See `outbox/sled/migrate.rs` for what a migration can rely on.
pub(super) fn up(tree: &Tree, sync: &dyn Fn() -> Result<()>) -> Result<()> {
    let totals: Totals = match tree.get(keys::TOTALS)? {
        Some(bytes) => decode(keys::TOTALS, &bytes)?,
        // A new store.
        None => return Ok(()),
    };
    let all = totals.pending + totals.delivered + totals.failed;
    let (mut moved, mut reported) = (0, Instant::now());
    // Callbacks that an interrupted migration moved are not counted again.
    let report = |moved: u64| {
        tracing::info!(
            event.action = "store-migrating",
            callback.moved = moved,
            callback.count = all,
            "migrating the store to format 2: {moved} of {all} callbacks"
        );
    };
    report(0);
    let mut callbacks = InOrder::new(tree)?;
    loop {
        let step = move_callbacks(tree, &mut callbacks)?;
        if step == 0 {
            break;
        }
        sync()?;
        moved += step;
        if reported.elapsed() >= REPORT {
            report(moved);
            reported = Instant::now();
        }
    }
    let failed = failed(tree)?;
    while move_queues(tree, &failed)? > 0 {
        sync()?;
    }
    report(moved);
    Ok(())
}

/// The callbacks that are left, in order of acceptance, so that each shared row is written once: a merge of
/// the ranges that format 1 has for each destination and each state.
struct InOrder<'a> {
    tree: &'a Tree,
    /// The first callback of each range, and the prefix of the range.
    heads: BinaryHeap<Reverse<(u64, Vec<u8>)>>,
}

impl<'a> InOrder<'a> {
    fn new(tree: &'a Tree) -> Result<Self> {
        let mut ranges = vec![b"f".to_vec(), b"x".to_vec()];
        let mut from = b"p".to_vec();
        while let Some(row) = tree.range(from..b"q".to_vec()).next() {
            let queue = row?.0.get(..9).unwrap_or_default().to_vec();
            from = [queue.as_slice(), &[u8::MAX; 9]].concat();
            ranges.push(queue);
        }
        let mut heads = BinaryHeap::new();
        for range in ranges {
            if let Some(row) = tree.scan_prefix(&range).next() {
                heads.push(Reverse((keys::last_number(&row?.0), range)));
            }
        }
        Ok(Self { tree, heads })
    }

    fn next(&mut self) -> Result<Option<(IVec, IVec)>> {
        let Some(Reverse((seq, range))) = self.heads.pop() else { return Ok(None) };
        let first = [range.as_slice(), &seq.to_be_bytes()].concat();
        let last = [range.as_slice(), &u64::MAX.to_be_bytes()].concat();
        let mut rows = self.tree.range(first..=last);
        let row = rows.next().transpose()?;
        if let Some(next) = rows.next() {
            self.heads.push(Reverse((keys::last_number(&next?.0), range)));
        }
        Ok(row)
    }
}

/// Moves the next callbacks, and returns their number.
fn move_callbacks(tree: &Tree, callbacks: &mut InOrder<'_>) -> Result<u64> {
    let mut writes = WriteSet::new(tree);
    let mut shared = SharedRows::new(tree, u64::MAX);
    let mut moved = 0;
    while moved < STEP as u64
        && let Some((key, bytes)) = callbacks.next()?
    {
        moved += 1;
        writes.remove(key.to_vec());
        let Ok(record) = decode::<Record>(&key, &bytes) else {
            leave_out(tree, &mut writes, &key)?;
            continue;
        };
        let (seq, queue) = keys::parts(record.id);
        shared.put_record(&record)?;
        shared.insert(queue, &record)?;
        let value = queue.0.to_be_bytes();
        writes.put(keys::job(&record.body.job_id, seq), &value);
        writes.put(keys::directory(&record.body.job_id_fs, seq), &value);
    }
    if moved > 0 {
        shared.seal(&mut writes)?;
        tree.apply_batch(writes.into_batch())?;
    }
    Ok(moved)
}

/// A callback that cannot be read does not prevent the migration of others: it is left out and no longer
/// counted.
fn leave_out(tree: &Tree, writes: &mut WriteSet<'_>, key: &[u8]) -> Result<()> {
    tracing::error!(
        event.action = "callback-unreadable",
        callback.key = data_encoding::HEXLOWER.encode(key),
        "a stored callback cannot be read and is left out by the migration"
    );
    let mut totals: Totals = match writes.get(keys::TOTALS)? {
        Some(bytes) => decode(keys::TOTALS, &bytes)?,
        None => return Ok(()),
    };
    let count = match key.first() {
        Some(b'p') => &mut totals.pending,
        Some(b'f') => &mut totals.delivered,
        _ => &mut totals.failed,
    };
    *count = count.saturating_sub(1);
    writes.put(keys::TOTALS.to_vec(), record::encode(&totals)?);
    if key.first() != Some(&b'p') {
        return Ok(());
    }
    // Its row in the due index, if there is one, refers to nothing.
    let queue = QueueKey(keys::number(key.get(1..).unwrap_or_default()));
    let seq = keys::last_number(key);
    for row in tree.scan_prefix(keys::due_prefix(queue)) {
        let (due, _) = row?;
        if keys::last_number(&due) == seq {
            writes.remove(due.to_vec());
        }
    }
    Ok(())
}

/// Number of failed callbacks of each destination.
fn failed(tree: &Tree) -> Result<HashMap<QueueKey, u64>> {
    let mut count = HashMap::new();
    let mut records = Records::default();
    for row in tree.scan_prefix([keys::ended_prefix(StateName::Failed)]) {
        let (key, bytes) = row?;
        let [set] = blocks::decode_sets(&key, &bytes)?;
        for seq in set.members(keys::last_number(&key)) {
            if let Some(record) = records.get(tree, seq)? {
                *count.entry(keys::parts(record.id).1).or_default() += 1;
            }
        }
    }
    Ok(count)
}

/// The counters of a destination, counted again: a callback that was left out may have been one of them.
fn recounted(tree: &Tree, queue: QueueKey, row: QueueRow) -> Result<QueueRow> {
    let (mut pending, mut fresh) = (0, 0);
    for sets in tree.scan_prefix(keys::pending_prefix(queue)) {
        let (key, bytes) = sets?;
        let sets = Pending::decode(&key, &bytes)?;
        pending += sets.all().len();
        fresh += sets.fresh.len();
    }
    let scheduled = tree.scan_prefix(keys::due_prefix(queue)).count() as u64;
    Ok(QueueRow { pending, fresh, scheduled, ..row })
}

/// Moves some counters of destinations, and returns their number.
fn move_queues(tree: &Tree, failed: &HashMap<QueueKey, u64>) -> Result<u64> {
    let mut writes = WriteSet::new(tree);
    let mut moved = 0;
    for row in tree.scan_prefix(format_1::QUEUES).take(STEP) {
        let (key, bytes) = row?;
        let row: QueueRow = decode::<format_1::QueueRow>(&key, &bytes)?.into();
        let queue = QueueKey(keys::last_number(&key));
        let failed = failed.get(&queue).copied().unwrap_or_default();
        let row = recounted(tree, queue, QueueRow { failed, ..row })?;
        writes.put(keys::queue(queue), record::encode(&row)?);
        writes.remove(key.to_vec());
        moved += 1;
    }
    if moved > 0 {
        tree.apply_batch(writes.into_batch())?;
    }
    Ok(moved)
}
