//! What comes out of a store that sled is not asked to open.

use std::time::Duration;

use seal_dpf_urlcallback::outbox::{Outbox as _, Retention, StateName, sled::Salvage};

use super::{Bench, new};

#[test]
fn what_was_delivered_and_forgotten_does_not_come_out_as_something_to_be_sent() {
    const FORGOTTEN: usize = 30;
    let mut bench = Bench::new();
    let batch = (0..FORGOTTEN).map(|job| new(&job.to_string())).collect();
    bench.wait(bench.outbox().enqueue(batch));
    bench.reopen();
    bench.claim(FORGOTTEN).into_iter().for_each(|claim| bench.deliver(claim));
    bench.clock.advance(Duration::from_mins(1));
    let none = Retention { delivered: Duration::ZERO, failed: Duration::ZERO };
    assert_eq!(bench.wait(bench.outbox().purge(none)), FORGOTTEN as u64);
    let id = bench.enqueue("new");
    bench.outbox = None;
    let salvage = Salvage::read(bench.folder.path()).unwrap();
    let found: Vec<_> = salvage.entries().map(Option::unwrap).collect();
    let certain: Vec<_> = found.iter().filter(|entry| !entry.uncertain).collect();
    let states: Vec<_> = certain.iter().map(|it| (it.record.id, it.record.state_name())).collect();
    assert_eq!(states, [(id, StateName::Pending)], "of {}", found.len());
}
