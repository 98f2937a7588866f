//! Tests through the public surface: the real binary, a real store, a real HTTP server on loopback.
//! Every test has a separate folder and uses free ports.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot continue has failed"
)]

mod access;
mod actions;
mod api;
mod architecture;
mod attempt;
mod capacity;
mod cli;
mod cloudevents;
mod connections;
mod crash;
mod damage;
mod delivery;
mod destinations;
#[cfg(target_os = "linux")]
mod dispatch;
mod documents;
mod durability;
mod egress;
mod environment;
#[cfg(target_os = "linux")]
mod faults;
mod guard;
mod limits;
mod log;
mod migration;
mod misbehaving;
mod model;
#[cfg(target_os = "linux")]
mod names;
mod nats;
mod notices;
mod openapi;
mod operate;
mod outbox;
mod page;
mod postgres;
#[cfg(target_os = "linux")]
mod power;
mod read_token;
mod reload;
mod scale;
mod secrets;
mod settings;
mod shared_store;
mod shares;
mod stuck;
mod support;
#[cfg(target_os = "linux")]
mod time;
mod tls;
mod tolerance;
mod traced;
mod watched;
