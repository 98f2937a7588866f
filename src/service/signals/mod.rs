//! Requests to stop the service or reload its settings: signals of the system, and requests of a supervisor.

mod request;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::{io, time::Duration};

pub(super) use request::SHORT_GRACE;
pub use request::{Request, Requests};

#[cfg(unix)]
use unix::System;
#[cfg(windows)]
use windows::System;

/// All requests.
pub(super) struct Signals {
    system: System,
    requests: Requests,
}

impl Signals {
    pub(super) fn new(requests: Requests) -> io::Result<Self> {
        Ok(Self { system: System::new()?, requests })
    }

    async fn next(&mut self) -> Request {
        let requested = async {
            match &mut self.requests {
                Some(requests) => requests.recv().await,
                None => None,
            }
        };
        tokio::select! {
            request = self.system.next() => request,
            Some(request) = requested => request,
        }
    }

    /// Waits for a stop while the service starts. Requests to reload are ignored, because the settings have
    /// just been read.
    pub(super) async fn stop_while_starting(&mut self) {
        while self.next().await == Request::Reload {}
    }

    /// Waits for a stop, and returns how long it may take at most; a second one by a signal ends the process
    /// at once.
    pub(super) async fn wait_for_stop(mut self, reload: impl Fn()) -> Option<Duration> {
        let within = loop {
            match self.next().await {
                Request::Stop { within } => break within,
                Request::Reload => reload(),
            }
        };
        tokio::spawn(async move {
            self.system.interrupted().await;
            // Nothing is lost: everything accepted is on the disk.
            std::process::exit(1);
        });
        within
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn requests_reload_and_stop_and_no_supervisor_requests_nothing() {
        let (sender, requests) = mpsc::unbounded_channel();
        let mut signals = Signals::new(Some(requests)).unwrap();
        sender.send(Request::Reload).unwrap();
        sender.send(Request::Stop { within: None }).unwrap();
        signals.stop_while_starting().await;
        let within = Some(Duration::from_secs(1));
        sender.send(Request::Reload).unwrap();
        sender.send(Request::Stop { within }).unwrap();
        let reloads = std::cell::Cell::new(0);
        assert_eq!(signals.wait_for_stop(|| reloads.set(reloads.get() + 1)).await, within);
        assert_eq!(reloads.get(), 1);

        // There is no supervisor, or it has ended.
        drop(sender);
        let (_, gone) = mpsc::unbounded_channel();
        for requests in [Some(gone), None] {
            let mut signals = Signals::new(requests).unwrap();
            let waiting = tokio::time::timeout(Duration::from_millis(20), signals.next());
            waiting.await.unwrap_err();
        }
    }
}
