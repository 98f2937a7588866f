//! The service under a service manager such as that of Windows: which states are reported, and when.
//!
//! ```text
//! start pending ──► running ──► stop pending ──► stopped
//!       └───────────────────────────┘
//! ```
//!
//! A manager considers a service hung if a pending state gets no new checkpoint. Opening a store may block
//! for minutes, so a separate thread reports checkpoints. While the service stops, it does so only for a
//! limited time and then ends the process, because a service that hangs would block the shutdown of the
//! machine.

mod manager;
mod supervisor;

pub use self::{
    manager::{Control, Controls, Handler, Manager, Pace, State, Status},
    supervisor::supervise,
};
