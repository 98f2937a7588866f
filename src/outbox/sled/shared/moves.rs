//! What changes its place while somebody goes over the store.
//!
//! A callback that ends, or comes back, moves from one range of rows to another one. Who reads one
//! range after the other may find it in none of them. So a reader has noted what moves while it reads,
//! and looks that up once more.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::{
    callback::CallbackId,
    outbox::sled::keys::{self, QueueKey},
};

type Noted = Mutex<Vec<CallbackId>>;

/// Those who read.
#[derive(Debug, Default)]
pub(crate) struct Moves(Mutex<Vec<Weak<Noted>>>);

/// What has moved while this was held.
#[derive(Debug)]
pub(crate) struct Moved(Arc<Noted>);

impl Moves {
    /// From now on what moves is noted. It is noted when the disk has it: who has read waits for that
    /// before it asks.
    pub(crate) fn watch(&self) -> Moved {
        let noted = Arc::new(Noted::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&noted));
        Moved(noted)
    }

    /// These have moved.
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
