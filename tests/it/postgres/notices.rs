//! Notices of failures with several instances.

use std::{collections::BTreeSet, time::Duration};

use super::fleet::{two_with, within};
use crate::support::{Answer, Put, Receiver, event, eventually};

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn failures_of_a_killed_instance_are_reported_by_another_one() {
    const COUNT: usize = 40;
    let told = Receiver::start();
    let gone: Vec<_> =
        (0..COUNT).map(|_| Receiver::answering(vec![], Answer::Status(410))).collect();
    let settings = format!("notify.url = \"{}\"\nnotify.window = \"20s\"\n", told.url("/"));
    let ([mut first, second], _) = two_with(&settings);
    let api = second.api();
    for (job, receiver) in gone.iter().enumerate() {
        api.accept(&event("job_sending", &job.to_string(), &receiver.url("/")));
    }
    // About half of them have failed at each instance, and each instance has its own windows.
    eventually("all have failed", || (api.queue()["failed"] == COUNT).then_some(()));
    first.kill();
    let about = |puts: &[Put]| -> BTreeSet<String> {
        puts.iter().map(|put| put.json()["destination"].as_str().unwrap().to_owned()).collect()
    };
    let puts = within(Duration::from_mins(4), "all are told", || {
        Some(told.puts()).filter(|puts| about(puts).len() == COUNT)
    });
    assert_eq!(puts.len(), COUNT, "none is told twice");
    let latest = puts.iter().map(|put| put.at).max().unwrap();
    let earliest = puts.iter().map(|put| put.at).min().unwrap();
    assert!(latest - earliest > Duration::from_secs(30), "the first instance had no windows");
}
