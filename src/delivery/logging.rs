//! The log's lines about deliveries, each written where the thing is decided.

use crate::{
    callback::Destination,
    clock::Timestamp,
    measure,
    outbox::{Failure, Record, State},
};

/// The line of what has become of a callback.
pub fn log_outcome(record: &Record, due: Option<Timestamp>) {
    macro_rules! line {
        ($level:ident, $action:literal, $outcome:literal, $message:literal) => {
            tracing::$level!(
                event.action = $action,
                event.outcome = $outcome,
                event.duration = record
                    .last_attempt
                    .as_ref()
                    .map(|attempt| attempt.duration_ms.saturating_mul(1_000_000)),
                callback.id = %record.id,
                callback.attempt = record.attempt_count,
                callback.next_attempt_at = due.map(tracing::field::display),
                dpf.job_id = record.body.job_id,
                dpf.job_id_fs = record.body.job_id_fs,
                dpf.job_state = record.body.job_state.as_str(),
                http.request.method = record.last_attempt.as_ref().map(|_| "PUT"),
                http.response.status_code =
                    record.last_attempt.as_ref().and_then(|attempt| attempt.status),
                url.full = %record.url,
                url.domain = record.destination.host(),
                callback.destination = record.destination.as_str(),
                "error.type" = error(record).map(|it| it.kind.as_str()),
                error.message = error(record).map(|it| it.message.as_str()),
                $message
            )
        };
    }
    match record.state {
        State::Delivered(at) => {
            measure::delivered(at.since(record.created_at));
            line!(info, "callback-delivered", "success", "callback delivered");
        }
        State::Pending(_) => {
            line!(warn, "callback-retry", "failure", "callback to be retried");
        }
        State::Failed(_) => {
            line!(error, "callback-failed", "failure", "callback finally failed");
        }
    }
}

/// What a line says of the error: a delivered one has none, whatever it had before.
fn error(record: &Record) -> Option<&Failure> {
    record.last_error.as_ref().filter(|_| !matches!(record.state, State::Delivered(_)))
}

/// The line for a breaker that opened, or, without a next probe, closed.
pub(super) fn log_breaker(destination: &Destination, next_probe_at: Option<Timestamp>) {
    if let Some(at) = next_probe_at {
        tracing::warn!(
            event.action = "destination-open",
            url.domain = destination.host(),
            callback.destination = destination.as_str(),
            callback.next_attempt_at = %at,
            "the destination does not answer; one probe at a time"
        );
    } else {
        tracing::info!(
            event.action = "destination-closed",
            url.domain = destination.host(),
            callback.destination = destination.as_str(),
            "the destination answers again"
        );
    }
}
