//! The JSON shapes of destinations.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    clock::Timestamp,
    outbox::{DestinationPage, DestinationSummary},
    recent,
};

/// Whether callbacks are sent to a destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DestinationState {
    /// Callbacks are sent.
    #[default]
    Ok,
    /// It is failing; only probes are sent, one at a time.
    Open,
    /// It requested a pause (`Retry-After`).
    Held,
    /// An operator paused it.
    Paused,
}

/// A destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DestinationView {
    /// Scheme, host and port.
    pub destination: String,
    /// `paused`, `open`, `held` or `ok`; if several apply, the first in this order.
    #[serde(default)]
    pub state: DestinationState,
    /// When it was paused or opened; null if it is held, because the begin of a hold is not stored, or ok.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Not ended.
    pub pending: u64,
    /// Due, and not being sent.
    #[serde(default)]
    pub due: u64,
    /// Being sent.
    pub in_flight: u64,
    /// Failed and not yet removed.
    pub failed: u64,
    /// Whether its breaker is open.
    pub open: bool,
    /// When the breaker opened.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub open_since: Option<Timestamp>,
    /// When the next probe may go out.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_probe_at: Option<Timestamp>,
    /// Until when `Retry-After` holds it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub hold_until: Option<Timestamp>,
    /// When it was paused.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    pub paused_at: Option<Timestamp>,
    /// Callbacks delivered per minute, as a mean of the last five minutes; null if no service runs.
    #[serde(default)]
    pub delivered_per_minute: Option<f64>,
    /// Failed attempts per minute, in the same way.
    #[serde(default)]
    pub failed_attempts_per_minute: Option<f64>,
}

impl DestinationView {
    /// A destination with its rates in this process.
    pub(super) fn with_rates(summary: DestinationSummary, now: Timestamp) -> Self {
        let rates = recent::rates(&summary.destination, now);
        Self {
            delivered_per_minute: Some(rates.delivered),
            failed_attempts_per_minute: Some(rates.failed),
            ..summary.into()
        }
    }
}

impl From<DestinationSummary> for DestinationView {
    fn from(summary: DestinationSummary) -> Self {
        let (open, paused_at) = (summary.open, summary.paused_at);
        let open_since = open.map(|it| it.since);
        let (state, since) = match (paused_at, open_since, summary.hold_until) {
            (Some(at), ..) => (DestinationState::Paused, Some(at)),
            (None, Some(since), _) => (DestinationState::Open, Some(since)),
            (None, None, Some(_)) => (DestinationState::Held, None),
            (None, None, None) => (DestinationState::Ok, None),
        };
        Self {
            destination: summary.destination.to_string(),
            state,
            since,
            pending: summary.pending,
            due: summary.due,
            in_flight: summary.in_flight,
            failed: summary.failed,
            open: open.is_some(),
            open_since,
            // A paused destination is not probed.
            next_probe_at: open.filter(|_| paused_at.is_none()).map(|it| it.next_probe_at),
            hold_until: summary.hold_until,
            paused_at,
            delivered_per_minute: None,
            failed_attempts_per_minute: None,
        }
    }
}

/// One page of destinations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DestinationsView {
    /// The destinations: paused, open and held ones first, then those with the most callbacks.
    pub destinations: Vec<DestinationView>,
    /// `cursor` of the next page; null at the end.
    pub next_cursor: Option<String>,
}

impl DestinationsView {
    /// A page with the rates in this process.
    pub(super) fn with_rates(page: DestinationPage, now: Timestamp) -> Self {
        let view = |it| DestinationView::with_rates(it, now);
        Self {
            destinations: page.destinations.into_iter().map(view).collect(),
            next_cursor: page.next.map(|cursor| cursor.to_string()),
        }
    }
}

/// A destination to be paused or resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DestinationRequest {
    /// Scheme, host and port.
    #[schema(value_type = super::texts::Destination)]
    pub destination: String,
}
