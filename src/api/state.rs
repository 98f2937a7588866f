//! The state shared by the handlers.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use metrics_exporter_prometheus::PrometheusHandle;

use super::{links::SignIn, reloads::Reloads, tokens::Tokens, view::Terms};
use crate::{
    clock::{SharedClock, Timestamp},
    health::Health,
    intake::Intake,
    outbox::Outbox,
    tls::PairFiles,
};

/// The settings `api.*` and `metrics.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Listen address.
    pub listen: SocketAddr,
    /// File with the token. The default is relative to the data directory.
    pub token_file: PathBuf,
    /// Whether `token_file` was set explicitly.
    pub token_file_is_set: bool,
    /// File with the read-only token.
    pub read_token_file: Option<PathBuf>,
    /// TLS configuration; `None` for plain HTTP.
    pub tls: Option<PairFiles>,
    /// Read time-out within a request, and keep-alive time-out between requests.
    pub idle_timeout: Duration,
    /// Maximum size of an event, in bytes.
    pub max_event_bytes: usize,
    /// Maximum size of a batch, in bytes.
    pub max_batch_bytes: usize,
    /// Number of destinations with their own metrics.
    pub metrics_destinations: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9126)),
            token_file: "api-token".into(),
            token_file_is_set: false,
            read_token_file: None,
            tls: None,
            idle_timeout: Duration::from_secs(75),
            max_event_bytes: 65_536,
            max_batch_bytes: 67_108_864,
            metrics_destinations: 20,
        }
    }
}

/// The state shared by the handlers.
#[derive(Clone)]
pub struct Shared {
    /// Stores submitted events.
    pub intake: Intake,
    /// The outbox.
    pub outbox: Arc<dyn Outbox>,
    /// Health checks.
    pub health: Health,
    /// The outbox's clock.
    pub clock: SharedClock,
    /// The bearer tokens.
    pub tokens: Tokens,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// One-time links to the operator's page.
    pub sign_in: SignIn,
    /// Asks for reloads of the settings.
    pub reloads: Reloads,
    /// How long callbacks are retried and kept. It can be replaced while the service runs.
    pub terms: Arc<ArcSwap<Terms>>,
    /// When the service started.
    pub started_at: Timestamp,
    /// The directory for exports.
    pub data_dir: PathBuf,
    /// Limits.
    pub settings: Arc<Settings>,
}
