//! Publishing outcome events.

use std::{fmt, sync::Arc};

use async_nats::{
    HeaderMap,
    jetstream::{self, Context},
};
use futures_util::{FutureExt as _, future::BoxFuture};

use super::{connection::Connection, fault::Fault};
use crate::outbox::{Broker, ErrorKind, Failure};

/// Publishes to streams over the source's connection.
pub(super) struct Publisher {
    connection: Arc<Connection>,
    context: Context,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let context = jetstream::new(connection.client.clone());
        Self { connection, context }
    }

    async fn stored(&self, subject: String, id: String, payload: Vec<u8>) -> Result<(), Fault> {
        self.connection.check()?;
        let what = format!("outcome event to {subject} (nats.outcome_subject)");
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        headers.insert("Content-Type", "application/json");
        let stored = async {
            let published =
                self.context.publish_with_headers(subject, headers, payload.into()).await?;
            published.await.map(drop)
        };
        stored.await.map_err(|error| Fault::request(what, error).with(self.connection.take_said()))
    }
}

impl Broker for Publisher {
    fn publish(
        &self,
        subject: String,
        message_id: String,
        payload: Vec<u8>,
    ) -> BoxFuture<'_, Result<(), Failure>> {
        let stored = self.stored(subject, message_id, payload);
        stored.map(|it| it.map_err(|why| Failure::new(ErrorKind::Connect, why.to_string()))).boxed()
    }
}
