//! Requests of what supervises the service.

use std::time::Duration;

use tokio::sync::mpsc;

/// How long attempts in progress get where Windows does not wait: it ends a process five seconds after its console
/// was closed, and after a log-off or shutdown, unless it is configured otherwise. The rest is for closing
/// connections and store.
pub(crate) const SHORT_GRACE: Duration = Duration::from_millis(1500);

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
