//! Delivery.
//!
//! - [`dispatcher`] is the loop that claims due callbacks, and [`task`] is one attempt in it, from its
//!   claim to its recorded outcome.
//! - [`schedule`] decides which destination is next; it makes no requests.
//! - [`send`] makes one PUT; it is independent of the scheduling.
//! - [`retry`] decides what happens after an [`outcome`] (pure functions).
//! - [`jumps`] corrects for jumps of the clock.

pub mod dispatcher;
pub mod jumps;
pub mod outcome;
mod recent_map;
pub mod retry;
pub mod schedule;
pub mod send;
pub mod settings;
mod task;
