//! Writes: one thread combines all waiting writes into one batch.
//!
//! # From an event to its PUT
//!
//! The order of these calls ensures that an acknowledged event is durable and that no PUT is sent for a
//! change that a power failure could undo:
//!
//! 1. `SledOutbox::enqueue` sends a [`command::Write`] to the committer and waits for its answer.
//! 2. [`committer`] receives all waiting writes and runs them on one [`transaction::Transaction`], in
//!    which each write sees the changes of the earlier ones ([`write_set`]). A stored callback that
//!    changes is marked busy here ([`transaction::Transaction::mark`]), before anything is applied.
//! 3. `Transaction::seal` adds the rows written once per batch: counters, the retention index.
//! 4. `Tree::apply_batch` applies the whole batch. From now on, readers of the tree see it; claims do
//!    not (see [`claim`](super::claim)), and listings are answered after the sync
//!    ([`barrier`](super::shared::barrier)).
//! 5. `Db::flush`, then `sync_data` on the log file make it durable.
//! 6. The batch number is written to the witness file.
//! 7. [`published::Published::publish`] makes it visible to claims, frees the busy callbacks and
//!    signals destinations that have something due.
//! 8. Every write of the batch is answered.
//!
//! A failure in 4 to 6 is ambiguous: the disk may or may not contain the batch. The store then stops
//! permanently, nothing is published, and the state is determined at the next start.

mod apply;
pub(crate) mod command;
pub(crate) mod committer;
mod disk;
mod expire;
mod failures;
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
