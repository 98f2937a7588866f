//! Signals.

use std::io;

/// The signals that the service handles.
#[cfg(unix)]
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or Ctrl-C while the service starts.
    pub(super) async fn stop_while_starting(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // Everything is read at the start anyway.
                _ = self.hang_up.recv() => {}
            }
        }
    }

    /// Waits for SIGTERM or Ctrl-C; a second one ends the process at once. SIGHUP does
    /// `reload`.
    pub(super) async fn wait_for_stop(mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hang_up.recv() => reload(),
            }
        }
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = self.terminate.recv() => break,
                    _ = self.interrupt.recv() => break,
                    _ = self.hang_up.recv() => {}
                }
            }
            // Nothing is lost by it: what was accepted is on the disk.
            std::process::exit(1);
        });
    }
}

/// The signals that the service handles.
#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(super) async fn stop_while_starting(&mut self) {
        drop(tokio::signal::ctrl_c().await);
    }

    pub(super) async fn wait_for_stop(self, _: impl Fn()) {
        drop(tokio::signal::ctrl_c().await);
        tokio::spawn(async {
            drop(tokio::signal::ctrl_c().await);
            std::process::exit(1);
        });
    }
}
