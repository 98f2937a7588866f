//! A store of format 1 is migrated completely. `tests/data/format-1` was created by the last version with
//! that format. It contains a callback in every state, with and without attempts, event ids and replays, and
//! `export.ndjson`, the export by that version.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use seal_dpf_urlcallback::{
    archive::Writer,
    callback::CallbackId,
    clock::{ManualClock, Timestamp},
    outbox::{
        Criteria, News, Outbox as _, Query, Record, StateName,
        record::{decode, encode},
        sled::{Settings, SledOutbox},
    },
};
use serde_json::Value;

use crate::support::{PAUSE, Service, eventually};

/// Callbacks that are added to the store, so that its migration takes several steps.
pub(crate) const ADDED: u64 = 5_000;

/// The clock at which the store was created.
const MADE_AT: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// The counters of the whole store, as format 1 stored them.
type Totals = (u64, u64, u64, u64, u64);

/// The counters of a destination.
type Counters = (String, u64, u64, u64, u64, Timestamp);

fn data() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/format-1")
}

/// Copies the store into a folder, as `outbox`.
fn put_store(folder: &Path) {
    fs::create_dir_all(folder.join("outbox")).unwrap();
    for entry in fs::read_dir(data().join("outbox")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.join("outbox").join(path.file_name().unwrap())).unwrap();
    }
    fs::copy(data().join("outbox.witness"), folder.join("outbox.witness")).unwrap();
}

/// The same, with many more callbacks, as format 1 stored them.
pub(crate) fn put_large_store(folder: &Path) {
    put_store(folder);
    let db = sled::open(folder.join("outbox")).unwrap();
    let fresh = db.scan_prefix(b"p").map(Result::unwrap).find_map(|(key, row)| {
        let record: Record = decode(&row).unwrap();
        (record.body.job_id == "20").then_some((key, record))
    });
    let (key, record) = fresh.unwrap();
    let queue: [u8; 8] = key[1..9].try_into().unwrap();
    let mut totals: Totals = decode(&db.get("mtotals").unwrap().unwrap()).unwrap();
    let counters = [b"c".as_slice(), &queue].concat();
    let mut row: Counters = decode(&db.get(&counters).unwrap().unwrap()).unwrap();
    let mut batch = sled::Batch::default();
    for number in 0..ADDED {
        let seq = totals.0;
        totals.0 += 1;
        let mut added = record.clone();
        added.id =
            CallbackId::from_u128(u128::from(seq) << 64 | u128::from(u64::from_be_bytes(queue)));
        added.body.job_id = format!("added {number}");
        added.event_id = None;
        let seq = seq.to_be_bytes();
        let mut bytes = encode(&added).unwrap();
        bytes[1] = 1;
        batch.insert([b"p".as_slice(), &queue, &seq].concat(), bytes);
        let job = added.body.job_id.as_bytes();
        let length = [u8::try_from(job.len()).unwrap()];
        batch.insert([b"j".as_slice(), &length, job, &seq].concat(), queue.to_vec());
    }
    (totals.1, totals.2) = (totals.1 + 1, totals.2 + ADDED);
    (row.1, row.2) = (row.1 + ADDED, row.2 + ADDED);
    batch.insert(counters, encode(&row).unwrap());
    batch.insert("mtotals", encode(&totals).unwrap());
    db.apply_batch(batch).unwrap();
    db.flush().unwrap();
    drop(db);
    // Leave the log as if a service had been started since.
    drop(eventually("the store is closed", || sled::open(folder.join("outbox")).ok()));
    // After one more batch, the segments of the log differ from those at the close.
    let witness = folder.join("outbox.witness");
    let text = fs::read_to_string(&witness).unwrap();
    let identity = text.split(' ').next().unwrap();
    let len = fs::metadata(folder.join("outbox/db")).unwrap().len();
    fs::write(&witness, format!("{identity} {} {len} open\n", totals.1)).unwrap();
}

pub(crate) fn open(folder: &Path) -> Result<SledOutbox, String> {
    let settings = Settings { min_free_bytes: 0, ..Settings::default() };
    SledOutbox::open(&folder.join("outbox"), settings, ManualClock::at(MADE_AT))
        .map_err(|error| error.to_string())
}

/// All callbacks of a store by id, as an export has them.
pub(crate) fn exported(outbox: &SledOutbox) -> Result<BTreeMap<String, Value>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut lines = Vec::new();
    runtime.block_on(async {
        let mut writer = Writer::begin(&mut lines, Some(outbox.identity())).unwrap();
        writer.add_all(outbox, async |_| Ok(())).await.map_err(|error| error.to_string())?;
        writer.end().map_err(|error| error.to_string())
    })?;
    Ok(callbacks(&String::from_utf8(lines).unwrap()))
}

fn callbacks(lines: &str) -> BTreeMap<String, Value> {
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| Some((line["id"].as_str()?.to_owned(), line))).collect()
}

fn expected() -> BTreeMap<String, Value> {
    callbacks(&fs::read_to_string(data().join("export.ndjson")).unwrap())
}

/// Makes the next open compare all rows with each other.
fn raise_doubt(folder: &Path) {
    let witness = folder.join("outbox.witness");
    let text = fs::read_to_string(&witness).unwrap();
    let (known, _) = text.trim_end().rsplit_once(' ').unwrap();
    fs::write(&witness, format!("{known} {:016x}\n", 1)).unwrap();
}

#[test]
fn a_store_of_format_1_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    put_store(folder.path());
    let outbox = open(folder.path()).unwrap();
    assert_eq!(exported(&outbox).unwrap(), expected());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let summary = outbox.summary(MADE_AT).await.unwrap();
        assert_eq!((summary.pending, summary.delivered, summary.failed), (26, 4, 5));
        // Ended callbacks are also found by job and directory.
        for (state, job) in [(StateName::Delivered, "08"), (StateName::Failed, "03")] {
            let job_id_fs = Some(format!("2016022318341823{job}"));
            for criteria in [
                Criteria { job_id_fs, ..Criteria::default() },
                Criteria { job_id: Some(job.into()), ..Criteria::default() },
            ] {
                let query = Query { state: Some(state), criteria, limit: 9, ..Query::default() };
                let page = outbox.list(query).await.unwrap();
                assert_eq!(page.callbacks.len(), 1);
                assert_eq!(page.callbacks[0].record.body.job_id, job);
            }
        }
        // The order of each job is unchanged.
        let mut due: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for news in outbox.news().now_or_never().unwrap() {
            let News::Due { destination, .. } = news else { panic!("{news:?}") };
            let now = MADE_AT.after(Duration::from_hours(24));
            for claim in outbox.claim(&destination, 100, now).unwrap().claimed {
                let record = &claim.record;
                due.entry(record.body.job_id.clone()).or_default().push(record.id.to_string());
                claim.release();
            }
        }
        let one_each = due.values().all(|ids| ids.len() == 1);
        assert!(one_each, "{due:?}");
        assert_eq!(due.len(), 24, "{:?}", due.keys());
    });
    drop(outbox);
    raise_doubt(folder.path());
    let outbox = open(folder.path()).unwrap();
    assert_eq!(exported(&outbox).unwrap(), expected(), "after all rows were compared");
}

#[test]
fn an_unreadable_callback_does_not_prevent_the_migration() {
    for prefix in ["p", "f", "x"] {
        let folder = tempfile::tempdir().unwrap();
        put_store(folder.path());
        let db = sled::open(folder.path().join("outbox")).unwrap();
        let (key, _) = db.scan_prefix(prefix).next_back().unwrap().unwrap();
        db.insert(key, b"\x01\x00broken").unwrap();
        drop(db);
        let outbox = eventually("the store is closed", || open(folder.path()).ok());
        assert_eq!(exported(&outbox).unwrap().len(), 34);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let summary = runtime.block_on(outbox.summary(MADE_AT)).unwrap();
        assert_eq!(summary.pending + summary.delivered + summary.failed, 34);
        drop(outbox);
        // The rows are consistent.
        raise_doubt(folder.path());
        drop(open(folder.path()).unwrap());
    }
}

#[test]
fn a_doubtful_store_of_format_1_is_verified_before_it_is_migrated() {
    let folder = tempfile::tempdir().unwrap();
    put_store(folder.path());
    raise_doubt(folder.path());
    assert_eq!(exported(&open(folder.path()).unwrap()).unwrap(), expected());

    let folder = tempfile::tempdir().unwrap();
    put_store(folder.path());
    let db = sled::open(folder.path().join("outbox")).unwrap();
    let due = db.scan_prefix(b"d").keys().next().unwrap().unwrap();
    db.remove(due).unwrap();
    drop(db);
    raise_doubt(folder.path());
    let before = fs::read(folder.path().join("outbox/db")).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(error.contains("is not in the due index"), "{error}");
    assert!(fs::read(folder.path().join("outbox/db")).unwrap() == before, "it was changed");
}

#[test]
fn a_migration_killed_repeatedly_loses_nothing() {
    let mut service = Service::prepare("");
    let data = service.path("data");
    put_large_store(&data);
    let expected: BTreeSet<_> = {
        let folder = tempfile::tempdir().unwrap();
        put_large_store(folder.path());
        exported(&open(folder.path()).unwrap()).unwrap().into_keys().collect()
    };
    assert_eq!(expected.len() as u64, ADDED + 35);
    let mut random = fastrand::Rng::with_seed(7);
    let mut kills = 0;
    loop {
        service.launch();
        // Increasing times, because each start verifies the store.
        let end = Instant::now() + Duration::from_millis(random.u64(10..100 + 50 * kills));
        let listens = || service.read("stderr").contains("listening on");
        while !listens() && Instant::now() < end {
            std::thread::park_timeout(PAUSE);
        }
        if listens() {
            break;
        }
        service.kill();
        kills += 1;
        assert!(kills < 100, "it never ends");
    }
    service.kill();
    assert!(kills > 2, "only {kills} kills");
    let found: BTreeSet<_> = exported(&open(&data).unwrap()).unwrap().into_keys().collect();
    assert!(found == expected, "{} of {}", found.len(), expected.len());
}
