//! What the handlers share.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use metrics_exporter_prometheus::PrometheusHandle;

use super::view::Terms;
use crate::{
    clock::{SharedClock, Timestamp},
    health::Health,
    intake::Intake,
    outbox::Outbox,
    tls::PairFiles,
};

/// The token that opens the API. It can be replaced while the service runs.
#[derive(Clone)]
pub struct Token(Arc<ArcSwap<String>>);

impl Token {
    /// This one.
    pub fn new(token: String) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(token)))
    }

    /// Another one from now on.
    pub fn replace(&self, token: String) {
        self.0.store(Arc::new(token));
    }

    /// The one that counts now.
    pub(super) fn load(&self) -> Arc<String> {
        self.0.load_full()
    }
}

/// The settings of the API (contract, 6: `api.*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its token is; a relative default is below the data directory.
    pub token_file: PathBuf,
    /// Whether somebody has said so, and it is not the data directory's own.
    pub token_file_is_set: bool,
    /// What it speaks TLS with; without, it speaks plain HTTP.
    pub tls: Option<PairFiles>,
    /// How long nothing may come of a request, or between two of a connection.
    pub idle_timeout: Duration,
    /// The longest event, in bytes.
    pub max_event_bytes: usize,
    /// The longest batch, in bytes.
    pub max_batch_bytes: usize,
    /// How many destinations have metrics of their own.
    pub metrics_destinations: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9126)),
            token_file: "api-token".into(),
            token_file_is_set: false,
            tls: None,
            idle_timeout: Duration::from_secs(75),
            max_event_bytes: 65_536,
            max_batch_bytes: 67_108_864,
            metrics_destinations: 20,
        }
    }
}

/// What the handlers share.
#[derive(Clone)]
pub struct Shared {
    /// Takes events.
    pub intake: Intake,
    /// Is asked for callbacks.
    pub outbox: Arc<dyn Outbox>,
    /// Knows whether all is well.
    pub health: Health,
    /// Knows the time.
    pub clock: SharedClock,
    /// Opens the API.
    pub token: Token,
    /// Gives what was measured.
    pub metrics: PrometheusHandle,
    /// How long callbacks are tried and kept.
    pub terms: Terms,
    /// Since when the service runs.
    pub started_at: Timestamp,
    /// Where exports are written.
    pub data_dir: PathBuf,
    /// Limits.
    pub settings: Arc<Settings>,
}
