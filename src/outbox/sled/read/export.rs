//! Export while the store is in use.
//!
//! A callback moves between ranges of rows when its state changes. So the export reads all ranges, and
//! then reads them again for callbacks that have changed their state since it began.

use crate::{
    clock::Timestamp,
    outbox::{
        Entry, ExportCursor, Exported, Record, StateName,
        error::Result,
        sled::{keys, read::lookup, rows::decode, shared::store::Store},
    },
};

/// Rows that one step reads.
const STEP: usize = 1000;

/// The passes: the range, and whether only callbacks count that changed since the beginning.
const PASSES: [(StateName, bool); 6] = [
    (StateName::Failed, false),
    (StateName::Delivered, false),
    (StateName::Pending, false),
    (StateName::Failed, true),
    (StateName::Delivered, true),
    (StateName::Pending, true),
];

/// One step.
pub(crate) fn step(store: &Store, cursor: &ExportCursor) -> Result<Exported> {
    let Some((state, changed)) = PASSES.get(usize::from(cursor.pass)).copied() else {
        return Ok(Exported::default());
    };
    let (began, batch) = match cursor.began {
        unset if unset == Timestamp::default() => {
            let (now, batch) = (store.clock.now(), store.queues.lock().totals.next_batch);
            // A commit in progress may have an earlier time, so it is waited for.
            store.commits.wait();
            (now, batch)
        }
        known => (known, cursor.batch),
    };
    let earliest = store.backward.earliest(batch, began);
    let prefix = match state {
        StateName::Pending => b'p',
        ended => keys::finished_prefix(ended),
    };
    let from = if cursor.after.is_empty() {
        vec![prefix]
    } else {
        // The next key after it.
        [cursor.after.as_slice(), &[0]].concat()
    };
    let mut entries = Vec::new();
    let mut last = None;
    for row in store.tree.range(from..vec![prefix + 1]).take(STEP) {
        let (key, bytes) = row?;
        let record: Record = decode(&key, &bytes)?;
        last = Some(key.to_vec());
        if !changed || changed_at(&record) >= earliest {
            let attempts = lookup::attempts(store, &record)?;
            entries.push(Entry { record, attempts, uncertain: false });
        }
    }
    let next = match last {
        Some(after) => Some(ExportCursor { pass: cursor.pass, after, began, batch }),
        None if usize::from(cursor.pass) + 1 < PASSES.len() => {
            Some(ExportCursor { pass: cursor.pass + 1, after: Vec::new(), began, batch })
        }
        None => None,
    };
    Ok(Exported { entries, next })
}

/// When the callback changed to its state.
fn changed_at(record: &Record) -> Timestamp {
    record.finished_at().unwrap_or(record.budget_since)
}
