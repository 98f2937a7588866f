//! Callbacks that move between ranges of rows during a listing.
//!
//! A callback that ends or is replayed moves from one range to another. A listing that reads the ranges one
//! after the other could find it in none of them, or in two. So moves during a listing are recorded, and
//! those callbacks are looked up again.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::{
    callback::CallbackId,
    outbox::sled::keys::{self, QueueKey},
};

type Noted = Mutex<Vec<CallbackId>>;

/// The listings in progress.
#[derive(Debug, Default)]
pub(crate) struct Moves(Mutex<Vec<Weak<Noted>>>);

/// Records moves until it is taken.
#[derive(Debug)]
pub(crate) struct Moved(Arc<Noted>);

impl Moves {
    /// Starts recording. A move is recorded when it is published, after the sync, so a listing waits for
    /// the commit in progress ([`Barrier`](super::barrier::Barrier)) before it takes the result.
    pub(crate) fn watch(&self) -> Moved {
        let noted = Arc::new(Noted::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&noted));
        Moved(noted)
    }

    /// Records moves. Must be called before the callbacks are freed: otherwise a callback could move again
    /// before its first move is recorded.
    pub(crate) fn note(&self, moved: &[(QueueKey, u64)]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|reader| {
            let Some(noted) = reader.upgrade() else { return false };
            let ids = moved.iter().map(|(queue, seq)| keys::id(*seq, *queue));
            noted.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
            true
        });
    }
}

impl Moved {
    pub(crate) fn take(self) -> Vec<CallbackId> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
