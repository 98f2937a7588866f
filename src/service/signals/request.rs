//! Requests of the supervisor of the service.

use std::time::Duration;

use tokio::sync::mpsc;

/// Grace period for attempts when Windows does not wait: by default, it ends a process five seconds after its
/// console was closed, or after a log-off or shutdown. The rest of that time is for closing connections and
/// the store.
pub(crate) const SHORT_GRACE: Duration = Duration::from_millis(1500);

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Stop. Attempts in progress get `shutdown_grace`, or at most this long if the system does not wait.
    Stop {
        /// The limit, if there is one.
        within: Option<Duration>,
    },
    /// Open the log file again and read the settings again.
    Reload,
}

/// Requests of the supervisor; `None` if the service is only stopped by signals.
pub type Requests = Option<mpsc::UnboundedReceiver<Request>>;
