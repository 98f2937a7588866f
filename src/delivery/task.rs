//! The task of one attempt: PUT and settle; and the one task that hears what the disk says to
//! the outcomes of all of them, and logs it.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{
    attempt::Sender, dispatcher::Settings, jumps::Jumps, lane::Health, line::Stake,
    log::log_outcome,
};
use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
    outbox::{Claim, Outbox, OutboxFuture, Record, Settlement},
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
    pub(super) health: Health,
    /// What it counted as.
    pub(super) stake: Stake,
}

/// An outcome on its way to the disk.
pub(super) struct Settling {
    id: CallbackId,
    destination: Destination,
    /// When the next attempt is due, where there is one.
    due: Option<Timestamp>,
    record: OutboxFuture<Record>,
}

/// Hears what has become of the outcomes, in the order in which they were handed to the outbox,
/// which is the one in which it answers. So the answer to a whole commit wakes one task once.
pub(super) async fn settle(
    mut settling: mpsc::UnboundedReceiver<Settling>,
    events: mpsc::UnboundedSender<Event>,
) {
    while let Some(Settling { id, destination, due, record }) = settling.recv().await {
        match record.await {
            Ok(record) => log_outcome(&record, due),
            Err(error) => tracing::error!(
                event.action = "settle-failed",
                callback.id = %id,
                error.message = %error,
                "the outcome of an attempt cannot be recorded; it will be repeated"
            ),
        }
        // The loop goes last; after it nobody is left to be told.
        drop(events.send(Event::Settled(destination)));
    }
}

/// One attempt from its claim to its outcome.
pub(super) struct AttemptTask {
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) sender: Arc<Sender>,
    pub(super) settings: Arc<Settings>,
    pub(super) jumps: Arc<Jumps>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) settling: mpsc::UnboundedSender<Settling>,
    pub(super) destination: Destination,
    /// What it counts as.
    pub(super) stake: Stake,
    /// The connection is not to be kept.
    pub(super) last: bool,
}

impl AttemptTask {
    pub(super) async fn run(self, claim: Claim, mut abort: watch::Receiver<()>) {
        let retry = &self.settings.retry;
        // The time that nobody has lived through makes nothing older. It may pass at any moment.
        let since = claim.record.budget_since;
        let lived = || {
            let (now, skipped) = self.jumps.skipped(since);
            (now.before(skipped), skipped)
        };
        let over = retry.over(&claim.record, lived().0, self.jumps.may_expire());
        if let Some(failure) = over {
            self.ended(Health::Unknown);
            self.settle(claim, Settlement::Failed { attempt: None, failure, hold: None });
            return;
        }
        let outcome = tokio::select! {
            outcome = self.sender.put(&claim.record, self.last) => outcome,
            // Nothing is ever sent: this ends when the loop drops its half.
            _ = abort.changed() => {
                self.outbox.release(claim);
                self.ended(Health::Unknown);
                self.tell(Event::Settled(self.destination.clone()));
                return;
            }
        };
        self.ended(outcome.health());
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

    fn settle(&self, claim: Claim, settlement: Settlement) {
        let settling = Settling {
            id: claim.record.id,
            destination: self.destination.clone(),
            due: match &settlement {
                Settlement::Retry { due, .. } => Some(*due),
                Settlement::Delivered(_) | Settlement::Failed { .. } => None,
            },
            record: self.outbox.settle(claim, settlement),
        };
        drop(self.settling.send(settling));
    }

    fn ended(&self, health: Health) {
        let destination = self.destination.clone();
        self.tell(Event::Ended(Ended { destination, health, stake: self.stake }));
    }

    fn tell(&self, event: Event) {
        // The loop goes last; after it nobody is left to be told.
        drop(self.events.send(event));
    }
}
