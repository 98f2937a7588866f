//! How a callback gets out: the loop that takes what is due ([`dispatcher`]), one destination
//! in it ([`lane`]), one PUT ([`attempt`]), and what follows from its outcome ([`retry`]).

pub mod attempt;
pub mod client;
pub mod credentials;
pub mod dispatcher;
mod failure;
pub mod jumps;
pub mod lane;
pub mod log;
pub mod names;
mod pace;
pub mod progress;
mod recent;
pub mod retry;
mod shares;
pub mod signing;
mod task;
