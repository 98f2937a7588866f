//! The service under a service manager such as that of Windows: what the manager is told, and when.
//!
//! ```text
//! start pending ──► running ──► stop pending ──► stopped
//!       └───────────────────────────┘
//! ```
//!
//! A manager takes a service for hung whose pending state has no new checkpoint, so a thread of its own makes
//! them, because opening a store may block for minutes. While the service stops, that has an end, and with it the process: a
//! service that hangs would otherwise keep the machine from its shutdown.

mod manager;
mod supervisor;

pub use self::{
    manager::{Control, Controls, Handler, Manager, Pace, State, Status},
    supervisor::supervise,
};
