//! A record that cannot be read affects only its own callback.

use std::time::Duration;

use seal_dpf_urlcallback::{
    callback::CallbackId,
    clock::Clock as _,
    outbox::{
        Cancelled, Criteria, ErrorKind, Failure, Outbox as _, Over, Query, Retention, Scope,
        StateName,
    },
};

use super::{
    Bench,
    bench::{START, destination},
    corrupt,
};
use crate::support::eventually;

/// Callbacks of these jobs.
fn bench(jobs: &[&str]) -> (Bench, Vec<CallbackId>) {
    let bench = Bench::new();
    let ids = jobs.iter().map(|job| bench.enqueue(job)).collect();
    (bench, ids)
}

/// Makes one of the records unreadable and returns the ids of the others.
fn without(bench: &mut Bench, ids: &[CallbackId], broken: usize) -> Vec<CallbackId> {
    bench.outbox = None;
    corrupt(bench, broken);
    bench.open();
    ids.iter().enumerate().filter(|(at, _)| *at != broken).map(|(_, id)| *id).collect()
}

#[test]
fn an_unreadable_record_does_not_prevent_claims_of_others() {
    for (broken, scheduled) in (0..3).flat_map(|at| [(at, false), (at, true)]) {
        let (mut bench, ids) = bench(&["1", "2", "3"]);
        if scheduled {
            bench.claim(3).into_iter().for_each(|claim| bench.retry(claim, Duration::ZERO));
        }
        let others = without(&mut bench, &ids, broken);
        assert_eq!(bench.claimed_ids(), others, "{broken}, scheduled: {scheduled}");
        bench.claim(9).into_iter().for_each(|claim| bench.deliver(claim));
        let delivered = |id: &CallbackId| bench.state(*id) == Some(StateName::Delivered);
        assert!(others.iter().all(delivered), "{broken}, scheduled: {scheduled}");
    }
}

#[test]
fn an_unreadable_record_does_not_prevent_cancelling_others() {
    // In the second round all callbacks have the same job, so each waits for the previous one.
    for (broken, jobs) in (0..3).flat_map(|at| [(at, ["1", "2", "3"]), (at, ["1"; 3])]) {
        let (mut bench, ids) = bench(&jobs);
        let others = without(&mut bench, &ids, broken);
        for id in others {
            let cancelled = bench.wait(bench.outbox().cancel(vec![id]));
            assert_eq!(cancelled, [Cancelled::Done], "{broken} {jobs:?}");
        }
        let unknown = bench.wait(bench.outbox().cancel(vec![ids[broken]]));
        assert_eq!(unknown, [Cancelled::Unknown], "{broken} {jobs:?}");
    }
}

#[test]
fn an_unreadable_record_does_not_prevent_replaying_others() {
    for broken in 0..3 {
        let (mut bench, ids) = bench(&["1", "2", "3"]);
        bench.claim(3).into_iter().for_each(|claim| bench.fail(claim));
        let others = without(&mut bench, &ids, broken);
        assert_eq!(bench.wait(bench.outbox().replay(ids)), 2, "{broken}");
        assert_eq!(bench.claimed_ids(), others, "{broken}");
    }
    // The unreadable callback would wait for the replayed one.
    let (mut bench, ids) = bench(&["1", "1"]);
    bench.fail(bench.one());
    let others = without(&mut bench, &ids, 1);
    assert_eq!(bench.wait(bench.outbox().replay(ids)), 1);
    assert_eq!(bench.claimed_ids(), others);
}

#[test]
fn an_unreadable_record_is_purged_like_others() {
    for (broken, delivered) in (0..3).flat_map(|at| [(at, false), (at, true)]) {
        let (mut bench, ids) = bench(&["1", "2", "3"]);
        for claim in bench.claim(3) {
            if delivered { bench.deliver(claim) } else { bench.fail(claim) }
        }
        let others = without(&mut bench, &ids, broken);
        bench.clock.advance(Duration::from_hours(1));
        let none = Retention { delivered: Duration::ZERO, failed: Duration::ZERO };
        let purge =
            || bench.wait(bench.outbox().purge(none.over(|age| bench.clock.now().before(age))));
        assert_eq!((purge(), purge()), (3, 0), "{broken}, delivered: {delivered}");
        assert!(others.iter().all(|id| bench.state(*id).is_none()), "{broken}");
        assert_eq!(bench.counts(), (0, 0, 0), "{broken}, delivered: {delivered}");
    }
}

#[test]
fn an_unreadable_record_does_not_prevent_listing_others() {
    let states =
        [StateName::Delivered, StateName::Failed, StateName::Pending].map(|state| [state; 2]);
    let states = states.concat();
    for broken in 0..states.len() {
        let (mut bench, ids) = bench(&["1"; 6]);
        (0..2).for_each(|_| bench.deliver(bench.one()));
        (0..2).for_each(|_| bench.fail(bench.one()));
        let others = without(&mut bench, &ids, broken);
        let all = Query { limit: 1, ..Query::default() };
        let any = Criteria::default;
        let mut queries: Vec<_> = [
            any(),
            Criteria { job_id: Some("1".into()), ..any() },
            Criteria { job_id_fs: Some("fs".into()), ..any() },
            Criteria { destination: Some(destination()), ..any() },
            Criteria { since: Some(START), ..any() },
        ]
        .map(|criteria| (Query { criteria, ..all.clone() }, others.clone()))
        .into();
        for state in [StateName::Delivered, StateName::Failed, StateName::Pending] {
            let of_state =
                |id: &&CallbackId| states[ids.iter().position(|it| it == *id).unwrap()] == state;
            let expected = others.iter().filter(of_state).copied().collect();
            queries.push((Query { state: Some(state), ..all.clone() }, expected));
        }
        for (query, mut expected) in queries {
            for oldest_first in [true, false] {
                let query = Query { oldest_first, ..query.clone() };
                assert_eq!(listed(&bench, &query), expected, "{broken} {query:?}");
                expected.reverse();
            }
        }
    }
}

/// All pages of a listing.
fn listed(bench: &Bench, query: &Query) -> Vec<CallbackId> {
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = bench.wait(bench.outbox().list(Query { cursor, ..query.clone() }));
        found.extend(page.callbacks.iter().map(|it| it.record.id));
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

#[test]
fn an_unreadable_record_hides_no_other_from_the_summary() {
    for broken in 0..4 {
        let (mut bench, ids) = bench(&["1", "2", "3", "4"]);
        bench.deliver(bench.one());
        bench.clock.advance(Duration::from_secs(1));
        bench.fail(bench.one());
        without(&mut bench, &ids, broken);
        assert_eq!(bench.counts(), (2, 1, 1), "{broken}");
        let summary = bench.wait(bench.outbox().summary(bench.clock.now()));
        let times = [summary.oldest_delivered, summary.oldest_failed, summary.oldest_due];
        let known = |at, it| (at != broken).then_some(it);
        let ended = [known(0, START), known(1, bench.clock.now())];
        assert_eq!(times, [ended[0], ended[1], Some(START)], "{broken}");
        assert_eq!(summary.destinations.len(), 1, "{broken}");
    }
}

#[test]
fn a_callback_that_waits_for_an_unreadable_record_is_listed() {
    let (mut bench, ids) = bench(&["1", "1"]);
    bench.fail(bench.one());
    let later = bench.one();
    assert_eq!(bench.wait(bench.outbox().replay(vec![ids[0]])), 1);
    later.release();
    let others = without(&mut bench, &ids, 1);
    assert_eq!(listed(&bench, &Query { limit: 9, ..Query::default() }), others);
    assert_eq!(bench.state(ids[0]), Some(StateName::Pending));
}

/// A shared row cannot be read: other callbacks are not affected.
#[test]
fn an_unreadable_shared_row_does_not_stop_the_store() {
    for prefix in ["r", "s", "b", "y", "z"] {
        let (mut bench, _) = bench(&["1", "2", "3", "4"]);
        bench.deliver(bench.one());
        bench.fail(bench.one());
        bench.retry(bench.one(), Duration::ZERO);
        bench.outbox = None;
        let db = eventually("the store is closed", || sled::open(bench.folder.path()).ok());
        let (key, _) = db.scan_prefix(prefix).next().unwrap().unwrap();
        db.insert(key, b"\xffbroken").unwrap();
        drop(db);
        bench.open();
        let new: Vec<_> = (5..40).map(|job| bench.enqueue(&job.to_string())).collect();
        let known = bench.claim(100);
        assert!(known.len() >= new.len(), "{prefix}: {}", known.len());
        known.into_iter().for_each(|claim| bench.deliver(claim));
        bench.clock.advance(Duration::from_hours(1));
        let failure = Failure::new(ErrorKind::Expired, "too old");
        bench.wait(bench.outbox().expire(Scope::All, bench.clock.now(), failure));
        bench.wait(bench.outbox().summary(bench.clock.now()));
        listed(&bench, &Query { limit: 100, ..Query::default() });
        let mut after = Some(Vec::new());
        while let Some(from) = after {
            after = bench.wait(bench.outbox().mend(from)).next;
        }
        let over = Over { delivered: bench.clock.now(), failed: bench.clock.now() };
        while bench.wait(bench.outbox().purge(over)) > 0 {}
        bench.enqueue("last");
        bench.wait(bench.outbox().ready());
    }
}
