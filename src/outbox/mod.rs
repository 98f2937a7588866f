//! The outbox: the durable queue of callbacks, and its guarantees.
//!
//! # Guarantees
//!
//! 1. **Durable.** When the future of a call that changes something ([`Outbox::enqueue`],
//!    [`Outbox::settle`], [`Outbox::replay`], [`Outbox::cancel`], [`Outbox::retry_now`],
//!    [`Outbox::pause`], [`Outbox::expire`], [`Outbox::purge`], [`Outbox::mend`], [`Outbox::import`])
//!    is ready with `Ok`, the change is synced to disk: it survives a kill of the process and a power
//!    failure.
//! 2. **Atomic.** Each of these calls takes effect as a whole or not at all; the one exception is
//!    documented at [`Outbox::enqueue`].
//! 3. **In call order.** Writes take effect in the order in which the functions were called, not the
//!    order in which their futures are polled.
//! 4. **One at a time per job.** At most one of the pending callbacks of a `jobId` is claimed: the
//!    active one, which is the earliest accepted. If an earlier one is replayed while a later one is in
//!    flight, the later one stays active even if it is released or the process restarts. It stops being
//!    active when its attempt is settled. If it is not claimed, it also stops when a callback earlier
//!    than all pending ones of the job is replayed.
//! 5. **Claimed once.** A claimed callback is not claimed again before it is settled or released.
//!    Claims are not stored: after a crash, claimed callbacks are due.
//! 6. **Nothing unsynced is claimed.** No PUT is sent for a callback that a power failure could still
//!    undo.
//! 7. **Bounded memory.** It grows with the number of destinations with pending callbacks and with the
//!    callbacks in flight, not with the number of callbacks.
//!
//! The outbox does not depend on HTTP or on the backoff: the caller decides when the next attempt is
//! due, and the outbox records it. One process at a time claims the callbacks of a destination: claims and
//! news are held in memory. Over [`postgres`], several processes share the destinations.

mod claim;
pub mod error;
mod horizon;
mod ids;
mod interface;
mod notice;
mod outcome_event;
pub mod postgres;
mod purge;
pub mod record;
mod retention;
mod settings;
pub mod sled;
mod stage;
pub mod store;
mod transfer;
pub mod transition;
mod views;
mod writes;

pub use self::{
    claim::{Claim, ClaimOwner, Ownership, Validity},
    error::OutboxError,
    interface::{Outbox, OutboxFuture},
    notice::{Notices, notice_of},
    outcome_event::{Broker, OutcomeEvent, OutcomeEvents},
    purge::purge_gently,
    record::{Attempt, ErrorKind, Failure, Readiness, Record, State, StateName},
    retention::{Over, Retention},
    settings::Common,
    stage::{ListedState, Stage},
    transfer::{Entry, ExportCursor, Exported, Identity},
    views::{
        CallbackStatus, Criteria, Delivered, DestinationCursor, DestinationPage, DestinationQuery,
        DestinationSummary, Detail, Instance, OVERDUE, Open, Page, ParseCursorError, Query,
        Summary,
    },
    writes::{Cancelled, Claims, Enqueued, Mended, NewCallback, News, Scope, Sequence, Settlement},
};
