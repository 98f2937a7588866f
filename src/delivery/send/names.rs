//! Look-ups of names: by the system, since company networks rely on its ways, and bounded.
//!
//! The system's look-up holds a thread until it has an answer, and where the name server does not
//! answer, that takes as long as the system is patient. So:
//!
//! - A name is looked up once at a time, whoever asks for it.
//! - Only so many look-ups are under way. Names that were found the last time may have all of the
//!   places, new ones most, and those that were not found or took long a part: whatever hangs, a name
//!   that is known finds a place.
//! - Who waits for a place knows that the look-up has not begun ([`NoLookup`]): that says nothing of the
//!   destination.
//! - An answer that took long is kept for a short time. One that came at once is not: the system has
//!   it at hand, and knows best for how long it is good.

use std::{
    collections::HashMap,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout},
};

use super::progress::Progress;
use crate::delivery::recent::Recent;

/// How many look-ups are under way at most. Each holds a thread.
pub const LOOKUPS: usize = 1024;

/// How many of them are of names that were not found the last time, or of those and of new ones.
const NEW: usize = LOOKUPS - LOOKUPS / 8;
const BAD: usize = LOOKUPS / 4;

/// From when on a look-up takes long.
const LONG: Duration = Duration::from_millis(10);

/// For how long an answer that took long is kept.
const KEPT: Duration = Duration::from_secs(10);

/// A name that takes longer than this counts as not found for the next look-up's place.
const HANGS: Duration = Duration::from_secs(2);

/// The name has no address, or the system could not find out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DnsError {
    /// The system says so.
    #[error("the name {name} cannot be resolved: {error}")]
    Failed {
        /// Which name.
        name: String,
        /// What the system says.
        error: Arc<std::io::Error>,
    },
    /// It takes too long.
    #[error("the name {name} was not resolved within {} (delivery.connect_timeout)", humantime::format_duration(*.limit))]
    TimedOut {
        /// Which name.
        name: String,
        /// The setting.
        limit: Duration,
    },
}

/// So many look-ups are under way that this one could not begin.
#[derive(Debug, Clone, thiserror::Error)]
#[error("too many names are being looked up; the look-up of {0} has not begun")]
pub struct NoLookup(String);

type Addresses = Arc<[SocketAddr]>;
type LookupError = Arc<std::io::Error>;

/// How far a look-up is.
#[derive(Debug, Clone)]
enum LookupState {
    Waits,
    Runs,
    Done(Result<Addresses, LookupError>),
}

/// The names that are looked up.
#[derive(Debug)]
pub struct Names {
    /// How long one look-up may take, and how long it may wait for its place.
    limit: Duration,
    all: Arc<Semaphore>,
    new: Arc<Semaphore>,
    bad: Arc<Semaphore>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    under_way: HashMap<String, watch::Receiver<LookupState>>,
    kept: Recent<String, (Instant, Addresses)>,
    /// Whether a name was found quickly the last time.
    good: Recent<String, bool>,
}

impl Names {
    /// Nothing is known; a look-up may take as long as `limit`.
    pub fn new(limit: Duration) -> Arc<Self> {
        let places = |count| Arc::new(Semaphore::new(count));
        Arc::new(Self {
            limit,
            all: places(LOOKUPS),
            new: places(NEW),
            bad: places(BAD),
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of a name, with port 0. The error is a [`DnsError`] or [`NoLookup`].
    pub async fn look_up(
        self: &Arc<Self>,
        name: &str,
        progress: &Progress,
    ) -> Result<Addresses, Box<dyn std::error::Error + Send + Sync>> {
        let mut state = match self.begin(name) {
            Ok(found) => return Ok(found),
            Err(state) => state,
        };
        progress.waits_for_place();
        let began = state.wait_for(|state| !matches!(state, LookupState::Waits));
        if !timeout(self.limit, began).await.is_ok_and(|began| began.is_ok()) {
            return Err(NoLookup(name.to_owned()).into());
        }
        progress.resolves();
        // Who joins a look-up that has begun before gives it as much time as the first one did.
        let done = state.wait_for(|state| matches!(state, LookupState::Done(_)));
        let done = timeout(self.limit, done).await.map(|it| it.map(|it| it.clone()));
        match done {
            Ok(Ok(LookupState::Done(Ok(found)))) => Ok(found),
            Ok(Ok(LookupState::Done(Err(error)))) => {
                Err(DnsError::Failed { name: name.to_owned(), error }.into())
            }
            // Its task has gone with its runtime.
            Ok(_) => Err(NoLookup(name.to_owned()).into()),
            Err(_) => {
                self.known().good.put(name.to_owned(), false);
                Err(DnsError::TimedOut { name: name.to_owned(), limit: self.limit }.into())
            }
        }
    }

    /// What is kept of a name, or its look-up, which begins with this unless it is under way.
    fn begin(self: &Arc<Self>, name: &str) -> Result<Addresses, watch::Receiver<LookupState>> {
        let mut known = self.known();
        if let Some((until, found)) = known.kept.get(name)
            && Instant::now() < *until
        {
            return Ok(Arc::clone(found));
        }
        if let Some(state) = known.under_way.get(name) {
            return Err(state.clone());
        }
        let (tell, state) = watch::channel(LookupState::Waits);
        known.under_way.insert(name.to_owned(), state.clone());
        let good = known.good.get(name).copied();
        drop(known);
        tokio::spawn(Arc::clone(self).run(name.to_owned(), good, tell));
        Err(state)
    }

    async fn run(
        self: Arc<Self>,
        name: String,
        good: Option<bool>,
        tell: watch::Sender<LookupState>,
    ) {
        let places = tokio::select! {
            places = self.places(good) => Some(places),
            // Nobody waits for it any more.
            () = tell.closed() => None,
        };
        if let Some(places) = places {
            let begin = Instant::now();
            tell.send_replace(LookupState::Runs);
            let asked = name.clone();
            let answer = tokio::task::spawn_blocking(move || {
                let found = (asked.as_str(), 0).to_socket_addrs().map(Iterator::collect);
                drop(places);
                (found, begin.elapsed())
            });
            let (found, took) = match answer.await {
                Ok((found, took)) => (found.map_err(Arc::new), took),
                Err(error) => (Err(Arc::new(std::io::Error::other(error))), Duration::ZERO),
            };
            let found: Result<Addresses, LookupError> = found;
            let mut known = self.known();
            known.good.put(name.clone(), found.is_ok() && took < HANGS);
            if let Ok(found) = &found
                && took >= LONG
            {
                known.kept.put(name.clone(), (Instant::now() + KEPT, Arc::clone(found)));
            }
            drop(known);
            tell.send_replace(LookupState::Done(found));
        }
        self.known().under_way.remove(&name);
    }

    /// Waits for a place among those that a name like this may have.
    async fn places(&self, good: Option<bool>) -> Vec<OwnedSemaphorePermit> {
        let lines: &[&Arc<Semaphore>] = match good {
            Some(true) => &[&self.all],
            None => &[&self.new, &self.all],
            Some(false) => &[&self.bad, &self.new, &self.all],
        };
        let mut places = Vec::with_capacity(lines.len());
        for line in lines {
            // None of them is ever closed.
            places.extend(Arc::clone(line).acquire_owned().await);
        }
        places
    }
}
