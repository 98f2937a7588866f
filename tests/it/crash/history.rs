//! The record of a run: every answer that a submitter or an operator received, every request that a
//! receiver received, every kill. All are numbered with one counter, which gives a total order across
//! threads.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// A place in the order of everything that happens in a run.
pub(super) type Tick = u64;

/// The submitter's record of an event that it submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Accepted(String),
    Duplicate(String),
    /// Stored as failed at once.
    Failed(String),
    /// There was no answer: the process was killed before.
    Nothing,
    /// An unexpected answer.
    Wrong(String),
}

impl Said {
    pub(super) fn id(&self) -> Option<&str> {
        match self {
            Self::Accepted(id) | Self::Duplicate(id) | Self::Failed(id) => Some(id),
            Self::Nothing | Self::Wrong(_) => None,
        }
    }
}

/// One submission of an event.
#[derive(Debug, Clone)]
pub(super) struct HandedIn {
    pub(super) sent: Tick,
    pub(super) answered: Tick,
    /// The requests are counted, so that the lines of one batch are known.
    pub(super) request: u64,
    pub(super) said: Said,
}

/// An event; its key is the path of its URL, and so every receiver's request bears it.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) key: String,
    pub(super) job: String,
    /// Its `eventId`; without one it is never submitted again.
    pub(super) idempotency: Option<String>,
    pub(super) handed_in: Vec<HandedIn>,
}

impl Event {
    /// Its id, if an answer contained it.
    pub(super) fn id(&self) -> Option<&str> {
        self.handed_in.iter().find_map(|it| it.said.id())
    }
}

/// A request of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Cancel(String),
    ReplayIds(Vec<String>),
    ReplayJob(String),
    ReplayAll,
}

/// One request of an operator, and its result.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) action: Action,
    pub(super) sent: Tick,
    /// The same as a time.
    pub(super) wall: Duration,
    /// `None`: there was no answer.
    pub(super) answered: Option<Tick>,
    /// The status; of a replay, how many were replayed.
    pub(super) status: u16,
    pub(super) replayed: u64,
}

impl Call {
    /// Whether the call may have made this callback pending again.
    pub(super) fn may_replay(&self, id: &str, job: &str) -> bool {
        match &self.action {
            Action::Cancel(_) => false,
            Action::ReplayIds(ids) => ids.iter().any(|it| it == id),
            Action::ReplayJob(it) => it == job,
            Action::ReplayAll => true,
        }
    }

    /// Whether the call may have ended this callback.
    pub(super) fn may_cancel(&self, id: &str) -> bool {
        matches!(&self.action, Action::Cancel(it) if it == id)
            && (self.answered.is_none() || self.status == 200)
    }
}

/// A request that a receiver got.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) arrived: Tick,
    /// The same as a time, for comparison with what the service has recorded.
    pub(super) wall: Duration,
    /// The process that sent it: each process has its own bearer token.
    pub(super) process: u32,
    pub(super) id: String,
    pub(super) attempt: u64,
    pub(super) key: String,
    pub(super) job: String,
    /// Recorded before the answer is written; `None` if there was none.
    pub(super) answered: Option<(Tick, Instant)>,
    pub(super) status: u16,
}

impl Seen {
    pub(super) fn took(&self) -> Option<Tick> {
        self.answered.filter(|_| (200..300).contains(&self.status)).map(|(tick, _)| tick)
    }

    /// When the answer that ended the callback was received.
    pub(super) fn ended(&self) -> Option<Tick> {
        self.answered.filter(|_| matches!(self.status, 200..300 | 422)).map(|(tick, _)| tick)
    }
}

/// A write that was acknowledged: what the service got to know before it began is on the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged {
    pub(super) process: u32,
    pub(super) began: Instant,
}

/// The record of a run.
#[derive(Debug, Default)]
pub(super) struct History {
    tick: AtomicU64,
    pub(super) events: Mutex<Vec<Event>>,
    pub(super) calls: Mutex<Vec<Call>>,
    pub(super) seen: Mutex<Vec<Seen>>,
    pub(super) acknowledged: Mutex<Vec<Acknowledged>>,
    /// Obvious errors, such as an unexpected answer.
    pub(super) faults: Mutex<Vec<String>>,
}

impl History {
    pub(super) fn tick(&self) -> Tick {
        self.tick.fetch_add(1, Ordering::SeqCst)
    }

    pub(super) fn fault(&self, fault: String) {
        self.faults.lock().unwrap().push(fault);
    }
}

/// The time since the epoch.
pub(super) fn wall() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}
