//! The due index, read for one destination after the other.

use sled::{IVec, Tree};

use crate::{
    clock::Timestamp,
    outbox::{
        error::Result,
        sled::keys::{self, QueueKey},
    },
};

/// A position in the due index, from which nearby rows are reached without a seek.
pub(super) struct DueIndex<'a> {
    tree: &'a Tree,
    rows: sled::Iter,
    /// The first row at `from` or after it.
    row: Option<IVec>,
    from: Vec<u8>,
    /// The queue that is read.
    prefix: Vec<u8>,
}

impl<'a> DueIndex<'a> {
    /// Maximum number of rows that are passed over instead of a seek.
    const STEPS: usize = 16;

    pub(super) fn new(tree: &'a Tree) -> Self {
        let from = keys::DUE_END.to_vec();
        let rows = tree.range(from.clone()..from.clone());
        Self { tree, rows, row: None, from, prefix: Vec::new() }
    }

    /// The key of the first callback of a queue that is due at this time or later.
    pub(super) fn first(&mut self, queue: QueueKey, at: Timestamp) -> Result<Option<IVec>> {
        let from = keys::due(queue, at, 0);
        self.prefix = keys::due_prefix(queue);
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
        Ok(self.current())
    }

    /// The key of the callback of the same queue after the one that was returned last.
    pub(super) fn next(&mut self) -> Result<Option<IVec>> {
        if let Some(row) = &self.row {
            self.from = [row, [0].as_slice()].concat();
        }
        self.step()?;
        Ok(self.current())
    }

    fn current(&self) -> Option<IVec> {
        self.row.clone().filter(|row| row.starts_with(&self.prefix))
    }

    fn step(&mut self) -> Result<()> {
        self.row = self.rows.next().transpose()?.map(|(key, _)| key);
        Ok(())
    }
}
