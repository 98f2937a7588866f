//! The test bench of the outbox.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use seal_dpf_urlcallback::{
    callback::{Body, CallbackId, Destination, JobState},
    clock::{Clock, ManualClock, Timestamp},
    outbox::{
        Attempt, Claim, Enqueued, ErrorKind, Failure, NewCallback, Outbox as _, OutboxError,
        Retention, Sequence, Settlement, StateName,
        sled::{Settings, SledOutbox},
    },
};

pub(super) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// An outbox in a temporary folder, and a clock that is set by the test.
pub(super) struct Bench {
    pub(super) folder: crate::support::StoreFolder,
    pub(super) clock: Arc<ManualClock>,
    pub(super) outbox: Option<SledOutbox>,
    pub(super) runtime: tokio::runtime::Runtime,
}

impl Bench {
    pub(super) fn new() -> Self {
        let folder = crate::support::StoreFolder::new();
        let clock = ManualClock::at(START);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut bench = Self { folder, clock, outbox: None, runtime };
        bench.open();
        bench
    }

    pub(super) fn open(&mut self) {
        let settings = Settings { min_free_bytes: 0, ..Settings::default() };
        let clock: Arc<ManualClock> = Arc::clone(&self.clock);
        self.outbox = Some(SledOutbox::open(self.folder.path(), settings, clock).unwrap());
    }

    pub(super) fn reopen(&mut self) {
        self.outbox = None;
        self.open();
    }

    pub(super) fn outbox(&self) -> &SledOutbox {
        self.outbox.as_ref().unwrap()
    }

    pub(super) fn wait<T>(&self, future: impl Future<Output = Result<T, OutboxError>>) -> T {
        self.runtime.block_on(future).unwrap()
    }

    pub(super) fn enqueue(&self, job: &str) -> CallbackId {
        match self.wait(self.outbox().enqueue(vec![new(job)], Sequence::default()))[0] {
            Enqueued::Stored(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn claim(&self, limit: usize) -> Vec<Claim> {
        self.outbox().claim(&destination(), limit, self.clock.now()).unwrap().claimed
    }

    pub(super) fn claimed_ids(&self) -> Vec<CallbackId> {
        let claims = self.claim(100);
        let ids = claims.iter().map(|claim| claim.record.id).collect();
        claims.into_iter().for_each(|claim| claim.release());
        ids
    }

    pub(super) fn one(&self) -> Claim {
        self.claim(1).pop().expect("something is due")
    }

    pub(super) fn fail(&self, claim: Claim) {
        let failure = Failure::new(ErrorKind::Status, "no");
        let settlement =
            Settlement::Failed { attempt: Some(attempt(&claim, false)), failure, hold: None };
        self.wait(self.outbox().settle(claim, settlement));
    }

    pub(super) fn deliver(&self, claim: Claim) {
        let settlement = Settlement::Delivered(attempt(&claim, true));
        self.wait(self.outbox().settle(claim, settlement));
    }

    pub(super) fn retry(&self, claim: Claim, pause: Duration) {
        let due = self.clock.now().after(pause);
        let settlement = Settlement::Retry { attempt: attempt(&claim, false), due, hold: None };
        self.wait(self.outbox().settle(claim, settlement));
    }

    /// Purges the callbacks whose retention is over.
    pub(super) fn purge(&self, retention: Retention) -> u64 {
        self.wait(self.outbox().purge(retention.over(|age| self.clock.now().before(age))))
    }

    pub(super) fn state(&self, id: CallbackId) -> Option<StateName> {
        self.wait(self.outbox().get(id)).map(|detail| detail.status.record.state_name())
    }

    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let summary = self.wait(self.outbox().summary(self.clock.now()));
        assert_eq!(summary.pending, summary.due + summary.waiting + summary.in_flight);
        (summary.pending, summary.delivered, summary.failed)
    }
}

/// A clock that notifies the test when the store's writer has read it, and then waits.
#[derive(Debug)]
pub(super) struct Halting {
    pub(super) clock: Arc<ManualClock>,
    halt: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

impl Default for Halting {
    fn default() -> Self {
        Self { clock: ManualClock::at(START), halt: Mutex::default() }
    }
}

impl Halting {
    /// An outbox with such a clock, in a temporary folder.
    pub(super) fn open() -> (crate::support::StoreFolder, SledOutbox, Arc<Self>) {
        let folder = crate::support::StoreFolder::new();
        let settings = Settings { min_free_bytes: 0, ..Settings::default() };
        let clock = Arc::new(Self::default());
        let outbox = SledOutbox::open(folder.path(), settings, Arc::clone(&clock) as _).unwrap();
        (folder, outbox, clock)
    }

    /// Stops the writer the next time that it reads the clock. It reports that on the first channel, and
    /// continues when it receives something on the second one.
    pub(super) fn halt(&self) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
        let ((looks, looked), (go, goes_on)) = (mpsc::channel(), mpsc::channel());
        *self.halt.lock().unwrap() = Some((looks, goes_on));
        (looked, go)
    }
}

impl Clock for Halting {
    fn now(&self) -> Timestamp {
        let now = self.clock.now();
        if std::thread::current().name() == Some("committer")
            && let Some((looked, go_on)) = self.halt.lock().unwrap().take()
        {
            looked.send(()).unwrap();
            go_on.recv().unwrap();
        }
        now
    }
}

pub(super) fn destination() -> Destination {
    Destination::parse("http://h:80").unwrap()
}

pub(crate) fn new(job: &str) -> NewCallback {
    NewCallback {
        event_id: None,
        body: Body {
            job_id: job.into(),
            job_id_fs: "fs".into(),
            job_state: JobState::Sending,
            exit_status: None,
            error_reason: None,
            dpf_tracker_url: None,
        },
        url: "http://h/".to_owned().into(),
        destination: destination(),
        trace: None,
        refusal: None,
    }
}

pub(super) fn attempt(claim: &Claim, success: bool) -> Attempt {
    Attempt {
        number: claim.record.next_attempt(),
        started_at: START,
        duration_ms: 1,
        status: Some(if success { 200 } else { 500 }),
        error: (!success).then(|| Failure::new(ErrorKind::Status, "no")),
        peer: None,
        response_excerpt: None,
    }
}
