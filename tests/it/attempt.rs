//! One attempt, without the service around it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use seal_dpf_urlcallback::{
    callback::{CallbackId, Destination},
    clock::{Clock, SystemClock, Timestamp},
    config::Config,
    delivery::attempt::Verdict,
    outbox::{ErrorKind, NewCallback, transition},
};

use crate::{outbox::new, support::Receiver};

/// A clock that fails the second time, which is when an answer is read.
#[derive(Debug)]
struct FailingClock(AtomicU64);

impl Clock for FailingClock {
    fn now(&self) -> Timestamp {
        assert_eq!(self.0.fetch_add(1, Ordering::SeqCst) % 2, 0, "on purpose");
        SystemClock.now()
    }
}

#[tokio::test]
async fn a_panic_within_an_attempt_is_one_failed_attempt_and_costs_no_more() {
    let receiver = Receiver::start();
    let url = receiver.url("/");
    let destination = Destination::parse(&url).unwrap();
    let new = NewCallback { url: url.into(), destination, ..new("1") };
    let record = transition::accept(new, CallbackId::from_u128(1), SystemClock.now(), true);
    let clock = Arc::new(FailingClock(AtomicU64::new(0)));
    let sender = Config::defaults().unwrap().sender(clock).unwrap();
    for _ in 0..2 {
        let outcome = sender.put(&record, true).await.unwrap();
        assert_eq!(outcome.verdict, Verdict::Transient);
        let error = outcome.attempt.error.unwrap();
        assert_eq!(error.kind, ErrorKind::Connect);
        assert!(error.message.contains("the service failed"), "{}", error.message);
    }
    assert_eq!(receiver.count(), 2);
}
