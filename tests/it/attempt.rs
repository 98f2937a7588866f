//! One attempt, without a running service.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering, Ordering::SeqCst},
    },
    time::Duration,
};

use seal_dpf_urlcallback::{
    callback::{CallbackId, Destination},
    clock::{Clock, SharedClock, SystemClock, Timestamp},
    config::Config,
    delivery::{
        dispatcher::Dispatcher,
        jumps::Jumps,
        outcome::{DestinationHealth, Outcome, Verdict},
        settings::Settings,
    },
    outbox::{
        Attempt, ErrorKind, Failure, NewCallback, Outbox, Sequence,
        sled::{self, SledOutbox},
        transition,
    },
};

use crate::{outbox::new, support::Receiver};

/// A clock that panics at the second call, which is made when a response is read.
#[derive(Debug)]
struct FailingClock(AtomicU64);

impl Clock for FailingClock {
    fn now(&self) -> Timestamp {
        assert_eq!(self.0.fetch_add(1, Ordering::SeqCst) % 2, 0, "on purpose");
        SystemClock.now()
    }
}

#[tokio::test]
async fn a_panic_in_the_client_is_one_failed_attempt() {
    let receiver = Receiver::start();
    let url = receiver.url("/");
    let destination = Destination::parse(&url).unwrap();
    let new = NewCallback { url: url.into(), destination, ..new("1") };
    let record = transition::accept(new, CallbackId::from_u128(1), SystemClock.now(), true);
    let clock = Arc::new(FailingClock(AtomicU64::new(0)));
    let sender = Config::defaults().unwrap().sender(clock).unwrap();
    for _ in 0..2 {
        let outcome = sender.put(&record, true).await.outcome().unwrap();
        assert_eq!(outcome.verdict, Verdict::Transient);
        let error = outcome.attempt.error.unwrap();
        assert_eq!(error.kind, ErrorKind::Connect);
        assert!(error.message.contains("internal error during the attempt"), "{}", error.message);
    }
    assert_eq!(receiver.count(), 2);
}

/// A clock that panics once, in any task except the spared one.
#[derive(Debug, Default)]
struct ClockOfATask {
    spared: OnceLock<tokio::task::Id>,
    failed: AtomicBool,
}

impl Clock for ClockOfATask {
    fn now(&self) -> Timestamp {
        let other = self.spared.get().is_some_and(|id| Some(*id) != tokio::task::try_id());
        assert!(!other || self.failed.swap(true, SeqCst), "the clock fails in an attempt's task");
        SystemClock.now()
    }
}

/// Callback, slot and destination are free again. There is only one of each.
#[test]
fn a_panic_in_a_task_frees_callback_and_slot() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clock: SharedClock = Arc::new(SystemClock);
        let settings = sled::Settings { min_free_bytes: 0, ..sled::Settings::default() };
        let outbox = SledOutbox::open(&folder.path().join("outbox"), settings, Arc::clone(&clock));
        let outbox: Arc<dyn Outbox> = Arc::new(outbox.unwrap());
        let config = Config::defaults().unwrap();
        let settings = Settings {
            concurrency: 1,
            per_destination: 1,
            max_unsettled: 1,
            ..config.dispatcher.clone()
        };
        let failing = Arc::new(ClockOfATask::default());
        let jumps = Arc::new(Jumps::new(failing.clone(), Duration::ZERO));
        let sender = config.sender(clock).unwrap();
        let settings = tokio::sync::watch::channel(Arc::new(settings)).1;
        let dispatcher = Dispatcher::new(Arc::clone(&outbox), sender, settings, jumps);
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (_probe, probes) = tokio::sync::mpsc::channel(1);
        let delivery = tokio::spawn(dispatcher.run(stopped, probes));
        failing.spared.set(delivery.id()).unwrap();
        let destination = Destination::parse(&receiver.url("/")).unwrap();
        let to_receiver = |job| NewCallback {
            url: receiver.url("/").into(),
            destination: destination.clone(),
            ..new(job)
        };
        let batch = vec![to_receiver("1"), to_receiver("2")];
        outbox.enqueue(batch, Sequence::default()).await.unwrap();
        let end = std::time::Instant::now() + crate::support::DEADLINE;
        while outbox.summary(SystemClock.now()).await.unwrap().delivered < 2 {
            assert!(std::time::Instant::now() < end, "the callback or its slot is lost");
            tokio::time::sleep(crate::support::PAUSE).await;
        }
        assert!(failing.failed.load(SeqCst));
        stop.send_replace(true);
        delivery.await.unwrap();
    });
}

#[test]
fn statuses_and_errors_determine_the_destinations_health() {
    use DestinationHealth::{Failing, Unknown, Working};
    let statuses = [
        (200, Working),
        (302, Working),
        (404, Working),
        (407, Working),
        (408, Failing),
        (409, Working),
        (428, Working),
        (429, Failing),
        (431, Working),
        (499, Working),
        (500, Failing),
        (503, Failing),
        (599, Failing),
    ];
    let answered = statuses.into_iter().flat_map(|(status, health)| {
        // A response without a complete body is a failure, whatever its status.
        [
            (Some(status), Some(ErrorKind::Status), health),
            (Some(status), Some(ErrorKind::Body), Failing),
        ]
    });
    let unanswered = [
        (ErrorKind::Timeout, Failing),
        (ErrorKind::Connect, Failing),
        (ErrorKind::Dns, Failing),
        (ErrorKind::Tls, Failing),
        (ErrorKind::Body, Failing),
        (ErrorKind::InvalidUrl, Unknown),
        (ErrorKind::Egress, Unknown),
    ];
    let unanswered = unanswered.map(|(kind, health)| (None, Some(kind), health));
    let cases =
        answered.chain(unanswered).chain([(Some(200), None, Working), (None, None, Working)]);
    for (status, kind, health) in cases {
        let attempt = Attempt {
            number: 1,
            started_at: Timestamp::default(),
            duration_ms: 1,
            status,
            error: kind.map(|kind| Failure::new(kind, "")),
            peer: None,
            response_excerpt: None,
        };
        let outcome = Outcome { attempt, verdict: Verdict::Transient, retry_after: None };
        assert_eq!(outcome.destination_health(), health, "{status:?}, {kind:?}");
    }
}
