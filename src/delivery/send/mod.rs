//! Sending: one PUT. Independent of turns, retries and the outbox's queues.
//!
//! [`attempt`] makes it, with one of the pooled [`clients`]; [`connecting`] is how they connect, after they
//! have resolved [`names`]. [`connections`] limits idle connections, [`progress`] tracks the phase of an
//! exchange, [`response`] is what is taken from its response, and [`failure`] classifies errors. [`headers`],
//! [`credentials`], [`oauth`] and [`signing`] make the head of a request, and [`section`] is what the
//! settings define for single destinations. [`publish`] passes outcome events to a broker.

pub mod attempt;
pub mod clients;
pub mod connecting;
pub(crate) mod connections;
pub mod credentials;
mod failure;
pub mod headers;
pub mod names;
mod not_made;
pub mod oauth;
pub mod progress;
mod publish;
pub mod response;
pub mod section;
pub mod signing;
mod token_request;
