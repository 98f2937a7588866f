//! Tests through the public surface: the real binary, a real store, a real HTTP server on
//! loopback. Every test has a folder of its own and takes free ports.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod api;
mod architecture;
mod cli;
mod crash;
mod delivery;
mod durability;
mod egress;
mod guard;
mod misbehaving;
mod operate;
mod outbox;
mod secrets;
mod settings;
mod support;
mod tls;
