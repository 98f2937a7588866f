//! From a message to a callback.

use async_nats::{HeaderMap, jetstream::stream};
use data_encoding::BASE64;
use serde_json::json;

use super::{NOWHERE, SLOW, pulling, wait_for};
use crate::{
    cloudevents::messages,
    support::{
        Receiver, Service, event, eventually,
        nats::{Server, consumer},
    },
};

/// Publishes one message.
fn send(server: &Server, subject: &str, headers: &[(&str, &str)], payload: &str) {
    let mut map = HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.insert(*name, *value));
    server.run(async |context| {
        let (subject, payload) = (subject.to_owned(), payload.to_owned());
        context.publish_with_headers(subject, map, payload.into()).await.unwrap().await.unwrap();
    });
}

fn metric(service: &Service, name: &str) -> f64 {
    let text = String::from_utf8(service.api().get("/metrics").body).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    found.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn the_state_of_the_source_is_shown_even_if_the_service_is_not_ready() {
    let server = Server::start();
    server.prepare();
    let service = Service::start(&format!("outbox.max_pending = 1\n{SLOW}{}", server.toml("")));
    let page = || {
        let token = BASE64.encode(format!("x:{}", service.api().token).as_bytes());
        let basic = format!("Basic {token}");
        let page = service.api().request("GET", "/ui/", Some(&basic), "", "");
        String::from_utf8(page.body).unwrap()
    };
    wait_for(&service, "pulling", "");
    assert!(page().contains("Events from NATS: pulled by this instance"), "{}", page());
    service.api().accept(&event("job_sending", "1", NOWHERE));
    server.publish([event("job_sending", "2", NOWHERE).to_string()]);
    eventually("the queue is full", || {
        let status = service.json(&["status", "--output", "json"]);
        let reason = status["nats"]["reason"].as_str().unwrap_or_default();
        (status["ready"] == false && reason.contains("outbox.max_pending")).then_some(())
    });
    let said = String::from_utf8(service.run(&["status"]).stdout).unwrap();
    assert!(said.contains("not ready: ") && said.contains("events from NATS: waiting: "), "{said}");
    assert!(page().contains("Events from NATS: not pulled:"), "{}", page());
}

#[test]
#[ignore = "needs nats-server and the Python package cloudevents: tests/run"]
fn an_event_of_the_public_package_becomes_a_callback() {
    let server = Server::start();
    server.prepare();
    let service = pulling(&server, "");
    let receiver = Receiver::start();
    let messages = messages(&[event("job_sending", "1", &receiver.url("/"))]);
    for message in messages.iter().chain(&messages) {
        let headers: Vec<_> =
            message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        send(&server, "jobs.new", &headers, &message.body);
    }
    server.wait_until_empty();
    let puts = receiver.wait_for(messages.len());
    assert!(puts.iter().all(|put| put.json()["jobState"] == "SENDING"), "by the type");
    let duplicates = metric(&service, "urlcallback_nats_duplicates_total");
    assert_eq!((duplicates, receiver.count()), (4.0, 4));
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn an_event_from_nats_becomes_a_callback() {
    let server = Server::start();
    server.prepare();
    let service = pulling(
        &server,
        "events = { \"jobs.*.finished\" = \"job_finished\", \"jobs.>\" = \"job_sending\" }",
    );
    let receiver = Receiver::start();
    let url = receiver.url("/");
    let plain = event("job_finished", "plain", &url).to_string();
    send(&server, "jobs.new", &[], &plain);
    // The same event, according to its producer's key.
    let mut keyed = event("job_finished", "keyed", &url);
    keyed["eventId"] = "e1".into();
    for _ in 0..2 {
        send(&server, "jobs.new", &[], &keyed.to_string());
    }
    let unnamed = json!({
        "jobId": "unnamed", "jobIdFs": "1", "exitStatus": "OK",
        "parameters": {"DpfControlCallbackUrl": url},
    });
    send(&server, "jobs.1.finished", &[("Nats-Msg-Id", "m1")], &unnamed.to_string());
    let envelope = json!({
        "specversion": "1.0", "id": "c1", "source": "/dpf", "type": "job_sending",
        "data": event("job_sending", "structured", &url),
    });
    send(&server, "jobs.new", &[], &envelope.to_string());
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "c2"),
        ("ce-source", "/dpf"),
        ("ce-type", "job_sending"),
        ("Content-Type", "application/json"),
    ];
    send(&server, "jobs.new", &headers, &event("job_sending", "binary", &url).to_string());
    send(&server, "jobs.new", &[], r#"{"event":"job_added"}"#);
    server.wait_until_empty();
    let mut jobs: Vec<_> = receiver
        .wait_for(5)
        .iter()
        .map(|put| put.json()["jobId"].as_str().unwrap().to_owned())
        .collect();
    jobs.sort();
    assert_eq!(jobs, ["binary", "keyed", "plain", "structured", "unnamed"]);
    // Each key is known to HTTP too.
    for key in ["e1", "m1", "c1", "c2"] {
        let mut again = event("job_finished", "again", &url);
        again["eventId"] = key.into();
        assert_eq!(
            service.api().post("/v1/events", &again).json()["outcome"],
            "duplicate",
            "{key}"
        );
    }
    for (name, value) in [
        ("urlcallback_nats_pulled_total", 7.0),
        ("urlcallback_nats_acknowledged_total", 7.0),
        ("urlcallback_nats_duplicates_total", 1.0),
        ("urlcallback_nats_dead_lettered_total", 0.0),
        ("urlcallback_nats_behind", 0.0),
        ("urlcallback_nats_connected", 1.0),
        ("urlcallback_nats_pulling", 1.0),
    ] {
        let found = metric(&service, name);
        assert!((found - value).abs() < 0.1, "{name} is {found}");
    }
    assert!(metric(&service, "urlcallback_nats_message_age_seconds") < 60.0);
    let said = service.run(&["status"]).stdout;
    assert!(String::from_utf8(said).unwrap().contains("events from NATS: pulling"));
    assert_eq!(service.json(&["status", "--output", "json"])["nats"]["state"], "pulling");
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn a_message_of_a_recreated_stream_is_no_duplicate() {
    let server = Server::start();
    server.prepare();
    let service = pulling(&server, "");
    server.publish([super::numbered(1)]);
    server.wait_until_empty();
    server.run(async |context| context.delete_stream("JOBS").await.unwrap());
    wait_for(&service, "waiting", "stream");
    server.prepare();
    server.publish([super::numbered(2)]);
    server.wait_until_empty();
    super::check(&service, 2);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn an_unusable_message_is_skipped_when_its_dead_letter_is_stored() {
    let server = Server::start();
    let retention = stream::RetentionPolicy::WorkQueue;
    server.prepare_with(stream::Config { retention, ..stream::Config::default() }, consumer());
    let service = pulling(&server, "dead_letter_subject = \"dead.callbacks\"");
    server.publish([r#"{"event":"job_finished"}"#.into(), super::numbered(1)]);
    // No stream stores dead letters yet.
    wait_for(&service, "waiting", "dead letter to dead.callbacks");
    assert_eq!(service.api().get("/readyz").status, 200, "HTTP continues");
    server.publish([super::numbered(2)]);
    let is_left = || (server.left().1 == 1).then_some(());
    eventually("only the letter's message is not acknowledged", is_left);
    server.run(async |context| {
        let subjects = vec!["dead.>".to_owned()];
        let dead = stream::Config { name: "DEAD".into(), subjects, ..stream::Config::default() };
        context.create_stream(dead).await.unwrap();
    });
    server.wait_until_empty();
    super::check(&service, 2);
    let letter = server.run(async |context| {
        context.get_stream("DEAD").await.unwrap().get_raw_message(1).await.unwrap()
    });
    assert_eq!(&letter.payload[..], br#"{"event":"job_finished"}"#);
    let header = |name: &str| letter.headers.get(name).unwrap().as_str().to_owned();
    assert!(header("Urlcallback-Reason").contains("`jobId` is missing"));
    assert_eq!(header("Urlcallback-Subject"), "jobs.new");
    assert_eq!(header("Urlcallback-Stream-Sequence"), "1");
    let logged = service.log();
    let logged = logged.iter().filter(|line| line["event.action"] == "nats-dead-letter");
    assert_eq!(logged.count(), 1);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn without_a_dead_letter_subject_a_bad_message_is_terminated_and_stays_in_the_stream() {
    let server = Server::start();
    server.prepare();
    let service = pulling(&server, "");
    let long = format!("{{\"x\":\"{}\"}}", "x".repeat(70_000));
    server.publish(["no JSON".into(), long, super::numbered(1)]);
    server.wait_until_empty();
    super::check(&service, 1);
    let kept = server.run(async |context| {
        context.get_stream("JOBS").await.unwrap().cached_info().state.messages
    });
    assert_eq!(kept, 3);
    eventually("both are counted", || {
        let count = metric(&service, "urlcallback_nats_dead_lettered_total");
        (count > 1.9).then_some(())
    });
}
