//! A service manager, and what it and the service say to each other.

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
    /// It has stopped; with another code than 0 because of an error.
    Stopped(u32),
}

impl State {
    pub(super) fn is_pending(self) -> bool {
        matches!(self, Self::StartPending | Self::StopPending)
    }
}

/// What the manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: State,
    /// Counts up while the state is pending.
    pub checkpoint: u32,
    /// The next checkpoint comes before this has passed.
    pub wait_hint: Duration,
}

/// A service manager.
pub trait Manager: Sync {
    /// Tells it the state.
    fn report(&self, status: Status) -> io::Result<()>;

    /// Ends the process, because the service does not stop in time.
    fn give_up(&self);
}

/// What a manager asks for.
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

/// Where the handler of the manager puts what it is asked for.
#[derive(Debug, Clone)]
pub struct Handler(pub(super) Sender<Option<Control>>);

impl Handler {
    /// Passes it on.
    pub fn control(&self, control: Control) {
        // After the end of the service nobody listens.
        self.0.send(Some(control)).ok();
    }
}

/// What the handler has put.
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
    /// How long attempts get when the system shuts down and does not wait.
    pub short_grace: Duration,
    /// How much longer than promised a stop may take.
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
