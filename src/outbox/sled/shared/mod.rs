//! What the committer, claims and readers of one store share in memory.

pub(crate) mod backward;
pub(crate) mod barrier;
pub(crate) mod moves;
pub(crate) mod store;
