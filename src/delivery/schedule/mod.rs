//! Scheduling: which destination is next. Nothing here makes requests or uses the HTTP client.
//!
//! [`lane`] is the loop's state of one destination: how fast it is ([`pace`]), whether its [`breaker`]
//! is open, and what it waits for; [`limits`] are those of the settings. [`shares`] gives turns and slots to destinations, and [`timers`]
//! wakes the destinations that wait for a time.

pub mod breaker;
pub mod lane;
pub mod limits;
pub(crate) mod pace;
pub(crate) mod shares;
pub(crate) mod timers;
