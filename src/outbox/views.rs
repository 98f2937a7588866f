//! Queries of the outbox, and their results.

use std::time::Duration;

use super::record::{Attempt, ErrorKind, Record, StateName};
use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
};

/// Filters and page of [`Outbox::list`](super::Outbox::list).
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only callbacks in this state.
    pub state: Option<StateName>,
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
    /// Continue after this callback.
    pub cursor: Option<CallbackId>,
    /// Maximum number of callbacks, at least 1.
    pub limit: usize,
    /// In order of acceptance, instead of newest first.
    pub oldest_first: bool,
}

impl Query {
    /// Whether a callback matches, apart from its state.
    pub fn matches(&self, record: &Record) -> bool {
        self.destination.as_ref().is_none_or(|wanted| record.destination == *wanted)
            && self.job_id.as_ref().is_none_or(|wanted| record.body.job_id == *wanted)
            && self.job_id_fs.as_ref().is_none_or(|wanted| record.body.job_id_fs == *wanted)
            && self.error_kind.is_none_or(|wanted| {
                record.last_error.as_ref().is_some_and(|error| error.kind == wanted)
            })
            && self.since.is_none_or(|since| record.created_at >= since)
            && self.until.is_none_or(|until| record.created_at < until)
    }
}

/// A callback with its position in the queue.
#[derive(Debug)]
pub struct Standing {
    /// The callback.
    pub record: Record,
    /// The other callback of the same job that has to end first.
    pub waiting_for: Option<CallbackId>,
    /// Whether it is being sent.
    pub in_flight: bool,
    /// Whether it is blocked although no callback is found that it waits for, so that it would never be
    /// claimed. This is caused by damage, and repaired where possible
    /// ([`Outbox::mend`](super::Outbox::mend)). While the job index still names a lost callback,
    /// `waiting_for` has its id, and this is `false` until the next repair.
    pub stuck: bool,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    /// The callbacks.
    pub callbacks: Vec<Standing>,
    /// Cursor of the next page; `None` at the end. Because the work for a page is bounded, it may be
    /// short, even empty, and have a next one.
    pub next: Option<CallbackId>,
}

/// A callback with its attempts.
#[derive(Debug)]
pub struct Detail {
    /// The callback.
    pub standing: Standing,
    /// Its attempts, in order; at most the latest thousand.
    pub attempts: Vec<Attempt>,
}

/// An open breaker, as delivery reports it for the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// When it opened.
    pub since: Timestamp,
    /// When the next probe may go out.
    pub next_probe_at: Timestamp,
}

/// A callback that is due for longer than this should have been sent.
pub const OVERDUE: Duration = Duration::from_secs(60);

/// Summary of the outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Not ended: the sum of due, waiting and in flight.
    pub pending: u64,
    /// Could be sent now.
    pub due: u64,
    /// Wait for a retry or for an earlier callback of their job.
    pub waiting: u64,
    /// Being sent.
    pub in_flight: u64,
    /// Delivered and not yet removed.
    pub delivered: u64,
    /// Failed and not yet removed.
    pub failed: u64,
    /// When the oldest delivered callback ended.
    pub oldest_delivered: Option<Timestamp>,
    /// When the oldest failed callback ended.
    pub oldest_failed: Option<Timestamp>,
    /// When the oldest due callback became due.
    pub oldest_due: Option<Timestamp>,
    /// Due callbacks of destinations that are neither open nor held and whose oldest one is due for longer
    /// than [`OVERDUE`].
    pub overdue: u64,
    /// Number of destinations with pending or failed callbacks.
    pub destination_count: u64,
    /// Number of them that are open.
    pub open_count: u64,
    /// Size on disk, in bytes.
    pub store_bytes: u64,
    /// Destinations with pending or failed callbacks, 1000 at most: open ones first, then held ones,
    /// those with both pending and failed callbacks, and the others; within each group by the number of
    /// pending callbacks, descending.
    pub destinations: Vec<DestinationSummary>,
}

/// Summary of one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationSummary {
    /// Which one.
    pub destination: Destination,
    /// Not ended.
    pub pending: u64,
    /// Being sent.
    pub in_flight: u64,
    /// Failed and not yet removed.
    pub failed: u64,
    /// Its breaker, if it is open.
    pub open: Option<Open>,
    /// Until when `Retry-After` holds it.
    pub hold_until: Option<Timestamp>,
}
