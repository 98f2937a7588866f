//! DNS look-ups: by the system's resolver, which company networks rely on, and bounded.
//!
//! A look-up of the system blocks a thread until it has an answer or times out. Therefore:
//!
//! - There is at most one look-up of a name at a time, which all callers share.
//! - The number of concurrent look-ups is limited. Names whose previous look-up succeeded may use all slots,
//!   new names most of them, and names whose look-up failed or took long a part: even if many hang, a known
//!   name gets a slot.
//! - An exchange whose look-up could not start fails with [`NoLookup`], which does not count against
//!   the destination.
//! - A slow answer is cached for a short time. A fast one is not: the system caches it for its time to live.

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
use crate::delivery::recent_map::RecentMap;

/// Maximum number of concurrent look-ups. Each blocks a thread.
pub const LOOKUPS: usize = 1024;

/// Maximum number of look-ups for names whose previous look-up did not succeed (new or bad), and for
/// bad names only.
const NEW: usize = LOOKUPS - LOOKUPS / 8;
const BAD: usize = LOOKUPS / 4;

/// A look-up that takes longer than this is slow.
const LONG: Duration = Duration::from_millis(10);

/// How long a slow answer is cached.
const KEPT: Duration = Duration::from_secs(10);

/// After a look-up that takes longer than this, the name is treated as bad.
const HANGS: Duration = Duration::from_secs(2);

/// A look-up failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DnsError {
    /// The system reports an error.
    #[error("cannot resolve the name {name}: {error}")]
    Failed {
        /// The name.
        name: String,
        /// The error of the operating system.
        error: Arc<std::io::Error>,
    },
    /// It takes too long.
    #[error("the name {name} was not resolved within {} (connect_timeout)", humantime::format_duration(*.limit))]
    TimedOut {
        /// The name.
        name: String,
        /// The time limit.
        limit: Duration,
    },
}

/// A look-up could not start, because there are too many.
#[derive(Debug, Clone, thiserror::Error)]
#[error("too many concurrent DNS look-ups; the look-up of {0} has not started")]
pub struct NoLookup(String);

type Addresses = Arc<[SocketAddr]>;
type LookupError = Arc<std::io::Error>;

/// State of a look-up.
#[derive(Debug, Clone)]
enum LookupState {
    Waits,
    Runs,
    Done(Result<Addresses, LookupError>),
}

/// The look-ups in progress, and cached results.
#[derive(Debug)]
pub struct Names {
    all: Arc<Semaphore>,
    new: Arc<Semaphore>,
    bad: Arc<Semaphore>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    in_progress: HashMap<String, watch::Receiver<LookupState>>,
    kept: RecentMap<String, (Instant, Addresses)>,
    /// Whether the last look-up of a name was fast and successful.
    good: RecentMap<String, bool>,
}

impl Names {
    /// Creates an empty cache.
    pub fn new() -> Arc<Self> {
        let places = |count| Arc::new(Semaphore::new(count));
        Arc::new(Self {
            all: places(LOOKUPS),
            new: places(NEW),
            bad: places(BAD),
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of a name, with port 0. The look-up may wait for a slot for up to `limit`, and may then
    /// take as long. The error is a [`DnsError`] or [`NoLookup`].
    pub async fn look_up(
        self: &Arc<Self>,
        name: &str,
        limit: Duration,
        progress: &Progress,
    ) -> Result<Addresses, Box<dyn std::error::Error + Send + Sync>> {
        let mut state = match self.begin(name) {
            Ok(found) => return Ok(found),
            Err(state) => state,
        };
        progress.waits_for_place();
        let began = state.wait_for(|state| !matches!(state, LookupState::Waits));
        if !timeout(limit, began).await.is_ok_and(|began| began.is_ok()) {
            return Err(NoLookup(name.to_owned()).into());
        }
        progress.resolves();
        // A caller that joins a look-up in progress also waits for up to `limit`.
        let done = state.wait_for(|state| matches!(state, LookupState::Done(_)));
        let done = timeout(limit, done).await.map(|it| it.map(|it| it.clone()));
        match done {
            Ok(Ok(LookupState::Done(Ok(found)))) => Ok(found),
            Ok(Ok(LookupState::Done(Err(error)))) => {
                Err(DnsError::Failed { name: name.to_owned(), error }.into())
            }
            // The task was dropped with its runtime.
            Ok(_) => Err(NoLookup(name.to_owned()).into()),
            Err(_) => {
                self.known().good.put(name.to_owned(), false);
                Err(DnsError::TimedOut { name: name.to_owned(), limit }.into())
            }
        }
    }

    /// The cached answer, or the look-up in progress; starts one if there is none.
    fn begin(self: &Arc<Self>, name: &str) -> Result<Addresses, watch::Receiver<LookupState>> {
        let mut known = self.known();
        if let Some((until, found)) = known.kept.get(name)
            && Instant::now() < *until
        {
            return Ok(Arc::clone(found));
        }
        if let Some(state) = known.in_progress.get(name) {
            return Err(state.clone());
        }
        let (tell, state) = watch::channel(LookupState::Waits);
        known.in_progress.insert(name.to_owned(), state.clone());
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
            // No caller is waiting any more.
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
        self.known().in_progress.remove(&name);
    }

    /// Waits for a slot that a name with this history may use.
    async fn places(&self, good: Option<bool>) -> Vec<OwnedSemaphorePermit> {
        let lines: &[&Arc<Semaphore>] = match good {
            Some(true) => &[&self.all],
            None => &[&self.new, &self.all],
            Some(false) => &[&self.bad, &self.new, &self.all],
        };
        let mut places = Vec::with_capacity(lines.len());
        for line in lines {
            // The semaphores are never closed.
            places.extend(Arc::clone(line).acquire_owned().await);
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn addresses(text: &str) -> Addresses {
        [text.parse().unwrap()].into()
    }

    #[test]
    fn however_many_look_ups_hang_a_known_name_finds_a_slot() {
        let names = Names::new();
        let take = |good| names.places(good).now_or_never();
        let take_all =
            |good| std::iter::from_fn(|| take(good)).take(2 * LOOKUPS).collect::<Vec<_>>();
        let bad = take_all(Some(false));
        assert_eq!(bad.len(), BAD);
        let new = take_all(None);
        assert_eq!(new.len(), NEW - BAD);
        let good = take_all(Some(true));
        assert_eq!(good.len(), LOOKUPS - NEW);
        drop(new);
        assert!(take(Some(false)).is_none() && take(None).is_some() && take(Some(true)).is_some());
        drop(bad);
        assert!(take(Some(false)).is_some());
    }

    #[tokio::test]
    async fn a_fast_look_up_makes_a_name_good() {
        let names = Names::new();
        let found = names.look_up("127.0.0.1", LIMIT, &Progress::default()).await.unwrap();
        assert_eq!(found, addresses("127.0.0.1:0"));
        assert_eq!(names.known().good.get("127.0.0.1"), Some(&true));
        assert!(names.look_up("a\0", LIMIT, &Progress::default()).await.is_err());
        assert_eq!(names.known().good.get("a\0"), Some(&false));
    }

    #[tokio::test]
    async fn a_cached_answer_is_used_until_it_expires() {
        let names = Names::new();
        let now = Instant::now();
        let keep =
            |until| names.known().kept.put("127.0.0.1".into(), (until, addresses("127.0.0.2:0")));
        keep(now + KEPT);
        let look_up =
            || async { names.look_up("127.0.0.1", LIMIT, &Progress::default()).await.unwrap() };
        assert_eq!(look_up().await, addresses("127.0.0.2:0"));
        keep(now);
        assert_eq!(look_up().await, addresses("127.0.0.1:0"));
    }

    #[tokio::test]
    async fn an_exchange_whose_look_up_could_not_start_is_recognized() {
        struct Busy;
        impl reqwest::dns::Resolve for Busy {
            fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
                Box::pin(std::future::ready(Err(NoLookup(name.as_str().into()).into())))
            }
        }
        let tls = crate::tls::client(Vec::new(), None).unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
        let client = client.dns_resolver(Arc::new(Busy)).build().unwrap();
        let error = client.put("http://h/").send().await.unwrap_err();
        assert!(super::super::failure::is_not_looked_up(&error), "{error:?}");
    }
}
