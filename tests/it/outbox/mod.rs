//! The guarantees of the outbox, with a real sled in a real folder.

mod batches;
mod bench;
mod due;
mod export;
mod journal;
mod mend;
mod salvage;
mod scan;
mod select;
mod unreadable;

use std::time::Duration;

use futures_util::FutureExt as _;
use seal_dpf_urlcallback::{
    callback::CallbackId,
    clock::{Clock as _, Timestamp},
    outbox::{
        Cancelled, Enqueued, ErrorKind, Failure, NewCallback, News, Outbox as _, OutboxError,
        Query, Retention, Scope, Sequence, Settlement, StateName,
        sled::{Settings, SledOutbox},
    },
};

pub(crate) use self::bench::new;
use self::bench::{Bench, START, attempt, destination};
use crate::support::eventually;

#[test]
fn callbacks_of_one_job_are_claimed_one_at_a_time_in_order_over_restarts() {
    let mut bench = Bench::new();
    let ids = [bench.enqueue("1"), bench.enqueue("1"), bench.enqueue("1")];
    for id in ids {
        bench.reopen();
        let claim = bench.one();
        assert_eq!(claim.record.id, id);
        assert!(bench.claim(10).is_empty(), "only one of a job");
        bench.retry(claim, Duration::ZERO);
        bench.reopen();
        let claim = bench.one();
        assert_eq!((claim.record.id, claim.record.attempt_count), (id, 1));
        bench.deliver(claim);
    }
    assert_eq!(bench.counts(), (0, 3, 0));
}

#[test]
fn callbacks_are_claimed_in_due_order_and_not_early() {
    let bench = Bench::new();
    let ids = [bench.enqueue("1"), bench.enqueue("2"), bench.enqueue("3")];
    let claim = bench.one();
    bench.retry(claim, Duration::from_secs(10));
    assert_eq!(bench.claimed_ids(), ids[1..]);
    bench.clock.advance(Duration::from_millis(9_999));
    assert_eq!(bench.claimed_ids(), ids[1..]);
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(bench.claimed_ids(), [ids[1], ids[2], ids[0]]);
}

#[test]
fn a_released_callback_keeps_its_position() {
    let bench = Bench::new();
    let ids: Vec<_> = (0..5).map(|job| bench.enqueue(&job.to_string())).collect();
    let claims = bench.claim(3);
    assert_eq!(claims.len(), 3);
    claims.into_iter().for_each(|claim| claim.release());
    assert_eq!(bench.claimed_ids(), ids);
}

#[test]
fn a_hold_survives_a_restart() {
    let mut bench = Bench::new();
    bench.enqueue("1");
    bench.enqueue("2");
    let claim = bench.one();
    let until = START.after(Duration::from_mins(1));
    let settlement =
        Settlement::Retry { attempt: attempt(&claim, false), due: until, hold: Some(until) };
    bench.wait(bench.outbox().settle(claim, settlement));
    bench.reopen();
    let claims = bench.outbox().claim(&destination(), 9, START).unwrap();
    assert_eq!((claims.claimed.len(), claims.next_due), (0, Some(until)));
    bench.clock.set(until);
    assert_eq!(bench.claimed_ids().len(), 2);
}

#[test]
fn a_replayed_callback_precedes_later_ones_of_its_job() {
    let mut bench = Bench::new();
    let first = bench.enqueue("1");
    let second = bench.enqueue("1");
    bench.fail(bench.one());
    bench.retry(bench.one(), Duration::from_secs(10));
    assert_eq!(bench.wait(bench.outbox().replay(vec![first, first])), 1);
    assert_eq!(bench.claimed_ids(), [first]);
    let waiting = bench.wait(bench.outbox().get(second)).unwrap().status.waiting_for;
    assert_eq!(waiting, Some(first));
    bench.reopen();
    let claim = bench.one();
    assert_eq!((claim.record.id, claim.record.replays), (first, 1));
    assert_eq!((claim.record.budget_attempts, claim.record.attempt_count), (0, 1));
    bench.deliver(claim);
    assert!(bench.claimed_ids().is_empty(), "the later one is due when it was before");
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!(bench.claimed_ids(), [second]);
}

#[test]
fn a_replayed_callback_waits_for_a_later_one_in_flight() {
    for retried in [false, true] {
        let bench = Bench::new();
        let first = bench.enqueue("1");
        let second = bench.enqueue("1");
        bench.fail(bench.one());
        let under_way = bench.one();
        assert_eq!(under_way.record.id, second);
        bench.wait(bench.outbox().replay(vec![first]));
        assert!(bench.claim(9).is_empty());
        let waiting = bench.wait(bench.outbox().get(first)).unwrap().status.waiting_for;
        assert_eq!(waiting, Some(second));
        if retried {
            bench.retry(under_way, Duration::ZERO);
        } else {
            bench.deliver(under_way);
        }
        let claim = bench.one();
        assert_eq!(claim.record.id, first);
        bench.deliver(claim);
        assert_eq!(bench.claimed_ids(), if retried { vec![second] } else { vec![] });
    }
}

#[test]
fn cancelling_activates_the_jobs_next_callback() {
    let bench = Bench::new();
    let ids = [bench.enqueue("1"), bench.enqueue("1"), bench.enqueue("1")];
    assert_eq!(bench.wait(bench.outbox().cancel(vec![ids[1]]))[0], Cancelled::Done);
    assert_eq!(bench.claimed_ids(), [ids[0]]);
    assert_eq!(bench.wait(bench.outbox().cancel(vec![ids[0]]))[0], Cancelled::Done);
    assert_eq!(bench.claimed_ids(), [ids[2]]);
    assert_eq!(bench.wait(bench.outbox().cancel(vec![ids[0]]))[0], Cancelled::NotPending);
    let claim = bench.one();
    assert_eq!(bench.wait(bench.outbox().cancel(vec![ids[2]]))[0], Cancelled::InFlight);
    bench.deliver(claim);
    assert_eq!(
        bench.wait(bench.outbox().cancel(vec![CallbackId::from_u128(1)]))[0],
        Cancelled::Unknown
    );
    assert_eq!(bench.counts(), (0, 1, 2));
}

#[test]
fn an_event_id_is_recognized_while_its_callback_is_kept() {
    let mut bench = Bench::new();
    let keyed = || NewCallback { event_id: Some("key".into()), ..new("1") };
    let stored = bench.wait(bench.outbox().enqueue(vec![keyed(), keyed()], Sequence::default()));
    let Enqueued::Stored(id) = stored[0] else { panic!() };
    assert_eq!(stored[1], Enqueued::Duplicate(id));
    bench.deliver(bench.one());
    bench.reopen();
    assert_eq!(
        bench.wait(bench.outbox().enqueue(vec![keyed()], Sequence::default())),
        [Enqueued::Duplicate(id)]
    );
    bench.clock.advance(Duration::from_hours(2));
    let retention =
        Retention { delivered: Duration::from_hours(1), failed: Duration::from_hours(3) };
    assert_eq!(bench.purge(retention), 1);
    assert_eq!(bench.state(id), None);
    let again = bench.wait(bench.outbox().enqueue(vec![keyed()], Sequence::default()));
    assert!(matches!(again[0], Enqueued::Stored(other) if other != id));
}

#[test]
fn each_state_has_its_retention_and_a_replay_restarts_it() {
    let bench = Bench::new();
    let failed = bench.enqueue("1");
    bench.fail(bench.one());
    let replayed = bench.enqueue("2");
    bench.fail(bench.one());
    let retention =
        Retention { delivered: Duration::from_hours(1), failed: Duration::from_hours(2) };
    bench.clock.advance(Duration::from_hours(1));
    assert_eq!(bench.purge(retention), 0);
    bench.wait(bench.outbox().replay(vec![replayed]));
    bench.fail(bench.one());
    bench.clock.advance(Duration::from_hours(1));
    assert_eq!(bench.purge(retention), 1);
    assert_eq!((bench.state(failed), bench.state(replayed)), (None, Some(StateName::Failed)));
    bench.clock.advance(Duration::from_hours(1));
    assert_eq!(bench.purge(retention), 1);
    assert_eq!(bench.counts(), (0, 0, 0));
    let rows = sled_rows(bench);
    assert_eq!(rows, ["mformat", "msalt", "mtotals"], "nothing of them is left");
}

/// Opens a store that was just closed. Threads of the engine release it a moment later.
fn open_closed(path: &std::path::Path) -> sled::Db {
    eventually("the store is released", || sled::open(path).ok())
}

fn sled_rows(bench: Bench) -> Vec<String> {
    drop(bench.outbox);
    open_closed(bench.folder.path())
        .iter()
        .map(|row| String::from_utf8_lossy(&row.unwrap().0).into_owned())
        .collect()
}

#[test]
fn callbacks_accepted_by_a_fast_clock_do_not_keep_later_ones_from_expiring() {
    let bench = Bench::new();
    bench.clock.advance(Duration::from_hours(24 * 365));
    let ahead = bench.enqueue("1");
    bench.clock.set(START);
    let old = bench.enqueue("2");
    bench.clock.advance(Duration::from_hours(1));
    let (young, failure) = (bench.enqueue("3"), Failure::new(ErrorKind::Expired, "too old"));
    for (after, expected) in [(30, vec![old]), (90, vec![young]), (365 * 24 * 60 + 1, vec![ahead])]
    {
        let cutoff = START.after(Duration::from_mins(after));
        let expired = bench.wait(bench.outbox().expire(Scope::All, cutoff, failure.clone()));
        assert_eq!(expired.iter().map(|it| it.id).collect::<Vec<_>>(), expected);
    }
}

/// Makes the record at this position among the shared rows unreadable.
fn corrupt(bench: &Bench, position: usize) {
    let db = open_closed(bench.folder.path());
    let mut left = position;
    for row in db.scan_prefix(b"r") {
        let (key, row) = row.unwrap();
        let (mut row, mut at) = (row.to_vec(), 1);
        while at < row.len() {
            let len = u32::from_be_bytes(row[at + 1..at + 5].try_into().unwrap()) as usize;
            if left == 0 {
                row[at + 5..at + 5 + len].fill(0xff);
                db.insert(key, row).unwrap();
                return;
            }
            left -= 1;
            at += 5 + len;
        }
    }
    panic!("there are fewer rows");
}

#[test]
fn an_unreadable_row_does_not_prevent_other_callbacks_from_expiring() {
    for broken in 0..3 {
        let mut bench = Bench::new();
        // They have one job, so that the second one waits for the first, and the third for the second.
        let ids: Vec<_> = (0..3).map(|_| bench.enqueue("1")).collect();
        let other = bench.enqueue("2");
        bench.outbox = None;
        corrupt(&bench, broken);
        bench.open();
        bench.clock.advance(Duration::from_secs(10));
        let cutoff = START.after(Duration::from_secs(5));
        let failure = Failure::new(ErrorKind::Expired, "too old");
        let expired = bench.wait(bench.outbox().expire(Scope::All, cutoff, failure));
        let readable = ids.iter().enumerate().filter(|(at, _)| *at != broken).map(|(_, id)| *id);
        let expected: Vec<_> = readable.chain([other]).collect();
        assert_eq!(expired.iter().map(|it| it.id).collect::<Vec<_>>(), expected, "{broken}");
        bench.wait(bench.outbox().ready());
    }
}

#[test]
fn a_blocked_callback_expires() {
    let bench = Bench::new();
    let (old, waiting) = (bench.enqueue("1"), bench.enqueue("1"));
    bench.clock.advance(Duration::from_hours(1));
    let young = bench.enqueue("2");
    let claim = bench.one();
    let cutoff = START.after(Duration::from_mins(30));
    let failure = || Failure::new(ErrorKind::Expired, "too old");
    let expired = bench.wait(bench.outbox().expire(Scope::All, cutoff, failure()));
    assert_eq!(expired.iter().map(|it| it.id).collect::<Vec<_>>(), [waiting], "one is in flight");
    claim.release();
    let expired = bench.wait(bench.outbox().expire(Scope::All, cutoff, failure()));
    assert_eq!(expired.iter().map(|it| it.id).collect::<Vec<_>>(), [old]);
    assert!(bench.wait(bench.outbox().expire(Scope::All, cutoff, failure())).is_empty());
    assert_eq!(bench.claimed_ids(), [young]);
    assert_eq!(bench.counts(), (1, 0, 2));
}

#[test]
fn a_signal_comes_when_the_callback_is_durable() {
    let mut bench = Bench::new();
    assert!(bench.outbox().news().now_or_never().is_none());
    bench.enqueue("1");
    let news = bench.runtime.block_on(bench.outbox().news());
    assert_eq!(news, [News::Due { destination: destination(), at: START, open: None }]);
    assert!(bench.outbox().news().now_or_never().is_none());
    bench.reopen();
    let news = bench.runtime.block_on(bench.outbox().news());
    let at = Timestamp::default();
    let expected = News::Due { destination: destination(), at, open: None };
    assert_eq!(news, [expected], "after a start all pending callbacks are checked");
}

#[test]
fn attempts_are_kept_in_order() {
    let bench = Bench::new();
    let id = bench.enqueue("1");
    for _ in 0..5 {
        bench.retry(bench.one(), Duration::ZERO);
    }
    bench.deliver(bench.one());
    let detail = bench.wait(bench.outbox().get(id)).unwrap();
    let numbers: Vec<_> = detail.attempts.iter().map(|it| it.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!(detail.attempts[5].status, Some(200));
}

#[test]
fn a_listing_merges_all_states_in_both_directions() {
    let bench = Bench::new();
    let ids: Vec<_> = (0..9).map(|job| bench.enqueue(&job.to_string())).collect();
    for (n, claim) in bench.claim(9).into_iter().enumerate() {
        match n % 3 {
            0 => bench.deliver(claim),
            1 => bench.fail(claim),
            _ => claim.release(),
        }
    }
    let list = |oldest_first| {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let query = Query { limit: 2, cursor, oldest_first, ..Query::default() };
            let page = bench.wait(bench.outbox().list(query));
            found.extend(page.callbacks.iter().map(|it| it.record.id));
            cursor = page.next;
            if cursor.is_none() {
                return found;
            }
        }
    };
    assert_eq!(list(true), ids);
    assert_eq!(list(false), ids.iter().rev().copied().collect::<Vec<_>>());
}

#[test]
fn a_closed_outbox_refuses_writes() {
    let bench = Bench::new();
    bench.outbox().close();
    let refused =
        bench.runtime.block_on(bench.outbox().enqueue(vec![new("1")], Sequence::default()));
    assert!(matches!(refused, Err(OutboxError::Closed)));
}

#[test]
fn an_open_directory_and_a_foreign_file_are_clear_errors() {
    let bench = Bench::new();
    let again = SledOutbox::open(bench.folder.path(), Settings::default(), bench.clock.clone());
    let error = again.unwrap_err().to_string();
    assert!(error.contains(&bench.folder.path().display().to_string()), "{error}");
    let folder = crate::support::StoreFolder::new();
    std::fs::create_dir(folder.path()).unwrap();
    std::fs::write(folder.path().join("db"), vec![7; 4096]).unwrap();
    let foreign = SledOutbox::open(folder.path(), Settings::default(), bench.clock.clone());
    assert!(foreign.is_err());
}

#[test]
fn an_attempt_during_which_its_destination_is_paused_does_not_expire() {
    for (resumed, attempted) in [(false, true), (true, true), (false, false), (true, false)] {
        let bench = Bench::new();
        let id = bench.enqueue("1");
        let claim = bench.one();
        assert!(bench.wait(bench.outbox().pause(&destination(), true)));
        bench.clock.advance(Duration::from_hours(100));
        if resumed {
            assert!(bench.wait(bench.outbox().pause(&destination(), false)));
        }
        let failure = Failure::new(ErrorKind::Expired, "too old");
        let attempt = attempted.then(|| attempt(&claim, false));
        let settlement = Settlement::Failed { attempt, failure, hold: None };
        let record = bench.wait(bench.outbox().settle(claim, settlement));
        assert_eq!(record.state_name(), StateName::Pending);
        assert_eq!(bench.state(id), Some(StateName::Pending));
        if !resumed {
            assert!(bench.claim(1).is_empty(), "it is paused");
            assert!(bench.wait(bench.outbox().pause(&destination(), false)));
        }
        let claim = bench.one();
        assert_eq!(claim.record.budget_since, bench.clock.now());
        bench.deliver(claim);
        assert_eq!(bench.counts(), (0, 1, 0));
    }
}
