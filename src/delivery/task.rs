//! The task of one attempt: PUT and settle; and the one task that hears what the disk says to
//! the outcomes of all of them, and logs it.
//!
//! Whatever happens to a task, the loop hears that its slot is free ([`Taken`]) and that its outcome
//! is not on its way any more ([`Unsettled`]), and the outbox gets its claim back: all three say so
//! when they are dropped.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};

use super::{
    jumps::Jumps, outcome::DestinationHealth, schedule::shares::Slot, send::attempt::Sender,
    settings::Settings,
};
use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
    outbox::{Claim, Outbox, OutboxFuture, Record, Settlement},
    report,
};

/// What an attempt's task tells the loop.
pub(super) enum Event {
    /// The PUT is over.
    Ended(Ended),
    /// Its outcome is recorded, or will not be.
    Settled(Destination),
}

/// A PUT that is over.
pub(super) struct Ended {
    pub(super) destination: Destination,
    pub(super) health: DestinationHealth,
    pub(super) slot: Slot,
}

/// The slot that an attempt holds.
pub(super) struct Taken {
    destination: Destination,
    slot: Option<Slot>,
    events: mpsc::UnboundedSender<Event>,
}

impl Taken {
    pub(super) fn new(
        destination: Destination,
        slot: Slot,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self { destination, slot: Some(slot), events }
    }

    fn free(&mut self, health: DestinationHealth) {
        if let Some(slot) = self.slot.take() {
            let destination = self.destination.clone();
            // The loop goes last; after it nobody is left to be told.
            drop(self.events.send(Event::Ended(Ended { destination, health, slot })));
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.free(DestinationHealth::Unknown);
    }
}

/// An attempt whose outcome is not recorded yet.
pub(super) struct Unsettled {
    destination: Destination,
    events: mpsc::UnboundedSender<Event>,
}

impl Unsettled {
    pub(super) fn new(destination: Destination, events: mpsc::UnboundedSender<Event>) -> Self {
        Self { destination, events }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        // The loop goes last; after it nobody is left to be told.
        drop(self.events.send(Event::Settled(self.destination.clone())));
    }
}

/// An outcome on its way to the disk.
pub(super) struct Settling {
    id: CallbackId,
    /// When the next attempt is due, where there is one.
    due: Option<Timestamp>,
    record: OutboxFuture<Record>,
    unsettled: Unsettled,
}

/// Hears what has become of the outcomes, in the order in which they were handed to the outbox,
/// which is the one in which it answers. So the answer to a whole commit wakes one task once.
pub(super) async fn settle(mut settling: mpsc::UnboundedReceiver<Settling>) {
    while let Some(Settling { id, due, record, unsettled }) = settling.recv().await {
        let heard = async {
            match record.await {
                Ok(record) => report::outcome(&record, due),
                Err(error) => tracing::error!(
                    event.action = "settle-failed",
                    callback.id = %id,
                    error.message = %error,
                    "the outcome of an attempt cannot be recorded; it will be repeated"
                ),
            }
        };
        // A panic of one must not keep the others from being heard; standard error has it.
        drop(AssertUnwindSafe(heard).catch_unwind().await);
        drop(unsettled);
    }
}

/// One attempt from its claim to its outcome.
pub(super) struct AttemptTask {
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) sender: Arc<Sender>,
    pub(super) settings: Arc<Settings>,
    pub(super) jumps: Arc<Jumps>,
    pub(super) settling: mpsc::UnboundedSender<Settling>,
    /// What it holds.
    pub(super) taken: Taken,
    pub(super) unsettled: Unsettled,
    /// The connection is closed after the answer.
    pub(super) close_after: bool,
}

impl AttemptTask {
    pub(super) async fn run(mut self, claim: Claim, mut abort: watch::Receiver<()>) {
        let settings = Arc::clone(&self.settings);
        let retry = &settings.retry;
        let jumps = Arc::clone(&self.jumps);
        // The time that nobody has lived through makes nothing older. It may pass at any moment.
        let since = claim.record.budget_since;
        let lived = || {
            let (now, skipped) = jumps.skipped(since);
            (now.before(skipped), skipped)
        };
        let over = retry.over(&claim.record, lived().0, jumps.may_expire());
        if let Some(failure) = over {
            self.taken.free(DestinationHealth::Unknown);
            self.settle(claim, Settlement::Failed { attempt: None, failure, hold: None });
            return;
        }
        let outcome = tokio::select! {
            outcome = self.sender.put(&claim.record, self.close_after) => outcome,
            // Nothing is ever sent: this ends when the loop drops its half.
            _ = abort.changed() => None,
        };
        // One that was not made is made later.
        let Some(outcome) = outcome else { return self.outbox.release(claim) };
        self.taken.free(outcome.health());
        let mut random = fastrand::Rng::new();
        let (now, skipped) = lived();
        let settlement = match retry.decide(&claim.record, outcome, now, &mut random) {
            Settlement::Retry { attempt, due, hold } => Settlement::Retry {
                attempt,
                due: due.after(skipped),
                hold: hold.map(|until| until.after(skipped)),
            },
            Settlement::Failed { attempt, failure, hold } => Settlement::Failed {
                attempt,
                failure,
                hold: hold.map(|until| until.after(skipped)),
            },
            Settlement::Delivered(attempt) => Settlement::Delivered(attempt),
        };
        self.settle(claim, settlement);
    }

    fn settle(self, claim: Claim, settlement: Settlement) {
        let due = match &settlement {
            Settlement::Retry { due, .. } => Some(*due),
            Settlement::Delivered(_) | Settlement::Failed { .. } => None,
        };
        let id = claim.record.id;
        let record = self.outbox.settle(claim, settlement);
        drop(self.settling.send(Settling { id, due, record, unsettled: self.unsettled }));
    }
}
