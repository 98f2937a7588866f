//! `cargo bench --bench outbox`: what the store takes and gives on this machine's disk, with
//! every write synced. Each figure is one run; compare figures of the same run only.

use std::{path::PathBuf, sync::Arc, time::Instant};

use anyhow::Context as _;
use seal_dpf_urlcallback::{
    callback::{Body, Destination, JobState},
    clock::{Clock as _, SystemClock},
    outbox::{
        Attempt, NewCallback, Outbox, Settlement,
        sled::{Settings, SledOutbox},
    },
};

const CALLBACKS: usize = 50_000;
const BATCH: usize = 256;

fn main() -> anyhow::Result<()> {
    // The target folder is on the disk that the project is on; a temporary one may be memory.
    let parent = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::tempdir_in(parent)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clock = Arc::new(SystemClock);
    let outbox = SledOutbox::open(&folder.path().join("outbox"), Settings::default(), clock)?;
    runtime.block_on(run(&outbox))
}

async fn run(outbox: &SledOutbox) -> anyhow::Result<()> {
    let to = Destination::parse("http://127.0.0.1:8080").context("a destination")?;
    let begin = Instant::now();
    let mut under_way = Vec::new();
    for first in (0..CALLBACKS).step_by(BATCH) {
        let batch = (first..(first + BATCH).min(CALLBACKS)).map(|job| new(job, &to)).collect();
        under_way.push(outbox.enqueue(batch));
        if under_way.len() == 4 {
            under_way.remove(0).await?;
        }
    }
    for stored in under_way {
        stored.await?;
    }
    say("enqueue", begin);

    let begin = Instant::now();
    let mut under_way = Vec::new();
    loop {
        let claims = outbox.claim(&to, BATCH, SystemClock.now()).await?;
        if claims.claimed.is_empty() {
            break;
        }
        for claim in claims.claimed {
            let settlement = Settlement::Delivered(attempt(claim.record.next_attempt()));
            under_way.push(outbox.settle(claim, settlement));
        }
        if under_way.len() >= 4 * BATCH {
            for settled in under_way.drain(..BATCH) {
                settled.await?;
            }
        }
    }
    for settled in under_way {
        settled.await?;
    }
    say("claim and settle", begin);
    Ok(())
}

fn say(what: &str, begin: Instant) {
    let seconds = begin.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than its first digits")]
    let rate = CALLBACKS as f64 / seconds;
    println!("{what:>16}: {rate:>7.0} callbacks a second ({CALLBACKS} in {seconds:.2} s)");
}

fn new(job: usize, to: &Destination) -> NewCallback {
    NewCallback {
        event_id: None,
        body: Body {
            job_id: job.to_string(),
            job_id_fs: format!("2016{job:014}"),
            job_state: JobState::Finished,
            exit_status: Some("OK".into()),
            error_reason: None,
            dpf_tracker_url: Some(format!(
                "http://dpfsrv03:9125/cgi-bin/dpftracker?job=2016{job:014}"
            )),
        },
        url: format!("http://127.0.0.1:8080/ourjobmanager/ourjobno/{job}"),
        destination: to.clone(),
        refusal: None,
    }
}

fn attempt(number: u32) -> Attempt {
    Attempt {
        number,
        started_at: SystemClock.now(),
        duration_ms: 3,
        status: Some(200),
        error: None,
        peer: Some("127.0.0.1:8080".into()),
        response_excerpt: None,
    }
}
