//! Job events from NATS. The server is a real one.

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

/// A destination at which nobody listens.
const NOWHERE: &str = "http://127.0.0.1:1/";

/// Attempts are few, so that the store has the machine.
const SLOW: &str = "[retry]\ninitial_interval = \"1h\"\nmax_interval = \"1h\"\n";

/// The `n`th event, of one of ten jobs.
fn numbered(n: usize) -> String {
    let mut event = event("job_sending", &format!("job{}", n % 10), NOWHERE);
    event["jobIdFs"] = format!("{n:06}").into();
    event.to_string()
}

/// What is stored: for each job, the numbers of its events in the order of their acceptance.
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

/// Checks that the events up to `count` are stored, each once, and those of a job in their order.
fn check(service: &Service, count: usize) {
    let jobs = stored(service);
    assert_eq!(jobs.values().map(Vec::len).sum::<usize>(), count, "as many as there were");
    for (job, numbers) in jobs {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{job}: {numbers:?}");
    }
}

/// What `/readyz` says about the source.
fn state(service: &Service) -> Value {
    service.api().get("/readyz").json()["nats"].clone()
}

/// Waits until the source does this, for a reason that contains these words.
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
