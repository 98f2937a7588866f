//! Writes: one thread turns whatever has queued up into one batch.
//!
//! # From an event to its PUT
//!
//! The order of these calls is what makes an acknowledged event durable and keeps a PUT from going
//! out for what a power cut could undo:
//!
//! 1. `SledOutbox::enqueue` sends a [`command::Write`] to the committer and waits for its answer.
//! 2. [`committer`] takes all writes that are waiting and runs each on one
//!    [`transaction::Transaction`], which sees what the writes before it changed
//!    ([`write_set`]). A stored callback that changes is marked busy here
//!    ([`transaction::Transaction::mark`]), before anything is applied.
//! 3. `Transaction::seal` adds the rows that a batch has once: counters, the retention index.
//! 4. `Tree::apply_batch` applies all of it at once. From now on readers of the tree see it; claims
//!    do not (see [`claim`](super::claim)), and listings are answered after the sync
//!    ([`barrier`](super::shared::barrier)).
//! 5. `Db::flush`, then `sync_data` on the log file: the disk has it.
//! 6. The witness notes the number of the batch.
//! 7. [`published::Published::publish`] makes it visible to claims, frees what was busy and
//!    signals destinations that have something due.
//! 8. Every write of the batch is answered.
//!
//! A failure in 4 to 6 is ambiguous: the disk may or may not have the batch. The store then stops for
//! good, nothing is published, and the next start finds out.

mod apply;
pub(crate) mod command;
pub(crate) mod committer;
mod disk;
mod expire;
mod import;
mod job_order;
mod journal;
mod mend;
mod operations;
mod published;
mod purge;
mod record_rows;
pub(crate) mod shared_rows;
mod transaction;
pub(crate) mod write_set;
