//! What an operator should know before the service starts.

use async_nats::jetstream;

use super::{binding, connection, fault::Fault, settings::Settings};

/// Connects, and compares the consumer with what is needed: a line for each thing. With
/// `nats.create_consumer`, a consumer that does not exist is created, as by the service.
pub async fn examine(settings: &Settings) -> Result<Vec<String>, Fault> {
    let client = connection::once(settings).await?;
    let server = client.server_info();
    let mut lines =
        vec![format!("connected to {}, version {}", server.server_name, server.version)];
    if !client.is_server_compatible(2, 10, 0) {
        lines.push("this version is older than 2.10, the oldest one that was tried".into());
    }
    let found = binding::bind(&jetstream::new(client), settings).await?;
    lines.push(format!(
        "consumer {} of stream {}: {} messages to pull, {} not acknowledged",
        settings.consumer, settings.stream, found.behind, found.ack_pending
    ));
    Ok(lines)
}
