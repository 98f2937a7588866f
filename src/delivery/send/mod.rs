//! One PUT. Nothing here knows of turns, retries or the outbox's queues.
//!
//! [`attempt`] makes it, through the pooled clients of [`client`], which look names up through
//! [`names`]; [`connections`] says to which destinations idle connections are kept, [`progress`] says how far an exchange is, [`failure`] what an error is called,
//! [`credentials`] and [`signing`] what is added to a request.

pub mod attempt;
pub mod client;
pub(crate) mod connections;
pub mod credentials;
mod failure;
pub mod names;
pub mod progress;
pub mod signing;
