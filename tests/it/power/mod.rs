//! Power cuts: everything that the service does to its files is recorded, and then disks are
//! made as a machine without power could have left them, at many moments of the run. Each has
//! to open, and to have everything that was acknowledged by then.
//!
//! A long run: `POWER_IMAGES=5000 cargo test --release --test it power -- --nocapture`.

mod disk;

use std::{fs, path::Path, sync::Arc};

use seal_dpf_urlcallback::{
    callback::CallbackId,
    clock::{Clock as _, SystemClock},
    outbox::{
        ExportCursor, Outbox as _, OutboxError,
        sled::{Settings, SledOutbox},
    },
};

use self::disk::{Cut, Disk, Op};
use crate::support::{Answer, Receiver, Service, event, eventually, number, preloaded};

/// What was recorded: what was done, and what was acknowledged after how much of it.
struct Recording {
    ops: Vec<(usize, Op)>,
    acknowledged: Vec<(usize, CallbackId)>,
}

/// Runs the service with a disk that records, under a load that makes the store use its
/// space again, with a kill and a good end in between.
fn record(ignores: &str) -> Recording {
    let good = Receiver::start();
    let bad = Receiver::answering(vec![Answer::Status(503); 20], Answer::Status(200));
    let mut service = Service::prepare("");
    let (data, trace) = (service.path("data"), service.path("trace"));
    fs::create_dir(&data).unwrap();
    let root = data.to_str().unwrap().to_owned();
    let env = [
        ("LD_PRELOAD", preloaded("disk.c")),
        ("DISK_FILES", root),
        ("DISK_TRACE", trace.to_str().unwrap().to_owned()),
        ("DISK_IGNORES", ignores.to_owned()),
    ];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut acknowledged = Vec::new();
    for run in 0..3 {
        service.serve_with(&env);
        let api = service.api();
        for round in 0..8 {
            let mut take = |ids: Vec<String>| {
                let so_far = usize::try_from(fs::metadata(&trace).unwrap().len()).unwrap();
                acknowledged.extend(ids.iter().map(|id| (so_far, id.parse().unwrap())));
            };
            let job = |n: usize| format!("{run}-{round}-{n}");
            take(vec![api.accept(&event("job_sending", &job(0), &good.url("/")))]);
            take(vec![api.accept(&event("job_finished", &job(0), &bad.url("/")))]);
            let lines: String = (1..200)
                .map(|n| event("job_sending", &job(n), &good.url("/")).to_string() + "\n")
                .collect();
            let answer = api.post_lines(&lines);
            take(answer.lines().iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect());
        }
        eventually("most are delivered", || {
            (api.queue()["pending"].as_u64().unwrap() < 20).then_some(())
        });
        if run == 0 {
            service.kill();
        } else {
            assert_eq!(service.terminate(), Some(0));
        }
    }
    let ops = disk::read(&fs::read(&trace).unwrap(), &data);
    if ignores.is_empty() {
        assert_recording_is_whole(&ops, &data);
    }
    Recording { ops, acknowledged }
}

/// What was recorded is all that was done: it makes the very files that are there.
fn assert_recording_is_whole(ops: &[(usize, Op)], data: &Path) {
    let mut disk = Disk::new();
    ops.iter().for_each(|(_, op)| disk.apply(op));
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("data");
    disk.leave(&image, Cut::Kept, &mut fastrand::Rng::with_seed(0));
    for name in ["outbox/db", "outbox.witness"] {
        assert!(
            fs::read(image.join(name)).unwrap() == fs::read(data.join(name)).unwrap(),
            "{name}"
        );
    }
}

/// What is wrong with an image.
fn look(image: &Path, acknowledged: &[CallbackId]) -> Result<(), String> {
    if !image.join("outbox").exists() && acknowledged.is_empty() {
        return Ok(());
    }
    let settings = Settings { min_free_bytes: 0, ..Settings::default() };
    let outbox = SledOutbox::open(&image.join("outbox"), settings, Arc::new(SystemClock))
        .map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut found = std::collections::HashSet::new();
        let mut cursor = ExportCursor::default();
        loop {
            let step =
                outbox.export(cursor).await.map_err(|error: OutboxError| error.to_string())?;
            found.extend(step.entries.iter().map(|entry| entry.record.id));
            match step.next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        let queue = outbox.summary(SystemClock.now()).await.map_err(|error| error.to_string())?;
        let counted = queue.pending + queue.delivered + queue.failed;
        if counted != found.len() as u64 {
            return Err(format!("{counted} are counted and {} are there", found.len()));
        }
        let lost = acknowledged.iter().filter(|id| !found.contains(id)).count();
        if lost > 0 { Err(format!("{lost} of {} are lost", acknowledged.len())) } else { Ok(()) }
    })
}

/// Makes so many images and says what is wrong with how many.
fn cut(recording: &Recording, images: usize, seed: u64) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut at: Vec<usize> = (0..images).map(|_| random.usize(..recording.ops.len())).collect();
    at.sort_unstable();
    let (mut disk, mut done, mut wrong) = (Disk::new(), 0, Vec::new());
    for (number, op) in at.into_iter().enumerate() {
        while done <= op {
            disk.apply(&recording.ops[done].1);
            done += 1;
        }
        let position = recording.ops[op].0;
        let acknowledged: Vec<_> = recording
            .acknowledged
            .iter()
            .filter(|(after, _)| *after <= position)
            .map(|(_, id)| *id)
            .collect();
        let how = [Cut::Lost, Cut::Some, Cut::Torn, Cut::Kept][number % 4];
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = folder.path().join("data");
        disk.leave(&image, how, &mut random);
        if let Err(what) = look(&image, &acknowledged) {
            wrong.push(format!("after operation {op} ({how:?}): {what}"));
        }
    }
    wrong
}

#[test]
fn whatever_a_power_cut_leaves_of_the_disk_everything_acknowledged_is_there() {
    let seed = number("POWER_SEED", fastrand::u64(..));
    println!("POWER_SEED={seed}");
    let recording = record("");
    let images = usize::try_from(number("POWER_IMAGES", 80)).unwrap();
    let wrong = cut(&recording, images, seed);
    println!(
        "power cuts: {images} images opened, {} operations, {} acknowledged, {} wrong",
        recording.ops.len(),
        recording.acknowledged.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} of {images} images: {wrong:#?}", wrong.len());
}

/// That the test above would see a mistake.
#[test]
fn without_the_sync_after_the_flush_power_cuts_lose_what_was_acknowledged() {
    let recording = record("fdatasync");
    let wrong = cut(&recording, 24, 1);
    assert!(wrong.iter().any(|what| what.contains("lost")), "{wrong:#?}");
}
