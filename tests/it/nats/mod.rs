//! Job events from NATS, with a real server.

mod access;
mod cluster;
mod events;
mod faults;
mod fleet;
mod jwt;
mod outcomes;
mod settings;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{Service, event, nats::Server};

/// A destination on which nothing listens.
const NOWHERE: &str = "http://127.0.0.1:1/";

/// There are few attempts, so that the store gets the processor time.
const SLOW: &str = "[retry]\ninitial_interval = \"1h\"\nmax_interval = \"1h\"\n";

/// The `n`th event, of one of ten jobs.
fn numbered(n: usize) -> String {
    let mut event = event("job_sending", &format!("job{}", n % 10), NOWHERE);
    event["jobIdFs"] = format!("{n:06}").into();
    event.to_string()
}

/// The numbers of the stored events of each job, in order of acceptance.
fn stored(service: &Service) -> BTreeMap<String, Vec<String>> {
    drop(std::fs::remove_file(service.path("all.ndjson")));
    let output = service.run(&["export", "--file", "all.ndjson"]);
    assert!(output.status.success(), "{output:?}");
    let text = service.read("all.ndjson");
    let mut all: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["id"].is_string())
        .collect();
    all.sort_by_key(|line| line["id"].as_str().unwrap().to_owned());
    let mut jobs: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in all {
        let text = |name: &str| line["body"][name].as_str().unwrap().to_owned();
        jobs.entry(text("jobId")).or_default().push(text("jobIdFs"));
    }
    jobs
}

/// Asserts that the events up to `count` are stored once, and those of each job in order.
fn check(service: &Service, count: usize) {
    let jobs = stored(service);
    assert_eq!(jobs.values().map(Vec::len).sum::<usize>(), count, "as many as there were");
    for (job, numbers) in jobs {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{job}: {numbers:?}");
    }
}

/// The state of the source in `/readyz`.
fn state(service: &Service) -> Value {
    service.api().get("/readyz").json()["nats"].clone()
}

/// Waits until the source is in this state, with a reason that contains this text.
fn wait_for(service: &Service, word: &str, says: &str) {
    crate::support::eventually(&format!("{word}: {says}"), || {
        let state = state(service);
        let reason = state["reason"].as_str().unwrap_or_default();
        (state["state"] == word && reason.contains(says)).then_some(())
    });
}

/// A service that pulls from this server.
fn pulling(server: &Server, more: &str) -> Service {
    let service = Service::start(&format!("{SLOW}{}", server.toml(more)));
    wait_for(&service, "pulling", "");
    service
}
