//! From a job event to a stored callback: one way for the API and for the command line.

use std::sync::Arc;

use crate::{
    callback::{Body, CallbackId, Destination, SecretUrl, parse_url, tracker_url},
    egress::Policy,
    event::{self, JobEvent, Malformed, Parsed},
    measure,
    outbox::{Enqueued, ErrorKind, Failure, NewCallback, Outbox, OutboxError, Sequence},
};

/// What became of one event (contract, 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Durable on disk, and will be delivered.
    Accepted(CallbackId),
    /// An event with this `eventId` is stored under this id.
    Duplicate(CallbackId),
    /// No callback was asked for.
    Ignored(String),
    /// A callback was asked for and can never be sent. Stored as failed, unless as many failed ones
    /// are kept as may be pending.
    Failed(Option<CallbackId>, String),
    /// Malformed.
    Refused(Malformed),
}

impl Outcome {
    /// The word for it in JSON.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Duplicate(_) => "duplicate",
            Self::Ignored(_) => "ignored",
            Self::Failed(..) => "failed",
            Self::Refused(_) => "refused",
        }
    }
}

/// An event on its way.
#[derive(Debug)]
pub struct Prepared(Step);

#[derive(Debug)]
enum Step {
    Done(Outcome),
    Store(Box<NewCallback>),
}

/// Takes events in.
#[derive(Clone)]
pub struct Intake {
    outbox: Arc<dyn Outbox>,
    policy: Arc<Policy>,
    tracker_template: Option<Arc<str>>,
}

impl Intake {
    /// An intake into `outbox`.
    pub fn new(outbox: Arc<dyn Outbox>, policy: Policy, tracker_template: Option<&str>) -> Self {
        Self {
            outbox,
            policy: Arc::new(policy),
            tracker_template: tracker_template.map(Into::into),
        }
    }

    /// Reads one event and finds out what is to be done with it.
    pub fn prepare(&self, json: &[u8]) -> Prepared {
        Prepared(match event::parse(json) {
            Err(malformed) => Step::Done(Outcome::Refused(malformed)),
            Ok(Parsed::Ignored(why)) => Step::Done(Outcome::Ignored(why.to_string())),
            Ok(Parsed::Callback(event)) => Step::Store(Box::new(self.callback(event))),
        })
    }

    /// An event that is refused before it was read.
    pub fn refuse(malformed: Malformed) -> Prepared {
        Prepared(Step::Done(Outcome::Refused(malformed)))
    }

    fn callback(&self, event: JobEvent) -> NewCallback {
        let parsed = parse_url(event.url.reveal());
        let destination = Destination::of_callback(event.url.reveal());
        let refusal = match &parsed {
            Err(error) => Some(Failure::new(ErrorKind::InvalidUrl, error.to_string())),
            Ok(url) => self
                .policy
                .check_url(url)
                .err()
                .map(|denied| Failure::new(ErrorKind::Egress, denied.to_string())),
        };
        let template = self.tracker_template.as_deref();
        let dpf_tracker_url = event.tracker_url.or_else(|| {
            template.map(|template| tracker_url(template, &event.job_id, &event.job_id_fs))
        });
        NewCallback {
            event_id: event.event_id,
            body: Body {
                job_id: event.job_id,
                job_id_fs: event.job_id_fs,
                job_state: event.job_state,
                exit_status: event.exit_status,
                error_reason: event.error_reason,
                dpf_tracker_url,
            },
            url: event.url,
            destination,
            refusal,
        }
    }

    /// Stores what is to be stored, in order, and says for each event what became of it once
    /// the disk has it. The place in the order is taken when this is called.
    pub fn take(
        &self,
        events: Vec<Prepared>,
        sequence: Sequence,
    ) -> impl Future<Output = Result<Vec<Outcome>, OutboxError>> + Send + use<> {
        let mut batch = Vec::new();
        let mut lines = Vec::new();
        let mut outcomes = Vec::with_capacity(events.len());
        for Prepared(step) in events {
            match step {
                Step::Done(outcome) => outcomes.push(Some(outcome)),
                Step::Store(new) => {
                    lines.push(Line::of(&new));
                    batch.push(*new);
                    outcomes.push(None);
                }
            }
        }
        let stored = (!batch.is_empty()).then(|| self.outbox.enqueue(batch, sequence));
        async move {
            let stored = match stored {
                Some(stored) => stored.await?,
                None => Vec::new(),
            };
            let mut stored = stored.into_iter().zip(lines);
            let outcomes = outcomes.into_iter().map(|known| {
                let outcome = match known {
                    Some(outcome) => {
                        log_unstored(&outcome);
                        outcome
                    }
                    None => match stored.next() {
                        Some((Enqueued::Stored(id), line)) => line.stored(Some(id)),
                        Some((Enqueued::Duplicate(id), line)) => line.duplicate(id),
                        Some((Enqueued::NotKept, line)) => line.stored(None),
                        // The outbox answers for each callback of the batch.
                        None => Outcome::Refused(Malformed::Json("not stored".into())),
                    },
                };
                measure::event(outcome.word());
                outcome
            });
            Ok(outcomes.collect())
        }
    }
}

/// What the log says of an event that was stored.
struct Line {
    job_id: String,
    job_id_fs: String,
    job_state: &'static str,
    url: SecretUrl,
    destination: Destination,
    refusal: Option<Failure>,
}

impl Line {
    fn of(new: &NewCallback) -> Self {
        Self {
            job_id: new.body.job_id.clone(),
            job_id_fs: new.body.job_id_fs.clone(),
            job_state: new.body.job_state.as_str(),
            url: new.url.clone(),
            destination: new.destination.clone(),
            refusal: new.refusal.clone(),
        }
    }

    fn stored(self, id: Option<CallbackId>) -> Outcome {
        macro_rules! line {
            ($level:ident, $action:literal, $outcome:literal, $message:literal) => {
                tracing::$level!(
                    event.action = $action,
                    event.outcome = $outcome,
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
            (None, Some(id)) => {
                line!(info, "callback-accepted", "success", "callback accepted");
                Outcome::Accepted(id)
            }
            (Some(failure), Some(id)) => {
                line!(error, "callback-failed", "failure", "callback can never be sent");
                Outcome::Failed(Some(id), failure.message.clone())
            }
            (failure, None) => {
                line!(error, "callback-failed", "failure", "callback can never be sent; not kept");
                measure::ended(0, 1);
                let why = failure.as_ref().map_or("", |failure| failure.message.as_str());
                Outcome::Failed(
                    None,
                    format!("{why}; not kept, since outbox.max_pending failed callbacks are"),
                )
            }
        }
    }

    fn duplicate(self, id: CallbackId) -> Outcome {
        tracing::info!(
            event.action = "event-duplicate",
            callback.id = %id,
            dpf.job_id = self.job_id,
            dpf.job_state = self.job_state,
            "an event with this eventId is stored already"
        );
        Outcome::Duplicate(id)
    }
}

fn log_unstored(outcome: &Outcome) {
    match outcome {
        Outcome::Refused(malformed) => tracing::warn!(
            event.action = "event-refused",
            event.outcome = "failure",
            error.message = %malformed,
            "event refused"
        ),
        Outcome::Ignored(why) => {
            tracing::debug!(event.action = "event-ignored", event.reason = why, "event ignored");
        }
        Outcome::Accepted(_) | Outcome::Duplicate(_) | Outcome::Failed(..) => {}
    }
}
