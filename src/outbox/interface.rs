//! The trait.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{
    claim::Claim,
    error::OutboxError,
    record::{Failure, Record},
    retention::Over,
    transfer::{Entry, ExportCursor, Exported, Identity},
    views::{DestinationPage, DestinationQuery, Detail, Open, Page, Query, Summary},
    writes::{Cancelled, Claims, Enqueued, Mended, NewCallback, News, Sequence, Settlement},
};
use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
};

/// The future of a call.
pub type OutboxFuture<T> = BoxFuture<'static, Result<T, OutboxError>>;

/// The store of callbacks. Its promises are in the [module](super).
pub trait Outbox: Send + Sync + 'static {
    /// Stores a batch, in its order. If it fails, nothing of the batch is stored, except with
    /// [`OutboxError::Stopped`], where only a restart can tell; neither is any later batch of the same
    /// `sequence`.
    fn enqueue(&self, batch: Vec<NewCallback>, sequence: Sequence) -> OutboxFuture<Vec<Enqueued>>;

    /// Waits until destinations have something due that was not due or not known before, or are to be tried
    /// now. Supports one caller at a time.
    fn news(&self) -> BoxFuture<'_, Vec<News>>;

    /// Claims at most `limit` callbacks of one destination that are due at `now`. It may return none while
    /// the store is being written; after the write, there are news of the destination. Of a paused
    /// destination nothing is claimed.
    fn claim(
        &self,
        destination: &Destination,
        limit: usize,
        now: Timestamp,
    ) -> OutboxFuture<Claims>;

    /// Records the outcome of an attempt. If the callback has ended, the job's next one becomes due.
    /// Returns the callback as it is stored now.
    fn settle(&self, claim: Claim, settlement: Settlement) -> OutboxFuture<Record>;

    /// Releases a claimed callback, as if it had not been claimed.
    fn release(&self, claim: Claim) {
        claim.release();
    }

    /// Makes failed callbacks pending again and returns how many there were. Ids of others are ignored. To
    /// keep the order of a job, pass its callbacks in the order of their ids.
    fn replay(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64>;

    /// Cancels pending callbacks, which become failed, and returns what became of each.
    fn cancel(&self, ids: Vec<CallbackId>) -> OutboxFuture<Vec<Cancelled>>;

    /// Makes pending callbacks that were postponed due now, ends the holds of their destinations, and has
    /// their breakers closed ([`News::RetryNow`]). Returns how many of them are due now: not those that wait
    /// for another callback, are in flight, or belong to a paused destination.
    fn retry_now(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64>;

    /// Pauses or resumes a destination. A paused one keeps what it has, and nothing of it is claimed or
    /// expires. The time of the pause does not count toward the age of its callbacks: that begins anew when
    /// it is resumed. Returns whether anything changed.
    fn pause(&self, destination: &Destination, paused: bool) -> OutboxFuture<bool>;

    /// Fails pending callbacks whose budget began before `cutoff` and that are not in flight. Returns a
    /// bounded number of them, and an empty list when none are left.
    fn expire(&self, cutoff: Timestamp, failure: Failure) -> OutboxFuture<Vec<Record>>;

    /// Removes ended callbacks whose retention is over. Returns the number, which is bounded, and 0 when
    /// none are left.
    fn purge(&self, over: Over) -> OutboxFuture<u64>;

    /// Searches a bounded number of rows after `after` (empty: from the beginning) for pending callbacks
    /// that would never be claimed, and repairs what can be proven.
    fn mend(&self, after: Vec<u8>) -> OutboxFuture<Mended>;

    /// One callback.
    fn get(&self, id: CallbackId) -> OutboxFuture<Option<Detail>>;

    /// One page of callbacks.
    fn list(&self, query: Query) -> OutboxFuture<Page>;

    /// The key of the store's ids.
    fn identity(&self) -> Identity;

    /// One step of an export. A callback that changes meanwhile may be returned more than once; the
    /// version with more attempts counts.
    fn export(&self, cursor: ExportCursor) -> OutboxFuture<Exported>;

    /// Stores exported callbacks, in any order, and returns how many were new or newer than what is
    /// stored. The store must not be in use for delivery yet. An uncertain pending callback becomes
    /// failed, because it may have been delivered.
    fn import(&self, entries: Vec<Entry>) -> OutboxFuture<u64>;

    /// One page of the destinations with pending or failed callbacks, and of paused ones, as they are at
    /// `now`: those that stand still first.
    fn destinations(
        &self,
        query: DestinationQuery,
        now: Timestamp,
    ) -> OutboxFuture<DestinationPage>;

    /// Summary of the outbox at `now`.
    fn summary(&self, now: Timestamp) -> OutboxFuture<Summary>;

    /// Reports the state of a destination's breaker, for the summary. It is not stored.
    fn report(&self, destination: &Destination, open: Option<Open>);

    /// `Ok` if events are accepted now.
    fn ready(&self) -> OutboxFuture<()>;

    /// How long the write in progress has taken so far, if there is one.
    fn write_under_way(&self) -> Option<Duration>;
}
