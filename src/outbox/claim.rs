//! A callback in the hands of whoever delivers it.

use std::sync::Weak;

use super::record::{Readiness, Record, State};
use crate::{callback::CallbackId, clock::Timestamp};

/// What takes claims back.
pub trait Holder: Send + Sync + 'static {
    /// The claimed callback, which was due at `due`, is free again.
    fn give_back(&self, id: CallbackId, due: Timestamp);
}

/// A due callback in the hands of whoever delivers it. Nobody else changes it while it is claimed.
///
/// It ends with [`Outbox::settle`](crate::outbox::Outbox::settle) or
/// [`Outbox::release`](crate::outbox::Outbox::release). One that is dropped, because a task panicked, is
/// given back all the same, and the log says so: otherwise it and its job would wait for a restart.
#[derive(Debug)]
pub struct Claim {
    /// The callback as it is stored.
    pub record: Record,
    lease: Lease,
}

impl Claim {
    /// A claim that `holder` takes back.
    pub fn new(record: Record, holder: Weak<dyn Holder>) -> Self {
        let due = match record.state {
            State::Pending(Readiness::Scheduled(due)) => due,
            _ => record.created_at,
        };
        let lease = Lease { id: record.id, due, holder: Some(holder) };
        Self { record, lease }
    }

    /// Ends the claim in good order: the outbox goes on with the record.
    pub fn into_record(mut self) -> Record {
        self.lease.holder = None;
        self.record
    }

    /// Gives the callback back as if it had not been claimed.
    pub fn give_back(mut self) {
        self.lease.end();
    }
}

struct Lease {
    id: CallbackId,
    due: Timestamp,
    /// `None` when it has ended.
    holder: Option<Weak<dyn Holder>>,
}

impl Lease {
    fn end(&mut self) {
        if let Some(holder) = self.holder.take().and_then(|holder| holder.upgrade()) {
            holder.give_back(self.id, self.due);
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
        if self.holder.is_some() {
            tracing::error!(
                event.action = "claim-dropped",
                callback.id = %self.id,
                "the attempt of a callback was lost in the service; it is due again"
            );
            self.end();
        }
    }
}
