//! The pending writes of a batch on top of the stored tree. Reads see them before they are applied, so
//! that each write of a batch sees the changes of the earlier ones.

use std::{collections::BTreeMap, ops::Bound};

use sled::{Batch, IVec, Tree};

use crate::outbox::error::{OutboxError, Result};

impl From<sled::Error> for OutboxError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Corruption { at, .. } => Self::CorruptPage(match at {
                Some(at) => format!("sled found corrupt data ({at:?})").into(),
                None => "sled found corrupt data".into(),
            }),
            other => Self::Engine(other.to_string().into()),
        }
    }
}

/// The writes of a batch.
pub(crate) struct WriteSet<'a> {
    tree: &'a Tree,
    writes: BTreeMap<Vec<u8>, Option<IVec>>,
}

impl<'a> WriteSet<'a> {
    pub(crate) fn new(tree: &'a Tree) -> Self {
        Self { tree, writes: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: impl Into<IVec>) {
        self.writes.insert(key, Some(value.into()));
    }

    pub(crate) fn remove(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<IVec>> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => Ok(self.tree.get(key)?),
        }
    }

    /// The first row under `prefix`.
    pub(crate) fn first(&self, prefix: &[u8]) -> Result<Option<(IVec, IVec)>> {
        self.first_after(prefix, None)
    }

    /// The first row with this prefix after the key `after`, which must have the prefix too.
    pub(crate) fn first_after(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> Result<Option<(IVec, IVec)>> {
        let begin = after.map_or(Bound::Included(prefix), Bound::Excluded);
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

    /// The whole batch, in key order.
    pub(crate) fn into_batch(self) -> Batch {
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
    fn the_first_row_considers_stored_written_and_removed_rows() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        for key in ["a1", "a3", "b1"] {
            db.insert(key, "stored").unwrap();
        }
        let mut writes = WriteSet::new(&db);
        let first = |writes: &WriteSet| writes.first(b"a").unwrap().map(|(key, _)| key.to_vec());
        assert_eq!(first(&writes), Some(b"a1".to_vec()));
        writes.remove(b"a1".to_vec());
        assert_eq!(first(&writes), Some(b"a3".to_vec()));
        writes.put(b"a2".to_vec(), b"new");
        assert_eq!(first(&writes), Some(b"a2".to_vec()));
        writes.remove(b"a2".to_vec());
        writes.put(b"a4".to_vec(), b"new");
        assert_eq!(first(&writes), Some(b"a3".to_vec()));
        writes.remove(b"a3".to_vec());
        assert_eq!(first(&writes), Some(b"a4".to_vec()));
        writes.remove(b"a4".to_vec());
        assert_eq!(first(&writes), None);
    }

    #[test]
    fn the_next_row_stays_within_the_prefix() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        for key in ["a1", "a3", "b1"] {
            db.insert(key, "stored").unwrap();
        }
        let mut writes = WriteSet::new(&db);
        writes.put(b"a2".to_vec(), b"new");
        writes.put(b"a5".to_vec(), b"new");
        writes.put(b"b0".to_vec(), b"new");
        let mut found = Vec::new();
        while let Some((key, _)) =
            writes.first_after(b"a", found.last().map(Vec::as_slice)).unwrap()
        {
            found.push(key.to_vec());
        }
        assert_eq!(found, [b"a1", b"a2", b"a3", b"a5"]);
    }
}
