//! The report of `check-config` about NATS.

use async_nats::jetstream::{self, Context, context::GetStreamByNameErrorKind};

use super::{binding, connection, fault::Fault, settings::Settings};
use crate::outbox::OutcomeEvents;

/// Connects, and checks the consumer. Returns one line for each finding. Nothing is changed.
pub async fn examine(settings: &Settings) -> Result<Vec<String>, Fault> {
    let client = connection::once(settings).await?;
    let server = client.server_info();
    let mut lines =
        vec![format!("connected to {}, version {}", server.server_name, server.version)];
    if !client.is_server_compatible(2, 10, 0) {
        lines.push("this version is older than 2.10, the oldest one that was tested".into());
    }
    let as_it_is = Settings { create_consumer: false, ..settings.clone() };
    let (name, stream) = (&settings.consumer, &settings.stream);
    let context = jetstream::new(client);
    lines.push(match binding::bind(&context, &as_it_is).await {
        Ok(found) => format!(
            "consumer {name} of stream {stream}: {} messages to pull, {} not acknowledged",
            found.behind, found.ack_pending
        ),
        Err(Fault::NoConsumer(_)) if settings.create_consumer => {
            format!("consumer {name} of stream {stream} does not exist and will be created")
        }
        Err(fault) => return Err(fault),
    });
    let outcomes = settings.outcome_events.as_ref().map(OutcomeEvents::subject);
    for (key, subject) in [
        ("nats.dead_letter_subject", settings.dead_letter_subject.as_deref()),
        ("nats.outcome_subject", outcomes),
    ] {
        if let Some(subject) = subject {
            lines.push(stored_by(&context, key, subject).await);
        }
    }
    Ok(lines)
}

/// Which stream stores what is published to a subject.
async fn stored_by(context: &Context, key: &str, subject: &str) -> String {
    match context.stream_by_subject(subject).await {
        Ok(stream) => format!("{subject} ({key}) is stored by stream {stream}"),
        Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => {
            format!("no stream stores {subject} ({key}): create one, or its messages wait")
        }
        Err(error) => format!(
            "unknown whether a stream stores {subject} ({key}), which needs the permission to publish to \
             $JS.API.STREAM.NAMES: {error}"
        ),
    }
}
