//! Responses of the API while nothing more can be stored.

use serde_json::json;

use crate::support::{Answer, Receiver, Service, event, eventually};

const NDJSON: &str = "application/x-ndjson";

#[test]
fn events_get_503_at_max_pending() {
    let service = Service::start("outbox.max_pending = 2");
    let receiver = Receiver::answering(vec![], Answer::Wait);
    let ids: Vec<_> = (0..2)
        .map(|job| {
            service.api().accept(&event("job_sending", &job.to_string(), &receiver.url("/")))
        })
        .collect();
    let refused = service.api().post("/v1/events", &event("job_sending", "3", &receiver.url("/")));
    assert_eq!(refused.status, 503);
    assert_ne!(refused.header("retry-after"), "");
    assert!(refused.json()["detail"].as_str().unwrap().contains("outbox.max_pending"));
    assert_eq!(service.api().request("GET", "/readyz", None, "", "").status, 503);
    assert_eq!(service.api().request("GET", "/healthz", None, "", "").status, 200);
    receiver.open();
    for id in ids {
        service.api().wait_for_state(&id, "delivered");
    }
    assert_eq!(service.api().request("GET", "/readyz", None, "", "").status, 200);
}

#[test]
fn events_get_503_below_min_free_bytes() {
    let service = Service::start("outbox.min_free_bytes = 1000000000000000");
    let answer = service.api().post("/v1/events", &event("job_sending", "1", "http://h/"));
    assert_eq!(answer.status, 503);
    assert!(answer.json()["detail"].as_str().unwrap().contains("outbox.min_free_bytes"));
}

#[test]
fn duplicates_are_answered_while_no_events_are_accepted() {
    let service = Service::start("outbox.max_pending = 2");
    let api = service.api();
    let with_key = |key: &str| {
        let mut event = event("job_sending", key, "http://127.0.0.1:1/");
        event["eventId"] = key.into();
        event
    };
    let ids = ["a", "b"].map(|key| api.accept(&with_key(key)));
    for (key, id) in ["a", "b"].iter().zip(&ids) {
        let again = api.post("/v1/events", &with_key(key));
        assert_eq!((again.status, &again.json()["id"]), (200, &id.as_str().into()));
    }
    let lines = format!("{}\n{}\n{}\n", with_key("b"), with_key("a"), with_key("b"));
    let outcomes: Vec<_> =
        api.post_lines(&lines).lines().iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["duplicate"; 3]);
    assert_eq!(api.post("/v1/events", &with_key("c")).status, 503);
}

#[test]
fn callbacks_that_can_never_be_sent_do_not_count_as_pending() {
    const MOST: usize = 50;
    let mut service = Service::start(&format!("outbox.max_pending = {MOST}"));
    let denied = |n: usize| {
        let url = format!("http://169.254.{}.{}/", n / 250, n % 250 + 1);
        event("job_sending", &format!("d{n}"), &url)
    };
    let api = service.api();
    let lines: String = (0..200).map(|n| denied(n).to_string() + "\n").collect();
    let answers = api.post_lines(&lines).lines();
    assert!(answers.iter().all(|line| line["outcome"] == "failed"), "{answers:?}");
    assert_eq!(answers.iter().filter(|line| line["id"].is_string()).count(), MOST);
    let last = api.post("/v1/events", &denied(300));
    assert_eq!(last.status, 422);
    assert!(last.json()["detail"].as_str().unwrap().contains("not stored"), "{last:?}");
    let receiver = Receiver::start();
    let id = api.accept(&event("job_sending", "good", &receiver.url("/")));
    api.wait_for_state(&id, "delivered");
    // Each is listed and counted, even after a restart.
    for _ in 0..2 {
        let queue = service.api().queue();
        assert_eq!((&queue["failed"], &queue["destinationCount"]), (&MOST.into(), &MOST.into()));
        assert_eq!(queue["destinations"].as_array().unwrap().len(), MOST);
        assert_eq!(service.terminate(), Some(0));
        service.serve();
    }
    let replayed = service
        .api()
        .post("/v1/callbacks/replay", &json!({"filter": {"destination": "http://169.254.0.1"}}));
    assert_eq!(replayed.json()["replayed"], 1, "{replayed:?}");
    eventually("it has failed again", || (service.api().queue()["failed"] == MOST).then_some(()));
    assert_eq!(service.api().queue()["destinationCount"], MOST);
}

#[test]
fn an_interrupted_batch_reports_the_outcomes_so_far() {
    // With 540 lines there would be room for the last ones, but not for the earlier ones.
    for all in [600, 540] {
        let service = Service::start("outbox.max_pending = 300");
        let receiver = Receiver::answering(vec![], Answer::Wait);
        let lines = (0..all).map(|job| event("job_sending", &job.to_string(), &receiver.url("/")));
        let batch: String = lines.map(|line| line.to_string() + "\n").collect();
        let answer = service.api().post_bytes(NDJSON, batch);
        assert_eq!(answer.status, 503);
        let lines = answer.json()["lines"].as_array().unwrap().clone();
        assert_eq!(lines.len(), 256, "of {all}");
        assert!(lines.iter().all(|line| line["outcome"] == "accepted"));
        assert!((1..).zip(&lines).all(|(number, line)| line["line"] == number));
        assert_eq!(service.api().queue()["pending"], 256, "of {all}: nothing behind it is taken");
    }
}
