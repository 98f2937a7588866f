//! The service over PostgreSQL, as a single instance and as a fleet, with a real server.

mod fleet;
mod network;
mod notices;
mod outage;
mod soak;
mod standby;
mod unusable;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{Answer, Receiver, Service, event, eventually, postgres};

/// A service over a new schema. Other instances may join it.
fn alone() -> (Service, String) {
    let folder = Service::prepare("");
    let schema = folder.folder().file_name().unwrap().to_string_lossy().into_owned();
    let settings = postgres::server().toml(&schema);
    folder.configure(&settings);
    (folder, settings)
}

/// Every callback of an export by its id, and the rest of the first line.
fn exported(service: &Service, file: &str) -> BTreeMap<String, Value> {
    let output = service.run(&["export", "--file", file]);
    assert!(output.status.success(), "{output:?}");
    let text = service.read(file);
    let callbacks = text.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        Some((line["id"].as_str()?.to_owned(), line))
    });
    callbacks.collect()
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_service_delivers_and_commands_work_with_and_without_it() {
    let (mut service, _) = alone();
    service.serve();
    let receiver =
        Receiver::answering(vec![Answer::Status(200), Answer::Status(410)], Answer::Status(200));
    let api = service.api();
    let delivered = api.accept(&event("job_sending", "1", &receiver.url("/")));
    api.wait_for_state(&delivered, "delivered");
    let failed = api.accept(&event("job_sending", "2", &receiver.url("/")));
    api.wait_for_state(&failed, "failed");
    assert_eq!(api.queue()["failed"], 1);
    assert_eq!(service.terminate(), Some(0));
    let page = service.json(&["inspect-queue", "--state", "failed", "--output", "json"]);
    assert_eq!(page["callbacks"][0]["id"], failed.as_str(), "{page}");
    let replayed = service.run(&["replay-failed", "--all"]);
    assert!(replayed.status.success(), "{replayed:?}");
    service.serve();
    service.api().wait_for_state(&failed, "delivered");
    assert_eq!(receiver.count(), 3);
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn callbacks_move_to_postgres_and_back() {
    let mut machine =
        Service::start("retry.initial_interval = \"1h\"\nretry.max_interval = \"1h\"\n");
    let receiver = Receiver::answering(
        vec![Answer::Status(200), Answer::Status(410), Answer::Status(503)],
        Answer::Status(503),
    );
    let api = machine.api();
    for (job, state) in [("done", "delivered"), ("gone", "failed")] {
        let id = api.accept(&event("job_sending", job, &receiver.url("/")));
        api.wait_for_state(&id, state);
    }
    let waits = api.accept(&event("job_sending", "waits", &receiver.url("/")));
    let behind = api.accept(&event("job_finished", "waits", &receiver.url("/")));
    receiver.wait_for(3);
    eventually("the retry is planned", || {
        (api.callback(&waits)["attemptCount"] == 1).then_some(())
    });
    assert_eq!(machine.terminate(), Some(0));
    let before = exported(&machine, "machine.ndjson");
    assert_eq!(before.len(), 4);

    let (mut fleet, _) = alone();
    std::fs::copy(machine.path("machine.ndjson"), fleet.path("machine.ndjson")).unwrap();
    let imported = fleet.run(&["import", "--file", "machine.ndjson"]);
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(exported(&fleet, "fleet.ndjson"), before);
    let again = fleet.run(&["import", "--file", "machine.ndjson"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("holds callbacks already"), "{said}");

    // Delivery continues there: first the retry of the job's first callback, then the next one.
    fleet.serve();
    let api = fleet.api();
    assert_eq!(api.callback(&behind)["waitingFor"], waits.as_str());
    let receiver_now = receiver.count();
    let retried = fleet.run(&["retry-now", "--id", &waits]);
    assert!(retried.status.success(), "{retried:?}");
    receiver.wait_for(receiver_now + 1);
    assert_eq!(fleet.terminate(), Some(0));

    let fleet_has = exported(&fleet, "back.ndjson");
    let other = Service::prepare("");
    std::fs::copy(fleet.path("back.ndjson"), other.path("back.ndjson")).unwrap();
    let imported = other.run(&["import", "--file", "back.ndjson"]);
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(exported(&other, "other.ndjson"), fleet_has);
}
