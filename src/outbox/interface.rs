//! [`Outbox`]: the trait that every store implements.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{
    claim::Claim,
    error::OutboxError,
    record::{Failure, Record},
    retention::Over,
    transfer::{Entry, ExportCursor, Exported, Identity},
    views::{Delivered, DestinationPage, DestinationQuery, Detail, Open, Page, Query, Summary},
    writes::{Cancelled, Claims, Enqueued, Mended, NewCallback, News, Scope, Sequence, Settlement},
};
use crate::{
    callback::{CallbackId, Destination},
    clock::{SharedClock, Timestamp},
};

/// The future of a call.
pub type OutboxFuture<T> = BoxFuture<'static, Result<T, OutboxError>>;

/// The store of callbacks. Its guarantees are in the [module](super).
///
/// Any call may fail with [`OutboxError::Unreachable`] or [`OutboxError::Unsure`] while the store cannot be
/// reached. A call still returns within a few seconds, and the caller tries again later.
pub trait Outbox: Send + Sync + 'static {
    /// The clock of the stored times, and of every `now` that is passed to the store.
    fn clock(&self) -> SharedClock;

    /// Stores a batch in order. On error, no callback of the batch is stored, and no later batch of the
    /// same `sequence`. The exception is [`OutboxError::Stopped`]: then only a restart shows what was
    /// stored.
    fn enqueue(&self, batch: Vec<NewCallback>, sequence: Sequence) -> OutboxFuture<Vec<Enqueued>>;

    /// Waits until callbacks of some destinations have become due, or a destination must be tried now.
    /// Supports one caller at a time. A store that many instances share also reports destinations that
    /// another one delivers to from now on ([`News::Lost`]).
    fn news(&self) -> BoxFuture<'_, Vec<News>>;

    /// Claims at most `limit` callbacks of one destination that are due at `now`. The delivery loop calls
    /// this, so it must not wait: a store that has read nothing ahead returns none, as it may while it is
    /// being written, and [`Outbox::news`] reports the destination later. Callbacks of a paused
    /// destination are not claimed.
    fn claim(
        &self,
        destination: &Destination,
        limit: usize,
        now: Timestamp,
    ) -> Result<Claims, OutboxError>;

    /// Records the outcome of an attempt. If the callback has ended, the job's next one becomes due.
    /// Returns the stored callback.
    ///
    /// While the store cannot be reached, it keeps the outcome for as long as it may still record it. After
    /// an error that is [`OutboxError::Lost`] or [transient](OutboxError::is_transient), the claim has ended,
    /// and the next claim of the callback repeats the attempt.
    fn settle(&self, claim: Claim, settlement: Settlement) -> OutboxFuture<Record>;

    /// Makes failed callbacks pending again and returns their number. Ids of callbacks that have not
    /// failed are ignored. To keep the order of a job over several calls, pass its callbacks in the
    /// order of their ids.
    fn replay(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64>;

    /// Cancels pending callbacks, which are then failed, and returns the result for each.
    fn cancel(&self, ids: Vec<CallbackId>) -> OutboxFuture<Vec<Cancelled>>;

    /// Makes postponed callbacks due now, ends the holds of their destinations, and requests that their
    /// breakers be closed ([`News::RetryNow`]). Returns how many of them are due now: not those that
    /// wait for another callback, are in flight, or belong to a paused destination.
    fn retry_now(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64>;

    /// Pauses or resumes a destination. The callbacks of a paused destination are kept, but neither
    /// claimed nor expired. Their age starts again when the destination is resumed. Returns whether
    /// anything changed.
    fn pause(&self, destination: &Destination, paused: bool) -> OutboxFuture<bool>;

    /// Fails pending callbacks of some destinations whose budget began before `cutoff` and that are not in
    /// flight. Returns a bounded number of them, and an empty list when none are left.
    fn expire(&self, of: Scope, cutoff: Timestamp, failure: Failure) -> OutboxFuture<Vec<Record>>;

    /// Removes ended callbacks whose retention is over. Returns the number, which is bounded, and 0 when
    /// none are left.
    fn purge(&self, over: Over) -> OutboxFuture<u64>;

    /// Stores a notice for each window of failures that is over (`notify.url`). Returns the number, which is
    /// bounded, and 0 when none are left.
    fn notify(&self) -> OutboxFuture<u64>;

    /// Searches a bounded number of rows after `after` (empty: from the beginning) for pending
    /// callbacks that would never be claimed, and repairs them where the correct state can be derived
    /// from other rows.
    fn mend(&self, after: Vec<u8>) -> OutboxFuture<Mended>;

    /// One callback.
    fn get(&self, id: CallbackId) -> OutboxFuture<Option<Detail>>;

    /// One page of callbacks.
    fn list(&self, query: Query) -> OutboxFuture<Page>;

    /// The key of the store's ids.
    fn identity(&self) -> Identity;

    /// One step of an export. A callback that changes during the export may be returned more than once;
    /// the version with more attempts is the later one.
    fn export(&self, cursor: ExportCursor) -> OutboxFuture<Exported>;

    /// Stores exported callbacks, in any order, and returns how many were new or newer than the stored
    /// version. The store must not be in use for delivery yet. An uncertain pending callback is stored
    /// as failed, because it may have been delivered.
    fn import(&self, entries: Vec<Entry>) -> OutboxFuture<u64>;

    /// One page of the destinations with pending or failed callbacks, and of paused ones, at `now`,
    /// with paused, open and held destinations first.
    fn destinations(
        &self,
        query: DestinationQuery,
        now: Timestamp,
    ) -> OutboxFuture<DestinationPage>;

    /// How many callbacks were delivered in each minute since `since` and are still stored.
    fn delivered(&self, since: Timestamp) -> OutboxFuture<Delivered>;

    /// Summary of the outbox at `now`.
    fn summary(&self, now: Timestamp) -> OutboxFuture<Summary>;

    /// Sets the state of a destination's breaker, which the summary shows. It is not stored.
    fn set_open(&self, destination: &Destination, open: Option<Open>);

    /// `Ok` if events are accepted now.
    fn ready(&self) -> OutboxFuture<()>;

    /// Whether this instance is the leader, which does what only one instance may do, such as pulling events
    /// in order. If the store is not shared, it always is; otherwise, the owner of the first shard is the
    /// leader.
    fn leads(&self) -> bool;

    /// Completes the writes in progress and closes the store, which may block. Later writes are refused.
    fn close(&self);

    /// How long the write in progress has taken so far, if there is one.
    fn write_in_progress(&self) -> Option<Duration>;
}
