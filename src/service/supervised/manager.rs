//! The interface between a service manager and the service.

use std::{
    io,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use crate::service::signals::SHORT_GRACE;

/// A state of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It starts.
    StartPending,
    /// It accepts events.
    Running,
    /// It stops.
    StopPending,
    /// It has stopped. A code other than 0 means an error.
    Stopped(u32),
}

impl State {
    pub(super) fn is_pending(self) -> bool {
        matches!(self, Self::StartPending | Self::StopPending)
    }
}

/// The status that is reported to the manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: State,
    /// Increases while the state is pending.
    pub checkpoint: u32,
    /// The next checkpoint follows within this time.
    pub wait_hint: Duration,
}

/// A service manager.
pub trait Manager: Sync {
    /// Reports the state.
    fn report(&self, status: Status) -> io::Result<()>;

    /// Ends the process, because the service does not stop in time.
    fn give_up(&self);
}

/// A request of the manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Stop.
    Stop,
    /// The system will shut down, and waits for the service.
    PreShutdown,
    /// The system shuts down and does not wait.
    Shutdown,
    /// Read the settings again.
    Reload,
}

/// The sender of controls, used by the handler of the manager.
#[derive(Debug, Clone)]
pub struct Handler(pub(super) Sender<Option<Control>>);

impl Handler {
    /// Passes it on.
    pub fn control(&self, control: Control) {
        // The receiver is gone if the service has ended.
        self.0.send(Some(control)).ok();
    }
}

/// The receiver of controls.
#[derive(Debug)]
pub struct Controls(pub(super) Receiver<Option<Control>>, pub(super) Handler);

impl Controls {
    /// For one run of the service.
    pub fn new() -> (Handler, Self) {
        let (sender, receiver) = channel();
        let handler = Handler(sender);
        (handler.clone(), Self(receiver, handler))
    }
}

/// Intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two checkpoints.
    pub checkpoint: Duration,
    /// Grace period for attempts when the system shuts down and does not wait.
    pub short_grace: Duration,
    /// How much longer than announced a stop may take.
    pub margin: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            checkpoint: Duration::from_secs(2),
            short_grace: SHORT_GRACE,
            margin: Duration::from_secs(30),
        }
    }
}
