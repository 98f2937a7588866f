//! Claims.

use std::sync::Weak;

use super::record::{Readiness, Record, State};
use crate::{callback::CallbackId, clock::Timestamp};

/// The store of a claim, to which it is released.
pub trait ClaimOwner: Send + Sync + 'static {
    /// Releases a claimed callback, which was due at `due`.
    fn release(&self, id: CallbackId, due: Timestamp);
}

/// A due callback, claimed for delivery. Nothing else changes it while it is claimed.
///
/// A claim ends with [`Outbox::settle`](crate::outbox::Outbox::settle) or [`Claim::release`]. A claim
/// that is dropped, because a task panicked, is released and logged: otherwise the callback and its job
/// would wait for a restart.
#[derive(Debug)]
pub struct Claim {
    /// The callback as it is stored.
    pub record: Box<Record>,
    lease: Lease,
}

impl Claim {
    /// A claim of a callback in the store `owner`.
    pub fn new(record: Box<Record>, owner: Weak<dyn ClaimOwner>) -> Self {
        let due = match record.state {
            State::Pending(Readiness::Scheduled(due)) => due,
            _ => record.created_at,
        };
        let lease = Lease { id: record.id, due, owner: Some(owner) };
        Self { record, lease }
    }

    /// Ends the claim without releasing it, for [`Outbox::settle`](crate::outbox::Outbox::settle).
    pub fn into_record(mut self) -> Box<Record> {
        self.lease.owner = None;
        self.record
    }

    /// Releases the callback, as if it had not been claimed.
    pub fn release(mut self) {
        self.lease.end();
    }
}

struct Lease {
    id: CallbackId,
    due: Timestamp,
    /// `None` after the claim has ended.
    owner: Option<Weak<dyn ClaimOwner>>,
}

impl Lease {
    fn end(&mut self) {
        if let Some(owner) = self.owner.take().and_then(|owner| owner.upgrade()) {
            owner.release(self.id, self.due);
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.owner.is_some() {
            tracing::error!(
                event.action = "claim-dropped",
                callback.id = %self.id,
                "an attempt was lost because of an internal error; its callback is due again"
            );
            self.end();
        }
    }
}
