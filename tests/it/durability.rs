//! Behaviour across restarts: at-least-once delivery, backoff, shutdown.

use std::net::TcpListener;

use crate::support::{Answer, Receiver, Service, event, eventually, unused_address};

#[test]
fn accepted_callbacks_and_attempt_counts_survive_sigkill() {
    let address = unused_address();
    let mut service = Service::start("");
    let id = service.api().accept(&event("job_sending", "1", &format!("http://{address}/")));
    let before = eventually("two attempts", || {
        let count = service.api().callback(&id)["attemptCount"].as_u64().unwrap();
        (count >= 2).then_some(count)
    });
    service.kill();
    let receiver =
        Receiver::listening(TcpListener::bind(address).unwrap(), vec![], Answer::Status(200));
    service.serve();
    let callback = service.api().wait_for_state(&id, "delivered");
    let attempt: u64 = receiver.puts()[0].header("callback-attempt").parse().unwrap();
    assert!(attempt > before, "attempt {attempt} after {before}");
    let attempts = callback["attempts"].as_array().unwrap();
    assert_eq!(attempts.len() as u64, attempt);
    assert_eq!(attempts[0]["error"]["kind"], "connect");
}

#[test]
fn a_restart_keeps_the_backoff() {
    let settings = "retry.initial_interval = \"1h\"\nretry.max_interval = \"1h\"";
    let mut service = Service::start(settings);
    let receiver = Receiver::answering(vec![Answer::Status(500)], Answer::Status(200));
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    let next = eventually("the first attempt is recorded", || {
        let callback = service.api().callback(&id);
        (callback["attemptCount"] == 1).then(|| callback["nextAttemptAt"].clone())
    });
    service.kill();
    service.serve();
    let other = service.api().accept(&event("job_sending", "2", &receiver.url("/")));
    service.api().wait_for_state(&other, "delivered");
    let callback = service.api().callback(&id);
    assert_eq!((&callback["nextAttemptAt"], callback["attemptCount"].as_u64()), (&next, Some(1)));
    assert_eq!(receiver.count(), 2);
}

#[test]
fn new_callbacks_are_sent_beside_many_waiting_ones_after_a_restart() {
    const WAITING: usize = 1_100;
    let mut service = Service::start(
        "breaker.failures = 0\nretry.initial_interval = \"1h\"\nretry.max_interval = \"1h\"",
    );
    let receiver = Receiver::answering(vec![Answer::Status(500); WAITING], Answer::Status(200));
    let lines: String = (0..WAITING)
        .map(|job| event("job_sending", &job.to_string(), &receiver.url("/")).to_string() + "\n")
        .collect();
    service.api().post_lines(&lines);
    receiver.wait_for(WAITING);
    eventually("all wait", || {
        let queue = service.api().queue();
        (queue["due"] == 0 && queue["inFlight"] == 0).then_some(())
    });
    assert_eq!(service.terminate(), Some(0));
    service.serve();
    let id = service.api().accept(&event("job_sending", "new", &receiver.url("/")));
    service.api().wait_for_state(&id, "delivered");
}

#[cfg(target_os = "linux")]
#[test]
fn a_kill_before_the_commit_of_an_outcome_repeats_nothing() {
    let receiver = Receiver::answering(vec![Answer::Wait], Answer::Status(200));
    let mut service = Service::prepare("");
    service.put_on_a_disk_that_can_fail();
    service.serve();
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    receiver.wait_for(1);
    service.fail_disk("pwrite STALL");
    receiver.open();
    eventually("the outcome is in the journal", || {
        let journal = std::fs::metadata(service.path("data/outbox.journal")).unwrap();
        (journal.len() > 0).then_some(())
    });
    service.kill();
    service.mend_disk();
    service.serve();
    let callback = service.api().wait_for_state(&id, "delivered");
    assert_eq!((receiver.count(), &callback["attemptCount"]), (1, &serde_json::json!(1)));
    let log = service.log();
    let line = log.iter().find(|line| line["event.action"] == "callback-delivered").unwrap();
    assert_eq!(line["callback.id"], id);
}

#[cfg(target_os = "linux")]
#[test]
fn outcomes_after_a_failed_commit_are_committed_at_the_next_start() {
    let receivers = [(); 2].map(|()| Receiver::answering(vec![Answer::Wait], Answer::Status(200)));
    let mut service = Service::prepare("");
    service.put_on_a_disk_that_can_fail();
    service.serve();
    let api = service.api();
    let accept = |receiver: &Receiver| {
        api.accept(&event("job_sending", &receiver.url(""), &receiver.url("/")))
    };
    let ids = receivers.each_ref().map(accept);
    receivers.iter().for_each(|receiver| drop(receiver.wait_for(1)));
    service.fail_disk("fdatasync EIO");
    let size = || std::fs::metadata(service.path("data/outbox.journal")).unwrap().len();
    receivers[0].open();
    eventually("the store has stopped", || (api.get("/healthz").status == 503).then_some(()));
    let first = size();
    receivers[1].open();
    eventually("the other outcome is noted as well", || (size() > first).then_some(()));
    service.kill();
    service.mend_disk();
    service.serve();
    ids.iter().for_each(|id| drop(service.api().wait_for_state(id, "delivered")));
    assert_eq!(receivers.each_ref().map(Receiver::count), [1, 1]);
}

#[test]
fn callbacks_in_flight_at_a_kill_are_repeated_with_the_same_id() {
    let mut service = Service::start("");
    let receiver = Receiver::answering(vec![Answer::Wait], Answer::Status(200));
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    receiver.wait_for(1);
    service.kill();
    service.serve();
    service.api().wait_for_state(&id, "delivered");
    let puts = receiver.wait_for(2);
    for put in &puts {
        assert_eq!((put.header("webhook-id"), put.header("callback-attempt")), (id.as_str(), "1"));
    }
}

#[test]
fn duplicates_are_recognized_after_a_restart() {
    let mut service = Service::start("");
    let receiver = Receiver::start();
    let mut event = event("job_sending", "1", &receiver.url("/"));
    event["eventId"] = "key".into();
    let id = service.api().accept(&event);
    service.api().wait_for_state(&id, "delivered");
    service.kill();
    service.serve();
    let again = service.api().post("/v1/events", &event);
    assert_eq!((again.status, &again.json()["outcome"]), (200, &"duplicate".into()));
    assert_eq!(again.json()["id"], id.as_str());
    assert_eq!(receiver.count(), 1);
}

#[test]
fn a_callback_shown_as_delivered_is_not_repeated_after_a_kill() {
    let mut service = Service::start("");
    let receiver = Receiver::start();
    for round in 1..=50 {
        let event = event("job_sending", &round.to_string(), &receiver.url("/"));
        let id = service.api().accept(&event);
        service.api().wait_for_state(&id, "delivered");
        service.kill();
        service.serve();
        // It is sent after the remaining earlier callbacks.
        let last = service.api().accept(&event);
        service.api().wait_for_state(&last, "delivered");
        assert_eq!(receiver.count(), 2 * round, "in round {round}");
    }
}

#[test]
fn sigterm_completes_attempts_and_exits_with_0() {
    let mut service = Service::start("");
    let receiver = Receiver::answering(vec![], Answer::Wait);
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    receiver.wait_for(1);
    let api = service.api();
    service.signal("TERM");
    eventually("it takes nothing new", || {
        let answer = api.request("GET", "/readyz", None, "", "");
        (answer.status == 503).then_some(())
    });
    let refused = api.post("/v1/events", &event("job_sending", "2", &receiver.url("/")));
    assert_eq!(refused.status, 503);
    assert_ne!(refused.header("retry-after"), "");
    receiver.open();
    assert_eq!(service.wait(), Some(0));
    let callback = service.json(&["inspect-queue", "--id", &id, "--output", "json"]);
    assert_eq!(callback["state"], "delivered");
}

#[test]
fn an_attempt_longer_than_the_grace_is_repeated() {
    let mut service = Service::start("shutdown_grace = \"50ms\"");
    let receiver = Receiver::answering(vec![], Answer::Wait);
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    receiver.wait_for(1);
    assert_eq!(service.terminate(), Some(0));
    let callback = service.json(&["inspect-queue", "--id", &id, "--output", "json"]);
    assert_eq!(
        (&callback["state"], callback["attemptCount"].as_u64()),
        (&"pending".into(), Some(0))
    );
}

#[test]
fn a_second_signal_exits_at_once() {
    let mut service = Service::start("shutdown_grace = \"1h\"");
    let receiver = Receiver::answering(vec![], Answer::Wait);
    service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    receiver.wait_for(1);
    let api = service.api();
    service.signal("TERM");
    eventually("it drains", || {
        (api.request("GET", "/readyz", None, "", "").status == 503).then_some(())
    });
    service.signal("TERM");
    assert_eq!(service.wait(), Some(1));
}

#[test]
fn sighup_reopens_the_log() {
    let service = Service::start("");
    // A separate thread writes the log.
    eventually("the log has its first line", || {
        service.read("service.log").contains("service-started").then_some(())
    });
    std::fs::rename(service.path("service.log"), service.path("old.log")).unwrap();
    service.signal("HUP");
    eventually("the new log has a line", || {
        service.read("service.log").contains("log-reopened").then_some(())
    });
    assert!(service.read("old.log").contains("service-started"));
}

#[test]
fn a_batch_of_a_hundred_thousand_events_is_delivered_once() {
    let service = Service::start("");
    let receiver = Receiver::start();
    let mut batch = String::new();
    for job in 0..100_000 {
        batch += &event("job_finished", &job.to_string(), &receiver.url("/")).to_string();
        batch.push('\n');
    }
    std::fs::write(service.path("events.ndjson"), batch).unwrap();
    let output = service.run(&["submit", "--file", "events.ndjson"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("100000 events, 100000 accepted"));
    // This many take some time on a slow machine; only progress matters.
    let mut delivered = 0;
    while delivered < 100_000 {
        delivered = eventually("more are delivered", || {
            let now = service.api().queue()["delivered"].as_u64().unwrap();
            (now > delivered).then_some(now)
        });
    }
    assert_eq!(service.api().queue()["pending"], 0);
    let mut ids: Vec<_> =
        receiver.puts().iter().map(|put| put.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 100_000);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 100_000);
    let logged = eventually("the log is complete", || {
        let log = service.read("service.log");
        let count = |action| log.matches(action).count();
        let counts = (count("\"callback-accepted\""), count("\"callback-delivered\""));
        (counts.1 >= 100_000).then_some(counts)
    });
    assert_eq!(logged, (100_000, 100_000));
}
