//! Damaged stores are detected, refused and left unchanged, and their readable part is exported.

mod recovery;
mod replaced;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use serde_json::Value;

use crate::support::{Answer, Receiver, Service, event, eventually, number};

const DELIVERED: usize = 40;
const PENDING: usize = 60;
const FAILED: usize = 10;

/// A stopped service with delivered, failed and pending callbacks.
fn filled(kill: bool) -> Service {
    let good = Receiver::start();
    let bad = Receiver::answering(vec![], Answer::Status(422));
    let mut service = Service::start(
        "breaker.failures = 0\nretry.initial_interval = \"1h\"\nretry.max_interval = \"1h\"",
    );
    let api = service.api();
    let lines = |to: &str, first: usize, count: usize| -> String {
        (first..first + count)
            .map(|job| {
                let mut event = event("job_sending", &job.to_string(), to);
                event["eventId"] = format!("e{job}").into();
                event.to_string() + "\n"
            })
            .collect()
    };
    for step in 0..4 {
        api.post_lines(&lines(&good.url("/"), 1000 + step * DELIVERED / 4, DELIVERED / 4));
        api.post_lines(&lines("http://127.0.0.1:1/", 2000 + step * PENDING / 4, PENDING / 4));
    }
    api.post_lines(&lines(&bad.url("/"), 3000, FAILED));
    eventually("all have had their attempt", || {
        let queue = api.queue();
        let ended = queue["delivered"] == DELIVERED && queue["failed"] == FAILED;
        (ended && queue["inFlight"] == 0 && queue["due"] == 0).then_some(())
    });
    if kill {
        service.kill();
    } else {
        assert_eq!(service.terminate(), Some(0));
    }
    service
}

/// A copy of the store, in a separate folder.
fn copy(service: &Service) -> Service {
    let copy = Service::prepare("");
    copy_folder(&service.path("data"), &copy.path("data"));
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &to);
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}

/// Every file of the store with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|it| it != "lock" && it != "lock.holder") {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// The path of the store, as in messages.
static OUTBOX: LazyLock<String> =
    LazyLock::new(|| Path::new("data").join("outbox").display().to_string());

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn counts(service: &Service) -> [u64; 3] {
    let queue = &service.json(&["inspect-queue", "--output", "json", "--limit", "1"])["queue"];
    ["delivered", "pending", "failed"].map(|state| queue[state].as_u64().unwrap())
}

const ALL: [u64; 3] = [DELIVERED as u64, PENDING as u64, FAILED as u64];

/// Asserts that the store is unaffected, or is refused with instructions and left unchanged. Returns whether
/// it was refused.
fn refused_or_whole(service: &Service, what: &str) -> bool {
    let before = files(&service.path("data"));
    let output = service.run(&["inspect-queue"]);
    let said = text(&output.stderr);
    assert!(!said.contains("panicked"), "{what}: {said}");
    if output.status.success() {
        assert_eq!(counts(service), ALL, "{what}");
        return false;
    }
    assert_eq!(output.status.code(), Some(1), "{what}: {said}");
    assert!(said.contains(&*OUTBOX) && said.contains("is damaged"), "{what}: {said}");
    assert!(said.contains("export --file") && said.contains("import --file"), "{what}: {said}");
    let after = files(&service.path("data"));
    for (path, content) in &before {
        assert!(after.get(path) == Some(content), "{what}: {} was changed", path.display());
    }
    assert_eq!(before.len(), after.len(), "{what}");
    let serve = service.run(&["serve"]);
    assert_eq!((serve.status.code(), text(&serve.stderr)), (Some(1), said), "{what}");
    true
}

/// The state of every exported callback by its id.
fn states(service: &Service) -> BTreeMap<String, String> {
    let output = service.run(&["export"]);
    assert!(output.status.success(), "{output:?}");
    let lines = text(&output.stdout);
    let callbacks = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    callbacks
        .filter(|line| line["id"].is_string())
        .map(|line| (word(&line["id"]), word(&line["state"])))
        .collect()
}

/// Recovers the store by export and import, and returns the recovered callbacks.
fn recover(service: &Service, what: &str) -> BTreeMap<String, String> {
    let output = service.run(&["export", "--file", "callbacks.ndjson"]);
    assert!(output.status.success(), "{what}: {output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("is damaged"), "{what}: {said}");
    // A log that is truncated between two writes is valid.
    let whole = said.contains(" 0 more cannot be read, and 0 places");
    assert!(!whole || said.contains("writes are lost"), "{what}: {said}");
    fs::rename(service.path("data/outbox"), service.path("outbox.damaged")).unwrap();
    let output = service.run(&["import", "--file", "callbacks.ndjson"]);
    assert!(output.status.success(), "{what}: {output:?}");
    states(service)
}

/// The results of all damaged stores.
#[derive(Debug, Default)]
struct Damaged {
    stores: usize,
    harmless: usize,
    refused: usize,
    /// The callbacks in the refused stores, and how many of them were recovered.
    callbacks: usize,
    came_through: usize,
    /// How many of those were recovered as failed, because their state is uncertain.
    uncertain: usize,
    /// How many were recovered as pending, because their end was damaged.
    again: usize,
}

impl Damaged {
    /// Damages copies of a store in `times` places each.
    fn damage(&mut self, kill: bool, times: usize, seed: u64, harm: Harm) {
        let whole = filled(kill);
        let unharmed = states(&copy(&whole));
        assert_eq!(unharmed.len() as u64, ALL.iter().sum::<u64>());
        // If the file is truncated, the callbacks in the remaining part are recovered.
        let keeps_most = !std::ptr::fn_addr_eq(harm, cut_off as Harm);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..times {
            let service = copy(&whole);
            let db = service.path("data/outbox/db");
            let bytes = fs::read(&db).unwrap();
            // The rest of the file is not written yet.
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            let at = random.usize(..used);
            fs::write(&db, harm(bytes, at)).unwrap();
            let what = format!("byte {at} of {used}, killed: {kill}");
            self.stores += 1;
            if !refused_or_whole(&service, &what) {
                assert!(states(&service) == unharmed, "{what}: not all that it had");
                self.harmless += 1;
                continue;
            }
            self.refused += 1;
            self.callbacks += unharmed.len();
            let came_through = recover(&service, &what);
            let least = if keeps_most { unharmed.len() / 2 } else { 0 };
            assert!(came_through.len() >= least, "{what}: {} came out", came_through.len());
            for (id, state) in came_through {
                self.came_through += 1;
                let Some(was) = unharmed.get(&id) else { panic!("{what}: {id} is nobody's") };
                match state.as_str() {
                    same if same == was => {}
                    "failed" => self.uncertain += 1,
                    "pending" => self.again += 1,
                    other => panic!("{what}: {id} was {was}, and is {other}"),
                }
            }
        }
    }
}

/// The damage to a file, and its position.
type Harm = fn(Vec<u8>, usize) -> Vec<u8>;

fn flip_a_bit(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1 << (at % 8);
    bytes
}

fn zero_a_page(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let page = at / 4096 * 4096;
    let end = (page + 4096).min(bytes.len());
    bytes[page..end].fill(0);
    bytes
}

fn cut_off(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes.truncate(at);
    bytes
}

/// Damages stores of both kinds, some of them detectably.
fn damage(times: usize, seed: u64, harm: Harm) {
    for kill in [true, false] {
        let mut damaged = Damaged::default();
        damaged.damage(kill, times, seed, harm);
        assert!(damaged.refused > 0, "{damaged:?}");
    }
}

#[test]
fn a_flipped_bit_is_detected_or_harmless() {
    damage(8, 1, flip_a_bit);
}

#[test]
fn a_zeroed_page_is_detected_or_harmless() {
    damage(6, 3, zero_a_page);
}

#[test]
fn a_truncated_file_is_detected() {
    damage(6, 5, cut_off);
}

#[test]
#[ignore = "a soak: DAMAGED_STORES=300 cargo test --release --test it -- --ignored --nocapture soak_of_damage"]
fn soak_of_damage() {
    let stores = number("DAMAGED_STORES", 300);
    let seed = number("DAMAGE_SEED", fastrand::u64(..1_000_000_000));
    eprintln!("damage: DAMAGE_SEED={seed} DAMAGED_STORES={stores}");
    let mut all = Damaged::default();
    for harm in [flip_a_bit as Harm, zero_a_page, cut_off] {
        for kill in [true, false] {
            all.damage(kill, usize::try_from(stores / 6).unwrap(), seed, harm);
        }
    }
    let Damaged { stores, harmless, refused, callbacks, came_through, uncertain, again } = all;
    eprintln!(
        "damage: {stores} stores, {harmless} opened with all they had, {refused} refused; of the \
         {callbacks} callbacks in these {came_through} came out, {uncertain} of them as failed and {again} as pending"
    );
}

#[test]
fn a_flipped_bit_at_the_end_of_a_closed_store_changes_nothing() {
    let whole = filled(false);
    for back in (4..2_000).step_by(190) {
        let service = copy(&whole);
        let db = service.path("data/outbox/db");
        let mut bytes = fs::read(&db).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[used - back] ^= 4;
        fs::write(&db, bytes).unwrap();
        refused_or_whole(&service, &format!("{back} bytes before the end"));
    }
}

#[test]
fn one_flipped_bit_costs_few_callbacks() {
    let whole = filled(true);
    let service = copy(&whole);
    let db = service.path("data/outbox/db");
    let mut bytes = fs::read(&db).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 2] ^= 1;
    fs::write(&db, bytes).unwrap();
    assert!(refused_or_whole(&service, "the middle"));
    let came_through = recover(&service, "the middle").len() as u64;
    assert!(came_through * 10 >= ALL.iter().sum::<u64>() * 9, "{came_through}");
}

#[test]
fn a_segment_without_a_header_is_salvaged() {
    let whole = filled(true);
    for at in [5, 12] {
        let service = copy(&whole);
        let db = service.path("data/outbox/db");
        let mut bytes = fs::read(&db).unwrap();
        bytes[at] ^= 1;
        fs::write(&db, bytes).unwrap();
        assert!(refused_or_whole(&service, "the header"));
        assert_eq!(recover(&service, "the header").len() as u64, ALL.iter().sum::<u64>());
    }
}

#[test]
fn damage_that_looks_like_the_logs_end_is_detected() {
    let whole = filled(true);
    for back in [100, 1500, 4096, 9000] {
        let service = copy(&whole);
        let db = service.path("data/outbox/db");
        let mut bytes = fs::read(&db).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[used - back..].fill(0);
        fs::write(&db, bytes).unwrap();
        assert!(refused_or_whole(&service, &format!("{back} bytes before the end")), "{back}");
    }
}
