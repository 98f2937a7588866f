//! Reads are answered when what they saw is durable.
//!
//! In sled, a batch is visible to readers as soon as it is applied, which is before its sync. A kill in
//! between would undo it. Therefore a read that may have seen such a batch waits for its sync. After
//! the store has stopped, reads no longer wait.

use std::sync::{Condvar, Mutex, PoisonError};

/// Number of commits that have begun and ended.
#[derive(Debug, Default)]
struct Count {
    begun: u64,
    ended: u64,
}

/// Lets readers wait for the commit in progress.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    count: Mutex<Count>,
    ended: Condvar,
}

impl Barrier {
    /// A commit begins. It ends when the returned guard is dropped.
    pub(crate) fn begin(&self) -> Commit<'_> {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.begun += 1;
        Commit { barrier: self }
    }

    /// Waits until the commit in progress, if there is one, has succeeded or failed.
    pub(crate) fn wait(&self) {
        self.wait_for(self.begun());
    }

    fn begun(&self) -> u64 {
        self.count.lock().unwrap_or_else(PoisonError::into_inner).begun
    }

    fn wait_for(&self, commits: u64) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.ended.wait_while(count, |count| count.ended < commits));
    }
}

/// A commit in progress.
#[derive(Debug)]
pub(crate) struct Commit<'a> {
    barrier: &'a Barrier,
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        let Barrier { count, ended } = self.barrier;
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        count.ended += 1;
        drop(count);
        ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn a_read_waits_for_the_commit_in_progress() {
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
    fn a_read_does_not_wait_for_the_next_commit() {
        let barrier = Barrier::default();
        let commit = barrier.begin();
        let read = barrier.begun();
        drop(commit);
        let next = barrier.begin();
        barrier.wait_for(read);
        drop(next);
    }
}
