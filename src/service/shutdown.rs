//! The shutdown of the service.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};

use super::systemd;
use crate::{datadir::Note, delivery::settings::Settings, outbox::Outbox, telemetry::Log};

/// How long the API's connections may take to close at shutdown.
const API_GRACE: Duration = Duration::from_secs(5);

/// Observes the start and the stop of the service.
pub trait Observer: Sync {
    /// The service accepts events.
    fn ready(&self, started: &Started<'_>);

    /// The service stops, which should take at most this long.
    fn stopping(&self, within: Duration);

    /// The process exits immediately, because a stop was requested before the store was open.
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

/// Announces the stop. If `within` is shorter than the grace period, attempts get only that time. Returns how
/// long the API's connections get.
pub(super) fn begin(
    delivery: &watch::Sender<Arc<Settings>>,
    within: Option<Duration>,
    observer: &dyn Observer,
) -> Duration {
    tracing::info!(event.action = "service-stopping", "service stopping");
    systemd::stopping();
    let within = within.unwrap_or(Duration::MAX);
    delivery.send_modify(|settings| {
        let grace = &mut Arc::make_mut(settings).shutdown_grace;
        *grace = within.min(*grace);
    });
    let api_grace = within.min(API_GRACE);
    observer.stopping(delivery.borrow().shutdown_grace.saturating_add(api_grace));
    api_grace
}

/// Ends the process while another thread opens the store, which cannot be interrupted. The store survives a
/// kill at any moment.
pub(super) fn while_opening(log: Log, observer: &dyn Observer) -> ! {
    tracing::info!(event.action = "service-stopped", "stopped while opening the store");
    drop(log);
    observer.exits();
    std::process::exit(0);
}

/// The running parts of the service.
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
    /// Waits until everything has ended, in order, and closes the store. All parts that accept events or
    /// start attempts have been notified already.
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
            tracing::warn!("closing connections to the API that are still open");
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
