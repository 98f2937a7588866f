//! The outbox: what is stored, and what is promised of it.
//!
//! # Promises
//!
//! 1. **Durable.** When the future of [`Outbox::enqueue`], [`Outbox::settle`],
//!    [`Outbox::replay`], [`Outbox::cancel`] or [`Outbox::expire`] is ready with `Ok`, the disk
//!    has it: neither a killed process nor a machine without power takes it back.
//! 2. **All or nothing.** Each of these calls happens as a whole or not at all; the one
//!    exception is named at [`Outbox::enqueue`].
//! 3. **In call order.** Writes take effect in the order in which the functions were called,
//!    not in which their futures were polled.
//! 4. **One at a time per job.** Of the pending callbacks of one `jobId`, only one is ever
//!    claimed, and it is the earliest accepted, unless that one was replayed while a later
//!    one was already under way. The later one then keeps its turn, over a release and a
//!    restart as well, until its attempt is settled, or until it is in nobody's hands and a
//!    callback is replayed that is earlier than all pending ones of the job.
//! 5. **Claimed by one.** A claimed callback is not claimed again before it was settled or
//!    released. Claims are not stored: after a crash, what was claimed is simply due.
//! 6. **Nothing unsynced is visible** to [`Outbox::claim`]: no PUT goes out for something that
//!    a power cut could still undo.
//! 7. **Bounded memory.** What is held grows with the number of destinations that have
//!    unfinished business and the callbacks in flight, not with the number of callbacks.
//!
//! The outbox knows no HTTP and no backoff: who claims decides when the next attempt is due,
//! and the outbox records it. Nothing in the trait assumes that there is only one process.

pub mod error;
mod lease;
pub mod record;
pub mod sled;
pub mod transition;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use self::{
    error::OutboxError,
    lease::{Claim, Holder},
    record::{Attempt, ErrorKind, Failure, Place, Record, State, StateName},
};
use crate::{
    callback::{Body, CallbackId, Destination, SecretUrl},
    clock::Timestamp,
};

/// What every call gives back in the end.
pub type OutboxFuture<T> = BoxFuture<'static, Result<T, OutboxError>>;

/// A callback that is to be stored.
#[derive(Debug, Clone)]
pub struct NewCallback {
    /// The producer's idempotency key.
    pub event_id: Option<String>,
    /// What the receiver gets.
    pub body: Body,
    /// Where it goes.
    pub url: SecretUrl,
    /// Scheme, host and port of it.
    pub destination: Destination,
    /// Why it can never be sent; it is then stored as failed.
    pub refusal: Option<Failure>,
}

/// What [`Outbox::enqueue`] did with one callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// Stored, as pending, or as failed where it was refused.
    Stored(CallbackId),
    /// An event with this key is stored already, under this id.
    Duplicate(CallbackId),
    /// Not stored: it can never be sent, and as many failed ones are kept as may be pending.
    NotKept,
}

/// What [`Outbox::claim`] found.
#[derive(Debug, Default)]
pub struct Claims {
    /// Due callbacks, the longest due first.
    pub claimed: Vec<Claim>,
    /// When the destination has something due again; `None`: not before it is signalled.
    pub next_due: Option<Timestamp>,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Settlement {
    /// The receiver took it.
    Delivered(Attempt),
    /// It is to be tried again.
    Retry {
        /// The attempt that failed.
        attempt: Attempt,
        /// When the next one is due.
        due: Timestamp,
        /// Until when nothing goes to the destination at all; forgotten with the last pending
        /// or failed callback to it.
        hold: Option<Timestamp>,
    },
    /// It has finally failed.
    Failed {
        /// The attempt that failed; `None` when none was made.
        attempt: Option<Attempt>,
        /// Why it is final.
        failure: Failure,
        /// Until when nothing goes to the destination at all, as after a retry.
        hold: Option<Timestamp>,
    },
}

/// What a store makes its ids with: an import that goes on with the ids of an export needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(pub [u8; 16]);

/// A callback as it is exported and imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The callback.
    pub record: Record,
    /// Its attempts, the first one first.
    pub attempts: Vec<Attempt>,
    /// Whether a later version of it may have been lost: it comes from a damaged store.
    pub uncertain: bool,
}

/// Where an export goes on; the default is its beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportCursor {
    /// Which pass over the store.
    pub pass: u8,
    /// Behind which row.
    pub after: Vec<u8>,
    /// When the export began.
    pub began: Timestamp,
    /// How much had been written then, as the store counts it.
    pub batch: u64,
}

/// A step of an export.
#[derive(Debug, Default)]
pub struct Exported {
    /// Callbacks, in no particular order.
    pub entries: Vec<Entry>,
    /// Where it goes on; `None` at the end.
    pub next: Option<ExportCursor>,
}

/// What [`Outbox::mend`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mended {
    /// How many rows or callbacks did not fit and were put right.
    pub mended: u64,
    /// How many could not be put right.
    pub stuck: u64,
    /// Behind which row it goes on; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// What [`Outbox::cancel`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It was pending and has failed now.
    Done,
    /// An attempt is under way; ask again when it has ended.
    InFlight,
    /// It is not pending.
    NotPending,
    /// There is no such callback.
    Unknown,
}

/// The state of a destination's breaker, as delivery reports it for the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// When it opened.
    pub since: Timestamp,
    /// When the next probe may go out.
    pub next_probe_at: Timestamp,
}

/// Which callbacks [`Outbox::list`] gives.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only those in this state.
    pub state: Option<StateName>,
    /// Only those to this destination.
    pub destination: Option<Destination>,
    /// Only those of this job.
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

/// What is due for longer than this should have gone out.
pub const OVERDUE: Duration = Duration::from_secs(60);

/// The queue in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// To be delivered: the sum of the next three.
    pub pending: u64,
    /// Could go out now.
    pub due: u64,
    /// Wait for their time or for an earlier callback of their job.
    pub waiting: u64,
    /// Are being sent.
    pub in_flight: u64,
    /// Taken by their receivers, and still kept.
    pub delivered: u64,
    /// Given up, and still kept.
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
    /// How many destinations have pending or failed ones.
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

/// One destination in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationSummary {
    /// Which one.
    pub destination: Destination,
    /// To be delivered.
    pub pending: u64,
    /// Being sent.
    pub in_flight: u64,
    /// Given up, and still kept.
    pub failed: u64,
    /// Its breaker, when it is open.
    pub open: Option<Open>,
    /// Until when `Retry-After` holds it.
    pub hold_until: Option<Timestamp>,
}

/// How long finished callbacks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Delivered ones.
    pub delivered: Duration,
    /// Failed ones.
    pub failed: Duration,
}

impl Retention {
    /// What its time is over for at `now`.
    pub fn over(self, now: Timestamp) -> Over {
        Over { delivered: now.before(self.delivered), failed: now.before(self.failed) }
    }
}

/// What is not kept any longer: what has finished at these times or earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Delivered ones.
    pub delivered: Timestamp,
    /// Failed ones.
    pub failed: Timestamp,
}

/// Of the time of a long purge, the part that is left to everything else: so many times what
/// its own steps take.
const PURGE_PAUSE: u32 = 4;

/// Removes all finished callbacks whose retention is over and says how many. It takes its
/// time, so that delivery goes on beside it, and asks before each step what is over.
pub async fn purge_gently(
    outbox: &dyn Outbox,
    over: impl Fn() -> Over + Send,
) -> Result<u64, OutboxError> {
    let mut purged = 0;
    loop {
        let begin = Instant::now();
        match outbox.purge(over()).await? {
            0 => return Ok(purged),
            step => purged += step,
        }
        tokio::time::sleep(begin.elapsed() * PURGE_PAUSE).await;
    }
}

/// What ties batches to each other that a producer hands in one after the other, before it has
/// heard of the first: where one is refused, so are those behind it, and what is stored has no
/// holes. A batch that stands alone has one of its own.
#[derive(Debug, Clone, Default)]
pub struct Sequence(Arc<OnceLock<OutboxError>>);

impl Sequence {
    /// Why a batch of it was refused, if one was.
    pub fn refused(&self) -> Option<OutboxError> {
        self.0.get().cloned()
    }

    /// Notes that a batch of it is refused.
    pub fn refuse(&self, error: &OutboxError) {
        self.0.get_or_init(|| error.clone());
    }
}

/// The store of callbacks. See the module for what it promises.
pub trait Outbox: Send + Sync + 'static {
    /// Stores a batch, in its order. Where it fails, nothing of the batch is stored, except
    /// with [`OutboxError::Broken`], after which only a new start can tell; nor is a batch of the
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
