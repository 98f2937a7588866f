//! Selecting callbacks, and the actions of an operator on them: replay, cancel, retry now; for the API
//! and the command line.

use crate::{
    callback::{CallbackId, Destination, ParseIdError, redact_url},
    clock::Timestamp,
    outbox::{
        Cancelled, Criteria, DestinationQuery, DestinationSummary, ErrorKind, ListedState, Outbox,
        OutboxError, Query, StateName,
    },
    report,
};

/// Number of callbacks that are changed by one write.
const STEP: usize = 500;

/// A selector is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Not the name of a state.
    #[error("invalid state `{0}`; expected pending, due, waiting, in_flight, delivered or failed")]
    State(String),
    /// Not a destination.
    #[error("invalid destination `{0}`; expected scheme, host and port such as http://host:8080")]
    Destination(String),
    /// Not the name of a kind of error.
    #[error("invalid errorKind `{0}`; expected one of {kinds}", kinds = kinds())]
    ErrorKind(String),
    /// Not a callback id.
    #[error(transparent)]
    Id(#[from] ParseIdError),
    /// No selector is given, nor `all`.
    #[error(
        "no selector; give ids, destination, jobId, jobIdFs, errorKind, since, until, endedSince or \
         endedUntil, or all"
    )]
    Nothing,
    /// Not a number of callbacks.
    #[error("`limit` must be at least 1")]
    Limit,
    /// Not a time.
    #[error(
        "invalid time `{0}`; expected a time such as 2026-01-31T08:00:00Z or a duration such as 2h"
    )]
    Time(String),
}

fn kinds() -> String {
    ErrorKind::ALL.map(ErrorKind::as_str).join(", ")
}

/// Reads what `state` selects in a listing.
pub fn parse_state(text: &str) -> Result<ListedState, SelectError> {
    ListedState::parse(text).ok_or_else(|| SelectError::State(text.into()))
}

/// Parses a destination.
pub fn parse_destination(text: &str) -> Result<Destination, SelectError> {
    Destination::parse(text).ok_or_else(|| SelectError::Destination(redact_url(text)))
}

/// Parses a destination that can be called. Others only have failed callbacks, so there is nothing to pause.
pub fn parse_callable(text: &str) -> Result<Destination, SelectError> {
    let destination = parse_destination(text)?;
    let name = destination.as_str();
    let web = ["http://", "https://"].iter().any(|scheme| name.starts_with(scheme));
    if (web && !name.ends_with(":0")) || destination.is_own() {
        Ok(destination)
    } else {
        Err(SelectError::Destination(redact_url(text)))
    }
}

/// Parses a time, or how long ago it was. Without a zone it is UTC, and without seconds or hours they are 0.
pub fn parse_time(text: &str, now: Timestamp) -> Result<Timestamp, SelectError> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now.before(ago));
    }
    let complete = ["", ":00", " 00:00:00"];
    let parsed = complete.into_iter().find_map(|rest| format!("{text}{rest}").parse().ok());
    parsed.ok_or_else(|| SelectError::Time(text.into()))
}

fn parse_error_kind(text: &str) -> Result<ErrorKind, SelectError> {
    ErrorKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| SelectError::ErrorKind(text.into()))
}

/// Selectors as an operator writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selectors {
    /// Only callbacks to this destination.
    pub destination: Option<String>,
    /// Only callbacks of this job.
    pub job_id: Option<String>,
    /// Only callbacks with this job directory name.
    pub job_id_fs: Option<String>,
    /// Only callbacks whose last error is of this kind.
    pub error_kind: Option<String>,
    /// Only callbacks accepted since this time, or within this duration.
    pub since: Option<String>,
    /// Only callbacks accepted before this time, or longer ago than this duration.
    pub until: Option<String>,
    /// Only callbacks that ended since this time, or within this duration.
    pub ended_since: Option<String>,
    /// Only callbacks that ended before this time, or longer ago than this duration.
    pub ended_until: Option<String>,
}

impl Selectors {
    /// Parses the selectors, with durations relative to `now`.
    pub fn parse(self, now: Timestamp) -> Result<Criteria, SelectError> {
        let time = |text: Option<String>| text.map(|text| parse_time(&text, now)).transpose();
        Ok(Criteria {
            stage: None,
            destination: self.destination.as_deref().map(parse_destination).transpose()?,
            job_id: self.job_id,
            job_id_fs: self.job_id_fs,
            error_kind: self.error_kind.as_deref().map(parse_error_kind).transpose()?,
            since: time(self.since)?,
            until: time(self.until)?,
            ended_since: time(self.ended_since)?,
            ended_until: time(self.ended_until)?,
        })
    }
}

/// Selected callbacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only callbacks with these ids; empty for any.
    pub ids: Vec<CallbackId>,
    /// Only callbacks that match.
    pub criteria: Criteria,
}

/// An action of an operator on selected callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Makes failed callbacks pending again.
    Replay,
    /// Cancels pending callbacks, which are then failed.
    Cancel,
    /// Makes pending callbacks due now, closes the breakers and ends the holds of their destinations.
    RetryNow,
}

impl Action {
    /// The state of the callbacks to which it applies.
    pub const fn state(self) -> StateName {
        match self {
            Self::Replay => StateName::Failed,
            Self::Cancel | Self::RetryNow => StateName::Pending,
        }
    }
}

/// Limits of an action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActionLimits {
    /// Only count.
    pub dry_run: bool,
    /// Stop after this many callbacks.
    pub limit: Option<usize>,
    /// Start after this callback.
    pub cursor: Option<CallbackId>,
}

/// The result of an action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActionResult {
    /// Number of selected callbacks in the state to which the action applies.
    pub matched: u64,
    /// Number of them that were replayed, were cancelled, or are due now.
    pub changed: u64,
    /// Number of them that could not be cancelled because they were being sent.
    pub in_flight: u64,
    /// The cursor of the remaining callbacks, if `limit` left any.
    pub next: Option<CallbackId>,
}

/// Applies an action to the selected callbacks in its state, in order of acceptance, in steps.
///
/// An interrupted action can be run again: replayed callbacks are no longer failed. Each step continues
/// after the cursor of the previous step, so that callbacks that have failed again are not replayed
/// twice.
pub async fn act(
    outbox: &dyn Outbox,
    action: Action,
    selection: &Selection,
    limits: ActionLimits,
) -> Result<ActionResult, OutboxError> {
    let mut left = limits.limit.unwrap_or(usize::MAX).max(1);
    let done = ActionResult { next: limits.cursor, ..ActionResult::default() };
    let mut audit = Audit { action, selection, dry_run: limits.dry_run, done };
    loop {
        let done = &mut audit.done;
        let step = Query {
            state: Some(action.state()),
            cursor: done.next,
            limit: left.min(STEP),
            oldest_first: true,
            criteria: selection.criteria.clone(),
        };
        let (ids, next) = if selection.ids.is_empty() {
            let found = outbox.list(step).await?;
            (found.callbacks.iter().map(|it| it.record.id).collect(), found.next)
        } else {
            named(outbox, selection, step).await?
        };
        done.next = next;
        done.matched += ids.len() as u64;
        left -= ids.len();
        if !limits.dry_run && !ids.is_empty() {
            match action {
                Action::Replay => done.changed += outbox.replay(ids).await?,
                Action::RetryNow => done.changed += outbox.retry_now(ids).await?,
                Action::Cancel => {
                    let cancelled = outbox.cancel(ids).await?;
                    let count = |what| cancelled.iter().filter(|it| **it == what).count() as u64;
                    done.changed += count(Cancelled::Done);
                    done.in_flight += count(Cancelled::InFlight);
                }
            }
        }
        if done.next.is_none() || left == 0 {
            return Ok(*done);
        }
    }
}

/// Logs an action, even if a later step fails or the client disconnects. Commands that open the store
/// directly write no log: the log file belongs to the service.
struct Audit<'a> {
    action: Action,
    selection: &'a Selection,
    dry_run: bool,
    done: ActionResult,
}

impl Drop for Audit<'_> {
    fn drop(&mut self) {
        let Self { action, selection, dry_run: false, done } = self else { return };
        let (changed, named) = ((done.matched, done.changed), selection.ids.len());
        match action {
            Action::Replay => report::replayed(changed, named, &selection.criteria),
            Action::Cancel => report::all_cancelled(changed, named, &selection.criteria),
            Action::RetryNow => report::retried_now(changed, named, &selection.criteria),
        }
    }
}

/// A callback cannot be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// It does not exist.
    #[error("there is no callback {0}")]
    Unknown(CallbackId),
    /// It has ended.
    #[error("{0} is not pending")]
    NotPending(CallbackId),
    /// An attempt is in progress.
    #[error("{0} is being sent; try again when the attempt has ended")]
    InFlight(CallbackId),
}

/// Cancels a pending callback, and logs it.
pub async fn cancel(
    outbox: &dyn Outbox,
    id: CallbackId,
) -> Result<Result<(), CancelError>, OutboxError> {
    let cancelled = outbox.cancel(vec![id]).await?.first().copied().unwrap_or(Cancelled::Unknown);
    Ok(match cancelled {
        Cancelled::Done => {
            report::cancelled(id);
            Ok(())
        }
        Cancelled::Unknown => Err(CancelError::Unknown(id)),
        Cancelled::NotPending => Err(CancelError::NotPending(id)),
        Cancelled::InFlight => Err(CancelError::InFlight(id)),
    })
}

/// Pauses or resumes a destination, logs it if that changed anything, and returns its summary.
pub async fn pause(
    outbox: &dyn Outbox,
    destination: &Destination,
    paused: bool,
    now: Timestamp,
) -> Result<DestinationSummary, OutboxError> {
    if outbox.pause(destination, paused).await? {
        report::paused(destination, paused);
    }
    let query =
        DestinationQuery { destination: Some(destination.clone()), ..DestinationQuery::default() };
    let found = outbox.destinations(query, now).await?.destinations.pop();
    Ok(found.unwrap_or_else(|| DestinationSummary::idle(destination.clone())))
}

/// The callbacks of one step of a selection by ids, and the cursor of the next step.
async fn named(
    outbox: &dyn Outbox,
    selection: &Selection,
    step: Query,
) -> Result<(Vec<CallbackId>, Option<CallbackId>), OutboxError> {
    let mut ids: Vec<_> =
        selection.ids.iter().copied().filter(|id| step.cursor.is_none_or(|at| *id > at)).collect();
    ids.sort_unstable();
    ids.dedup();
    let next = ids.get(step.limit).and(ids.get(step.limit - 1)).copied();
    ids.truncate(step.limit);
    let criteria = &selection.criteria;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let Some(detail) = outbox.get(id).await? else { continue };
        let (it, stage) = (detail.status.record, detail.status.stage);
        let is_in_state = Some(it.state_name()) == step.state;
        let is_at_stage = criteria.stage.is_none() || criteria.stage == stage;
        if is_in_state && is_at_stage && criteria.matches(&it) {
            found.push(id);
        }
    }
    Ok((found, next))
}
