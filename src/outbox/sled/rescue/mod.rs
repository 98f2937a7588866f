//! Damage: everything that knows sled's file format.
//!
//! When it opens a store, sled skips messages of its log that are broken, as if they had never been
//! written, and overwrites what it has skipped. For the torn end of a log that is right: what is
//! there was never acknowledged. For damage it is a loss. So:
//!
//! - The [`witness`], a file beside the store, says how many batches were acknowledged and, when
//!   the store was closed cleanly, which segments its log had.
//! - Before sled opens a store, [`precheck`] reads the part of the log that sled is going to read
//!   ([`log_file`]). What sled may change is first copied ([`backup`]). Where something is broken that
//!   is not the log's end, all rows are compared with each other after the opening ([`verify`]), and
//!   where they do not agree, the copy is put back.
//! - [`salvage`] reads callbacks from a log that sled cannot open.
//! - [`flush_waker`] works around a `flush()` of sled that waits for ever after a write error.
//!
//! # Invariants
//!
//! - A store that is refused is byte for byte what it was.
//! - The witness is never ahead of the disk; after a power cut it may be behind.
//! - A backup is put back only if nothing was acknowledged since it was made.

pub(crate) mod backup;
pub(crate) mod files;
pub(crate) mod flush_waker;
mod log_file;
pub(crate) mod precheck;
pub(crate) mod salvage;
pub(crate) mod verify;
pub(crate) mod witness;
