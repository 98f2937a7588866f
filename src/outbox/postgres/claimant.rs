//! The owner of a session's claims: where they are released, and how long they are valid.
//!
//! PostgreSQL ends a session that has sent nothing for 20 seconds, and with it its locks. So a claim is valid
//! only while the latest answer is recent: no PUT starts if the latest request that was answered was sent
//! more than 8 seconds ago, and running PUTs are dropped after 17 seconds.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::{
    callback::CallbackId,
    clock::Timestamp,
    outbox::{ClaimOwner, Ownership},
};

/// Maximum age of the latest answer at which an attempt may start.
const MAY_START: Duration = Duration::from_secs(8);

/// Age of the latest answer at which running attempts are dropped.
const DROPPED_AFTER: Duration = Duration::from_secs(17);

/// The monotonic time, including time during which the machine was suspended.
#[cfg(target_os = "linux")]
pub(super) fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// The monotonic time.
#[cfg(not(target_os = "linux"))]
pub(super) fn uptime() -> Duration {
    static BEGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    BEGIN.get_or_init(std::time::Instant::now).elapsed()
}

/// When the latest request that was answered was sent.
#[derive(Debug)]
pub(super) struct LastAnswer(AtomicU64);

impl LastAnswer {
    pub(super) fn new(sent: Duration) -> Self {
        let last = Self(AtomicU64::new(0));
        last.set(sent);
        last
    }

    /// Records that a request sent at this [`uptime`] was answered.
    pub(super) fn set(&self, sent: Duration) {
        let millis = u64::try_from(sent.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_max(millis, Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        uptime().saturating_sub(Duration::from_millis(self.0.load(Ordering::Relaxed)))
    }
}

/// The owner of the claims of one session.
pub(super) struct Claimant {
    queues: Weak<dyn ClaimOwner>,
    last_answer: Arc<LastAnswer>,
    /// Whether the session is open.
    open: watch::Receiver<bool>,
    /// Set when another session begins.
    superseded: watch::Sender<bool>,
}

impl std::fmt::Debug for Claimant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claimant").field("valid", &self.valid()).finish_non_exhaustive()
    }
}

impl Claimant {
    pub(super) fn new(
        queues: Weak<dyn ClaimOwner>,
        last_answer: Arc<LastAnswer>,
        open: watch::Receiver<bool>,
    ) -> Self {
        Self { queues, last_answer, open, superseded: watch::channel(false).0 }
    }

    /// Invalidates these claims because another session begins: their outcomes are no longer recorded.
    pub(super) fn supersede(&self) {
        self.superseded.send_replace(true);
    }
}

impl ClaimOwner for Claimant {
    fn release(&self, id: CallbackId, due: Timestamp) {
        // After the session, the callback may have been claimed again.
        if let Some(queues) = self.queues.upgrade().filter(|_| *self.open.borrow()) {
            queues.release(id, due);
        }
    }
}

impl Ownership for Claimant {
    fn valid(&self) -> bool {
        *self.open.borrow() && self.last_answer.age() <= MAY_START
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        let mut superseded = self.superseded.subscribe();
        Box::pin(async move {
            while !*superseded.borrow_and_update() {
                let left = DROPPED_AFTER.saturating_sub(self.last_answer.age());
                if left.is_zero() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    // This cannot fail, because `self` owns the sender.
                    _ = superseded.changed() => {}
                }
            }
        })
    }
}
