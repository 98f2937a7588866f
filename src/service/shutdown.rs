//! The end of the service, in order.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};

use super::supervisor;
use crate::{datadir::Note, delivery::settings::Settings, outbox::Outbox, telemetry::Log};

/// How long the API's connections may take to close at shutdown.
const API_GRACE: Duration = Duration::from_secs(5);

/// What the start of the service is told.
pub trait Observer: Sync {
    /// The service accepts events.
    fn ready(&self, started: &Started<'_>);

    /// It stops, which should take no longer than this.
    fn stopping(&self, within: Duration);

    /// The process ends at once, because it was stopped before the store was open.
    fn exits(&self);
}

/// A service that accepts events.
#[derive(Debug)]
pub struct Started<'a> {
    /// Its address.
    pub note: &'a Note,
    /// Its log, if that is a file.
    pub log_file: Option<&'a Path>,
}

/// Announces the stop. Attempts get no more time than `within`, if that is short; returns how long the API's
/// connections get.
pub(super) fn begin(
    delivery: &watch::Sender<Arc<Settings>>,
    within: Option<Duration>,
    observer: &dyn Observer,
) -> Duration {
    tracing::info!(event.action = "service-stopping", "service stopping");
    supervisor::stopping();
    let within = within.unwrap_or(Duration::MAX);
    delivery.send_modify(|settings| {
        let grace = &mut Arc::make_mut(settings).shutdown_grace;
        *grace = within.min(*grace);
    });
    let api_grace = within.min(API_GRACE);
    observer.stopping(delivery.borrow().shutdown_grace.saturating_add(api_grace));
    api_grace
}

/// Ends the process, while another thread opens the store and cannot be told. A kill at any moment harms
/// nothing.
pub(super) fn while_opening(log: Log, observer: &dyn Observer) -> ! {
    tracing::info!(event.action = "service-stopped", "stopped while opening the store");
    drop(log);
    observer.exits();
    std::process::exit(0);
}

/// What runs beside the signals.
pub(super) struct Tasks {
    pub(super) source: Option<JoinHandle<()>>,
    pub(super) delivery: JoinHandle<()>,
    pub(super) runtime: Runtime,
    pub(super) upkeep: JoinHandle<()>,
    pub(super) gather: JoinHandle<()>,
    pub(super) watchdog: JoinHandle<()>,
    pub(super) api: JoinHandle<()>,
    pub(super) end_api: watch::Sender<bool>,
}

impl Tasks {
    /// Waits until everything has ended in order, and closes the store. Whatever accepts events or starts
    /// attempts has been told already.
    pub(super) async fn end(self, outbox: Arc<dyn Outbox>, api_grace: Duration) {
        self.upkeep.abort();
        self.gather.abort();
        if let Some(source) = self.source {
            join("nats", source).await;
        }
        join("delivery", self.delivery).await;
        self.runtime.shutdown_background();
        self.end_api.send_replace(true);
        if tokio::time::timeout(api_grace, join("api", self.api)).await.is_err() {
            tracing::warn!("connections to the API were still open and are closed");
        }
        join("close", tokio::task::spawn_blocking(move || outbox.close())).await;
        self.watchdog.abort();
    }
}

async fn join(name: &str, task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(error.message = %error, "the task `{name}` has failed");
    }
}
