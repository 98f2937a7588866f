//! Outages of the database.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::fleet::{assert_found_by_polling, halves_of};
use crate::support::{
    Answer, Receiver, Service, event, eventually, postgres::Server, read_request,
};

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn without_the_database_the_service_is_alive_but_not_ready_and_loses_nothing() {
    let mut server = Server::start();
    let mut service = Service::prepare(&server.toml("callbacks"));
    service.serve();
    let receiver = Receiver::start();
    let api = service.api();
    let mut accepted = Vec::new();
    for round in 0..3 {
        for job in 0..20 {
            let job = format!("{round}-{job}");
            accepted.push(api.accept(&event("job_sending", &job, &receiver.url("/"))));
        }
        server.crash();
        eventually("it is not ready", || (api.get("/readyz").status == 503).then_some(()));
        assert_eq!(api.get("/healthz").status, 200);
        let refused = api.post("/v1/events", &event("job_sending", "refused", &receiver.url("/")));
        assert_eq!(refused.status, 503);
        server.restart();
        eventually("it is ready again", || (api.get("/readyz").status == 200).then_some(()));
    }
    for id in &accepted {
        api.wait_for_state(id, "delivered");
    }
    let away =
        service.log().iter().filter(|line| line["event.action"] == "store-disconnected").count();
    assert_eq!(away, 3);
    assert_eq!(service.terminate(), Some(0));
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn an_outcome_during_an_outage_is_recorded_afterwards() {
    let mut server = Server::start();
    let mut service = Service::prepare(&server.toml("callbacks"));
    service.serve();
    let receiver = Receiver::answering(Vec::new(), Answer::Wait);
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    receiver.wait_for(1);
    server.crash();
    eventually("it is not ready", || (api.get("/readyz").status == 503).then_some(()));
    receiver.open();
    server.restart();
    let callback = api.wait_for_state(&id, "delivered");
    assert_eq!((&callback["attemptCount"], receiver.count()), (&1.into(), 1));
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn an_instance_works_with_a_schema_that_a_newer_version_migrated() {
    let mut server = Server::start();
    let mut service = Service::prepare(&server.toml("callbacks"));
    service.serve();
    let newer = "UPDATE callbacks.meta SET version = version + 1";
    server.run(async |client| client.batch_execute(newer).await.unwrap());
    // Its session breaks.
    server.crash();
    server.restart();
    let (api, receiver) = (service.api(), Receiver::start());
    eventually("it is ready again", || (api.get("/readyz").status == 200).then_some(()));
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    api.wait_for_state(&id, "delivered");
    assert_eq!(service.terminate(), Some(0));
    service.serve();
    let version = "SELECT version FROM callbacks.meta";
    let version: i32 =
        server.run(async |client| client.query_one(version, &[]).await.unwrap().get(0));
    assert_eq!(version, 2, "the older version has taken the schema back");
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn while_the_database_hangs_no_attempt_starts() {
    let mut server = Server::start();
    let text = "retry.initial_interval = \"11s\"\nretry.max_interval = \"11s\"\nretry.jitter = 0\n";
    let mut service = Service::prepare(&(server.toml("callbacks") + text));
    service.serve();
    let receiver = Receiver::answering(vec![Answer::Status(503)], Answer::Status(200));
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    eventually("the retry is planned", || (api.callback(&id)["attemptCount"] == 1).then_some(()));
    server.freeze(true);
    // The retry was read ahead, and is due three seconds after the latest time at which it may start.
    eventually("the session is abandoned", || {
        let given_up = |line: &Value| line["event.action"] == "store-disconnected";
        service.log().iter().any(given_up).then_some(())
    });
    assert_eq!(receiver.count(), 1, "an attempt started without an answer of the database");
    server.freeze(false);
    api.wait_for_state(&id, "delivered");
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn an_attempt_that_runs_while_the_database_hangs_is_given_up_before_others_may_take_over() {
    let mut server = Server::start();
    let mut service = Service::prepare(&(server.toml("callbacks") + "delivery.timeout = \"5m\"\n"));
    service.serve();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let id = service.api().accept(&event("job_sending", "1", &url));
    let (mut first, _) = listener.accept().unwrap();
    read_request(&mut first);
    server.freeze(true);
    let frozen = Instant::now();
    // It ends when the service closes the connection.
    first.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let read = first.read(&mut [0]);
    let passed = frozen.elapsed();
    assert!(matches!(read, Ok(0) | Err(_)) && passed < Duration::from_secs(20), "{passed:?}");
    server.freeze(false);
    let (mut second, _) = listener.accept().unwrap();
    read_request(&mut second);
    second.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    service.api().wait_for_state(&id, "delivered");
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn with_a_full_notification_queue_events_of_others_are_found_by_polling() {
    let server = Server::start();
    // PostgreSQL's queue takes 8 GB, so a function of the same name fails as NOTIFY does when it is full.
    server.run(async |client| {
        let full = "CREATE SCHEMA full_queue; CREATE SEQUENCE full_queue.refused; \
            CREATE FUNCTION full_queue.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ \
            BEGIN PERFORM nextval('full_queue.refused'); \
            RAISE 'too many notifications in the NOTIFY queue' USING ERRCODE = '54000'; END $$";
        client.batch_execute(full).await.unwrap();
    });
    let settings = server.toml("callbacks").replace(
        "sslmode=disable",
        "sslmode=disable&options=-csearch_path%3Dfull_queue,pg_catalog",
    );
    let services = [(); 2].map(|()| {
        let mut service = Service::prepare(&settings);
        service.serve();
        service
    });
    halves_of(&server, "callbacks");
    assert_found_by_polling(&services);
    let refused: i64 = server.run(async |client| {
        client.query_one("SELECT nextval('full_queue.refused')", &[]).await.unwrap().get(0)
    });
    assert!(refused > 1, "no notification was sent");
}
