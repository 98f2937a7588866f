//! Outcome events: messages to a broker about the end of callbacks.
//!
//! An outcome event is stored as a callback, in the same commit as the outcome that it reports, and is
//! delivered like any other. Its destination is `nats://<subject>`, which no producer can give, and its URL
//! contains what it reports. Its job is `outcome:<job id>`, so that the events of a job keep their order and
//! do not wait for its callbacks.

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};

use super::{
    record::{Failure, Record, StateName},
    writes::NewCallback,
};
use crate::{
    callback::{Body, Destination, SecretUrl},
    clock::Timestamp,
};

/// The key of the URL's query whose value is the event.
const EVENT: &str = "event";

/// A broker that stores messages.
pub trait Broker: Debug + Send + Sync {
    /// Publishes a message, and waits until it is stored. A message with the same id is stored once.
    fn publish(
        &self,
        subject: String,
        message_id: String,
        payload: Vec<u8>,
    ) -> BoxFuture<'_, Result<(), Failure>>;
}

/// Where outcome events go (`nats.outcome_subject`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeEvents(String);

/// An outcome event, as the payload of its message (docs/nats.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeEvent {
    callback_id: String,
    state: StateName,
    finished_at: Timestamp,
    attempt_count: u32,
    replays: u32,
    destination: String,
    /// The error, if the callback failed.
    error: Option<Failure>,
    /// The six fields of the callback.
    #[serde(flatten)]
    body: Body,
}

impl OutcomeEvents {
    /// Outcome events for this subject, which has only letters, digits and `.`, `-`, `_`.
    pub fn new(subject: &str) -> Self {
        Self(subject.to_owned())
    }

    /// The subject.
    pub fn subject(&self) -> &str {
        &self.0
    }

    /// The event about a callback that has ended, to be stored with its outcome. None for an outcome event or
    /// a notice.
    pub(super) fn about(&self, record: &Record) -> Option<NewCallback> {
        if record.destination.is_own() {
            return None;
        }
        let finished_at = record.ended_at()?;
        let event = OutcomeEvent {
            callback_id: record.id.to_string(),
            state: record.state_name(),
            finished_at,
            attempt_count: record.attempt_count,
            replays: record.replays,
            destination: record.destination.as_str().to_owned(),
            error: record.last_error.clone().filter(|_| record.state_name() == StateName::Failed),
            body: record.body.clone(),
        };
        let id = event.message_id();
        let place = format!("nats://{}/{id}", self.0);
        let query = form_urlencoded::Serializer::new(String::new())
            // A struct of texts and numbers cannot fail to serialize.
            .append_pair(EVENT, &serde_json::to_string(&event).unwrap_or_default())
            .finish();
        Some(NewCallback {
            event_id: Some(format!("outcome:{id}")),
            body: Body { job_id: format!("outcome:{}", record.body.job_id), ..event.body },
            url: SecretUrl::from(format!("{place}?{query}")),
            destination: Destination::parse(&place)?,
            trace: record.trace.clone(),
            refusal: None,
        })
    }
}

impl OutcomeEvent {
    /// The event of a stored callback, and its subject; `None` if it is none.
    pub fn read(record: &Record) -> Option<(String, Self)> {
        let url =
            Url::parse(record.url.reveal()).ok().filter(|_| record.destination.is_broker())?;
        let event = url.query_pairs().find(|(name, _)| name == EVENT)?.1;
        Some((url.host_str()?.to_owned(), serde_json::from_str(&event).ok()?))
    }

    /// Identifies the message to the server, which stores it once: the callback's id and state, and after a
    /// replay also the number of replays.
    pub fn message_id(&self) -> String {
        let (id, state) = (&self.callback_id, self.state.as_str());
        match self.replays {
            0 => format!("{id}-{state}"),
            replays => format!("{id}-{state}-{replays}"),
        }
    }

    /// The payload.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        callback::CallbackId,
        outbox::{ErrorKind, transition},
    };

    fn failed() -> Record {
        let new = NewCallback {
            event_id: None,
            body: Body { job_id: "4711 & ü".into(), ..Body::example() },
            url: SecretUrl::from("http://h/?secret".to_owned()),
            destination: Destination::from_stored("http://h:80"),
            trace: None,
            refusal: Some(Failure::new(ErrorKind::InvalidUrl, "a?b=c&d")),
        };
        transition::refuse(new, CallbackId::from_u128(7), Timestamp::from_millis(1))
    }

    #[test]
    fn an_event_is_restored_from_its_callback() {
        let record = failed();
        let events = OutcomeEvents::new("DPF.callbacks");
        let new = events.about(&record).unwrap();
        assert_eq!(new.destination.as_str(), "nats://DPF.callbacks");
        assert_eq!(new.body.job_id, "outcome:4711 & ü");
        let stored = transition::accept(new, CallbackId::from_u128(8), Timestamp::default(), true);
        let (subject, event) = OutcomeEvent::read(&stored).unwrap();
        assert_eq!(subject, "DPF.callbacks");
        assert_eq!(event.message_id(), format!("{}-failed", record.id));
        let json: serde_json::Value = serde_json::from_slice(&event.to_json()).unwrap();
        assert_eq!(json["jobId"], "4711 & ü");
        assert_eq!(json["error"]["message"], "a?b=c&d");
        assert!(!stored.url.reveal().contains("secret"));
        let failure = Failure::new(ErrorKind::Cancelled, "");
        let ended = transition::fail(stored, None, failure, Timestamp::default());
        assert!(events.about(&ended).is_none(), "there would be no end");
    }
}
