//! When a delivery loop must check which destination, derived only from news and `next_due`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::future::BoxFuture;
use seal_dpf_urlcallback::{
    callback::Destination,
    clock::Timestamp,
    outbox::{News, Outbox},
};

#[derive(Debug, Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// When to check each destination.
#[derive(Default)]
pub(super) struct Wakes {
    times: BTreeMap<Destination, Timestamp>,
    waiting: Option<BoxFuture<'static, Vec<News>>>,
    bell: Arc<Bell>,
}

impl Wakes {
    /// Receives the signals. Like an executor, it polls only when woken, so a signal without a wake-up counts
    /// as lost.
    pub(super) fn listen(&mut self, outbox: &Arc<dyn Outbox>) {
        if self.bell.0.swap(false, Ordering::SeqCst) {
            self.wait(outbox);
        }
    }

    /// Begins to wait.
    pub(super) fn wait(&mut self, outbox: &Arc<dyn Outbox>) {
        let waker = Waker::from(Arc::clone(&self.bell));
        loop {
            let waiting = self.waiting.get_or_insert_with(|| {
                let outbox = Arc::clone(outbox);
                Box::pin(async move { outbox.news().await })
            });
            let Poll::Ready(news) = waiting.as_mut().poll(&mut Context::from_waker(&waker)) else {
                return;
            };
            self.waiting = None;
            for it in news {
                let (destination, at) = match it {
                    News::Due { destination, at, .. } => (destination, at),
                    News::RetryNow(destination) => (destination, Timestamp::default()),
                    News::Lost(destination) => panic!("{destination} was lost"),
                };
                let known = self.times.entry(destination).or_insert(at);
                *known = at.min(*known);
            }
        }
    }

    /// Records when the next callback is due, as a claim returned it.
    pub(super) fn come_again(&mut self, destination: Destination, at: Option<Timestamp>) {
        match at {
            Some(at) => self.times.insert(destination, at),
            None => self.times.remove(&destination),
        };
    }

    pub(super) fn at(&self, destination: &Destination) -> Option<Timestamp> {
        self.times.get(destination).copied()
    }

    /// The destination to check next, and when.
    pub(super) fn next(&self) -> Option<(Destination, Timestamp)> {
        self.times.iter().min_by_key(|(_, at)| **at).map(|(to, at)| (to.clone(), *at))
    }
}
