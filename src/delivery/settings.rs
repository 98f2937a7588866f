//! The settings of the delivery loop.

use std::time::Duration;

use super::{retry, schedule::breaker};

/// The settings of the delivery loop: `delivery.*`, `breaker.*`, `retry.*` and `shutdown_grace`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Maximum number of concurrent attempts.
    pub concurrency: usize,
    /// Maximum number of concurrent attempts to one destination.
    pub per_destination: usize,
    /// Maximum number of attempts in progress or waiting for their outcome to be durable.
    pub max_unsettled: usize,
    /// When the breaker of a destination opens.
    pub breaker: breaker::Settings,
    /// The retry decision.
    pub retry: retry::Settings,
    /// How long attempts in progress may continue at shutdown.
    pub shutdown_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 256,
            per_destination: 16,
            max_unsettled: 1024,
            breaker: breaker::Settings::default(),
            retry: retry::Settings::default(),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}
