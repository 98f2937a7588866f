//! Scheduling: whose turn it is. Nothing here makes a request or names the HTTP client.
//!
//! [`lane`] is what the loop knows of one destination: how fast it is ([`pace`]), whether its
//! [`breaker`] is open, and what it waits for. [`shares`] gives turns and slots to destinations,
//! and [`timers`] wakes those that wait for a time.

pub mod breaker;
pub mod lane;
pub(crate) mod pace;
pub(crate) mod shares;
pub(crate) mod timers;
