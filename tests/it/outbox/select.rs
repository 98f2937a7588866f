//! Selecting callbacks for a replay: all conditions must hold, whether callbacks are given by id or found by
//! filters.

use std::{sync::Arc, time::Duration};

use seal_dpf_urlcallback::{
    callback::{CallbackId, Destination},
    clock::Clock as _,
    health::Health,
    outbox::{Criteria, Sequence, Stage, StateName},
    select::{self, Action, ActionLimits, ActionResult, Selection},
};

use super::{
    bench::{Bench, START, destination},
    new,
};

const MINUTE: Duration = Duration::from_mins(1);

/// Failed callbacks of the jobs 0 to 3, accepted a minute apart, then a delivered one and a pending one. All
/// but job 3's have the same destination.
fn bench() -> (Bench, Vec<CallbackId>) {
    let bench = Bench::new();
    let mut ids = Vec::new();
    for job in ["0", "1", "2", "3", "delivered"] {
        let mut callback = new(job);
        if job == "3" {
            callback.destination = Destination::parse("http://other:80").unwrap();
        }
        let to = callback.destination.clone();
        let outbox = bench.outbox();
        bench.wait(enqueue(outbox, callback));
        let claim = claim(outbox, &to, bench.clock.now()).unwrap();
        ids.push(claim.record.id);
        if job == "delivered" {
            bench.deliver(claim);
        } else {
            bench.fail(claim);
        }
        bench.clock.advance(MINUTE);
    }
    ids.push(bench.enqueue("pending"));
    (bench, ids)
}

type Answer<T> = Result<T, seal_dpf_urlcallback::outbox::OutboxError>;

async fn enqueue(
    outbox: &seal_dpf_urlcallback::outbox::sled::SledOutbox,
    callback: seal_dpf_urlcallback::outbox::NewCallback,
) -> Answer<()> {
    use seal_dpf_urlcallback::outbox::Outbox as _;
    outbox.enqueue(vec![callback], Sequence::default()).await.map(drop)
}

fn claim(
    outbox: &seal_dpf_urlcallback::outbox::sled::SledOutbox,
    to: &Destination,
    now: seal_dpf_urlcallback::clock::Timestamp,
) -> Answer<seal_dpf_urlcallback::outbox::Claim> {
    use seal_dpf_urlcallback::outbox::Outbox as _;
    Ok(outbox.claim(to, 1, now)?.claimed.pop().unwrap())
}

fn replay(bench: &Bench, selection: &Selection, limits: ActionLimits) -> ActionResult {
    bench.wait(select::act(bench.outbox(), Action::Replay, selection, limits))
}

#[test]
fn a_callback_that_is_named_twice_counts_once_and_its_stage_has_to_match() {
    let bench = Bench::new();
    let [due, waiting] = [bench.enqueue("1"), bench.enqueue("1")];
    let cancel = |ids: Vec<CallbackId>, stage| {
        let limits = ActionLimits { dry_run: true, ..ActionLimits::default() };
        let criteria = Criteria { stage, ..Criteria::default() };
        let selection = Selection { ids, criteria };
        bench.wait(select::act(bench.outbox(), Action::Cancel, &selection, limits)).matched
    };
    assert_eq!(cancel(vec![due, waiting, due], None), 2);
    assert_eq!(cancel(vec![due, waiting], Some(Stage::Due)), 1);
    assert_eq!(cancel(vec![due], Some(Stage::Waiting)), 0);
    assert_eq!(cancel(Vec::new(), Some(Stage::Waiting)), 1);
}

#[test]
fn a_dry_run_counts_matching_failed_callbacks() {
    let (bench, ids) = bench();
    let dry_run = ActionLimits { dry_run: true, ..ActionLimits::default() };
    let other = Destination::parse("http://other:80");
    let any = Criteria::default;
    let job_1 = || Criteria { job_id: Some("1".into()), ..any() };
    let cases = [
        (any(), 4),
        (Criteria { destination: Some(destination()), ..any() }, 3),
        (Criteria { destination: other.clone(), ..any() }, 1),
        (job_1(), 1),
        (Criteria { destination: other, ..job_1() }, 0),
        (Criteria { since: Some(START.after(2 * MINUTE)), ..any() }, 2),
        (Criteria { since: Some(START.after(2 * MINUTE)), ..job_1() }, 0),
    ];
    for (criteria, matched) in cases {
        for ids in [Vec::new(), ids.clone()] {
            let selection = Selection { ids, criteria: criteria.clone() };
            let found = replay(&bench, &selection, dry_run);
            assert_eq!((found.matched, found.changed), (matched, 0), "{selection:?}");
        }
    }
    assert_eq!(bench.counts(), (1, 1, 4), "nothing has changed");
}

#[test]
fn a_replay_continues_after_its_cursor_in_order() {
    for named in [false, true] {
        let (bench, ids) = bench();
        let selection =
            Selection { ids: if named { ids.clone() } else { Vec::new() }, ..Selection::default() };
        let pace = ActionLimits { limit: Some(3), ..ActionLimits::default() };
        let first = replay(&bench, &selection, pace);
        assert_eq!((first.matched, first.changed, first.next), (3, 3, Some(ids[2])));
        let states = |which: &[usize]| -> Vec<_> {
            which.iter().map(|at| bench.state(ids[*at]).unwrap()).collect()
        };
        assert_eq!(states(&[0, 1, 2]), [StateName::Pending; 3]);
        assert_eq!(states(&[3]), [StateName::Failed]);
        let rest =
            replay(&bench, &selection, ActionLimits { limit: None, cursor: first.next, ..pace });
        assert_eq!((rest.matched, rest.changed, rest.next), (1, 1, None));
        assert_eq!(bench.counts(), (5, 1, 0));
    }
}

#[test]
fn a_delivery_loop_that_hangs_or_has_ended_is_not_alive() {
    let mut bench = Bench::new();
    let (health, probes) = Health::new(Arc::new(bench.outbox.take().unwrap()));
    bench.runtime.block_on(async {
        assert_eq!(health.alive().await, Err("the delivery loop does not answer".into()));
        assert_eq!(health.ready().await, Ok(()));
        drop(probes);
        assert_eq!(health.alive().await, Err("the delivery loop has ended".into()));
        health.drain();
        assert_eq!(health.alive().await, Ok(()), "it ends, as it was told to");
        assert_eq!(health.ready().await, Err("the service is shutting down".into()));
    });
}
