//! Reads: one callback, listings, the summary and exports.
//!
//! They run beside the committer, on blocking threads, and hold no lock while they read the tree.
//! What they give is as of some moment during the call, and is answered after the commit that it may
//! have seen ([`barrier`](super::shared::barrier)).

pub(crate) mod destinations;
pub(crate) mod export;
pub(crate) mod listing;
pub(crate) mod lookup;
pub(crate) mod summary;
