//! Wakes who waits for the disk where the engine forgets to.
//!
//! Where a write of sled's own threads fails, sled 0.34.7 keeps the error but does not in each
//! case wake who waits in `flush()` for that write (`exit_reservation` in its
//! `pagecache/logger.rs`), and so the committer would wait for good. Whoever calls `flush()`
//! after that finds the error at once and wakes everybody. So while a commit takes long, new
//! threads call it again and again; on a disk that is only slow they end when the commit does.
//!
//! Within `apply_batch()` this does not help, since `flush()` waits for its lock. There a commit
//! would wait only for a page that left the cache after this very batch had changed it.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use sled::Db;

use crate::outbox::sled::guard::guarded;

/// From when on a commit takes so long that somebody should know; then the first `flush()` is
/// called. The time to the next one doubles each time.
const SLOW: Duration = Duration::from_secs(2);

/// The longest time from one `flush()` to the next.
const SLOWEST: Duration = Duration::from_mins(10);

/// The thread that watches how long a commit takes.
pub(crate) struct FlushWaker {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

impl FlushWaker {
    /// Starts the thread, which ends when this is dropped.
    pub(crate) fn start(db: Db) -> std::io::Result<Self> {
        let watched = Arc::<Watched>::default();
        let thread = thread::Builder::new().name("wake".into()).spawn({
            let watched = Arc::clone(&watched);
            move || watched.watch(&db)
        })?;
        Ok(Self { watched, thread: Some(thread) })
    }

    /// A commit begins; it is over when what this gives is dropped.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        let mut state = self.watched.state();
        state.commits += 1;
        state.under_way = true;
        if state.asleep {
            self.watched.changed.notify_one();
        }
        UnderWay { watched: &self.watched }
    }
}

impl Drop for FlushWaker {
    fn drop(&mut self) {
        self.watched.state().closed = true;
        self.watched.changed.notify_one();
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// A commit under way.
pub(crate) struct UnderWay<'a> {
    watched: &'a Watched,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.watched.state().under_way = false;
    }
}

#[derive(Default)]
struct Watched {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    commits: u64,
    under_way: bool,
    asleep: bool,
    closed: bool,
}

impl Watched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps where nothing is committed; otherwise it looks whether the same commit is still
    /// under way as a while ago, so that a commit that is fast enough wakes nobody.
    fn watch(&self, db: &Db) {
        let mut state = self.state();
        loop {
            state.asleep = true;
            let begun = self.changed.wait_while(state, |state| !state.closed && !state.under_way);
            state = begun.unwrap_or_else(PoisonError::into_inner);
            state.asleep = false;
            let (commit, seen) = (state.commits, Instant::now());
            let mut patience = SLOW;
            while state.under_way && state.commits == commit && !state.closed {
                let waited = self.changed.wait_timeout_while(state, patience, |it| !it.closed);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                if !state.under_way || state.commits != commit {
                    break;
                }
                patience = SLOWEST.min(patience * 2);
                tracing::warn!(
                    event.action = "commit-slow",
                    event.duration = u64::try_from(seen.elapsed().as_nanos()).unwrap_or(u64::MAX),
                    "the data disk is slow: everything waits for it"
                );
                let db = db.clone();
                let flush = move || guarded(|| Ok(db.flush()?));
                // Where no thread can be had, the next one may.
                drop(thread::Builder::new().name("wake".into()).spawn(flush));
            }
            if state.closed {
                return;
            }
        }
    }
}
