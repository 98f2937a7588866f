//! The settings of the delivery loop.

use std::time::Duration;

use super::{
    retry,
    schedule::{breaker, limits::Limits},
};
use crate::callback::{Destination, PatternMap};

/// The settings of the delivery loop: `delivery.*`, `breaker.*`, `retry.*` and `shutdown_grace`, and those of
/// `destinations`.
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
    /// What differs for some destinations.
    pub sections: PatternMap<Section>,
}

/// What a section of `destinations` changes in the loop.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// The limits.
    pub limits: Limits,
    /// The retry decision.
    pub retry: retry::Settings,
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
            sections: PatternMap::default(),
        }
    }
}

impl Settings {
    /// The limits of a destination.
    pub fn limits(&self, destination: &Destination) -> Limits {
        let general = Limits { concurrency: self.per_destination, rate: None };
        self.sections.get(destination).map_or(general, |section| section.limits)
    }

    /// The retry decision for a destination.
    pub fn retry(&self, destination: &Destination) -> &retry::Settings {
        self.sections.get(destination).map_or(&self.retry, |section| &section.retry)
    }
}
