//! What changes its place while somebody goes over the store.
//!
//! A callback that ends, or comes back, moves from one range of rows to another one. Who reads one
//! range after the other may find it in none of them. So a reader has noted what moves while it reads,
//! and looks that up once more.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::keys::{self, LaneKey};
use crate::callback::CallbackId;

type Noted = Mutex<Vec<CallbackId>>;

/// Those who read.
#[derive(Debug, Default)]
pub(super) struct Moves(Mutex<Vec<Weak<Noted>>>);

/// What has moved while this was held.
#[derive(Debug)]
pub(super) struct Moved(Arc<Noted>);

impl Moves {
    /// From now on what moves is noted. It is noted when the disk has it: who has read waits for that
    /// before it asks.
    pub(super) fn watch(&self) -> Moved {
        let noted = Arc::new(Noted::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&noted));
        Moved(noted)
    }

    /// These have moved.
    pub(super) fn note(&self, moved: &[(LaneKey, u64)]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|reader| {
            let Some(noted) = reader.upgrade() else { return false };
            let ids = moved.iter().map(|(lane, seq)| keys::id(*seq, *lane));
            noted.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
            true
        });
    }
}

impl Moved {
    pub(super) fn take(self) -> Vec<CallbackId> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
