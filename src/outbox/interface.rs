//! The trait.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{
    claim::Claim,
    error::OutboxError,
    record::{Failure, Record},
    retention::Over,
    transfer::{Entry, ExportCursor, Exported, Identity},
    views::{Detail, Open, Page, Query, Summary},
    writes::{Cancelled, Claims, Enqueued, Mended, NewCallback, Sequence, Settlement},
};
use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
};

/// What every call gives back in the end.
pub type OutboxFuture<T> = BoxFuture<'static, Result<T, OutboxError>>;

/// The store of callbacks. See the module for what it promises.
pub trait Outbox: Send + Sync + 'static {
    /// Stores a batch, in its order. Where it fails, nothing of the batch is stored, except
    /// with [`OutboxError::Stopped`], after which only a new start can tell; nor is a batch of the
    /// same `sequence` for which this is called later.
    fn enqueue(&self, batch: Vec<NewCallback>, sequence: Sequence) -> OutboxFuture<Vec<Enqueued>>;

    /// Waits until destinations have something due that was not due, or not known, before,
    /// and says from when. Made for one caller at a time.
    fn signalled(&self) -> BoxFuture<'_, Vec<(Destination, Timestamp)>>;

    /// Takes at most `limit` callbacks of one destination that are due at `now`. While the store
    /// is being written to it may take none; the destination is then signalled in a moment.
    fn claim(
        &self,
        destination: &Destination,
        limit: usize,
        now: Timestamp,
    ) -> OutboxFuture<Claims>;

    /// Records how the attempt ended, makes the job's next callback due if it has ended, and
    /// gives the callback as it is stored now.
    fn settle(&self, claim: Claim, settlement: Settlement) -> OutboxFuture<Record>;

    /// Gives a claimed callback back as if it had not been claimed.
    fn release(&self, claim: Claim) {
        claim.give_back();
    }

    /// Makes failed callbacks pending again; says how many were failed. Ids that are not are
    /// passed over. To keep the order of a job, name its callbacks in the order of their ids.
    fn replay(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64>;

    /// Ends a pending callback.
    fn cancel(&self, id: CallbackId) -> OutboxFuture<Cancelled>;

    /// Ends pending callbacks whose budget began before `cutoff` and that are not in flight,
    /// a bounded number at a time, and gives them. None left: an empty list.
    fn expire(&self, cutoff: Timestamp, failure: Failure) -> OutboxFuture<Vec<Record>>;

    /// Removes finished callbacks whose retention is over, a bounded number at a time, and says
    /// how many. None left: 0.
    fn purge(&self, over: Over) -> OutboxFuture<u64>;

    /// Looks at some of the pending callbacks, behind `after` (nothing: from the beginning), for those
    /// that nobody would ever claim, and puts right what can be proven.
    fn mend(&self, after: Vec<u8>) -> OutboxFuture<Mended>;

    /// One callback.
    fn get(&self, id: CallbackId) -> OutboxFuture<Option<Detail>>;

    /// Callbacks, newest first unless the query says otherwise.
    fn list(&self, query: Query) -> OutboxFuture<Page>;

    /// What the store makes its ids with.
    fn identity(&self) -> Identity;

    /// A part of everything that is stored, for a backup. What changes meanwhile may come more
    /// than once; then the version with more attempts counts.
    fn export(&self, cursor: ExportCursor) -> OutboxFuture<Exported>;

    /// Puts back what was exported, in any order, and says how many were new or newer than
    /// what is stored. Made for a store from which nobody claims yet. What is uncertain and
    /// pending becomes failed, since it may have been delivered.
    fn import(&self, entries: Vec<Entry>) -> OutboxFuture<u64>;

    /// The queue in numbers, as it is at `now`.
    fn summary(&self, now: Timestamp) -> OutboxFuture<Summary>;

    /// Notes the state of a destination's breaker, for the summary; not stored.
    fn report(&self, destination: &Destination, open: Option<Open>);

    /// Whether events are taken now.
    fn ready(&self) -> OutboxFuture<()>;

    /// For how long the write has been under way for which everything waits, if one is.
    fn write_under_way(&self) -> Option<Duration>;
}
