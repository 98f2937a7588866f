//! The part of a batch that changes rows shared by many callbacks: records, progress and sets. Changes
//! are collected here, and each row is written once, when the batch is sealed.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map};

use foldhash::fast::RandomState;
use sled::Tree;

use crate::outbox::{
    Record, State, StateName,
    error::Result,
    record,
    sled::{
        blocks::{self, PROGRESS, PROGRESS_LEN, Pending, RECORDS, SET, Set},
        commit::{record_rows::RecordRows, write_set::WriteSet},
        keys::{self, QueueKey},
        rows::{self, Records, decode, offset},
    },
};

/// Maximum size of the records in a row. (sled stores values of 128 KiB and more in separate files.)
const ROW_BYTES: usize = 8192;

/// A progress above this size has its own row, so that it is not rewritten whenever a neighbour
/// changes.
const LARGE_PROGRESS: usize = 2048;

/// A set, and whether this batch has changed it.
#[derive(Debug, Default)]
struct Cached<T> {
    set: T,
    changed: bool,
}

/// Changes of shared rows.
///
/// A shared row that cannot be read does not stop the store: a set or progress row is rewritten with
/// the changes of this batch, and the search for stuck callbacks completes the sets; a row of records
/// stays unchanged.
pub(crate) struct SharedRows<'a> {
    tree: &'a Tree,
    /// The first seq that is not stored yet.
    first_new: u64,
    /// By seq. `None`: removed.
    records: BTreeMap<u64, Option<Vec<u8>>>,
    progress: BTreeMap<u64, Option<Vec<u8>>>,
    pending: HashMap<(QueueKey, u64), Cached<Pending>, RandomState>,
    ended: HashMap<(u8, u64), Cached<Set>, RandomState>,
    reader: Records,
}

impl<'a> SharedRows<'a> {
    pub(crate) fn new(tree: &'a Tree, first_new: u64) -> Self {
        Self {
            tree,
            first_new,
            records: BTreeMap::new(),
            progress: BTreeMap::new(),
            pending: HashMap::default(),
            ended: HashMap::default(),
            reader: Records::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.progress.is_empty()
            && self.pending.values().all(|it| !it.changed)
            && self.ended.values().all(|it| !it.changed)
    }

    /// Whether a callback with this seq can be stored already.
    fn may_be_stored(&self, seq: u64) -> bool {
        seq < self.first_new
    }

    /// Stores a callback as a whole.
    pub(crate) fn put_record(&mut self, record: &Record) -> Result<()> {
        let seq = keys::seq_of(record.id);
        self.records.insert(seq, Some(record::encode(record)?));
        if self.may_be_stored(seq) {
            self.progress.insert(seq, None);
        }
        Ok(())
    }

    /// Stores the progress of a callback, or the whole record if it is new in this batch.
    pub(crate) fn put(&mut self, record: &Record) -> Result<()> {
        let seq = keys::seq_of(record.id);
        if !self.may_be_stored(seq) || self.records.contains_key(&seq) {
            return self.put_record(record);
        }
        self.progress.insert(seq, Some(record::encode(&record.progress())?));
        Ok(())
    }

    /// Removes a callback.
    pub(crate) fn remove(&mut self, seq: u64) {
        self.records.insert(seq, None);
        self.progress.insert(seq, None);
    }

    /// A callback, with the changes so far.
    pub(crate) fn callback(&mut self, seq: u64) -> Result<Option<Record>> {
        let record = match self.records.get(&seq) {
            Some(changed) => match changed {
                Some(bytes) => decode(&keys::record(seq), bytes)?,
                None => return Ok(None),
            },
            None => match self.reader.get(self.tree, seq)? {
                Some(record) => record,
                None => return Ok(None),
            },
        };
        let progress = match self.progress.get(&seq) {
            Some(Some(bytes)) => Some(decode(&keys::progress(seq), bytes)?),
            Some(None) => None,
            None => rows::progress(self.tree, seq)?,
        };
        Ok(Some(record.with(progress)))
    }

    /// The same, or `None` if it cannot be read. An error would stop the store, and one damaged row
    /// must not stop all other callbacks.
    pub(crate) fn readable(&mut self, seq: u64) -> Result<Option<Record>> {
        rows::readable(self.callback(seq))
    }

    /// The same, if it is pending in this queue.
    pub(crate) fn readable_pending(&mut self, queue: QueueKey, seq: u64) -> Result<Option<Record>> {
        let found = self.readable(seq)?;
        Ok(found.filter(|record| {
            keys::parts(record.id).1 == queue && record.state_name() == StateName::Pending
        }))
    }

    fn pending_of(&mut self, queue: QueueKey, seq: u64) -> Result<&mut Cached<Pending>> {
        let block = seq / SET;
        Ok(match self.pending.entry((queue, block)) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(place) => {
                let set = if block * SET >= self.first_new {
                    Pending::default()
                } else {
                    rows::or_empty(rows::pending(self.tree, queue, block))?
                };
                place.insert(Cached { set, changed: false })
            }
        })
    }

    /// The pending callbacks of the block of `seq`.
    pub(crate) fn pending(&mut self, queue: QueueKey, seq: u64) -> Result<Pending> {
        self.pending_of(queue, seq).map(|it| it.set)
    }

    pub(crate) fn is_pending(&mut self, queue: QueueKey, seq: u64) -> Result<bool> {
        Ok(self.pending_of(queue, seq)?.set.contains(seq))
    }

    fn ended_of(&mut self, state: StateName, seq: u64) -> Result<&mut Cached<Set>> {
        let block = seq / SET;
        Ok(match self.ended.entry((keys::ended_prefix(state), block)) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(place) => {
                let set = rows::or_empty(rows::ended(self.tree, state, block))?;
                place.insert(Cached { set, changed: false })
            }
        })
    }

    /// Adds a callback to the set of its state.
    pub(crate) fn insert(&mut self, queue: QueueKey, record: &Record) -> Result<()> {
        let seq = keys::seq_of(record.id);
        match record.state {
            State::Pending(readiness) => {
                let it = self.pending_of(queue, seq)?;
                it.changed = true;
                match readiness {
                    record::Readiness::Fresh => it.set.fresh.insert(seq),
                    _ => it.set.others.insert(seq),
                };
            }
            State::Delivered(_) | State::Failed(_) => {
                let it = self.ended_of(record.state_name(), seq)?;
                it.changed = true;
                it.set.insert(seq);
            }
        }
        Ok(())
    }

    /// Adds an ended callback to its set, if it is not in it. Returns whether it was missing.
    pub(crate) fn insert_if_missing(&mut self, queue: QueueKey, record: &Record) -> Result<bool> {
        if self.is_ended(record.state_name(), keys::seq_of(record.id))? {
            return Ok(false);
        }
        self.insert(queue, record)?;
        Ok(true)
    }

    /// The blocks with pending callbacks of a queue.
    pub(crate) fn blocks_of(&self, queue: QueueKey) -> Result<BTreeSet<u64>> {
        let mut blocks: BTreeSet<u64> =
            self.pending.keys().filter(|(of, _)| *of == queue).map(|(_, block)| *block).collect();
        for row in self.tree.scan_prefix(keys::pending_prefix(queue)) {
            blocks.insert(keys::last_number(&row?.0));
        }
        Ok(blocks)
    }

    /// Removes a callback from the set of pending ones.
    pub(crate) fn remove_pending(&mut self, queue: QueueKey, seq: u64) -> Result<()> {
        let it = self.pending_of(queue, seq)?;
        it.changed = true;
        it.set.fresh.remove(seq);
        it.set.others.remove(seq);
        Ok(())
    }

    /// Removes a callback from the set of those that ended in this state.
    pub(crate) fn remove_ended(&mut self, state: StateName, seq: u64) -> Result<()> {
        let it = self.ended_of(state, seq)?;
        it.changed = true;
        it.set.remove(seq);
        Ok(())
    }

    /// Whether a callback is in the set of those that ended in this state.
    pub(crate) fn is_ended(&mut self, state: StateName, seq: u64) -> Result<bool> {
        Ok(self.ended_of(state, seq)?.set.contains(seq))
    }

    /// Writes the rows.
    pub(crate) fn seal(&mut self, writes: &mut WriteSet<'_>) -> Result<()> {
        for ((queue, block), it) in self.pending.drain().filter(|(_, it)| it.changed) {
            let key = keys::pending(queue, block);
            if it.set == Pending::default() {
                writes.remove(key);
            } else {
                writes.put(key, it.set.encode());
            }
        }
        for ((prefix, block), it) in self.ended.drain().filter(|(_, it)| it.changed) {
            let state = if prefix == keys::ended_prefix(StateName::Failed) {
                StateName::Failed
            } else {
                StateName::Delivered
            };
            let key = keys::ended(state, block);
            if it.set.is_empty() {
                writes.remove(key);
            } else {
                writes.put(key, blocks::encode_sets([&it.set]));
            }
        }
        self.seal_records(writes)?;
        self.seal_progress(writes)
    }

    /// A record never moves to another row; a reader that scans the rows could miss one that moves
    /// backward.
    fn seal_records(&mut self, writes: &mut WriteSet<'_>) -> Result<()> {
        let changes = std::mem::take(&mut self.records);
        let mut changes = changes.into_iter().peekable();
        while let Some(block) = changes.peek().map(|(seq, _)| seq / RECORDS) {
            let mut rows = None;
            let mut new: Vec<(u64, Vec<u8>)> = Vec::new();
            while let Some((seq, bytes)) = changes.next_if(|(seq, _)| seq / RECORDS == block) {
                if !self.may_be_stored(seq) {
                    new.extend(bytes.map(|bytes| (seq, bytes)));
                    continue;
                }
                let rows = match &mut rows {
                    Some(rows) => rows,
                    none => none.insert(RecordRows::read(self.tree, block)?),
                };
                if !rows.replace(offset(seq, RECORDS), bytes.as_deref()) {
                    new.extend(bytes.map(|bytes| (seq, bytes)));
                }
            }
            let mut rows = rows.unwrap_or_default();
            let mut row: Option<(u64, usize)> = None;
            for (seq, bytes) in new {
                let (first, len) = match row {
                    Some((first, len)) if len + bytes.len() <= ROW_BYTES => (first, len),
                    _ => (seq, 0),
                };
                row = Some((first, len + bytes.len()));
                rows.add(keys::record(first), offset(seq, RECORDS), bytes);
            }
            rows.write(writes);
        }
        Ok(())
    }

    fn seal_progress(&mut self, writes: &mut WriteSet<'_>) -> Result<()> {
        let changes = std::mem::take(&mut self.progress);
        let mut changes = changes.into_iter().peekable();
        while let Some(first) = changes.peek().map(|(seq, _)| seq - seq % PROGRESS) {
            let key = keys::progress(first);
            let stored = self.tree.get(&key)?.unwrap_or_default();
            let known = if stored.is_empty() {
                Vec::new()
            } else {
                rows::or_empty(blocks::entries(&key, &stored))?
            };
            let mut all: [Option<Vec<u8>>; PROGRESS_LEN] = Default::default();
            for entry in known {
                if let Some(place) = all.get_mut(usize::from(entry.offset)) {
                    *place = Some(entry.of(&stored).to_vec());
                }
            }
            while let Some((seq, changed)) =
                changes.next_if(|(seq, _)| seq - seq % PROGRESS == first)
            {
                let place = &mut all[usize::from(offset(seq, PROGRESS))];
                let was_large = place.as_ref().is_some_and(Vec::is_empty);
                let is_large = changed.as_ref().is_some_and(|it| it.len() > LARGE_PROGRESS);
                *place = match changed {
                    Some(large) if is_large => {
                        writes.put(keys::large_progress(seq), large);
                        Some(Vec::new())
                    }
                    small => small,
                };
                if was_large && !is_large {
                    writes.remove(keys::large_progress(seq));
                }
            }
            let mut row = blocks::new_row();
            for (offset, bytes) in (0..).zip(&all) {
                if let Some(bytes) = bytes {
                    blocks::add_entry(&mut row, offset, bytes);
                }
            }
            if row.len() > blocks::new_row().len() {
                writes.put(key, row);
            } else if !stored.is_empty() {
                writes.remove(key);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(tree: &Tree, first_new: u64, changes: &[(u64, Option<&str>)]) {
        let mut writes = WriteSet::new(tree);
        let mut shared = SharedRows::new(tree, first_new);
        for (seq, bytes) in changes {
            shared.records.insert(*seq, bytes.map(|bytes| bytes.as_bytes().to_vec()));
        }
        shared.seal(&mut writes).unwrap();
        tree.apply_batch(writes.into_batch()).unwrap();
    }

    /// The seqs in each row, by the number in its key.
    fn stored(tree: &Tree) -> Vec<(u64, Vec<u64>)> {
        let rows = tree.scan_prefix([keys::RECORD_PREFIX]).map(|row| {
            let (key, bytes) = row.unwrap();
            let entries = blocks::entries(&key, &bytes).unwrap();
            (keys::last_number(&key), entries.iter().map(|it| u64::from(it.offset)).collect())
        });
        rows.collect()
    }

    #[test]
    fn records_that_are_accepted_together_share_a_row_within_their_block() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        seal(&db, 14, &[(14, Some("a")), (15, Some("b")), (16, Some("c")), (17, Some("d"))]);
        assert_eq!(stored(&db), [(14, vec![14, 15]), (16, vec![0, 1])]);
        let large = "x".repeat(ROW_BYTES);
        seal(&db, 18, &[(18, Some("e")), (19, Some(&large)), (20, Some("f"))]);
        let rows =
            [(14, vec![14, 15]), (16, vec![0, 1]), (18, vec![2]), (19, vec![3]), (20, vec![4])];
        assert_eq!(stored(&db), rows);
    }

    #[test]
    fn a_record_stays_in_its_row_when_its_neighbours_are_removed() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        seal(&db, 0, &[(0, Some("a")), (1, Some("b"))]);
        seal(&db, 2, &[(2, Some("c")), (3, Some("d"))]);
        seal(&db, 4, &[(0, None), (2, None)]);
        assert_eq!(stored(&db), [(0, vec![1]), (2, vec![3])]);
        seal(&db, 4, &[(1, None)]);
        assert_eq!(stored(&db), [(2, vec![3])]);
        // A record that is imported again may share the key of a row whose first record was removed.
        seal(&db, 4, &[(2, Some("c")), (3, Some("e"))]);
        assert_eq!(stored(&db), [(2, vec![3, 2])]);
    }
}
