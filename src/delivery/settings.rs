//! The settings of the delivery loop.

use std::time::Duration;

use super::{retry, schedule::breaker};

/// The settings of the loop (contract, 6).
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many attempts run at once.
    pub concurrency: usize,
    /// How many of them to one destination.
    pub per_destination: usize,
    /// How many attempts may be under way or wait for the disk to have their outcome.
    pub max_unsettled: usize,
    /// When a destination is given a rest.
    pub breaker: breaker::Settings,
    /// What follows from an outcome.
    pub retry: retry::Settings,
    /// How long attempts under way may go on at shutdown.
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
