//! Outcomes of events and callbacks: the one place where they are logged and counted.
//!
//! There is one function for each outcome, so that log and metrics agree. The failure of a callback is
//! reported by one of four: [`EventLine::stored`] (it can never be sent), [`outcome`], [`cancelled`] (one
//! callback), and [`all_cancelled`] (a selection of callbacks, with their number only).
//!
//! A failure is reported at most once: not if the process is killed between the commit and the report, and
//! not for imported callbacks or by commands that work on the store without a service. The functions are
//! called by tasks that serve all callbacks, so they must not block. Ended callbacks that are stored are
//! counted by the outbox when they are durable ([`measure::ended`]).

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    callback::{CallbackId, Destination, SecretUrl, Span, Trace},
    clock::Timestamp,
    event::Malformed,
    measure,
    outbox::{Criteria, ErrorKind, Failure, NewCallback, OutboxError, Readiness, Record, State},
    recent,
};

/// The fields of the log line of an event that requests a callback.
#[derive(Debug)]
pub struct EventLine {
    job_id: String,
    job_id_fs: String,
    job_state: &'static str,
    url: SecretUrl,
    destination: Destination,
    refusal: Option<Failure>,
    trace: Option<Trace>,
}

impl EventLine {
    /// The fields for an event that is about to be stored.
    pub fn of(new: &NewCallback) -> Self {
        Self {
            job_id: new.body.job_id.clone(),
            job_id_fs: new.body.job_id_fs.clone(),
            job_state: new.body.job_state.as_str(),
            url: new.url.clone(),
            destination: new.destination.clone(),
            refusal: new.refusal.clone(),
            trace: new.trace.clone(),
        }
    }

    /// Why the callback can never be sent; `None` if it can.
    pub fn refusal(&self) -> Option<&Failure> {
        self.refusal.as_ref()
    }

    /// The event was stored under this id. Without an id, it was not stored: its callback can never be
    /// sent, and there are `outbox.max_pending` failed callbacks already.
    pub fn stored(&self, id: Option<CallbackId>) {
        macro_rules! line {
            ($level:ident, $action:literal, $outcome:literal, $message:literal) => {
                tracing::$level!(
                    event.action = $action,
                    event.outcome = $outcome,
                    trace.id = self.trace.as_ref().map(Trace::id),
                    callback.id = id.map(tracing::field::display),
                    dpf.job_id = self.job_id,
                    dpf.job_id_fs = self.job_id_fs,
                    dpf.job_state = self.job_state,
                    url.full = %self.url,
                    url.domain = self.destination.host(),
                    callback.destination = self.destination.as_str(),
                    "error.type" = self.refusal.as_ref().map(|it| it.kind.as_str()),
                    error.message = self.refusal.as_ref().map(|it| it.message.as_str()),
                    $message
                )
            };
        }
        match (&self.refusal, id) {
            (None, Some(_)) => {
                recent::accepted();
                line!(info, "callback-accepted", "success", "callback accepted");
            }
            (Some(_), Some(_)) => {
                line!(error, "callback-failed", "failure", "callback can never be sent");
            }
            (_, None) => {
                line!(
                    error,
                    "callback-failed",
                    "failure",
                    "callback can never be sent; not stored"
                );
                measure::ended(0, 1);
            }
        }
    }

    /// An event with its `eventId` is stored already, under this id.
    pub fn duplicate(&self, id: CallbackId) {
        tracing::info!(
            event.action = "event-duplicate",
            callback.id = %id,
            dpf.job_id = self.job_id,
            dpf.job_state = self.job_state,
            "an event with this eventId is stored already"
        );
    }
}

/// An event is malformed.
pub fn event_refused(malformed: &Malformed) {
    tracing::warn!(
        event.action = "event-refused",
        event.outcome = "failure",
        error.message = %malformed,
        "event refused"
    );
}

/// An event requests no callback.
pub fn event_ignored(why: &str) {
    tracing::debug!(event.action = "event-ignored", event.reason = why, "event ignored");
}

/// An operator cancelled a callback.
pub fn cancelled(id: CallbackId) {
    tracing::info!(
        event.action = "callback-cancelled",
        event.outcome = "success",
        callback.id = %id,
        "an operator cancelled a callback"
    );
}

/// The audit line of an action on selected callbacks: how many matched and were changed, the number of
/// ids in the request, and the criteria.
macro_rules! audit {
    ($action:literal, $what:ident, $changed:expr, $named:expr, $criteria:expr, $message:literal) => {
        tracing::info!(
            event.action = $action,
            event.outcome = "success",
            callback.matched = $changed.0,
            callback.$what = $changed.1,
            callback.named = $named,
            callback.destination = $criteria.destination.as_ref().map(Destination::as_str),
            callback.error_kind = $criteria.error_kind.map(ErrorKind::as_str),
            callback.since = $criteria.since.map(tracing::field::display),
            callback.until = $criteria.until.map(tracing::field::display),
            callback.ended_since = $criteria.ended_since.map(tracing::field::display),
            callback.ended_until = $criteria.ended_until.map(tracing::field::display),
            dpf.job_id = $criteria.job_id,
            dpf.job_id_fs = $criteria.job_id_fs,
            $message
        )
    };
}

/// An operator replayed failed callbacks.
pub fn replayed(changed: (u64, u64), named: usize, criteria: &Criteria) {
    audit!(
        "callbacks-replayed",
        replayed,
        changed,
        named,
        criteria,
        "an operator replayed failed callbacks"
    );
}

/// An operator cancelled pending callbacks.
pub fn all_cancelled(changed: (u64, u64), named: usize, criteria: &Criteria) {
    audit!(
        "callbacks-cancelled",
        cancelled,
        changed,
        named,
        criteria,
        "an operator cancelled pending callbacks"
    );
}

/// An operator made pending callbacks due now.
pub fn retried_now(changed: (u64, u64), named: usize, criteria: &Criteria) {
    audit!(
        "callbacks-retried",
        due,
        changed,
        named,
        criteria,
        "an operator made pending callbacks due now"
    );
}

/// An operator paused or resumed a destination.
pub fn paused(destination: &Destination, paused: bool) {
    macro_rules! line {
        ($action:literal, $message:literal) => {
            tracing::info!(
                event.action = $action,
                event.outcome = "success",
                url.domain = destination.host(),
                callback.destination = destination.as_str(),
                $message
            )
        };
    }
    if paused {
        line!("destination-paused", "an operator paused a destination");
    } else {
        line!("destination-resumed", "an operator resumed a destination");
    }
}

/// The outcome of an attempt, or the end of a callback without one.
pub fn outcome(record: &Record) {
    let made = record.trace.as_ref().and(record.last_attempt.as_ref());
    let span = made.map(|attempt| Span::of(record.id, attempt.number));
    let due = match record.state {
        State::Pending(Readiness::Scheduled(at)) => Some(at),
        _ => None,
    };
    macro_rules! line {
        ($level:ident, $action:literal, $outcome:literal, $message:literal) => {
            tracing::$level!(
                event.action = $action,
                event.outcome = $outcome,
                event.duration = record
                    .last_attempt
                    .as_ref()
                    .map(|attempt| attempt.duration_ms.saturating_mul(1_000_000)),
                trace.id = record.trace.as_ref().map(Trace::id),
                span.id = span.map(Span::id),
                callback.id = %record.id,
                callback.attempt = record.attempt_count,
                callback.next_attempt_at = due.map(tracing::field::display),
                dpf.job_id = record.body.job_id,
                dpf.job_id_fs = record.body.job_id_fs,
                dpf.job_state = record.body.job_state.as_str(),
                http.request.method = record
                    .last_attempt
                    .as_ref()
                    .filter(|_| !record.destination.is_broker())
                    .map(|_| "PUT"),
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
            line!(warn, "callback-retry", "failure", "callback will be retried");
        }
        State::Failed(_) => {
            line!(error, "callback-failed", "failure", "callback failed");
        }
    }
}

/// The error of the line: none for a delivered callback, although it may have had errors before.
fn error(record: &Record) -> Option<&Failure> {
    record.last_error.as_ref().filter(|_| !matches!(record.state, State::Delivered(_)))
}

/// The breaker of a destination has opened.
pub fn opened(destination: &Destination, next_probe_at: Timestamp) {
    tracing::warn!(
        event.action = "destination-open",
        url.domain = destination.host(),
        callback.destination = destination.as_str(),
        callback.next_attempt_at = %next_probe_at,
        "the destination fails; from now on, one probe at a time is sent"
    );
}

/// A probe has failed, so the destination stays open.
pub fn probe_failed(destination: &Destination, next_probe_at: Timestamp) {
    tracing::debug!(
        event.action = "probe-failed",
        url.domain = destination.host(),
        callback.destination = destination.as_str(),
        callback.next_attempt_at = %next_probe_at,
        "the destination still fails"
    );
}

/// An attempt has closed the breaker of a destination.
pub fn works_again(destination: &Destination) {
    closed(destination, "the destination works again");
}

/// Logs that an operator has closed the breaker of a destination. It is not known whether the destination
/// works.
pub fn closed_by_operator(destination: &Destination) {
    closed(destination, "an operator has closed the breaker");
}

fn closed(destination: &Destination, why: &str) {
    tracing::info!(
        event.action = "destination-closed",
        url.domain = destination.host(),
        callback.destination = destination.as_str(),
        "{why}"
    );
}

/// The due callbacks of a destination cannot be read.
pub fn claim_failed(destination: &Destination, error: &OutboxError) {
    tracing::error!(
        event.action = "claim-failed",
        url.domain = destination.host(),
        callback.destination = destination.as_str(),
        error.message = %error,
        "cannot read the due callbacks of a destination"
    );
}

/// Something failed because the store cannot be reached, which ends by itself, or because the destination
/// is another instance's now. Everything may fail at once, so there is at most one line a second.
pub fn store_away(what: &str, error: &OutboxError) {
    static SELDOM: Seldom = Seldom::new();
    if let Some(repeats) = SELDOM.next() {
        tracing::warn!(
            event.action = "store-away",
            store.repeats = repeats,
            error.message = %error,
            "{what}; it is repeated later"
        );
    }
}

/// Lets one line a second through, and counts the others.
struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    const PAUSE: Duration = Duration::from_secs(1);

    const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// `Some` if a line may be logged now, with the number of lines that were not logged before it.
    fn next(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, unsaid) = &mut *state;
        if last.is_some_and(|last| last.elapsed() < Self::PAUSE) {
            *unsaid += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(unsaid))
    }
}
