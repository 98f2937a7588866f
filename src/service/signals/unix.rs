//! The signals of Unix.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::request::Request;

/// SIGTERM, SIGINT and SIGHUP.
pub(super) struct System {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl System {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// SIGTERM and Ctrl-C stop the service, SIGHUP reloads.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop { within: None },
            _ = self.interrupt.recv() => Request::Stop { within: None },
            _ = self.hang_up.recv() => Request::Reload,
        }
    }

    /// SIGTERM or Ctrl-C.
    pub(super) async fn interrupted(&mut self) {
        while self.next().await == Request::Reload {}
    }
}
