//! Several instances, one of which pulls.

use std::time::{Duration, Instant};

use super::{SLOW, check, numbered, state};
use crate::support::{Service, eventually, nats::Server, postgres};

/// Waits longer than [`eventually`].
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_mins(5);
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs PostgreSQL and nats-server: tests/run"]
fn another_instance_takes_over_from_a_killed_one() {
    puller_goes(Service::kill, |_| {});
}

#[test]
#[ignore = "needs PostgreSQL and nats-server: tests/run"]
fn another_instance_takes_over_from_a_frozen_one() {
    // When it continues, it holds messages that the other one has stored.
    let go_on = |service: &Service| {
        service.signal("CONT");
        until("it is on standby", || (state(service)["state"] == "standby").then_some(()));
    };
    puller_goes(|service| service.signal("STOP"), go_on);
}

fn puller_goes(goes: impl FnOnce(&mut Service), comes_back: impl FnOnce(&Service)) {
    const COUNT: usize = 3_000;
    let server = Server::start();
    server.prepare();
    let mut first = Service::prepare("");
    let schema = first.folder().file_name().unwrap().to_string_lossy().into_owned();
    let store = postgres::server().toml(&schema);
    let settings = format!("{store}{SLOW}{}", server.toml("batch = 50"));
    first.configure(&settings);
    first.serve();
    eventually("the first one pulls", || (state(&first)["state"] == "pulling").then_some(()));
    let mut second = Service::prepare(&settings);
    second.serve();
    let does = |service: &Service| state(service)["state"].as_str().unwrap_or_default().to_owned();
    // The second one takes half of the shards, and the first one keeps the first shard.
    let words = eventually("one pulls, and one is on standby", || {
        let mut words = [does(&first), does(&second)];
        words.sort();
        (words == ["pulling", "standby"]).then(|| [does(&first), does(&second)])
    });
    server.publish((0..COUNT).map(numbered));
    let before = server.left().0;
    eventually("it pulls", || (server.left().0 < before).then_some(()));
    let (puller, other) =
        if words[0] == "pulling" { (&mut first, &second) } else { (&mut second, &first) };
    goes(puller);
    until("the other one has taken all", || (server.left() == (0, 0)).then_some(()));
    assert_eq!(does(other), "pulling");
    comes_back(puller);
    check(other, COUNT);
}
