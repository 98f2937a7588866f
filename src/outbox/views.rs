//! What is asked of an outbox that changes nothing, and what it shows.

use std::time::Duration;

use super::record::{Attempt, Record, StateName};
use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
};

/// Which callbacks [`Outbox::list`] gives.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only those in this state.
    pub state: Option<StateName>,
    /// Only those to this destination.
    pub destination: Option<Destination>,
    /// Only callbacks of this job.
    pub job_id: Option<String>,
    /// Only those accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Continue behind this one.
    pub cursor: Option<CallbackId>,
    /// At most so many; at least 1.
    pub limit: usize,
    /// The earliest accepted first, instead of the latest.
    pub oldest_first: bool,
}

impl Query {
    /// Whether a callback is one of those asked for, whatever its state.
    pub fn matches(&self, record: &Record) -> bool {
        self.destination.as_ref().is_none_or(|wanted| record.destination == *wanted)
            && self.job_id.as_ref().is_none_or(|wanted| record.body.job_id == *wanted)
            && self.since.is_none_or(|since| record.created_at >= since)
    }
}

/// A stored callback and where it stands just now.
#[derive(Debug)]
pub struct Standing {
    /// The callback.
    pub record: Record,
    /// The other callback of the same job that has to end first.
    pub waiting_for: Option<CallbackId>,
    /// Whether it is being sent.
    pub in_flight: bool,
    /// Whether it waits for a callback that is not there: nobody would ever claim it. That is the
    /// store's fault, and is put right where it can be ([`Outbox::mend`]).
    pub stuck: bool,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    /// The callbacks.
    pub callbacks: Vec<Standing>,
    /// Where the next page begins; `None` at the end. A page may be short of its limit, even
    /// empty, and have a next one: the work for one page is bounded.
    pub next: Option<CallbackId>,
}

/// One callback with all that is known of it.
#[derive(Debug)]
pub struct Detail {
    /// The callback.
    pub standing: Standing,
    /// Its attempts, the first one first; of very many, the latest thousand.
    pub attempts: Vec<Attempt>,
}

/// The state of a destination's breaker, as delivery reports it for the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// When it opened.
    pub since: Timestamp,
    /// When the next probe may go out.
    pub next_probe_at: Timestamp,
}

/// What is due for longer than this should have gone out.
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
    /// When the one of the delivered ones ended that is kept longest.
    pub oldest_delivered: Option<Timestamp>,
    /// The same of the failed ones.
    pub oldest_failed: Option<Timestamp>,
    /// Since when the longest due one is due.
    pub oldest_due: Option<Timestamp>,
    /// Of the due ones, those to destinations that nothing keeps back and whose longest due
    /// one is due for longer than [`OVERDUE`].
    pub overdue: u64,
    /// Number of destinations with pending or failed callbacks.
    pub destination_count: u64,
    /// How many of them are open.
    pub open_count: u64,
    /// Bytes on the disk.
    pub store_bytes: u64,
    /// The destinations that have pending or failed ones, bounded: the open ones first, then the held
    /// ones, those that have failed ones beside pending ones, and the others; of each, the one with the
    /// most pending first.
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
    /// Its breaker, when it is open.
    pub open: Option<Open>,
    /// Until when `Retry-After` holds it.
    pub hold_until: Option<Timestamp>,
}
