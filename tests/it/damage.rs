//! Damaged stores, and the way out: export and import.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::support::{Answer, Receiver, Service, event, eventually};

const DELIVERED: usize = 40;
const PENDING: usize = 60;
const FAILED: usize = 10;

/// A service that has delivered some, failed with some and could not deliver the rest, and does
/// not run any more.
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

/// The same store once more, in a folder of its own.
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

/// Every file of the store with what it holds.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "lock") {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn counts(service: &Service) -> [u64; 3] {
    let queue = &service.json(&["inspect-queue", "--output", "json", "--limit", "1"])["queue"];
    ["delivered", "pending", "failed"].map(|state| queue[state].as_u64().unwrap())
}

const ALL: [u64; 3] = [DELIVERED as u64, PENDING as u64, FAILED as u64];

/// The store is as it was, or is refused with the way out, and nothing in it was changed; says
/// whether it was refused.
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
    assert!(said.contains("data/outbox") && said.contains("is damaged"), "{what}: {said}");
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

/// Takes the way out; gives what came through.
fn way_out(service: &Service, what: &str) -> [u64; 3] {
    let output = service.run(&["export", "--file", "callbacks.ndjson"]);
    assert!(output.status.success(), "{what}: {output:?}");
    fs::rename(service.path("data/outbox"), service.path("outbox.damaged")).unwrap();
    let output = service.run(&["import", "--file", "callbacks.ndjson"]);
    assert!(output.status.success(), "{what}: {output:?}");
    counts(service)
}

/// Damages copies of a store in `times` places each.
fn damage(kill: bool, times: usize, seed: u64, harm: impl Fn(&mut Vec<u8>, usize)) {
    let whole = filled(kill);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut refused = 0;
    for _ in 0..times {
        let service = copy(&whole);
        let db = service.path("data/outbox/db");
        let mut bytes = fs::read(&db).unwrap();
        // The rest of the file is not written yet.
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let at = random.usize(..used);
        harm(&mut bytes, at);
        fs::write(&db, bytes).unwrap();
        let what = format!("byte {at} of {used}, killed: {kill}");
        if refused_or_whole(&service, &what) {
            refused += 1;
            let came_through = way_out(&service, &what);
            // Some may have come to another state: what is uncertain has failed.
            let [came, were] = [came_through, ALL].map(|all| all.iter().sum::<u64>());
            assert!(came <= were, "{what}: {came_through:?}");
        }
    }
    assert!(refused > 0, "none of {times} was noticed");
}

#[test]
fn a_flipped_bit_is_noticed_or_does_no_harm() {
    damage(true, 8, 1, |bytes, at| bytes[at] ^= 4);
    damage(false, 8, 2, |bytes, at| bytes[at] ^= 0x80);
}

#[test]
fn a_flipped_bit_at_the_very_end_of_a_store_that_was_closed_well_changes_nothing() {
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
fn a_zeroed_page_is_noticed_or_does_no_harm() {
    let zero = |bytes: &mut Vec<u8>, at: usize| {
        let page = at / 4096 * 4096;
        let end = (page + 4096).min(bytes.len());
        bytes[page..end].fill(0);
    };
    damage(true, 6, 3, zero);
    damage(false, 6, 4, zero);
}

#[test]
fn a_truncated_file_is_noticed() {
    damage(true, 6, 5, |bytes, at| bytes.truncate(at));
    damage(false, 6, 6, |bytes, at| bytes.truncate(at));
}

#[test]
fn one_flipped_bit_costs_hardly_a_callback() {
    let whole = filled(true);
    let service = copy(&whole);
    let db = service.path("data/outbox/db");
    let mut bytes = fs::read(&db).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 2] ^= 1;
    fs::write(&db, bytes).unwrap();
    assert!(refused_or_whole(&service, "the middle"));
    let came_through: u64 = way_out(&service, "the middle").iter().sum();
    assert!(came_through * 10 >= ALL.iter().sum::<u64>() * 9, "{came_through}");
}

#[test]
fn missing_files_are_noticed() {
    let whole = filled(false);
    let refused = |remove: &str, said: &str| {
        let service = copy(&whole);
        let path = service.path("data").join(remove);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let before = files(&service.path("data"));
        for command in ["inspect-queue", "serve"] {
            let output = service.run(&[command]);
            assert_eq!(output.status.code(), Some(1), "{remove}");
            assert!(text(&output.stderr).contains(said), "{remove}: {output:?}");
        }
        assert_eq!(files(&service.path("data")), before, "{remove}");
    };
    refused("outbox/db", "its file db is missing");
    refused("outbox", "its file db is missing");
    let snapshot = fs::read_dir(whole.path("data/outbox"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.starts_with("snap."))
        .unwrap();
    for harmless in ["outbox.witness", &format!("outbox/{snapshot}"), "outbox/conf"] {
        let service = copy(&whole);
        fs::remove_file(service.path("data").join(harmless)).unwrap();
        assert_eq!(counts(&service), ALL, "{harmless}");
    }
}

#[test]
fn foreign_empty_and_newer_files_are_refused_and_stay_as_they_are() {
    let whole = filled(false);
    for content in [vec![], b"not a store".to_vec(), vec![0; 5000], vec![0xff; 600_000]] {
        let service = copy(&whole);
        fs::write(service.path("data/outbox/db"), &content).unwrap();
        assert!(refused_or_whole(&service, &format!("{} bytes", content.len())));
        assert_eq!(fs::read(service.path("data/outbox/db")).unwrap(), content);
    }
    // Files that are not ours do not matter.
    let service = copy(&whole);
    fs::write(service.path("data/outbox/notes.txt"), "mine").unwrap();
    assert_eq!(counts(&service), ALL);
    assert_eq!(service.read("data/outbox/notes.txt"), "mine");

    let service = copy(&whole);
    {
        let db = sled::open(service.path("data/outbox")).unwrap();
        db.insert("mformat", &99_u32.to_be_bytes()).unwrap();
        db.flush().unwrap();
    }
    let output = service.run(&["inspect-queue"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("format 99"), "{output:?}");
}

#[test]
fn an_older_copy_of_the_store_is_refused_until_somebody_says_that_it_is_meant() {
    let mut service = filled(false);
    copy_folder(&service.path("data/outbox"), &service.path("older"));
    service.serve();
    service.api().accept(&event("job_sending", "new", "http://127.0.0.1:1/"));
    assert_eq!(service.terminate(), Some(0));
    fs::remove_dir_all(service.path("data/outbox")).unwrap();
    fs::rename(service.path("older"), service.path("data/outbox")).unwrap();
    let output = service.run(&["inspect-queue"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("writes are lost") && said.contains("outbox.witness"), "{said}");
    fs::remove_file(service.path("data/outbox.witness")).unwrap();
    assert_eq!(counts(&service), ALL);
}

/// Every callback of an export, by its id.
fn exported(service: &Service, file: &str) -> BTreeMap<String, Value> {
    let text = service.read(file);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["export"], "seal-dpf-urlcallback");
    assert_eq!(lines.last().unwrap()["end"], true);
    let callbacks = &lines[1..lines.len() - 1];
    callbacks.iter().map(|line| (line["id"].as_str().unwrap().to_owned(), line.clone())).collect()
}

#[test]
fn an_export_of_the_running_service_is_the_same_as_that_of_its_store_and_comes_back_whole() {
    let mut service = filled(false);
    let stopped = service.run(&["export", "--file", "stopped.ndjson"]);
    assert!(stopped.status.success(), "{stopped:?}");
    service.serve();
    assert!(service.run(&["export", "--file", "running.ndjson"]).status.success());
    let all = exported(&service, "stopped.ndjson");
    assert_eq!(all, exported(&service, "running.ndjson"));
    assert_eq!(all.len() as u64, ALL.iter().sum::<u64>());
    let left: Vec<_> = files(&service.path("data")).into_keys().collect();
    assert!(!left.iter().any(|path| path.to_string_lossy().contains("export-")), "{left:?}");

    let other = Service::prepare("");
    fs::copy(service.path("running.ndjson"), other.path("in.ndjson")).unwrap();
    let imported = other.run(&["import", "--file", "in.ndjson"]);
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(text(&imported.stdout), format!("imported {}\n", all.len()));
    assert!(other.run(&["export", "--file", "again.ndjson"]).status.success());
    assert_eq!(exported(&other, "again.ndjson"), all);
}

#[test]
fn what_was_imported_is_delivered_in_order_with_its_id_and_the_next_attempt() {
    let receiver = Receiver::answering(vec![Answer::Status(503)], Answer::Status(200));
    let mut service =
        Service::start("retry.initial_interval = \"1s\"\nretry.max_interval = \"1s\"");
    let api = service.api();
    let first = api.accept(&event("job_sending", "1", &receiver.url("/")));
    let mut finished = event("job_finished", "1", &receiver.url("/"));
    finished["eventId"] = "the end".into();
    let second = api.accept(&finished);
    receiver.wait_for(1);
    eventually("the attempt is recorded", || {
        (api.callback(&first)["attemptCount"] == 1).then_some(())
    });
    assert!(service.run(&["export", "--file", "out.ndjson"]).status.success());
    service.kill();

    let mut other =
        Service::prepare("retry.initial_interval = \"1s\"\nretry.max_interval = \"1s\"");
    fs::copy(service.path("out.ndjson"), other.path("in.ndjson")).unwrap();
    let before = receiver.count();
    assert!(other.run(&["import", "--file", "in.ndjson"]).status.success());
    other.serve();
    let api = other.api();
    let callback = api.wait_for_state(&second, "delivered");
    assert_eq!(callback["attempts"][0]["number"], 1);
    let puts = receiver.puts().split_off(before);
    let seen: Vec<_> =
        puts.iter().map(|put| (put.header("webhook-id"), put.header("callback-attempt"))).collect();
    assert_eq!(seen, [(first.as_str(), "2"), (second.as_str(), "1")]);
    let again = api.post("/v1/events", &finished);
    assert_eq!((again.status, again.json()["id"].as_str()), (200, Some(second.as_str())));
    let new = api.accept(&event("job_sending", "2", &receiver.url("/")));
    assert!(new > second, "ids go on: {new} after {second}");
}

#[test]
fn an_export_holds_whole_urls_and_is_closed_to_others_and_replaces_no_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let service = Service::prepare("");
    let url = format!("http://user:{}@127.0.0.1:1/", crate::support::PASSWORD);
    let line = event("job_sending", "1", &url).to_string();
    assert!(service.run_with_input(&["submit", "--file", "-"], line.as_bytes()).status.success());
    assert!(service.run(&["export", "--file", "out.ndjson"]).status.success());
    assert!(service.read("out.ndjson").contains(&url));
    let mode = fs::metadata(service.path("out.ndjson")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let output = service.run(&["export", "--file", "out.ndjson"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("out.ndjson"), "{output:?}");
    let piped = service.run(&["export"]);
    assert_eq!(text(&piped.stdout), service.read("out.ndjson"));
}

#[test]
fn an_import_takes_a_whole_export_or_nothing_and_goes_into_no_store_that_holds_something() {
    let whole = filled(false);
    assert!(whole.run(&["export", "--file", "out.ndjson"]).status.success());
    let export = whole.read("out.ndjson");
    let lines: Vec<_> = export.lines().collect();
    let import = |content: &str, more: &[&str]| {
        let service = Service::prepare("");
        fs::write(service.path("in.ndjson"), content).unwrap();
        let output = service.run(&[&["import", "--file", "in.ndjson"], more].concat());
        (service, output)
    };
    let cut = lines[..50].join("\n") + "\n";
    for (content, said) in [
        (cut.as_str(), "cut off after 49 callbacks"),
        ("", "line 1"),
        ("{\"export\":\"something\",\"version\":1,\"identity\":null}\n", "export of"),
        ("{\"export\":\"seal-dpf-urlcallback\",\"version\":2,\"identity\":null}\n", "version 2"),
        (&export.replacen("\"state\":\"pending\"", "\"state\":\"lost\"", 1), "line "),
    ] {
        let (service, output) = import(content, &[]);
        assert_eq!(output.status.code(), Some(1), "{said}: {output:?}");
        assert!(text(&output.stderr).contains(said), "{output:?}");
        assert!(!service.path("data/outbox").exists(), "{said}");
    }
    let (service, output) = import(&cut, &["--partial"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(counts(&service).iter().sum::<u64>(), 49);

    let output = whole.run(&["import", "--file", "out.ndjson"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("in the way"), "{output:?}");
    assert_eq!(counts(&whole), ALL);
}

#[test]
fn damage_that_looks_like_the_end_of_the_log_is_noticed() {
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

#[test]
fn a_copy_that_a_killed_start_has_left_of_another_store_does_not_touch_the_new_one() {
    let whole = filled(false);
    assert!(whole.run(&["export", "--file", "out.ndjson"]).status.success());
    fs::rename(whole.path("data/outbox"), whole.path("away")).unwrap();
    fs::create_dir_all(whole.path("data/outbox.before/blobs")).unwrap();
    fs::write(whole.path("data/outbox.before/segments"), "").unwrap();
    fs::write(whole.path("data/outbox.before/whole"), "10").unwrap();
    let output = whole.run(&["import", "--file", "out.ndjson"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(counts(&whole), ALL);
}
