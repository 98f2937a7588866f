//! The in-memory state that commits, claims and reads of one store share.

pub(crate) mod barrier;
pub(crate) mod commit_timer;
pub(crate) mod store;
