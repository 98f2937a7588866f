//! The writes of one batch, gathered over the stored tree and readable before they are
//! applied, so that every command of a batch sees what those before it did.

use std::{collections::BTreeMap, ops::Bound};

use sled::{Batch, IVec, Tree};

use crate::outbox::{
    OutboxError,
    record::{self, Record},
};

impl From<sled::Error> for OutboxError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Corruption { at, .. } => Self::Corrupt(match at {
                Some(at) => format!("the engine finds broken bytes ({at:?})").into(),
                None => "the engine finds broken bytes".into(),
            }),
            other => Self::Engine(other.to_string().into()),
        }
    }
}

/// A batch in the making.
pub(super) struct Txn<'a> {
    tree: &'a Tree,
    writes: BTreeMap<Vec<u8>, Option<IVec>>,
}

impl<'a> Txn<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self { tree, writes: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: impl Into<IVec>) {
        self.writes.insert(key, Some(value.into()));
    }

    pub(super) fn put_record(&mut self, key: Vec<u8>, record: &Record) -> Result<(), OutboxError> {
        self.put(key, record::encode(record)?);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<IVec>, OutboxError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => Ok(self.tree.get(key)?),
        }
    }

    pub(super) fn record(&self, key: &[u8]) -> Result<Option<Record>, OutboxError> {
        let Some(bytes) = self.get(key)? else { return Ok(None) };
        record::decode(&bytes).map(Some).map_err(|error| OutboxError::damaged(key, &error))
    }

    /// The first row under `prefix`.
    pub(super) fn first(&self, prefix: &[u8]) -> Result<Option<(IVec, IVec)>, OutboxError> {
        self.first_behind(prefix, None)
    }

    /// The first row under `prefix` behind the key `behind`, which has that prefix itself.
    pub(super) fn first_behind(
        &self,
        prefix: &[u8],
        behind: Option<&[u8]>,
    ) -> Result<Option<(IVec, IVec)>, OutboxError> {
        let begin = behind.map_or(Bound::Included(prefix), Bound::Excluded);
        let written = self
            .writes
            .range::<[u8], _>((begin, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .find_map(|(key, value)| value.as_ref().map(|value| (key, value)));
        for stored in self.tree.range::<&[u8], _>((begin, Bound::Unbounded)) {
            let (key, value) = stored?;
            if !key.starts_with(prefix) {
                break;
            }
            if written.is_some_and(|(first, _)| first.as_slice() < &key[..]) {
                break;
            }
            match self.writes.get(&key[..]) {
                None => return Ok(Some((key, value))),
                Some(Some(value)) => return Ok(Some((key, value.clone()))),
                Some(None) => {}
            }
        }
        Ok(written.map(|(key, value)| (IVec::from(key.as_slice()), value.clone())))
    }

    /// Hands each value under `prefix` to `see`, in no order.
    pub(super) fn each(
        &self,
        prefix: &[u8],
        mut see: impl FnMut(&[u8]),
    ) -> Result<(), OutboxError> {
        for row in self.tree.scan_prefix(prefix) {
            let (key, value) = row?;
            if !self.writes.contains_key(&key[..]) {
                see(&value);
            }
        }
        let begin = (Bound::Included(prefix), Bound::Unbounded);
        let written = self.writes.range::<[u8], _>(begin);
        let written = written.take_while(|(key, _)| key.starts_with(prefix));
        written.filter_map(|(_, value)| value.as_ref()).for_each(|value| see(value));
        Ok(())
    }

    /// The whole batch, in key order.
    pub(super) fn into_batch(self) -> Batch {
        let mut batch = Batch::default();
        for (key, value) in self.writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_is_found_over_what_is_stored_written_and_removed() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        for key in ["a1", "a3", "b1"] {
            db.insert(key, "stored").unwrap();
        }
        let mut txn = Txn::new(&db);
        let first = |txn: &Txn| txn.first(b"a").unwrap().map(|(key, _)| key.to_vec());
        assert_eq!(first(&txn), Some(b"a1".to_vec()));
        txn.remove(b"a1".to_vec());
        assert_eq!(first(&txn), Some(b"a3".to_vec()));
        txn.put(b"a2".to_vec(), b"new");
        assert_eq!(first(&txn), Some(b"a2".to_vec()));
        txn.remove(b"a2".to_vec());
        txn.put(b"a4".to_vec(), b"new");
        assert_eq!(first(&txn), Some(b"a3".to_vec()));
        txn.remove(b"a3".to_vec());
        assert_eq!(first(&txn), Some(b"a4".to_vec()));
        txn.remove(b"a4".to_vec());
        assert_eq!(first(&txn), None);
    }

    #[test]
    fn the_next_row_is_behind_the_last_one_stored_or_written_and_never_under_another_prefix() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        for key in ["a1", "a3", "b1"] {
            db.insert(key, "stored").unwrap();
        }
        let mut txn = Txn::new(&db);
        txn.put(b"a2".to_vec(), b"new");
        txn.put(b"a5".to_vec(), b"new");
        txn.put(b"b0".to_vec(), b"new");
        let mut found = Vec::new();
        while let Some((key, _)) = txn.first_behind(b"a", found.last().map(Vec::as_slice)).unwrap()
        {
            found.push(key.to_vec());
        }
        assert_eq!(found, [b"a1", b"a2", b"a3", b"a5"]);
    }
}
