//! Why an exchange has no response.

use super::{clients::CheckError, connecting::ClientError};
use crate::outbox::{ErrorKind, Failure};

/// Why an exchange has no response.
#[derive(Debug)]
pub(super) enum NotMade {
    /// No request was made: its DNS look-up could not start.
    NoLookup,
    /// The exchange failed.
    Failed(Failure),
}

impl From<Failure> for NotMade {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<CheckError> for NotMade {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Denied(denied) => Self::Failed(Failure::denied(&denied)),
            CheckError::Unsupported => {
                Self::Failed(Failure::new(ErrorKind::InvalidUrl, error.to_string()))
            }
            CheckError::NoLookup(_) => Self::NoLookup,
        }
    }
}

impl From<ClientError> for NotMade {
    fn from(error: ClientError) -> Self {
        Self::Failed(Failure::new(ErrorKind::Connect, error.to_string()))
    }
}
