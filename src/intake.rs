//! From a job event to a stored callback, for the API and the command line.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    callback::{Body, CallbackId, Destination, parse_url, tracker_url},
    egress::Policy,
    event::{self, Given, JobEvent, Malformed, Parsed},
    measure,
    outbox::{Enqueued, ErrorKind, Failure, NewCallback, Outbox, OutboxError, Sequence},
    report::{self, EventLine},
};

/// The outcome of one event (docs/producing-events.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventOutcome {
    /// Durable; it will be delivered.
    Accepted(CallbackId),
    /// An event with this `eventId` is stored under this id.
    Duplicate(CallbackId),
    /// The event does not request a callback.
    Ignored(String),
    /// The requested callback can never be sent. It is stored as failed, unless there are
    /// `outbox.max_pending` failed callbacks already.
    Failed(Option<CallbackId>, String),
    /// Malformed.
    Refused(Malformed),
}

impl EventOutcome {
    /// Its name in JSON.
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

/// A parsed event that has not been stored yet, or that needs no storing.
#[derive(Debug, Clone)]
pub struct Prepared(Step);

#[derive(Debug, Clone)]
enum Step {
    Done(EventOutcome),
    Store(Box<NewCallback>),
}

/// Accepts events.
#[derive(Clone)]
pub struct Intake {
    outbox: Arc<dyn Outbox>,
    rules: Arc<ArcSwap<Rules>>,
}

/// What comes from the settings. It can be replaced while the service runs.
struct Rules {
    policy: Policy,
    tracker_template: Option<String>,
}

impl Rules {
    fn new(policy: Policy, tracker_template: Option<&str>) -> Self {
        Self { policy, tracker_template: tracker_template.map(str::to_owned) }
    }
}

impl Intake {
    /// Creates an intake that stores into `outbox`.
    pub fn new(outbox: Arc<dyn Outbox>, policy: Policy, tracker_template: Option<&str>) -> Self {
        Self {
            outbox,
            rules: Arc::new(ArcSwap::from_pointee(Rules::new(policy, tracker_template))),
        }
    }

    /// Replaces the rules, for this intake and its clones.
    pub fn replace(&self, policy: Policy, tracker_template: Option<&str>) {
        self.rules.store(Arc::new(Rules::new(policy, tracker_template)));
    }

    /// Parses one event, with `given` known from elsewhere, and applies the rules.
    pub fn prepare(&self, json: &[u8], given: Given) -> Prepared {
        self.prepare_parsed(event::parse_with(json, given))
    }

    /// Applies the rules to an event that was parsed.
    pub fn prepare_parsed(&self, parsed: Result<Parsed, Malformed>) -> Prepared {
        Prepared(match parsed {
            Err(malformed) => Step::Done(EventOutcome::Refused(malformed)),
            Ok(Parsed::Ignored(why)) => Step::Done(EventOutcome::Ignored(why.to_string())),
            Ok(Parsed::Callback(event)) => Step::Store(Box::new(self.callback(event))),
        })
    }

    /// An event that is refused without being parsed.
    pub fn refuse(malformed: Malformed) -> Prepared {
        Prepared(Step::Done(EventOutcome::Refused(malformed)))
    }

    fn callback(&self, event: JobEvent) -> NewCallback {
        let rules = self.rules.load();
        let parsed = parse_url(event.url.reveal());
        let destination = Destination::of_callback(event.url.reveal());
        let refusal = match &parsed {
            Err(error) => Some(Failure::new(ErrorKind::InvalidUrl, error.to_string())),
            Ok(url) => rules.policy.check_url(url).err().map(|denied| Failure::denied(&denied)),
        };
        let template = rules.tracker_template.as_deref();
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
            trace: event.trace.map(|it| *it),
            refusal,
        }
    }

    /// Stores the events in order and returns the outcome of each when it is durable. The order is that
    /// of the calls, not the order in which the futures are polled.
    pub fn take(
        &self,
        events: Vec<Prepared>,
        sequence: Sequence,
    ) -> impl Future<Output = Result<Vec<EventOutcome>, OutboxError>> + Send + use<> {
        let mut batch = Vec::new();
        let mut lines = Vec::new();
        let mut outcomes = Vec::with_capacity(events.len());
        for Prepared(step) in events {
            match step {
                Step::Done(outcome) => outcomes.push(Some(outcome)),
                Step::Store(new) => {
                    lines.push(EventLine::of(&new));
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
                        match &outcome {
                            EventOutcome::Refused(malformed) => report::event_refused(malformed),
                            EventOutcome::Ignored(why) => report::event_ignored(why),
                            _ => {}
                        }
                        outcome
                    }
                    None => match stored.next() {
                        Some((Enqueued::Stored(id), line)) => stored_outcome(&line, Some(id)),
                        Some((Enqueued::NotKept, line)) => stored_outcome(&line, None),
                        Some((Enqueued::Duplicate(id), line)) => {
                            line.duplicate(id);
                            EventOutcome::Duplicate(id)
                        }
                        None => {
                            debug_assert!(
                                false,
                                "the outbox answers for each callback of the batch"
                            );
                            EventOutcome::Refused(Malformed::Json("not stored".into()))
                        }
                    },
                };
                measure::event(outcome.word());
                outcome
            });
            Ok(outcomes.collect())
        }
    }
}

/// Reports an event that the outbox has stored or, without an id, has not kept.
fn stored_outcome(line: &EventLine, id: Option<CallbackId>) -> EventOutcome {
    line.stored(id);
    let why = line.refusal().map(|failure| failure.message.as_str());
    match (why, id) {
        (None, Some(id)) => EventOutcome::Accepted(id),
        (Some(why), Some(id)) => EventOutcome::Failed(Some(id), why.to_owned()),
        (why, None) => EventOutcome::Failed(
            None,
            format!(
                "{}; not stored: there are outbox.max_pending failed callbacks already",
                why.unwrap_or_default()
            ),
        ),
    }
}
