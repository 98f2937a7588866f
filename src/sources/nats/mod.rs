//! Job events from NATS JetStream.
//!
//! # Rules
//!
//! 1. A message is acknowledged when its event is durable, and not before. A lost acknowledgement is
//!    harmless: the message is redelivered, and its event is a duplicate.
//! 2. Events are stored in the order of the stream. So only one instance pulls ([`Outbox::leads`]), messages
//!    are never returned with a delay, and a session that finds unacknowledged messages of an earlier one
//!    waits until they are redelivered.
//! 3. While the outbox refuses, nothing is pulled, and what was pulled is kept in memory, which is bounded.
//! 4. A message that can never become an event is skipped when its dead letter is stored.
//!
//! [`session`] implements these rules. [`source`] runs one session after the other, [`binding`] checks
//! whether the consumer allows the rules, [`connection`] and [`credentials`] connect to the servers, and
//! [`awaited`] is what a session waits for. [`publisher`] publishes outcome events. [`message`],
//! [`dead_letter`] and [`subjects`] are about single messages.
//!
//! [`Outbox::leads`]: crate::outbox::Outbox::leads

mod awaited;
mod binding;
mod connection;
mod credentials;
mod dead_letter;
mod examine;
mod fault;
mod message;
mod publisher;
mod session;
mod settings;
mod shared;
mod source;
pub mod subjects;

pub use self::{
    connection::Secrets, credentials::Access, examine::examine, fault::Fault, settings::Settings,
    source::Source,
};
