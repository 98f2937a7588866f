//! The JSON shapes of actions on selected callbacks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::texts;
use crate::{
    clock::Timestamp,
    outbox::ErrorKind,
    select::{ActionLimits, ActionResult, SelectError, Selection, Selectors},
};

/// Selects callbacks. At least one selector is required; a callback must match all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FilterView {
    /// Only callbacks with these ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<texts::CallbackId>)]
    pub ids: Vec<String>,
    /// Only callbacks to this destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<texts::Destination>)]
    pub destination: Option<String>,
    /// Only callbacks of this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Only callbacks with this job directory name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id_fs: Option<String>,
    /// Only callbacks whose last error is of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ErrorKind>)]
    pub error_kind: Option<String>,
    /// Only callbacks accepted since this time, or within this duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<texts::Time>)]
    pub since: Option<String>,
    /// Only callbacks accepted before this time, or longer ago than this duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<texts::Time>)]
    pub until: Option<String>,
    /// Only callbacks that ended since this time, or within this duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<texts::Time>)]
    pub ended_since: Option<String>,
    /// Only callbacks that ended before this time, or longer ago than this duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<texts::Time>)]
    pub ended_until: Option<String>,
    /// All callbacks that the action applies to.
    #[serde(default)]
    pub all: bool,
}

impl FilterView {
    /// A filter with these selectors.
    pub fn new(ids: Vec<String>, selectors: Selectors, all: bool) -> Self {
        let Selectors {
            destination,
            job_id,
            job_id_fs,
            error_kind,
            since,
            until,
            ended_since,
            ended_until,
        } = selectors;
        Self {
            ids,
            destination,
            job_id,
            job_id_fs,
            error_kind,
            since,
            until,
            ended_since,
            ended_until,
            all,
        }
    }

    /// The selection, with durations relative to `now`.
    pub fn selection(&self, now: Timestamp) -> Result<Selection, SelectError> {
        let selectors = Selectors {
            destination: self.destination.clone(),
            job_id: self.job_id.clone(),
            job_id_fs: self.job_id_fs.clone(),
            error_kind: self.error_kind.clone(),
            since: self.since.clone(),
            until: self.until.clone(),
            ended_since: self.ended_since.clone(),
            ended_until: self.ended_until.clone(),
        };
        let ids = self.ids.iter().map(|id| id.parse()).collect::<Result<Vec<_>, _>>()?;
        let selection = Selection { ids, criteria: selectors.parse(now)? };
        if selection == Selection::default() && !self.all {
            return Err(SelectError::Nothing);
        }
        Ok(selection)
    }
}

/// A request to change selected callbacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActionRequest {
    /// The callbacks.
    #[serde(deserialize_with = "super::request::object")]
    pub filter: FilterView,
    /// Only count; change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Maximum number of callbacks, in order of acceptance, at least 1; without it, all.
    #[schema(minimum = 1)]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::request::whole_number"
    )]
    pub limit: Option<usize>,
    /// `nextCursor` of the previous call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<texts::CallbackId>)]
    pub cursor: Option<String>,
}

impl ActionRequest {
    /// The limits of the action.
    pub fn limits(&self) -> Result<ActionLimits, SelectError> {
        if self.limit == Some(0) {
            return Err(SelectError::Limit);
        }
        let cursor = self.cursor.as_deref().map(str::parse).transpose()?;
        Ok(ActionLimits { dry_run: self.dry_run, limit: self.limit, cursor })
    }
}

/// The result of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplayView {
    /// Number of failed callbacks that match.
    pub matched: u64,
    /// Number of them that are pending again.
    pub replayed: u64,
    /// `cursor` for the remaining callbacks; present only if `limit` left any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The result of a cancellation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CancelView {
    /// Number of pending callbacks that match.
    pub matched: u64,
    /// Number of them that were cancelled.
    pub cancelled: u64,
    /// Number of them that could not be cancelled because they were being sent.
    pub in_flight: u64,
    /// `cursor` for the remaining callbacks; present only if `limit` left any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The result of a request to retry callbacks now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryNowView {
    /// Number of pending callbacks that match.
    pub matched: u64,
    /// Number of them that are due now. The others wait for another callback of their job, are being sent,
    /// or are paused.
    pub due: u64,
    /// `cursor` for the remaining callbacks; present only if `limit` left any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

fn cursor(acted: &ActionResult) -> Option<String> {
    acted.next.map(|id| id.to_string())
}

impl From<ActionResult> for ReplayView {
    fn from(acted: ActionResult) -> Self {
        Self { matched: acted.matched, replayed: acted.changed, next_cursor: cursor(&acted) }
    }
}

impl From<ActionResult> for CancelView {
    fn from(acted: ActionResult) -> Self {
        Self {
            matched: acted.matched,
            cancelled: acted.changed,
            in_flight: acted.in_flight,
            next_cursor: cursor(&acted),
        }
    }
}

impl From<ActionResult> for RetryNowView {
    fn from(acted: ActionResult) -> Self {
        Self { matched: acted.matched, due: acted.changed, next_cursor: cursor(&acted) }
    }
}
