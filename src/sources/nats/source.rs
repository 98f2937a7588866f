//! The source: runs one session after the other, as long as this instance is the one that pulls.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use tokio::sync::watch;

use super::{
    connection::{Connection, Secrets},
    fault::Fault,
    publisher::Publisher,
    session::Session,
    settings::Settings,
    shared::Shared,
};
use crate::{
    health::SourceState,
    intake::Intake,
    measure,
    outbox::{Broker, Outbox},
};

/// Pause before something is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Polling interval for changes that are not signalled.
const LOOK: Duration = Duration::from_millis(200);

/// Job events from NATS.
pub struct Source(Shared);

impl Source {
    /// A source that connects from now on, and pulls when it [runs](Self::run) until `stop` is true.
    pub async fn new(
        settings: Settings,
        intake: Intake,
        outbox: Arc<dyn Outbox>,
        stop: watch::Receiver<bool>,
    ) -> Result<(Self, Secrets), Fault> {
        measure::nats_begins();
        let settings = Arc::new(settings);
        let (connection, secrets) = Connection::begin(&settings).await?;
        let connection = Arc::new(connection);
        Ok((Self(Shared::new(settings, connection, intake, outbox, stop)), secrets))
    }

    /// The publisher of outcome events.
    pub fn publisher(&self) -> Arc<dyn Broker> {
        Arc::new(Publisher::new(Arc::clone(&self.0.connection)))
    }

    /// The state of the source.
    pub fn state(&self) -> watch::Receiver<SourceState> {
        self.0.state.subscribe()
    }

    /// Pulls until the service stops.
    pub async fn run(self) {
        let it = &self.0;
        let context = jetstream::new(it.connection.client.clone());
        while !it.is_stopped() {
            if !it.leads() {
                it.stands_by();
                it.released(LOOK).await;
                continue;
            }
            let done = match it.connection.check() {
                Err(fault) => Err(("connection", fault, LOOK)),
                Ok(()) => {
                    let done = session(it, context.clone()).await;
                    done.map_err(|fault| ("fault", fault, AGAIN))
                }
            };
            if let Err((word, fault, pause)) = done {
                // If the connection is broken, report that as the cause of later errors.
                let (word, fault) = match it.connection.check() {
                    Err(fault) => ("connection", fault),
                    Ok(()) => (word, fault.with(it.connection.take_said())),
                };
                it.waits(word, &fault.to_string());
                it.released(pause).await;
            }
        }
        measure::nats_pulling(false);
    }
}

async fn session(shared: &Shared, context: jetstream::Context) -> Result<(), Fault> {
    Session::begin(shared, context).await?.run().await
}
