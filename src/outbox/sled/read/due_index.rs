//! The due index, read for one destination after the other.

use sled::{IVec, Tree};

use crate::outbox::{error::Result, sled::keys};

/// A position in the due index, from which nearby rows are reached without a seek.
pub(super) struct DueIndex<'a> {
    tree: &'a Tree,
    rows: sled::Iter,
    /// The first row at `from` or after it.
    row: Option<IVec>,
    from: Vec<u8>,
}

impl<'a> DueIndex<'a> {
    /// A seek costs as much as some ten steps.
    const STEPS: usize = 16;

    pub(super) fn new(tree: &'a Tree) -> Self {
        let from = keys::DUE_END.to_vec();
        Self { tree, rows: tree.range(from.clone()..from.clone()), row: None, from }
    }

    /// The first row with this key or after it.
    pub(super) fn first(&mut self, from: Vec<u8>) -> Result<Option<IVec>> {
        let mut steps = if self.from <= from { Self::STEPS } else { 0 };
        while self.row.as_ref().is_some_and(|row| **row < *from) && steps > 0 {
            self.step()?;
            steps -= 1;
        }
        if steps == 0 {
            self.rows = self.tree.range(from.as_slice()..keys::DUE_END);
            self.step()?;
        }
        self.from = from;
        Ok(self.row.clone())
    }

    /// The row after the one that was returned last.
    pub(super) fn after(&mut self, row: &[u8]) -> Result<Option<IVec>> {
        self.from = [row, &[0]].concat();
        self.step()?;
        Ok(self.row.clone())
    }

    fn step(&mut self) -> Result<()> {
        self.row = self.rows.next().transpose()?.map(|(key, _)| key);
        Ok(())
    }
}
