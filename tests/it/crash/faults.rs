//! The same load on a disk that fails occasionally: permanently, or only for a moment. Afterwards the
//! disk works again, and no acknowledged write may depend on data that it failed to write (as happened
//! to databases that called `fsync` again after it had failed).

use std::time::{Duration, Instant};

use super::{Run, seed};
use crate::support::{event, number};

const FAULTS: [&str; 5] =
    ["pwrite EIO", "pwrite ENOSPC", "pwrite EDQUOT", "fdatasync EIO", "fdatasync ENOSPC"];

/// Lets the disk fail this many times, each time after at most `longest`; the service is started again
/// after each.
fn failed(faults: u64, longest: Duration) {
    let seed = seed();
    eprintln!("faults: CRASH_SEED={seed} DISK_FAULTS={faults}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut run = Run::prepare(seed, "", false);
    run.service.put_on_a_disk_that_can_fail();
    run.serve();
    run.load(seed);
    let mut stopped = 0;
    for _ in 0..faults {
        run.go_on(moment(&mut random, longest));
        run.break_disk(FAULTS[random.usize(..FAULTS.len())]);
        let for_good = random.bool();
        if !for_good {
            run.go_on(moment(&mut random, Duration::from_millis(20)));
            run.service.mend_disk();
        }
        run.go_on(moment(&mut random, Duration::from_millis(400)));
        let api = run.service.api();
        if api.get("/readyz").status == 503 {
            stopped += 1;
            // The store stays stopped even after the disk has recovered.
            let refused = api.post("/v1/events", &event("job_sending", "after", "http://h/"));
            assert_eq!(refused.status, 503, "CRASH_SEED={seed}: {refused:?}");
        }
        if random.bool() {
            run.kill();
        } else {
            assert_eq!(run.service.terminate(), Some(0), "CRASH_SEED={seed}");
            run.ended();
        }
        if for_good {
            run.service.mend_disk();
        }
        run.serve();
    }
    run.end(seed, &format!("faults {faults}, of which {stopped} stopped the store"));
    assert!(stopped > 0);
}

fn moment(random: &mut fastrand::Rng, longest: Duration) -> Instant {
    Instant::now() + longest.mul_f64(random.f64())
}

#[test]
fn disk_faults_lose_nothing_and_keep_the_order() {
    failed(number("DISK_FAULTS", 12), Duration::from_secs(1));
}

#[test]
#[ignore = "a soak: DISK_FAULTS=200 cargo test --release --test it -- --ignored --nocapture soak_of_faults"]
fn soak_of_faults() {
    failed(number("DISK_FAULTS", 200), Duration::from_secs(3));
}
