//! Sending: one PUT. Independent of turns, retries and the outbox's queues.
//!
//! [`attempt`] makes it, with the pooled [`client`], which resolves [`names`]. [`connections`] limits
//! idle connections, [`publish`] passes outcome events to a broker, [`progress`] tracks the phase of an exchange, [`failure`] classifies errors, and
//! [`credentials`] and [`signing`] add headers.

pub mod attempt;
pub mod client;
pub(crate) mod connections;
pub mod credentials;
mod failure;
pub mod names;
pub mod progress;
mod publish;
pub mod signing;
