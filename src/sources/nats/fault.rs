//! Why no events come from NATS.

use std::{io, path::PathBuf};

/// Why events are not pulled. The message names the setting concerned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// There is no connection.
    #[error("not connected to {servers}: {reason} (nats.servers)")]
    Connection {
        /// The servers.
        servers: String,
        /// The reason.
        reason: String,
    },
    /// A file with a secret.
    #[error("cannot use {}: {reason}", file.display())]
    Secret {
        /// Which one.
        file: PathBuf,
        /// The reason, without the content of the file.
        reason: String,
    },
    /// The server does not answer a request, or rejects it.
    #[error("{what}: {reason}")]
    Request {
        /// What was requested.
        what: String,
        /// The reason.
        reason: String,
    },
    /// There is no such consumer.
    #[error("consumer {0} (nats.consumer) does not exist; create it, or set nats.create_consumer")]
    NoConsumer(String),
    /// The stream or the consumer is not as the service needs it.
    #[error("{0}")]
    Unsuitable(String),
}

impl Fault {
    pub(super) fn secret(file: &std::path::Path, error: &io::Error) -> Self {
        Self::Secret { file: file.to_owned(), reason: error.to_string() }
    }

    pub(super) fn request(what: impl Into<String>, error: impl std::fmt::Display) -> Self {
        Self::Request { what: what.into(), reason: error.to_string() }
    }

    /// Adds the errors that the server reported by itself: a request that is not permitted gets no answer.
    #[must_use]
    pub(super) fn with(mut self, said: Option<String>) -> Self {
        if let (Self::Request { reason, .. }, Some(said)) = (&mut self, said) {
            reason.push_str("; the server says: ");
            reason.push_str(&said);
        }
        self
    }
}
