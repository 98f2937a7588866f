//! The outbox: what is stored, and what is promised of it.
//!
//! # Promises
//!
//! 1. **Durable.** When the future of [`Outbox::enqueue`], [`Outbox::settle`],
//!    [`Outbox::replay`], [`Outbox::cancel`] or [`Outbox::expire`] is ready with `Ok`, the disk
//!    has it: neither a killed process nor a machine without power takes it back.
//! 2. **All or nothing.** Each of these calls happens as a whole or not at all; the one
//!    exception is named at [`Outbox::enqueue`].
//! 3. **In call order.** Writes take effect in the order in which the functions were called,
//!    not in which their futures were polled.
//! 4. **One at a time per job.** Of the pending callbacks of one `jobId`, only one is ever
//!    claimed, and it is the earliest accepted, unless that one was replayed while a later
//!    one was already under way. The later one then keeps its turn, over a release and a
//!    restart as well, until its attempt is settled, or until it is in nobody's hands and a
//!    callback is replayed that is earlier than all pending ones of the job.
//! 5. **Claimed by one.** A claimed callback is not claimed again before it was settled or
//!    released. Claims are not stored: after a crash, what was claimed is simply due.
//! 6. **Nothing unsynced is visible** to [`Outbox::claim`]: no PUT goes out for something that
//!    a power cut could still undo.
//! 7. **Bounded memory.** What is held grows with the number of destinations that have
//!    unfinished business and the callbacks in flight, not with the number of callbacks.
//!
//! The outbox knows no HTTP and no backoff: who claims decides when the next attempt is due,
//! and the outbox records it. Nothing in the trait assumes that there is only one process.

mod claim;
pub mod error;
mod interface;
mod purge;
pub mod record;
mod retention;
pub mod sled;
mod transfer;
pub mod transition;
mod views;
mod writes;

pub use self::{
    claim::{Claim, Holder},
    error::OutboxError,
    interface::{Outbox, OutboxFuture},
    purge::purge_gently,
    record::{Attempt, ErrorKind, Failure, Readiness, Record, State, StateName},
    retention::{Over, Retention},
    transfer::{Entry, ExportCursor, Exported, Identity},
    views::{DestinationSummary, Detail, OVERDUE, Open, Page, Query, Standing, Summary},
    writes::{Cancelled, Claims, Enqueued, Mended, NewCallback, Sequence, Settlement},
};
