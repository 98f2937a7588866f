//! The content of a commit, and the counts that it updates.

use std::time::Duration;

use futures_util::future::join_all;
use seal_dpf_urlcallback::outbox::{NewCallback, Outbox as _, Sequence, sled::SledOutbox};

use super::{Bench, START, new};

/// Number of batches that were acknowledged.
fn batches(bench: &Bench) -> u64 {
    let witness = std::fs::read_to_string(SledOutbox::witness(bench.folder.path())).unwrap();
    // It is empty before the first one.
    witness.split_ascii_whitespace().nth(1).map_or(0, |number| number.parse().unwrap())
}

#[test]
fn large_callbacks_are_committed_a_few_at_a_time() {
    const WRITES: usize = 100;
    let bench = Bench::new();
    let before = batches(&bench);
    let stored = (0..WRITES).map(|write| {
        let mut large: NewCallback = new(&write.to_string());
        large.body.error_reason = Some("x".repeat(250_000));
        bench.outbox().enqueue(vec![large], Sequence::default())
    });
    for stored in bench.runtime.block_on(join_all(stored.collect::<Vec<_>>())) {
        stored.unwrap();
    }
    // At most 1 MiB in each.
    let batches = batches(&bench) - before;
    assert!(batches >= WRITES as u64 / 4, "{batches} batches");
}

#[test]
fn delivered_callbacks_are_counted_by_minute() {
    let bench = Bench::new();
    for job in ["1", "2", "3", "4"] {
        bench.enqueue(job);
    }
    bench.deliver(bench.one());
    bench.fail(bench.one());
    let later = START.after(Duration::from_mins(2));
    bench.clock.set(later);
    bench.deliver(bench.one());
    bench.deliver(bench.one());
    let counted = |since| {
        let found = bench.wait(bench.outbox().delivered(since));
        (found.from, found.minutes.into_iter().collect::<Vec<_>>())
    };
    let minute = START.minute();
    assert_eq!(counted(START), (START, vec![(minute, 1), (minute + 2, 2)]));
    assert_eq!(counted(later), (later, vec![(minute + 2, 2)]));
    assert_eq!(counted(later.after(Duration::from_mins(1))).1, []);
}
