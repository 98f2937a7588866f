//! Whoever reads learns only what the disk has.
//!
//! sled shows a batch to readers as soon as it is applied, which is before it is synced; a kill in
//! between takes it back. So a read that may have seen such a batch waits until it is synced. Of a
//! store that has stopped nobody knows that any more.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many commits have begun, and how many are over.
#[derive(Debug, Default)]
struct Count {
    begun: u64,
    over: u64,
    /// When the one began that is under way.
    since: Option<Instant>,
}

/// Where readers wait for the commit under way.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    count: Mutex<Count>,
    over: Condvar,
}

impl Barrier {
    /// A commit begins; it is over when what this gives is dropped.
    pub(crate) fn begin(&self) -> Commit<'_> {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.begun += 1;
        count.since = Some(Instant::now());
        Commit { barrier: self }
    }

    /// For how long the one has been under way that is, if one is.
    pub(crate) fn under_way(&self) -> Option<Duration> {
        let since = self.count.lock().unwrap_or_else(PoisonError::into_inner).since;
        since.map(|since| since.elapsed())
    }

    /// Waits until all that has been read so far is synced, or never will be.
    pub(crate) fn wait(&self) {
        self.wait_for(self.begun());
    }

    fn begun(&self) -> u64 {
        self.count.lock().unwrap_or_else(PoisonError::into_inner).begun
    }

    fn wait_for(&self, commits: u64) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.over.wait_while(count, |count| count.over < commits));
    }
}

/// A commit under way.
#[derive(Debug)]
pub(crate) struct Commit<'a> {
    barrier: &'a Barrier,
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        let Barrier { count, over } = self.barrier;
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        count.over += 1;
        count.since = None;
        drop(count);
        over.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn who_reads_waits_for_the_commit_under_way() {
        let barrier = Barrier::default();
        barrier.wait();
        let (says, said) = mpsc::channel();
        thread::scope(|scope| {
            let commit = barrier.begin();
            scope.spawn(|| {
                barrier.wait();
                says.send("read").unwrap();
            });
            assert!(said.recv_timeout(Duration::from_millis(100)).is_err(), "it has not waited");
            drop(commit);
            assert_eq!(said.recv(), Ok("read"));
        });
    }

    #[test]
    fn who_reads_does_not_wait_for_the_next_commit() {
        let barrier = Barrier::default();
        let commit = barrier.begin();
        let read = barrier.begun();
        drop(commit);
        let next = barrier.begin();
        barrier.wait_for(read);
        drop(next);
    }
}
