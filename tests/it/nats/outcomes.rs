//! Outcome events: the outcome of each callback is published once.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::stream;
use serde_json::{Value, json};

use super::{NOWHERE, SLOW};
use crate::support::{Answer, Receiver, Service, event, eventually, nats::Server};

const SUBJECT: &str = "DPF.outcomes";

/// A server with a stream for outcome events.
fn server() -> Server {
    let server = Server::start();
    server.prepare();
    server.run(async |context| {
        let subjects = vec![SUBJECT.to_owned()];
        let stream =
            stream::Config { name: "OUTCOMES".into(), subjects, ..stream::Config::default() };
        context.create_stream(stream).await.unwrap();
    });
    server
}

fn settings(server: &Server) -> String {
    format!("{SLOW}{}", server.toml(&format!("outcome_subject = \"{SUBJECT}\"")))
}

/// The ids and payloads of the messages in the stream.
fn published(server: &Server) -> Vec<(String, Value)> {
    server.run(async |context| {
        let mut stream = context.get_stream("OUTCOMES").await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        let mut all = Vec::new();
        for seq in 1..=last {
            let message = stream.get_raw_message(seq).await.unwrap();
            let id = message.headers.get("Nats-Msg-Id").unwrap().to_string();
            all.push((id, serde_json::from_slice(&message.payload).unwrap()));
        }
        all
    })
}

/// The payloads by the ids of their messages, when there are this many.
fn wait_for(server: &Server, count: usize) -> BTreeMap<String, Value> {
    let all = eventually(&format!("{count} outcome events"), || {
        Some(published(server)).filter(|all| all.len() >= count)
    });
    assert_eq!(all.len(), count, "{all:#?}");
    let by_id: BTreeMap<_, _> = all.into_iter().collect();
    assert_eq!(by_id.len(), count, "an outcome was published twice");
    by_id
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn each_outcome_is_published() {
    let server = server();
    let service = Service::start(&settings(&server));
    let api = service.api();
    let works = Receiver::start();
    let gone = Receiver::answering(Vec::new(), Answer::Status(410));
    let delivered = api.accept(&event("job_sending", "1", &works.url("/a?token=geheim")));
    let failed = api.accept(&event("job_finished", "2", &gone.url("/")));
    let refused = api.post("/v1/events", &event("job_finished", "3", "ftp://host/")).json();
    let refused = refused["id"].as_str().unwrap().to_owned();
    let cancelled = api.accept(&event("job_sending", "4", NOWHERE));
    eventually("the first attempt was made", || {
        (api.callback(&cancelled)["attemptCount"] == 1).then_some(())
    });
    assert!(service.run(&["cancel", "--job-id", "4"]).status.success());
    let events = wait_for(&server, 4);
    let of = |id: &str, state: &str| events[&format!("{id}-{state}")].clone();

    let it = of(&delivered, "delivered");
    let stored = api.callback(&delivered);
    let mut expected = stored["body"].clone();
    for (name, value) in [
        ("callbackId", json!(delivered)),
        ("state", json!("delivered")),
        ("finishedAt", stored["finishedAt"].clone()),
        ("attemptCount", json!(1)),
        ("replays", json!(0)),
        ("destination", stored["destination"].clone()),
        ("error", Value::Null),
    ] {
        expected[name] = value;
    }
    assert_eq!(it, expected);
    assert_eq!(of(&failed, "failed")["error"]["status"], 410);
    assert_eq!(of(&failed, "failed")["exitStatus"], "OK");
    assert_eq!(of(&refused, "failed")["error"]["kind"], "invalid_url");
    assert_eq!(of(&refused, "failed")["attemptCount"], 0);
    assert_eq!(of(&cancelled, "failed")["error"]["kind"], "cancelled");

    // After a replay, there is another outcome.
    assert!(service.run(&["replay-failed", "--id", &failed]).status.success());
    assert_eq!(wait_for(&server, 5)[&format!("{failed}-failed-1")]["replays"], 1);
    // They are callbacks that operators can see, but their outcomes are not published.
    let delivered = format!("/v1/callbacks?destination=nats://{SUBJECT}&state=delivered");
    let list = eventually("all are delivered", || {
        let list = api.get(&delivered).json();
        (list["callbacks"].as_array().unwrap().len() == 5).then_some(list)
    });
    assert_eq!(list["callbacks"][0]["jobId"], "outcome:2");
    assert_eq!(api.queue()["pending"], 0);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn expired_callbacks_are_published_as_failed() {
    let server = server();
    let toml = server.toml(&format!("outcome_subject = \"{SUBJECT}\""));
    let service = Service::start(&format!("[retry]\nmax_age = \"2s\"\n{toml}"));
    let id = service.api().accept(&event("job_sending", "1", NOWHERE));
    let events = wait_for(&server, 1);
    assert_eq!(events[&format!("{id}-failed")]["error"]["kind"], "expired");
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn each_outcome_is_published_once_across_kills() {
    const COUNT: usize = 300;
    let server = server();
    let toml = server.toml(&format!("outcome_subject = \"{SUBJECT}\""));
    let mut service = Service::prepare(&format!(
        "[delivery]\nper_destination = 4\n[retry]\ninitial_interval = \"100ms\"\n{toml}"
    ));
    let receiver = Receiver::start();
    service.serve();
    let line = |n: usize| event("job_sending", &n.to_string(), &receiver.url("/")).to_string();
    let lines: Vec<_> = (0..COUNT).map(line).collect();
    assert_eq!(service.api().post_lines(&lines.join("\n")).status, 200);
    for part in 1..=3 {
        eventually("some are delivered", || {
            (published(&server).len() >= part * COUNT / 8).then_some(())
        });
        service.kill();
        service.serve();
    }
    let events = wait_for(&server, COUNT);
    let jobs: BTreeSet<_> = events.values().map(|it| it["jobId"].to_string()).collect();
    assert_eq!(jobs.len(), COUNT);
    eventually("nothing is left", || (service.api().queue()["pending"] == 0).then_some(()));
    assert_eq!(published(&server).len(), COUNT);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn without_the_broker_callbacks_are_sent_and_their_outcomes_wait() {
    let mut server = server();
    let retry = "[retry]\ninitial_interval = \"100ms\"\nmax_interval = \"1s\"\n\
        [breaker]\ninitial_pause = \"100ms\"\nmax_pause = \"1s\"\n";
    let toml = server.toml(&format!("outcome_subject = \"{SUBJECT}\""));
    let service = Service::start(&format!("{retry}{toml}"));
    server.crash();
    super::wait_for(&service, "waiting", "not connected");
    let receiver = Receiver::start();
    let api = service.api();
    for n in 0..20 {
        let id = api.accept(&event("job_sending", &n.to_string(), &receiver.url("/")));
        api.wait_for_state(&id, "delivered");
    }
    let queue = api.queue();
    let waiting = queue["destinations"].as_array().unwrap().iter();
    let mut waiting = waiting.filter(|it| it["destination"] == format!("nats://{SUBJECT}"));
    assert_eq!(waiting.next().unwrap()["pending"], 20, "{queue}");
    let list = api.get("/v1/callbacks?state=pending").json();
    let errors = list["callbacks"].as_array().unwrap().iter();
    let mut errors = errors.filter_map(|it| it["lastError"]["message"].as_str());
    assert!(errors.any(|it| it.contains("not connected to nats://")), "{list}");
    server.restart();
    assert_eq!(wait_for(&server, 20).len(), 20);
}

fn is_event(line: &Value) -> bool {
    line["body"]["jobId"].as_str().is_some_and(|job| job.starts_with("outcome:"))
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn producers_cannot_publish() {
    let server = server();
    let service = Service::start(&settings(&server));
    let receiver = Receiver::start();
    let delivered = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    wait_for(&server, 1);
    assert!(service.run(&["export", "--file", "all.ndjson"]).status.success());
    let text = service.read("all.ndjson");
    let own: Value =
        text.lines().map(|it| serde_json::from_str(it).unwrap()).find(is_event).unwrap();
    let url = own["url"].as_str().unwrap().replace(&delivered, "forged");
    let stored = service.api().post("/v1/events", &event("job_sending", "2", &url)).json();
    let id = stored["id"].as_str().unwrap().to_owned();
    service.api().wait_for_state(&id, "failed");
    wait_for(&server, 2);
    assert!(service.run(&["replay-failed", "--id", &id]).status.success());
    let events = wait_for(&server, 3);
    assert!(events.contains_key(&format!("{id}-failed-1")), "{events:#?}");
}
