//! Mixed load for a long time. The resources of the process are measured and must not grow.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Run, seed};
use crate::support::{eventually, number};

/// Interval of measurements.
const SAMPLES: u32 = 20;

/// How much the resources may grow from the second third of the time to the last one: a factor, and in
/// addition a number of bytes. Most of the memory is the store's cache, which is small enough not to hide a
/// leak; the log of the store is cleaned in steps.
const RSS_MAY_GROW: (f64, u64) = (1.25, 8 << 20);
const STORE_MAY_GROW: (f64, u64) = (1.5, 16 << 20);

/// How many more files and threads an idle process may have than one that has just started: the store and the
/// runtime create some when they are first needed.
const IDLE_FILES: usize = 6;
const IDLE_THREADS: usize = 3;

/// The resources of the process.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    rss: u64,
    files: usize,
    threads: usize,
    store: u64,
    pending: u64,
    stored: u64,
    attempts: u64,
}

impl Sample {
    fn take(run: &Run, begin: Instant) -> Self {
        let process = process(run);
        let status = fs::read_to_string(process.join("status")).unwrap();
        let rss = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let rss: u64 = rss.split_whitespace().nth(1).unwrap().parse().unwrap();
        let (files, threads) = open(&process);
        let queue = run.service.api().queue();
        let count = |name: &str| queue[name].as_u64().unwrap();
        Self {
            at: begin.elapsed(),
            rss: rss * 1024,
            files,
            threads,
            store: size(&run.service.path("data")),
            pending: count("pending"),
            stored: count("delivered") + count("failed"),
            attempts: run.stage.receivers.count(),
        }
    }

    fn print(&self, when: &str) {
        eprintln!(
            "{when:>10} {:>7} {:>9} {:>6} {:>8} {:>10} {:>8} {:>8} {:>10}",
            self.at.as_secs(),
            self.rss / 1024,
            self.files,
            self.threads,
            self.store / 1024,
            self.pending,
            self.stored,
            self.attempts,
        );
    }
}

fn process(run: &Run) -> PathBuf {
    Path::new("/proc").join(run.service.pid().to_string())
}

/// The numbers of open files and threads.
fn open(process: &Path) -> (usize, usize) {
    let entries = |name| fs::read_dir(process.join(name)).unwrap().count();
    (entries("fd"), entries("task"))
}

/// Bytes of all files in a folder; a file that is removed in the meantime counts as empty.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => size(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

#[test]
#[ignore = "a soak: SOAK_SECONDS=3600 cargo test --release --test it -- --ignored --nocapture soak_of_mixed_load"]
fn soak_of_mixed_load_does_not_grow() {
    let time = Duration::from_secs(number("SOAK_SECONDS", 3600));
    let seed = seed();
    eprintln!("soak: CRASH_SEED={seed} SOAK_SECONDS={}", time.as_secs());
    let settings = "retention.delivered = \"10s\"\nretention.failed = \"10s\"\n\
                    outbox.cache_bytes = 8388608\nlog.level = \"error\"";
    let mut run = Run::prepare(seed, settings, true);
    run.serve();
    let begin = Instant::now();
    eprintln!(
        "{:>10} {:>7} {:>9} {:>6} {:>8} {:>10} {:>8} {:>8} {:>10}",
        "", "seconds", "RSS KiB", "files", "threads", "store KiB", "pending", "stored", "attempts"
    );
    let idle = Sample::take(&run, begin);
    idle.print("start");
    run.load(seed);
    let mut samples = Vec::new();
    for number in 1..=SAMPLES {
        run.go_on(begin + time * number / SAMPLES);
        let sample = Sample::take(&run, begin);
        sample.print("");
        samples.push(sample);
    }
    run.stage.receivers.mend();
    run.stop();
    run.drain();
    eventually("ended callbacks are removed", || {
        (Sample::take(&run, begin).stored == 0).then_some(())
    });
    // No request in between: each one would keep a thread of the runtime for a while.
    eventually("it holds no more than at first", || {
        let (files, threads) = open(&process(&run));
        (files <= idle.files + IDLE_FILES && threads <= idle.threads + IDLE_THREADS).then_some(())
    });
    let end = Sample::take(&run, begin);
    end.print("end");
    let faults = run.stage.history.faults.lock().unwrap().clone();
    assert!(faults.is_empty(), "CRASH_SEED={seed} {faults:#?}");
    let third = samples.len() / 3;
    let most = |of: fn(&Sample) -> u64, part: &[Sample]| part.iter().map(of).max().unwrap();
    for (what, of, (factor, slack)) in [
        ("RSS", (|it| it.rss) as fn(&Sample) -> u64, RSS_MAY_GROW),
        ("store", |it| it.store, STORE_MAY_GROW),
    ] {
        let (before, after) =
            (most(of, &samples[third..2 * third]), most(of, &samples[2 * third..]));
        #[expect(clippy::cast_precision_loss, reason = "a bound need not be exact")]
        let bounded = after as f64 <= before as f64 * factor + slack as f64;
        assert!(bounded, "{what} grows: {before} bytes, later {after}");
    }
}
