//! The stages of pending callbacks, and the states by which callbacks are listed.

use super::{
    horizon::Horizon,
    record::{Readiness, State, StateName},
};

/// What a pending callback waits for. Each pending callback is at one of these stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// For nothing: it can be sent, unless its destination is open, held or paused.
    Due,
    /// For its next attempt, or for another callback of its job.
    Waiting,
    /// For the end of the attempt that is in progress.
    InFlight,
}

impl Stage {
    /// Of a callback in this state, if it is pending.
    pub(super) fn of(state: State, in_flight: bool, horizon: Horizon) -> Option<Self> {
        let State::Pending(readiness) = state else { return None };
        Some(match readiness {
            _ if in_flight => Self::InFlight,
            Readiness::Blocked(_) => Self::Waiting,
            Readiness::Scheduled(at) if horizon.is_later(at) => Self::Waiting,
            Readiness::Fresh | Readiness::Scheduled(_) => Self::Due,
        })
    }
}

/// What `state` selects in a listing: a state, or pending callbacks at one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, utoipa::ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ListedState {
    /// Not ended.
    Pending,
    /// Pending, and can be sent, unless the destination is open, held or paused.
    Due,
    /// Pending, and waits for its next attempt or for another callback of its job.
    Waiting,
    /// Pending, and being sent.
    InFlight,
    /// Delivered.
    Delivered,
    /// Failed.
    Failed,
}

impl ListedState {
    /// Their names, in the order in which they are shown.
    pub const NAMES: [&str; 6] = ["pending", "due", "waiting", "in_flight", "delivered", "failed"];

    /// The one with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "pending" => Self::Pending,
            "due" => Self::Due,
            "waiting" => Self::Waiting,
            "in_flight" => Self::InFlight,
            "delivered" => Self::Delivered,
            "failed" => Self::Failed,
            _ => return None,
        })
    }

    /// The state.
    pub const fn state(self) -> StateName {
        match self {
            Self::Pending | Self::Due | Self::Waiting | Self::InFlight => StateName::Pending,
            Self::Delivered => StateName::Delivered,
            Self::Failed => StateName::Failed,
        }
    }

    /// The stage, if only one is selected.
    pub const fn stage(self) -> Option<Stage> {
        match self {
            Self::Due => Some(Stage::Due),
            Self::Waiting => Some(Stage::Waiting),
            Self::InFlight => Some(Stage::InFlight),
            Self::Pending | Self::Delivered | Self::Failed => None,
        }
    }
}
