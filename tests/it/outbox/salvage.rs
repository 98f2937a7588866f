//! Reading a store without sled.

use std::time::Duration;

use seal_dpf_urlcallback::{
    clock::Clock as _,
    outbox::{Cancelled, Outbox as _, Retention, StateName, sled::Salvage},
};

use super::Bench;

#[test]
fn purged_callbacks_are_not_salvaged_as_pending() {
    const ALL: usize = 300;
    const FORGOTTEN: usize = 3;
    let mut bench = Bench::new();
    let ids: Vec<_> = (0..ALL).map(|job| bench.enqueue(&job.to_string())).collect();
    bench.reopen();
    // They are so few that their page, with later changes, still contains them.
    for id in &ids[ALL / 2..ALL / 2 + FORGOTTEN] {
        assert!(matches!(bench.wait(bench.outbox().cancel(vec![*id]))[..], [Cancelled::Done]));
    }
    bench.clock.advance(Duration::from_mins(1));
    let none = Retention { delivered: Duration::ZERO, failed: Duration::ZERO };
    assert_eq!(
        bench.wait(bench.outbox().purge(none.over(|age| bench.clock.now().before(age)))),
        FORGOTTEN as u64
    );
    bench.outbox = None;
    let salvage = Salvage::read(bench.folder.path()).unwrap();
    let found: Vec<_> = salvage.entries().map(Option::unwrap).collect();
    assert!(found.len() > ALL - FORGOTTEN, "nothing of them is left, and so nothing is tested");
    let certain = found.iter().filter(|entry| !entry.uncertain);
    let states: Vec<_> = certain.map(|entry| entry.record.state_name()).collect();
    assert_eq!(states, [StateName::Pending; ALL - FORGOTTEN]);
}
