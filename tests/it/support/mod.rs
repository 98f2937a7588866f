//! Building blocks of tests: services, receivers, and waiting with a deadline.

mod api;
mod command;
#[cfg(target_os = "linux")]
mod disk;
pub(crate) mod ecs;
mod forwarder;
pub(crate) mod nats;
mod ports;
pub(crate) mod postgres;
mod preload;
mod process;
mod python;
mod raw;
mod receiver;
mod service;
#[cfg(unix)]
mod terminal;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub(crate) use api::{Api, Response};
pub(crate) use command::{binary, run, run_in};
pub(crate) use forwarder::Forwarder;
pub(crate) use ports::unused_address;
pub(crate) use preload::preloaded;
pub(crate) use python::python;
pub(crate) use raw::{RawReceiver, read_request};
pub(crate) use receiver::{Answer, Put, Receiver};
pub(crate) use service::Service;
#[cfg(unix)]
pub(crate) use terminal::Terminal;

/// How long a test waits for something to happen. Long, because machines may be shared; a wait ends as
/// soon as it happens.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// Interval of polling.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// The password in all tests: all output of a service is searched for it.
pub(crate) const PASSWORD: &str = "nobody-may-see-this";

/// Polls until the result is `Some`; panics at the deadline.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::park_timeout(PAUSE);
    }
}

/// A number from the environment, to run a test longer or with the same seed.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// A job event in JSON that requests a callback to `url`.
pub(crate) fn event(event: &str, job: &str, url: &str) -> serde_json::Value {
    let mut value = serde_json::json!({
        "event": event, "jobId": job, "jobIdFs": format!("fs-{job}"),
        "parameters": {"DpfControlCallbackUrl": url},
    });
    if event == "job_finished" {
        value["exitStatus"] = "OK".into();
    }
    value
}

/// Every command that `--help` lists.
pub(crate) fn commands() -> Vec<String> {
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    let list = help.split_once("Commands:\n").unwrap().1.split("\n\n").next().unwrap();
    let names = list.lines().filter_map(|line| line.strip_prefix("  "));
    let names =
        names.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next());
    let names: Vec<_> = names.filter(|name| *name != "help").map(str::to_owned).collect();
    assert!(names.iter().any(|name| name == "export"), "{help}");
    names
}

/// The path of a store within a temporary folder, because there are files next to it.
pub(crate) struct StoreFolder {
    path: PathBuf,
    _parent: TempDir,
}

impl StoreFolder {
    pub(crate) fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        Self { path: parent.path().join("outbox"), _parent: parent }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
