//! Delivery and API over a store that is shared with other instances: lost destinations, invalid claims, and
//! an unreachable store.

mod api;
mod store;

use std::{
    io::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use seal_dpf_urlcallback::{
    callback::Destination,
    clock::{Clock as _, SystemClock, Timestamp},
    config::Config,
    delivery::{dispatcher::Dispatcher, jumps::Jumps, settings::Settings},
    health::Health,
    outbox::{NewCallback, News, Open, Outbox as _, Sequence},
};
use tracing::field::{Field, Visit};
use tracing_subscriber::{Layer, layer::SubscriberExt as _};

use self::store::Shared;
use crate::{
    outbox::new,
    support::{Answer, DEADLINE, PAUSE, RawReceiver, Receiver, read_request},
};

/// The `event.action` of each line of the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn count(&self, action: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|it| *it == action).count()
    }
}

impl Visit for Log {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event.action" {
            self.0.lock().unwrap().push(value.into());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        event.record(&mut self.clone());
    }
}

/// Runs a test together with a delivery loop over such a store, on one thread.
fn deliver<F: Future<Output = ()>>(
    concurrency: usize,
    test: impl FnOnce(Arc<Shared>, Health, Log) -> F,
) {
    // The limit on log lines applies to the whole process.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let log = Log::default();
    let subscriber = tracing_subscriber::registry().with(log.clone());
    let _logged = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let outbox = Shared::open();
        let config = Config::defaults().unwrap();
        let settings =
            Settings { concurrency, per_destination: concurrency, ..config.dispatcher.clone() };
        let jumps = Arc::new(Jumps::new(outbox.clock(), Duration::ZERO));
        let sender = config.sender(outbox.clock()).unwrap();
        let settings = tokio::sync::watch::channel(Arc::new(settings)).1;
        let dispatcher = Dispatcher::new(outbox.clone() as _, sender, settings, jumps);
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (health, checks) = Health::new(outbox.clone() as _);
        let delivery = tokio::spawn(dispatcher.run(stopped, checks));
        test(outbox, health, log).await;
        stop.send_replace(true);
        delivery.await.unwrap();
    });
}

fn destination(receiver: &Receiver) -> Destination {
    Destination::parse(&receiver.url("/")).unwrap()
}

/// Callbacks of so many jobs of this receiver.
fn callbacks(receiver: &Receiver, jobs: usize) -> impl Iterator<Item = NewCallback> {
    (0..jobs).map(|job| NewCallback {
        url: receiver.url("/").into(),
        destination: destination(receiver),
        ..new(&format!("{}-{job}", receiver.address))
    })
}

async fn enqueue(outbox: &Shared, receiver: &Receiver, jobs: usize) {
    let batch = callbacks(receiver, jobs).collect();
    outbox.enqueue(batch, Sequence::default()).await.unwrap();
}

async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !ask().await {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn delivered(outbox: &Shared, count: u64) {
    let summary = async || outbox.summary(SystemClock.now()).await.unwrap().delivered;
    eventually("they are delivered", async || summary().await >= count).await;
    assert_eq!(summary().await, count);
}

/// Waits until the loop has processed all earlier news.
async fn news_are_received(outbox: &Shared) {
    let before = outbox.rounds.load(SeqCst);
    eventually("the loop asks for news", async || outbox.rounds.load(SeqCst) > before).await;
}

/// How long to wait before concluding that nothing happens: longer than two pauses of a destination.
const A_WHILE: Duration = Duration::from_millis(2500);

#[test]
fn nothing_is_sent_for_an_invalid_claim() {
    deliver(16, async |outbox, _, log| {
        let (a, b) = (Receiver::start(), Receiver::start());
        let to = destination(&a);
        outbox.owned(&to).valid.store(false, SeqCst);
        enqueue(&outbox, &a, 20).await;
        enqueue(&outbox, &b, 20).await;
        let begin = Instant::now();
        delivered(&outbox, 20).await;
        // At most twice for a turn, because it has more callbacks than slots.
        eventually("it is claimed again", async || outbox.claims(&to) > 4).await;
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(1), "a pause is left out: {took:?}");
        assert_eq!((a.count(), b.count()), (0, 20));
        let most = usize::try_from(took.as_secs()).unwrap() + 2;
        let lines = log.count("store-away");
        assert!((1..=most).contains(&lines), "{lines} lines");
        outbox.owned(&to).valid.store(true, SeqCst);
        delivered(&outbox, 40).await;
    });
}

#[test]
fn a_put_is_dropped_with_its_claim_and_repeated_when_the_destination_returns() {
    deliver(1, async |outbox, _, log| {
        let (a, b) = (Receiver::answering(vec![], Answer::Wait), Receiver::start());
        let to = destination(&a);
        enqueue(&outbox, &a, 1).await;
        eventually("it is sent", async || a.count() == 1).await;
        enqueue(&outbox, &b, 20).await;
        outbox.lose(&to);
        // There is one slot.
        delivered(&outbox, 20).await;
        assert!(outbox.claims(&to) <= 3, "{} claims", outbox.claims(&to));
        tokio::time::sleep(A_WHILE).await;
        assert!(outbox.claims(&to) <= 3, "{} claims", outbox.claims(&to));

        // The breaker allows the next probe in an hour, unless an operator requests it now.
        let next_probe_at = SystemClock.now().after(Duration::from_hours(1));
        let claims = outbox.claims(&to);
        outbox.get(&to, Some(Open { since: SystemClock.now(), next_probe_at }));
        news_are_received(&outbox).await;
        assert_eq!((outbox.claims(&to), a.count()), (claims, 1));
        outbox.report(News::RetryNow(to));
        eventually("it is sent again", async || a.count() == 2).await;
        a.open();
        delivered(&outbox, 21).await;
        assert_eq!(a.count(), 2);
        assert_eq!(log.count("claim-dropped"), 0, "it was given back");
    });
}

#[test]
fn a_destination_is_forgotten_when_it_is_lost() {
    deliver(16, async |outbox, _, log| {
        let failing = Receiver::answering(vec![Answer::Status(503); 5], Answer::Status(200));
        let to = destination(&failing);
        enqueue(&outbox, &failing, 5).await;
        eventually("it opens", async || log.count("destination-open") == 1).await;
        outbox.lose(&to);
        news_are_received(&outbox).await;
        outbox.get(&to, None);
        // Only the loop can have remembered a pause.
        enqueue(&outbox, &failing, 6).await;
        eventually("what is new is sent", async || failing.count() == 6).await;
        assert_eq!(log.count("destination-closed"), 0, "it was not open any more");
    });
}

#[test]
fn a_destination_that_an_operator_wants_tried_is_not_reported_as_open() {
    deliver(16, async |outbox, _, log| {
        let failing = Receiver::answering(vec![Answer::Status(503); 5], Answer::Wait);
        enqueue(&outbox, &failing, 5).await;
        eventually("it opens", async || log.count("destination-open") == 1).await;
        let open = async || outbox.summary(SystemClock.now()).await.unwrap().open_count;
        assert_eq!(open().await, 1);
        outbox.report(News::RetryNow(destination(&failing)));
        eventually("it is tried", async || failing.count() > 5).await;
        assert_eq!(open().await, 0, "it has not answered yet");
        failing.open();
        delivered(&outbox, 5).await;
    });
}

#[test]
fn an_idle_destination_is_forgotten_when_it_is_lost() {
    deliver(16, async |outbox, _, log| {
        // A failure of the destination that ends the callback.
        let failing = Receiver::answering(vec![Answer::Status(501); 5], Answer::Status(200));
        let to = destination(&failing);
        enqueue(&outbox, &failing, 5).await;
        eventually("it opens", async || log.count("destination-open") == 1).await;
        let failed = async || outbox.summary(SystemClock.now()).await.unwrap().failed;
        eventually("they have failed", async || failed().await == 5).await;
        outbox.lose(&to);
        news_are_received(&outbox).await;
        outbox.get(&to, None);
        enqueue(&outbox, &failing, 6).await;
        delivered(&outbox, 6).await;
        assert_eq!(log.count("destination-closed"), 0, "it was not open any more");
    });
}

#[test]
fn a_destination_that_comes_back_during_an_attempt_is_as_open_as_it_was_left() {
    deliver(16, async |outbox, _, _| {
        let receiver = Receiver::answering(vec![], Answer::Wait);
        let to = destination(&receiver);
        enqueue(&outbox, &receiver, 1).await;
        eventually("it is sent", async || receiver.count() == 1).await;
        outbox.report(News::Lost(to.clone()));
        news_are_received(&outbox).await;
        let now = SystemClock.now();
        let open = Some(Open { since: now, next_probe_at: now.after(Duration::from_hours(1)) });
        outbox.report(News::Due { destination: to.clone(), at: Timestamp::default(), open });
        news_are_received(&outbox).await;
        let other = NewCallback {
            url: receiver.url("/").into(),
            destination: to.clone(),
            ..new("another job")
        };
        outbox.enqueue(vec![other], Sequence::default()).await.unwrap();
        news_are_received(&outbox).await;
        assert_eq!((outbox.claims(&to), receiver.count()), (1, 1));
        // The first one is answered, so the destination works.
        receiver.open();
        delivered(&outbox, 2).await;
    });
}

#[test]
fn a_store_that_cannot_be_reached_for_a_claim_is_logged() {
    deliver(16, async |outbox, _, log| {
        let receiver = Receiver::start();
        *outbox.unreachable.lock().unwrap() = Some(destination(&receiver));
        enqueue(&outbox, &receiver, 1).await;
        eventually("it is logged", async || log.count("store-away") > 0).await;
        outbox.unreachable.lock().unwrap().take();
        delivered(&outbox, 1).await;
    });
}

#[test]
fn a_destination_that_cannot_be_read_is_left_alone_for_a_while_and_logged() {
    deliver(16, async |outbox, _, log| {
        let (a, b) = (Receiver::answering(vec![], Answer::Wait), Receiver::start());
        let to = destination(&a);
        enqueue(&outbox, &a, 1).await;
        eventually("it is sent", async || a.count() == 1).await;
        *outbox.unreadable.lock().unwrap() = Some(to.clone());
        a.open();
        eventually("its outcome is lost", async || log.count("settle-failed") == 1).await;
        eventually("it is due again", async || log.count("claim-failed") == 1).await;
        for round in 1..=5 {
            enqueue(&outbox, &b, 20).await;
            delivered(&outbox, round * 20).await;
        }
        assert_eq!((outbox.claims(&to), log.count("claim-failed")), (2, 1));
        assert_eq!(log.count("store-away"), 0, "it does not end by itself");
    });
}

#[test]
fn attempts_that_end_after_their_destination_was_lost_do_not_open_it() {
    // As many as open a destination.
    const FAILURES: usize = 5;
    deliver(16, async |outbox, _, log| {
        let (came, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let shared = (Arc::clone(&came), Arc::clone(&gate));
        let failing = RawReceiver::start(move |mut stream| {
            read_request(&mut stream);
            shared.0.fetch_add(1, SeqCst);
            while !shared.1.load(SeqCst) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            let answer = "HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            drop(stream.write_all(answer.as_bytes()));
        });
        let to = Destination::parse(&failing.url()).unwrap();
        let callback = |job: usize| NewCallback {
            url: failing.url().into(),
            destination: to.clone(),
            ..new(&job.to_string())
        };
        let batch = (0..FAILURES).map(callback).collect();
        outbox.enqueue(batch, Sequence::default()).await.unwrap();
        eventually("they are sent", async || came.load(SeqCst) == FAILURES).await;
        outbox.report(News::Lost(to));
        news_are_received(&outbox).await;
        gate.store(true, SeqCst);
        let failed = async || outbox.summary(SystemClock.now()).await.unwrap().waiting;
        eventually("they have failed", async || failed().await == FAILURES as u64).await;
        news_are_received(&outbox).await;
        assert_eq!(log.count("destination-open"), 0, "it is another one's");
    });
}

#[test]
fn delivery_continues_after_the_store_was_unreachable() {
    deliver(16, async |outbox, _, log| {
        let (a, b) = (Receiver::answering(vec![], Answer::Wait), Receiver::start());
        let to = destination(&a);
        enqueue(&outbox, &a, 100).await;
        eventually("some are sent", async || a.count() > 0).await;
        *outbox.unreachable.lock().unwrap() = Some(to.clone());
        // Their outcomes cannot be recorded.
        a.open();
        let begin = Instant::now();
        for round in 1..=5 {
            enqueue(&outbox, &b, 20).await;
            enqueue(&outbox, &a, 1).await;
            delivered(&outbox, round * 20).await;
        }
        let rounds = outbox.rounds.load(SeqCst);
        tokio::time::sleep(A_WHILE).await;
        let rounds = outbox.rounds.load(SeqCst) - rounds;
        assert!(rounds < 20, "the loop spins: {rounds} rounds");
        let most = usize::try_from(begin.elapsed().as_secs()).unwrap() + 2;
        let lines = log.count("store-away");
        assert!((1..=most).contains(&lines), "{lines} lines");
        assert_eq!(log.count("settle-failed") + log.count("claim-failed"), 0);
        assert!(outbox.claims(&to) <= 20 + most, "{} claims", outbox.claims(&to));
        outbox.unreachable.lock().unwrap().take();
        delivered(&outbox, 205).await;
    });
}

#[test]
fn callbacks_not_read_ahead_are_sent_when_reported() {
    const EACH: usize = 300;
    deliver(8, async |outbox, _, _| {
        outbox.reads_late.store(true, SeqCst);
        let receivers = [Receiver::start(), Receiver::start()];
        // All at once: both are idle until they are reported, one after the other.
        let batch = receivers.iter().flat_map(|it| callbacks(it, EACH)).collect();
        outbox.enqueue(batch, Sequence::default()).await.unwrap();
        delivered(&outbox, 2 * EACH as u64).await;
        assert_eq!(receivers.each_ref().map(Receiver::count), [EACH; 2]);
    });
}
