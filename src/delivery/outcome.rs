//! The outcome of an attempt: what it means for the callback and for its destination.

use std::time::Duration;

use crate::{
    outbox::{Attempt, ErrorKind},
    recent::Reason,
};

/// What an outcome means for the callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A 2xx with a complete body.
    Success,
    /// A retry cannot succeed.
    Final,
    /// A retry may succeed.
    Transient,
}

/// The outcome of an attempt.
#[derive(Debug)]
pub struct Outcome {
    /// The attempt as it is stored.
    pub attempt: Attempt,
    /// What it means for the callback.
    pub verdict: Verdict,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Outcome {
    /// Why it failed, to be shown with its destination.
    pub fn reason(&self) -> Option<Reason> {
        let error = self.attempt.error.as_ref()?;
        Some(Reason {
            kind: error.kind.as_str(),
            status: error.status,
            message: error.message.clone(),
            of_destination: self.destination_health() == DestinationHealth::Failing,
        })
    }

    /// What it means for the destination.
    pub fn destination_health(&self) -> DestinationHealth {
        match (&self.attempt.error, self.attempt.status) {
            (_, Some(408 | 429 | 500..)) => DestinationHealth::Failing,
            // An incomplete body is a failure of the destination, even after a 2xx.
            (Some(error), _) if error.kind == ErrorKind::Body => DestinationHealth::Failing,
            (_, Some(_)) => DestinationHealth::Working,
            // A message that a broker has stored.
            (None, None) => DestinationHealth::Working,
            (Some(error), None) => match error.kind {
                ErrorKind::InvalidUrl | ErrorKind::Egress => DestinationHealth::Unknown,
                _ => DestinationHealth::Failing,
            },
        }
    }
}

/// What an outcome means for the destination.
///
/// A *failure* of the destination is an attempt without a response (DNS, connection, TLS, time-out,
/// incomplete body) or with a status that reports overload or an error of the server: 408, 429 and 5xx.
/// Any other status shows that the destination works, even if it rejects this callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationHealth {
    /// It responded with a status other than 408, 429 and 5xx.
    Working,
    /// A failure, as described above.
    Failing,
    /// Unknown: no request was made, or it was aborted.
    Unknown,
}
