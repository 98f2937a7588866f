//! Arguments and results of the outbox's writes.

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};

use super::{
    claim::Claim,
    error::OutboxError,
    record::{Attempt, Failure},
    views::Open,
};
use crate::{
    callback::{Body, CallbackId, Destination, SecretUrl, Trace},
    clock::Timestamp,
};

/// A callback to be stored.
#[derive(Debug, Clone)]
pub struct NewCallback {
    /// The producer's idempotency key.
    pub event_id: Option<String>,
    /// The body of the PUT.
    pub body: Body,
    /// The callback URL.
    pub url: SecretUrl,
    /// Scheme, host and port of the URL.
    pub destination: Destination,
    /// The trace that its event belongs to.
    pub trace: Option<Trace>,
    /// Why it can never be sent, in which case it is stored as failed.
    pub refusal: Option<Failure>,
}

impl NewCallback {
    /// Size of its texts in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        let refusal = self.refusal.as_ref().map_or(0, |failure| failure.message.len());
        let event_id = self.event_id.as_ref().map_or(0, String::len);
        let trace = self.trace.as_ref().and_then(Trace::state).map_or(0, str::len);
        self.body.text_bytes() + self.url.reveal().len() + event_id + refusal + trace
    }
}

/// Result of [`Outbox::enqueue`](super::Outbox::enqueue) for one callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// Stored: as pending, or as failed if it was refused.
    Stored(CallbackId),
    /// An event with this key is stored already, under this id.
    Duplicate(CallbackId),
    /// Not stored: it can never be sent, and there are `outbox.max_pending` failed callbacks already.
    NotKept,
}

/// Batches that are enqueued one after the other without waiting for the result of the first. If one is
/// refused, the later ones are refused too, so that the stored ones have no gaps. An independent batch
/// has its own sequence.
#[derive(Debug, Clone, Default)]
pub struct Sequence(Arc<OnceLock<OutboxError>>);

impl Sequence {
    /// The error with which a batch was refused, if one was.
    pub fn refused(&self) -> Option<OutboxError> {
        self.0.get().cloned()
    }

    /// Refuses this and all later batches.
    pub fn refuse(&self, error: &OutboxError) {
        self.0.get_or_init(|| error.clone());
    }
}

/// Result of [`Outbox::claim`](super::Outbox::claim).
#[derive(Debug, Default)]
pub struct Claims {
    /// Due callbacks, in the order in which they became due.
    pub claimed: Vec<Claim>,
    /// When the destination has something due again; `None`: not before
    /// [`Outbox::news`](super::Outbox::news) reports it.
    pub next_due: Option<Timestamp>,
}

/// How an attempt is settled.
#[derive(Debug, Serialize, Deserialize)]
pub enum Settlement {
    /// The receiver has accepted it.
    Delivered(Attempt),
    /// It is retried.
    Retry {
        /// The attempt that failed.
        attempt: Attempt,
        /// When the next attempt is due.
        due: Timestamp,
        /// Until when nothing is sent to the destination (`Retry-After`). Forgotten with the
        /// destination's last pending or failed callback.
        hold: Option<Timestamp>,
    },
    /// It has failed.
    Failed {
        /// The attempt that failed; `None` if none was made.
        attempt: Option<Attempt>,
        /// The reason.
        failure: Failure,
        /// Until when nothing is sent to the destination, as after a retry.
        hold: Option<Timestamp>,
    },
}

impl Settlement {
    /// The attempt; `None` if none was made.
    pub fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::Delivered(attempt) | Self::Retry { attempt, .. } => Some(attempt),
            Self::Failed { attempt, .. } => attempt.as_ref(),
        }
    }

    /// Size of its texts in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        self.attempt().map_or(0, |attempt| {
            let error = attempt.error.as_ref().map_or(0, |failure| failure.message.len());
            error + attempt.response_excerpt.as_ref().map_or(0, String::len)
        })
    }
}

/// What the outbox reports to the delivery loop ([`Outbox::news`](super::Outbox::news)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A destination has something due that was not due or not known before.
    Due {
        /// The destination.
        destination: Destination,
        /// When it is due.
        at: Timestamp,
        /// The breaker as the previous owner left it, if the store records that. It applies if the loop has
        /// no state of its own.
        open: Option<Open>,
    },
    /// The destination is another instance's from now on. The holds of its claims are lost already, and
    /// its callbacks are reported again if it comes back.
    Lost(Destination),
    /// An operator requests that a destination be tried now, so its breaker must be closed.
    RetryNow(Destination),
}

/// Some of the destinations.
#[derive(Debug, Clone, Default)]
pub enum Scope {
    /// All of them.
    #[default]
    All,
    /// These.
    Only(Arc<HashSet<Destination>>),
    /// All others.
    Except(Arc<HashSet<Destination>>),
}

impl Scope {
    /// Whether a destination is one of them.
    pub fn has(&self, destination: &Destination) -> bool {
        match self {
            Self::All => true,
            Self::Only(these) => these.contains(destination),
            Self::Except(these) => !these.contains(destination),
        }
    }
}

/// Result of [`Outbox::cancel`](super::Outbox::cancel) for one callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cancelled {
    /// It was pending and is now failed.
    Done,
    /// It is being sent and stays pending.
    InFlight,
    /// It is not pending.
    NotPending,
    /// There is no such callback.
    Unknown,
}

/// Result of [`Outbox::mend`](super::Outbox::mend).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mended {
    /// Number of rows or callbacks that were repaired.
    pub mended: u64,
    /// Number of jobs and callbacks that cannot be repaired, because a row cannot be read.
    pub stuck: u64,
    /// `after` of the next step; `None` at the end.
    pub next: Option<Vec<u8>>,
}
