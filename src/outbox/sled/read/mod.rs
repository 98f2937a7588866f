//! Reads: one callback, listings, the summary and exports.
//!
//! They run concurrently with the committer, on blocking threads, and hold no lock while they read the
//! tree. A result is the state at some moment during the call, and is returned after the commit that it
//! may have seen ([`barrier`](super::shared::barrier)).

pub(crate) mod delivered;
pub(crate) mod destinations;
pub(crate) mod due;
mod due_index;
pub(crate) mod export;
pub(crate) mod listing;
pub(crate) mod lookup;
pub(crate) mod snapshot;
pub(crate) mod summary;
