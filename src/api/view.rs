//! The JSON shapes of the API. The command line uses the same ones.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::destination_view::DestinationView;
use crate::{
    callback::{Body, Destination, JobState, PatternMap},
    clock::Timestamp,
    intake::EventOutcome,
    outbox::{
        Attempt, CallbackStatus, Detail, Failure, Instance, Page, Readiness, Retention, State,
        StateName, Summary, notice_of,
    },
};

/// The outcome of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutcomeView {
    /// `accepted`, `duplicate`, `ignored`, `failed` or `refused`.
    pub outcome: String,
    /// Id of the callback, if one is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The reason, if it was not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<&EventOutcome> for OutcomeView {
    fn from(outcome: &EventOutcome) -> Self {
        let (id, reason) = match outcome {
            EventOutcome::Accepted(id) | EventOutcome::Duplicate(id) => (Some(id), None),
            EventOutcome::Ignored(why) => (None, Some(why.clone())),
            EventOutcome::Failed(id, why) => (id.as_ref(), Some(why.clone())),
            EventOutcome::Refused(why) => (None, Some(why.to_string())),
        };
        Self { outcome: outcome.word().into(), id: id.map(ToString::to_string), reason }
    }
}

/// The outcome of one line of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineView {
    /// Line number in the input, from 1.
    pub line: u64,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: OutcomeView,
}

/// The settings that determine how long a callback is retried and kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// `retry.max_age`.
    pub max_age: Duration,
    /// `max_age` of the sections of `destinations`.
    pub max_ages: PatternMap<Option<Duration>>,
    /// `retention.*`.
    pub retention: Retention,
}

impl Terms {
    fn max_age(&self, destination: &Destination) -> Duration {
        self.max_ages.get(destination).copied().flatten().unwrap_or(self.max_age)
    }

    fn kept(&self, state: StateName) -> Duration {
        match state {
            StateName::Failed => self.retention.failed,
            StateName::Delivered | StateName::Pending => self.retention.delivered,
        }
    }
}

/// A callback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallbackView {
    /// The id, which is the `webhook-id` of every attempt.
    pub id: String,
    /// `pending`, `delivered` or `failed`.
    pub state: StateName,
    /// DPF's internal id of the job.
    pub job_id: String,
    /// Name of the job's directory.
    pub job_id_fs: String,
    /// State of the job.
    pub job_state: JobState,
    /// Callback URL; a password is shown as `***`.
    pub url: String,
    /// Scheme, host and port of the URL; null if it has none.
    pub destination: Option<String>,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// Number of attempts, of which the latest thousand and the last one are kept.
    pub attempt_count: u32,
    /// When the next attempt is due; null while it waits for another callback, or when it has ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Timestamp>,
    /// Id of the callback of the same job that has to end first.
    pub waiting_for: Option<String>,
    /// Whether it is being sent.
    pub in_flight: bool,
    /// Whether its destination is paused, so that it is neither sent nor expires.
    #[serde(default)]
    pub paused: bool,
    /// Whether it is blocked but the callback it waits for cannot be found, because the store is damaged. The
    /// service repairs this if possible, and logs it.
    #[serde(default)]
    pub stuck: bool,
    /// When it expires; null if it has ended or its destination is paused.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When it is removed; null while it is pending.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub purge_at: Option<Timestamp>,
    /// Number of replays.
    pub replays: u32,
    /// The last error.
    pub last_error: Option<Failure>,
    /// The body of the PUT; only when a single callback is requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    /// The body of the PUT of a notice, instead; only when a single callback is requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub notice: Option<serde_json::Value>,
    /// The attempts; only when a single callback is requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Vec<Attempt>>,
}

impl CallbackView {
    /// A callback in a list.
    pub fn new(status: &CallbackStatus, terms: &Terms) -> Self {
        let CallbackStatus { record, waiting_for, in_flight, paused, stuck, .. } = status;
        let next_attempt_at = match record.state {
            State::Pending(Readiness::Fresh) => Some(record.created_at),
            State::Pending(Readiness::Scheduled(due)) => Some(due),
            _ => None,
        };
        let destination = &record.destination;
        let state = record.state_name();
        let finished_at = record.ended_at();
        let pending = finished_at.is_none();
        Self {
            id: record.id.to_string(),
            state,
            job_id: record.body.job_id.clone(),
            job_id_fs: record.body.job_id_fs.clone(),
            job_state: record.body.job_state,
            url: record.url.to_string(),
            destination: (!destination.is_none()).then(|| destination.to_string()),
            created_at: record.created_at,
            finished_at,
            attempt_count: record.attempt_count,
            next_attempt_at,
            waiting_for: waiting_for.as_ref().map(ToString::to_string),
            in_flight: *in_flight,
            paused: *paused,
            stuck: *stuck,
            expires_at: (pending && !paused)
                .then(|| record.budget_since.after(terms.max_age(destination))),
            purge_at: finished_at.map(|at| at.after(terms.kept(state))),
            replays: record.replays,
            last_error: record.last_error.clone(),
            body: None,
            notice: None,
            attempts: None,
        }
    }

    /// A callback with its body and attempts.
    pub fn detailed(detail: Detail, terms: &Terms) -> Self {
        Self {
            body: (!detail.status.record.destination.is_notice())
                .then(|| detail.status.record.body.clone()),
            notice: notice_of(&detail.status.record)
                .and_then(|notice| serde_json::from_slice(&notice).ok()),
            attempts: Some(detail.attempts),
            ..Self::new(&detail.status, terms)
        }
    }
}

/// One page of callbacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PageView {
    /// The callbacks, newest first.
    pub callbacks: Vec<CallbackView>,
    /// `cursor` of the next page; null at the end. A page may be short, even empty, and have a next
    /// one.
    pub next_cursor: Option<String>,
}

impl PageView {
    /// A page of the store.
    pub fn new(page: &Page, terms: &Terms) -> Self {
        Self {
            callbacks: page.callbacks.iter().map(|it| CallbackView::new(it, terms)).collect(),
            next_cursor: page.next.map(|id| id.to_string()),
        }
    }
}

/// Summary of the outbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueView {
    /// Not ended: the sum of due, waiting and in flight.
    pub pending: u64,
    /// Due, including those of open, held and paused destinations.
    pub due: u64,
    /// Waiting for a retry or for another callback of their job.
    pub waiting: u64,
    /// Being sent.
    pub in_flight: u64,
    /// Delivered and not yet removed.
    pub delivered: u64,
    /// Failed and not yet removed.
    pub failed: u64,
    /// Age of the oldest due callback, in seconds since it became due; 0 if none is due.
    pub oldest_due_seconds: u64,
    /// When the next delivered callback is removed; null if there is none.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub delivered_purge_at: Option<Timestamp>,
    /// When the next failed callback is removed; null if there is none.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failed_purge_at: Option<Timestamp>,
    /// Number of destinations with pending or failed callbacks.
    pub destination_count: u64,
    /// Number of paused destinations.
    #[serde(default)]
    pub paused_count: u64,
    /// Destinations with pending or failed callbacks, 1000 at most: paused ones first, then open and held
    /// ones, those with both pending and failed callbacks, and the others; within each group by the number
    /// of pending callbacks, descending.
    pub destinations: Vec<DestinationView>,
    /// The instances that share the queue, by name. Absent with the embedded store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
}

impl QueueView {
    /// The summary as it was at `now`.
    pub fn new(summary: Summary, terms: &Terms, now: Timestamp) -> Self {
        let purge = |oldest: Option<Timestamp>, state| oldest.map(|at| at.after(terms.kept(state)));
        Self {
            pending: summary.pending,
            due: summary.due,
            waiting: summary.waiting,
            in_flight: summary.in_flight,
            delivered: summary.delivered,
            failed: summary.failed,
            oldest_due_seconds: summary.oldest_due.map_or(0, |due| now.since(due).as_secs()),
            delivered_purge_at: purge(summary.oldest_delivered, StateName::Delivered),
            failed_purge_at: purge(summary.oldest_failed, StateName::Failed),
            destination_count: summary.destination_count,
            paused_count: summary.paused_count,
            destinations: summary.destinations.into_iter().map(Into::into).collect(),
            instances: summary.instances,
        }
    }
}

/// A fault of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultView {
    /// The key, as in TOML.
    pub key: String,
    /// Where it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}
