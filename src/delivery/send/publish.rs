//! Outcome events: they go to a broker instead of a receiver.

use crate::outbox::{Broker, ErrorKind, Failure, OutcomeEvent, Record};

/// Publishes an outcome event.
pub(super) async fn publish(broker: Option<&dyn Broker>, record: &Record) -> Result<(), Failure> {
    let Some((subject, event)) = OutcomeEvent::read(record) else {
        return Err(Failure::new(ErrorKind::InvalidUrl, "the URL has no outcome event"));
    };
    let Some(broker) = broker else {
        let message = "no broker is configured (nats.servers)";
        return Err(Failure::new(ErrorKind::Connect, message));
    };
    broker.publish(subject, event.message_id(), event.to_json()).await
}
