//! The task of one attempt, which sends and settles, and the one task that waits until outcomes are
//! durable and logs them.
//!
//! Even if a task panics, the loop is notified that its slot is free ([`SlotGuard`]) and that no outcome is
//! outstanding ([`Unsettled`]), and the claim is returned to the outbox. All three happen on drop.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};

use super::{
    jumps::Jumps,
    outcome::DestinationHealth,
    schedule::shares::Slot,
    send::attempt::{Sender, Sent},
    settings::Settings,
};
use crate::{
    callback::{CallbackId, Destination},
    outbox::{Claim, Outbox, OutboxError, OutboxFuture, Record, Settlement},
    report,
};

/// Pause of a destination that cannot be claimed from at the moment, because the store is away.
pub(super) const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// What an attempt's task reports to the loop.
pub(super) enum Event {
    /// The PUT has ended.
    Ended(Ended),
    /// Its outcome is durable, or could not be recorded.
    Settled(Destination),
}

/// A PUT that has ended.
pub(super) struct Ended {
    pub(super) destination: Destination,
    pub(super) health: DestinationHealth,
    pub(super) slot: Slot,
    /// No PUT was made, and none can be for this time.
    pub(super) pause: Option<Duration>,
}

/// The slot of an attempt. It is freed on drop.
pub(super) struct SlotGuard {
    destination: Destination,
    slot: Option<Slot>,
    events: mpsc::UnboundedSender<Event>,
}

impl SlotGuard {
    pub(super) fn new(
        destination: Destination,
        slot: Slot,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self { destination, slot: Some(slot), events }
    }

    fn free(&mut self, health: DestinationHealth) {
        self.end(health, None);
    }

    fn pause(&mut self, pause: Duration) {
        self.end(DestinationHealth::Unknown, Some(pause));
    }

    fn end(&mut self, health: DestinationHealth, pause: Option<Duration>) {
        if let Some(slot) = self.slot.take() {
            let destination = self.destination.clone();
            // Ignore the error: the loop has ended.
            drop(self.events.send(Event::Ended(Ended { destination, health, slot, pause })));
        }
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.free(DestinationHealth::Unknown);
    }
}

/// An attempt whose outcome is not durable yet.
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
        // Ignore the error: the loop has ended.
        drop(self.events.send(Event::Settled(self.destination.clone())));
    }
}

/// An outcome that waits for the disk.
pub(super) struct Settling {
    id: CallbackId,
    record: OutboxFuture<Record>,
    unsettled: Unsettled,
}

/// Waits for outcomes to become durable, in the order in which they were passed to the outbox, which is
/// also the order of its answers. This way a commit wakes one task only once.
pub(super) async fn settle(mut settling: mpsc::UnboundedReceiver<Settling>) {
    while let Some(Settling { id, record, unsettled }) = settling.recv().await {
        let recorded = async {
            match record.await {
                Ok(record) => report::outcome(&record),
                Err(error) if error.is_away() || matches!(error, OutboxError::Lost) => {
                    report::store_away("the outcome of an attempt cannot be recorded", &error);
                }
                Err(error) => tracing::error!(
                    event.action = "settle-failed",
                    callback.id = %id,
                    error.message = %error,
                    "the outcome of an attempt cannot be recorded; the attempt will be repeated"
                ),
            }
        };
        // A panic (reported on standard error) must not prevent the other outcomes from being received.
        drop(AssertUnwindSafe(recorded).catch_unwind().await);
        drop(unsettled);
    }
}

/// One attempt, from its claim to its outcome.
pub(super) struct AttemptTask {
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) sender: Arc<Sender>,
    pub(super) settings: Arc<Settings>,
    pub(super) jumps: Arc<Jumps>,
    pub(super) settling: mpsc::UnboundedSender<Settling>,
    pub(super) slot: SlotGuard,
    pub(super) unsettled: Unsettled,
    /// The connection is closed after the response.
    pub(super) close_after: bool,
}

impl AttemptTask {
    pub(super) async fn run(mut self, claim: Claim, mut abort: watch::Receiver<()>) {
        // Nothing below waits before the PUT starts.
        if !claim.validity.valid() {
            report::store_away("an attempt cannot start", &OutboxError::Lost);
            // Before the release, so that the loop knows it before the callback is reported again.
            self.slot.pause(AWAY_PAUSE);
            return claim.release();
        }
        let settings = Arc::clone(&self.settings);
        let retry = settings.retry(&claim.record.destination);
        let jumps = Arc::clone(&self.jumps);
        // Time skipped by a clock jump does not count toward the age. A jump may occur at any moment.
        let since = claim.record.budget_since;
        let now_and_skipped = || {
            let (now, skipped) = jumps.skipped(since);
            (now.before(skipped), skipped)
        };
        let over = retry.over(&claim.record, now_and_skipped().0, jumps.may_expire());
        if let Some(failure) = over {
            self.slot.free(DestinationHealth::Unknown);
            self.settle(claim, Settlement::Failed { attempt: None, failure, hold: None });
            return;
        }
        let sent = tokio::select! {
            biased;
            sent = self.sender.put(&claim.record, self.close_after) => sent,
            () = claim.validity.lost() => {
                report::store_away("an attempt was dropped", &OutboxError::Lost);
                Sent::NotMade
            }
            // No value is ever sent; the loop aborts attempts by dropping the sender.
            _ = abort.changed() => Sent::NotMade,
        };
        if let Sent::NoToken(error) = &sent {
            // Before the release, as above.
            self.slot.pause(error.pause);
        }
        // Without an outcome, the DNS look-up could not start, or the attempt was dropped because of a
        // shutdown or because the claim was lost; then the receiver may have received the request. The
        // callback is released and sent later.
        let Some(outcome) = sent.outcome() else { return claim.release() };
        self.slot.free(outcome.destination_health());
        let mut random = fastrand::Rng::new();
        let (now, skipped) = now_and_skipped();
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
        let id = claim.record.id;
        let record = self.outbox.settle(claim, settlement);
        drop(self.settling.send(Settling { id, record, unsettled: self.unsettled }));
    }
}
