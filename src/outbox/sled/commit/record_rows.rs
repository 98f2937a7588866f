//! The rows with the records of one block while a batch changes them.

use std::collections::BTreeMap;

use sled::Tree;

use crate::outbox::{
    error::Result,
    sled::{
        blocks::{self, RECORDS},
        commit::write_set::WriteSet,
        rows::{self, offset},
    },
};

/// The rows with the records of one block, by key.
#[derive(Default)]
pub(crate) struct RecordRows(BTreeMap<Vec<u8>, Row>);

#[derive(Default)]
struct Row {
    /// Positions in the block, and records.
    entries: Vec<(u8, Vec<u8>)>,
    changed: bool,
}

impl RecordRows {
    pub(crate) fn read(tree: &Tree, block: u64) -> Result<Self> {
        let mut rows = Self::default();
        // Rows that cannot be read are left unchanged.
        for (seq, (key, bytes)) in rows::entries_of(tree, block)?.0 {
            rows.0.entry(key).or_default().entries.push((offset(seq, RECORDS), bytes.to_vec()));
        }
        Ok(rows)
    }

    /// Replaces or removes the entry with this offset. Returns whether there is one.
    pub(crate) fn replace(&mut self, offset: u8, bytes: Option<&[u8]>) -> bool {
        for Row { entries, changed } in self.0.values_mut() {
            if let Some(at) = entries.iter().position(|(known, _)| *known == offset) {
                *changed = true;
                match bytes {
                    Some(bytes) => entries[at].1 = bytes.to_vec(),
                    None => drop(entries.remove(at)),
                }
                return true;
            }
        }
        false
    }

    pub(crate) fn add(&mut self, key: Vec<u8>, offset: u8, bytes: Vec<u8>) {
        let row = self.0.entry(key).or_default();
        row.entries.push((offset, bytes));
        row.changed = true;
    }

    pub(crate) fn write(self, writes: &mut WriteSet<'_>) {
        for (key, Row { entries, .. }) in self.0.into_iter().filter(|(_, row)| row.changed) {
            if entries.is_empty() {
                writes.remove(key);
                continue;
            }
            let mut row = blocks::new_row();
            entries.iter().for_each(|(offset, bytes)| blocks::add_entry(&mut row, *offset, bytes));
            writes.put(key, row);
        }
    }
}
