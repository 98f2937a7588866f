//! Shared parts of the source: whether it should pull, and its state as it is reported.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use super::{connection::Connection, settings::Settings};
use crate::{
    clock::Timestamp,
    health::{SourceState, SourceWord},
    intake::Intake,
    measure,
    outbox::Outbox,
};

/// The parts of the source that exist as long as the service.
pub(super) struct Shared {
    pub(super) settings: Arc<Settings>,
    pub(super) connection: Arc<Connection>,
    pub(super) intake: Intake,
    outbox: Arc<dyn Outbox>,
    stop: watch::Receiver<bool>,
    pub(super) state: watch::Sender<SourceState>,
    /// The kind of what was logged last.
    logged: Mutex<&'static str>,
}

impl Shared {
    pub(super) fn new(
        settings: Arc<Settings>,
        connection: Arc<Connection>,
        intake: Intake,
        outbox: Arc<dyn Outbox>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let reason = Some("it begins".to_owned());
        let state = watch::Sender::new(SourceState { state: SourceWord::Waiting, reason });
        Self { settings, connection, intake, outbox, stop, state, logged: Mutex::new("") }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.outbox.clock().now()
    }

    /// Whether the service stops.
    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Whether this instance is the one that pulls.
    pub(super) fn leads(&self) -> bool {
        self.outbox.leads()
    }

    /// Waits until this instance should no longer pull.
    pub(super) fn is_released(&self) -> bool {
        self.is_stopped() || !self.leads()
    }

    /// The same after this time, or when the service stops.
    pub(super) async fn released(&self, within: Duration) -> bool {
        let mut stop = self.stop.clone();
        timeout(within, stop.wait_for(|stop| *stop)).await.is_ok() || self.is_released()
    }

    /// Reports that messages are pulled.
    pub(super) fn pulling(&self) {
        if self.set(SourceWord::Pulling, "pulling", None) {
            tracing::info!(
                event.action = "nats-pulling",
                nats.stream = self.settings.stream,
                nats.consumer = self.settings.consumer,
                "events are pulled from NATS"
            );
        }
    }

    /// Reports that nothing is pulled. `kind` is the kind of the reason; only a change of it is logged.
    pub(super) fn waits(&self, kind: &'static str, reason: &str) {
        if self.set(SourceWord::Waiting, kind, Some(reason.to_owned())) {
            tracing::warn!(
                event.action = "nats-waiting",
                event.reason = reason,
                "no events are pulled from NATS"
            );
        }
    }

    pub(super) fn stands_by(&self) {
        let reason = "this instance does not own the first shard, whose owner pulls";
        if self.set(SourceWord::Standby, "standby", Some(reason.into())) {
            tracing::info!(
                event.action = "nats-standby",
                event.reason = reason,
                "another instance pulls events from NATS"
            );
        }
    }

    /// Returns whether this must be logged.
    fn set(&self, state: SourceWord, kind: &'static str, reason: Option<String>) -> bool {
        let new = SourceState { state, reason };
        self.state.send_if_modified(|now| {
            let changed = *now != new;
            *now = new;
            changed
        });
        measure::nats_pulling(state == SourceWord::Pulling);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *logged, kind) != kind
    }
}
