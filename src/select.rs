//! Choosing callbacks, and replaying the chosen ones: one way for the API and for the command
//! line.

use crate::{
    callback::{CallbackId, Destination, ParseIdError, redact_url},
    clock::Timestamp,
    outbox::{Cancelled, Outbox, OutboxError, Query, StateName},
    report,
};

/// How many callbacks are replayed with one write.
const REPLAY_STEP: usize = 500;

/// A selector that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No state has this name.
    #[error("`{0}` is no state: pending, delivered or failed")]
    State(String),
    /// Not a destination.
    #[error("`{0}` is no destination such as http://host:8080")]
    Destination(String),
    /// Not an id.
    #[error(transparent)]
    Id(#[from] ParseIdError),
    /// Neither a selector nor all.
    #[error("nothing is selected: give ids, destination, jobId or since, or all")]
    Nothing,
    /// Not a time.
    #[error("`{0}` is no time such as 2026-01-31T08:00:00Z and no duration such as 2h")]
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

/// Which callbacks are meant; all that is given has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only these; empty: whichever.
    pub ids: Vec<CallbackId>,
    /// Only those to this destination.
    pub destination: Option<Destination>,
    /// Only those of this job.
    pub job_id: Option<String>,
    /// Only those accepted at this time or later.
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

    /// The listing of what is selected; ids are not part of it.
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
    /// Only count.
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
    /// How many of them are pending again.
    pub replayed: u64,
    /// Where to go on, where the limit has left some.
    pub next: Option<CallbackId>,
}

/// Replays the failed ones among the selected, in the order of their acceptance, in steps.
/// What was replayed is not failed any more, so that an interrupted one can simply be run
/// again; and going on behind a cursor never meets what has failed again since.
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

/// What an operator has asked for is in the log, whoever it was, also where a later step of it fails
/// or he leaves. A command that has the store to itself writes no log: the one of the service is the
/// service's.
struct Audit<'a> {
    selection: &'a Selection,
    dry_run: bool,
    report: Replayed,
}

impl Drop for Audit<'_> {
    fn drop(&mut self) {
        let Self { selection, dry_run: false, report } = self else { return };
        tracing::info!(
            event.action = "callbacks-replayed",
            event.outcome = "success",
            callback.matched = report.matched,
            callback.replayed = report.replayed,
            callback.named = selection.ids.len(),
            callback.destination = selection.destination.as_ref().map(Destination::as_str),
            callback.since = selection.since.map(tracing::field::display),
            dpf.job_id = selection.job_id,
            "an operator had failed callbacks replayed"
        );
    }
}

/// Ends a pending callback, and says so in the log.
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
