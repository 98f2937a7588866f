//! A workaround for a lost wake-up in sled.
//!
//! If a write of sled's own threads fails, sled 0.34.7 stores the error, but does not always wake the
//! thread that waits in `flush()` for that write (`exit_reservation` in `pagecache/logger.rs`), so the
//! committer would wait for ever. The next call of `flush()` finds the error and wakes all waiters.
//! Therefore, while a commit takes long, new threads call `flush()` repeatedly. On a disk that is only
//! slow, they end with the commit.
//!
//! This does not help within `apply_batch()`, whose lock `flush()` waits for. There, a commit would wait
//! only for a page that left the cache after the same batch had changed it.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use sled::Db;

use crate::outbox::sled::guard::guarded;

/// A commit that takes longer than this is reported, and the first `flush()` is called. The interval to the
/// next call doubles each time.
const SLOW: Duration = Duration::from_secs(2);

/// The longest interval between two calls of `flush()`.
const SLOWEST: Duration = Duration::from_mins(10);

/// The thread that watches the duration of commits.
pub(crate) struct FlushWaker {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

impl FlushWaker {
    /// Starts the thread, which is stopped on drop.
    pub(crate) fn start(db: Db) -> std::io::Result<Self> {
        let watched = Arc::<Watched>::default();
        let thread = thread::Builder::new().name("wake".into()).spawn({
            let watched = Arc::clone(&watched);
            move || watched.watch(&db)
        })?;
        Ok(Self { watched, thread: Some(thread) })
    }

    /// A commit begins. It ends when the returned guard is dropped.
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

/// A commit in progress.
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

    /// Sleeps while nothing is committed. Otherwise it checks at intervals whether the same commit is still
    /// in progress, so that fast commits do not wake it.
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
                    "the data disk is slow; all writes are waiting for it"
                );
                let db = db.clone();
                let flush = move || guarded(|| Ok(db.flush()?));
                // If no thread can be started, the next one may.
                drop(thread::Builder::new().name("wake".into()).spawn(flush));
            }
            if state.closed {
                return;
            }
        }
    }
}
