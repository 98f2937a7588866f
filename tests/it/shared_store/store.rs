//! A sled store that behaves like a shared one: a test can take destinations away from it, invalidate their
//! claims, and make it unreachable.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use seal_dpf_urlcallback::{
    callback::{CallbackId, Destination},
    clock::{SharedClock, SystemClock, Timestamp},
    outbox::{
        Cancelled, Claim, Claims, Delivered, DestinationPage, DestinationQuery, Detail, Enqueued,
        Entry, ExportCursor, Exported, Failure, Identity, Mended, NewCallback, News, Open, Outbox,
        OutboxError, OutboxFuture, Over, Ownership, Page, Query, Record, Scope, Sequence,
        Settlement, Summary, Validity,
        sled::{Settings, SledOutbox},
    },
};
use tokio::sync::{Notify, watch};

use crate::support::StoreFolder;

/// The state of the claims of one destination.
pub(super) struct Owned {
    pub(super) valid: AtomicBool,
    pub(super) lost: watch::Sender<bool>,
}

impl Default for Owned {
    fn default() -> Self {
        Self { valid: AtomicBool::new(true), lost: watch::Sender::new(false) }
    }
}

impl Ownership for Owned {
    fn valid(&self) -> bool {
        self.valid.load(SeqCst)
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        let mut lost = self.lost.subscribe();
        Box::pin(async move {
            lost.wait_for(|lost| *lost).await.unwrap();
        })
    }
}

pub(super) struct Shared {
    inner: SledOutbox,
    _folder: StoreFolder,
    owned: Mutex<HashMap<Destination, Arc<Owned>>>,
    news: Mutex<VecDeque<News>>,
    told: Notify,
    /// Nothing of this destination can be claimed or settled.
    pub(super) unreachable: Mutex<Option<Destination>>,
    /// Nothing of this destination can be read, and no outcome be recorded; that does not end by itself.
    pub(super) unreadable: Mutex<Option<Destination>>,
    /// Nothing can be written.
    pub(super) down: AtomicBool,
    /// Every second claim of a destination finds nothing read ahead; what is read then is reported later.
    pub(super) reads_late: AtomicBool,
    reading: Mutex<HashSet<Destination>>,
    /// How often the loop has waited for news.
    pub(super) rounds: AtomicUsize,
    /// Claims so far, by destination.
    claims: Mutex<HashMap<Destination, usize>>,
}

impl Shared {
    pub(super) fn open() -> Arc<Self> {
        let folder = StoreFolder::new();
        let settings = Settings { min_free_bytes: 0, ..Settings::default() };
        let inner = SledOutbox::open(folder.path(), settings, Arc::new(SystemClock)).unwrap();
        Arc::new(Self {
            inner,
            _folder: folder,
            owned: Mutex::default(),
            news: Mutex::default(),
            told: Notify::new(),
            unreachable: Mutex::default(),
            unreadable: Mutex::default(),
            down: AtomicBool::new(false),
            reads_late: AtomicBool::new(false),
            reading: Mutex::default(),
            rounds: AtomicUsize::new(0),
            claims: Mutex::default(),
        })
    }

    pub(super) fn owned(&self, of: &Destination) -> Arc<Owned> {
        Arc::clone(self.owned.lock().unwrap().entry(of.clone()).or_default())
    }

    pub(super) fn claims(&self, of: &Destination) -> usize {
        self.claims.lock().unwrap().get(of).copied().unwrap_or_default()
    }

    pub(super) fn report(&self, news: News) {
        self.news.lock().unwrap().push_back(news);
        self.told.notify_one();
    }

    /// Another instance takes the destination.
    pub(super) fn lose(&self, it: &Destination) {
        let owned = self.owned(it);
        owned.valid.store(false, SeqCst);
        owned.lost.send_replace(true);
        self.report(News::Lost(it.clone()));
    }

    /// The destination returns.
    pub(super) fn get(&self, it: &Destination, open: Option<Open>) {
        self.owned.lock().unwrap().remove(it);
        let at = Timestamp::default();
        self.report(News::Due { destination: it.clone(), at, open });
    }

    fn fault(&self, of: &Destination) -> Option<OutboxError> {
        if self.unreadable.lock().unwrap().as_ref() == Some(of) {
            return Some(OutboxError::CorruptPage("on purpose".into()));
        }
        let unreachable = self.unreachable.lock().unwrap().as_ref() == Some(of);
        unreachable.then(|| OutboxError::Unreachable("on purpose".into()))
    }

    fn write<T: Send + 'static>(&self, call: OutboxFuture<T>) -> OutboxFuture<T> {
        if self.down.load(SeqCst) {
            let error = OutboxError::Unreachable("on purpose".into());
            return Box::pin(std::future::ready(Err(error)));
        }
        call
    }
}

impl Outbox for Shared {
    fn clock(&self) -> SharedClock {
        self.inner.clock()
    }

    fn enqueue(&self, batch: Vec<NewCallback>, sequence: Sequence) -> OutboxFuture<Vec<Enqueued>> {
        self.write(self.inner.enqueue(batch, sequence))
    }

    fn news(&self) -> BoxFuture<'_, Vec<News>> {
        self.rounds.fetch_add(1, SeqCst);
        Box::pin(async {
            loop {
                // One at a time: whatever the loop does in between, it must ask for the others.
                if let Some(own) = self.news.lock().unwrap().pop_front() {
                    return vec![own];
                }
                tokio::select! {
                    news = self.inner.news() => return news,
                    () = self.told.notified() => {}
                }
            }
        })
    }

    fn claim(&self, to: &Destination, limit: usize, now: Timestamp) -> Result<Claims, OutboxError> {
        *self.claims.lock().unwrap().entry(to.clone()).or_default() += 1;
        let owned = self.owned(to);
        if *owned.lost.borrow() {
            return Err(OutboxError::Lost);
        }
        if let Some(error) = self.fault(to) {
            return Err(error);
        }
        if self.reads_late.load(SeqCst) {
            let mut reading = self.reading.lock().unwrap();
            if reading.insert(to.clone()) {
                self.report(News::Due { destination: to.clone(), at: now, open: None });
                return Ok(Claims::default());
            }
            reading.remove(to);
        }
        let mut claims = self.inner.claim(to, limit, now)?;
        for claim in &mut claims.claimed {
            claim.validity = Validity::while_owned(Arc::clone(&owned) as _);
        }
        Ok(claims)
    }

    fn settle(&self, claim: Claim, settlement: Settlement) -> OutboxFuture<Record> {
        if let Some(error) = self.fault(&claim.record.destination) {
            claim.release();
            return Box::pin(std::future::ready(Err(error)));
        }
        self.inner.settle(claim, settlement)
    }

    fn replay(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64> {
        self.write(self.inner.replay(ids))
    }

    fn cancel(&self, ids: Vec<CallbackId>) -> OutboxFuture<Vec<Cancelled>> {
        self.write(self.inner.cancel(ids))
    }

    fn retry_now(&self, ids: Vec<CallbackId>) -> OutboxFuture<u64> {
        self.write(self.inner.retry_now(ids))
    }

    fn pause(&self, destination: &Destination, paused: bool) -> OutboxFuture<bool> {
        self.write(self.inner.pause(destination, paused))
    }

    fn expire(&self, of: Scope, cutoff: Timestamp, failure: Failure) -> OutboxFuture<Vec<Record>> {
        self.write(self.inner.expire(of, cutoff, failure))
    }

    fn purge(&self, over: Over) -> OutboxFuture<u64> {
        self.write(self.inner.purge(over))
    }

    fn notify(&self) -> OutboxFuture<u64> {
        self.write(self.inner.notify())
    }

    fn mend(&self, after: Vec<u8>) -> OutboxFuture<Mended> {
        self.write(self.inner.mend(after))
    }

    fn get(&self, id: CallbackId) -> OutboxFuture<Option<Detail>> {
        self.write(self.inner.get(id))
    }

    fn list(&self, query: Query) -> OutboxFuture<Page> {
        self.write(self.inner.list(query))
    }

    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn export(&self, cursor: ExportCursor) -> OutboxFuture<Exported> {
        self.write(self.inner.export(cursor))
    }

    fn import(&self, entries: Vec<Entry>) -> OutboxFuture<u64> {
        self.write(self.inner.import(entries))
    }

    fn destinations(
        &self,
        query: DestinationQuery,
        now: Timestamp,
    ) -> OutboxFuture<DestinationPage> {
        self.write(self.inner.destinations(query, now))
    }

    fn delivered(&self, since: Timestamp) -> OutboxFuture<Delivered> {
        self.write(self.inner.delivered(since))
    }

    fn summary(&self, now: Timestamp) -> OutboxFuture<Summary> {
        self.write(self.inner.summary(now))
    }

    fn set_open(&self, destination: &Destination, open: Option<Open>) {
        self.inner.set_open(destination, open);
    }

    fn ready(&self) -> OutboxFuture<()> {
        self.write(self.inner.ready())
    }

    fn leads(&self) -> bool {
        self.inner.leads()
    }

    fn close(&self) {
        self.inner.close();
    }

    fn write_in_progress(&self) -> Option<Duration> {
        self.inner.write_in_progress()
    }
}
