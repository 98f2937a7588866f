//! The limit of a claim's scan.

use std::time::Duration;

use futures_util::FutureExt as _;
use seal_dpf_urlcallback::{
    clock::{Clock as _, Timestamp},
    outbox::{Claim, Outbox as _, Sequence},
};
use tokio::time::timeout;

use super::{Bench, destination, new};
use crate::support::DEADLINE;

/// More callbacks than one claim scans.
const BUSY: usize = 1100;

fn claim_all(bench: &Bench, count: usize) -> Vec<Claim> {
    let mut claims = Vec::new();
    while claims.len() < count {
        let more = bench.claim(count - claims.len());
        assert!(!more.is_empty(), "{} of {count} are due", claims.len());
        claims.extend(more);
    }
    claims
}

#[test]
fn a_claim_of_busy_callbacks_is_signalled_when_one_is_freed() {
    let bench = Bench::new();
    let batch = (0..2 * BUSY).map(|job| new(&job.to_string())).collect();
    bench.wait(bench.outbox().enqueue(batch, Sequence::default()));
    let all = claim_all(&bench, 2 * BUSY);
    let ids = all.iter().map(|claim| claim.record.id).collect();
    all.into_iter().for_each(|claim| bench.fail(claim));
    assert_eq!(bench.wait(bench.outbox().replay(ids)), 2 * BUSY as u64);
    // The last claimed callback is at the scan limit of a claim that starts at the beginning.
    let mut busy = bench.claim(2 * BUSY);
    while bench.outbox().news().now_or_never().is_some() {}

    let claims = bench.outbox().claim(&destination(), 16, bench.clock.now()).unwrap();
    assert!(claims.claimed.is_empty(), "nothing free is within reach");
    assert_eq!(claims.next_due, None, "to look again at once would find the same");
    bench.deliver(busy.pop().unwrap());
    let told = async { timeout(DEADLINE, bench.outbox().news()).await };
    assert_eq!(bench.runtime.block_on(told).unwrap().len(), 1, "no signal was sent");
    assert_eq!(bench.claim(16).len(), 1, "one more is within reach");
}

/// Claims repeatedly, as long as the outbox returns that something is due now.
fn claim_at_last(bench: &Bench) -> (Vec<Claim>, Option<Timestamp>) {
    let now = bench.clock.now();
    for _ in 0..100 {
        let claims = bench.outbox().claim(&destination(), 16, now).unwrap();
        if !claims.claimed.is_empty() || claims.next_due.is_none_or(|at| at > now) {
            return (claims.claimed, claims.next_due);
        }
    }
    panic!("it repeats this without end");
}

#[test]
fn a_new_callback_is_found_after_many_scheduled_ones() {
    let mut bench = Bench::new();
    let batch = (0..3 * BUSY).map(|job| new(&job.to_string())).collect();
    bench.wait(bench.outbox().enqueue(batch, Sequence::default()));
    let pause = Duration::from_mins(1);
    claim_all(&bench, 3 * BUSY).into_iter().for_each(|claim| bench.retry(claim, pause));
    // Afterwards, the scan begins at the beginning.
    bench.reopen();
    let id = bench.enqueue("new");
    let (mut claimed, _) = claim_at_last(&bench);
    assert_eq!(claimed.len(), 1);
    let claim = claimed.pop().unwrap();
    assert_eq!(claim.record.id, id);
    bench.deliver(claim);
    let (claimed, next) = claim_at_last(&bench);
    assert_eq!((claimed.len(), next), (0, Some(bench.clock.now().after(pause))));
}

#[test]
fn a_new_callback_is_found_after_many_blocked_ones() {
    let mut bench = Bench::new();
    bench.wait(
        bench.outbox().enqueue((0..3 * BUSY).map(|_| new("one")).collect(), Sequence::default()),
    );
    let pause = Duration::from_mins(1);
    bench.retry(bench.one(), pause);
    bench.reopen();
    let id = bench.enqueue("new");
    let (claimed, _) = claim_at_last(&bench);
    assert_eq!(claimed.iter().map(|claim| claim.record.id).collect::<Vec<_>>(), [id]);
}
