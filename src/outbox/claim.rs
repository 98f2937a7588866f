//! A claim: the right to attempt a callback, which is released on drop.

use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;

use super::record::{Readiness, Record, State};
use crate::{callback::CallbackId, clock::Timestamp};

/// The store of a claim, to which it is released.
pub trait ClaimOwner: Send + Sync + 'static {
    /// Releases a claimed callback, which was due at `due`.
    fn release(&self, id: CallbackId, due: Timestamp);
}

/// The validity of a claim in a store that is shared with other instances.
pub trait Ownership: Send + Sync + 'static {
    /// Whether an attempt may start now.
    fn valid(&self) -> bool;

    /// Waits until the claim is lost. Attempts in progress are then dropped.
    fn lost(&self) -> BoxFuture<'_, ()>;
}

/// How long a claim is valid.
pub struct Validity(Option<Arc<dyn Ownership>>);

impl Validity {
    /// Until the claim ends: no other instance can have it.
    pub const ALWAYS: Self = Self(None);

    /// Valid as long as `ownership` is.
    pub fn while_owned(ownership: Arc<dyn Ownership>) -> Self {
        Self(Some(ownership))
    }

    /// Whether an attempt may start now. It must be asked immediately before.
    pub fn valid(&self) -> bool {
        self.0.as_ref().is_none_or(|ownership| ownership.valid())
    }

    /// Waits until the claim is lost, which may be never.
    pub async fn lost(&self) {
        match &self.0 {
            Some(ownership) => ownership.lost().await,
            None => std::future::pending().await,
        }
    }
}

impl std::fmt::Debug for Validity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validity").field("valid", &self.valid()).finish_non_exhaustive()
    }
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
    /// How long the claim counts.
    pub validity: Validity,
    lease: Lease,
}

impl Claim {
    /// A claim of a callback in the store `owner`. It is valid as long as `validity` is.
    pub fn new(record: Box<Record>, owner: Weak<dyn ClaimOwner>, validity: Validity) -> Self {
        let due = match record.state {
            State::Pending(Readiness::Scheduled(due)) => due,
            _ => record.created_at,
        };
        let lease = Lease { id: record.id, due, owner: Some(owner) };
        Self { record, validity, lease }
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
