//! What the summary says is due, when many destinations have changed since the last one.

use std::time::Duration;

use seal_dpf_urlcallback::{
    callback::Destination,
    clock::{Clock as _, Timestamp},
    outbox::{Claim, NewCallback, Outbox as _, Sequence, Summary},
};

use super::{Bench, START, new};

/// More than the number of destinations that one summary reads again.
const MANY: usize = 300;

const PAUSE: Duration = Duration::from_secs(10);

fn place(n: usize) -> Destination {
    Destination::parse(&format!("http://h{n}:80")).unwrap()
}

/// Accepts a callback for each destination.
fn enqueue(bench: &Bench, destinations: usize, job: &str) {
    let one = |n| NewCallback {
        url: format!("{}/", place(n)).into(),
        destination: place(n),
        ..new(&format!("{n}-{job}"))
    };
    let batch = (0..destinations).map(one).collect();
    bench.wait(bench.outbox().enqueue(batch, Sequence::default()));
}

fn claim(bench: &Bench, n: usize, limit: usize) -> Vec<Claim> {
    bench.outbox().claim(&place(n), limit, bench.clock.now()).unwrap().claimed
}

fn summary(bench: &Bench) -> Summary {
    bench.wait(bench.outbox().summary(bench.clock.now()))
}

#[test]
fn when_many_destinations_have_changed_the_oldest_due_time_is_exact_after_the_next_summary() {
    let bench = Bench::new();
    enqueue(&bench, MANY, "first");
    bench.clock.advance(PAUSE);
    let later = bench.clock.now();
    enqueue(&bench, MANY, "second");
    assert_eq!(summary(&bench).oldest_due, Some(START));
    let claims: Vec<_> = (0..MANY).flat_map(|n| claim(&bench, n, 1)).collect();
    // For those that are not read again, the time of the callback before counts.
    assert_eq!(summary(&bench).oldest_due, Some(START));
    assert_eq!(summary(&bench).oldest_due, Some(later));
    claims.into_iter().for_each(|claim| bench.deliver(claim));
    assert_eq!(summary(&bench).oldest_due, Some(later));
}

#[test]
fn callbacks_in_flight_are_not_due_however_many_destinations_have_one() {
    let bench = Bench::new();
    enqueue(&bench, MANY, "only");
    let claims: Vec<_> = (0..MANY).flat_map(|n| claim(&bench, n, 1)).collect();
    assert_eq!((claims.len(), summary(&bench).oldest_due), (MANY, None));
}

#[test]
fn a_released_callback_is_the_oldest_due_one_again() {
    let bench = Bench::new();
    enqueue(&bench, 1, "first");
    bench.clock.advance(PAUSE);
    enqueue(&bench, 1, "second");
    let mut claims = claim(&bench, 0, 2);
    assert_eq!(summary(&bench).oldest_due, None);
    claims.pop().unwrap().release();
    assert_eq!(summary(&bench).oldest_due, Some(bench.clock.now()));
    claims.pop().unwrap().release();
    assert_eq!(summary(&bench).oldest_due, Some(START));
}

#[test]
fn what_is_due_is_counted_for_neighbours_with_few_and_with_many_scheduled_callbacks() {
    const DESTINATIONS: usize = 20;
    // A destination has fewer or more scheduled callbacks than are passed over without a seek.
    let scheduled = |n: usize| 1 + 3 * n;
    let bench = Bench::new();
    for job in 0..scheduled(DESTINATIONS) {
        enqueue(&bench, DESTINATIONS, &job.to_string());
    }
    for n in 0..DESTINATIONS {
        for (at, claim) in claim(&bench, n, scheduled(n)).into_iter().enumerate() {
            bench.retry(claim, Duration::from_secs(1 + at as u64));
        }
        // The rest stays out of what is counted.
        let rest = claim(&bench, n, usize::MAX);
        rest.into_iter().for_each(|claim| bench.deliver(claim));
    }
    let due = |passed: usize| (0..DESTINATIONS).map(|n| scheduled(n).min(passed)).sum::<usize>();
    for passed in 0..60 {
        let seen = summary(&bench);
        let oldest = Timestamp::from_millis(START.as_millis() + 1000);
        assert_eq!(
            (seen.due, seen.oldest_due),
            (due(passed) as u64, (passed > 0).then_some(oldest))
        );
        bench.clock.advance(Duration::from_secs(1));
    }
}
