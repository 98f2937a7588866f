//! Tests through the public surface: the real binary, a real store, a real HTTP server on
//! loopback. Every test has a folder of its own and takes free ports.
#![expect(clippy::missing_panics_doc, reason = "these are tests")]

mod api;
mod architecture;
mod cli;
mod delivery;
mod durability;
mod outbox;
mod settings;
mod support;
