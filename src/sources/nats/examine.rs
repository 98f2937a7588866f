//! The report of `check-config` about NATS.

use async_nats::jetstream;

use super::{binding, connection, fault::Fault, settings::Settings};

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
    lines.push(match binding::bind(&jetstream::new(client), &as_it_is).await {
        Ok(found) => format!(
            "consumer {name} of stream {stream}: {} messages to pull, {} not acknowledged",
            found.behind, found.ack_pending
        ),
        Err(Fault::NoConsumer(_)) if settings.create_consumer => {
            format!("consumer {name} of stream {stream} does not exist and will be created")
        }
        Err(fault) => return Err(fault),
    });
    Ok(lines)
}
