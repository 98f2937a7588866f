//! Times the commit in progress, for the health check.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// When the commit in progress began, if there is one.
#[derive(Debug, Default)]
pub(crate) struct CommitTimer(Mutex<Option<Instant>>);

impl CommitTimer {
    /// A commit begins. It ends when the returned guard is dropped.
    pub(crate) fn begin(&self) -> TimedCommit<'_> {
        self.set(Some(Instant::now()));
        TimedCommit { timer: self }
    }

    /// How long the commit in progress has taken so far, if there is one.
    pub(crate) fn elapsed(&self) -> Option<Duration> {
        let began = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        began.map(|began| began.elapsed())
    }

    fn set(&self, began: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = began;
    }
}

/// A commit in progress.
#[derive(Debug)]
pub(crate) struct TimedCommit<'a> {
    timer: &'a CommitTimer,
}

impl Drop for TimedCommit<'_> {
    fn drop(&mut self) {
        self.timer.set(None);
    }
}
