//! What is asked of an outbox that changes it, and what it answers.

use std::sync::{Arc, OnceLock};

use super::{
    claim::Claim,
    error::OutboxError,
    record::{Attempt, Failure},
};
use crate::{
    callback::{Body, CallbackId, Destination, SecretUrl},
    clock::Timestamp,
};

/// A callback that is to be stored.
#[derive(Debug, Clone)]
pub struct NewCallback {
    /// The producer's idempotency key.
    pub event_id: Option<String>,
    /// What the receiver gets.
    pub body: Body,
    /// Where it goes.
    pub url: SecretUrl,
    /// Scheme, host and port of it.
    pub destination: Destination,
    /// Why it can never be sent; it is then stored as failed.
    pub refusal: Option<Failure>,
}

/// What [`Outbox::enqueue`] did with one callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// Stored, as pending, or as failed where it was refused.
    Stored(CallbackId),
    /// An event with this key is stored already, under this id.
    Duplicate(CallbackId),
    /// Not stored: it can never be sent, and as many failed ones are kept as may be pending.
    NotKept,
}

/// What ties batches to each other that a producer hands in one after the other, before it has
/// heard of the first: where one is refused, so are those behind it, and what is stored has no
/// holes. A batch that stands alone has one of its own.
#[derive(Debug, Clone, Default)]
pub struct Sequence(Arc<OnceLock<OutboxError>>);

impl Sequence {
    /// Why a batch of it was refused, if one was.
    pub fn refused(&self) -> Option<OutboxError> {
        self.0.get().cloned()
    }

    /// Notes that a batch of it is refused.
    pub fn refuse(&self, error: &OutboxError) {
        self.0.get_or_init(|| error.clone());
    }
}

/// What [`Outbox::claim`] found.
#[derive(Debug, Default)]
pub struct Claims {
    /// Due callbacks, the longest due first.
    pub claimed: Vec<Claim>,
    /// When the destination has something due again; `None`: not before it is signalled.
    pub next_due: Option<Timestamp>,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Settlement {
    /// The receiver took it.
    Delivered(Attempt),
    /// It is to be tried again.
    Retry {
        /// The attempt that failed.
        attempt: Attempt,
        /// When the next one is due.
        due: Timestamp,
        /// Until when nothing goes to the destination at all; forgotten with the last pending
        /// or failed callback to it.
        hold: Option<Timestamp>,
    },
    /// It has finally failed.
    Failed {
        /// The attempt that failed; `None` when none was made.
        attempt: Option<Attempt>,
        /// Why it is final.
        failure: Failure,
        /// Until when nothing goes to the destination at all, as after a retry.
        hold: Option<Timestamp>,
    },
}

/// What [`Outbox::cancel`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It was pending and has failed now.
    Done,
    /// An attempt is under way; ask again when it has ended.
    InFlight,
    /// It is not pending.
    NotPending,
    /// There is no such callback.
    Unknown,
}

/// What [`Outbox::mend`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mended {
    /// How many rows or callbacks did not fit and were put right.
    pub mended: u64,
    /// How many could not be put right.
    pub stuck: u64,
    /// Behind which row it goes on; `None` at the end.
    pub next: Option<Vec<u8>>,
}
