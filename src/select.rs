//! Selecting, replaying and cancelling callbacks, for the API and the command line.

use crate::{
    callback::{CallbackId, Destination, ParseIdError, redact_url},
    clock::Timestamp,
    outbox::{Cancelled, Outbox, OutboxError, Query, StateName},
    report,
};

/// Callbacks that are replayed with one write.
const REPLAY_STEP: usize = 500;

/// An invalid selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Not a state.
    #[error("invalid state `{0}`; expected pending, delivered or failed")]
    State(String),
    /// Not a destination.
    #[error("invalid destination `{0}`; expected scheme, host and port such as http://host:8080")]
    Destination(String),
    /// Not an id.
    #[error(transparent)]
    Id(#[from] ParseIdError),
    /// Neither a selector nor all.
    #[error("no selector; give ids, destination, jobId or since, or all")]
    Nothing,
    /// Not a time.
    #[error(
        "invalid time `{0}`; expected a time such as 2026-01-31T08:00:00Z or a duration such as 2h"
    )]
    Since(String),
}

/// Reads a state's name.
pub fn parse_state(text: &str) -> Result<StateName, SelectError> {
    [StateName::Pending, StateName::Delivered, StateName::Failed]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| SelectError::State(text.into()))
}

/// Reads a time, or how long ago it was.
pub fn parse_since(text: &str, now: Timestamp) -> Result<Timestamp, SelectError> {
    match humantime::parse_duration(text) {
        Ok(ago) => Ok(now.before(ago)),
        Err(_) => text.parse().map_err(|_| SelectError::Since(text.into())),
    }
}

/// Selected callbacks. A callback has to match everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only these; empty for any.
    pub ids: Vec<CallbackId>,
    /// Only callbacks to this destination.
    pub destination: Option<Destination>,
    /// Only callbacks of this job.
    pub job_id: Option<String>,
    /// Only callbacks accepted at this time or later.
    pub since: Option<Timestamp>,
}

impl Selection {
    /// Reads the selectors.
    pub fn parse(
        destination: Option<&str>,
        job_id: Option<String>,
        since: Option<&str>,
        now: Timestamp,
    ) -> Result<Self, SelectError> {
        let destination = destination
            .map(|text| {
                Destination::parse(text).ok_or_else(|| SelectError::Destination(redact_url(text)))
            })
            .transpose()?;
        let since = since.map(|text| parse_since(text, now)).transpose()?;
        Ok(Self { ids: Vec::new(), destination, job_id, since })
    }

    /// The query for what is selected, without the ids.
    pub fn query(&self) -> Query {
        Query {
            destination: self.destination.clone(),
            job_id: self.job_id.clone(),
            since: self.since,
            ..Query::default()
        }
    }
}

/// How far a replay goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplayLimits {
    /// Count only.
    pub dry_run: bool,
    /// Stop after so many.
    pub limit: Option<usize>,
    /// Begin behind this one.
    pub cursor: Option<CallbackId>,
}

/// What a replay did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// How many failed ones were selected.
    pub matched: u64,
    /// Number of them that are pending again.
    pub replayed: u64,
    /// Where to go on, where the limit has left some.
    pub next: Option<CallbackId>,
}

/// Replays the failed callbacks among the selected, in order of acceptance, in steps.
///
/// An interrupted replay can be run again: what was replayed is not failed any more. It continues after
/// the last step's cursor, so that it does not meet callbacks that have failed again since.
pub async fn replay(
    outbox: &dyn Outbox,
    selection: &Selection,
    limits: ReplayLimits,
) -> Result<Replayed, OutboxError> {
    let mut left = limits.limit.unwrap_or(usize::MAX).max(1);
    let report = Replayed { next: limits.cursor, ..Replayed::default() };
    let mut audit = Audit { selection, dry_run: limits.dry_run, report };
    loop {
        let report = &mut audit.report;
        let step = Query {
            state: Some(StateName::Failed),
            cursor: report.next,
            limit: left.min(REPLAY_STEP),
            oldest_first: true,
            ..selection.query()
        };
        let (ids, next) = if selection.ids.is_empty() {
            let found = outbox.list(step).await?;
            (found.callbacks.iter().map(|it| it.record.id).collect(), found.next)
        } else {
            named(outbox, selection, step).await?
        };
        report.next = next;
        report.matched += ids.len() as u64;
        left -= ids.len();
        if !limits.dry_run && !ids.is_empty() {
            report.replayed += outbox.replay(ids).await?;
        }
        if report.next.is_none() || left == 0 {
            return Ok(*report);
        }
    }
}

/// Logs a replay, even if a later step fails or the client disconnects. Commands that open the store
/// themselves write no log: the log file is the service's.
struct Audit<'a> {
    selection: &'a Selection,
    dry_run: bool,
    report: Replayed,
}

impl Drop for Audit<'_> {
    fn drop(&mut self) {
        let Self { selection, dry_run: false, report: done } = self else { return };
        report::replayed((done.matched, done.replayed), selection.ids.len(), &selection.query());
    }
}

/// Cancels a pending callback, and logs it.
pub async fn cancel(outbox: &dyn Outbox, id: CallbackId) -> Result<Cancelled, OutboxError> {
    let cancelled = outbox.cancel(id).await?;
    if cancelled == Cancelled::Done {
        report::cancelled(id);
    }
    Ok(cancelled)
}

/// The failed ones of one step among those that are selected by their ids.
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
    let query = selection.query();
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let record = outbox.get(id).await?.map(|detail| detail.standing.record);
        if record.is_some_and(|it| it.state_name() == StateName::Failed && query.matches(&it)) {
            found.push(id);
        }
    }
    Ok((found, next))
}
