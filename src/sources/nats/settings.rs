//! The settings `nats.*`.

use std::{path::PathBuf, time::Duration};

use super::credentials::Access;
use crate::{outbox::OutcomeEvents, tls::PairFiles};

/// Where job events come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// URLs of the servers of a cluster.
    pub servers: Vec<String>,
    /// The stream.
    pub stream: String,
    /// The durable pull consumer.
    pub consumer: String,
    /// Whether the consumer is created if there is none.
    pub create_consumer: bool,
    /// The consumer's subjects; empty: every subject of the stream.
    pub filter_subjects: Vec<String>,
    /// The `event` of messages without one, by patterns of subjects.
    pub events: Vec<(String, String)>,
    /// How many messages one request asks for.
    pub batch: usize,
    /// How long the server waits for an acknowledgement, for a consumer that is created.
    pub ack_wait: Duration,
    /// The subject for messages that can never become an event.
    pub dead_letter_subject: Option<String>,
    /// Outcome events, if they are enabled.
    pub outcome_events: Option<OutcomeEvents>,
    /// How the service identifies itself.
    pub access: Access,
    /// Certificates of authorities, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client certificate.
    pub identity: Option<PairFiles>,
    /// Whether the TLS handshake precedes the server's first message.
    pub tls_first: bool,
    /// Maximum size of a message, in bytes: `api.max_event_bytes`.
    pub max_event_bytes: usize,
}
