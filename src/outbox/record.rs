//! What is stored of a callback, and how its bytes are laid out.
//!
//! A stored value is `format (1 byte) ‖ place (1 byte) ‖ postcard`. The place stands outside
//! the encoded part so that a scan can pass over a record without decoding it. A change of
//! any struct here is a change of the format: it needs a new number in [`RECORD_FORMAT`] and
//! a file in `migrations/`.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    callback::{Body, CallbackId, Destination, SecretUrl},
    clock::Timestamp,
};

/// The first byte of every stored value.
pub const RECORD_FORMAT: u8 = 1;

/// What kind of failure an error is; the words of the contract, section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The receiver answered with a status that is no success.
    Status,
    /// A deadline passed.
    Timeout,
    /// No connection, or it broke before the answer came.
    Connect,
    /// The host's name has no address.
    Dns,
    /// The TLS handshake failed.
    Tls,
    /// The answer's body was broken off or too long.
    Body,
    /// The egress policy forbids the address.
    Egress,
    /// The URL can never be called.
    InvalidUrl,
    /// `retry.max_age` has passed.
    Expired,
    /// `retry.max_attempts` were made.
    Exhausted,
    /// An operator cancelled it.
    Cancelled,
}

impl ErrorKind {
    /// The word for it in JSON, in the log and in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Body => "body",
            Self::Egress => "egress",
            Self::InvalidUrl => "invalid_url",
            Self::Expired => "expired",
            Self::Exhausted => "exhausted",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why an attempt or a whole callback failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Failure {
    /// The class that decides and that scripts look at.
    pub kind: ErrorKind,
    /// A sentence for people; never a secret.
    pub message: String,
    /// The receiver's status, where one came.
    pub status: Option<u16>,
}

impl Failure {
    /// A failure without a status.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), status: None }
    }
}

/// One PUT and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// 1, 2, 3 …; goes on over replays.
    pub number: u32,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// How long it took, from the first look-up to the last byte, in milliseconds.
    pub duration_ms: u64,
    /// The receiver's status, where one came.
    pub status: Option<u16>,
    /// What was wrong; `None` for a success.
    pub error: Option<Failure>,
    /// The address that was connected to.
    pub peer: Option<String>,
    /// The beginning of the answer's body.
    pub response_excerpt: Option<String>,
}

/// Where a pending callback stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// First of its job and never put off: due since it was accepted.
    Fresh,
    /// First of its job and due at this time.
    Scheduled(Timestamp),
    /// An earlier callback of the job has to end first; not due before this time even then.
    Blocked(Timestamp),
}

/// What has become of a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Not ended.
    Pending(Readiness),
    /// The receiver took it at this time.
    Delivered(Timestamp),
    /// Given up at this time; only a replay brings it back.
    Failed(Timestamp),
}

/// The three words for [`State`] that the outside knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StateName {
    /// Not ended.
    Pending,
    /// Taken by the receiver.
    Delivered,
    /// Given up.
    Failed,
}

impl StateName {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// Everything that is stored of a callback, but its earlier attempts, which have rows of
/// their own so that a retry writes a bounded number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its public name.
    pub id: CallbackId,
    /// The producer's idempotency key.
    pub event_id: Option<String>,
    /// What the receiver gets.
    pub body: Body,
    /// Where it goes, password included.
    pub url: SecretUrl,
    /// Scheme, host and port of it.
    pub destination: Destination,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// `pending`, `delivered` or `failed`.
    pub state: State,
    /// How many attempts were made, ever.
    pub attempt_count: u32,
    /// How many of them count against `retry.max_attempts`: those since the last replay.
    pub budget_attempts: u32,
    /// When `retry.max_age` began to run: acceptance or the last replay.
    pub budget_since: Timestamp,
    /// Number of replays.
    pub replays: u32,
    /// The last error.
    pub last_error: Option<Failure>,
    /// The last attempt.
    pub last_attempt: Option<Attempt>,
}

impl Record {
    /// The outside's word for the state.
    pub const fn state_name(&self) -> StateName {
        match self.state {
            State::Pending(_) => StateName::Pending,
            State::Delivered(_) => StateName::Delivered,
            State::Failed(_) => StateName::Failed,
        }
    }

    /// When it ended, if it has.
    pub const fn finished_at(&self) -> Option<Timestamp> {
        match self.state {
            State::Pending(_) => None,
            State::Delivered(at) | State::Failed(at) => Some(at),
        }
    }

    /// The number that the next attempt has.
    pub const fn next_attempt(&self) -> u32 {
        self.attempt_count.saturating_add(1)
    }
}

/// The bytes are not what this version writes.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Written by another version, or overwritten.
    #[error("its format byte is {0:?}, not {RECORD_FORMAT}")]
    Format(Option<u8>),
    /// Broken inside.
    #[error("it does not decode: {0}")]
    Postcard(#[from] postcard::Error),
}

/// Whether the stored value is a [`Readiness::Fresh`] one, told by its second byte alone.
pub fn is_fresh(bytes: &[u8]) -> bool {
    bytes.get(1) == Some(&FRESH)
}

const FRESH: u8 = 1;
const OTHER: u8 = 0;

/// The bytes of a record.
pub fn encode(record: &Record) -> Result<Vec<u8>, CodecError> {
    let place = if record.state == State::Pending(Readiness::Fresh) { FRESH } else { OTHER };
    encode_value(place, record)
}

/// The bytes of any other row.
pub fn encode_row<T: Serialize>(row: &T) -> Result<Vec<u8>, CodecError> {
    encode_value(OTHER, row)
}

fn encode_value<T: Serialize>(place: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend([RECORD_FORMAT, place]);
    Ok(postcard::to_extend(value, bytes)?)
}

/// What [`encode`] or [`encode_row`] wrote.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes {
        [RECORD_FORMAT, _, rest @ ..] => Ok(postcard::from_bytes(rest)?),
        other => Err(CodecError::Format(other.first().copied())),
    }
}
