//! Delivery.
//!
//! - [`dispatcher`] is the loop that claims what is due, and [`task`] one attempt in it, from its
//!   claim to its recorded outcome.
//! - [`schedule`] says whose turn it is: it makes no request.
//! - [`send`] makes one PUT: it knows nothing of turns.
//! - [`retry`] decides what follows from an [`outcome`]; it is pure.
//! - [`jumps`] corrects for a clock that jumps.

pub mod dispatcher;
pub mod jumps;
pub mod outcome;
mod recent;
pub mod retry;
pub mod schedule;
pub mod send;
pub mod settings;
mod task;
