//! What came of an attempt: what it says about the callback, and about its destination.

use std::time::Duration;

use crate::outbox::{Attempt, ErrorKind};

/// What kind of an end an attempt has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A 2xx with its whole body.
    Success,
    /// It will never work.
    Final,
    /// It may work later.
    Transient,
}

/// An attempt and what it means.
#[derive(Debug)]
pub struct Outcome {
    /// What is recorded.
    pub attempt: Attempt,
    /// What it means for the callback.
    pub verdict: Verdict,
    /// The pause that the receiver asked for.
    pub retry_after: Option<Duration>,
}

impl Outcome {
    /// What it means for the destination.
    pub fn health(&self) -> DestinationHealth {
        match (&self.attempt.error, self.attempt.status) {
            (_, Some(408 | 429 | 500..)) => DestinationHealth::Failing,
            (Some(error), _) if error.kind == ErrorKind::Body => DestinationHealth::Failing,
            (_, Some(_)) => DestinationHealth::Answered,
            (None, None) => DestinationHealth::Unknown,
            (Some(error), None) => match error.kind {
                ErrorKind::InvalidUrl | ErrorKind::Egress => DestinationHealth::Unknown,
                _ => DestinationHealth::Failing,
            },
        }
    }
}

/// What an attempt says about its destination.
///
/// A failure of the *destination* is no answer (no connection, DNS, TLS, a time-out, a broken body)
/// or a status by which a server says that it cannot cope: 408, 429 and 5xx. Any other status shows
/// that it is there, whatever it thinks of this one callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationHealth {
    /// It did, with whatever status.
    Answered,
    /// It did not, or said that it cannot cope.
    Failing,
    /// Nothing was learnt: no attempt was made, or it was broken off by us.
    Unknown,
}
