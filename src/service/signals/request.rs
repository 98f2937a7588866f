//! Requests of what supervises the service.

use std::time::Duration;

use tokio::sync::mpsc;

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Stop. Attempts in progress get `shutdown_grace`, and at most this long if the system will not wait.
    Stop {
        /// How long.
        within: Option<Duration>,
    },
    /// Open the log file again and read the settings again.
    Reload,
}

/// Requests of what supervises the service; `None` if only signals stop it.
pub type Requests = Option<mpsc::UnboundedReceiver<Request>>;
