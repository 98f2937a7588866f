//! Power failures: all operations of the service on its files are recorded. Then images of the disk are
//! created as a power failure could have left it at many points of the run. Each image must open and contain
//! everything that was acknowledged by then.
//!
//! A long run: `POWER_IMAGES=5000 cargo test --release --test it power -- --nocapture`.

mod disk;
mod migration;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use seal_dpf_urlcallback::{
    callback::{CallbackId, Destination},
    clock::{Clock as _, SystemClock},
    outbox::{
        DestinationQuery, ExportCursor, Outbox as _, OutboxError, StateName,
        sled::{Settings, SledOutbox},
    },
};
use serde_json::json;

use self::disk::{Cut, Disk, Op};
use crate::support::{Answer, Api, PAUSE, Receiver, Service, event, eventually, number, preloaded};

/// A recording: the operations, and how many of them preceded each acknowledgement.
struct Recording {
    ops: Vec<(usize, Op)>,
    acknowledged: Vec<(usize, CallbackId, Said)>,
    /// Whether a destination was paused, according to the operator's answers; `None`: about to change.
    paused: Vec<(usize, Destination, Option<bool>)>,
    /// The callbacks that were sent, with the number of operations before each.
    sent: Vec<(usize, CallbackId)>,
    /// The position at which the first callback was sent that a kill had left unsynced.
    unsynced: Vec<usize>,
}

/// The reported state of a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Accepted,
    Delivered,
    Cancelled,
    Replayed,
}

impl Said {
    fn may_be(self, state: StateName) -> bool {
        match self {
            Self::Accepted => true,
            Self::Delivered => state == StateName::Delivered,
            Self::Cancelled => state == StateName::Failed,
            Self::Replayed => state == StateName::Pending,
        }
    }
}

/// Records a statement, with the number of operations before it.
struct Notes {
    trace: PathBuf,
    acknowledged: Vec<(usize, CallbackId, Said)>,
    paused: Vec<(usize, Destination, Option<bool>)>,
}

impl Notes {
    fn take<'a>(&mut self, said: Said, ids: impl IntoIterator<Item = &'a str>) {
        let so_far = usize::try_from(fs::metadata(&self.trace).unwrap().len()).unwrap();
        let ids = ids.into_iter().map(|id| (so_far, id.parse().unwrap(), said));
        self.acknowledged.extend(ids);
    }

    /// As many callbacks as the service may commit at once: from several requests with many lines.
    fn accept_many(&mut self, api: &Api, job: &str, url: &str) {
        let lines = |part: usize| -> String {
            let one =
                |n| event("job_sending", &format!("{job}-{part}-{n}"), url).to_string() + "\n";
            (0..600).map(one).collect()
        };
        let answers = std::thread::scope(|scope| {
            let asking =
                [0, 1, 2, 3].map(|part| scope.spawn(move || api.post_lines(&lines(part)).lines()));
            asking.map(|asked| asked.join().unwrap())
        });
        let ids: Vec<_> = answers.iter().flatten().map(|it| it["id"].as_str().unwrap()).collect();
        self.take(Said::Accepted, ids);
    }

    /// A callback without a working receiver is retried and cancelled, and then some callbacks are replayed.
    fn cancel(&mut self, api: &Api, job: &str, replay: bool) {
        let id = api.accept(&event("job_sending", job, "http://127.0.0.1:1/"));
        self.take(Said::Accepted, [&*id]);
        let answer = api.post("/v1/callbacks/retry-now", &json!({ "filter": { "ids": [id] } }));
        assert_eq!(answer.json()["matched"], 1);
        eventually("it is cancelled", || {
            let answer = api.post(&format!("/v1/callbacks/{id}/cancel"), &json!({}));
            (answer.status == 200).then_some(())
        });
        self.take(Said::Cancelled, [&*id]);
        if replay {
            // What is asked for may be done before it is answered.
            self.take(Said::Accepted, [&*id]);
            let answer = api.post("/v1/callbacks/replay", &json!({ "filter": { "ids": [id] } }));
            assert_eq!(answer.json()["replayed"], 1);
            self.take(Said::Replayed, [&*id]);
        }
    }

    /// A destination is paused, and sometimes resumed.
    fn pause(&mut self, api: &Api, host: &str, resume: bool) {
        let mut set = |path: &str, paused: bool| {
            let destination = Destination::parse(host).unwrap();
            let mut note = |paused| {
                let so_far = usize::try_from(fs::metadata(&self.trace).unwrap().len()).unwrap();
                self.paused.push((so_far, destination.clone(), paused));
            };
            // What is asked for may be done before it is answered.
            note(None);
            let answer = api.post(path, &json!({"destination": host}));
            assert_eq!(answer.status, 200);
            note(Some(paused));
        };
        set("/v1/destinations/pause", true);
        if resume {
            set("/v1/destinations/resume", false);
        }
    }

    /// Some callbacks that are shown as delivered.
    fn delivered(&mut self, api: &Api) {
        let page = api.get("/v1/callbacks?state=delivered&limit=100").json();
        let shown = page["callbacks"].as_array().unwrap();
        self.take(Said::Delivered, shown.iter().map(|it| it["id"].as_str().unwrap()));
    }
}

/// Kills the service after it has written a batch and before the sync.
fn kill_before_sync(service: &mut Service, good: &Receiver, trace: &Path) {
    const CALLBACKS: usize = 100;
    let written = || fs::metadata(trace).unwrap().len();
    for attempt in 0.. {
        let api = service.api();
        let job = |n| format!("unsynced-{attempt}-{n}");
        let lines: String = (0..CALLBACKS)
            .map(|n| event("job_sending", &job(n), &good.url("/")).to_string() + "\n")
            .collect();
        service.fail_disk("fdatasync STALL");
        let before = written();
        let asking = std::thread::spawn(move || {
            api.ask("POST", "/v1/events", "application/x-ndjson", &lines)
        });
        // A callback has more than 300 bytes. If another commit is in progress, the batch waits.
        let end = Instant::now() + Duration::from_secs(1);
        let is_written = || written() > before + 300 * CALLBACKS as u64;
        while !is_written() && Instant::now() < end {
            std::thread::park_timeout(PAUSE);
        }
        if is_written() {
            service.kill();
            assert!(asking.join().unwrap().is_none(), "nothing was acknowledged");
            return service.mend_disk();
        }
        service.mend_disk();
        asking.join().unwrap();
    }
}

/// Runs the service with a recording disk, under a load that makes the store reuse its space, with a kill and
/// an orderly shutdown in between.
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
        ("DISK_FAULT", service.path("fault").to_str().unwrap().to_owned()),
    ];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    fs::write(&trace, "").unwrap();
    [&good, &bad].into_iter().for_each(|receiver| receiver.watch(&trace));
    let mut notes = Notes { trace, acknowledged: Vec::new(), paused: Vec::new() };
    for run in 0..3 {
        service.serve_with(&env);
        let api = service.api();
        for round in 0..8 {
            let job = |n: usize| format!("{run}-{round}-{n}");
            let id = api.accept(&event("job_sending", &job(0), &good.url("/")));
            notes.take(Said::Accepted, [&*id]);
            let id = api.accept(&event("job_finished", &job(0), &bad.url("/")));
            notes.take(Said::Accepted, [&*id]);
            let lines: String = (1..200)
                .map(|n| event("job_sending", &job(n), &good.url("/")).to_string() + "\n")
                .collect();
            let answers = api.post_lines(&lines).lines();
            notes.take(Said::Accepted, answers.iter().map(|it| it["id"].as_str().unwrap()));
            if round == 3 {
                notes.accept_many(&api, &job(201), &good.url("/"));
            }
            notes.cancel(&api, &job(200), round % 2 == 0);
            notes.pause(&api, &format!("http://paused-{run}-{round}:80"), round % 2 == 0);
            notes.delivered(&api);
        }
        eventually("most are delivered", || {
            (api.queue()["pending"].as_u64().unwrap() < 30).then_some(())
        });
        if run == 0 && ignores.is_empty() {
            kill_before_sync(&mut service, &good, &notes.trace);
        } else if run == 0 {
            service.kill();
        } else {
            assert_eq!(service.terminate(), Some(0));
        }
    }
    let Notes { trace, acknowledged, paused } = notes;
    let ops = disk::read(&fs::read(&trace).unwrap(), &data);
    if ignores.is_empty() {
        assert_recording_is_whole(&ops, &data);
    }
    let puts = [good.puts(), bad.puts()].concat();
    let sent = puts.iter().map(|put| {
        let so_far = usize::try_from(put.watched).unwrap();
        (so_far, put.header("webhook-id").parse().unwrap())
    });
    let unsynced = puts.iter().filter(|put| put.body.contains("unsynced")).map(|put| put.watched);
    let unsynced = unsynced.take(16).map(|at| usize::try_from(at).unwrap()).collect();
    Recording { ops, acknowledged, paused, sent: sent.collect(), unsynced }
}

/// Asserts that the recording is complete: it reproduces the actual files.
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

/// The defects of an image.
fn look(
    image: &Path,
    acknowledged: &HashMap<CallbackId, Said>,
    paused: &HashMap<Destination, Option<bool>>,
    sent: &[CallbackId],
) -> Result<(), String> {
    if !image.join("outbox").exists() && acknowledged.is_empty() {
        return Ok(());
    }
    let settings = Settings { min_free_bytes: 0, ..Settings::default() };
    let outbox = SledOutbox::open(&image.join("outbox"), settings, Arc::new(SystemClock))
        .map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut found = HashMap::new();
        let mut cursor = ExportCursor::default();
        loop {
            let step =
                outbox.export(cursor).await.map_err(|error: OutboxError| error.to_string())?;
            let records = step.entries.iter().map(|entry| &entry.record);
            found.extend(records.map(|record| (record.id, record.state_name())));
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
        let query = DestinationQuery { limit: usize::MAX, ..DestinationQuery::default() };
        let all = outbox.destinations(query, SystemClock.now()).await;
        let all = all.map_err(|error| error.to_string())?.destinations;
        let stored: HashSet<_> =
            all.into_iter().filter(|it| it.paused_at.is_some()).map(|it| it.destination).collect();
        let wrong = |(to, paused): &(&Destination, &Option<bool>)| {
            paused.is_some_and(|paused| stored.contains(*to) != paused)
        };
        if let Some((to, paused)) = paused.iter().find(wrong) {
            return Err(format!("{to} was paused: {paused:?}, which is lost"));
        }
        let lost = acknowledged.keys().filter(|id| !found.contains_key(id)).count();
        if lost > 0 {
            return Err(format!("{lost} of {} are lost", acknowledged.len()));
        }
        if let Some(id) = sent.iter().find(|id| !found.contains_key(id)) {
            return Err(format!("{id} was sent and is not there"));
        }
        match acknowledged.iter().find(|(id, said)| !said.may_be(found[id])) {
            Some((id, said)) => Err(format!("{id} was {said:?}, and is {:?}", found[id])),
            None => Ok(()),
        }
    })
}

/// Creates this many images and returns how many are wrong, with the defects.
fn cut(recording: &Recording, images: usize, seed: u64) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut at: Vec<usize> = (0..images).map(|_| random.usize(..recording.ops.len())).collect();
    // Also when a callback that had never been acknowledged was received: the power fails immediately.
    let so_far = |position| recording.ops.partition_point(|(at, _)| *at <= position);
    let came: BTreeSet<_> =
        recording.unsynced.iter().map(|at| so_far(*at).saturating_sub(1)).collect();
    at.extend(&came);
    at.sort_unstable();
    let (mut disk, mut done, mut wrong) = (Disk::new(), 0, Vec::new());
    for (number, op) in at.into_iter().enumerate() {
        while done <= op {
            disk.apply(&recording.ops[done].1);
            done += 1;
        }
        let position = recording.ops[op].0;
        // The latest statement about each callback.
        let acknowledged: HashMap<_, _> = recording
            .acknowledged
            .iter()
            .filter(|(after, ..)| *after <= position)
            .map(|(_, id, said)| (*id, *said))
            .collect();
        let paused = recording.paused.iter().filter(|(after, ..)| *after <= position);
        let paused: HashMap<_, _> = paused.map(|(_, to, paused)| (to.clone(), *paused)).collect();
        let how = [Cut::Lost, Cut::Some, Cut::Torn, Cut::Kept][number % 4];
        let how = if came.contains(&op) { Cut::Lost } else { how };
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = folder.path().join("data");
        disk.leave(&image, how, &mut random);
        let sent = recording.sent.iter().filter(|(after, _)| *after <= position);
        let sent: Vec<_> = sent.map(|(_, id)| *id).collect();
        if let Err(what) = look(&image, &acknowledged, &paused, &sent) {
            wrong.push(format!("after operation {op} ({how:?}): {what}"));
        }
    }
    wrong
}

#[test]
fn everything_acknowledged_survives_a_power_failure() {
    let seed = number("POWER_SEED", fastrand::u64(..));
    println!("POWER_SEED={seed}");
    let recording = record("");
    let images = usize::try_from(number("POWER_IMAGES", 80)).unwrap();
    let wrong = cut(&recording, images, seed);
    println!(
        "power cuts: {images} images opened, {} operations, {} acknowledged, {} sent, {} wrong",
        recording.ops.len(),
        recording.acknowledged.len(),
        recording.sent.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} of {images} images: {wrong:#?}", wrong.len());
}

/// The test above would detect an error.
#[test]
fn without_the_sync_power_failures_lose_acknowledged_writes() {
    let recording = record("fdatasync");
    let wrong = cut(&recording, 24, 1);
    assert!(wrong.iter().any(|what| what.contains("lost")), "{wrong:#?}");
}
