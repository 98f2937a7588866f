//! Damage: all code that depends on sled's file format.
//!
//! When it opens a store, sled skips broken messages of its log as if they had never been written, and
//! overwrites what it has skipped. For the torn end of a log that is correct, because its content was
//! never acknowledged. For damage it is a loss. Therefore:
//!
//! - The [`witness`], a file next to the store, contains the number of acknowledged batches and, when
//!   the store was closed cleanly, the segments of its log.
//! - Before sled opens a store, [`precheck`] reads the part of the log that sled is going to read
//!   ([`log_file`]). What sled may change is first copied ([`backup`]). If something is broken that is
//!   not the log's end, all rows are compared with each other after the opening ([`verify`]), and if
//!   they do not agree, the copy is restored.
//! - [`salvage`] reads callbacks from a log that sled cannot open.
//! - [`flush_waker`] works around a `flush()` of sled that waits for ever after a write error.
//!
//! # Invariants
//!
//! - A store that is refused is unchanged, byte for byte.
//! - The witness is never ahead of the disk; after a power failure it may be out of date.
//! - A backup is restored only if nothing was acknowledged since it was made.

pub(crate) mod backup;
pub(crate) mod files;
pub(crate) mod flush_waker;
mod log_file;
pub(crate) mod precheck;
pub(crate) mod salvage;
pub(crate) mod verify;
pub(crate) mod witness;
