//! Job events from NATS JetStream.
//!
//! # Rules
//!
//! 1. A message is acknowledged when its event is durable, and not before. A lost acknowledgement is harmless:
//!    the message comes again, and its event is a duplicate.
//! 2. Events are stored in the order of the stream. So one instance pulls ([`Outbox::leads`]), messages are
//!    never given back with a delay, and where messages are not acknowledged that somebody has pulled, the
//!    next one waits until they come first again.
//! 3. While the outbox refuses, nothing is pulled, and what was pulled is kept in memory, which is bounded.
//! 4. A message that can never become an event is passed over when its dead letter is stored.
//!
//! [`session`] is where these rules are kept; [`source`] runs one session after the other, [`binding`] says
//! which consumers they can be kept with, [`connection`] and [`credentials`] are the way to the servers, and
//! [`awaited`] is what a session waits for; [`publisher`] passes outcome events on; [`message`], [`dead_letter`] and [`subjects`] are about single messages.
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
mod source;
mod standing;
pub mod subjects;

pub use self::{
    connection::Secrets, credentials::Access, examine::examine, fault::Fault, settings::Settings,
    source::Source,
};
