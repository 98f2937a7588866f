//! Exports and imports.

use super::record::{Attempt, Record};
use crate::clock::Timestamp;

/// What a store makes its ids with: an import that goes on with the ids of an export needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(pub [u8; 16]);

/// A callback as it is exported and imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The callback.
    pub record: Record,
    /// Its attempts, the first one first.
    pub attempts: Vec<Attempt>,
    /// Whether a later version of it may have been lost: it comes from a damaged store.
    pub uncertain: bool,
}

/// Where an export goes on; the default is its beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportCursor {
    /// Which pass over the store.
    pub pass: u8,
    /// Behind which row.
    pub after: Vec<u8>,
    /// When the export began.
    pub began: Timestamp,
    /// How much had been written then, as the store counts it.
    pub batch: u64,
}

/// A step of an export.
#[derive(Debug, Default)]
pub struct Exported {
    /// Callbacks, in no particular order.
    pub entries: Vec<Entry>,
    /// Where it goes on; `None` at the end.
    pub next: Option<ExportCursor>,
}
