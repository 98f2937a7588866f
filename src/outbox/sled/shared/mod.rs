//! What commits, claims and reads of one store share in memory.

pub(crate) mod barrier;
pub(crate) mod store;
