//! The outbox: the durable queue of callbacks, and its promises.
//!
//! # Promises
//!
//! 1. **Durable.** When the future of [`Outbox::enqueue`], [`Outbox::settle`],
//!    [`Outbox::replay`], [`Outbox::cancel`], [`Outbox::retry_now`], [`Outbox::pause`] or
//!    [`Outbox::expire`] is ready with `Ok`, the change is synced to disk: it survives a kill of the
//!    process and a power failure.
//! 2. **Atomic.** Each of these calls takes effect as a whole or not at all; the one exception is at
//!    [`Outbox::enqueue`].
//! 3. **In call order.** Writes take effect in the order in which the functions were called, not in
//!    which their futures are polled.
//! 4. **One at a time per job.** Of the pending callbacks of one `jobId`, one at most is claimed: the
//!    active one, which is the earliest accepted. If an earlier one is replayed while a later one is in
//!    flight, the later one stays active, also if it is released or the process restarts. It stops being
//!    active when its attempt is settled, or, while it is not claimed, when another callback is replayed
//!    that is earlier than all pending ones of the job.
//! 5. **Claimed once.** A claimed callback is not claimed again before it is settled or released. Claims
//!    are not stored: after a crash, claimed callbacks are due.
//! 6. **Nothing unsynced is claimed.** No PUT goes out for something that a power failure could undo.
//! 7. **Bounded memory.** It grows with the number of destinations with pending callbacks and with the
//!    callbacks in flight, not with the number of callbacks.
//!
//! The outbox knows neither HTTP nor backoff: its user decides when the next attempt is due, and the
//! outbox records it. Nothing in the trait assumes that there is only one process.

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
    views::{
        DestinationCursor, DestinationPage, DestinationQuery, DestinationSummary, Detail, OVERDUE,
        Open, Page, ParseCursorError, Query, Standing, Summary,
    },
    writes::{Cancelled, Claims, Enqueued, Mended, NewCallback, News, Sequence, Settlement},
};
