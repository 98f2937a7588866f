//! The stored form of a callback.
//!
//! A stored value is `format (1 byte) ‖ 0 (1 byte) ‖ postcard`. A callback is stored as it was
//! accepted, and its later changes are its [`Progress`]. A change of any struct here changes the
//! format: it requires a new [`RECORD_FORMAT`] and a file in `migrations/`. The exception is
//! [`Record::trace`], the last field, which earlier versions did not write and pass over. A new variant of an enum
//! may be appended, but never inserted, because postcard stores its position.

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use crate::{
    callback::{Body, CallbackId, Destination, SecretUrl, Trace},
    clock::Timestamp,
};

/// The first byte of every stored value.
pub const RECORD_FORMAT: u8 = 1;

/// The kind of a failure (docs/operating.md). New kinds are appended, because postcard stores the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The receiver responded with a status other than 2xx.
    Status,
    /// A time-out.
    Timeout,
    /// No connection, or it broke before the response.
    Connect,
    /// The host name cannot be resolved.
    Dns,
    /// The TLS handshake failed.
    Tls,
    /// The response body was incomplete or too long.
    Body,
    /// The egress policy denies the address.
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
    /// All kinds. [`ErrorKind::as_str`] fails to compile without an arm for a new kind; add the kind
    /// here as well, or it cannot be selected.
    pub const ALL: [Self; 11] = [
        Self::Status,
        Self::Timeout,
        Self::Connect,
        Self::Dns,
        Self::Tls,
        Self::Body,
        Self::Egress,
        Self::InvalidUrl,
        Self::Expired,
        Self::Exhausted,
        Self::Cancelled,
    ];

    /// Its name in JSON, in the log and in tables.
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
    /// The kind, for decisions and scripts.
    pub kind: ErrorKind,
    /// A human-readable message without secrets.
    pub message: String,
    /// The response status, if there was a response.
    pub status: Option<u16>,
}

impl Failure {
    /// A failure without a status.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), status: None }
    }

    /// The failure of a callback to an address that the egress policy denies, for this reason.
    pub fn denied(reason: &impl ToString) -> Self {
        Self::new(ErrorKind::Egress, reason.to_string())
    }
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// 1, 2, 3 …; replays continue the numbering.
    pub number: u32,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// Duration from the DNS look-up to the last byte, in milliseconds.
    pub duration_ms: u64,
    /// The response status, if there was a response.
    pub status: Option<u16>,
    /// The error; `None` for a success.
    pub error: Option<Failure>,
    /// Address and port of the peer.
    pub peer: Option<String>,
    /// The beginning of the response body.
    pub response_excerpt: Option<String>,
}

/// Whether a pending callback can be sent. Of the pending callbacks of a job, exactly one is *active*:
/// `Fresh` or `Scheduled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// Active and never postponed: due since it was accepted.
    Fresh,
    /// Active and due at this time.
    Scheduled(Timestamp),
    /// Waits for another callback of the job to end, and is not due before this time.
    Blocked(Timestamp),
}

/// State of a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Not ended.
    Pending(Readiness),
    /// Delivered at this time.
    Delivered(Timestamp),
    /// Failed at this time; only a replay makes it pending again.
    Failed(Timestamp),
}

/// The name of a [`State`] in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StateName {
    /// Not ended.
    Pending,
    /// Delivered.
    Delivered,
    /// Failed.
    Failed,
}

impl StateName {
    /// The name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// A stored callback. Attempts before the last one have their own rows, so that a retry writes a
/// bounded number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The id.
    pub id: CallbackId,
    /// The producer's idempotency key.
    pub event_id: Option<String>,
    /// The body of the PUT.
    pub body: Body,
    /// The callback URL, with its password.
    pub url: SecretUrl,
    /// Scheme, host and port of the URL.
    pub destination: Destination,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// `pending`, `delivered` or `failed`.
    pub state: State,
    /// Number of attempts, over all replays.
    pub attempt_count: u32,
    /// Number of attempts since the last replay, which count toward `retry.max_attempts`.
    pub budget_attempts: u32,
    /// When `retry.max_age` began: at acceptance or the last replay.
    pub budget_since: Timestamp,
    /// Number of replays.
    pub replays: u32,
    /// The last error.
    pub last_error: Option<Failure>,
    /// The last attempt.
    pub last_attempt: Option<Attempt>,
    /// The trace that its event belongs to.
    #[serde(deserialize_with = "last_field")]
    pub trace: Option<Trace>,
}

/// A field behind those of earlier versions: `None` if the value ends before it.
#[expect(clippy::unnecessary_wraps, reason = "serde has it so")]
fn last_field<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Trace>, D::Error> {
    Ok(Option::deserialize(from).unwrap_or_default())
}

impl Record {
    /// The name of the state.
    pub const fn state_name(&self) -> StateName {
        match self.state {
            State::Pending(_) => StateName::Pending,
            State::Delivered(_) => StateName::Delivered,
            State::Failed(_) => StateName::Failed,
        }
    }
    /// Whether it waits for another callback of its job.
    pub const fn is_blocked(&self) -> bool {
        matches!(self.state, State::Pending(Readiness::Blocked(_)))
    }

    /// When it ended, if it has ended.
    pub const fn ended_at(&self) -> Option<Timestamp> {
        match self.state {
            State::Pending(_) => None,
            State::Delivered(at) | State::Failed(at) => Some(at),
        }
    }

    /// The number of the next attempt.
    pub const fn next_attempt(&self) -> u32 {
        self.attempt_count.saturating_add(1)
    }
}

/// The part of a [`Record`] that changes after it was accepted, and is written again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    state: State,
    attempt_count: u32,
    budget_attempts: u32,
    budget_since: Timestamp,
    replays: u32,
    last_error: Option<Failure>,
    last_attempt: Option<Attempt>,
}

impl Record {
    /// Its progress.
    pub fn progress(&self) -> Progress {
        Progress {
            state: self.state,
            attempt_count: self.attempt_count,
            budget_attempts: self.budget_attempts,
            budget_since: self.budget_since,
            replays: self.replays,
            last_error: self.last_error.clone(),
            last_attempt: self.last_attempt.clone(),
        }
    }

    /// The record with this progress; `None`: as it was accepted.
    #[must_use]
    pub fn with(self, progress: Option<Progress>) -> Self {
        let Some(progress) = progress else { return self };
        Self {
            state: progress.state,
            attempt_count: progress.attempt_count,
            budget_attempts: progress.budget_attempts,
            budget_since: progress.budget_since,
            replays: progress.replays,
            last_error: progress.last_error,
            last_attempt: progress.last_attempt,
            ..self
        }
    }
}

/// A stored value cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Another format, or overwritten.
    #[error("its format byte is {0:?}; expected {RECORD_FORMAT}")]
    Format(Option<u8>),
    /// Not valid postcard.
    #[error("it cannot be decoded: {0}")]
    Postcard(#[from] postcard::Error),
}

/// Encodes a record or the value of another row.
pub fn encode<T: Serialize + ?Sized>(row: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend([RECORD_FORMAT, 0]);
    Ok(postcard::to_extend(row, bytes)?)
}

/// Decodes what [`encode`] wrote.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes {
        [RECORD_FORMAT, _, rest @ ..] => Ok(postcard::from_bytes(rest)?),
        other => Err(CodecError::Format(other.first().copied())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::{NewCallback, transition};

    #[test]
    fn a_record_of_an_earlier_version_has_no_trace() {
        let trace = Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None);
        let new = NewCallback {
            event_id: None,
            body: Body::example(),
            url: "http://h/".to_owned().into(),
            destination: Destination::none(),
            trace: trace.clone(),
            refusal: None,
        };
        let id = CallbackId::from_u128(1);
        let traced = transition::accept(new, id, Timestamp::from_millis(1), true);
        assert_eq!(decode::<Record>(&encode(&traced).unwrap()).unwrap(), traced);
        let record = Record { trace: None, ..traced };
        let mut bytes = encode(&record).unwrap();
        assert_eq!(decode::<Record>(&bytes).unwrap(), record);
        assert_eq!(bytes.pop(), Some(0));
        assert_eq!(decode::<Record>(&bytes).unwrap(), record);
        bytes.pop();
        assert!(decode::<Record>(&bytes).is_err(), "every other field has to be there");
    }
}
