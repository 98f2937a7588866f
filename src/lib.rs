//! Durable HTTP callbacks for DPF jobs.
pub mod callback;
pub mod clock;
pub mod event;
pub mod outbox;
