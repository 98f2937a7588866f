//! Concurrency, rate, time-outs, and the end of callbacks.

use std::time::{Duration, Instant};

use seal_dpf_urlcallback::clock::Timestamp;
use serde_json::Value;

use super::section;
use crate::support::{Answer, Api, Put, RawReceiver, Receiver, Service, event, eventually};

/// Submits a number of jobs for this receiver.
fn fill(api: &Api, receiver: &Receiver, jobs: usize) {
    let url = receiver.url("/");
    let lines =
        (0..jobs).map(|job| format!("{}\n", event("job_sending", &format!("{url}{job}"), &url)));
    api.post_lines(&lines.collect::<String>());
}

#[test]
fn a_section_limits_concurrency_in_both_directions() {
    let [few, many, others] = [(); 3].map(|()| Receiver::answering(vec![], Answer::Wait));
    let service = Service::start(&format!(
        "[delivery]\nper_destination = 3\n{}{}",
        section(&few, "concurrency = 2"),
        section(&many, "concurrency = 20"),
    ));
    let api = service.api();
    for receiver in [&few, &many, &others] {
        fill(&api, receiver, 40);
    }
    many.wait_for(20);
    others.wait_for(3);
    few.wait_for(2);
    [&few, &many, &others].into_iter().for_each(Receiver::open);
    eventually("all are delivered", || (api.queue()["delivered"] == 120).then_some(()));
    let most = [&few, &many, &others].map(Receiver::most_at_once);
    assert_eq!([most[0], most[2]], [2, 3]);
    assert_eq!(most[1], 20);
}

/// The maximum number of requests within a second.
fn most_in_a_second(arrivals: &[Instant]) -> usize {
    let within = |at: &Instant| {
        arrivals.iter().filter(|it| **it >= *at && **it < *at + Duration::from_secs(1)).count()
    };
    arrivals.iter().map(within).max().unwrap_or(0)
}

#[test]
fn a_rate_is_kept_while_another_destination_is_undisturbed() {
    let [limited, bursting, other] = [(); 3].map(|()| Receiver::start());
    let service = Service::start(&format!(
        "{}{}",
        section(&limited, "requests_per_second = 10"),
        section(&bursting, "requests_per_second = 4\nburst = 6"),
    ));
    let api = service.api();
    fill(&api, &limited, 40);
    fill(&api, &bursting, 10);
    let begin = Instant::now();
    fill(&api, &other, 200);
    let unlimited = other.wait_for(200).last().unwrap().at - begin;
    let arrivals = |puts: Vec<Put>| puts.iter().map(|put| put.at).collect::<Vec<_>>();
    let slow = arrivals(limited.wait_for(40));
    assert!(slow[39] - slow[0] > Duration::from_millis(3800), "{:?}", slow[39] - slow[0]);
    assert!(most_in_a_second(&slow) <= 13, "{}", most_in_a_second(&slow));
    assert!(unlimited < slow[39] - slow[0], "the other one took {unlimited:?}");
    let bursts = arrivals(bursting.wait_for(10));
    assert!(bursts[5] - bursts[0] < Duration::from_millis(900), "six come at once");
    assert!(bursts[9] - bursts[0] > Duration::from_millis(900), "four come at the rate");
}

#[test]
fn a_section_has_its_own_time_outs() {
    let [slow, other] = [(); 2].map(|()| Receiver::answering(vec![], Answer::Wait));
    // It does not support TLS.
    let silent =
        RawReceiver::start(|stream| drop(stream.peek(&mut [0]).map(|_| std::thread::park())));
    let service = Service::start(&format!(
        "[retry]\nmax_attempts = 1\n[destinations.\"https://{}\"]\nconnect_timeout = \"150ms\"\n{}",
        silent.address,
        section(&slow, "timeout = \"200ms\""),
    ));
    let api = service.api();
    let waits = api.accept(&event("job_sending", "0", &other.url("/")));
    let id = api.accept(&event("job_sending", "1", &slow.url("/")));
    let error = api.wait_for_state(&id, "failed")["attempts"][0]["error"].clone();
    assert_eq!(
        (&error["kind"], &error["message"]),
        (&"timeout".into(), &"no response within 200ms".into())
    );
    let id = api.accept(&event("job_sending", "2", &format!("https://{}/", silent.address)));
    let error = api.wait_for_state(&id, "failed")["attempts"][0]["error"].clone();
    assert_eq!(error["message"], "no connection within 150ms (connect_timeout)");
    assert_eq!(api.callback(&waits)["state"], "pending");
}

#[test]
fn a_section_ends_callbacks_by_its_own_age_and_attempts() {
    let [attempts, age, endless, other] =
        [(); 4].map(|()| Receiver::answering(vec![], Answer::Status(500)));
    let service = Service::start(&format!(
        "breaker.failures = 0\n[retry]\ninitial_interval = \"20ms\"\nmax_interval = \"20ms\"\nmax_attempts = 4\n{}{}{}",
        section(&attempts, "max_attempts = 2"),
        section(&age, "max_attempts = 0\nmax_age = \"600ms\""),
        section(&endless, "max_attempts = 0"),
    ));
    let api = service.api();
    let ids = [&attempts, &age, &endless, &other]
        .map(|it| api.accept(&event("job_sending", &it.url(""), &it.url("/"))));
    for (id, receiver, kind, key) in [
        (&ids[0], Some(&attempts), "exhausted", "2 attempts (destinations.\"".to_owned()),
        (&ids[1], None, "expired", format!("600ms (destinations.\"{}\".max_age)", age.url(""))),
        (&ids[3], Some(&other), "exhausted", "4 attempts (retry.max_attempts)".to_owned()),
    ] {
        let ended = api.wait_for_state(id, "failed");
        let message = ended["lastError"]["message"].as_str().unwrap();
        assert!(ended["lastError"]["kind"] == kind && message.contains(&key), "{message}");
        if let Some(receiver) = receiver {
            assert_eq!(Some(receiver.count() as u64), ended["attemptCount"].as_u64());
        }
    }
    endless.wait_for(10);
    assert_eq!(api.callback(&ids[2])["state"], "pending");
}

/// The breaker is open, so nothing claims the callbacks that expire.
#[test]
fn callbacks_that_are_not_claimed_expire_by_the_age_of_their_section() {
    let [short, long] = [(); 2].map(|()| Receiver::answering(vec![], Answer::Status(500)));
    let service = Service::start(&format!(
        "[retry]\nmax_age = \"2s\"\n[breaker]\nfailures = 1\ninitial_pause = \"1h\"\nmax_pause = \"1h\"\n{}{}",
        section(&short, "max_age = \"500ms\""),
        section(&long, "max_age = \"1h\""),
    ));
    let api = service.api();
    let [first, second] =
        [&short, &long].map(|it| api.accept(&event("job_sending", &it.url(""), &it.url("/"))));
    let other = api.accept(&event("job_sending", "other", "http://127.0.0.1:1/"));
    let age = |view: &Value, until: &str| {
        let [from, until] = ["createdAt", until]
            .map(|key| view[key].as_str().unwrap().parse::<Timestamp>().unwrap());
        until.since(from)
    };
    assert_eq!(age(&api.callback(&second), "expiresAt"), Duration::from_hours(1));
    for (id, least, says) in
        [(&first, 500, "500ms (destinations."), (&other, 2000, "2s (retry.max_age)")]
    {
        let ended = api.wait_for_state(id, "failed");
        assert!(age(&ended, "finishedAt") >= Duration::from_millis(least), "{ended}");
        assert!(ended["lastError"]["message"].as_str().unwrap().contains(says), "{ended}");
    }
    assert_eq!(api.callback(&second)["state"], "pending");
}
