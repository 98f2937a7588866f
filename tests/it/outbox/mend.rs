//! The search for stuck jobs does not change other jobs, whatever happens concurrently.

use seal_dpf_urlcallback::outbox::{Outbox as _, Sequence, Settlement};

use super::{
    bench::{Bench, Halting, START, attempt, destination},
    new,
};

#[test]
fn a_job_that_grows_between_two_steps_is_checked_as_a_whole() {
    const JOBS: usize = 600;
    let bench = Bench::new();
    for job in 0..JOBS {
        bench.enqueue(&format!("{job:03}"));
    }
    let mut after = Vec::new();
    let mut steps = 0;
    loop {
        let step = bench.wait(bench.outbox().mend(after));
        assert_eq!((step.mended, step.stuck), (0, 0), "step {steps}");
        steps += 1;
        let Some(next) = step.next else { break };
        // Add a callback to each of the jobs that were checked last.
        for job in (steps * 40..steps * 40 + 40).filter(|job| *job < JOBS) {
            bench.enqueue(&format!("{job:03}"));
        }
        after = next;
    }
    assert!(steps > 3);
    assert_eq!(bench.claim(2 * JOBS).len(), JOBS, "one of each job");
}

#[test]
fn a_replay_in_the_same_batch_is_seen_by_the_check() {
    let (_folder, outbox, clock) = Halting::open();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let enqueue = |job: &str| outbox.enqueue(vec![new(job)], Sequence::default());
        let claim = || outbox.claim(&destination(), 9, START).unwrap().claimed;
        enqueue("1").await.unwrap();
        let failed = claim().pop().unwrap();
        let id = failed.record.id;
        let attempt = attempt(&failed, false);
        let failure = attempt.error.clone().unwrap();
        let settlement = Settlement::Failed { attempt: Some(attempt), failure, hold: None };
        outbox.settle(failed, settlement).await.unwrap();
        enqueue("1").await.unwrap();
        enqueue("1").await.unwrap();
        // All writes that arrive while the writer is stopped form one batch.
        let (looked, go) = clock.halt();
        let other = enqueue("2");
        looked.recv().unwrap();
        let (replayed, mended) = (outbox.replay(vec![id]), outbox.mend(Vec::new()));
        go.send(()).unwrap();
        other.await.unwrap();
        assert_eq!(replayed.await.unwrap(), 1);
        assert_eq!(mended.await.unwrap().mended, 0);
        let claimed = claim();
        let of_the_job: Vec<_> = claimed
            .iter()
            .filter(|it| it.record.body.job_id == "1")
            .map(|it| it.record.id)
            .collect();
        assert_eq!(of_the_job, [id]);
    });
}
