//! Several instances over one schema.

use std::{
    collections::{BTreeMap, HashMap},
    net::TcpListener,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::alone;
use crate::support::{Answer, Receiver, Service, event, eventually, postgres};

/// Waits longer than [`eventually`], for events with a long delay by design.
pub(super) fn within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// The number of shards of each instance.
pub(super) fn shards(schema: &str) -> BTreeMap<i32, i64> {
    shards_of(postgres::server(), schema)
}

fn shards_of(server: &postgres::Server, schema: &str) -> BTreeMap<i32, i64> {
    let sql = format!("SELECT owner, count(*) FROM \"{schema}\".shard WHERE NOT clean GROUP BY 1");
    server.run(async |client| {
        let rows = client.query(&sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    })
}

/// Waits until each of two instances owns half of the shards.
pub(super) fn halves(schema: &str) {
    halves_of(postgres::server(), schema);
}

/// The same on a server that only this test uses.
pub(super) fn halves_of(server: &postgres::Server, schema: &str) {
    within(Duration::from_mins(1), "each has its half", || {
        shards_of(server, schema).values().eq([32, 32].iter()).then_some(())
    });
}

/// Two running instances, each with half of the shards, and the schema.
pub(super) fn two() -> ([Service; 2], String) {
    // This is longer than a takeover takes.
    two_with("delivery.timeout = \"5m\"\n")
}

/// The same with these settings.
pub(super) fn two_with(more: &str) -> ([Service; 2], String) {
    let (mut first, settings) = alone();
    let settings = settings + more;
    first.configure(&settings);
    let schema = first.folder().file_name().unwrap().to_string_lossy().into_owned();
    first.serve();
    let mut second = Service::prepare(&settings);
    second.serve();
    halves(&schema);
    ([first, second], schema)
}

/// The jobs that receivers have received, each with its states in order.
pub(super) fn seen(receivers: &[Receiver]) -> HashMap<String, Vec<String>> {
    let mut puts: Vec<_> = receivers.iter().flat_map(Receiver::puts).collect();
    puts.sort_by_key(|put| put.at);
    let mut jobs = HashMap::<String, Vec<String>>::new();
    for put in puts {
        let job = put.json()["jobId"].as_str().unwrap().to_owned();
        jobs.entry(job).or_default().push(put.job_state());
    }
    jobs
}

const RECEIVERS: usize = 12;

pub(super) fn receivers() -> Vec<Receiver> {
    (0..RECEIVERS).map(|_| Receiver::start()).collect()
}

/// Submits both events of jobs for all receivers, to both instances alternately.
pub(super) fn hand_in(services: &[Service], receivers: &[Receiver], jobs: std::ops::Range<usize>) {
    for job in jobs {
        let url = receivers[job % receivers.len()].url("/");
        let sending = event("job_sending", &job.to_string(), &url);
        services[job % services.len()].api().accept(&sending);
        let finished = event("job_finished", &job.to_string(), &url);
        services[(job + 1) % services.len()].api().accept(&finished);
    }
}

/// Asserts that the callbacks of both instances arrive in order, long before all queues would be read again.
pub(super) fn assert_found_by_polling(services: &[Service]) {
    let receivers = receivers();
    let began = Instant::now();
    hand_in(services, &receivers, 0..24);
    eventually("everything has arrived", || {
        (receivers.iter().map(Receiver::count).sum::<usize>() >= 48).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    assert!(seen(&receivers).values().all(|states| states == &["SENDING", "FINISHED"]));
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn instances_share_the_destinations_and_keep_each_jobs_order() {
    let (services, _) = two();
    let receivers = receivers();
    hand_in(&services, &receivers, 0..48);
    eventually("everything has arrived", || {
        (receivers.iter().map(Receiver::count).sum::<usize>() >= 96).then_some(())
    });
    for (job, states) in seen(&receivers) {
        assert_eq!(states, ["SENDING", "FINISHED"], "of job {job}");
    }
    // Both have delivered.
    for service in &services {
        let delivered = service
            .log()
            .iter()
            .filter(|line| line["event.action"] == "callback-delivered")
            .count();
        assert!(delivered > 0);
    }
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn an_operator_acts_at_any_instance() {
    let ([mut first, mut second], _) = two();
    let receivers: Vec<_> =
        (0..6).map(|_| Receiver::answering(Vec::new(), Answer::Status(410))).collect();
    let all: Vec<_> = receivers
        .iter()
        .enumerate()
        .map(|(job, receiver)| {
            let id =
                first.api().accept(&event("job_sending", &job.to_string(), &receiver.url("/")));
            first.api().wait_for_state(&id, "failed");
            id
        })
        .collect();
    // Destinations of both instances.
    for service in [&first, &second] {
        let before: usize = receivers.iter().map(Receiver::count).sum();
        let replayed = service.run(&["replay-failed", "--all"]);
        assert!(replayed.status.success(), "{replayed:?}");
        eventually("all were sent again", || {
            (receivers.iter().map(Receiver::count).sum::<usize>() == before + 6).then_some(())
        });
        all.iter().for_each(|id| drop(service.api().wait_for_state(id, "failed")));
    }
    for (receiver, service) in receivers.iter().zip([&first, &second].into_iter().cycle()) {
        let destination = receiver.url("");
        let paused = service.run(&["pause", "--destination", &destination]);
        assert!(paused.status.success(), "{paused:?}");
        let count = receiver.count();
        let id = service.api().accept(&event("job_sending", "paused", &receiver.url("/")));
        let cancelled = service.run(&["cancel", "--id", &id]);
        assert!(cancelled.status.success(), "{cancelled:?}");
        assert_eq!(second.api().callback(&id)["lastError"]["kind"], "cancelled");
        assert_eq!(receiver.count(), count);
        let resumed = service.run(&["resume", "--destination", &destination]);
        assert!(resumed.status.success(), "{resumed:?}");
    }
    assert_eq!((first.terminate(), second.terminate()), (Some(0), Some(0)));
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_killed_instance_is_replaced_and_nothing_is_lost() {
    let ([first, mut second], schema) = two();
    let services = [first];
    let receivers = receivers();
    hand_in(&services, &receivers, 0..24);
    second.kill();
    let killed = Instant::now();
    hand_in(&services, &receivers, 24..48);
    within(Duration::from_mins(1), "the other has all shards", || {
        (shards(&schema).values().copied().max() == Some(64)).then_some(())
    });
    let took = killed.elapsed();
    assert!(took > Duration::from_secs(19), "an old owner may still send after {took:?}");
    eventually("everything has arrived", || {
        let seen = seen(&receivers);
        let ended = seen.values().filter(|states| states.contains(&"FINISHED".to_owned())).count();
        (ended == 48).then_some(())
    });
    for (job, mut states) in seen(&receivers) {
        // Callbacks that were in flight in the killed instance may be repeated.
        states.dedup();
        assert_eq!(states, ["SENDING", "FINISHED"], "of job {job}");
    }
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_restart_on_the_same_data_directory_takes_its_shards_back_at_once() {
    let ([first, mut second], schema) = two();
    second.kill();
    second.serve();
    let (services, receivers) = ([first, second], receivers());
    hand_in(&services, &receivers, 0..24);
    eventually("everything has arrived", || {
        (receivers.iter().map(Receiver::count).sum::<usize>() >= 48).then_some(())
    });
    assert!(shards(&schema).values().eq([32, 32].iter()));
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_frozen_instance_is_replaced_and_records_nothing_afterwards() {
    let ([first, second], schema) = two();
    let slow: Vec<_> =
        (0..RECEIVERS).map(|_| Receiver::answering(Vec::new(), Answer::Wait)).collect();
    let ids: Vec<_> = slow
        .iter()
        .enumerate()
        .map(|(job, receiver)| {
            first.api().accept(&event("job_sending", &job.to_string(), &receiver.url("/")))
        })
        .collect();
    slow.iter().for_each(|receiver| drop(receiver.wait_for(1)));
    second.signal("STOP");
    within(Duration::from_mins(2), "the other has all shards", || {
        (shards(&schema).values().copied().max() == Some(64)).then_some(())
    });
    second.signal("CONT");
    slow.iter().for_each(Receiver::open);
    for id in &ids {
        let callback: Value = within(Duration::from_mins(1), "it is delivered", || {
            Some(first.api().callback(id)).filter(|it| it["state"] == "delivered")
        });
        assert_eq!(callback["attemptCount"], 1, "no outcome of the frozen one counts");
    }
    // At most twice: once by each instance.
    assert!(slow.iter().all(|receiver| receiver.count() <= 2));
    halves(&schema);
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_stop_releases_the_shards_in_order() {
    let ([first, mut second], schema) = two();
    assert_eq!(second.terminate(), Some(0));
    within(Duration::from_secs(15), "the other has all shards without a wait", || {
        (shards(&schema).values().copied().max() == Some(64)).then_some(())
    });
    drop(first);
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn open_breakers_are_shown_at_every_instance_and_handed_over() {
    let ([first, mut second], schema) =
        two_with("breaker.failures = 2\nbreaker.initial_pause = \"5m\"\n");
    let dead: Vec<_> =
        (0..8).map(|_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()).collect();
    for (job, address) in dead.iter().enumerate() {
        for event_of in ["job_sending", "job_finished"] {
            first.api().accept(&event(event_of, &job.to_string(), &format!("http://{address}/")));
        }
    }
    let open = || -> BTreeMap<String, Value> {
        let page = first.api().get("/v1/destinations").json();
        let all = page["destinations"].as_array().unwrap().clone();
        let open = all.into_iter().filter(|it| !it["openSince"].is_null());
        open.map(|it| (it["destination"].as_str().unwrap().to_owned(), it["openSince"].clone()))
            .collect()
    };
    let before = within(Duration::from_mins(1), "all are down, at either", || {
        Some(open()).filter(|open| open.len() == dead.len())
    });
    let attempts = second.log().iter().filter(|it| it["event.action"] == "callback-retry").count();
    assert!(attempts > 0, "the second one has none of the destinations");
    let sent = || first.log().iter().filter(|it| it["event.action"] == "callback-retry").count();
    let sent_before = sent();
    assert_eq!(second.terminate(), Some(0));
    within(Duration::from_secs(15), "the first has all shards", || {
        (shards(&schema).values().copied().max() == Some(64)).then_some(())
    });
    // It does not learn this from its own attempts.
    let page = first.api().queue();
    assert_eq!(page["instances"].as_array().unwrap().len(), 2, "{page}");
    assert_eq!(open(), before);
    assert_eq!(sent(), sent_before, "it has tried what was known to be down");
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn instances_are_listed_and_removed_a_month_after_they_left() {
    let ([mut first, mut second], schema) = two();
    let listed = |service: &Service| service.api().queue()["instances"].as_array().unwrap().clone();
    let instances = listed(&first);
    let of = |it: &Value| (it["self"] == true, it["alive"] == true, it["shards"].clone());
    let mut found: Vec<_> = instances.iter().map(of).collect();
    found.sort_by_key(|it| it.0);
    assert_eq!(found, [(false, true, 32.into()), (true, true, 32.into())], "{instances:?}");
    let said = String::from_utf8(first.run(&["status"]).stdout).unwrap();
    assert_eq!(said.matches("32 shards").count(), 2, "{said}");
    let metrics = String::from_utf8(first.api().get("/metrics").body).unwrap();
    for line in [
        "urlcallback_instances 2",
        "urlcallback_shards 32",
        "urlcallback_shards_lost_total 0",
        "urlcallback_shards_taken_over_total 0",
        "urlcallback_outcomes_refused_total 0",
        "# TYPE urlcallback_database_round_trip_seconds histogram",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} in {metrics}");
    }
    let page = String::from_utf8(crate::page::view(&first.api(), "/ui/").body).unwrap();
    assert!(page.contains("Instances") && page.contains("(this one)"), "{page}");
    // A destination without callbacks is removed too, and a paused one is kept.
    let receiver = Receiver::start();
    let delivered = second.api().accept(&event("job_sending", "1", &receiver.url("/")));
    second.api().wait_for_state(&delivered, "delivered");
    assert!(second.run(&["pause", "--destination", "http://paused.example"]).status.success());
    assert_eq!(second.terminate(), Some(0));
    let old = format!(
        "UPDATE \"{schema}\".instance SET seen_at = 0 WHERE id NOT IN (SELECT owner FROM \"{schema}\".shard \
         WHERE NOT clean); DELETE FROM \"{schema}\".progress; DELETE FROM \"{schema}\".callback"
    );
    within(Duration::from_secs(15), "the first has all shards", || {
        (shards(&schema).values().copied().max() == Some(64)).then_some(())
    });
    postgres::server().run(async |client| client.batch_execute(&old).await.unwrap());
    assert_eq!(first.terminate(), Some(0));
    first.serve();
    assert_eq!(listed(&first).len(), 1);
    let rows = format!(
        "SELECT (SELECT count(*) FROM \"{schema}\".instance), (SELECT string_agg(name, ' ') FROM \"{schema}\".destination), \
         (SELECT count(*) FROM \"{schema}\".tally)"
    );
    let expected = (1, "http://paused.example:80".to_owned(), 0);
    within(Duration::from_mins(1), "what is not used is forgotten", || {
        let left = postgres::server().run(async |client| {
            let row = client.query_one(&rows, &[]).await.unwrap();
            (row.get::<_, i64>(0), row.get::<_, String>(1), row.get::<_, i64>(2))
        });
        (left == expected).then_some(())
    });
    // The totals are kept.
    assert_eq!(first.api().queue()["delivered"], 1);
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_copied_data_directory_is_refused() {
    let (mut first, settings) = alone();
    first.serve();
    let copy = Service::prepare(&settings);
    std::fs::create_dir(copy.path("data")).unwrap();
    std::fs::copy(first.path("data/node"), copy.path("data/node")).unwrap();
    let served = copy.run(&["serve"]);
    let said = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(said.contains("remove its file `node`"), "{said}");
}
