//! The delivery loop between attempts: it sleeps, keeps useful connections, and does not call open
//! destinations.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{Answer, Receiver, Service, event, eventually};

/// Processor time of a process so far.
fn worked(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name of the program, which may contain blanks, ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let hundredths = fields.split(' ').skip(11).take(2).map(|it| it.parse::<u64>().unwrap());
    Duration::from_millis(hundredths.sum::<u64>() * 10)
}

#[test]
fn a_service_that_waits_uses_almost_no_processor_time() {
    const WHILE: Duration = Duration::from_secs(1);
    let receiver = Receiver::answering(
        vec![Answer::With(503, vec![("retry-after", "3600".into())])],
        Answer::Status(200),
    );
    let service = Service::start("");
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    // First it waits for the time of the next attempt, then for any event.
    for (attempts, state) in [(1, "pending"), (2, "delivered")] {
        eventually("an attempt", || (api.callback(&id)["attemptCount"] == attempts).then_some(()));
        let (begin, before) = (Instant::now(), worked(service.pid()));
        eventually("a while", || (begin.elapsed() > WHILE).then_some(()));
        let worked = worked(service.pid()).saturating_sub(before);
        assert!(worked < WHILE / 10, "{worked:?} while it is {state}");
        assert_eq!(api.callback(&id)["state"], state);
        api.post("/v1/callbacks/retry-now", &json!({"filter": {"all": true}}));
    }
}

#[test]
fn connections_are_kept_only_to_destinations_that_answer() {
    const KEPT: usize = 256;
    let service = Service::start("retry.max_attempts = 1");
    let api = service.api();
    // Each address of the loopback network is a destination.
    let send = |port: u16, first: usize, count: usize| {
        let url = |n| format!("http://127.0.{}.{}:{port}/", n / 250, n % 250 + 1);
        let lines = (first..first + count)
            .map(|n| event("job_sending", &format!("{port}-{n}"), &url(n)).to_string() + "\n");
        api.post_lines(&lines.collect::<String>());
        eventually("all have ended", || (api.queue()["pending"] == 0).then_some(()));
    };
    send(1, 0, KEPT + 10);
    let everywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let receiver = Receiver::listening(everywhere, vec![], Answer::Status(200));
    send(receiver.address.port(), 0, KEPT);
    send(receiver.address.port(), KEPT, 1);
    let puts = receiver.puts();
    let closed = puts.iter().map(|put| put.header("connection") == "close");
    let closed: Vec<_> = closed.collect();
    assert_eq!(closed, [&[false; KEPT][..], &[true]].concat());
}

#[test]
fn an_open_destination_is_not_probed_during_its_pause() {
    let pause = "breaker.initial_pause = \"1h\"\nbreaker.max_pause = \"1h\"";
    let service = Service::start(&format!("breaker.failures = 1\n{pause}"));
    let (api, good) = (service.api(), Receiver::start());
    let id = api.accept(&event("job_sending", "0", "http://127.0.0.1:1/"));
    eventually("it is open", || (api.queue()["destinations"][0]["open"] == true).then_some(()));
    let begin = Instant::now();
    // Longer than its callback waits for the next attempt.
    for job in 1.. {
        let other = api.accept(&event("job_sending", &job.to_string(), &good.url("/")));
        api.wait_for_state(&other, "delivered");
        if job > 20 && begin.elapsed() > Duration::from_millis(500) {
            break;
        }
    }
    assert_eq!(api.callback(&id)["attemptCount"], 1);
}

#[test]
fn an_open_destination_stays_open_while_it_has_no_callbacks() {
    let pause = "breaker.initial_pause = \"1h\"\nbreaker.max_pause = \"1h\"";
    let service = Service::start(&format!("breaker.failures = 1\n{pause}"));
    let (api, good) = (service.api(), Receiver::start());
    // A failure of the destination that ends the callback.
    let failing = Receiver::answering(vec![Answer::Status(501)], Answer::Status(200));
    let first = api.accept(&event("job_sending", "1", &failing.url("/")));
    api.wait_for_state(&first, "failed");
    let deliver_others = |of: &str| {
        for job in 0..5 {
            let other = api.accept(&event("job_sending", &format!("{of}{job}"), &good.url("/")));
            api.wait_for_state(&other, "delivered");
        }
    };
    deliver_others("before");
    let second = api.accept(&event("job_sending", "2", &failing.url("/")));
    deliver_others("after");
    assert_eq!(failing.count(), 1);
    api.post("/v1/callbacks/retry-now", &json!({"filter": {"all": true}}));
    api.wait_for_state(&second, "delivered");
}

#[test]
fn a_failed_probe_is_logged() {
    let pause = "breaker.initial_pause = \"50ms\"\nbreaker.max_pause = \"50ms\"";
    let service = Service::start(&format!("log.level = \"debug\"\nbreaker.failures = 1\n{pause}"));
    let failing = Receiver::answering(vec![Answer::Status(501)], Answer::Status(500));
    for job in ["1", "2"] {
        service.api().accept(&event("job_sending", job, &failing.url("/")));
    }
    let failed = || service.log().iter().any(|it| it["event.action"] == "probe-failed");
    eventually("the log says so", || failed().then_some(()));
}
