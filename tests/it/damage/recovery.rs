//! Recovery from a damaged store, which is also the backup procedure: export and import.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use super::{ALL, copy, copy_folder, counts, files, filled, text};
use crate::support::{Answer, Receiver, Service, event, eventually};

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
fn exports_of_service_and_store_are_equal_and_import_completely() {
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
fn damage_in_old_segments_is_detected_when_they_are_read() {
    const MANY: usize = 6_000;
    let receiver = Receiver::start();
    let mut whole = Service::start("");
    let lines: String = (0..MANY)
        .map(|job| event("job_sending", &job.to_string(), &receiver.url("/")).to_string() + "\n")
        .collect();
    whole.api().post_lines(&lines);
    eventually("all are delivered", || (whole.api().queue()["delivered"] == MANY).then_some(()));
    for _ in 0..2 {
        assert_eq!(whole.terminate(), Some(0));
        whole.serve();
    }
    whole.kill();
    // One flipped bit in each half of each segment, except the last one, which is always checked.
    let service = copy(&whole);
    let db = service.path("data/outbox/db");
    let mut bytes = fs::read(&db).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for at in (100_000..used - 524_288).step_by(262_144) {
        bytes[at] ^= 1;
    }
    fs::write(&db, bytes).unwrap();
    let output = service.run(&["export", "--file", "out.ndjson"]);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    // Immediately, or when these callbacks are read.
    let met = ["is damaged", "reading what is left from its log"];
    assert!(met.iter().any(|it| said.contains(it)), "{said}");
    assert!(!said.contains(" 0 more cannot be read, and 0 places"), "{said}");
    let callbacks = exported(&service, "out.ndjson");
    assert!(callbacks.len() * 10 >= MANY * 8, "{} of {MANY}: {said}", callbacks.len());
}

#[test]
fn imported_callbacks_are_delivered_in_order_with_their_ids() {
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
    assert!(new > second, "ids continue: {new} after {second}");
}

#[cfg(unix)]
#[test]
fn an_export_has_whole_urls_and_is_private() {
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
fn an_import_is_complete_or_refused() {
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
    let torn = cut.clone() + &lines[50][..lines[50].len() / 2];
    for (content, said) in [
        (cut.as_str(), "truncated after 49 callbacks"),
        (torn.as_str(), "truncated after 49 callbacks"),
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
    for cut in [&cut, &torn] {
        let (service, output) = import(cut, &["--partial"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(counts(&service).iter().sum::<u64>(), 49);
    }

    let output = whole.run(&["import", "--file", "out.ndjson"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("in the way"), "{output:?}");
    assert_eq!(counts(&whole), ALL);
}

#[test]
fn ids_are_unique_after_an_older_state_is_restored() {
    let mut service = Service::start("");
    let receiver = Receiver::start();
    let deliver = |service: &Service, job: &str| {
        let id = service.api().accept(&event("job_sending", job, &receiver.url("/")));
        service.api().wait_for_state(&id, "delivered");
        id
    };
    deliver(&service, "1");
    assert_eq!(service.terminate(), Some(0));
    assert!(service.run(&["export", "--file", "out.ndjson"]).status.success());
    copy_folder(&service.path("data/outbox"), &service.path("older"));
    let mut latest = String::new();
    for import in [true, false, true] {
        service.serve();
        let id = deliver(&service, "2");
        assert!(id > latest, "{id} after {latest}");
        latest = id;
        assert_eq!(service.terminate(), Some(0));
        fs::remove_dir_all(service.path("data/outbox")).unwrap();
        if import {
            let output = service.run(&["import", "--file", "out.ndjson"]);
            assert!(output.status.success(), "{output:?}");
        } else {
            fs::remove_file(service.path("data/outbox.witness")).unwrap();
            copy_folder(&service.path("older"), &service.path("data/outbox"));
        }
    }
}

#[test]
fn an_export_leaves_the_store_its_free_space() {
    let service = Service::start("outbox.min_free_bytes = 1000000000000000");
    let output = service.run(&["export", "--file", "out.ndjson"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("outbox.min_free_bytes"), "{output:?}");
    let left = fs::read_dir(service.path("data")).unwrap();
    let left = left.filter(|it| it.as_ref().unwrap().path().extension() == Some("ndjson".as_ref()));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_left_backup_is_not_put_over_a_restored_store() {
    let older = filled(false);
    fs::create_dir_all(older.path("data/outbox.before/blobs")).unwrap();
    fs::write(older.path("data/outbox.before/segments"), "").unwrap();
    fs::write(older.path("data/outbox.before/whole"), "10").unwrap();
    // As documented for an intentional restore.
    let (witness, copied) =
        (older.path("data/outbox.witness"), "data/outbox.before/outbox.witness");
    fs::rename(witness, older.path(copied)).unwrap();
    assert_eq!(counts(&older), ALL);
    assert!(!older.path("data/outbox.before").exists());
}

#[test]
fn a_left_backup_is_not_put_over_a_new_store() {
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
