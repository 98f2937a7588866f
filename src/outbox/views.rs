//! Queries of the outbox, and their results.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    fmt,
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    record::{Attempt, ErrorKind, Record, StateName},
    stage::Stage,
};
use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
};

/// Criteria by which callbacks are selected. A callback must match everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Criteria {
    /// Only pending callbacks at this stage.
    pub stage: Option<Stage>,
    /// Only callbacks to this destination.
    pub destination: Option<Destination>,
    /// Only callbacks of this job.
    pub job_id: Option<String>,
    /// Only callbacks with this job directory name.
    pub job_id_fs: Option<String>,
    /// Only callbacks whose last error is of this kind.
    pub error_kind: Option<ErrorKind>,
    /// Only callbacks accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Only callbacks accepted before this time.
    pub until: Option<Timestamp>,
    /// Only callbacks that ended at this time or later.
    pub ended_since: Option<Timestamp>,
    /// Only callbacks that ended before this time.
    pub ended_until: Option<Timestamp>,
}

impl Criteria {
    /// Whether a callback matches, apart from its stage.
    pub fn matches(&self, record: &Record) -> bool {
        self.destination.as_ref().is_none_or(|wanted| record.destination == *wanted)
            && self.job_id.as_ref().is_none_or(|wanted| record.body.job_id == *wanted)
            && self.job_id_fs.as_ref().is_none_or(|wanted| record.body.job_id_fs == *wanted)
            && self.error_kind.is_none_or(|wanted| {
                record.last_error.as_ref().is_some_and(|error| error.kind == wanted)
            })
            && self.since.is_none_or(|since| record.created_at >= since)
            && self.until.is_none_or(|until| record.created_at < until)
            && self.ended_since.is_none_or(|since| record.ended_at().is_some_and(|at| at >= since))
            && self.ended_until.is_none_or(|until| record.ended_at().is_some_and(|at| at < until))
    }
}

/// A page of [`Outbox::list`](super::Outbox::list).
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only callbacks in this state.
    pub state: Option<StateName>,
    /// Only callbacks that match.
    pub criteria: Criteria,
    /// Continue after this callback.
    pub cursor: Option<CallbackId>,
    /// Maximum number of callbacks, at least 1.
    pub limit: usize,
    /// In order of acceptance, instead of newest first.
    pub oldest_first: bool,
}

/// A callback with its position in the queue.
#[derive(Debug)]
pub struct CallbackStatus {
    /// The callback.
    pub record: Record,
    /// The other callback of the same job that has to end first.
    pub waiting_for: Option<CallbackId>,
    /// Whether it is being sent.
    pub in_flight: bool,
    /// Its stage, if it is pending.
    pub stage: Option<Stage>,
    /// Whether its destination is paused, so that it is neither sent nor expires.
    pub paused: bool,
    /// The breaker of its destination, if it is pending and that is open.
    pub open: Option<Open>,
    /// Until when `Retry-After` holds its destination, if it is pending.
    pub hold_until: Option<Timestamp>,
    /// Whether it is blocked but the callback it waits for cannot be found, so that it would never be
    /// claimed. This is caused by damage, and repaired where possible
    /// ([`Outbox::mend`](super::Outbox::mend)). While the job index still contains a lost callback,
    /// `waiting_for` is its id, and this is `false`: until the next repair or, if that callback cannot be
    /// read, until this one expires.
    pub stuck: bool,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    /// The callbacks.
    pub callbacks: Vec<CallbackStatus>,
    /// Cursor of the next page; `None` at the end. Because the work for a page is bounded, a page may be
    /// short, even empty, and have a next one.
    pub next: Option<CallbackId>,
}

/// A callback with its attempts.
#[derive(Debug)]
pub struct Detail {
    /// The callback.
    pub status: CallbackStatus,
    /// Its attempts, in order; at most the latest thousand and the last one.
    pub attempts: Vec<Attempt>,
}

/// An open breaker, as the delivery loop sets it for the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// When it opened.
    pub since: Timestamp,
    /// When the next probe may be sent.
    pub next_probe_at: Timestamp,
}

/// A callback that has been due for longer than this should have been sent.
pub const OVERDUE: Duration = Duration::from_secs(60);

/// Summary of the outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Not ended: the sum of due, waiting and in flight.
    pub pending: u64,
    /// Due, including those of open, held and paused destinations.
    pub due: u64,
    /// Waiting for a retry or for another callback of their job.
    pub waiting: u64,
    /// Being sent.
    pub in_flight: u64,
    /// Those of the due ones whose destination is paused.
    pub due_paused: u64,
    /// Delivered and not yet removed.
    pub delivered: u64,
    /// Failed and not yet removed.
    pub failed: u64,
    /// When the oldest delivered callback ended.
    pub oldest_delivered: Option<Timestamp>,
    /// When the oldest failed callback ended.
    pub oldest_failed: Option<Timestamp>,
    /// When the oldest due callback became due. If many destinations have changed since the last summary, this
    /// may be the time of an earlier callback, which has been claimed since.
    pub oldest_due: Option<Timestamp>,
    /// The same, without paused destinations.
    pub oldest_due_unpaused: Option<Timestamp>,
    /// Due callbacks of destinations that are not open, held or paused and whose oldest due callback has been
    /// due for longer than [`OVERDUE`].
    pub overdue: u64,
    /// Number of destinations with pending or failed callbacks.
    pub destination_count: u64,
    /// Number of them that are open.
    pub open_count: u64,
    /// Number of them that are paused.
    pub paused_count: u64,
    /// Size on disk, in bytes.
    pub store_bytes: u64,
    /// Destinations with pending or failed callbacks, 1000 at most: paused ones first, then open and held
    /// ones, those with both pending and failed callbacks, and the others; within each group by the number
    /// of pending callbacks, descending.
    pub destinations: Vec<DestinationSummary>,
    /// The instances that share the store, by name; empty for a store of one process.
    pub instances: Vec<Instance>,
}

/// One of the instances that share the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = InstanceView)]
pub struct Instance {
    /// The name of its machine.
    pub name: String,
    /// Whether it is the one that answers.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// Whether it is connected to the database.
    #[serde(rename = "alive")]
    pub is_alive: bool,
    /// How many of the 64 shards of the destinations it owns, or owned when it was last connected.
    pub shards: u32,
    /// When it was last connected, to within seconds.
    #[schema(value_type = String, format = DateTime)]
    pub seen_at: Timestamp,
}

/// Summary of one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationSummary {
    /// Scheme, host and port.
    pub destination: Destination,
    /// Not ended.
    pub pending: u64,
    /// Due; not sent while the destination is open, held or paused.
    pub due: u64,
    /// Being sent.
    pub in_flight: u64,
    /// Failed and not yet removed.
    pub failed: u64,
    /// When an operator paused it, if it is paused.
    pub paused_at: Option<Timestamp>,
    /// Its breaker, if it is open.
    pub open: Option<Open>,
    /// Until when `Retry-After` holds it.
    pub hold_until: Option<Timestamp>,
}

impl DestinationSummary {
    /// A destination without callbacks.
    pub fn idle(destination: Destination) -> Self {
        Self {
            destination,
            pending: 0,
            due: 0,
            in_flight: 0,
            failed: 0,
            paused_at: None,
            open: None,
            hold_until: None,
        }
    }

    /// Its position in listings: paused, open and held destinations first (the precedence of the states), then
    /// by the number of callbacks.
    pub fn order(&self) -> DestinationCursor {
        let (rank, callbacks, destination) = self.position();
        DestinationCursor(rank, callbacks, destination.clone())
    }

    /// The same, for comparisons.
    pub fn position(&self) -> (u8, Reverse<(u64, u64)>, &Destination) {
        let rank = match () {
            () if self.paused_at.is_some() => 0,
            () if self.open.is_some() => 1,
            () if self.hold_until.is_some() => 2,
            () if self.pending > 0 && self.failed > 0 => 3,
            () => 4,
        };
        (rank, Reverse((self.pending, self.failed)), &self.destination)
    }
}

/// Sorts the first ones of a list to its beginning and removes the others, if there are any. There may be
/// many more than are shown.
pub(crate) fn keep_first<T>(
    all: &mut Vec<T>,
    most: usize,
    of: impl Fn(&T) -> &DestinationSummary,
) -> bool {
    let compare = |a: &T, b: &T| of(a).position().cmp(&of(b).position());
    let more = all.len() > most;
    if more {
        all.select_nth_unstable_by(most, compare);
        all.truncate(most);
    }
    all.sort_unstable_by(compare);
    more
}

/// A position among the destinations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationCursor(u8, Reverse<(u64, u64)>, Destination);

impl DestinationCursor {
    /// Whether a destination comes after it.
    pub fn is_before(&self, other: &DestinationSummary) -> bool {
        (self.0, self.1, &self.2) < other.position()
    }
}

impl fmt::Display for DestinationCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(rank, Reverse((pending, failed)), destination) = self;
        write!(f, "{rank}-{pending}-{failed}-{destination}")
    }
}

/// The text is not a position among the destinations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid cursor; expected the nextCursor of a page of destinations")]
pub struct ParseCursorError;

impl FromStr for DestinationCursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, ParseCursorError> {
        let parse = || {
            let mut parts = text.splitn(4, '-');
            let rank = parts.next()?.parse().ok()?;
            let pending = parts.next()?.parse().ok()?;
            let failed = parts.next()?.parse().ok()?;
            let destination = Destination::from_stored(parts.next()?);
            Some(Self(rank, Reverse((pending, failed)), destination))
        };
        parse().ok_or(ParseCursorError)
    }
}

/// A page of [`Outbox::destinations`](super::Outbox::destinations).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationQuery {
    /// Continue after this destination.
    pub cursor: Option<DestinationCursor>,
    /// Only this destination.
    pub destination: Option<Destination>,
    /// Only destinations whose name contains this text.
    pub part: Option<String>,
    /// Destinations that are listed even if they have no callbacks.
    pub idle: Vec<Destination>,
    /// Maximum number of destinations, at least 1.
    pub limit: usize,
}

impl DestinationQuery {
    /// Whether a destination matches, whatever its position.
    pub fn matches(&self, destination: &Destination) -> bool {
        let name = destination.as_str();
        self.destination.as_ref().is_none_or(|wanted| destination == wanted)
            && self.part.as_ref().is_none_or(|part| name.contains(&part.to_ascii_lowercase()))
    }

    /// The destinations that are listed although they are not among those with callbacks.
    pub fn idle_besides<'a>(
        &self,
        known: impl Iterator<Item = &'a Destination>,
    ) -> Vec<DestinationSummary> {
        if self.idle.is_empty() {
            return Vec::new();
        }
        let known: HashSet<_> = known.collect();
        let idle = self.idle.iter().filter(|it| self.matches(it) && !known.contains(it));
        idle.cloned().map(DestinationSummary::idle).collect()
    }
}

/// Result of [`Outbox::delivered`](super::Outbox::delivered).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    /// From when on they were counted: the work is limited.
    pub from: Timestamp,
    /// Number by minute ([`Timestamp::minute`]).
    pub minutes: BTreeMap<u64, u64>,
}

/// One page of destinations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationPage {
    /// The destinations.
    pub destinations: Vec<DestinationSummary>,
    /// Cursor of the next page; `None` at the end.
    pub next: Option<DestinationCursor>,
}
