//! `cargo bench --bench outbox`: the throughput of the store on this machine's disk, with every write
//! synced. Each figure is one run; compare only figures of the same run.

use std::{path::PathBuf, sync::Arc, time::Instant};

use anyhow::Context as _;
use seal_dpf_urlcallback::{
    callback::Destination,
    clock::{Clock as _, SystemClock, Timestamp},
    outbox::{
        Outbox, Over, Sequence, Settlement, purge_gently,
        sled::{Settings, SledOutbox},
    },
};

mod sample;

use sample::{attempt, new};

const CALLBACKS: usize = 50_000;
const OLD: usize = 1_000_000;
const BATCH: usize = 256;

fn main() -> anyhow::Result<()> {
    // The target folder is on the project's disk; a temporary folder may be in memory.
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
    fill(outbox, &to, CALLBACKS).await?;
    say("enqueue", CALLBACKS, begin);
    let begin = Instant::now();
    drain(outbox, &to).await?;
    say("claim and settle", CALLBACKS, begin);

    // How much a purge of old callbacks slows concurrent deliveries.
    fill(outbox, &to, OLD - CALLBACKS).await?;
    drain(outbox, &to).await?;
    size(outbox, "with a million delivered ones").await?;
    fill(outbox, &to, CALLBACKS).await?;
    let begin = Instant::now();
    drain(outbox, &to).await?;
    say("beside them", CALLBACKS, begin);
    fill(outbox, &to, 2 * CALLBACKS).await?;
    let begin = Instant::now();
    let purge = async {
        let purged = purge_gently(outbox, all).await?;
        anyhow::Ok((purged, begin.elapsed()))
    };
    let delivery = async {
        drain(outbox, &to).await?;
        say("while they are purged", 2 * CALLBACKS, begin);
        anyhow::Ok(())
    };
    let (purged, delivered) = tokio::join!(purge, delivery);
    delivered?;
    let (purged, took) = purged?;
    println!("{:>22}: {purged} in {:.2} s", "purge", took.as_secs_f64());
    purge_gently(outbox, all).await?;
    size(outbox, "when all are purged").await?;
    fill(outbox, &to, OLD).await?;
    drain(outbox, &to).await?;
    size(outbox, "with a million new ones").await
}

/// Retention is over for every delivered callback.
fn all() -> Over {
    Over { delivered: Timestamp::MAX, failed: Timestamp::MAX }
}

async fn fill(outbox: &SledOutbox, to: &Destination, count: usize) -> anyhow::Result<()> {
    let mut under_way = Vec::new();
    for first in (0..count).step_by(BATCH) {
        let batch = (first..(first + BATCH).min(count)).map(|job| new(job, to)).collect();
        under_way.push(outbox.enqueue(batch, Sequence::default()));
        if under_way.len() == 4 {
            under_way.remove(0).await?;
        }
    }
    for stored in under_way {
        stored.await?;
    }
    Ok(())
}

async fn drain(outbox: &SledOutbox, to: &Destination) -> anyhow::Result<()> {
    let mut under_way = Vec::new();
    loop {
        let claims = outbox.claim(to, BATCH, SystemClock.now())?;
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
    Ok(())
}

fn say(what: &str, count: usize, begin: Instant) {
    let seconds = begin.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than its first digits")]
    let rate = count as f64 / seconds;
    println!("{what:>22}: {rate:>7.0} callbacks a second ({count} in {seconds:.2} s)");
}

async fn size(outbox: &SledOutbox, when: &str) -> anyhow::Result<()> {
    let bytes = outbox.summary(SystemClock.now()).await?.store_bytes;
    println!("{:>22}: {} MiB {when}", "on the disk", bytes >> 20);
    Ok(())
}
