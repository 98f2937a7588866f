//! The state that the handlers share.

use std::sync::{Arc, atomic::AtomicBool};

use crate::api;

/// What the handlers share.
#[derive(Clone)]
pub struct Shared {
    /// The state of the API's handlers.
    pub api: api::Shared,
    /// Whether the callbacks are signed.
    pub signed: Arc<AtomicBool>,
}
