//! Export while the store is in use.
//!
//! A callback's record is not moved until it is purged, so one pass over the records finds every
//! callback, in its state at some moment of the export.

use crate::outbox::{
    Entry, ExportCursor, Exported,
    error::Result,
    sled::{
        blocks::{self, RECORDS},
        keys,
        read::lookup,
        rows,
        shared::store::Store,
    },
};

/// Number of rows that one step reads.
const STEP: usize = 100;

/// One step.
pub(crate) fn step(store: &Store, cursor: &ExportCursor) -> Result<Exported> {
    let from = match cursor.after.as_slice() {
        [] => vec![keys::RECORD_PREFIX],
        // The first key after `after`.
        after => [after, &[0]].concat(),
    };
    let mut entries = Vec::new();
    let mut last = None;
    for row in store.tree.range(from..vec![keys::RECORD_PREFIX + 1]).take(STEP) {
        let (key, bytes) = row?;
        last = Some(key.to_vec());
        let first = keys::last_number(&key) / RECORDS * RECORDS;
        for entry in blocks::entries(&key, &bytes)? {
            let seq = first + u64::from(entry.offset);
            // It may have been purged since the row was read.
            let Some(record) = rows::callback(&store.tree, seq)? else { continue };
            let record = store.with_resumed_age(record);
            let attempts = lookup::attempts(store, &record)?;
            entries.push(Entry { record, attempts, uncertain: false });
        }
    }
    Ok(Exported { entries, next: last.map(|after| ExportCursor { after }) })
}
