//! How far a claim looks.

use futures_util::FutureExt as _;
use seal_dpf_urlcallback::{
    clock::Clock as _,
    outbox::{Claim, Outbox as _},
};
use tokio::time::timeout;

use super::{Bench, destination, new};
use crate::support::DEADLINE;

/// More than one claim looks at.
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
fn a_claim_that_meets_only_busy_callbacks_is_signalled_when_one_becomes_free() {
    let bench = Bench::new();
    let batch = (0..2 * BUSY).map(|job| new(&job.to_string())).collect();
    bench.wait(bench.outbox().enqueue(batch));
    let all = claim_all(&bench, 2 * BUSY);
    let ids = all.iter().map(|claim| claim.record.id).collect();
    all.into_iter().for_each(|claim| bench.fail(claim));
    assert_eq!(bench.wait(bench.outbox().replay(ids)), 2 * BUSY as u64);
    // The last one claimed stands where a claim ends that looks from the beginning.
    let mut busy = bench.claim(2 * BUSY);
    while bench.outbox().signalled().now_or_never().is_some() {}

    let claims = bench.wait(bench.outbox().claim(&destination(), 16, bench.clock.now()));
    assert!(claims.claimed.is_empty(), "nothing free is within reach");
    assert_eq!(claims.next_due, None, "to look again at once would find the same");
    bench.deliver(busy.pop().unwrap());
    let told = async { timeout(DEADLINE, bench.outbox().signalled()).await };
    assert_eq!(bench.runtime.block_on(told).unwrap().len(), 1, "nobody was told");
    assert_eq!(bench.claim(16).len(), 1, "one more is within reach");
}
