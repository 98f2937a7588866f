//! Exports and imports.

use super::record::{Attempt, Record};

/// The key of a store's ids (see `sled::keys`). An import that keeps the ids of an export needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(pub [u8; 16]);

/// A callback in an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The callback.
    pub record: Record,
    /// All its stored attempts, in order.
    pub attempts: Vec<Attempt>,
    /// Whether a later version may have been lost, in a damaged store.
    pub uncertain: bool,
}

/// The position at which an export continues; the default is the beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportCursor {
    /// Key of the last row.
    pub after: Vec<u8>,
}

/// One step of an export.
#[derive(Debug, Default)]
pub struct Exported {
    /// Callbacks, in no particular order.
    pub entries: Vec<Entry>,
    /// The position of the next step; `None` at the end.
    pub next: Option<ExportCursor>,
}
